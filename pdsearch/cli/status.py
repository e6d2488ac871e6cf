"""`pdsearch status`."""

import argparse
from collections.abc import Mapping
from typing import Any

from pdsearch.cli.options import STUDY, add_json, add_study, stored_study
from pdsearch.cli.output import emit_result
from pdsearch.cli.search import search_text
from pdsearch.text import interval

SUMMARY = "show a study's progress"
ABOUT = STUDY
EXAMPLES = """\
  pdsearch status studies/digits.toml
  pdsearch status digits --json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study."""
    add_study(command)
    add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Show a study's progress."""
    from pdsearch.study import status

    stored = stored_study(arguments.study, arguments.storage)
    data = status(stored)
    emit_result(arguments, data, lambda: _text(data, stored.settings.measure))
    return 0


def _text(data: Mapping[str, Any], measure: str) -> str:
    lines = [search_text(data, by_function=data["train"] is not None, measure=measure), ""]
    for name, found in data["families"].items():
        if found["proved"]:
            lines.append(f"proved for the whole family {name}: {', '.join(found['proved'])}")
        for parameter, ends in found["ranges"].items():
            lines.append(
                f"drawn for {name}: {parameter} in {interval(ends)}; the rest of its range fails "
                "the criteria"
            )
    for row in data["running"]:
        gone = "" if row["alive"] in (True, None) else ", its process has gone"
        what = row["candidate"] or row["kind"]
        lines.append(f"trial {row['trial']} runs: {what}, {row['epoch']} epoch(s) done{gone}")
    lines.append(f"total asked for: {data['target']} · {data['storage']}")
    return "\n".join(lines)
