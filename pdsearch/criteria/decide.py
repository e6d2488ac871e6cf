"""How each certified criterion is decided over a box of parameters.

A candidate is a box without sides. It has a value and, where the criterion fails, a witness. A box
with sides is proved if the criterion holds for every point of it, and refuted if it fails for every
point.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import sympy
from sympy import S, oo

from pdsearch.criteria.result import PROVED, REFUTED, UNDECIDED, Outcome, Value
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Box, Interval, rational_interval
from pdsearch.enclosure.limits import limit_at_infinity
from pdsearch.enclosure.numbers import as_float, enclosed, ends_at, is_float, size_less
from pdsearch.enclosure.pieces import Domain, Piece, germ
from pdsearch.enclosure.search import Bisection, Budget, Minimum, Smooth, minimum
from pdsearch.expression import exact
from pdsearch.expression.values import rational

if TYPE_CHECKING:
    from pdsearch.criteria.records import Demands

SLACK = 1e-6
"""Comparisons with a bound allow this much, so that a supremum equal to its bound passes."""

_exact = functools.lru_cache(maxsize=64)(exact)

Pair = tuple[sympy.Expr, sympy.Expr]
"""Two expressions in x of which the first must not be less than the second."""


# ---------------------------------------------------------------- conditions at every x


@dataclass(frozen=True)
class Within:
    """The claim low ≤ g(x) ≤ high for all x; value: inf g, or if high is finite, sup |g|."""

    low: float
    high: float

    @classmethod
    def size(cls, bound: float) -> "Within":
        """Return the claim that |g(x)| ≤ bound."""
        return cls(-bound - SLACK, bound + SLACK)

    def floors(self, shape: Shape, index: int) -> Iterator[tuple[Smooth, float]]:
        """Functions on a piece, each with the number it must not fall below."""
        if self.high < math.inf:
            yield shape.functions[index].negated, -self.high
        yield shape.functions[index], self.low

    def pairs(self, g: sympy.Expr, before: sympy.Expr, after: sympy.Expr) -> list[Pair]:
        """Pairs that must be in order where two pieces meet."""
        del before, after
        below = [(_exact(self.high), g)] if self.high < math.inf else []
        return [(g, _exact(self.low)), *below]

    def extent(self, shape: Shape) -> tuple[Value, bool, set[int]]:
        """Return a candidate's value, whether it proves the claim, and the pieces it is on."""
        low = shape.infimum
        held = low.complete and low.lo >= self.low
        if self.high == math.inf:
            return (low.lo, low.hi), held, {low.piece}
        high = shape.supremum
        size = max(-low.hi, high.lo, 0.0), max(-low.lo, high.hi)
        return size, held and high.complete and high.hi <= self.high, {low.piece, high.piece}

    def fails(self, shape: Shape, place: Any, box: Box) -> bool:
        """Whether g at a place is certainly out of bounds, all over a box."""
        ends = shape.ends(place, box)
        return ends is not None and bool(ends[1] < self.low or ends[0] > self.high)

    def evidence(self, shape: Shape, near: float) -> Outcome | None:
        """A float near a place, at which the value of g certifies the failure."""
        for place in (near, math.nextafter(near, 0.0), math.nextafter(near, 2 * near)):
            if self.fails(shape, place, ()):
                return Outcome(REFUTED, witness={"x": place})
        return None

    def evidence_where_pieces_meet(self, shape: Shape, place: sympy.Expr) -> Outcome | None:
        """The exact value of g there."""
        where = "" if is_float(place) else f" x = {place}, which is not a float"
        number = sum(ends_at(shape.expression, place) or (math.nan,)) / 2
        detail = f"g = {number:.6g} at the breakpoint{where}"
        return Outcome(REFUTED, witness={"x": as_float(place)}, detail=detail)


@dataclass(frozen=True)
class Rising:
    """The claim that g never falls: g′ ≥ 0 on each piece, no jump down; value: a certified fall."""

    def floors(self, shape: Shape, index: int) -> Iterator[tuple[Smooth, float]]:
        """Functions on a piece, each with the number it must not fall below."""
        piece, function = shape.pieces[index], shape.functions[index]
        if function.local.has(piece.variable):
            slope = function.partial(0)
            yield (slope if piece.rising else slope.negated), 0.0

    def pairs(self, g: sympy.Expr, before: sympy.Expr, after: sympy.Expr) -> list[Pair]:
        """Pairs that must be in order where two pieces meet."""
        return [(g, before), (after, g)]

    def extent(self, shape: Shape) -> tuple[Value, bool, set[int]]:
        """No value is known before a fall is certified."""
        del shape
        return None, False, set()

    def fails(self, shape: Shape, place: Any, box: Box) -> bool:
        """Whether g certainly falls between the first and the second of two places."""
        first, second = (shape.ends(end, box) for end in place)
        return first is not None and second is not None and bool(first[0] > second[1])

    def evidence(self, shape: Shape, near: float) -> Outcome | None:
        """x₁ < x₂ near a place with g(x₁) > g(x₂), and by how much at least."""
        for exponent in range(-3, -53, -2):
            width = math.ldexp(max(abs(near), 2.0**-20), exponent)
            # The pairs on one side matter where the place is itself a breakpoint.
            for steps in ((-1, 1), (-1, 0), (0, 1), (-2, -1), (1, 2)):
                first, second = (near + step * width for step in steps)
                if first < second and self.fails(shape, (first, second), ()):
                    left, right = shape.ends(first), shape.ends(second)
                    assert left is not None and right is not None
                    return Outcome(
                        REFUTED,
                        value=max(float((left[0] - right[1]).lower()), 0.0),
                        witness={"x": (first, second)},
                        detail="g falls between the two ends of the witness",
                    )
        return None

    def evidence_where_pieces_meet(self, shape: Shape, place: sympy.Expr) -> Outcome | None:
        """Two points around it."""
        near = as_float(place)
        found = self.evidence(shape, near)
        return found and replace(found, detail=f"g jumps down at x = {near:.9g}")


Claim = Within | Rising
"""A condition on g at every x: bounds on each piece, and an order where two pieces meet."""


def everywhere(claim: Claim, shape: Shape, box: Box, budget: Budget) -> Outcome:
    """Decide a claim. Over a box with sides it is either proved or undecided.

    Each search for a candidate may cost the whole budget; the searches over a box share it.
    """
    value, held, first = (None, False, set()) if box else claim.extent(shape)
    if held:
        return Outcome(PROVED, value=value)
    open_: list[str] = []
    not_a_float: Outcome | None = None
    for found, detail in itertools.chain(
        _where_pieces_meet(claim, shape, box),
        _on_pieces(claim, shape, box, budget, first=first),
    ):
        if found is None and box:
            return Outcome(UNDECIDED)
        if found is None:
            open_.append(detail)
            continue
        found = found if found.value is not None else replace(found, value=value)
        if claim.fails(shape, (found.witness or {})["x"], ()):
            return found
        not_a_float = not_a_float or found
    if not_a_float is not None:
        return not_a_float
    if open_:
        return Outcome(UNDECIDED, value=value, detail=open_[0])
    if isinstance(claim, Rising):
        return Outcome(PROVED, value=0.0)
    if isinstance(value, tuple):
        value = (max(value[0], claim.low), min(value[1], claim.high))
    return Outcome(PROVED, value=value)


Finding = tuple[Outcome | None, str]
"""A refutation of a candidate; or None, and what remains open."""


def _where_pieces_meet(claim: Claim, shape: Shape, box: Box) -> Iterator[Finding]:
    if isinstance(claim, Rising) and any(piece.may_jump for piece in shape.pieces):
        yield None, "conditions that are not resolved"
    for left, place, right in shape.breakpoints:
        for greater, lesser in claim.pairs(shape.expression, left.expression, right.expression):
            sign = shape.order_at(place, greater, lesser, box)
            if sign is None or sign < 0:
                refuted = sign is not None and not box
                found = claim.evidence_where_pieces_meet(shape, place) if refuted else None
                yield found, "" if box else f"undecided at x = {as_float(place):.9g}"


def _on_pieces(
    claim: Claim, shape: Shape, box: Box, budget: Budget, *, first: set[int]
) -> Iterator[Finding]:
    for index in sorted(range(len(shape.pieces)), key=lambda index: index not in first):
        try:
            for function, floor in claim.floors(shape, index):
                low = minimum(
                    function, budget if box else budget.fresh(), above=floor, below=floor,
                    box=(function.start, *box),
                )  # fmt: skip
                found = None
                if low.hi < floor and low.point is not None and not box:
                    found = claim.evidence(shape, float(shape.x_at(index, low.point[0])))
                if found is not None or not (low.complete and low.lo >= floor):
                    yield found, "" if box else _open_box(shape, index, low)
        except OutOfReachError as error:
            yield None, str(error)


def _open_box(shape: Shape, index: int, low: Minimum) -> str:
    left, right, _ = low.box[0]
    ends = [float(shape.x_at(index, local)) for local in (left, right)]
    return f"smallest undecided box: x in [{min(ends):.9g}, {max(ends):.9g}]"


# -------------------------------------------------------------------------------- at infinity


def limits(shape: Shape, demands: "Demands", box: Box, budget: Budget) -> Outcome:
    """The limits 0 at -∞ and 1 at +∞; value: how far those of a candidate are from that."""
    del demands, budget
    domain = Domain(shape.symbols, box)
    signs: list[int | None] = []
    away: list[float] = []
    shown: list[str] = []
    for piece, wanted in ((shape.pieces[0], S.Zero), (shape.pieces[-1], S.One)):
        whole = piece.smooth or box
        local = piece.local if whole else germ(shape.expression, piece.tail_side)
        limit = limit_at_infinity(local, domain)
        signs.append(None if limit is None else domain.exact_sign(limit - wanted))
        if not box:
            away.append(math.nan if limit is None else abs(as_float(limit - wanted)))
            shown.append("unknown" if limit is None else _shown(limit))
    failing = [end for end, sign in zip((-math.inf, math.inf), signs, strict=True) if sign]
    verdict = REFUTED if failing else (UNDECIDED if None in signs else PROVED)
    if box:
        return Outcome(verdict)
    return Outcome(
        verdict,
        value=None if any(map(math.isnan, away)) else max(away),
        witness={"x": failing[0]} if failing else None,
        detail=f"limit {shown[0]} at -oo, {shown[1]} at +oo",
    )


def _shown(limit: sympy.Expr) -> str:
    return str(limit) if limit in (oo, -oo) else f"{as_float(limit):.9g}"


# ------------------------------------------------------------------------------- normal means


def consistent(shape: Shape, demands: "Demands", box: Box, budget: Budget) -> Outcome:
    """E|g - 1[x>0]| ≤ bound; value: a certified enclosure of it."""
    bound = demands.number("consistent")
    return _mean(shape, box, budget, power=1, scale=1.0, low=-math.inf, high=bound + SLACK)


def gain(shape: Shape, demands: "Demands", box: Box, budget: Budget) -> Outcome:
    """E[g²] / ½ within the range; value: a certified enclosure of it."""
    low, high = demands.range("gain")
    return _mean(shape, box, budget, power=2, scale=2.0, low=low - SLACK, high=high + SLACK)


def _mean(
    shape: Shape, box: Box, budget: Budget, *, power: int, scale: float, low: float, high: float
) -> Outcome:
    found = Outcome(UNDECIDED)
    for lo, hi in shape.means.enclosures(box, budget if box else budget.fresh(), power=power):
        found = _compared((scale * lo, scale * hi), low, high)
        if found.verdict != UNDECIDED:
            break
    return found


def _compared(value: tuple[float, float], low: float, high: float) -> Outcome:
    if low <= value[0] and value[1] <= high:
        return Outcome(PROVED, value=value)
    outside = value[1] < low or value[0] > high
    return Outcome(REFUTED if outside else UNDECIDED, value=value)


# ------------------------------------------------------------------------------ dead stretches


Place = Fraction | float
"""An exact place on a candidate's line; over a box floats, whose midpoints cost far less."""


class _Segment(NamedTuple):
    """A part of [-R, 0); for a candidate, with the number of the piece that contains it."""

    lo: Place
    hi: Place
    piece: int = -1

    @property
    def length(self) -> Place:
        return self.hi - self.lo

    def halves(self) -> list["_Segment"]:
        middle = (self.lo + self.hi) / 2
        return [_Segment(self.lo, middle, self.piece), _Segment(middle, self.hi, self.piece)]


def alive_below_zero(shape: Shape, demands: "Demands", box: Box, budget: Budget) -> Outcome:
    """The share of [-R, 0) on which |g| < ε; value: a certified enclosure of it."""
    bound = demands.number("alive_below_zero") + SLACK
    radius: Place = demands.radius if box else Fraction(str(demands.radius))
    least, most, _ = rational_interval(Fraction(str(demands.epsilon)))
    length: dict[bool | None, Place] = {True: 0, False: 0, None: 0}  # alive, dead, open

    def alive(segment: _Segment) -> bool | None:
        if constant(segment):
            local = shape.functions[segment.piece].local
            size = size_less(local, S.Zero, exact(demands.epsilon))
            return None if size is None else size >= 0
        if clock.time_is_up():
            return None
        if box:
            budget.spend()  # counted, but not limited: the cuts of the space are limited
        lo, hi, flag = iv.absolute(_enclosed(shape, segment, box))
        if flag & iv.UNDEFINED:
            return None
        return True if lo >= most else (False if hi < least else None)

    def constant(segment: _Segment) -> bool:
        return not box and not shape.functions[segment.piece].local.free_symbols

    def cut(segment: _Segment) -> list[_Segment] | None:
        if segment.length < finest or constant(segment):
            return None
        if box and (length[None] > most_open or clock.time_is_up()):
            return None
        return segment.halves()

    if box:  # from left to right, as finely as most boxes need, while a proof is still possible
        parts = [_Segment(-radius * (i + 1) / 16, -radius * i / 16) for i in range(16)]
        finest, most_open = radius / 2**11, (bound + 0.02) * demands.radius
    else:  # the widest first, so that the budget leaves only short ones open
        parts = list(_on_smooth_pieces(shape, radius))
        finest, most_open = radius / 2**22, math.inf
    search = Bisection(
        parts,
        judge=alive,
        cut=cut,
        budget=None if box else budget.fresh(),
        key=lambda segment: float(segment.lo if box else -segment.length),
    )
    found: list[tuple[_Segment, bool | None]] = []
    for segment, lives in search:
        found.append((segment, lives))
        length[lives] += segment.length
        if box and length[False] > (bound + 1e-9) * demands.radius:
            break
    lo, hi = float(length[False] / radius), float(1 - length[True] / radius)
    value = (max(lo - 1e-12, 0.0), min(hi + 1e-12, 1.0)) if hi > 0 else (0.0, 0.0)
    outcome = _compared((1.0, 1.0) if length[False] == radius else value, -math.inf, bound)
    if outcome.verdict != REFUTED or box:
        return outcome
    return replace(outcome, witness={"x": _longest_dead(found)})


def _on_smooth_pieces(shape: Shape, radius: Place) -> Iterator[_Segment]:
    """The parts of [-R, 0) on the pieces of a candidate."""
    for index, piece in enumerate(shape.pieces):
        left = -radius if piece.lo is -oo else max(-radius, _fraction(piece.lo))
        right = Fraction(0) if piece.hi is oo else min(Fraction(0), _fraction(piece.hi))
        if left < right:
            yield _Segment(left, right, index)


def _longest_dead(found: Sequence[tuple[_Segment, bool | None]]) -> tuple[float, float]:
    longest: tuple[Place, Place] = (0, 0)
    run = longest
    for segment, lives in sorted(found, key=lambda one: one[0]):
        if lives is False:
            run = (run[0] if run[1] == segment.lo else segment.lo, segment.hi)
            longest = max(longest, run, key=lambda ends: ends[1] - ends[0])
    return float(longest[0]), float(longest[1])


def _fraction(number: sympy.Expr) -> Fraction:
    if number.is_Rational:
        return rational(number)
    mantissa, exponent = enclosed(number, precision=140).mid().man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)  # irrational: to 1e-40


def _enclosed(shape: Shape, segment: _Segment, box: Box) -> Interval:
    """The values of g on a segment, for all parameters of the box."""
    if segment.piece >= 0:
        local = _local(shape.pieces[segment.piece], segment)
        return shape.functions[segment.piece].enclose((local,))
    # Neighbours share the nearest floats, so that no gap lies between them.
    return shape.program.enclose(((float(segment.lo), float(segment.hi), 0), *box))


def _local(piece: Piece, segment: _Segment) -> Interval:
    """The local coordinates of a segment, rounded outward, within the piece."""
    low, high = cast(Fraction, segment.lo), cast(Fraction, segment.hi)
    if piece.tail:
        low, high = (-high, -low) if piece.tail_side < 0 else (low, high)
    else:
        left, right = _fraction(piece.lo), _fraction(piece.hi)
        low, high = (low - left) / (right - left), (high - left) / (right - left)
        if piece.mirrored:
            low, high = 1 - high, 1 - low
    lo, hi = rational_interval(low)[0], rational_interval(high)[1]
    if not (piece.tail or (piece.lo.is_Rational and piece.hi.is_Rational)):
        lo, hi = lo - 1e-15, hi + 1e-15
    return (max(lo, piece.start[0]), min(hi, piece.start[1]), 0)
