"""`pdsearch families`."""

import argparse
from typing import TYPE_CHECKING, Any

from pdsearch.cli.options import add_json
from pdsearch.cli.output import can_draw, emit_result, wrapped
from pdsearch.text import interval, number

if TYPE_CHECKING:
    from pdsearch.family import Family

SUMMARY = "list the built-in families: name, formula, parameters, reference"
ABOUT = ""
EXAMPLES = """\
  pdsearch families
  pdsearch families --json
"""

add_arguments = add_json


def run(arguments: argparse.Namespace) -> int:
    """List the built-in families, with small plots if the terminal can show them."""
    from pdsearch.family import library

    families = library().values()
    data = [_entry(family) for family in families]
    emit_result(arguments, data, lambda: "\n\n".join(map(_paragraph, families, data)))
    return 0


def _entry(family: "Family") -> dict[str, Any]:
    space = family.to_dict()["space"]
    return {
        "name": family.name,
        "aliases": list(family.aliases),
        "formula": family.formula,
        "latex": family.latex,
        "parameters": {
            name: {key: entry[key] for key in ("low", "high", "log")}
            | {"default": family.defaults[name]}
            for name, entry in space.items()
        },
        "reference": family.reference,
        "origin": family.origin,
    }


def _paragraph(family: "Family", entry: dict[str, Any]) -> str:
    head = family.name + (f" ({', '.join(family.aliases)})" if family.aliases else "")
    if can_draw():
        from pdsearch.report import sparkline

        head = f"{head:34}{sparkline(family.default)}"
    lines = [head.rstrip(), *wrapped("g(x) = " + family.formula)]
    for name, parameter in entry["parameters"].items():
        scale = " (log)" if parameter["log"] else ""
        ends = interval((parameter["low"], parameter["high"]))
        lines.append(f"    {name} in {ends}{scale}, default {number(parameter['default'])}")
    return "\n".join([*lines, *wrapped(family.reference)])
