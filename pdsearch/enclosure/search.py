"""Branch and bound: the loop of every search, and certified minima of a function on a piece.

A minimum is searched best-first: the box with the lowest bound comes next. A box is closed when its
enclosure decides. Otherwise derivatives of definite sign move it to a face, the mean-value form
tightens its bound, and it is cut in two. Witnesses are exact points whose value was enclosed.
"""

import functools
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import sympy

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import has_long_power, size, tidy
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Box, Interval
from pdsearch.enclosure.nodes import (
    POSITIVE,
    derivative,
    elasticity,
    log_derivative,
    prepare,
    tail_form,
)
from pdsearch.enclosure.numbers import sign_at
from pdsearch.enclosure.pieces import Domain, Piece, s, y
from pdsearch.enclosure.program import Program
from pdsearch.expression import x

TOLERANCE = 1e-7
"""A search ends when the enclosure of a minimum is this narrow, relative to 1 + its size."""


@dataclass
class Budget:
    """What a decision may cost, in boxes and in seconds. Shared by reference."""

    boxes: int = 20_000
    seconds: float = 5.0
    _started: float = field(default_factory=time.monotonic, repr=False)
    used: int = 0

    def spend(self) -> bool:
        """Count one box; False once the budget is spent."""
        self.used += 1
        return self.used <= self.boxes and not self.over()

    @property
    def left(self) -> float:
        """The seconds that remain."""
        return self.seconds - (time.monotonic() - self._started)

    def over(self) -> bool:
        """Whether the time is spent."""
        return self.left <= 0.0 or clock.time_is_up()

    def fresh(self) -> "Budget":
        """A new budget of the same size, its clock started now."""
        return Budget(boxes=self.boxes, seconds=self.seconds)


B = TypeVar("B")
V = TypeVar("V")


class Bisection(Generic[B, V]):
    """Boxes that are cut in two until each is judged.

    Iterate over it for pairs of a box and its verdict; the verdict is None where the box was not
    cut any further.

    Args:
        boxes: What to begin with.
        judge: The verdict on a box, or None to cut it.
        cut: The parts of a box, or None to leave it uncut.
        budget: Each cut spends a box of it. Once it is spent, boxes are left uncut.
        key: The box with the least key comes next, the oldest first among equals.
    """

    def __init__(
        self,
        boxes: Iterable[B],
        *,
        judge: Callable[[B], V | None],
        cut: Callable[[B], Sequence[B] | None],
        budget: Budget | None = None,
        key: Callable[[B], float] = lambda _: 0.0,
    ) -> None:
        self.judge, self.cut, self.budget, self.key = judge, cut, budget, key
        self._count = itertools.count()
        self._heap: list[tuple[float, int, B]] = []
        for box in boxes:
            self._push(box)

    def _push(self, box: B) -> None:
        heapq.heappush(self._heap, (self.key(box), next(self._count), box))

    def __iter__(self) -> Iterator[tuple[B, V | None]]:
        while self._heap:
            _, _, box = heapq.heappop(self._heap)
            verdict = self.judge(box)
            parts = self.cut(box) if verdict is None else None
            if parts is None or not (self.budget is None or self.budget.spend()):
                yield box, verdict
            else:
                for part in parts:
                    self._push(part)

    @property
    def open(self) -> list[B]:
        """The boxes that have not been judged yet."""
        return [box for _, _, box in self._heap]


Point = tuple[float, ...]
"""Coordinates in the piece's own variable and the parameters; floats, hence exact rationals."""


@dataclass(frozen=True)
class Minimum:
    """A certified enclosure ``[lo, hi]`` of the infimum over a piece.

    ``point`` is where a value ≤ ``hi`` was certified; ``box`` the box with the lowest bound left,
    or if it is not complete the smallest that is open.
    ``complete`` is False where the budget ran out or an undefined point could not be excluded.
    """

    lo: float
    hi: float
    point: Point | None
    box: Box
    complete: bool


class Smooth:
    """A function on a piece, with its derivatives compiled when they are first needed."""

    def __init__(
        self,
        local: sympy.Expr,
        variable: sympy.Symbol,
        domain: Domain,
        start: Interval,
        *,
        plain: sympy.Expr | None = None,
        depth: int = 0,
    ) -> None:
        self.local = local
        self.plain = plain
        self.variables = (variable, *domain.symbols)
        self.domain = domain
        self.start = start
        self.depth = depth
        self.tail = variable == y
        box = (start, *domain.box)
        self.program = Program(local, self.variables, tail=box if self.tail else None)
        self._other = (
            Program(plain, self.variables) if plain is not None and plain != local else None
        )
        self._partials: dict[int, Smooth | str] = {}
        self._ends: dict[float, int | None] = {}

    @classmethod
    def on(cls, piece: Piece, domain: Domain) -> "Smooth":
        """The piece's formula."""
        return cls(piece.local, piece.variable, domain, piece.start, plain=piece.plain)

    @functools.cached_property
    def negated(self) -> "Smooth":
        """The negative of the function on the same piece."""
        return self._with(-self.local, None if self.plain is None else -self.plain, self.depth)

    def _with(self, local: sympy.Expr, plain: sympy.Expr | None, depth: int) -> "Smooth":
        """Another function on the same piece."""
        variable = self.variables[0]
        return Smooth(local, variable, self.domain, self.start, plain=plain, depth=depth)

    @property
    def box(self) -> Box:
        """Everything the function is defined over."""
        return (self.start, *self.domain.box)

    def partial(self, index: int) -> "Smooth":
        """The derivative in one variable.

        Raises:
            OutOfReachError: It would be too large, or the time is up.
        """
        known = self._partials.get(index)
        if known is None:
            try:
                known = self._partial(index)
            except OutOfReachError as error:
                if clock.time_is_up():
                    raise  # another decision may have the time
                known = str(error)
            self._partials[index] = known
        if isinstance(known, str):
            raise OutOfReachError(known)
        return known

    def _partial(self, index: int) -> "Smooth":
        slope = self._derivative(self.variables[index])
        plain = None
        if self.plain is not None and self.depth == 0:
            plain = prepare(derivative(self.plain, self.variables[index]))
        return self._with(slope, plain, self.depth + 1)

    def _derivative(self, variable: sympy.Symbol) -> sympy.Expr:
        """The derivative; of a product without zeros, the product times that of its logarithm."""
        local = self.local
        if isinstance(local, sympy.Add):
            moving = [term for term in local.args if term.has(variable)]
            local = moving[0] if len(moving) == 1 else local
        product = isinstance(local, sympy.Mul | sympy.Pow)
        if product and all(self._away_from_zero(f) for f in sympy.Mul.make_args(local)):
            outward = variable == y
            rate = (elasticity if outward else log_derivative)(local, variable)
            if rate is not None:
                rate = prepare(tidy(prepare(rate)))
                if outward:
                    local, rate = local / y, tail_form(rate, y)
                return sympy.Mul(local, rate, evaluate=False)
        slope = prepare(tidy(prepare(derivative(local, variable))))
        return tail_form(slope, y) if self.tail else slope

    def _away_from_zero(self, factor: sympy.Expr) -> bool:
        base = factor.as_base_exp()[0]
        if base.is_number or isinstance(base, POSITIVE):
            return True
        if size(base) < 60 and not has_long_power(base) and base.is_positive:
            return True
        return iv.strict_sign(Program(base, self.variables).enclose(self.box)) is not None

    def end_sign(self, end: float) -> int | None:
        """The exact sign at s = 0 or s = 1, without parameters."""
        if end not in self._ends:
            sign = None
            if self.variables == (s,):
                sign = sign_at(self.local.xreplace({s: x}), sympy.Integer(int(end)))
            self._ends[end] = sign
        return self._ends[end]

    def slope_sign(self, box: Sequence[Interval], index: int) -> int:
        """1 where the partial derivative is ≥ 0 all over the box, -1 where ≤ 0, else 0."""
        try:
            partial = self.partial(index)
        except OutOfReachError:
            return 0
        value = partial.enclose(box)
        sign = iv.weak_sign(value)
        if sign is not None or value[2]:
            return sign or 0
        # Bisection never clears a zero of the derivative at an end of the piece: there the next
        # derivative decides.
        if len(box) == 1 and self.depth < 3 and self.variables[0] == s:
            for end in (0.0, 1.0):
                if box[0][0] <= end <= box[0][1] and partial.end_sign(end) == 0:
                    bend = partial.slope_sign(box, 0)
                    if bend:
                        return bend if end == 0.0 else -bend
        return 0

    def enclose(self, box: Sequence[Interval]) -> Interval:
        """The natural enclosure, of both forms of the formula."""
        value = self.program.enclose(box)
        if self._other is None or value[0] == value[1]:
            return value
        other = self._other.enclose(box)
        # The formula as written decides where it is defined: simplifying may remove a pole or a
        # condition. It may also widen the arguments' enclosures and raise a needless flag.
        lo, hi = max(value[0], other[0]), min(value[1], other[1])
        flag = value[2] | other[2] if other[2] else 0
        return (lo, hi, flag) if lo <= hi else (value[0], value[1], flag)

    def lower(self, box: Box) -> tuple[float, Box, int]:
        """A lower bound over the box, the face on which the minimum lies, and the flag."""
        lo, hi, flag = self.enclose(box)
        if flag or lo == hi:
            return lo, box, flag
        face = list(box)
        curved = False
        for index, (left, right, _) in enumerate(box):
            if left == right:
                continue
            sign = self.slope_sign(face, index)
            if sign > 0:
                face[index] = (left, left, 0)
            elif sign < 0 and right != math.inf:
                face[index] = (right, right, 0)
            elif sign == 0 and right != math.inf:
                curved = True
        moved = tuple(face)
        if moved != box:
            lo = max(lo, self.enclose(moved)[0])
            if lo < 0.0 and len(box) == 1 and moved[0][0] == moved[0][1] in (0.0, 1.0):
                sign_there = self.end_sign(moved[0][0])
                if sign_there is not None and sign_there >= 0:
                    lo = 0.0
        if curved and all(math.isfinite(v[1] - v[0]) for v in moved):
            lo = max(lo, self._mean_value(moved)[0])
        return lo, moved, flag

    def _mean_value(self, box: Box) -> Interval:
        middle = _corner(box)
        total = self.enclose([(m, m, 0) for m in middle])
        for index, (left, right, _) in enumerate(box):
            if left == right:
                continue
            try:
                slope = self.partial(index).enclose(box)
            except OutOfReachError:
                return iv.WHOLE
            if slope[2]:
                return iv.WHOLE
            m = middle[index]
            total = iv.add(total, iv.multiply(slope, iv.add((left, right, 0), (-m, -m, 0))))
        return total


def _middle(left: float, right: float) -> float:
    if right == math.inf:
        return max(2.0 * left, 1.0)
    if left > 0.0 and right / left > 4.0 and left >= 1e-3:
        return math.sqrt(left) * math.sqrt(right)
    return left + (right - left) / 2.0


def halves(box: Box, weights: Sequence[float]) -> tuple[Box, Box] | None:
    """The box cut across its widest side, sides measured in units of ``weights``."""
    widest, best, cut = 0.0, -1, 0.0
    for index, (left, right, _) in enumerate(box):
        middle = _middle(left, right)
        width = 1e6 if right == math.inf else (right - left) / weights[index]
        if left < middle < right and width > widest:
            widest, best, cut = width, index, middle
    return None if best < 0 else cut_at(box, best, cut)


def cut_at(box: Box, index: int, place: float) -> tuple[Box, Box]:
    """The two parts of a box that is cut across one side."""
    before, (left, right, _), after = box[:index], box[index], box[index + 1 :]
    return (*before, (left, place, 0), *after), (*before, (place, right, 0), *after)


def _corner(box: Sequence[Interval]) -> Point:
    return tuple(_middle(left, right) for left, right, _ in box)


def side_lengths(box: Sequence[Interval]) -> list[float]:
    """The units in which `halves` measures the sides of parts of a box; 1 where there is none."""
    return [(right - left) if right != math.inf and right > left else 1.0 for left, right, _ in box]


class _Bounded(NamedTuple):
    """A box with its lower bound and flag, and the face of it on which the minimum lies."""

    low: float
    face: Box
    undefined: bool
    box: Box


def minimum(
    function: Smooth,
    budget: Budget,
    *,
    above: float | None = None,
    below: float | None = None,
    box: Sequence[Interval] | None = None,
    leaves: list[Box] | None = None,
) -> Minimum:
    """Enclose the infimum of a function over its piece.

    Args:
        function: What to minimise.
        budget: Shared; boxes are counted in it.
        box: A part of the function's own box; all of it if None.
        above: Stop once the infimum is known to be ≥ this.
        below: Stop once a value below this (strictly) was certified.
        leaves: Receives the boxes that were left, which cover the whole. If the minimum is
            complete, each was closed by its own bound. Only for functions of one variable, because
            a box of several is cut on the face that it was moved to.
    """
    assert leaves is None or len(function.variables) == 1
    start = function.box if box is None else tuple(box)
    weights = side_lengths(start)
    best, point = math.inf, None

    def bounded(box: Box) -> _Bounded:
        nonlocal best, point
        lo, face, flag = function.lower(box)
        corner = _corner(face)
        value = function.enclose([(c, c, 0) for c in corner])
        if not value[2] and value[1] < best:
            best, point = value[1], corner
        undefined = bool(flag & iv.UNDEFINED)
        return _Bounded(-math.inf if undefined else lo, face, undefined, box)

    def closed(one: _Bounded) -> bool | None:
        if below is not None and best < below:
            return True
        if one.undefined:
            return None
        if above is not None and one.low >= above:
            return True
        low = min(one.low, best)
        narrow = best - low <= TOLERANCE * (1.0 + abs(best))
        return True if narrow and (above is None or low >= above) else None

    def cut(one: _Bounded) -> list[_Bounded] | None:
        parts = halves(one.face, weights)
        return None if parts is None or not budget.spend() else [bounded(part) for part in parts]

    search = Bisection([bounded(start)], judge=closed, cut=cut, key=lambda one: one.low)
    lowest, complete = next(iter(search))
    left = [lowest, *search.open]
    if leaves is not None:
        leaves.extend(one.box for one in left)
    shown = lowest.face if complete else _smallest(left, above)
    return Minimum(min(lowest.low, best), best, point, shown, complete=complete is not None)


def _smallest(boxes: Sequence[_Bounded], above: float | None) -> Box:
    """The smallest box that is not closed by its own bound."""
    open_ = [one.face for one in boxes if above is None or one.low < above or one.undefined]
    return min(open_ or [boxes[0].face], key=lambda box: max(hi - lo for lo, hi, _ in box))
