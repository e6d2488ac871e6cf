"""`pdsearch init`."""

import argparse
import shlex
from pathlib import Path

from pdsearch.cli.output import emit, note
from pdsearch.errors import InputError

SUMMARY = "write a starter family and a study file"
ABOUT = ""
EXAMPLES = """\
  pdsearch init my_search && cd my_search && pdsearch search study.toml
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the directory."""
    command.add_argument("directory", metavar="DIRECTORY", nargs="?", default=".")


def run(arguments: argparse.Namespace) -> int:
    """Write the starter files."""
    from pdsearch.starter import write_starter

    if not arguments.directory.strip():
        raise InputError("DIRECTORY is empty: omit it to write to the working directory")
    for path in write_starter(Path(arguments.directory)):
        note(f"wrote {path}")
    where = "" if arguments.directory == "." else f"cd {shlex.quote(arguments.directory)} && "
    emit(f"{where}pdsearch check my_family.py\n{where}pdsearch search study.toml")
    return 0
