"""Results as plain data for `--json` and as text for people."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pdsearch.cli.output import can_draw, table, width

if TYPE_CHECKING:
    from pdsearch.doctor import Finding
    from pdsearch.family import Family


def number(value: Any) -> str:
    """A number to five digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------- families


def family_entry(family: "Family") -> dict[str, Any]:
    """One entry of `families --json`."""
    space = family.to_dict()["space"]
    return {
        "name": family.name,
        "aliases": list(family.aliases),
        "formula": family.formula,
        "latex": family.latex,
        "parameters": {
            name: {
                "low": entry["low"],
                "high": entry["high"],
                "log": entry["log"],
                "default": family.defaults[name],
            }
            for name, entry in space.items()
        },
        "reference": family.reference,
        "origin": family.origin,
    }


def families_text(families: Iterable["Family"]) -> str:
    """The library, a paragraph each; with small plots where the terminal can show them."""
    blocks = []
    for family in families:
        names = family.name + (f" ({', '.join(family.aliases)})" if family.aliases else "")
        head = names if not can_draw() else f"{names:34}{_sparkline(family)}"
        lines = [head.rstrip(), *_wrapped("g(x) = " + family.formula)]
        lines += [f"    {line}" for line in _ranges(family_entry(family)["parameters"])]
        lines += _wrapped(family.reference)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _sparkline(family: "Family") -> str:
    from pdsearch.report import sparkline

    return sparkline(family.default)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, width(), initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
    )


def _ranges(parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{name} in [{number(entry['low'])}, {number(entry['high'])}]"
        + (" (log)" if entry["log"] else "")
        + f", default {number(entry['default'])}"
        for name, entry in parameters.items()
    ]


# ------------------------------------------------------------------------------------- study


def rounded(formula: str) -> str:
    """The formula with long decimals to six digits: the exact ones are in `--json` and exports."""
    return re.sub(r"\d*\.\d{7,}", lambda found: f"{float(found[0]):.6g}", formula)


def accuracy(value: float | None) -> str:
    """A fraction as percent, two decimals."""
    return "–" if value is None else f"{100 * value:.2f} %"


def search_text(
    data: Mapping[str, Any], *, by_function: bool = False, measure: str = "validation accuracy"
) -> str:
    """What a search found.

    Args:
        data: `search --json`'s.
        by_function: a Python function trains: its values may be anything.
        measure: what they are otherwise.
    """
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in data["trials"].items())
    shown_as = _value if by_function else accuracy
    rows = [("", "value" if by_function else measure)]
    if best := data["best"]:
        rows.append((f"best: trial {best['trial']}", shown_as(best["value"])))
    rows.append(("baseline: ReLU", shown_as(data["baseline"]["value"])))
    rows += [(f"reference: {name}", shown_as(v)) for name, v in data["references"].items()]
    lines = [f"study {data['study']}: {counts}", "", table(rows, right=(1,), indent="  "), ""]
    if best:
        values = ", ".join(f"{name} = {number(v)}" for name, v in best["parameters"].items())
        lines += [f"{best['family']}{f' with {values}' if values else ''}"]
        shown = rounded(best["formula"])
        lines += _wrapped(f"g(x) {'=' if shown == best['formula'] else '≈'} {shown}")
    else:
        lines.append("no candidate finished")
    if by_function:
        lines.append("One seed's value picks: call the function over several seeds for both.")
    else:
        lines.append(f"One seed's {measure} picks; `pdsearch confirm` tells whether it holds.")
    return "\n".join(lines)


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def status_text(data: Mapping[str, Any], *, measure: str = "validation accuracy") -> str:
    """How far a study is; `data` is `status --json`'s, `measure` what its values are."""
    lines = [search_text(data, by_function=data["train"] is not None, measure=measure), ""]
    for name, found in data["families"].items():
        if found["proved"]:
            lines += [f"proved for the whole family {name}: {', '.join(found['proved'])}"]
        for parameter, (low, high) in found["ranges"].items():
            lines.append(
                f"drawn for {name}: {parameter} in [{number(low)}, {number(high)}]; the rest of "
                "its range fails the criteria"
            )
    for row in data["running"]:
        gone = "" if row["alive"] in (True, None) else ", its process has gone"
        what = row["candidate"] or row["kind"]
        lines.append(f"trial {row['trial']} runs: {what}, {row['epoch']} epoch(s) done{gone}")
    lines.append(f"total asked for: {data['target']} · {data['storage']}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------ doctor


def doctor_text(findings: Iterable["Finding"]) -> str:
    """The findings, what needs attention last, each with its remedy."""
    lines = []
    for finding in findings:
        mark = {"ok": "ok  ", "info": "    ", "attention": "!!  "}[finding.level]
        lines.append(f"{mark}{finding.name}: {finding.text}")
        if finding.remedy:
            lines.append(f"      → {finding.remedy}")
    wrong = sum(finding.level == "attention" for finding in findings)
    lines.append("")
    lines.append("all is well" if not wrong else f"{wrong} thing(s) need attention")
    return "\n".join(lines)
