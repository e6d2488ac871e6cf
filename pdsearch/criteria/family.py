"""Criteria over a whole parameter box, and the box cut into where they hold and where not.

A box of parameters is *proved* when the criterion holds for every point of it, *refuted* when it
fails for every point (the same x fails for all of them, or a certified share or integral does),
and is bisected otherwise. One refuted candidate refutes the family.
"""

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pdsearch.criteria.certified import OVERTIME
from pdsearch.criteria.family_shape import CERTIFIED, Box, FamilyShape, between
from pdsearch.criteria.over_box import over_a_box
from pdsearch.criteria.result import PROVED, REFUTED, UNDECIDED, Result
from pdsearch.enclosure.clock import time_limit
from pdsearch.enclosure.search import Budget
from pdsearch.family import Candidate, Family

__all__ = [
    "CERTIFIED",
    "FamilyGate",
    "FamilyMap",
    "FamilyShape",
    "Part",
    "decide_criterion",
    "family_gate",
    "map_criterion",
    "narrowed",
]


@dataclass(frozen=True)
class Part:
    """A box of the parameters' space with its verdict.

    Attributes:
        ranges: low and high of each parameter.
        verdict: `proved`, `refuted` or `undecided`.
        volume: its share of the space, in the distributions' own scales (log where log).
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

    @property
    def verdict(self) -> str:
        """`proved` if all of it is, `refuted` if any of it is, else `undecided`."""
        found = {part.verdict for part in self.parts}
        return PROVED if found == {PROVED} else (REFUTED if REFUTED in found else UNDECIDED)

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


def decide_criterion(shape: FamilyShape, criterion: str, budget: Budget) -> Result:
    """Decide one criterion for the whole space: proved for all, or refuted with parameters."""
    with time_limit(OVERTIME * budget.seconds):
        return _decided(shape, criterion, budget)


def _decided(shape: FamilyShape, criterion: str, budget: Budget) -> Result:
    demands = shape.demands
    corners = [shape.candidate_at(shape.box, share) for share in (0.0, 1.0, 0.5)]
    corners += [shape.family.default, *_other_corners(shape)]
    for candidate in corners:
        if budget.over():
            break  # a corner that was not looked at is a counterexample less, no proof more
        result = shape.bound_result(criterion, candidate)
        if result.verdict == REFUTED:
            return demands.result(
                criterion,
                REFUTED,
                value=result.value,
                witness={**candidate.parameters, **(result.witness or {})},
                detail=f"fails for {candidate.name}; {result.detail}".rstrip("; "),
            )
    if not shape.names:
        only = shape.bound_result(criterion, shape.family.default)
        return demands.result(criterion, only.verdict, value=only.value, detail=only.detail)
    counter = itertools.count()
    heap = [(-1.0, next(counter), shape.box)]
    left = 0.0
    while heap:
        volume, _, box = heapq.heappop(heap)
        part = _part(budget)
        verdict, witness = over_a_box(shape, criterion, box, part)
        budget.used += part.used
        if verdict == PROVED:
            continue
        middle = shape.candidate_at(box)
        result = shape.bound_result(criterion, middle)
        if result.verdict == REFUTED:
            found = {**middle.parameters, **(result.witness or {})}
            return demands.result(
                criterion, REFUTED, value=result.value, witness=found,
                detail=f"fails for {middle.name}",
            )  # fmt: skip
        del witness
        parts = _split(shape, box)
        if parts is None or not budget.spend() or budget.over():
            left = -volume + sum(-v for v, _, _ in heap)
            shown = ", ".join(
                f"{name} in [{lo:.6g}, {hi:.6g}]"
                for name, (lo, hi, _) in zip(shape.names, box, strict=True)
            )
            return demands.result(
                criterion, UNDECIDED, detail=f"{left:.1%} of the space left open, such as {shown}"
            )
        for half in parts:
            heapq.heappush(heap, (volume / 2, next(counter), half))
    return demands.result(criterion, PROVED, detail="for every point of the parameters' space")


def _part(budget: Budget) -> Budget:
    """What one box of the space may cost: few boxes, and the seconds that are left.

    No share of the seconds: the first box also pays for derivatives that all others use.
    """
    return Budget(boxes=400, seconds=max(budget.seconds - budget.elapsed, 0.1))


def _other_corners(shape: FamilyShape) -> list[Candidate]:
    if len(shape.names) < 2:
        return []
    found = []
    for ends in itertools.islice(itertools.product((0, 1), repeat=len(shape.names)), 16):
        box = tuple((side[end], side[end], 0) for side, end in zip(shape.box, ends, strict=True))
        found.append(shape.candidate_at(box))
    return found


def _split(shape: FamilyShape, box: Box) -> tuple[Box, Box] | None:
    """Halves across the side that is widest in units of the space, in its own scale."""
    widest, size, cut = -1, 0.0, 0.0
    for index, (side, whole, d) in enumerate(zip(box, shape.box, shape.distributions, strict=True)):
        middle = between(side[0], side[1], log=d.log)
        if not side[0] < middle < side[1]:
            continue  # a parameter that is held at a value, or as fine as floats are
        log = d.log and side[0] > 0
        extent = math.log(side[1] / side[0]) if log else side[1] - side[0]
        total = math.log(whole[1] / whole[0]) if log else whole[1] - whole[0]
        if extent / total > size:
            widest, size, cut = index, extent / total, middle
    if widest < 0 or size < 2.0**-30:
        return None
    lo, hi, _ = box[widest]
    first, second = list(box), list(box)
    first[widest], second[widest] = (lo, cut, 0), (cut, hi, 0)
    return tuple(first), tuple(second)


def map_criterion(
    shape: FamilyShape, criterion: str, budget: Budget, *, parts: int = 400
) -> FamilyMap:
    """Cut the space into proved, refuted and undecided parts, largest undecided part first."""
    with time_limit(OVERTIME * budget.seconds):
        return _mapped(shape, criterion, budget, parts=parts)


def _mapped(shape: FamilyShape, criterion: str, budget: Budget, *, parts: int) -> FamilyMap:
    counter = itertools.count()
    done: list[tuple[Box, str, float]] = []
    heap = [(-1.0, next(counter), shape.box)]
    while heap:
        volume, _, box = heapq.heappop(heap)
        part = _part(budget)
        verdict, _ = over_a_box(shape, criterion, box, part)
        budget.used += part.used
        halves = _split(shape, box) if verdict == UNDECIDED else None
        if verdict != UNDECIDED or halves is None:
            done.append((box, verdict, -volume))
        elif len(done) + len(heap) >= parts or not budget.spend() or budget.over():
            done.append((box, UNDECIDED, -volume))
            done += [(other, UNDECIDED, -v) for v, _, other in heap]
            break
        else:
            for half in halves:
                heapq.heappush(heap, (volume / 2, next(counter), half))
    return FamilyMap(
        shape.family.name,
        criterion,
        tuple(Part(_ranges(shape, box), verdict, volume) for box, verdict, volume in done),
    )


def _ranges(shape: FamilyShape, box: Box) -> dict[str, tuple[float, float]]:
    """A box's sides within the space: the box of all parameters ends a float beyond it."""
    sides = zip(shape.names, box, shape.distributions, strict=True)
    return {name: (max(lo, float(d.low)), min(hi, float(d.high))) for name, (lo, hi, _), d in sides}


def narrowed(maps: Sequence[FamilyMap], family: Family) -> dict[str, tuple[float, float]] | None:
    """The smallest ranges that hold every point not refuted by any of the maps.

    Returns:
        Ranges by parameter; None where nothing is left: some map refutes all of the space, or what
        one map leaves another refutes.
    """
    ranges = {
        name: (float(cast(Any, d).low), float(cast(Any, d).high))
        for name, d in family.space.items()
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
        proved: required criteria that hold for every point of the space.
        ranges: low and high of the parameters that need not be drawn from their whole range: what
            lies outside fails a required criterion.
        hopeless: why no candidate can pass; empty if some may.
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
        shape: the family's.
        criteria: those required and certified.
        budget: boxes for each decision and each map, seconds for all of it. A criterion whose turn
            comes too late is left to each candidate, which is never wrong. Only whole steps can be
            broken off: a hard derivative is taken to its end.
        parts: how many parts a map has at most.
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
    """A criterion that no candidate passes, in words, with the evidence of the default one."""
    default = shape.family.default
    result = shape.bound_result(criterion, default)
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
