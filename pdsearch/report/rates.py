"""Studies with a grid of learning rates: a trial's runs, and accuracy by rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from pdsearch.report.trial_figures import short_name
from pdsearch.study import StoredStudy, TrialRow
from pdsearch.style import UNNAMED, axis, chart, label, named_line, scatter
from pdsearch.text import percent
from pdsearch.trial import TrialSettings, value_of


def runs_by_rate(
    row: TrialRow, settings: TrialSettings, legs: Sequence[int] = ()
) -> dict[float, tuple[dict[str, Any], ...]]:
    """Return a trial's epochs by learning rate, numbered from 1 within each run.

    A trial runs through the rates of the grid in order, `settings.rounds` epochs or tasks each; its
    last run may be shorter. If it trains for several lengths in turn (`legs`, in epochs), only the
    runs of the last length are returned.
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


def best_run(row: TrialRow, settings: TrialSettings, legs: Sequence[int] = ()) -> TrialRow:
    """Return the trial with the epochs of one run: at its best rate, or at the best rate so far."""
    runs = runs_by_rate(row, settings, legs)
    if not runs or (len(runs) == 1 and len(legs) <= 1 and not settings.learning_rates):
        return row
    rate = row.learning_rate
    if rate not in runs:
        rate = max(runs, key=lambda rate: (len(runs[rate]), _value(runs[rate], settings)))
    return replace(row, epochs=runs[rate])


@dataclass(frozen=True)
class RateCurve:
    """A row's accuracy after each complete run."""

    name: str
    kind: str  # of a trial or of a confirmation's row
    accuracy: Mapping[float, float]  # fractions by learning rate


def rate_curves(
    stored: StoredStudy, rows: Sequence[TrialRow], confirmed: Sequence[Mapping[str, Any]]
) -> list[RateCurve]:
    """Return the curves of all trials, and of rows that only a confirmation ran at every rate.

    `confirmed` are a confirmation's runs, from `pdsearch.confirm.read_runs`.
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
            name = short_name(row)
            found[name] = RateCurve(name, row.kind, whole)
    # Only the runs with the setting of the latest one are comparable: the model's file or the
    # images may have changed before it.
    chose = [
        record
        for record in sorted(confirmed, key=lambda record: record["finished"])
        if record["split"] == "validation" and _as_searched(record["setting"]["trial"], settings)
    ]
    others: dict[tuple[str, str], dict[float, float]] = {}
    for record in chose:
        alike = record["setting"] == chose[-1]["setting"]
        if alike and record["kind"] != "baseline" and not record["diverged"]:
            accuracy = others.setdefault((record["name"], record["kind"]), {})
            accuracy[record["learning_rate"]] = record["accuracy"]
    for (name, kind), accuracy in others.items():
        found.setdefault(name, RateCurve(name, kind, accuracy))
    return list(found.values())


def _as_searched(trial: Mapping[str, Any], settings: TrialSettings) -> bool:
    kept = settings.model_dump(mode="json")
    return all(trial.get(key) == kept.get(key) for key in ("model", "dataset", "epochs", "stream"))


def _value(run: Sequence[Mapping[str, Any]], settings: TrialSettings) -> float:
    return value_of([float(entry["accuracy"]) for entry in run], settings)


_ORDER = {"candidate": 0, "baseline": 1, "reference": 2, "given": 3}


def by_learning_rate(
    curves: Sequence[RateCurve],
    *,
    best: str | None,
    rates: Sequence[float],
    title: str = "validation accuracy",
) -> go.Figure | None:
    """Draw accuracy against the learning rate: the best, ReLU, references and controls in colour.

    `best` is the name of the best candidate, `title` the meaning of the accuracies.
    """
    if not any(len(one.accuracy) > 1 for one in curves):
        return None
    unnamed = [one for one in curves if one.kind == "candidate" and one.name != best]
    traces = [
        _line(one, UNNAMED, size=4, named=None if number else "other candidates")
        for number, one in enumerate(unnamed)
    ]
    named = [one for one in curves if one not in unnamed]
    used = 0
    for one in sorted(named, key=lambda one: _ORDER.get(one.kind, 4)):
        used += one.kind not in ("baseline", "candidate")
        prefix = "best: " if one.kind == "candidate" else ""
        traces.append(_line(one, named_line(one.kind, used), size=7, named=prefix + one.name))
    ticks = sorted(rates)
    shown = [f"{rate:g}" for rate in ticks]
    xaxis = axis("learning rate", type="log", tickvals=ticks, ticktext=shown)
    return chart(traces, xaxis=xaxis, yaxis=axis(title, percent=True))


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
