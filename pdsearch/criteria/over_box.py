"""Criteria over one box of a family's parameters: proved or refuted for every point of it.

Refuted means that it fails for every point: the same x fails for all of them, or a certified share
or integral does.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sympy import S, oo

from pdsearch.criteria import decide
from pdsearch.criteria.family_shape import Box, FamilyShape
from pdsearch.criteria.result import PROVED, REFUTED, SLACK, UNDECIDED
from pdsearch.criteria.shape import negated
from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import expanded, factored
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.limits import limit_at_infinity
from pdsearch.enclosure.nodes import prepare
from pdsearch.enclosure.pieces import Domain
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Budget, Smooth, minimum

Verdict = tuple[str, Mapping[str, Any] | None]
"""proved | refuted | undecided for a box, and where it fails if the same x fails all over it."""

# ------------------------------------------------------------------- one box, one criterion


def _floor_holds(shape: FamilyShape, box: Box, budget: Budget, *, floor: float, sign: int) -> bool:
    """Whether sign·g ≥ floor for every x and all parameters of the box."""
    for function in shape.functions:
        oriented = function if sign > 0 else _negated(function)
        low = minimum(oriented, budget, above=floor, below=floor, box=(function.start, *box))
        if not (low.complete and low.lo >= floor):
            return False
    for _, value, _ in shape.at_breakpoints:
        if value is None:
            return False
        lo, hi, flag = Program(prepare(value), shape.symbols).enclose(box)
        if flag & iv.UNDEFINED or (lo if sign > 0 else -hi) < floor:
            return False
    return True


@functools.lru_cache(maxsize=4096)
def _negated(function: Smooth) -> Smooth:
    return negated(function)


def _sign_preserving(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    if _floor_holds(shape, box, budget, floor=0.0, sign=1):
        return PROVED, None
    return _same_place(shape, box, "sign_preserving", lambda value: value[1] < 0.0)


def _bounded(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    bound = shape.demands.number("bounded") + SLACK
    if all(_floor_holds(shape, box, budget, floor=-bound, sign=sign) for sign in (1, -1)):
        return PROVED, None
    return _same_place(shape, box, "bounded", lambda value: value[0] > bound or value[1] < -bound)


def _same_place(
    shape: FamilyShape, box: Box, criterion: str, fails: Callable[[Interval], bool]
) -> Verdict:
    """Whether the witness of the box's middle fails all over the box."""
    middle = shape.candidate_at(box)
    result = shape.bound_result(criterion, middle)
    if result.verdict != REFUTED or result.witness is None:
        return UNDECIDED, None
    place = result.witness["x"]
    value = shape.over(place, box)
    if not value[2] & iv.UNDEFINED and fails(value):
        return REFUTED, {**middle.parameters, "x": place}
    return UNDECIDED, None


def _non_decreasing(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    if _rises(shape, box, budget):
        return PROVED, None
    middle = shape.candidate_at(box)
    result = shape.bound_result("non_decreasing", middle)
    if result.verdict == REFUTED and result.witness is not None:
        first, second = (shape.over(place, box) for place in result.witness["x"])
        if not (first[2] | second[2]) & iv.UNDEFINED and first[0] > second[1]:
            return REFUTED, {**middle.parameters, "x": result.witness["x"]}
    return UNDECIDED, None


def _rises(shape: FamilyShape, box: Box, budget: Budget) -> bool:
    for piece in shape.pieces:
        if not piece.smooth and decide.may_jump(piece.expression):
            return False
    for left, value, right in shape.at_breakpoints:
        if value is None:
            return False
        for first, second in ((left, value), (value, right)):
            difference = factored(second - first)
            if difference == 0:
                continue
            lo, _, flag = Program(prepare(difference), shape.symbols).enclose(box)
            if flag or lo < 0.0:
                return False
    for piece, function in zip(shape.pieces, shape.functions, strict=True):
        if not function.local.has(piece.variable):
            continue
        slope = function.partial(0)
        rising = slope if piece.rising else _negated(slope)
        low = minimum(rising, budget, above=0.0, below=0.0, box=(function.start, *box))
        if not (low.complete and low.lo >= 0.0):
            return False
    return True


def _limits(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    del budget
    open_ = False
    for piece, wanted, end in (
        (shape.pieces[0], S.Zero, -math.inf),
        (shape.pieces[-1], S.One, math.inf),
    ):
        limit = limit_at_infinity(piece.local, Domain(shape.symbols, box))
        if limit is None:
            open_ = True
            continue
        failing = {**shape.candidate_at(box).parameters, "x": end}
        if limit in (oo, -oo):
            return REFUTED, failing
        difference = expanded(limit - wanted)
        if difference == 0:
            continue
        lo, hi, flag = Program(prepare(difference), shape.symbols).enclose(box)
        if not flag and (lo > 0.0 or hi < 0.0):
            return REFUTED, failing
        open_ = True
    return (UNDECIDED if open_ else PROVED), None


def means(
    shape: FamilyShape, box: Box, budget: Budget, *, power: int
) -> Iterator[tuple[float, float]]:
    """Enclosures of the normal mean of |g - c|^power for all parameters of the box.

    Each costs more than the one before and is tighter: cells over the whole box; where the mean is
    monotone in a parameter, over that parameter's ends; and where it is in all of them, the
    integrals at two corners, to nine digits.
    """
    yield _cell_mean(shape, box, budget, power=power)
    least, most = (_extreme_corner(shape, box, budget, power=power, end=end) for end in (0, 1))
    if least != most:
        yield (
            _cell_mean(shape, least, budget, power=power)[0],
            _cell_mean(shape, most, budget, power=power)[1],
        )
    if all(lo == hi for corner in (least, most) for lo, hi, _ in corner):
        yield shape.mean_at(least, power)[0], shape.mean_at(most, power)[1]


def _cell_mean(shape: FamilyShape, box: Box, budget: Budget, *, power: int) -> tuple[float, float]:
    low, high = [], []
    offsets = _offsets(shape, box, budget, step=power == 1)
    for cell, offset in zip(shape.cells, offsets, strict=True):
        size = iv.absolute(offset)
        if power == 2:
            size = iv.integer_power(size, 2)
        if size[2] & iv.UNDEFINED:
            size = (0.0, math.inf, 0)
        low.append(size[0] * cell.weight[0])
        high.append(size[1] * cell.weight[1])
    return math.fsum(low) * (1 - 1e-12), math.fsum(high) * (1 + 1e-12)


def _offsets(shape: FamilyShape, box: Box, budget: Budget, *, step: bool) -> list[Interval]:
    """G minus the step (if asked for) on each cell, for all parameters of the box."""
    known = shape.offsets.get((box, step))
    if known is not None:
        return known
    found = []
    for cell in shape.cells:
        budget.spend()
        clock.check()
        if cell.tail is not None:
            value = shape.functions[cell.tail].enclose(((shape.tail_start, math.inf, 0), *box))
        else:
            value = shape.on_cell(cell.piece).enclose(((cell.lo, cell.hi, 0), *box))
        found.append(iv.add(value, (-1.0, -1.0, 0)) if step and cell.lo >= 0.0 else value)
    if len(shape.offsets) > 8:  # a box is asked of again at once, or never
        shape.offsets.clear()
    shape.offsets[box, step] = found
    return found


def _extreme_corner(shape: FamilyShape, box: Box, budget: Budget, *, power: int, end: int) -> Box:
    """The face of the box on which the mean is least (end 0) or greatest (end 1)."""
    face = list(box)
    for index, (lo, hi, _) in enumerate(box):
        if lo == hi:
            continue
        trend = _trend(shape, index, tuple(face), budget, power=power)
        if trend:
            side = hi if (trend > 0) == bool(end) else lo
            face[index] = (side, side, 0)
    return tuple(face)


def _trend(shape: FamilyShape, index: int, box: Box, budget: Budget, *, power: int) -> int:
    """1 where the normal mean of |g - c|^power grows with a parameter, -1 where it falls, else 0.

    From an enclosure of the mean's derivative: the sum over cells of ∂|g - c|^power times the
    probability.
    """
    if shape.moving_jumps[index]:
        return 0
    if (index, box, power) not in shape.trends:
        if len(shape.trends) > 64:
            shape.trends.clear()
        shape.trends[index, box, power] = _trend_of(shape, index, box, budget, power=power)
    return shape.trends[index, box, power]


def _trend_of(shape: FamilyShape, index: int, box: Box, budget: Budget, *, power: int) -> int:
    total: Interval = (0.0, 0.0, 0)
    offsets = _offsets(shape, box, budget, step=power == 1)
    for cell, offset in zip(shape.cells, offsets, strict=True):
        budget.spend()
        clock.check()
        if cell.tail is not None:
            tail = shape.functions[cell.tail].partial(index + 1)
            change = tail.enclose(((shape.tail_start, math.inf, 0), *box))
        else:
            change = shape.on_cell(cell.piece, index).enclose(((cell.lo, cell.hi, 0), *box))
        if (change[2] | offset[2]) & iv.UNDEFINED:
            return 0
        change = (change[0], change[1], 0)
        if power == 2:
            change = iv.multiply(change, (offset[0], offset[1], 0))
        elif offset[0] < 0.0:
            turned = iv.negate(change)
            change = turned if offset[1] <= 0.0 else iv.hull(change, turned)
        total = iv.add(total, iv.multiply(change, cell.weight))
        if total[0] == -math.inf and total[1] == math.inf:
            return 0
    return 1 if total[0] >= 0.0 else (-1 if total[1] <= 0.0 else 0)


def _consistent(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    bound = shape.demands.number("consistent") + SLACK
    return _compared(shape, box, means(shape, box, budget, power=1), -math.inf, bound)


def _gain(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    low, high = shape.demands.range("gain")
    found = means(shape, box, budget, power=2)
    return _compared(shape, box, found, (low - SLACK) / 2, (high + SLACK) / 2)


def _compared(
    shape: FamilyShape, box: Box, found: Iterator[tuple[float, float]], low: float, high: float
) -> Verdict:
    for lo, hi in found:
        if low <= lo and hi <= high:
            return PROVED, None
        if hi < low or lo > high:
            return REFUTED, dict(shape.candidate_at(box).parameters)
    return UNDECIDED, None


def _alive(shape: FamilyShape, box: Box, budget: Budget) -> Verdict:
    """Cells of [-R, 0), bisected where |g| ≥ ε is open for the box, down to 2⁻¹² of the length."""
    demands = shape.demands
    bound = demands.number("alive_below_zero") + SLACK
    least = iv.down(demands.epsilon)
    radius = demands.radius
    dead = open_ = 0.0
    stack = [(-radius * (i + 1) / 16, -radius * i / 16) for i in range(16)]
    finest = radius / 2**12
    while stack:
        a, b = stack.pop()
        budget.spend()
        clock.check()
        lo, hi, flag = iv.absolute(shape.program.enclose(((a, b, 0), *box)))
        if not flag & iv.UNDEFINED and (lo > demands.epsilon or (lo >= demands.epsilon)):
            continue
        if not flag & iv.UNDEFINED and hi < least:
            dead += b - a
        elif b - a <= finest or open_ > (bound + 0.02) * radius:
            open_ += b - a
        else:
            middle = (a + b) / 2
            stack += [(a, middle), (middle, b)]
        if dead > (bound + 1e-9) * radius:
            witness = shape.bound_result("alive_below_zero", shape.candidate_at(box)).witness
            return REFUTED, {**shape.candidate_at(box).parameters, **(witness or {})}
    if (dead + open_) / radius * (1 + 1e-12) <= bound:
        return PROVED, None
    return UNDECIDED, None


_OVER_A_BOX: Mapping[str, Callable[[FamilyShape, Box, Budget], Verdict]] = {
    "alive_below_zero": _alive,
    "consistent": _consistent,
    "limits": _limits,
    "sign_preserving": _sign_preserving,
    "bounded": _bounded,
    "non_decreasing": _non_decreasing,
    "gain": _gain,
}


def over_a_box(shape: FamilyShape, criterion: str, box: Box, budget: Budget) -> Verdict:
    """One criterion for every point of a box; undecided where it is out of reach.

    Nothing is proved of a formula that may be undefined for some of them.
    """
    try:
        found = _OVER_A_BOX[criterion](shape, box, budget)
        if found[0] == PROVED and not shape.is_defined(box):
            return UNDECIDED, None
    except OutOfReachError:
        return UNDECIDED, None
    return found
