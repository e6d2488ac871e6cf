"""`pdsearch search`."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.cli.options import (
    add_changes,
    add_json,
    add_launcher,
    add_storage,
    add_training,
    changes_of,
    positive,
    progress,
    training_of,
    workers,
)
from pdsearch.cli.output import emit_result, note, wrapped
from pdsearch.text import columns, number, percent

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy

SUMMARY = "run or resume a study"
ABOUT = """\
The study file's `trials` is the total: running the same command again completes it.
At the end, the report and the best candidate are written to <output>/<name>/.
With --launcher ray or slurm, workers on a cluster train, and this process watches. They need a
storage that all machines reach, such as PostgreSQL: see docs/scale.md."""
EXAMPLES = """\
  pdsearch search studies/digits.toml
  pdsearch search studies/digits.toml --trials 30
  pdsearch search studies/digits.toml --set study.name=digits5 trial.epochs=5
  pdsearch search studies/alexnet_cifar10.toml --launcher slurm --workers 8 --gpus-per-worker 1
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the study file and the flags of training."""
    command.add_argument("study", metavar="STUDY.toml")
    command.add_argument(
        "--trials", type=positive, metavar="N", help="the study's total number of trials"
    )
    add_storage(command)
    command.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="number of processes, or auto; default: the study file's, else auto",
    )
    add_launcher(command)
    add_changes(command)
    add_json(command)
    add_training(command, seed="seed of the sampler and all training; default: the study file's")


def run(arguments: argparse.Namespace) -> int:
    """Run a study to its total, then write its report and best candidate."""
    from pdsearch.study import load_study_file, search

    result = search(
        load_study_file(Path(arguments.study), overrides=changes_of(arguments)),
        trials=arguments.trials,
        storage=arguments.storage,
        workers=arguments.workers,
        launcher=arguments.launcher,
        gpus_per_worker=arguments.gpus_per_worker,
        seed=arguments.seed,
        progress=progress(arguments),
        **training_of(arguments),
    )
    written = _write_results(result.stored)
    data = result.to_dict()
    measure = result.stored.settings.measure
    emit_result(arguments, data, lambda: search_text(data, measure=measure))
    for line in written:
        note(line)
    return 0


def _write_results(stored: "StoredStudy") -> list[str]:
    """Write the report and the best candidate; return a message about each."""
    from pdsearch.export import export_all, provenance
    from pdsearch.report import study_report, write_html

    folder = stored.output
    folder.mkdir(parents=True, exist_ok=True)
    write_html(study_report(stored, decide=None), folder / "report.html")
    written = [f"report: {folder / 'report.html'}"]
    best = stored.best()
    if best is not None and best.candidate is not None:
        origin = provenance(stored, best)
        files = [
            path
            for name in ("best.py", "best.json")
            for path in export_all(best.candidate, folder / name, force=True, provenance=origin)
        ]
        others = ", ".join(path.name for path in files[1:])
        written.append(f"best candidate: {files[0]} (and {others})")
    return written


def search_text(
    data: Mapping[str, Any], *, by_function: bool = False, measure: str = "validation accuracy"
) -> str:
    """Return the document of `search --json` as text.

    `measure` is the meaning of the values, unless a Python function trained.
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
    if not best:
        return "\n".join([*lines, "no candidate finished"])
    for group, part in best.get("groups", {}).items():
        lines.append(f"{group} ({', '.join(part['layers'])}): {_title(part)}")
        lines += wrapped(_equation(part))
    if "groups" not in best:
        lines.append(_title(best))
        lines += wrapped(_equation(best))
    if by_function:
        lines.append("One seed's value picked the best: compare it with ReLU over several seeds.")
        return "\n".join(lines)
    fixed = {"ReLU": data["baseline"]["value"], **data["references"]}
    level = [name for name, found in fixed.items() if found is not None and found >= best["value"]]
    if level:
        lines.append(f"It is not ahead of {', '.join(level)}.")
    lines.append(f"One seed's {measure} picked the best; `pdsearch confirm` tests it.")
    return "\n".join(lines)


def _title(part: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name} = {number(v)}" for name, v in part["parameters"].items())
    return part["family"] + (f" with {values}" if values else "")


def _equation(part: Mapping[str, Any]) -> str:
    shown = rounded(part["formula"])
    return f"g(x) {'=' if shown == part['formula'] else '≈'} {shown}"


def rounded(formula: str) -> str:
    """Return the formula with long decimals rounded to six digits."""
    return re.sub(r"\d*\.\d{7,}", lambda found: f"{float(found[0]):.6g}", formula)
