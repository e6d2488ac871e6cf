"""The points of a pseudo-derivative's curve. Needs no torch."""

import functools
import itertools
import math
from typing import TYPE_CHECKING

import sympy

from pdsearch.enclosure import Program, cut
from pdsearch.expression import exact, symbol, t, x

if TYPE_CHECKING:
    from pdsearch.family.definition import Candidate

PRECISION = 53
"""Working precision in bits, that of a double."""


@functools.lru_cache(maxsize=4_096)
def _program(expression: sympy.Expr, parameters: tuple[str, ...] = ()) -> Program:
    return Program(expression, (x, *map(symbol, parameters)))


def _at(candidate: "Candidate", progress: float) -> sympy.Expr:
    return candidate.expression.xreplace({t: exact(progress)})


def evaluate(candidate: "Candidate", point: float, *, progress: float = 0.0) -> float:
    """Return g at a point; nan where it cannot be decided, as at an irrational breakpoint."""
    return _value(_program(_at(candidate, progress)), point)


def _value(program: Program, *point: float) -> float:
    value = float(program.at(point, precision=PRECISION).mid())
    return value if math.isfinite(value) else math.nan


@functools.lru_cache(maxsize=4_096)
def _breakpoints(expression: sympy.Expr) -> tuple[float, ...]:
    ends = [piece.lo for piece in cut(expression)]
    return tuple(sorted({float(end) for end in ends if end.is_finite}))


def breakpoints(candidate: "Candidate", *, progress: float = 0.0) -> tuple[float, ...]:
    """Return the points where g may bend or jump, always including 0."""
    return _breakpoints(_at(candidate, progress))


def curve(
    candidate: "Candidate",
    low: float = -6.0,
    high: float = 4.0,
    *,
    count: int = 241,
    progress: float = 0.0,
) -> tuple[list[float], list[float]]:
    """Return points (x, g(x)) to join by lines at training progress t.

    They are a grid of `count` points, and both sides of each breakpoint.
    """
    aside = 1e-9 * (high - low)
    places = {low + (high - low) * i / (count - 1) for i in range(count)}
    for place in breakpoints(candidate, progress=progress):
        if low < place < high:
            places |= {place - aside, place + aside}
    xs = sorted(places)
    program = _program(_at(candidate, progress))
    return xs, [_value(program, place) for place in xs]


def step(low: float = -6.0, high: float = 4.0) -> tuple[list[float], list[float]]:
    """Return ReLU's own derivative."""
    return [low, 0.0, 0.0, high], [0.0, 0.0, 1.0, 1.0]


def span(values: list[float]) -> tuple[float, float]:
    """Return a range for g's axis that shows the step and the curves, within [−2, 3]."""
    finite = [value for value in itertools.chain(values, (0.0, 1.0)) if math.isfinite(value)]
    low, high = max(min(finite), -2.0), min(max(finite), 3.0)
    margin = 0.06 * (high - low)
    return low - margin, high + margin


WIDTH, HEIGHT = 84, 30
_LOW, _HIGH, _BOTTOM, _TOP = -5.0, 3.0, -0.35, 1.35


def _across(x: float) -> float:
    return (x - _LOW) / (_HIGH - _LOW) * WIDTH


def _down(g: float) -> float:
    return (_TOP - min(max(g, _BOTTOM), _TOP)) / (_TOP - _BOTTOM) * HEIGHT


def sketch(candidate: "Candidate") -> str:
    """Return the SVG path of g in a picture of 84 by 30 pixels, with as few points as it needs.

    It shows x from −5 to 3 and clips g to [−0.35, 1.35]. A page has a thousand sketches, so the
    family's formula is compiled once and evaluated at the candidate's parameters.
    """
    family = candidate.family
    program = _program(family.expression.xreplace({t: exact(0.0)}), family.parameters)
    values = [float(candidate.parameters[name]) for name in family.parameters]

    def point(across: float) -> tuple[float, float]:
        return across, _down(_value(program, _LOW + (_HIGH - _LOW) * across / WIDTH, *values))

    def between(left: tuple[float, float], right: tuple[float, float]) -> list[tuple[float, float]]:
        if right[0] - left[0] < 0.5:
            return []
        middle = point((left[0] + right[0]) / 2)
        if not abs(middle[1] - (left[1] + right[1]) / 2) > 0.2:  # straight, or nan
            return []
        return [*between(left, middle), middle, *between(middle, right)]

    # Zero is included, because a jump there could look like a slope whose midpoint fits by chance.
    coarse = [point(across) for across in sorted({*range(0, WIDTH + 1, 7), _across(0.0)})]
    found = coarse[:1]
    for left, right in itertools.pairwise(coarse):
        found += [*between(left, right), right]
    return _path([one for one in found if not math.isnan(one[1])])


def _path(points: list[tuple[float, float]]) -> str:
    """Return the points joined by lines, without points on the line between their neighbours."""
    kept: list[tuple[float, float]] = []
    for place in points:
        while len(kept) > 1 and _straight(kept[-2], kept[-1], place):
            kept.pop()
        kept.append(place)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in kept) if kept else ""


def _straight(
    first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]
) -> bool:
    share = (second[0] - first[0]) / (third[0] - first[0])
    return abs(first[1] + share * (third[1] - first[1]) - second[1]) < 0.05


STEP = _path([(_across(x), _down(g)) for x, g in zip(*step(_LOW, _HIGH), strict=True)])
"""The step in the same picture."""


_FURTHER = ("#e67828", "#3a9a5b", "#9669c8")
"""The colours of the second g in a picture, and of those after it in turn."""


def picture(*candidates: "Candidate", colours: tuple[str, str] = ("#2f7ed8", "#7d8590")) -> str:
    """Return an SVG of g next to the dotted step, for x from −5 to 3; it needs no script.

    Args:
        *candidates: One, or several in one picture, each taken at t = 0.
        colours: Of the first g, and of the step and the axes.
    """
    curves = [curve(candidate, _LOW, _HIGH, count=161) for candidate in candidates]
    bottom, top = span([y for _, ys in curves for y in ys])

    def path(across: list[float], up: list[float], look: str) -> str:
        points = zip(across, up, strict=True)
        drawn = [(_across(x), (top - g) / (top - bottom) * HEIGHT) for x, g in points if g == g]
        line = "L".join(f"{x:.2f} {y:.2f}" for x, y in drawn)
        return f'<path d="M{line}" fill="none" {look}/>'

    grey = f'stroke="{colours[1]}"'
    lines = (
        path([_LOW, _HIGH], [0.0, 0.0], f'{grey} stroke-width="0.2"'),
        path([0.0, 0.0], [bottom, top], f'{grey} stroke-width="0.2"'),
        path(*step(_LOW, _HIGH), f'{grey} stroke-width="0.6" stroke-dasharray="1.5 1"'),
        *(
            path(xs, ys, f'stroke="{tone}" stroke-width="0.9" stroke-linejoin="round"')
            for (xs, ys), tone in zip(curves, itertools.cycle((colours[0], *_FURTHER)))
        ),
    )
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{3 * WIDTH}" height="{3 * HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(lines)}</svg>'
