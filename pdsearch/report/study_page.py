"""A study as one HTML file."""

from typing import TYPE_CHECKING, Any

from pdsearch.confirm import Confirmation
from pdsearch.report import outcome_figures
from pdsearch.report.confirm_curves import row_curves
from pdsearch.report.inside import EXPLAINED, by_layer
from pdsearch.report.markup import Markup, h
from pdsearch.report.page import document, facts, figure_box, table
from pdsearch.report.study_sections import (
    criteria,
    curves,
    dead,
    history,
    inside,
    learned,
    parameters,
    rates,
    shapes,
)
from pdsearch.report.study_tables import settings as settings_section
from pdsearch.report.study_tables import trials
from pdsearch.report.view import View, duration, name, p_value
from pdsearch.study.rows import counts_of
from pdsearch.trial import length_of

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy

__all__ = ["study_report"]

DECIDE = 20
"""Candidates that a report decides itself: about a second. `search` and `criteria` leave none."""


def study_report(stored: "StoredStudy", *, decide: int | None = DECIDE) -> str:
    """A study as one HTML file: headline, shapes, criteria, history, parameters, all trials.

    Args:
        stored: the study, finished or not.
        decide: at most so many candidates whose criteria's values are not kept with the study yet
            are decided for the learned criteria; None: all.

    Returns:
        HTML text that loads nothing from anywhere.
    """
    view = View(stored, tuple(stored.trials()))
    settings = stored.settings.trial
    trained = (
        "trained by a Python function"
        if view.by_function
        else f"{settings.model} on {settings.dataset}, a trial is "
        f"{length_of(settings.model_dump(mode='json'))}"
        if view.stream
        else f"{settings.model} on {settings.dataset}, {settings.epochs} epochs a trial"
    )
    return document(
        f"{stored.name}: pseudo-derivative search",
        head=[
            h(
                "p",
                f"{trained}, {stored.settings.study.sampler} sampler",
                class_="quiet",
            ),
            headline(view),
            numbers(view),
        ],
        sections=[
            ("confirmation", "Confirmation", confirmation(view)),
            ("shapes", "Shapes", shapes(view)),
            ("criteria", "Criteria", criteria(view)),
            ("history", "History", history(view)),
            ("rates", "By learning rate", rates(view)),
            ("curves", "Learning curves", curves(view)),
            ("dead", "Dead units", dead(view)),
            ("inside", "Gradients", inside(view)),
            ("parameters", "Parameters", parameters(view)),
            ("learned", "Learned criteria", learned(view, decide=decide)),
            ("trials", "All trials", trials(view)),
            ("settings", "Settings", settings_section(view)),
        ],
    )


def _what_counts(found: "Confirmation") -> str:
    if found.stream is not None:
        return found.protocol
    return f"Test accuracy, {found.model} on {found.dataset}, {found.epochs} epochs"


def headline(view: View) -> Markup:
    found = view.confirmation
    if found is not None:
        return h(
            "div",
            h("p", found.headline, class_="big"),
            h(
                "p",
                f"{_what_counts(found)}; paired "
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
    figure = f"{name(best)}: {view.value(best.value)} {view.title}"
    if baseline is not None and baseline.status == "diverged":
        figure += ", ReLU diverged"
    elif baseline is not None and baseline.status == "complete" and baseline.value is not None:
        figure += (
            f", ReLU {view.value(baseline.value)} ({view.difference(best.value - baseline.value)})"
        )
    # Those stopped on the way were picked from as well.
    begun = {r.candidate for r in view.rows if r.kind == "candidate" and r.value is not None}
    picked = len(begun)
    caution = (
        f"One seed, and the best of {picked} trained shapes picked by this very figure, so it "
        "flatters the pick: this is no significant evidence of a difference. "
    )
    if view.by_function:
        advice: list[Any] = ["To get some, call the training function over several seeds for both."]
    else:
        advice = [
            "To get some, on the test set and over fresh paired seeds: ",
            h("code", view.command("confirm")),
        ]
    return h("div", h("p", figure, class_="big"), h("p", caution, advice), class_="headline")


def numbers(view: View) -> Markup:
    counts = counts_of(view.rows)
    entries: dict[str, Any] = {}
    if view.best is not None:
        entries["best, validation"] = [
            view.value(view.best.value),
            h("small", f"trial {view.best.number}"),
        ]
    if view.baseline is not None:
        whole = view.baseline.status == "complete"
        entries["ReLU, validation"] = (
            view.value(view.baseline.value) if whole else view.baseline.status
        )
    entries["trials"] = [
        # The total may have been lowered since.
        f"{counts['total']} of {max(counts['total'], view.stored.settings.study.trials)}",
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
    entries["training time"] = duration(seconds)
    return facts(entries)


def confirmation(view: View) -> list[Any]:
    if view.confirmation is None:
        return []
    parts = _confirmed(view.confirmation)
    for other in view.confirmation.transfers:
        parts += [h("h3", f"Transfer: {other.model} on {other.dataset}"), *_confirmed(other)]
    return parts


def _confirmed(found: Confirmation) -> list[Any]:
    right = {"class_": "number"}
    # Few seeds have no bootstrap interval; a column of dashes would push the last one out of sight.
    bootstrapped = any(row.ci95_bootstrap is not None for row in found.rows)
    rows, classes = [], []
    for row in found.rows:
        rows.append(
            [
                {
                    "text": [
                        h("code", row.name),
                        h("div", row.kind.replace("_", " "), class_="quiet small"),
                    ],
                    "class_": "candidate",
                },
                {"text": row.seeds, **right},
                {
                    "text": f"{100 * row.mean:.2f}"
                    + (f" ± {100 * row.std:.2f}" if row.std is not None else ""),
                    **right,
                },
                {"text": _points(row.difference) if row.kind != "baseline" else "–", **right},
                {"text": _interval(row.ci95), **right},
                *([{"text": _interval(row.ci95_bootstrap), **right}] if bootstrapped else []),
                {"text": p_value(row.p_value), **right},
                {"text": p_value(row.p_adjusted) + (" *" if row.significant else ""), **right},
                {"text": row.seeds_needed if row.seeds_needed is not None else "–", **right},
            ]
        )
        better = (row.difference or 0.0) > 0
        classes.append(("better" if better else "worse") if row.significant else None)
    value = "test accuracy, %" if found.stream is None else "accuracy, %"
    heads = ["", "seeds", value, "− ReLU, points", "95 % (paired t)",
             *(["95 % (bootstrap)"] if bootstrapped else []),
             "p", "p adjusted", "seeds needed"]  # fmt: skip
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
            "0.05, green for a row above ReLU and red for one below it. Seeds needed: for 80 % "
            f"power at the effect seen. Device: {found.device or 'not recorded'}.",
            class_="quiet small",
        ),
        [h("p", note, class_="small") for note in found.notes],
        *_curves(found),
    ]


def _curves(found: Confirmation) -> list[Any]:
    """The rows by epoch or task, and the layers of the first pick."""
    unit = "epoch" if found.stream is None else "task"
    boxes = [figure_box(one, title, height=470) for title, one in row_curves(found).items()]
    if not boxes:
        return []
    note = (
        f"Each row by {unit}: the mean over its seeds, and one standard deviation to either "
        f"side. Of a run that diverged, the {unit}s before that."
    )
    looked = any(
        entry.get("diagnostics") for row in found.rows for run in row.runs for entry in run
    )
    if looked:
        note += f" {EXPLAINED.format(unit=unit)}"
    pick = found.pick
    layers = by_layer(pick.runs, unit=unit) if pick is not None else {}
    if pick is not None and layers:
        boxes.append(h("h3", "Layers of ", h("code", pick.name)))
        boxes += [figure_box(one, title, height=400) for title, one in layers.items()]
    return [h("p", note, class_="quiet"), *boxes]


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
