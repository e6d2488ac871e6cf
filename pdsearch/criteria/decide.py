"""The certified criteria of one bound candidate."""

import heapq
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import sympy
from flint import arb
from sympy import S, oo

from pdsearch.criteria.certified import certified
from pdsearch.criteria.result import (
    PROVED,
    REFUTED,
    SLACK,
    UNDECIDED,
    Demands,
    Result,
)
from pdsearch.criteria.shape import Shape, negated
from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.integral import gaussian_integral
from pdsearch.enclosure.limits import limit_at_infinity
from pdsearch.enclosure.numbers import as_float, enclosed, exact_sign
from pdsearch.enclosure.pieces import Piece, germ, y
from pdsearch.enclosure.points import ends_at, sign_at, size_less
from pdsearch.enclosure.program import rational_interval
from pdsearch.enclosure.search import Budget, Minimum, minimum
from pdsearch.expression import exact


@certified
def sign_preserving(shape: Shape, demands: Demands) -> Result:
    """G(x) ≥ 0 everywhere; value: the infimum of g."""
    name = "sign_preserving"
    infimum = shape.infimum
    value = infimum.interval
    if infimum.complete and infimum.lo >= 0.0:
        return demands.result(name, PROVED, value=value)
    # Breakpoints' own values, exactly.
    open_points = False
    no_float: Result | None = None
    for _, place, _ in shape.breakpoints:
        sign = shape.sign_at(place)
        if sign == -1:
            found = _at_breakpoint(shape, demands, name, value, place)
            if is_float(place):
                return found
            no_float = found
        open_points |= sign is None
    box: str = ""
    proved = not open_points
    for index in sorted(range(len(shape.pieces)), key=lambda i: i != infimum.piece):
        low = minimum(shape.functions[index], shape.budget.fresh(), above=0.0, below=0.0)
        if low.hi < 0.0:
            witness = _witness(shape, index, low, lambda ball: ball < 0)
            if witness is not None:
                return demands.result(name, REFUTED, value=value, witness={"x": witness})
        if not (low.complete and low.lo >= 0.0):
            proved = False
            box = box or _open_box(shape, index, low)
    if no_float is not None:
        return no_float
    if proved:
        return demands.result(name, PROVED, value=(max(value[0], 0.0), value[1]))
    return demands.result(name, UNDECIDED, value=value, detail=box)


@certified
def bounded(shape: Shape, demands: Demands) -> Result:
    """Sup |g| ≤ bound; value: that supremum."""
    name = "bounded"
    bound = demands.number(name) + SLACK
    low, high = shape.infimum, shape.supremum
    lo = max(low.interval[1] * -1.0, high.interval[0], 0.0)
    hi = max(-low.interval[0], high.interval[1])
    value = (lo, hi)
    if low.complete and high.complete and hi <= bound:
        return demands.result(name, PROVED, value=value)
    no_float: Result | None = None
    for _, place, _ in shape.breakpoints:
        if size_less(shape.expression, place, exact(bound)) == 1:
            at = _at_breakpoint(shape, demands, name, value, place)
            if is_float(place):
                return at
            no_float = at
    proved = all(
        size_less(shape.expression, place, exact(bound)) in (0, -1)
        for _, place, _ in shape.breakpoints
    )
    box = ""
    order = sorted(range(len(shape.pieces)), key=lambda i: i not in (low.piece, high.piece))
    for index in order:
        for function in (negated(shape.functions[index]), shape.functions[index]):
            found = minimum(function, shape.budget.fresh(), above=-bound, below=-bound)
            if found.hi < -bound:
                witness = _witness(shape, index, found, lambda ball: abs(ball) > bound)
                if witness is not None:
                    return demands.result(name, REFUTED, value=value, witness={"x": witness})
            if not (found.complete and found.lo >= -bound):
                proved = False
                box = box or _open_box(shape, index, found)
    if no_float is not None:
        return no_float
    if proved:
        return demands.result(name, PROVED, value=(lo, min(hi, bound)))
    return demands.result(name, UNDECIDED, value=value, detail=box)


def _at_breakpoint(
    shape: Shape, demands: Demands, name: str, value: tuple[float, float], place: sympy.Expr
) -> Result:
    """Refuted by g's exact value where two pieces meet."""
    where = "" if is_float(place) else f" x = {place}, which is no float"
    number = sum(ends_at(shape.expression, place) or (math.nan,)) / 2
    return demands.result(
        name, REFUTED, value=value, witness={"x": as_float(place)},
        detail=f"g = {number:.6g} at the breakpoint{where}",
    )  # fmt: skip


def is_float(place: sympy.Expr) -> bool:
    """Whether an exact number is a float."""
    if not place.is_Rational:
        return False
    near = as_float(place)
    return math.isfinite(near) and Fraction(near) == Fraction(int(place.p), int(place.q))


def _witness(shape: Shape, index: int, low: Minimum, holds: Callable[[arb], bool]) -> float | None:
    """A float at which the evidence is certified by g itself, near the minimum's point."""
    if low.point is None:
        return None
    place = shape.x_at(index, low.point[0])
    if place is None:
        return None
    near = float(place)
    for candidate in (near, math.nextafter(near, 0.0), math.nextafter(near, 2 * near)):
        ball = shape.ball(candidate)
        if ball is not None and holds(ball):
            return candidate
    return None


def _open_box(shape: Shape, index: int, low: Minimum) -> str:
    if low.box is None:
        return "undecided at an end of a piece"
    left, right, _ = low.box[0]
    ends = []
    for local in (left, right):
        if math.isinf(local):
            ends.append(-math.inf if shape.pieces[index].lo is -oo else math.inf)
        else:
            place = shape.x_at(index, local)
            ends.append(float(place) if place is not None else math.nan)
    return f"smallest undecided box: x in [{min(ends):.9g}, {max(ends):.9g}]"


@certified
def non_decreasing(shape: Shape, demands: Demands) -> Result:
    """G never falls: g′ ≥ 0 on every piece, no jump down; value: the largest fall certified."""
    name = "non_decreasing"
    proved, box = True, ""
    for left, place, right in shape.breakpoints:
        near = as_float(place)
        forms = (left.expression, shape.expression, right.expression)
        for first, second in itertools.pairwise(forms):
            sign = sign_at(second, place, first)
            if sign is None:
                proved, box = False, box or f"undecided at x = {near:.9g}"
            elif sign < 0:
                fall = _certified_fall(shape, Fraction(near), place)
                if fall is not None:
                    return _fallen(demands, fall, f"g jumps down at x = {near:.9g}")
                proved = False
    for index, (piece, function) in enumerate(zip(shape.pieces, shape.functions, strict=True)):
        if not function.local.has(piece.variable):
            continue
        if not piece.smooth and may_jump(piece.expression):
            proved, box = False, box or "conditions that are not resolved"
        try:
            slope = function.partial(0)
        except OutOfReachError as error:
            proved, box = False, box or str(error)
            continue
        rising = slope if piece.rising else negated(slope)
        low = minimum(rising, shape.budget.fresh(), above=0.0, below=0.0)
        if low.hi < 0.0 and low.point is not None:
            where = shape.x_at(index, low.point[0])
            fall = None if where is None else _certified_fall(shape, where, None)
            if fall is not None:
                return _fallen(demands, fall, "")
        if not (low.complete and low.lo >= 0.0):
            proved, box = False, box or _open_box(shape, index, low)
    if proved:
        return demands.result(name, PROVED, value=0.0)
    return demands.result(name, UNDECIDED, detail=box)


def may_jump(expression: sympy.Expr) -> bool:
    """Whether conditions are left that may make the expression jump."""
    return expression.has(sympy.Piecewise, sympy.sign, sympy.Heaviside)


def _certified_fall(
    shape: Shape, where: Fraction, place: sympy.Expr | None
) -> tuple[float, float, float] | None:
    """x₁ < x₂ with g(x₁) > g(x₂), and by how much at least."""
    centre = float(where)
    for exponent in (*range(-3, -53, -2),):
        width = math.ldexp(max(abs(centre), 2.0**-20), exponent)
        # The pairs beside the centre matter where it is itself a breakpoint.
        for first, second in (
            (centre - width, centre + width),
            (centre - width, centre),
            (centre, centre + width),
            (centre - 2 * width, centre - width),
            (centre + width, centre + 2 * width),
        ):
            if not first < second:
                continue
            left, right = shape.ball(first), shape.ball(second)
            if left is not None and right is not None and left > right:
                return first, second, max(float((left - right).lower()), 0.0)
    return None


def _fallen(demands: Demands, fall: tuple[float, float, float], detail: str) -> Result:
    first, second, size = fall
    detail = detail or "g falls between the two ends of the witness"
    return demands.result(
        "non_decreasing", REFUTED, value=size, witness={"x": (first, second)}, detail=detail
    )


@certified
def limits(shape: Shape, demands: Demands) -> Result:
    """G → 0 at -∞ and → 1 at +∞; value: how far the limits are from that."""
    name = "limits"
    found: list[sympy.Expr | None] = []
    for piece in (shape.pieces[0], shape.pieces[-1]):
        local = piece.local if piece.smooth else germ(shape.expression, piece.tail_side)
        found.append(limit_at_infinity(local))
    away: list[float] = []
    verdict, witness = PROVED, None
    for limit, wanted, end in zip(found, (S.Zero, S.One), (-math.inf, math.inf), strict=True):
        if limit is None:
            verdict = UNDECIDED if verdict == PROVED else verdict
            away.append(math.nan)
            continue
        if limit in (oo, -oo):
            sign: int | None = 1
            away.append(math.inf)
        else:
            difference = limit - wanted
            sign = exact_sign(difference)
            away.append(abs(as_float(difference)))
        if sign is None:
            verdict = UNDECIDED if verdict == PROVED else verdict
        elif sign != 0 and verdict != REFUTED:
            verdict, witness = REFUTED, {"x": end}
    value = max(away) if not any(math.isnan(a) for a in away) else None
    shown = [("unknown" if limit is None else _shown(limit)) for limit in found]
    detail = f"limit {shown[0]} at -oo, {shown[1]} at +oo"
    return demands.result(name, verdict, value=value, witness=witness, detail=detail)


def _shown(limit: sympy.Expr) -> str:
    return str(limit) if limit in (oo, -oo) else f"{as_float(limit):.9g}"


@certified
def consistent(shape: Shape, demands: Demands) -> Result:
    """E|g - 1[x>0]| ≤ bound; value: a certified enclosure of it."""
    name = "consistent"
    bound = demands.number(name) + SLACK
    lo, hi, _ = gaussian_integral(
        shape.pieces, 1, shape.budget.fresh(), shift=lambda piece: int(_right_of_zero(piece))
    )
    value = (max(lo, 0.0), hi)
    return demands.result(name, _compare(value, -math.inf, bound), value=value)


@certified
def gain(shape: Shape, demands: Demands) -> Result:
    """E[g²] / ½ within the range; value: a certified enclosure of it."""
    name = "gain"
    low, high = demands.range(name)
    lo, hi, _ = gaussian_integral(shape.pieces, 2, shape.budget.fresh(), shift=lambda _: 0)
    value = (max(2.0 * lo, 0.0), 2.0 * hi)
    return demands.result(name, _compare(value, low - SLACK, high + SLACK), value=value)


def _right_of_zero(piece: Piece) -> bool:
    return piece.hi is oo or (piece.lo is not -oo and exact_sign(piece.lo) in (0, 1))


def _compare(value: tuple[float, float], low: float, high: float) -> str:
    if low <= value[0] and value[1] <= high:
        return PROVED
    return REFUTED if value[1] < low or value[0] > high else UNDECIDED


@certified
def alive_below_zero(shape: Shape, demands: Demands) -> Result:
    """The share of [-R, 0) on which |g| < ε; value: a certified enclosure of it."""
    name = "alive_below_zero"
    bound = demands.number(name) + SLACK
    radius, epsilon = Fraction(str(demands.radius)), Fraction(str(demands.epsilon))
    stretches = _dead_stretches(shape, radius, epsilon, shape.budget.fresh())
    dead = sum(((b - a) for a, b, kind in stretches if kind == "dead"), Fraction(0))
    open_ = sum(((b - a) for a, b, kind in stretches if kind == "open"), Fraction(0))
    lo, hi = float(dead / radius), float((dead + open_) / radius)
    value = (max(lo - 1e-12, 0.0), min(hi + 1e-12, 1.0)) if hi > 0 else (0.0, 0.0)
    if dead == radius:
        value = (1.0, 1.0)
    verdict = _compare(value, -math.inf, bound)
    witness = None
    if verdict == REFUTED:
        longest = max((s for s in stretches if s[2] == "dead"), key=lambda s: s[1] - s[0])
        witness = {"x": (float(longest[0]), float(longest[1]))}
    return demands.result(name, verdict, value=value, witness=witness)


def _dead_stretches(
    shape: Shape, radius: Fraction, epsilon: Fraction, budget: Budget
) -> list[tuple[Fraction, Fraction, str]]:
    """[-R, 0) in stretches on which |g| < ε ("dead"), |g| ≥ ε ("alive") or neither is shown."""
    least, most, _ = rational_interval(epsilon)
    small = sympy.Rational(epsilon.numerator, epsilon.denominator)
    counter = itertools.count()
    done: list[tuple[Fraction, Fraction, str]] = []
    heap: list[tuple[float, int, int, Fraction, Fraction]] = []
    for index, piece in enumerate(shape.pieces):
        ends = _clipped(piece, -radius, Fraction(0))
        if ends is None:
            continue
        function = shape.functions[index]
        if not function.local.free_symbols:
            sign = size_less(function.local, S.Zero, small)
            kind = "open" if sign is None else ("dead" if sign < 0 else "alive")
            done.append((*ends, kind))
            continue
        heapq.heappush(heap, (-float(ends[1] - ends[0]), next(counter), index, *ends))
    finest = Fraction(radius) / 2**22
    while heap:
        _, _, index, a, b = heapq.heappop(heap)
        if clock.time_is_up():
            done.append((a, b, "open"))
            continue
        piece = shape.pieces[index]
        box = _local_box(piece, a, b)
        lo, hi, flag = iv.absolute(shape.functions[index].enclose((box,)))
        if not flag & iv.UNDEFINED and lo >= most:
            done.append((a, b, "alive"))
        elif not flag & iv.UNDEFINED and hi < least:
            done.append((a, b, "dead"))
        elif b - a < finest or not budget.spend():
            done.append((a, b, "open"))
        else:
            middle = (a + b) / 2
            for part in ((a, middle), (middle, b)):
                heapq.heappush(heap, (-float(part[1] - part[0]), next(counter), index, *part))
    done.sort()
    merged: list[tuple[Fraction, Fraction, str]] = []
    for a, b, kind in done:
        if merged and merged[-1][2] == kind and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b, kind)
        else:
            merged.append((a, b, kind))
    return merged


def _clipped(piece: Piece, lo: Fraction, hi: Fraction) -> tuple[Fraction, Fraction] | None:
    left = lo if piece.lo is -oo else max(lo, _fraction(piece.lo))
    right = hi if piece.hi is oo else min(hi, _fraction(piece.hi))
    return (left, right) if left < right else None


def _fraction(number: sympy.Expr) -> Fraction:
    if number.is_Rational:
        return Fraction(int(number.p), int(number.q))
    mantissa, exponent = enclosed(number, precision=140).mid().man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)  # irrational: to 1e-40


def _local_box(piece: Piece, a: Fraction, b: Fraction) -> iv.Interval:
    """The local coordinates of [a, b], rounded outward, within the piece."""
    if piece.variable == y:
        low, high = (-b, -a) if piece.lo is -oo else (a, b)
    else:
        left, right = _fraction(piece.lo), _fraction(piece.hi)
        low, high = (a - left) / (right - left), (b - left) / (right - left)
        if piece.mirrored:
            low, high = 1 - high, 1 - low
    lo, hi = rational_interval(low)[0], rational_interval(high)[1]
    if piece.variable != y and not (piece.lo.is_Rational and piece.hi.is_Rational):
        lo, hi = lo - 1e-15, hi + 1e-15
    return (max(lo, piece.start[0]), min(hi, piece.start[1]), 0)
