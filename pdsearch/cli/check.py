"""`pdsearch check`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pdsearch.cli.options import TARGET, add_json, add_set, add_variant, settings_of
from pdsearch.cli.output import emit, emit_json, note, width
from pdsearch.errors import InputError

if TYPE_CHECKING:
    from pdsearch.criteria import FamilyMap, Report
    from pdsearch.family import Family

SUMMARY = "decide the design criteria for a candidate or a family"
ABOUT = f"""\
{TARGET}
A family is checked at one point: its defaults, with what --set changes (a parameter given by
--param alone at the middle of its range). --family decides the whole range."""
EXAMPLES = """\
  pdsearch check b_silu
  pdsearch check exp_tail --set alpha=0.5 --profile strict
  pdsearch check my_family.py --family --map
  pdsearch check exp_tail --own my_criteria.py:below_one
  pdsearch check exp_tail --fade switch --set end=0.1 --direction up
  pdsearch check "Piecewise((1, x > 0), (a*exp(x), True))" --param a=0.01:1 --html check.html
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The target, and what is decided about it."""
    command.add_argument("target", metavar="TARGET")
    add_set(command, "a parameter's value (repeat for more)")
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH[:log]",
        help="declare a formula's parameter with its range",
    )
    add_variant(command)
    command.add_argument(
        "--family", action="store_true", help="decide over the whole parameter box, not one point"
    )
    command.add_argument(
        "--map",
        action="store_true",
        help="with --family: which part of the box is proved, refuted, undecided",
    )
    command.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION",
        help="a criterion of your own, listed after the ten (repeat for more; the file is run)",
    )
    command.add_argument(
        "--profile",
        choices=("paper", "strict"),
        default="paper",
        help="the criteria that must hold: the abstract's (default), or ours as well",
    )
    add_json(command)
    command.add_argument("--html", metavar="FILE", help="also write the report as one HTML file")


def run(arguments: argparse.Namespace) -> int:
    """Decide the criteria; 1 where a required one does not hold."""
    from pdsearch.family import load_target

    if arguments.map and not arguments.family:
        raise InputError("--map needs --family: it cuts the family's parameter box into parts")
    if arguments.html:
        from pdsearch.report.files import check_place

        check_place(Path(arguments.html), force=True)
    family, candidate = load_target(
        arguments.target,
        settings=settings_of(arguments),
        params=arguments.param,
        fading=arguments.fade,
        direction=arguments.direction,
    )
    from pdsearch import criteria

    target = family if arguments.family else candidate
    own = [criteria.load_criterion(spec) for spec in arguments.own]
    report = criteria.check(target, profile=arguments.profile, extra=own)
    maps = _maps(family, report) if arguments.map else []
    if arguments.html:
        from pdsearch.report import criteria_report, write_html

        write_html(criteria_report(report, target, maps=maps), Path(arguments.html))
    if arguments.json:
        emit_json(report.to_dict() | ({"maps": [m.to_dict() for m in maps]} if maps else {}))
    else:
        from pdsearch.report import criteria_text

        emit(criteria_text(report, candidate, width=width()))
        if maps:
            from pdsearch.report import maps_text

            emit(maps_text(family, maps, width=width()))
    if arguments.html:
        note(f"report: {arguments.html}")
    return 0 if report.passed else 1


def _maps(family: "Family", report: "Report") -> "list[FamilyMap]":
    """A map for each certified criterion that is not proved for the whole family."""
    from pdsearch.criteria import CERTIFIED, family_map

    return [
        family_map(family, result.name, profile=report.profile)
        for result in report.criteria
        if result.name in CERTIFIED and result.verdict in ("refuted", "undecided")
    ]
