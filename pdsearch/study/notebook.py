"""How a study shows itself in a notebook: its ranking, and the shapes of its best candidates."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pdsearch.errors import InputError
from pdsearch.family import Candidate, Grouped
from pdsearch.family.figures import shapes_figure
from pdsearch.study.rows import TrialRow, baseline_of, counts_of, ranked, references_of
from pdsearch.text import html_table, number, printable

if TYPE_CHECKING:
    import plotly.graph_objects as go

TABLE, DRAWN = 10, 3
"""Candidates in the table and in the figure."""


def ranking_html(name: str, rows: Sequence[TrialRow], *, minimize: bool) -> str:
    """Return the counts, the best candidates, and ReLU and the references to compare with."""
    counts = counts_of(rows)
    listed = [(str(place), row) for place, row in enumerate(ranked(rows, minimize=minimize), 1)]
    listed = listed[:TABLE]
    compared = [baseline_of(rows), *references_of(rows).values()]
    listed += [(row.kind, row) for row in compared if row is not None and row.status == "complete"]
    cells = [
        [
            place,
            number(row.value),
            "" if row.candidate is None else row.candidate.name,
            "" if row.candidate is None else row.candidate.formula,
            row.number,
        ]
        for place, row in listed
    ]
    shown = ", ".join(f"{counts[key]} {key}" for key in ("complete", "pruned", "failed"))
    title = f"{name}: {counts['total']} trials ({shown}, {counts['ruled_out']} ruled out)"
    head = ["rank", "value", "candidate", "g(x)", "trial"]
    return f"<div><p><b>{html.escape(printable(title))}</b></p>{html_table(head, cells)}</div>"


def best_figure(rows: Sequence[TrialRow], *, minimize: bool) -> "go.Figure":
    """Draw the best candidates, and the references dashed; with groups, the shapes of the best one.

    Raises:
        InputError: No candidate is complete.
    """
    best = [row.candidate for row in ranked(rows, minimize=minimize) if row.candidate is not None]
    if not best:
        raise InputError("the study has no complete candidate yet: there is nothing to plot")
    compared = [row.candidate for row in references_of(rows).values()]
    dashed = [one for one in compared if isinstance(one, Candidate)]
    if isinstance(best[0], Grouped):
        parts = best[0].parts
        labels = [f"{group}: {part.name}" for group, part in parts.items()]
        return shapes_figure(list(parts.values()), labels=labels, dashed=dashed)
    single = [one for one in best[:DRAWN] if isinstance(one, Candidate)]
    return shapes_figure(single, dashed=dashed)
