"""The sections of a study's page that show figures."""

from typing import TYPE_CHECKING, Any

from pdsearch.confirm import read_runs
from pdsearch.criteria import CRITERIA, PROFILES, check, gate
from pdsearch.report import outcome_figures, parameter_figures, study_figures
from pdsearch.report.criteria_page import about
from pdsearch.report.figures import criteria_figure, shapes_figure
from pdsearch.report.inside import EXPLAINED, INSIDE, by_layer
from pdsearch.report.markup import Markup, h
from pdsearch.report.page import badge, criteria_table, figure_box, table
from pdsearch.report.rates import by_learning_rate, rate_curves
from pdsearch.report.terminal import number
from pdsearch.report.view import View, name, p_value

if TYPE_CHECKING:
    from pdsearch.study import TrialRow

__all__ = [
    "criteria",
    "curves",
    "dead",
    "history",
    "inside",
    "learned",
    "parameters",
    "rates",
    "shapes",
]

SHOWN = 4
"""The best candidates of different shape that are drawn and whose criteria are decided."""


def shapes(view: View) -> list[Any]:
    """The best candidates and the references beside the step, and the formula of the best."""
    top = [row for row in view.ranked[:SHOWN] if row.candidate is not None]
    candidates = [row.candidate for row in top if row.candidate is not None]
    others = [row.candidate for row in view.references if row.candidate is not None]
    if not candidates and not others:
        return []
    labels = [f"{name(row)}, {view.value(row.value)}" for row in top]
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


def criteria(view: View) -> list[Any]:
    """Every criterion of the best, the certified ones of the others, what ruled trials out."""
    settled = [_whole_families(view), _own_texts(view)]
    if view.best is None or view.best.candidate is None:
        return [part for part in (_ruled_out(view), *settled) if part]
    candidate = view.best.candidate
    asked = view.stored.settings.criteria
    report = check(candidate, profile=asked.profile, thresholds=asked.bounds())
    entries = report.to_dict()["criteria"]
    # A study's own criteria are known from its trials alone.
    entries += _own_entries(view.best)
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
        settled,
    ]


def _own_entries(row: "TrialRow") -> list[dict[str, Any]]:
    """What the gate found of criteria that are not ours; nothing where none was asked."""
    found: list[dict[str, Any]] = (row.criteria or {}).get("criteria", [])
    return [entry for entry in found if entry["name"] not in CRITERIA]


def _whole_families(view: View) -> list[Any]:
    """What was decided for whole families before any candidate was drawn."""
    gates = view.stored.gates
    if not gates:
        return []
    required = [
        name for name in CRITERIA if name in PROFILES[view.stored.settings.criteria.profile]
    ]
    own = [spec.rpartition(":")[2] for spec in view.stored.own_criteria]
    lines = []
    for family, found in gates.items():
        left = [name for name in required if name not in found.proved] + own
        space = view.stored.families[family].to_dict()["space"]
        drawn = [
            [
                h("code", parameter),
                f" in [{number(low)}, {number(high)}] of "
                f"[{number(space[parameter]['low'])}, {number(space[parameter]['high'])}]",
            ]
            for parameter, (low, high) in found.ranges.items()
        ]
        lines.append(
            [
                h("code", family, class_="name"),
                ", ".join(found.proved) or "–",
                ", ".join(left) or "–",
                found.hopeless or [h("div", one) for one in drawn] or "all",
            ]
        )
    return [
        h("h3", "For whole families"),
        h(
            "p",
            "Decided once, when the study was begun: what is proved for every parameter was not "
            "asked of single candidates, and outside of the ranges drawn from each candidate fails "
            "a required criterion.",
            class_="quiet",
        ),
        table(["family", "proved for all of it", "asked of each candidate", "drawn from"], lines),
    ]


def _own_texts(view: View) -> list[Any]:
    """The files of the study's own criteria."""
    return [
        h(
            "details",
            h("summary", "The criterion ", h("code", spec), ", as it was when the study was begun"),
            h("pre", text),
        )
        for spec, text in view.stored.own_criteria.items()
    ]


def _matrix(view: View) -> Markup:
    rows = [
        *view.ranked[: SHOWN - 1],
        *([view.baseline] if view.baseline else []),
        *view.references,
    ]
    asked = view.stored.settings.criteria
    reports = {}
    for row in rows:
        if row.candidate is not None:
            certified = gate(row.candidate, profile="strict", thresholds=asked.bounds()).to_dict()
            title = "ReLU" if row.kind == "baseline" else name(row)
            reports[title] = [*certified["criteria"], *_own_entries(row)]
    names = list(dict.fromkeys(entry["name"] for found in reports.values() for entry in found))
    lines = []
    for criterion in names:
        cells: list[Any] = [h("code", criterion, class_="name")]
        for found in reports.values():
            entry = next((entry for entry in found if entry["name"] == criterion), None)
            if entry is None:  # one of the study's own, which asks candidates alone
                cells.append("–")
                continue
            value = number(entry["value"], 4, error=False)
            cells.append([badge(entry), h("div", value, class_="quiet small") if value else None])
        lines.append(cells)
    return table(["criterion", *({"text": one, "class_": "tall"} for one in reports)], lines)


def _ruled_out(view: View) -> list[Any]:
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
            h("code", criterion, class_="name"),
            {"text": len(rows), "class_": "number"},
            [h("code", name(rows[0])), f", trial {rows[0].number}"],
        ]
        for criterion, rows in reasons.items()
    ]
    return [
        h("h3", "Ruled out before training"),
        table(["criterion", {"text": "trials", "class_": "number"}, "for example"], lines),
    ]


def history(view: View) -> list[Any]:
    """The trials in their order, and two objectives against each other."""
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


def rates(view: View) -> list[Any]:
    """Accuracy by learning rate, where the study has a grid of them."""
    if not view.rates:
        return []
    curves = rate_curves(view.stored, view.rows, list(read_runs(view.stored).values()))
    best = None if view.best is None else name(view.best)
    figure = figure_box(
        by_learning_rate(curves, best=best, rates=view.rates, title=view.measured),
        "accuracy by learning rate",
        caption=f"{_length(view)} at each rate, one seed. Where "
        "one diverged, or was not tried for it was pruned, there is no dot. A shape that lets more "
        "gradient through acts in part like a larger rate: compare the peaks.",
    )
    return [figure] if figure else []


def _length(view: View) -> str:
    settings = view.stored.settings.trial
    return f"After {settings.epochs} epochs" if not view.stream else "One stream of tasks"


def curves(view: View) -> list[Any]:
    """Value and loss by epoch."""
    accuracy, loss = study_figures.learning_curves(
        view.runs,
        view.best_run,
        percent=view.percent,
        title="accuracy within the task" if view.stream else view.measured,
        unit=view.unit,
    )
    boxes = [
        figure_box(accuracy, f"value by {view.unit}", height=360),
        figure_box(loss, f"training loss by {view.unit}", height=360),
    ]
    if view.stream:
        after, norms = study_figures.after_each_task(view.runs, view.best_run)
        boxes += [
            figure_box(after, "accuracy after each task", height=360),
            figure_box(norms, "weight norm by task", height=360),
        ]
    if not any(boxes):
        return []
    note = "Each trial's run at the learning rate it was best at." if view.rates else None
    return [h("p", note, class_="quiet") if note else None, h("div", boxes, class_="pair")]


def dead(view: View) -> list[Any]:
    """Dead units by epoch and by layer."""
    boxes = [
        figure_box(
            study_figures.dead_over_time(view.runs, view.best_run, unit=view.unit),
            f"dead units by {view.unit}",
            height=340,
        ),
        figure_box(
            study_figures.dead_by_layer(view.runs, view.best_run, unit=view.unit),
            "dead units by layer",
            height=340,
        ),
    ]
    if not any(boxes):
        return []
    return [
        h(
            "p",
            "A unit is dead where its pre-activation is not above zero for any image that was "
            f"looked at after the {view.unit}.",
            class_="quiet",
        ),
        h("div", boxes, class_="pair"),
    ]


def inside(view: View) -> list[Any]:
    """What diagnostics saw, by epoch, and by layer of the best trial."""
    best = view.best_run
    boxes = [
        figure_box(
            study_figures.by_epoch(
                view.runs, best, read, title=title, percent=percent, unit=view.unit
            ),
            f"{title} by {view.unit}",
            height=340,
        )
        for title, (read, percent) in INSIDE.items()
    ]
    if not any(boxes):
        return []
    found = [
        h("p", EXPLAINED.format(unit=view.unit), class_="quiet"),
        h("div", boxes, class_="pair"),
    ]
    layers = by_layer([best.epochs], unit=view.unit) if best is not None else {}
    if layers:
        cells = [figure_box(one, title, height=340) for title, one in layers.items()]
        found += [h("h3", "Layers of the best trial"), h("div", cells, class_="pair")]
    return found


def parameters(view: View) -> list[Any]:
    """Value by family and along each parameter, importances."""
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


def learned(view: View, *, decide: int | None) -> list[Any]:
    """What the trials say about the criteria; `decide` as for `study_report`."""
    from pdsearch.insight import learned_criteria

    insight = learned_criteria(view.stored, rows=view.rows, decide=decide)
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
                {"text": p_value(one.p_adjusted), **right},
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
