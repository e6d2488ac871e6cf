"""`pdsearch report`."""

import argparse
from pathlib import Path

from pdsearch.cli.options import STUDY, add_study, stored_study
from pdsearch.cli.output import note

SUMMARY = "write a study's report as one HTML file"
ABOUT = STUDY
EXAMPLES = """\
  pdsearch report studies/digits.toml -o report.html
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study and the output file."""
    add_study(command)
    command.add_argument("-o", "--output", required=True, metavar="report.html")


def run(arguments: argparse.Namespace) -> int:
    """Write a study's report."""
    from pdsearch.files import check_place
    from pdsearch.report import study_report, write_html

    path = Path(arguments.output)
    check_place(path, force=True)
    write_html(study_report(stored_study(arguments.study, arguments.storage)), path)
    note(f"report: {arguments.output}")
    return 0
