"""`pdsearch search`."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.cli.options import (
    add_changes,
    add_json,
    add_storage,
    add_training,
    changes_of,
    positive,
    progress,
    training_of,
    workers,
)
from pdsearch.cli.output import emit, emit_json, note, wrapped
from pdsearch.text import columns, number, percent

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy

SUMMARY = "run a study, or resume one"
ABOUT = """\
The study file's `trials` is the total: the same command again finishes what is missing.
At the end the report and the best candidate are in <output>/<name>/."""
EXAMPLES = """\
  pdsearch search studies/digits.toml
  pdsearch search studies/digits.toml --trials 30
  pdsearch search studies/digits.toml --set study.name=digits5 trial.epochs=5
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The study file, and how it is run."""
    command.add_argument("study", metavar="STUDY.toml")
    command.add_argument("--trials", type=positive, metavar="N", help="the study's total")
    add_storage(command)
    command.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="number of processes, or auto; default: the study file's, which is auto unless set",
    )
    add_changes(command, "a study that has begun keeps its settings, so set study.name as well")
    add_json(command)
    add_training(command, seed="of the sampler and of every training; default: the study file's")


def run(arguments: argparse.Namespace) -> int:
    """Run a study to its total, then write its report and its best candidate."""
    from pdsearch.study import load_study_file, search

    result = search(
        load_study_file(Path(arguments.study), overrides=changes_of(arguments)),
        trials=arguments.trials,
        storage=arguments.storage,
        workers=arguments.workers,
        seed=arguments.seed,
        progress=progress(arguments),
        **training_of(arguments),
    )
    written = _write_results(result.stored)
    if arguments.json:
        emit_json(result.to_dict())
    else:
        emit(search_text(result.to_dict(), measure=result.stored.settings.measure))
    for line in written:
        note(line)
    return 0


def _write_results(stored: "StoredStudy") -> list[str]:
    """Write the report and the best candidate; a line about each."""
    from pdsearch.export import export, provenance
    from pdsearch.report import study_report, write_html

    folder = stored.output
    folder.mkdir(parents=True, exist_ok=True)
    write_html(study_report(stored, decide=None), folder / "report.html")
    written = [f"report: {folder / 'report.html'}"]
    best = stored.best()
    if best is not None and best.candidate is not None:
        origin = provenance(stored, best)
        for name in ("best.py", "best.json"):
            export(best.candidate, folder / name, force=True, provenance=origin)
        written.append(f"best candidate: {folder / 'best.py'} (and best.json)")
    return written


def search_text(
    data: Mapping[str, Any], *, by_function: bool = False, measure: str = "validation accuracy"
) -> str:
    """Return a search's result as text.

    Args:
        data: `search --json`'s.
        by_function: whether a Python function trains, whose values may be anything.
        measure: what the values are otherwise.
    """

    def value(found: float | None) -> str:
        return (number(found) if by_function else percent(found)) or "–"

    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in data["trials"].items())
    rows = [("", "value" if by_function else measure)]
    if best := data["best"]:
        rows.append((f"best: trial {best['trial']}", value(best["value"])))
    rows.append(("baseline: ReLU", value(data["baseline"]["value"])))
    rows += [(f"reference: {name}", value(found)) for name, found in data["references"].items()]
    lines = [f"study {data['study']}: {counts}", "", columns(rows, right=(1,), indent="  "), ""]
    if best:
        values = ", ".join(f"{name} = {number(v)}" for name, v in best["parameters"].items())
        shown = rounded(best["formula"])
        lines.append(best["family"] + (f" with {values}" if values else ""))
        lines += wrapped(f"g(x) {'=' if shown == best['formula'] else '≈'} {shown}")
    else:
        lines.append("no candidate finished")
    if by_function:
        lines.append("One seed's value picks: call the function over several seeds for both.")
    else:
        lines.append(f"One seed's {measure} picks; `pdsearch confirm` shows whether it holds.")
    return "\n".join(lines)


def rounded(formula: str) -> str:
    """Return the formula with long decimals to six digits; `--json` and exports have all."""
    return re.sub(r"\d*\.\d{7,}", lambda found: f"{float(found[0]):.6g}", formula)
