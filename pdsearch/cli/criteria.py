"""`pdsearch criteria`."""

import argparse

from pdsearch.cli.options import STUDY, add_json, add_study, stored_study
from pdsearch.cli.output import emit_result

SUMMARY = "learned criteria: how each criterion relates to accuracy in a study"
ABOUT = STUDY
EXAMPLES = """\
  pdsearch criteria studies/digits.toml
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study."""
    add_study(command)
    add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Show a study's learned criteria."""
    from pdsearch.insight import insight_table, learned_criteria

    insight = learned_criteria(stored_study(arguments.study, arguments.storage))
    emit_result(arguments, insight.to_dict(), lambda: insight_table(insight))
    return 0
