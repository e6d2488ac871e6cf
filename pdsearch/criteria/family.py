"""Criteria over a family's whole parameter space, and the space cut into where they hold.

A part is *proved* when the criterion holds for every point of it and *refuted* when it fails for
every point: the same x fails for all of them, or a certified share, limit or mean does. Other parts
are bisected. One refuted candidate refutes the family.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from pdsearch.criteria.family_shape import FamilyShape
from pdsearch.criteria.records import OVERTIME, RECORDS
from pdsearch.criteria.result import PROVED, REFUTED, UNDECIDED, Outcome, Result
from pdsearch.criteria.shape import Box
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.search import Bisection, Budget
from pdsearch.family import Candidate, Family, Range, at_share


@dataclass(frozen=True)
class Part:
    """A box of the parameters' space with its verdict.

    Attributes:
        ranges: Low and high of each parameter.
        verdict: `proved`, `refuted` or `undecided`.
        volume: Its share of the space, in the distributions' own scales (log where log).
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
            "parts": [
                {
                    "ranges": {name: list(ends) for name, ends in part.ranges.items()},
                    "verdict": part.verdict,
                    "volume": part.volume,
                }
                for part in self.parts
            ],
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
            break  # a corner that was not looked at is a counterexample less, no proof more
        if found := _counterexample(shape, criterion, candidate):
            return found
    if not shape.names:
        only = shape.result_for(criterion, shape.family.default)
        return Outcome(only.verdict, only.value, detail=only.detail)

    proved = Outcome(PROVED, detail="for every point of the parameters' space")

    def judge(part: _Share) -> Outcome | None:
        if _over_a_part(shape, criterion, part.box, budget) == PROVED:
            return proved
        return _counterexample(shape, criterion, shape.candidate_at(part.box))

    def cut(part: _Share) -> list[_Share] | None:
        parts = _halves(shape, part)
        return None if parts is None or not budget.spend() or budget.over() else parts

    left = 1.0
    for part, found in Bisection([_Share(shape.box, 1.0)], judge=judge, cut=cut):
        if found is None:
            shown = _said(_ranges(shape, part.box))
            return Outcome(UNDECIDED, detail=f"{left:.1%} of the space left open, such as {shown}")
        if found.verdict == REFUTED:
            return found
        left -= part.volume
    return proved


def _tried_first(shape: FamilyShape) -> list[Candidate]:
    """The ends of all ranges, the middle, the defaults, and up to 16 corners."""
    corners = itertools.islice(itertools.product((0, 1), repeat=len(shape.names)), 16)
    boxes = [
        *(shape.corner(end) for end in (0, 1)),
        shape.box,
        *(
            tuple((side[end], side[end], 0) for side, end in zip(shape.box, ends, strict=True))
            for ends in corners
        ),
    ]
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

    No share of the seconds: the first part also pays for derivatives that all others use.
    """
    record, demands = RECORDS[criterion], shape.demands
    own = Budget(boxes=400, seconds=max(budget.seconds - budget.elapsed, 0.1))
    verdict = record.over(shape, demands, box, own).verdict
    budget.used += own.used
    if verdict != UNDECIDED or record.claim is None:
        return verdict
    # Where one candidate fails, all others of the part may fail as well.
    witness = shape.result_for(criterion, shape.candidate_at(box)).witness
    try:
        fails = witness is not None and record.claim(demands).fails(shape, witness["x"], box)
    except OutOfReachError:
        fails = False
    return REFUTED if fails else UNDECIDED


def _halves(shape: FamilyShape, part: _Share) -> list[_Share] | None:
    """Halves across the side that is widest in units of the space, each in its own scale."""
    widest, size, cut = -1, 0.0, 0.0
    for index, (side, whole, d) in enumerate(zip(part.box, shape.box, shape.ranges, strict=True)):
        middle = at_share(side[0], side[1], 0.5, log=d.log)
        if not side[0] < middle < side[1]:
            continue  # a parameter that is held at a value, or as fine as floats are
        log = d.log and side[0] > 0
        extent = math.log(side[1] / side[0]) if log else side[1] - side[0]
        total = math.log(whole[1] / whole[0]) if log else whole[1] - whole[0]
        if extent / total > size:
            widest, size, cut = index, extent / total, middle
    if widest < 0 or size < 2.0**-30:
        return None
    lo, hi, _ = part.box[widest]
    before, after = part.box[:widest], part.box[widest + 1 :]
    return [
        _Share((*before, side, *after), part.volume / 2) for side in ((lo, cut, 0), (cut, hi, 0))
    ]


def map_criterion(
    shape: FamilyShape, criterion: str, budget: Budget, *, parts: int = 400
) -> FamilyMap:
    """Cut the space into proved, refuted and undecided parts, largest undecided part first."""
    cuts, spent = 0, False

    def judge(part: _Share) -> str | None:
        verdict = UNDECIDED if spent else _over_a_part(shape, criterion, part.box, budget)
        return None if verdict == UNDECIDED else verdict

    def cut(part: _Share) -> list[_Share] | None:
        nonlocal cuts, spent
        halves = None if spent else _halves(shape, part)
        spent = spent or (
            halves is not None and (cuts >= parts or not budget.spend() or budget.over())
        )
        if halves is None or spent:
            return None
        cuts += 1
        return halves

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
    """A box's sides within the space: the box of all parameters ends a float beyond it."""
    sides = zip(shape.names, box, shape.ranges, strict=True)
    return {name: (max(lo, float(d.low)), min(hi, float(d.high))) for name, (lo, hi, _), d in sides}


def narrowed(maps: Sequence[FamilyMap], family: Family) -> dict[str, tuple[float, float]] | None:
    """The smallest ranges that hold every point not refuted by any of the maps.

    Returns:
        Ranges by parameter; None where nothing is left: some map refutes all of the space, or what
        one map leaves another refutes.
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
    """What is known of all of a family's candidates before one is drawn.

    Attributes:
        proved: Required criteria that hold for every point of the space.
        ranges: Low and high of the parameters that need not be drawn from their whole range: what
            lies outside fails a required criterion.
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
        return {
            "proved": list(self.proved),
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "hopeless": self.hopeless,
        }

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
        budget: Boxes for each decision and each map, seconds for all of it. A criterion whose turn
            comes too late is left to each candidate, which is always right. Only whole steps can
            be interrupted: a hard derivative is taken to its end.
        parts: The most parts of a map.
    """
    proved: list[str] = []
    maps: list[FamilyMap] = []
    for name in criteria:
        left = budget.seconds - budget.elapsed
        if left <= 0.0:
            break
        result = decide_criterion(shape, name, Budget(boxes=budget.boxes, seconds=left / 2))
        if result.verdict == PROVED:
            proved.append(name)
        elif result.verdict == REFUTED and not shape.names:
            return FamilyGate(hopeless=_why(shape, name, "fails it"))
        elif result.verdict == REFUTED:
            # Where no candidate was found to fail, a map would find no part that does.
            left = max(budget.seconds - budget.elapsed, 0.0)
            found = map_criterion(
                shape, name, Budget(boxes=budget.boxes, seconds=left / 2), parts=parts
            )
            if narrowed([found], shape.family) is None:
                return FamilyGate(hopeless=_why(shape, name, "fails it with any parameters"))
            maps.append(found)
    ranges = narrowed(maps, shape.family)
    if ranges is None:
        each = [
            f"{one.criterion} only within {_said(narrowed([one], shape.family) or {})}"
            for one in maps
        ]
        return FamilyGate(hopeless=f"no parameters can pass all criteria: {'; '.join(each)}")
    whole = narrowed([], shape.family) or {}
    return FamilyGate(
        tuple(proved), {name: ends for name, ends in ranges.items() if ends != whole[name]}
    )


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


def _said(ranges: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} in [{low:.6g}, {high:.6g}]" for name, (low, high) in ranges.items())
