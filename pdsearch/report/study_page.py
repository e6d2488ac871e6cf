"""A study as one HTML file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pdsearch.confirm import Confirmation, load_confirmation
from pdsearch.criteria import check, gate
from pdsearch.report import outcome_figures, parameter_figures, study_figures
from pdsearch.report.criteria_page import about
from pdsearch.report.figures import criteria_figure, shapes_figure
from pdsearch.report.markup import Markup, h
from pdsearch.report.page import badge, criteria_table, document, facts, figure_box, table
from pdsearch.report.sketch import sketch
from pdsearch.report.terminal import number

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, TrialRow

__all__ = ["study_report"]

SHOWN = 4
"""The best candidates of different shape that are drawn and whose criteria are decided."""


def study_report(stored: "StoredStudy") -> str:
    """A study as one HTML file: headline, shapes, criteria, history, parameters, all trials.

    Args:
        stored: the study, finished or not.

    Returns:
        HTML text that loads nothing from anywhere.
    """
    view = _View(stored, tuple(stored.trials()))
    settings = stored.settings.trial
    return document(
        f"{stored.name}: pseudo-derivative search",
        head=[
            h(
                "p",
                f"{settings.model} on {settings.dataset}, {settings.epochs} epochs a trial, "
                f"{stored.settings.study.sampler} sampler",
                class_="quiet",
            ),
            _headline(view),
            _numbers(view),
        ],
        sections=[
            ("confirmation", "Confirmation", _confirmation(view)),
            ("shapes", "Shapes", _shapes(view)),
            ("criteria", "Criteria", _criteria(view)),
            ("history", "History", _history(view)),
            ("curves", "Learning curves", _curves(view)),
            ("dead", "Dead units", _dead(view)),
            ("parameters", "Parameters", _parameters(view)),
            ("learned", "Learned criteria", _learned(view)),
            ("trials", "All trials", _trials(view)),
            ("settings", "Settings", _settings(view)),
        ],
    )


@dataclass(frozen=True)
class _View:
    """A study with its rows read once, so that every part of the page tells of the same moment."""

    stored: "StoredStudy"
    rows: tuple["TrialRow", ...]

    @cached_property
    def best(self) -> "TrialRow | None":
        ranked = self.ranked
        return ranked[0] if ranked else None

    @cached_property
    def ranked(self) -> list["TrialRow"]:
        """Complete candidates, the best first, as the study ranks them; each shape once."""
        complete = [
            row
            for row in self.rows
            if row.kind == "candidate" and row.status == "complete" and row.value is not None
        ]
        sign = 1 if self.stored.minimize else -1
        retried = any(row.seeds for row in complete)
        # Where the best few were trained over more seeds, their mean ranks them before all others.
        complete.sort(
            key=lambda row: (
                bool(retried and not row.seeds),
                sign * float((row.score if retried else row.value) or 0.0),
                row.number,
            )
        )
        once: dict[str, TrialRow] = {}
        for row in complete:
            if row.candidate is not None and row.duplicate_of is None:
                once.setdefault(row.candidate.formula, row)
        return list(once.values())

    @cached_property
    def baseline(self) -> "TrialRow | None":
        rows = [r for r in self.rows if r.kind == "baseline" and r.value is not None]
        return rows[-1] if rows else None

    @cached_property
    def references(self) -> list["TrialRow"]:
        found = {}
        for row in self.rows:
            if row.kind == "reference" and row.status != "failed" and row.candidate is not None:
                found[row.candidate.name] = row
        return list(found.values())

    @property
    def percent(self) -> bool:
        """Whether values are accuracies; a Python function may yield anything."""
        return not self.stored.minimize and self.stored.settings.study.objectives[0] == "accuracy"

    @property
    def title(self) -> str:
        return "validation accuracy" if self.percent else "value"

    def value(self, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.2f} %" if self.percent else f"{value:.5g}"

    def difference(self, value: float) -> str:
        return f"{100 * value:+.2f} points" if self.percent else f"{value:+.4g}"

    @cached_property
    def confirmation(self) -> Confirmation | None:
        found = load_confirmation(self.stored)
        return found if found is not None and found.rows else None


def _name(row: "TrialRow") -> str:
    return row.candidate.name if row.candidate is not None else "–"


# ---------------------------------------------------------------------------------- headline


def _headline(view: _View) -> Markup:
    found = view.confirmation
    if found is not None:
        return h(
            "div",
            h("p", found.headline, class_="big"),
            h(
                "p",
                f"Test accuracy, {found.model} on {found.dataset}, {found.epochs} epochs; paired "
                "over seeds that the search did not use, 95 % interval in brackets, p adjusted by "
                "Holm over all rows.",
            ),
            class_="headline",
        )
    best, baseline = view.best, view.baseline
    if best is None or best.value is None:
        return h(
            "div",
            h("p", "No candidate has been trained to the end yet.", class_="big"),
            h("p", "Run the search again to go on where it stopped."),
            class_="headline",
        )
    figure = f"{_name(best)}: {view.value(best.value)} {view.title}"
    if baseline is not None and baseline.value is not None:
        figure += (
            f", ReLU {view.value(baseline.value)} ({view.difference(best.value - baseline.value)})"
        )
    picked = len(view.ranked)
    return h(
        "div",
        h("p", figure, class_="big"),
        h(
            "p",
            "One seed, and the best of "
            f"{picked} trained shapes picked by this very figure, so it flatters the pick: this "
            "is no significant evidence of a difference. To get some, on the test set and over "
            "fresh paired seeds: ",
            h("code", f"pdsearch confirm {_quoted(view.stored.name)}"),
        ),
        class_="headline",
    )


def _numbers(view: _View) -> Markup:
    counts = view.stored.counts()
    entries: dict[str, Any] = {}
    if view.best is not None:
        entries["best, validation"] = [
            view.value(view.best.value),
            h("small", f"trial {view.best.number}"),
        ]
    if view.baseline is not None:
        entries["ReLU, validation"] = view.value(view.baseline.value)
    entries["trials"] = [
        f"{counts['total']} of {view.stored.settings.study.trials}",
        h("small", f"{counts['complete']} complete"),
    ]
    entries["pruned"] = [
        str(counts["pruned"]),
        h("small", f"{counts['diverged']} of them diverged") if counts.get("diverged") else None,
    ]
    entries["ruled out"] = [str(counts["ruled_out"]), h("small", "by criteria, not trained")]
    if counts.get("failed"):
        entries["failed"] = str(counts["failed"])
    seconds = sum(row.seconds or 0.0 for row in view.rows)
    entries["training time"] = _duration(seconds)
    return facts(entries)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


# ------------------------------------------------------------------------------ confirmation


def _confirmation(view: _View) -> list[Any]:
    if view.confirmation is None:
        return []
    parts = _confirmed(view.confirmation)
    for other in view.confirmation.transfers:
        parts += [h("h3", f"Transfer: {other.model} on {other.dataset}"), *_confirmed(other)]
    return parts


def _confirmed(found: Confirmation) -> list[Any]:
    right = {"class_": "number"}
    rows, classes = [], []
    for row in found.rows:
        rows.append(
            [
                [h("code", row.name), h("div", row.kind.replace("_", " "), class_="quiet small")],
                {"text": row.seeds, **right},
                {
                    "text": f"{100 * row.mean:.2f}"
                    + (f" ± {100 * row.std:.2f}" if row.std is not None else ""),
                    **right,
                },
                {"text": _points(row.difference) if row.kind != "baseline" else "–", **right},
                {"text": _interval(row.ci95), **right},
                {"text": _interval(row.ci95_bootstrap), **right},
                {"text": _p(row.p_value), **right},
                {"text": _p(row.p_adjusted) + (" *" if row.significant else ""), **right},
                {"text": row.seeds_needed if row.seeds_needed is not None else "–", **right},
            ]
        )
        classes.append("best" if row.significant else None)
    heads = ["", "seeds", "test accuracy, %", "− ReLU, points", "95 % (paired t)",
             "95 % (bootstrap)", "p", "p adjusted", "seeds needed"]  # fmt: skip
    return [
        figure_box(
            outcome_figures.forest(found),
            "paired differences to ReLU with intervals",
            caption="Mean paired difference to ReLU with its 95 % interval (paired t); small dots "
            "are single seeds. A filled diamond: adjusted p below 0.05.",
        ),
        table([heads[0], *({"text": text, **right} for text in heads[1:])], rows, classes=classes),
        h(
            "p",
            "± is the standard deviation over seeds. p adjusted: Holm, over the rows; * below "
            "0.05. Seeds needed: for 80 % power at the effect seen. Device: "
            f"{found.device or 'not recorded'}.",
            class_="quiet small",
        ),
        [h("p", note, class_="small") for note in found.notes],
    ]


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


# --------------------------------------------------------------------------- shapes, criteria


def _shapes(view: _View) -> list[Any]:
    top = [row for row in view.ranked[:SHOWN] if row.candidate is not None]
    candidates = [row.candidate for row in top if row.candidate is not None]
    others = [row.candidate for row in view.references if row.candidate is not None]
    if not candidates and not others:
        return []
    labels = [f"{_name(row)}, {view.value(row.value)}" for row in top]
    figure = shapes_figure(candidates, labels=labels, dashed=others)
    parts: list[Any] = [
        figure_box(
            figure,
            "the best candidates beside the step",
            caption="The best candidates by validation value, the references (dashed), and the "
            "step, ReLU's own derivative (dotted). Hover for the formula.",
            height=460,
        )
    ]
    if candidates:
        parts += [h("h3", "The best: ", h("code", candidates[0].name))]
        parts += about(candidates[0].family, candidates[0])
    return parts


def _criteria(view: _View) -> list[Any]:
    if view.best is None or view.best.candidate is None:
        return []
    candidate = view.best.candidate
    asked = view.stored.settings.criteria
    report = check(candidate, profile=asked.profile, thresholds=asked.bounds())
    entries = report.to_dict()["criteria"]
    # A study's own criteria are known from its trials alone.
    names = {entry["name"] for entry in entries}
    entries += [
        entry
        for entry in (view.best.criteria or {}).get("criteria", ())
        if entry["name"] not in names
    ]
    shape = criteria_figure(candidate, entries)
    marked = len(shape.data) > 2
    return [
        h("p", "The best candidate, profile ", h("code", asked.profile), "."),
        figure_box(
            shape,
            f"{candidate.name} with witnesses",
            caption="Rings mark where a criterion that was refuted fails.",
            height=380,
        )
        if marked
        else None,
        criteria_table(entries),
        h("h3", "Beside the others"),
        _matrix(view),
        _ruled_out(view),
    ]


def _matrix(view: _View) -> Markup:
    rows = [*view.ranked[:SHOWN], *([view.baseline] if view.baseline else []), *view.references]
    columns = {
        ("ReLU" if row.kind == "baseline" else _name(row)): row.candidate
        for row in rows
        if row.candidate is not None
    }
    asked = view.stored.settings.criteria
    reports = {
        name: gate(one, profile="strict", thresholds=asked.bounds()).to_dict()["criteria"]
        for name, one in columns.items()
    }
    names = list(dict.fromkeys(entry["name"] for found in reports.values() for entry in found))
    lines = []
    for name in names:
        cells: list[Any] = [h("code", name)]
        for found in reports.values():
            entry = next(entry for entry in found if entry["name"] == name)
            value = number(entry["value"], 4).partition(" ±")[0]
            cells.append([badge(entry), h("div", value, class_="quiet small") if value else None])
        lines.append(cells)
    return table(["criterion", *columns], lines)


def _ruled_out(view: _View) -> list[Any]:
    reasons: dict[str, list[TrialRow]] = {}
    for row in view.rows:
        if row.status == "ruled_out":
            for entry in (row.criteria or {}).get("criteria", ()):
                if entry["required"] and not entry["passed"]:
                    reasons.setdefault(entry["name"], []).append(row)
    if not reasons:
        return []
    lines = [
        [
            h("code", name),
            {"text": len(rows), "class_": "number"},
            [h("code", _name(rows[0])), f", trial {rows[0].number}"],
        ]
        for name, rows in reasons.items()
    ]
    return [
        h("h3", "Ruled out before training"),
        table(["criterion", {"text": "trials", "class_": "number"}, "for example"], lines),
    ]


# ----------------------------------------------------------------------------- history, curves


def _history(view: _View) -> list[Any]:
    drawn = [row for row in view.rows if row.value is not None]
    if not drawn:
        return []
    figure = study_figures.history(view.stored, view.rows, percent=view.percent, title=view.title)
    parts = [
        figure_box(
            figure,
            "value of each trial in order",
            caption="One dot a trial: filled where it was trained to the end, open where it was "
            "pruned. Horizontal lines: ReLU (solid) and the references (dashed). Values far below "
            "are outside of the picture; double-click to see all.",
        )
    ]
    pareto = parameter_figures.objectives(view.stored, view.rows)
    if pareto is not None:
        parts.append(
            figure_box(pareto, "two objectives", caption="Ringed: no trial is better in both.")
        )
    return parts


def _curves(view: _View) -> list[Any]:
    accuracy, loss = study_figures.learning_curves(
        view.rows, view.best, percent=view.percent, title=view.title
    )
    boxes = [
        figure_box(accuracy, "value by epoch", height=360),
        figure_box(loss, "training loss by epoch", height=360),
    ]
    return [h("div", boxes, class_="pair")] if any(boxes) else []


def _dead(view: _View) -> list[Any]:
    boxes = [
        figure_box(
            study_figures.dead_over_time(view.rows, view.best), "dead units by epoch", height=340
        ),
        figure_box(
            study_figures.dead_by_layer(view.rows, view.best), "dead units by layer", height=340
        ),
    ]
    if not any(boxes):
        return []
    return [
        h(
            "p",
            "A unit is dead where its pre-activation is not above zero for any image that was "
            "looked at after the epoch.",
            class_="quiet",
        ),
        h("div", boxes, class_="pair"),
    ]


# --------------------------------------------------------------------------------- parameters


def _parameters(view: _View) -> list[Any]:
    by_family = figure_box(
        parameter_figures.by_family(view.stored, view.rows, percent=view.percent, title=view.title),
        "value by family",
        caption="One dot a trial that was trained to the end.",
        height=360,
    )
    if by_family is None:
        return []
    importance, notes = parameter_figures.importances(view.stored, view.rows)
    cells = [
        h("div", h("h3", h("code", name)), figure_box(figure, f"value along {name}", height=230))
        for name, figure in parameter_figures.slices(
            view.stored, view.rows, percent=view.percent, title=view.title
        )
    ]
    return [
        by_family,
        h("h3", "Importances"),
        figure_box(importance, "parameter importances")
        or h("p", "No importance can be computed from this study."),
        h(
            "p",
            "PED-ANOVA (Optuna's default), within each family: parameters of different families "
            "never meet in one trial. An adaptive sampler's crowding bears on these shares.",
            class_="quiet small",
        ),
        h("ul", [h("li", note) for note in notes], class_="quiet small"),
        [h("h3", f"{view.title.capitalize()} along each parameter"), h("div", cells, class_="grid")]
        if cells
        else None,
    ]


def _learned(view: _View) -> list[Any]:
    from pdsearch.insight import learned_criteria

    insight = learned_criteria(view.stored)
    if not insight.criteria:
        return []
    right = {"class_": "number"}
    rows = []
    for one in insight.criteria:
        found = one.correlation
        interval = found.interval if found is not None else None
        rows.append(
            [
                h("code", one.name),
                {"text": one.n, **right},
                {"text": f"{found.rho:+.2f}" if found is not None else "–", **right},
                {
                    "text": f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "–",
                    **right,
                },
                {"text": _p(one.p_adjusted), **right},
                one.sentence,
            ]
        )
    cells = [
        h(
            "div",
            h("h3", h("code", one.name)),
            figure_box(
                outcome_figures.insight_scatter(insight, one, percent=view.percent),
                f"accuracy against {one.name}",
                height=230,
            ),
        )
        for one in insight.criteria
        if one.correlation is not None
    ]
    heads = ["trials", "Spearman's ρ", "95 % (bootstrap)", "p adjusted"]
    return [
        h("p", h("strong", insight.headline)),
        table(
            ["criterion", *({"text": text, **right} for text in heads), "reading"],
            rows,
        ),
        [h("p", note, class_="quiet small") for note in insight.notes],
        h("div", cells, class_="grid") if cells else None,
    ]


# ------------------------------------------------------------------------------ trials, settings


def _trials(view: _View) -> list[Any]:
    if not view.rows:
        return []
    right = {"class_": "number"}
    best = view.best.number if view.best is not None else None
    rows, classes = [], []
    for row in view.rows:
        required = [e for e in (row.criteria or {}).get("criteria", ()) if e["required"]]
        held = sum(bool(entry["passed"]) for entry in required)
        reason = row.reason
        if row.duplicate_of is not None:
            reason = f"same g as trial {row.duplicate_of}" + (f"; {reason}" if reason else "")
        rows.append(
            [
                {"text": row.number, **right},
                sketch(row.candidate) if row.candidate is not None else None,
                h("code", _name(row)),
                row.kind,
                row.status.replace("_", " "),
                {"text": view.value(row.value), "data_key": _key(row.value), **right},
                {
                    "text": f"{held}/{len(required)}" if required else "–",
                    "data_key": _key(held / len(required) if required else None),
                    **right,
                },
                {"text": len(row.epochs), **right},
                {
                    "text": _duration(row.seconds) if row.seconds is not None else "–",
                    "data_key": _key(row.seconds),
                    **right,
                },
                h("span", reason, class_="small") if reason else None,
            ]
        )
        classes.append("best" if row.number == best else None)
    number_head = {"class_": "number"}
    return [
        h(
            "p",
            h(
                "input",
                type="search",
                placeholder="show rows with …",
                aria_label="filter the trials",
                data_filter="all-trials",
            ),
            class_="filter",
        ),
        table(
            [
                {"text": "#", "data_first": "ascending", **number_head},
                "",
                {"text": "candidate", "data_first": "ascending"},
                {"text": "kind", "data_first": "ascending"},
                {"text": "status", "data_first": "ascending"},
                {"text": "value", **number_head},
                {"text": "criteria", **number_head},
                {"text": "epochs", **number_head},
                {"text": "time", **number_head},
                {"text": "note", "data_first": "ascending"},
            ],
            rows,
            id="all-trials",
            sortable=True,
            classes=classes,
        ),
    ]


def _key(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _settings(view: _View) -> list[Any]:
    stored = view.stored
    document_ = stored.settings.model_dump(mode="json")
    parts: list[Any] = []
    for section, values in document_.items():
        if isinstance(values, Mapping):
            parts.append(h("h3", f"[{section}]"))
            parts.append(
                _pairs({k: v for k, v in values.items() if (section, k) != ("study", "storage")})
            )
    attributes = stored.study.user_attrs
    parts.append(h("h3", "Where it ran"))
    parts.append(
        _pairs(
            {
                "storage": stored.storage,
                "device": attributes.get("pdsearch:device"),
                **dict(attributes.get("pdsearch:versions") or {}),
            }
        )
    )
    name = _quoted(stored.name)
    parts += [
        h("h3", "To reproduce"),
        h(
            "pre",
            "pdsearch search STUDY.toml      # with the settings above; the same command resumes\n"
            f"pdsearch report {name} -o report.html\n"
            f"pdsearch confirm {name}\n"
            f"pdsearch export {name} -o pd_relu.py",
        ),
    ]
    return [parts]


def _pairs(values: Mapping[str, Any]) -> Markup:
    entries = []
    for key, value in values.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        entries += [h("dt", key), h("dd", h("code", "–" if value is None else shown))]
    return h("dl", entries, class_="settings")


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)
