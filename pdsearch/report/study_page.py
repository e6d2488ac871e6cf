"""A study as one HTML file; `templates/study/<name>.html` shows the record of each section."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from pdsearch.confirm import Confirmation, read_runs
from pdsearch.confirm.table import REACHING, reaching_cells
from pdsearch.criteria import CRITERIA, PROFILES, check, gate
from pdsearch.criteria.figures import criteria_figure
from pdsearch.family import Candidate, Grouped, parts_of
from pdsearch.family.figures import shapes_figure
from pdsearch.insight import learned_criteria
from pdsearch.report import confirm_figures, curve_figures, trial_figures
from pdsearch.report.page import Section, render
from pdsearch.report.rates import by_learning_rate, rate_curves
from pdsearch.report.trial_figures import name_of, short_name
from pdsearch.report.view import View
from pdsearch.study import StoredStudy, TrialRow
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.families import prefix_of
from pdsearch.study.rows import counts_of, of_group
from pdsearch.text import counted, interval
from pdsearch.trial import length_of, where_in

Record = dict[str, Any] | None

DECIDE = 20
"""Most candidates whose missing criteria a report decides itself, in about a second."""

SHOWN = 4
"""Number of best candidates, of different shapes, that are drawn."""


def study_report(stored: StoredStudy, *, decide: int | None = DECIDE) -> str:
    """Return a study, finished or not, as one HTML file that loads nothing from elsewhere.

    `decide` is the most candidates without stored criteria to decide for the learned criteria;
    None: all.
    """
    view = View(stored, tuple(stored.trials()), decide)
    return render(
        "study.html",
        title=f"{stored.name}: pseudo-derivative search",
        view=view,
        trained=_trained(view),
        counts=counts_of(view.rows),
        # Shapes of trials that were stopped early count too: the best was picked from all.
        picked=len(
            {r.candidate for r in view.rows if r.kind == "candidate" and r.value is not None}
        ),
        sections=[
            Section(part.__name__, heading, part(view), f"study/{part.__name__}.html")
            for heading, part in _SECTIONS.items()
        ],
    )


def _trained(view: View) -> str:
    if view.by_function:
        return "trained by a Python function"
    trial = view.stored.settings.trial
    length = length_of(trial.model_dump(mode="json"))
    length = f"a trial is {length}" if view.stream else f"{length} per trial"
    return f"{where_in(trial.model_dump(mode='json'))}, {length}"


def confirmation(view: View) -> Record:
    """Return the rows and figures of the confirmation and of each transfer."""
    found = view.confirmation
    if found is None:
        return None
    return {"parts": [confirmed(one) for one in (found, *found.transfers)]}


def confirmed(found: Confirmation) -> dict[str, Any]:
    """Return the rows and figures of one confirmation."""
    unit, pick = confirm_figures.unit_of(found), found.pick
    entries = [entry for row in found.rows for run in row.runs for entry in run]
    looked = any(entry.get("diagnostics") for entry in entries)
    return {
        "found": found,
        "unit": unit,
        "bootstrapped": any(row.ci95_bootstrap is not None for row in found.rows),
        "reaching": REACHING if any(row.reaching for row in found.rows) else "",
        "reaching_cells": reaching_cells,
        "forest": confirm_figures.forest(found),
        "curves": confirm_figures.row_curves(found),
        "layers": curve_figures.by_layer(pick.runs, unit=unit) if pick is not None else {},
        "explained": curve_figures.EXPLAINED.format(unit=unit) if looked else "",
    }


def shapes(view: View) -> Record:
    """Return the best candidates and references next to the step, and the best candidate.

    With groups, those are the shapes of the best candidate in each group.
    """
    best = view.best.candidate if view.best is not None else None
    parts = {} if best is None else parts_of(best)
    if isinstance(best, Grouped):
        drawn = [(part, f"{group}: {part.name}") for group, part in parts.items()]
    else:
        drawn = [
            (row.candidate, f"{name_of(row)}, {view.value(row.value)}")
            for row in view.ranked[:SHOWN]
            if isinstance(row.candidate, Candidate)
        ]
    others = [row.candidate for row in view.references if isinstance(row.candidate, Candidate)]
    if not drawn and not others:
        return None
    candidates, labels = [part for part, _ in drawn], [name for _, name in drawn]
    figure = shapes_figure(candidates, labels=labels, dashed=others)
    layers = best.layers if isinstance(best, Grouped) else {}
    return {"figure": figure, "best": parts, "layers": layers}


# ----------------------------------------------------------------------------------- criteria


def criteria(view: View) -> Record:
    """Return the best candidate's criteria compared with others, and what ruled trials out."""
    record: dict[str, Any] = {
        "ruled_out": _ruled_out(view),
        "families": _families(view),
        "own": view.stored.own_criteria,
        "parts": [],
    }
    if view.best is not None and view.best.candidate is not None:
        record["parts"] = [_of_best(view, group, view.best) for group in view.groups]
    if not any(record.values()):
        return None
    return {**record, "profile": view.stored.settings.criteria.profile}


def _of_best(view: View, group: str, best: TrialRow) -> dict[str, Any]:
    """Return the criteria of the best candidate in a group, compared with others."""
    row = of_group(best, group)
    candidate = row.candidate
    assert isinstance(candidate, Candidate)
    asked = view.stored.settings.criteria
    report = check(candidate, profile=asked.profile, thresholds=asked.bounds())
    # The results of a study's own criteria are only in its trials.
    entries = [*report.to_dict()["criteria"], *_own(row)]
    figure = criteria_figure(candidate, entries)
    return {
        "group": group,
        "candidate": candidate,
        "entries": entries,
        "figure": figure if len(figure.data) > 2 else None,  # more than the shape and the step
        **_compared(view, group),
    }


def _entries(row: TrialRow) -> list[dict[str, Any]]:
    """Return the results of a trial's gate."""
    return list((row.criteria or {}).get("criteria", ()))


def _own(row: TrialRow) -> list[dict[str, Any]]:
    """Return the results of the study's own criteria."""
    return [entry for entry in _entries(row) if entry["name"] not in CRITERIA]


def _families(view: View) -> list[dict[str, Any]]:
    """Return what was decided for whole families before any candidate was drawn."""
    own = [spec.rpartition(":")[2] for spec in view.stored.own_criteria]
    required = PROFILES[view.stored.settings.criteria.profile]
    found = []
    for family, decided in view.stored.gates.items():
        left = [name for name in CRITERIA if name in required and name not in decided.proved]
        space: Any = view.stored.families[family].space
        drawn = {
            name: f"in {interval(ends)} of "
            f"{interval((float(space[name].low), float(space[name].high)))}"
            for name, ends in decided.ranges.items()
        }
        found.append(
            {
                "name": family,
                "proved": decided.proved,
                "asked": left + own,
                "drawn": drawn,
                "hopeless": decided.hopeless,
            }
        )
    return found


def _compared(view: View, group: str) -> dict[str, Any]:
    """Return the certified criteria of the best, the baseline and the references, by name."""
    bounds = view.stored.settings.criteria.bounds()
    baseline = [view.baseline] if view.baseline else []
    columns: dict[str, dict[str, Any]] = {}
    for whole in [*view.ranked[: SHOWN - 1], *baseline, *view.references]:
        row = of_group(whole, group)
        if isinstance(row.candidate, Candidate):
            certified = gate(row.candidate, profile="strict", thresholds=bounds).to_dict()
            entries = [*certified["criteria"], *_own(row)]
            columns[short_name(row)] = {entry["name"]: entry for entry in entries}
    names = list(dict.fromkeys(name for entries in columns.values() for name in entries))
    return {"columns": columns, "names": names}


def _ruled_out(view: View) -> dict[str, list[TrialRow]]:
    """Return the trials ruled out by each criterion."""
    found: dict[str, list[TrialRow]] = {}
    for row in view.rows:
        for entry in _entries(row) if row.status == "ruled_out" else ():
            if entry["required"] and not entry["passed"]:
                found.setdefault(entry["name"], []).append(row)
    return found


# ------------------------------------------------------------------------------------ figures


def history(view: View) -> Record:
    """Return the trials in order, and two objectives against each other."""
    if all(row.value is None for row in view.rows):
        return None
    shown: dict[str, Any] = {"percent": view.percent, "title": view.title}
    return {
        "history": trial_figures.history(view.stored, view.rows, **shown),
        "objectives": trial_figures.objectives(view.stored, view.rows),
    }


def rates(view: View) -> Record:
    """Return accuracy by learning rate, if the study has a grid of them."""
    if not view.rates:
        return None
    trial = view.stored.settings.trial
    figure = by_learning_rate(
        rate_curves(view.stored, view.rows, list(read_runs(view.stored).values())),
        best=None if view.best is None else name_of(view.best),
        rates=view.rates,
        title=view.measured,
    )
    length = "One stream of tasks" if view.stream else f"After {counted(trial.epochs, 'epoch')}"
    return None if figure is None else {"figure": figure, "length": length}


def _by_epoch(view: View, *quantities: str, **changes: Any) -> dict[str, go.Figure]:
    """Return figures over epochs or tasks by title, without quantities that have no values."""
    figures = {
        f"{quantity} by {view.unit}": curve_figures.by_epoch(
            view.runs, view.best_run, quantity, unit=view.unit, **changes
        )
        for quantity in quantities
    }
    return {title: figure for title, figure in figures.items() if figure is not None}


def curves(view: View) -> Record:
    """Return value and loss by epoch or task, and the quantities of a stream."""
    title = "accuracy within the task" if view.stream else view.measured
    figures = _by_epoch(view, "value", title=title, percent=view.percent)
    figures |= _by_epoch(view, "training loss")
    if view.stream:
        figures |= _by_epoch(view, "accuracy after the task", "L2 norm of all weights")
    return {"figures": figures, "rates": view.rates} if figures else None


def dead(view: View) -> Record:
    """Return dead units by epoch and by layer."""
    figures = _by_epoch(view, "dead units, mean over layers")
    by_layer = curve_figures.dead_by_layer(view.runs, view.best_run, unit=view.unit)
    if by_layer is not None:
        figures["dead units by layer"] = by_layer
    return {"figures": figures, "unit": view.unit} if figures else None


def inside(view: View) -> Record:
    """Return the diagnostics by epoch or task, and by layer for the best trial."""
    figures = _by_epoch(view, *curve_figures.DIAGNOSED)
    if not figures:
        return None
    best = view.best_run
    return {
        "explained": curve_figures.EXPLAINED.format(unit=view.unit),
        "figures": figures,
        "layers": curve_figures.by_layer([best.epochs], unit=view.unit) if best else {},
    }


def parameters(view: View) -> Record:
    """Return value by family and along each parameter, and importances, for each group."""
    shown: dict[str, Any] = {"percent": view.percent, "title": view.title}
    parts = []
    for group in view.groups:
        rows = [of_group(row, group) for row in view.rows]
        by_family = trial_figures.by_family(view.stored, rows, **shown)
        if by_family is None:
            return None
        prefix = prefix_of(group)
        importances, notes = trial_figures.importances(view.stored, rows, prefix=prefix)
        slices = trial_figures.slices(view.stored, rows, percent=view.percent)
        parts.append(
            {
                "group": group,
                "by_family": by_family,
                "importances": importances,
                "notes": notes,
                "slices": slices,
            }
        )
    return {"parts": parts, "title": view.title}


def learned(view: View) -> Record:
    """Return the learned criteria, and a figure for each that has a correlation."""
    insight = learned_criteria(view.stored, rows=view.rows, decide=view.decide)
    if not insight.criteria:
        return None
    rows = {row.number: row for row in view.rows}
    figures = {
        one.name: trial_figures.learned(insight, one, rows, percent=view.percent)
        for one in insight.criteria
        if one.correlation is not None
    }
    return {"insight": insight, "figures": figures}


# ------------------------------------------------------------------------------------- tables


def trials(view: View) -> Record:
    """Return the table of all trials."""
    if not view.rows:
        return None
    rows = []
    for row in view.rows:
        required = [entry for entry in _entries(row) if entry["required"]]
        held = sum(bool(entry["passed"]) for entry in required)
        same = "" if row.duplicate_of is None else f"same g as trial {row.duplicate_of}"
        rows.append(
            {
                "trial": row,
                "criteria": f"{held}/{len(required)}" if required else "",
                "held": held / len(required) if required else "",
                "note": "; ".join(filter(None, (same, row.reason))),
            }
        )
    return {"rows": rows, "best": view.best, "unit": view.unit}


def settings(view: View) -> Record:
    """Return the resolved study file, where it ran, and the commands that reproduce it."""
    stored = view.stored
    document = stored.settings.model_dump(mode="json")
    document["study"].pop("storage", None)  # shown with its password masked, below
    # The sections about training on images do not apply to a Python function.
    unused = ("trial", "confirm") if view.by_function else ()
    sections = {
        f"[{section}]": _shown(values)
        for section, values in document.items()
        if isinstance(values, Mapping) and section not in unused
    }
    kept = StudyAttrs(stored.study)
    sections["Where it ran"] = _shown(
        {"storage": stored.storage, "device": kept.device, **dict(kept.versions or {})}
    )
    again = "pdsearch search STUDY.toml      # with the settings above; the same command resumes"
    if view.by_function:
        again = "search(train=…) in Python, with the settings above; the same call resumes"
    commands = [again, view.command("report", "-o report.html")]
    commands += [] if view.by_function else [view.command("confirm")]
    return {
        "sections": sections,
        "commands": [*commands, view.command("export", "-o pd_relu.py")],
    }


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as JSON, but text as it is and None as a dash."""

    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return {key: "–" if value is None else text(value) for key, value in values.items()}


_SECTIONS: dict[str, Callable[[View], Record]] = {
    "Confirmation": confirmation,
    "Shapes": shapes,
    "Criteria": criteria,
    "History": history,
    "By learning rate": rates,
    "Learning curves": curves,
    "Dead units": dead,
    "Gradients": inside,
    "Parameters": parameters,
    "Learned criteria": learned,
    "All trials": trials,
    "Settings": settings,
}
"""The sections of a page by heading. A section's name is its function's."""
