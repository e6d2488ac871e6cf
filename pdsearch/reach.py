"""The range of x on which the text of a formula is evaluated, and whether it is finite where g is.

The text is evaluated at every size of x that float64 has, at the corners of the parameters' ranges.
Where it gives no finite number, ball arithmetic decides whether g has one there and has reached its
limit. If so, the value at the last good point is used for all x beyond it.
"""

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import sympy

from pdsearch.enclosure import Program
from pdsearch.errors import shortened
from pdsearch.expression import exact, format_formula, symbol, t, x
from pdsearch.scaled import is_root

if TYPE_CHECKING:
    import torch

__all__ = ["FAR", "Exact", "Reach", "corners", "find_reach", "trouble_at"]

FAR = 1e30
"""Beyond it only powers of x still change, because exponentials have saturated: a value that is no
longer finite there is a power that float64 cannot hold."""

PROGRESS = 0.25  # t at which annealed formulas are evaluated
SETTLED = 1e-12  # how near to the limit a value must be to replace it, relative to max(1, |g|)
LARGEST = 1e290  # with room for factors that are multiplied in another order
UNDERFLOWS = 1e6
"""Size of x up to which an exponential may underflow to zero."""

LEAST = 1e-12  # what a text may lose: as much as terms that cancel, less than a root

Function = Callable[..., Any]


@dataclass
class Reach:
    """The range of x on which one order's text is evaluated.

    Attributes:
        low: The text is evaluated here for all smaller x.
        high: The text is evaluated here for all larger x.
        trouble: Why the text cannot be used; empty if it can.
    """

    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    trouble: str = ""


def corners(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, ...]]:
    """The corners of a box; if it has many sides, those next to its two extremes."""
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
    """Find the range of x on which a text is evaluated.

    Args:
        function: The compiled text, a function of x, t and the parameters.
        expression: The expression that it was printed from.
        ranges: Those of the parameters, in their order.
    """
    import torch

    found = Reach()
    rooted = any(p.base.has(x) and is_root(p.exp) for p in expression.atoms(sympy.Pow))
    sizes = _sizes()
    points = torch.cat([sizes, -sizes, torch.zeros_like(sizes[:1])])
    with torch.no_grad():
        for values in corners(list(ranges.values())):
            named = dict(zip(ranges, values, strict=True))
            try:
                got = function(points, PROGRESS, *values)
            except (OverflowError, ZeroDivisionError):  # Python's, of a number without x
                shown = Exact(expression, named).shown
                found.trouble = (
                    f"{shown} cannot be evaluated: a number in it overflows float64 or divides by 0"
                )
                return found
            if bool(torch.isfinite(got).all()) and not (rooted and bool((got[:-1] == 0).any())):
                continue
            real = Exact(expression, named)
            here = got[-1].item()
            wanted = None if math.isfinite(here) else real.value(0.0)
            if wanted is not None and (math.isnan(here) or abs(wanted) <= LARGEST):
                found.trouble = real.trouble(0.0)  # a number beyond float64, times 0
                return found
            for sign, part in ((1.0, got[: len(sizes)]), (-1.0, got[len(sizes) : -1])):
                side = _Side(function, values, real, sign, sizes, part)
                side.look(found)
                if rooted and not found.trouble:
                    found.trouble = side.lost()
    return found


def _sizes() -> "torch.Tensor":
    """Sizes of x: four per decade, and 557 from FAR on."""
    import torch

    near = torch.logspace(-3, math.log10(FAR), 133, dtype=torch.float64, device="cpu")[:-1]
    far = torch.logspace(math.log10(FAR), 308, 557, dtype=torch.float64, device="cpu")
    last = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64, device="cpu")
    return torch.cat([near, far, last])


@dataclass(frozen=True, eq=False)
class _Side:
    """A text on one side of zero, at one corner of the parameters' ranges.

    Attributes:
        function: The compiled text.
        values: The parameters.
        real: The function itself.
        sign: The sign of x.
        sizes: Sizes of x, ascending.
        got: The values of the text at these sizes.
    """

    function: Function
    values: tuple[float, ...]
    real: "Exact"
    sign: float
    sizes: "torch.Tensor"
    got: "torch.Tensor"

    def look(self, found: Reach) -> None:
        """Move one end of the reach before the first bad value, or record why that fails."""
        import torch

        finite = torch.isfinite(self.got)
        if bool(finite.all()):
            return
        first = int(finite.long().argmin())
        size = self.sizes[first].item()
        missing = torch.isnan(self.got)
        lacking = bool(missing.any())
        if size >= FAR:
            if lacking and first > 0:
                # The factor leaves room for parameters between the corners.
                self.shorten(found, max(FAR, 0.1 * self.sizes[first - 1].item()))
            return
        wanted = self.real.value(self.sign * size)
        if wanted is None and not lacking:
            return
        if wanted is not None and abs(wanted) > LARGEST:
            # It grows beyond float64 there: its largest number follows.
            if lacking:
                self.shorten(found, self.sizes[int(missing.long().argmax()) - 1].item())
            return
        before = 0.0 if first == 0 else self.sizes[first - 1].item()
        good, _ = self.border(before, size, good=torch.isfinite)
        limit = self.at(good).item()
        allowed = SETTLED * max(1.0, abs(limit))
        # The values farther out must have settled too, unless balls cannot decide them.
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
        """Describe where the text underflows to zero and the function does not; else return ""."""
        nothing = self.got == 0
        first = int(nothing.long().argmax())
        if not bool(nothing[first]) or first == 0 or self.sizes[first] > UNDERFLOWS:
            return ""
        ends = self.sizes[first - 1].item(), self.sizes[first].item()
        point = self.sign * self.border(*ends, good=lambda one: one != 0)[1]
        value = self.real.value(point)
        return "" if value is None or abs(value) < LEAST else self.real.trouble(point)

    def at(self, size: float) -> "torch.Tensor":
        """The value of the text at a size of x, as a tensor of one element."""
        import torch

        place = torch.tensor([self.sign * size], dtype=torch.float64, device="cpu")
        return cast("torch.Tensor", self.function(place, PROGRESS, *self.values))

    def border(
        self, good_size: float, bad_size: float, *, good: Callable[[Any], Any]
    ) -> tuple[float, float]:
        """Two adjacent sizes of x, between which the value of the text ceases to be good."""
        for _ in range(40):
            middle = 0.5 * (good_size + bad_size)
            if bool(good(self.at(middle)).all()):
                good_size = middle
            else:
                bad_size = middle
        return good_size, bad_size

    def shorten(self, found: Reach, size: float) -> None:
        """Move the end of the reach on this side inwards, to a size of x."""
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
        at = ", ".join(f"{name} = {value:.6g}" for name, value in values.items())
        self.shown = shortened(format_formula(expression), 80) + (f" at {at}" if at else "")
        try:
            self._program: Program | None = Program(expression.xreplace(bound), (x,))
        except TypeError:
            self._program = None

    def trouble(self, point: float) -> str:
        """The message that its text cannot be used, with the place."""
        return (
            f"{self.shown} cannot be evaluated in floating point at x = {point:.6g}: write it with "
            "functions that saturate, such as sigmoid, tanh or softplus"
        )

    def value(self, point: float) -> float | None:
        """The value at a point; None where it is not finite, or not decided."""
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
    """Why a text cannot be used at one choice of the parameters; empty if it can."""
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
