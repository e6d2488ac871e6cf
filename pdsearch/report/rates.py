"""Studies with a grid of learning rates: a trial's runs told apart, and accuracy by rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from pdsearch.report.style import INK, axis, colour, faint, label, layout, scatter
from pdsearch.text import percent
from pdsearch.trial import value_of

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, TrialRow
    from pdsearch.trial import TrialSettings

__all__ = ["RateCurve", "best_run", "by_learning_rate", "rate_curves", "runs_by_rate"]


def runs_by_rate(
    row: "TrialRow", settings: "TrialSettings", legs: Sequence[int] = ()
) -> dict[float, tuple[dict[str, Any], ...]]:
    """Return a trial's epochs by the rate of the grid they were run at, each run's numbered from 1.

    A trial goes through its rates in the grid's order, whole runs of `settings.rounds` each; the
    last one that was begun may be shorter. Where it trains for several lengths one after the other
    (`legs`, in epochs), the runs of the last length that was begun are given.
    """
    rates = settings.learning_rates or (settings.learning_rate,)
    begin = 0
    found: dict[float, tuple[dict[str, Any], ...]] = {}
    for length in legs or (settings.rounds,):
        runs: dict[float, tuple[dict[str, Any], ...]] = {}
        for rate in rates:
            entries = [e for e in row.epochs if begin < int(e["epoch"]) <= begin + length]
            if entries:
                runs[rate] = tuple({**e, "epoch": int(e["epoch"]) - begin} for e in entries)
            begin += length
        found = runs or found
    return found


def best_run(row: "TrialRow", settings: "TrialSettings", legs: Sequence[int] = ()) -> "TrialRow":
    """Return the trial with one run's epochs: at the rate that counts, or the best so far."""
    runs = runs_by_rate(row, settings, legs)
    if not runs or (len(runs) == 1 and len(legs) <= 1 and not settings.learning_rates):
        return row
    rate = row.learning_rate
    if rate not in runs:
        longest = max(len(run) for run in runs.values())
        rate = max(
            (rate for rate, run in runs.items() if len(run) == longest),
            key=lambda rate: _value(runs[rate], settings),
        )
    return replace(row, epochs=runs[rate])


@dataclass(frozen=True)
class RateCurve:
    """A row's accuracy after a whole run at each rate, those of other lengths left out."""

    name: str
    kind: str  # a trial's, or a confirmation's
    accuracy: Mapping[float, float]  # fractions


def rate_curves(
    stored: "StoredStudy", rows: Sequence["TrialRow"], confirmed: Sequence[Mapping[str, Any]]
) -> list[RateCurve]:
    """Return the curves of all trials, and of rows that only a confirmation ran at every rate.

    Args:
        stored: the study.
        rows: its trials.
        confirmed: a confirmation's runs, as `pdsearch.confirm.read_runs` gives them.
    """
    settings = stored.settings.trial
    found: dict[str, RateCurve] = {}
    for row in rows:
        if row.candidate is None or row.duplicate_of is not None or row.status == "failed":
            continue
        whole = {
            rate: _value(run, settings)
            for rate, run in runs_by_rate(row, settings, stored.settings.legs).items()
            if len(run) == settings.rounds
        }
        if whole:
            name = "ReLU" if row.kind == "baseline" else row.candidate.name
            found[name] = RateCurve(name, row.kind, whole)
    # One setting's runs alone, the last one's: the same model's file may have said something else
    # before, and the same folder may have held other images.
    chose = [
        record
        for record in sorted(confirmed, key=lambda record: record["finished"])
        if record["split"] == "validation" and _as_searched(record["setting"]["trial"], settings)
    ]
    beside: dict[str, dict[float, float]] = {}
    kinds: dict[str, str] = {}
    for record in chose:
        name = record["name"]
        alike = record["setting"] == chose[-1]["setting"]
        if alike and record["kind"] != "baseline" and not record["diverged"]:
            beside.setdefault(name, {})[record["learning_rate"]] = record["accuracy"]
            kinds[name] = record["kind"]
    for name, accuracy in beside.items():
        found.setdefault(name, RateCurve(name, kinds[name], accuracy))
    return list(found.values())


def _as_searched(trial: Mapping[str, Any], settings: "TrialSettings") -> bool:
    kept = settings.model_dump(mode="json")
    return all(trial.get(key) == kept.get(key) for key in ("model", "dataset", "epochs", "stream"))


def _value(run: Sequence[Mapping[str, Any]], settings: "TrialSettings") -> float:
    return value_of([float(entry["accuracy"]) for entry in run], settings)


def by_learning_rate(
    curves: Sequence[RateCurve],
    *,
    best: str | None,
    rates: Sequence[float],
    title: str = "validation accuracy",
) -> go.Figure | None:
    """Draw accuracy against the learning rate: the best, ReLU, references and controls in colour.

    Args:
        curves: of all rows.
        best: the name of the best candidate.
        rates: the grid.
        title: what the accuracies are.
    """
    if not any(len(one.accuracy) > 1 for one in curves):
        return None
    figure = go.Figure()
    faintly = [one for one in curves if one.kind == "candidate" and one.name != best]
    for number, one in enumerate(faintly):
        line = {"color": faint(INK, 0.38), "width": 1}
        figure.add_trace(_line(one, line, size=4, named=None if number else "other candidates"))
    used = 0
    for one in sorted((one for one in curves if one not in faintly), key=_order):
        if one.kind == "baseline":
            line = {"color": INK, "width": 3}
        elif one.kind == "candidate":
            line = {"color": colour(0), "width": 3}
        else:
            used += 1
            dash = "dash" if one.kind in ("reference", "given") else "dot"
            line = {"color": colour(used), "width": 2, "dash": dash}
        prefix = "best: " if one.kind == "candidate" else ""
        figure.add_trace(_line(one, line, size=7, named=prefix + one.name))
    ticks = sorted(rates)
    shown = [f"{rate:g}" for rate in ticks]
    xaxis = axis("learning rate", type="log", tickvals=ticks, ticktext=shown)
    figure.update_layout(layout(xaxis=xaxis, yaxis=axis(title, percent=True)))
    return figure


def _order(one: RateCurve) -> int:
    return {"candidate": 0, "baseline": 1, "reference": 2, "given": 3}.get(one.kind, 4)


def _line(one: RateCurve, line: dict[str, Any], *, size: int, named: str | None) -> go.Scatter:
    points = sorted(one.accuracy.items())
    return scatter(
        [rate for rate, _ in points],
        [accuracy for _, accuracy in points],
        name=named,
        notes=[f"{label(one.name)}<br>at {rate:g}: {percent(value)}" for rate, value in points],
        mode="lines+markers",
        line=line,
        marker={"size": size, "color": line["color"]},
    )
