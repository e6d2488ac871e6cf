"""Criteria over a family's whole parameter space, and maps of where in it they hold.

A part is *proved* when the criterion holds for every point of it and *refuted* when it fails for
every point: at the same x, or by a certified share, limit or mean. Other parts are bisected. One
refuted candidate refutes the family.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

import sympy

from pdsearch.criteria.records import OVERTIME, RECORDS, Demands
from pdsearch.criteria.result import PROVED, REFUTED, UNDECIDED, Outcome, Result
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.interval import Box, Interval, rational_interval
from pdsearch.enclosure.pieces import Domain
from pdsearch.enclosure.search import Bisection, Budget, cut_at
from pdsearch.expression import exact, symbol
from pdsearch.expression.values import rational
from pdsearch.family import Candidate, Family, Range, at_share, in_range
from pdsearch.plain import plain


class FamilyShape(Shape):
    """The pieces and programs of a family, compiled once for all boxes of its parameters."""

    def __init__(self, family: Family, demands: Demands) -> None:
        self.family = family
        self.demands = demands
        self.names = family.parameters
        self.ranges = [cast(Range, family.space[name]) for name in self.names]
        # sympy simplifies more if it knows that a parameter is positive.
        symbols = tuple(
            sympy.Symbol(name, positive=True) if d.low > 0 else symbol(name)
            for name, d in zip(self.names, self.ranges, strict=True)
        )
        # In a bound candidate 0.7 is 7/10, which is not the float 0.7: the box contains both.
        box = tuple(
            (_decimal_interval(d.low)[0], _decimal_interval(d.high)[1], 0) for d in self.ranges
        )
        replaced = {symbol(s.name): s for s in symbols}
        super().__init__(
            family.expression.xreplace(replaced),
            domain=Domain(symbols, box),
            budget=Budget(boxes=2000, seconds=1.0),
        )
        self._results: dict[tuple[tuple[float, ...], str], Result] = {}

    def corner(self, ends: Iterable[int]) -> Box:
        """The point of the space at the least (0) or greatest (1) value of each parameter."""
        return tuple((side[end], side[end], 0) for side, end in zip(self.box, ends, strict=False))

    def candidate_at(self, box: Box) -> Candidate:
        """The candidate in the middle of a box, each range in its own scale."""
        sides = zip(self.names, self.ranges, box, strict=True)
        return self.family.bind(
            **{
                name: in_range(at_share(lo, hi, 0.5, log=d.log), d)
                for name, d, (lo, hi, _) in sides
            }
        )

    def result_for(self, criterion: str, candidate: Candidate) -> Result:
        """The criterion's result for one candidate, decided once."""
        key = (tuple(candidate.parameters.values()), criterion)
        if key not in self._results:
            shape = Shape(candidate.expression, budget=self.budget)
            self._results[key] = RECORDS[criterion].check(shape, self.demands)
        return self._results[key]


def _decimal_interval(value: float) -> Interval:
    """The floats around a number as a decimal, and the number itself."""
    nearest = float(value)
    lo, hi, _ = rational_interval(rational(exact(value)))
    return (min(lo, nearest), max(hi, nearest), 0)


@dataclass(frozen=True)
class Part:
    """A box of the parameter space with its verdict.

    Attributes:
        ranges: Low and high of each parameter.
        verdict: `proved`, `refuted` or `undecided`.
        volume: Its share of the space, on the scale of each range (linear or log).
    """

    ranges: Mapping[str, tuple[float, float]]
    verdict: str
    volume: float


@dataclass(frozen=True)
class FamilyMap:
    """A family's parameter box cut into parts for one criterion."""

    family: str
    criterion: str
    parts: tuple[Part, ...]

    def share(self, verdict: str) -> float:
        """The share of the space with a verdict, as a fraction."""
        return math.fsum(part.volume for part in self.parts if part.verdict == verdict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: shares and parts."""
        return {
            "family": self.family,
            "criterion": self.criterion,
            "shares": {name: self.share(name) for name in (PROVED, REFUTED, UNDECIDED)},
            "parts": [plain(asdict(part)) for part in self.parts],
        }


# ------------------------------------------------------------------------ the whole space


class _Share(NamedTuple):
    """A box of the space with its share of the volume."""

    box: Box
    volume: float


def decide_criterion(shape: FamilyShape, criterion: str, budget: Budget) -> Result:
    """Decide one criterion for the whole space: proved for all, or refuted with parameters."""
    with time_limit(OVERTIME * budget.seconds):
        found = _decided(shape, criterion, budget)
    return RECORDS[criterion].result(found, shape.demands)


def _decided(shape: FamilyShape, criterion: str, budget: Budget) -> Outcome:
    for candidate in _tried_first(shape):
        if budget.over():
            break  # a skipped corner may cost a counterexample, never prove anything
        if found := _counterexample(shape, criterion, candidate):
            return found
    if not shape.names:
        only = shape.result_for(criterion, shape.family.default)
        return Outcome(only.verdict, only.value, detail=only.detail)

    proved = Outcome(PROVED, detail="for every point of the parameter space")

    def judge(part: _Share) -> Outcome | None:
        if _over_a_part(shape, criterion, part.box, budget) == PROVED:
            return proved
        return _counterexample(shape, criterion, shape.candidate_at(part.box))

    left = 1.0
    for part, found in Bisection(
        [_Share(shape.box, 1.0)],
        judge=judge,
        cut=lambda part: _halves(shape, part),
        budget=budget,
    ):
        if found is None:
            shown = _shown_ranges(_ranges(shape, part.box))
            return Outcome(UNDECIDED, detail=f"{left:.1%} of the space left open, such as {shown}")
        if found.verdict == REFUTED:
            return found
        left -= part.volume
    return proved


def _tried_first(shape: FamilyShape) -> list[Candidate]:
    """The ends of all ranges, the middle, the defaults, and up to 16 corners."""
    corners = itertools.islice(itertools.product((0, 1), repeat=len(shape.names)), 16)
    least, most = (shape.corner(itertools.repeat(end)) for end in (0, 1))
    boxes = [least, most, shape.box, *map(shape.corner, corners)]
    candidates = [shape.candidate_at(box) for box in boxes]
    return list(dict.fromkeys([*candidates[:3], shape.family.default, *candidates[3:]]))


def _counterexample(shape: FamilyShape, criterion: str, candidate: Candidate) -> Outcome | None:
    result = shape.result_for(criterion, candidate)
    if result.verdict != REFUTED:
        return None
    return Outcome(
        REFUTED,
        value=result.value,
        witness={**candidate.parameters, **(result.witness or {})},
        detail=f"fails for {candidate.name}; {result.detail}".rstrip("; "),
    )


def _over_a_part(shape: FamilyShape, criterion: str, box: Box, budget: Budget) -> str:
    """The verdict on every point of a part of the space, which may cost few boxes.

    All remaining seconds are available to it: the first part also computes derivatives that all
    others use.
    """
    record, demands = RECORDS[criterion], shape.demands
    own = Budget(boxes=400, seconds=max(budget.left, 0.1))
    verdict = record.over(shape, demands, box, own).verdict
    budget.used += own.used
    if verdict != UNDECIDED or record.claim is None:
        return verdict
    # Where one candidate fails, all others of the part may fail too.
    witness = shape.result_for(criterion, shape.candidate_at(box)).witness
    try:
        fails = witness is not None and record.claim(demands).fails(shape, witness["x"], box)
    except OutOfReachError:
        fails = False
    return REFUTED if fails else UNDECIDED


def _halves(shape: FamilyShape, part: _Share) -> list[_Share] | None:
    """Halves across the side that is widest in units of the space, each in its own scale."""
    widest, best, cut = 0.0, -1, 0.0
    for index, (side, whole, d) in enumerate(zip(part.box, shape.box, shape.ranges, strict=True)):
        middle = at_share(side[0], side[1], 0.5, log=d.log)
        if not side[0] < middle < side[1]:
            continue  # a fixed parameter, or ends with no float between them
        log = d.log and side[0] > 0
        extent = math.log(side[1] / side[0]) if log else side[1] - side[0]
        total = math.log(whole[1] / whole[0]) if log else whole[1] - whole[0]
        if extent / total > widest:
            widest, best, cut = extent / total, index, middle
    if best < 0 or widest < 2.0**-30:
        return None
    return [_Share(box, part.volume / 2) for box in cut_at(part.box, best, cut)]


def map_criterion(shape: FamilyShape, criterion: str, budget: Budget, *, parts: int) -> FamilyMap:
    """Cut the space into proved, refuted and undecided parts, largest undecided part first."""
    left = parts  # cuts; negative once no more can be made

    def judge(part: _Share) -> str | None:
        verdict = UNDECIDED if left < 0 else _over_a_part(shape, criterion, part.box, budget)
        return None if verdict == UNDECIDED else verdict

    def cut(part: _Share) -> list[_Share] | None:
        nonlocal left
        halves = None if left < 0 else _halves(shape, part)
        if halves is not None:
            left = left - 1 if budget.spend() else -1
        return None if left < 0 else halves

    with time_limit(OVERTIME * budget.seconds):
        found = list(Bisection([_Share(shape.box, 1.0)], judge=judge, cut=cut))
    return FamilyMap(
        shape.family.name,
        criterion,
        tuple(
            Part(_ranges(shape, part.box), verdict or UNDECIDED, part.volume)
            for part, verdict in found
        ),
    )


def _ranges(shape: FamilyShape, box: Box) -> dict[str, tuple[float, float]]:
    """The sides of a box, cut to the space: the box of all parameters ends a float beyond it."""
    sides = zip(shape.names, box, shape.ranges, strict=True)
    return {name: (max(lo, float(d.low)), min(hi, float(d.high))) for name, (lo, hi, _), d in sides}


def narrowed(maps: Sequence[FamilyMap], family: Family) -> dict[str, tuple[float, float]] | None:
    """The smallest ranges that hold every point not refuted by any of the maps.

    Returns:
        Ranges by parameter; None where nothing is left, because some map refutes the whole space or
        the maps together do.
    """
    ranges = {
        name: (float(d.low), float(d.high))
        for name, d in cast("Mapping[str, Range]", family.space).items()
    }
    for one in maps:
        left = [part for part in one.parts if part.verdict != REFUTED]
        if not left:
            return None
        for name, (low, high) in ranges.items():
            ranges[name] = (
                max(low, min(part.ranges[name][0] for part in left)),
                min(high, max(part.ranges[name][1] for part in left)),
            )
    return None if any(low > high for low, high in ranges.values()) else ranges


# ------------------------------------------------------------- before any candidate is drawn


@dataclass(frozen=True)
class FamilyGate:
    """What is known of all candidates of a family before the first is drawn.

    Attributes:
        proved: Required criteria that hold for every point of the space.
        ranges: Low and high of the parameters whose range can be narrowed: outside it a
            required criterion fails.
        hopeless: Why no candidate can pass; empty if some may.
    """

    proved: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    hopeless: str = ""

    @property
    def known(self) -> dict[str, str]:
        """What `gate` takes as `known`."""
        return dict.fromkeys(self.proved, PROVED)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` reads it back."""
        return cast("dict[str, Any]", plain(asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FamilyGate":
        """Read what `to_dict` wrote."""
        ranges = {name: (float(low), float(high)) for name, (low, high) in data["ranges"].items()}
        return cls(tuple(data["proved"]), ranges, data["hopeless"])


def family_gate(
    shape: FamilyShape, criteria: Sequence[str], budget: Budget, *, parts: int
) -> FamilyGate:
    """Decide the criteria for the whole space, and map those that some candidates fail.

    Args:
        shape: The family's.
        criteria: Those required and certified.
        budget: Boxes for each decision and each map, seconds for all of them. A criterion that is
            not reached in time is decided for each candidate instead. Only whole steps can be
            interrupted: a hard derivative is completed.
        parts: The most parts of a map.
    """
    proved: list[str] = []
    maps: list[FamilyMap] = []
    for name in criteria:
        if budget.left <= 0.0:
            break
        result = decide_criterion(shape, name, _half(budget))
        if result.verdict == PROVED:
            proved.append(name)
        elif result.verdict == REFUTED and not shape.names:
            return FamilyGate(hopeless=_why(shape, name, "fails it"))
        elif result.verdict == REFUTED:
            # If no candidate was found to fail, a map would find no part that fails.
            found = map_criterion(shape, name, _half(budget), parts=parts)
            if narrowed([found], shape.family) is None:
                return FamilyGate(hopeless=_why(shape, name, "fails it with any parameters"))
            maps.append(found)
    ranges = narrowed(maps, shape.family)
    if ranges is None:
        each = [
            f"{one.criterion} only within {_shown_ranges(narrowed([one], shape.family) or {})}"
            for one in maps
        ]
        return FamilyGate(hopeless=f"no parameters can pass all criteria: {'; '.join(each)}")
    whole = narrowed([], shape.family) or {}
    return FamilyGate(
        tuple(proved), {name: ends for name, ends in ranges.items() if ends != whole[name]}
    )


def _half(budget: Budget) -> Budget:
    """The same number of boxes, and half of the seconds that remain."""
    return Budget(boxes=budget.boxes, seconds=max(budget.left, 0.0) / 2)


def _why(shape: FamilyShape, criterion: str, how: str) -> str:
    """Say that no candidate passes a criterion, with the evidence against the default one."""
    default = shape.family.default
    result = shape.result_for(criterion, default)
    evidence = []
    place = (result.witness or {}).get("x")
    if place is not None:
        ends = [f"{end:.8g}" for end in (place if isinstance(place, tuple) else (place,))]
        evidence.append(f"x = {ends[0]}" if len(ends) == 1 else f"x in [{', '.join(ends)}]")
    if result.value is not None:
        values = result.value if isinstance(result.value, tuple) else (result.value,)
        evidence.append("value " + " to ".join(dict.fromkeys(f"{value:.6g}" for value in values)))
    shown = f"; {default.name}: {', '.join(evidence)}" if evidence else ""
    return f"{criterion} is required, and the family {how} ({result.statement}{shown})"


def _shown_ranges(ranges: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} in [{low:.6g}, {high:.6g}]" for name, (low, high) in ranges.items())
