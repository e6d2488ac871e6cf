"""`pdsearch doctor`."""

import argparse

from pdsearch.cli.options import add_json, add_storage
from pdsearch.cli.output import emit_result

SUMMARY = "report what is installed, reachable, stale or broken, and how to fix it"
ABOUT = ""
EXAMPLES = """\
  pdsearch doctor
  pdsearch doctor --storage sqlite:///pdsearch.db --json
"""

_MARKS = {"ok": "ok  ", "info": "    ", "attention": "!!  "}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the storage."""
    add_storage(command, of_file=False)
    add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Check the installation and the storage; return 1 if something needs attention."""
    from pdsearch.doctor import examine

    findings = examine(storage=arguments.storage)
    wrong = sum(finding.level == "attention" for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]}{finding.name}: {finding.text}")
        lines += [f"      → {finding.remedy}"] if finding.remedy else []
    lines += ["", f"{wrong} thing(s) need attention" if wrong else "all is well"]
    data = {"ok": not wrong, "findings": [vars(finding) for finding in findings]}
    emit_result(arguments, data, lambda: "\n".join(lines))
    return 1 if wrong else 0
