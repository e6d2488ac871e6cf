"""`pdsearch export`."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.cli.options import (
    STUDY,
    TARGET,
    add_set,
    add_storage,
    add_variant,
    natural,
    settings_of,
    stored_study,
)
from pdsearch.cli.output import note
from pdsearch.errors import InputError, PdsearchError

if TYPE_CHECKING:
    from pdsearch.family import Drawn
    from pdsearch.study import StoredStudy

SUMMARY = "write a candidate as a standalone torch file or package, JSON or LaTeX"
ABOUT = f"""\
{STUDY}
A study's best candidate is exported, or that of --trial. If a built-in family has the study's name,
the family is exported. Of a study with groups of layers, FILE.py becomes FILE_<group>.py for each
group; JSON and LaTeX hold all groups.

{TARGET.replace("--set or --param", "--set")}"""
EXAMPLES = """\
  pdsearch export studies/digits.toml -o pd_relu.py
  pdsearch export exp_tail --set alpha=0.5 -o candidate.json
  pdsearch export studies/digits.toml --trial 7 -o best.tex
  pdsearch export exp_tail --native -o pd_exp_tail
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the candidate and the output file."""
    command.add_argument("source", metavar="STUDY|TARGET")
    add_set(command)
    add_variant(command)
    add_storage(command)
    command.add_argument("--trial", type=natural, metavar="N", help="export this trial's candidate")
    command.add_argument(
        "--group", metavar="NAME", help="of a study with groups: this group's candidate alone"
    )
    command.add_argument("-o", "--output", required=True, metavar="FILE.py|.json|.tex|FOLDER")
    command.add_argument(
        "--native",
        action="store_true",
        help="write a package with the compiled kernel's source: FOLDER, of a module's name",
    )
    command.add_argument("--force", action="store_true", help="replace an existing file or package")


def run(arguments: argparse.Namespace) -> int:
    """Write a candidate as a file or a package."""
    from pdsearch.export import export_all, part_of
    from pdsearch.family import Grouped, varied
    from pdsearch.files import check_place

    path, settings = Path(arguments.output), settings_of(arguments)
    variant = {"fading": arguments.fade, "direction": arguments.direction}
    if not arguments.native:
        check_place(path, force=arguments.force)
    candidate, origin = _source(arguments, settings, variant)
    group, place = arguments.group, {}
    if group is not None:
        if not isinstance(candidate, Grouped):
            raise InputError(f"--group {group}: {candidate.name} is one candidate, without groups")
        if group not in candidate.parts:
            raise InputError(
                f"--group: no group {group!r}; valid are: {', '.join(candidate.parts)}"
            )
        place = part_of(candidate, group)
        candidate = candidate.parts[group]
    if origin is not None and (settings or any(variant.values())):
        if isinstance(candidate, Grouped):
            raise InputError(
                "--set, --fade and --direction change one candidate, and the study has several: "
                f"choose --group {' | '.join(candidate.parts)}"
            )
        candidate = varied(candidate, settings, **variant)
        # The changed candidate was not trained.
        origin = {"study": origin["study"], "changed from trial": origin["trial"]}
    origin = None if origin is None else {**origin, **place}
    if arguments.native:
        from pdsearch.native import export_native

        if isinstance(candidate, Grouped):
            raise InputError(
                "--native writes one candidate, and the study has several: choose --group "
                f"{' | '.join(candidate.parts)}"
            )
        export_native(candidate, path, force=arguments.force, provenance=origin)
        files = [path]
    else:
        files = export_all(candidate, path, force=arguments.force, provenance=origin)
    note(f"wrote {', '.join(map(str, files))}: {candidate.name}")
    return 0


# A study's name, as opposed to a formula or a file.
_STUDY_NAME = re.compile(r"[\w][\w .-]*\Z")


def _source(
    arguments: argparse.Namespace, settings: dict[str, float], variant: dict[str, Any]
) -> tuple["Drawn", dict[str, Any] | None]:
    """Return the candidate and its provenance; a name is tried as a family, then as a study."""
    from pdsearch.family import is_library_name, load_target

    text = arguments.source
    if text.endswith(".toml") or arguments.storage or arguments.trial is not None:
        return _of_study(stored_study(text, arguments.storage), arguments.trial)
    try:
        return load_target(text, settings=settings, **variant)[1], None
    except InputError as no_target:
        known = is_library_name(text)  # then the settings are wrong
        if known or not _STUDY_NAME.match(text) or text.endswith((".py", ".json")):
            raise
        try:
            stored = stored_study(text, None)
        except PdsearchError:
            raise InputError(f"{text!r} is no study here, and as a target: {no_target}") from None
    return _of_study(stored, None)


def _of_study(stored: "StoredStudy", trial: int | None) -> tuple["Drawn", dict[str, Any]]:
    from pdsearch.export import provenance

    if trial is None:
        row = stored.best()
        if row is None:
            raise InputError(f"study {stored.name!r} has no finished candidate to export yet")
    else:
        rows = {row.number: row for row in stored.trials()}
        if trial not in rows:
            raise InputError(f"study {stored.name!r} has no trial {trial} (it has {len(rows)})")
        row = rows[trial]
    if row.candidate is None:
        raise InputError(f"trial {row.number} of study {stored.name!r} has no candidate")
    return row.candidate, provenance(stored, row)
