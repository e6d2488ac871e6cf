"""`pdsearch doctor`."""

import argparse

from pdsearch.cli.options import add_json, add_storage
from pdsearch.cli.output import emit, emit_json

SUMMARY = "report what is installed, reachable, stale or broken, and what to do"
ABOUT = ""
EXAMPLES = """\
  pdsearch doctor
  pdsearch doctor --storage sqlite:///pdsearch.db --json
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The storage."""
    add_storage(command, of_file=False)
    add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Look at the installation and the storage; 1 where something needs attention."""
    from pdsearch.doctor import examine

    findings = examine(storage=arguments.storage)
    wrong = sum(finding.level == "attention" for finding in findings)
    if arguments.json:
        emit_json({"ok": not wrong, "findings": [finding.to_dict() for finding in findings]})
    else:
        marks = {"ok": "ok  ", "info": "    ", "attention": "!!  "}
        lines = []
        for finding in findings:
            lines.append(f"{marks[finding.level]}{finding.name}: {finding.text}")
            lines += [f"      → {finding.remedy}"] if finding.remedy else []
        emit("\n".join(lines))
        emit(f"\n{wrong} thing(s) need attention" if wrong else "\nall is well")
    return 1 if wrong else 0
