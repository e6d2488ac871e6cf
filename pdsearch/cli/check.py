"""`pdsearch check`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.cli.options import (
    TARGET,
    add_json,
    add_repeated,
    add_set,
    add_variant,
    settings_of,
)
from pdsearch.cli.output import emit_result, note, takes_unicode, width
from pdsearch.errors import InputError

if TYPE_CHECKING:
    from pdsearch.criteria import FamilyMap, Report
    from pdsearch.family import Family

SUMMARY = "decide the design criteria for a candidate or a family"
ABOUT = f"""\
{TARGET}
A family is checked at one point: its defaults, changed by --set (a parameter given only by --param
is at the middle of its range). --family decides the whole range."""
EXAMPLES = """\
  pdsearch check b_silu
  pdsearch check exp_tail --set alpha=0.5 --profile strict
  pdsearch check my_family.py --family --map
  pdsearch check exp_tail --own my_criteria.py:below_one
  pdsearch check exp_tail --fade switch --set end=0.1 --direction up
  pdsearch check "Piecewise((1, x > 0), (a*exp(x), True))" --param a=0.01:1 --html check.html
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the target and the flags that choose the criteria and the output."""
    command.add_argument("target", metavar="TARGET")
    add_set(command)
    help = "declare a formula's parameter with its range"
    add_repeated(command, "--param", "NAME=LOW:HIGH[:log]", help)
    add_variant(command)
    command.add_argument(
        "--family", action="store_true", help="decide over the whole parameter box, not one point"
    )
    command.add_argument(
        "--map",
        action="store_true",
        help="with --family: show which parts of the box are proved, refuted, undecided",
    )
    help = "a criterion of your own, listed after the ten; the file is run"
    add_repeated(command, "--own", "FILE.py:FUNCTION", help)
    command.add_argument(
        "--profile",
        choices=("paper", "strict"),
        default="paper",
        help="the required criteria: the paper abstract's (default), or also pdsearch's own",
    )
    add_json(command)
    command.add_argument("--html", metavar="FILE", help="also write the report as one HTML file")


def run(arguments: argparse.Namespace) -> int:
    """Decide the criteria; return 1 if a required one does not hold."""
    from pdsearch.family import load_target

    if arguments.map and not arguments.family:
        raise InputError("--map needs --family: it cuts the family's parameter box into parts")
    if arguments.html:
        from pdsearch.files import check_place

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

    def text() -> str:
        from pdsearch.report import criteria_text, maps_text

        terminal: dict[str, Any] = {"width": width(), "unicode": takes_unicode()}
        shown = [criteria_text(report, candidate, **terminal)]
        if maps:
            shown.append(maps_text(family, maps, **terminal))
        return "\n".join(shown)

    mapped = {"maps": [one.to_dict() for one in maps]} if maps else {}
    emit_result(arguments, report.to_dict() | mapped, text)
    if arguments.html:
        note(f"report: {arguments.html}")
    return 0 if report.passed else 1


def _maps(family: "Family", report: "Report") -> "list[FamilyMap]":
    """Return a map for each certified criterion that is not proved for the whole family."""
    from pdsearch.criteria import CERTIFIED, family_map

    return [
        family_map(family, result.name, profile=report.profile)
        for result in report.criteria
        if result.name in CERTIFIED and result.verdict in ("refuted", "undecided")
    ]
