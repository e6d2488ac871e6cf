"""How families and candidates show themselves: as figures, and in a notebook."""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pdsearch.errors import InputError
from pdsearch.expression.mathml import equation
from pdsearch.family.figures import HIGH, LOW, family_figure, shapes_figure
from pdsearch.family.shapes import picture
from pdsearch.text import html_table, interval, number, printable

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from pdsearch.family.definition import Candidate, Family
    from pdsearch.family.grouped import Grouped
    from pdsearch.family.ranges import Range


class ShownFamily:
    """What a notebook calls on a family."""

    def plot(self, *, low: float = LOW, high: float = HIGH) -> "go.Figure":
        """Draw it as `pdsearch.plot` does."""
        _check_ends(low, high)
        return family_figure(cast("Family", self), low=low, high=high)

    def _repr_latex_(self) -> str:
        return _latex(cast("Family", self).latex)

    def _repr_html_(self) -> str:
        family = cast("Family", self)
        rows = []
        for name, one in family.space.items():
            ranged = cast("Range", one)
            scale = ", logarithmic" if ranged.log else ""
            default = number(family.defaults[name])
            rows.append([name, interval((ranged.low, ranged.high)) + scale, default])
        table = html_table(["parameter", "range", "default"], rows) if rows else ""
        note = f"<small>{html.escape(printable(family.reference))}</small>"
        return _shown(family.name, family.default, equation(family.expression), table, note)


class ShownCandidate:
    """What a notebook calls on a candidate."""

    def plot(self, *, low: float = LOW, high: float = HIGH) -> "go.Figure":
        """Draw it as `pdsearch.plot` does."""
        _check_ends(low, high)
        return shapes_figure([cast("Candidate", self)], low=low, high=high)

    def _repr_latex_(self) -> str:
        return _latex(cast("Candidate", self).latex)

    def _repr_html_(self) -> str:
        candidate = cast("Candidate", self)
        return _shown(candidate.name, candidate, equation(candidate.expression))


class ShownGrouped:
    """What a notebook calls on a candidate for each group of layers."""

    def plot(self, *, low: float = LOW, high: float = HIGH) -> "go.Figure":
        """Draw the shape of each group, as `pdsearch.plot` does."""
        _check_ends(low, high)
        parts = cast("Grouped", self).parts
        labels = [f"{group}: {part.name}" for group, part in parts.items()]
        return shapes_figure(list(parts.values()), labels=labels, low=low, high=high)

    def _repr_html_(self) -> str:
        grouped = cast("Grouped", self)
        return "".join(
            _shown(
                f"{group} ({', '.join(grouped.layers[group])}): {part.name}",
                part,
                equation(part.expression),
            )
            for group, part in grouped.parts.items()
        )


def plot(
    target: "Candidate | Grouped | Family | Sequence[Candidate]",
    *,
    low: float = LOW,
    high: float = HIGH,
) -> "go.Figure":
    """Draw the shape of a pseudo-derivative next to the step, ReLU's own derivative.

    Args:
        target: A candidate; several candidates, drawn together; a candidate for each group of
            layers, likewise; or a family, drawn as a fan of curves over the range of each of its
            parameters, one parameter at a time.
        low: Left end of the x axis.
        high: Right end of the x axis.

    Returns:
        A plotly figure with `.show()` and `.write_html(path)`.

    Raises:
        InputError: The target is none of these, or low ≥ high.
    """
    _check_ends(low, high)
    if isinstance(target, ShownFamily | ShownGrouped):
        return target.plot(low=low, high=high)
    several: list[Any] = list(target) if isinstance(target, list | tuple) else [target]
    if several and all(isinstance(one, ShownCandidate) for one in several):
        return shapes_figure(several, low=low, high=high)
    raise InputError(
        f"plot needs a Candidate, several of them, or a Family, got {type(target).__name__}"
    )


def _check_ends(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"low must be below high, got low = {low}, high = {high}")


def _latex(formula: str) -> str:
    return rf"$\displaystyle g(x) = {formula}$"


def _shown(name: str, drawn: "Candidate", *more: str) -> str:
    """Return a name, a small picture of g next to the step, and further HTML below."""
    title = f"<p><b>{html.escape(printable(name))}</b></p>"
    return f'<div style="display:inline-block">{title}{picture(drawn)}{"".join(more)}</div>'
