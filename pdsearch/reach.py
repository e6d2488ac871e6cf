"""How far out the text of a formula is taken as it is, and whether it is finite where g is.

Found out by evaluating the text at every size of x that float64 has, at the corners of the
parameters' ranges. Where it gives no finite number, ball arithmetic says whether the function has
one there, and whether it has reached its limit: then the last good point stands for all beyond it.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import sympy

from pdsearch.enclosure import Program
from pdsearch.errors import shortened
from pdsearch.expression import exact, format_formula, symbol, t, x

if TYPE_CHECKING:
    import torch

__all__ = ["FAR", "Exact", "Reach", "corners", "find_reach", "trouble_at"]

FAR = 1e30
"""From here on only powers of x still change, exponentials have long since saturated: what is not
finite beyond it, and was before it, is a power that float64 cannot hold."""

PROGRESS = 0.25  # t at which annealed formulas are looked at
SETTLED = 1e-12  # relative to max(1, |g|): how near a value is to stand for the limit
LARGEST = 1e290  # with room for factors that are multiplied in another order
UNDERFLOWS = 1e6
"""Size of x to which an exponential may come to zero."""

LEAST = 1e-12  # what a text may lose: the size of terms that cancel, but not of a root

Function = Callable[..., Any]


class Reach:
    """Of one order's text: from where to where x is taken as it is, and what is wrong.

    Attributes:
        low: smaller x count as this one.
        high: larger x count as this one.
        trouble: why this text cannot be used; empty where it can.
    """

    def __init__(self) -> None:
        largest = 1.7976931348623157e308
        self.low, self.high, self.trouble = -largest, largest, ""


def corners(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, ...]]:
    """The corners of a box; of one with many sides, those next to its two extremes."""
    if len(ranges) <= 6:
        return list(itertools.product(*ranges))
    found = []
    for near, away in ((0, 1), (1, 0)):
        base = [r[near] for r in ranges]
        found.append(tuple(base))
        found += [(*base[:i], r[away], *base[i + 1 :]) for i, r in enumerate(ranges)]
    return found


def find_reach(
    function: Function, expression: sympy.Expr, ranges: Mapping[str, tuple[float, float]]
) -> Reach:
    """How far out a text is taken as it is.

    Args:
        function: the text, compiled: of x, t and the parameters.
        expression: what it stands for.
        ranges: of the parameters, in their order.
    """
    import torch

    found = Reach()
    rooted = any(_is_root(power) for power in expression.atoms(sympy.Pow))
    sizes = _sizes()
    points = torch.cat([sizes, -sizes])
    with torch.no_grad():
        for values in corners(list(ranges.values())):
            got = function(points, PROGRESS, *values)
            if bool(torch.isfinite(got).all()) and not (rooted and bool((got == 0).any())):
                continue
            real = Exact(expression, dict(zip(ranges, values, strict=True)))
            for sign, part in ((1.0, got[: len(sizes)]), (-1.0, got[len(sizes) :])):
                side = _Side(function, values, real, sign, sizes, part)
                side.look(found)
                if rooted and not found.trouble:
                    found.trouble = side.lost()
    return found


def _is_root(power: sympy.Basic) -> bool:
    """Whether it is far from zero where its base underflows."""
    base, p = power.args
    return bool(base.has(x)) and not (p.is_integer or (p.is_number and abs(p) >= 1))


def _sizes() -> "torch.Tensor":
    """Sizes of x: four a decade, and 557 from FAR on."""
    import torch

    near = torch.logspace(-3, math.log10(FAR), 133, dtype=torch.float64, device="cpu")[:-1]
    far = torch.logspace(math.log10(FAR), 308, 557, dtype=torch.float64, device="cpu")
    last = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64, device="cpu")
    return torch.cat([near, far, last])


@dataclass(frozen=True, eq=False)
class _Side:
    """A text on one side of zero, at one corner of the parameters' ranges.

    Attributes:
        function: the text, compiled.
        values: the parameters.
        real: the function itself.
        sign: of x.
        sizes: of x, ascending.
        got: what the text comes to at them.
    """

    function: Function
    values: tuple[float, ...]
    real: "Exact"
    sign: float
    sizes: "torch.Tensor"
    got: "torch.Tensor"

    def look(self, found: Reach) -> None:
        """Move one end of the reach to before what is not finite, or say why that will not do."""
        import torch

        finite = torch.isfinite(self.got)
        if bool(finite.all()):
            return
        first = int(finite.long().argmin())
        size = self.sizes[first].item()
        missing = torch.isnan(self.got)
        if size < FAR:
            wanted = self.real.value(self.sign * size)
            if wanted is not None and abs(wanted) > LARGEST:
                # It grows beyond float64 there: what follows is its largest number.
                if bool(missing.any()):
                    self.shorten(found, self.sizes[int(missing.long().argmax()) - 1].item())
                return
            if wanted is None and not bool(missing.any()):
                return
        else:
            if bool(missing.any()) and first > 0:
                # A tenth is left for what lies between the corners.
                self.shorten(found, max(FAR, 0.1 * self.sizes[first - 1].item()))
            return
        before = 0.0 if first == 0 else self.sizes[first - 1].item()
        good, _ = self.border(before, size, good=torch.isfinite)
        limit = self.at(good).item()
        allowed = SETTLED * max(1.0, abs(limit))
        # Also where balls cannot tell the values further out, these must have settled.
        ahead = [0.5 * good, *(self.sizes[i].item() for i in range(first, len(self.sizes), 40))]
        for index, further in enumerate(ahead):
            beyond = self.real.value(self.sign * further)
            if (beyond is None and index == 0) or (
                beyond is not None and not abs(beyond - limit) <= allowed
            ):
                found.trouble = self.real.trouble(self.sign * size)
                return
        self.shorten(found, good)

    def lost(self) -> str:
        """What is wrong where the text has come to zero, and the function has not."""
        nothing = self.got == 0
        first = int(nothing.long().argmax())
        if not bool(nothing[first]) or first == 0 or self.sizes[first] > UNDERFLOWS:
            return ""
        ends = self.sizes[first - 1].item(), self.sizes[first].item()
        point = self.sign * self.border(*ends, good=lambda one: one != 0)[1]
        value = self.real.value(point)
        return "" if value is None or abs(value) < LEAST else self.real.trouble(point)

    def at(self, size: float) -> "torch.Tensor":
        """What the text comes to at a size of x; one element."""
        import torch

        place = torch.tensor([self.sign * size], dtype=torch.float64, device="cpu")
        return cast("torch.Tensor", self.function(place, PROGRESS, *self.values))

    def border(
        self, good_size: float, bad_size: float, *, good: Callable[[Any], Any]
    ) -> tuple[float, float]:
        """Two sizes of x next to each other, between which the text's value is no longer good."""
        for _ in range(40):
            middle = 0.5 * (good_size + bad_size)
            if bool(good(self.at(middle)).all()):
                good_size = middle
            else:
                bad_size = middle
        return good_size, bad_size

    def shorten(self, found: Reach, size: float) -> None:
        """Move the reach's end on this side inwards, to a size of x."""
        if self.sign > 0:
            found.high = min(found.high, size)
        else:
            found.low = max(found.low, -size)


class Exact:
    """The function itself at exact points, in ball arithmetic."""

    def __init__(
        self, expression: sympy.Expr, values: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        bound = {symbol(name): exact(value) for name, value in values.items()}
        bound[t] = exact(PROGRESS)
        formula = format_formula(expression)
        at = ", ".join(f"{name} = {value:.6g}" for name, value in values.items())
        self.shown = shortened(formula, 80) + (f" at {at}" if at else "")
        try:
            self._program: Program | None = Program(expression.xreplace(bound), (x,))
        except TypeError:
            self._program = None

    def trouble(self, point: float) -> str:
        """That its text cannot be used, with the place."""
        return (
            f"{self.shown} cannot be evaluated in floating point at x = {point:.6g}: write it with "
            "functions that saturate, such as sigmoid, tanh or softplus"
        )

    def value(self, point: float) -> float | None:
        """None where it is not finite, or cannot be told."""
        if self._program is None:
            return None
        for precision in (128, 1_200, 4_000):
            ball = self._program.at([point], precision=precision)
            if ball.is_finite() and (ball.rel_accuracy_bits() > 40 or abs(ball) < 1e-40):
                return float(ball)
        return None


def trouble_at(
    function: Function,
    expression: sympy.Expr,
    values: Mapping[str, float],
    span: tuple[float, float],
) -> str:
    """Why a text cannot be used at one choice of the parameters; empty where it can."""
    import torch

    sizes = _sizes()[::4]
    points = torch.cat([sizes, -sizes]).clamp(*span)
    with torch.no_grad():
        got = function(points, PROGRESS, *values.values())
    bad = points[torch.isnan(got)].tolist()
    if not bad:
        return ""
    real = Exact(expression, values)
    for point in (bad[0], bad[-1]):
        value = real.value(point)
        if value is None or abs(value) <= LARGEST:
            return real.trouble(point)
    return ""
