"""`pdsearch criteria`."""

import argparse

from pdsearch.cli.options import STUDY, add_json, add_study, stored_study
from pdsearch.cli.output import emit, emit_json

SUMMARY = "learned criteria: what the study's trials say about each criterion"
ABOUT = STUDY
EXAMPLES = """\
  pdsearch criteria studies/digits.toml
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The study."""
    add_study(command)
    add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Show what a study says about its criteria."""
    from pdsearch.insight import learned_criteria

    insight = learned_criteria(stored_study(arguments.study, arguments.storage))
    if arguments.json:
        emit_json(insight.to_dict())
    else:
        emit(str(insight))
    return 0
