"""Criteria over a whole parameter box, and the box cut into where they hold and where not.

A box of parameters is *proved* when the criterion holds for every point of it, *refuted* when it
fails for every point (the same x fails for all of them, or a certified share or integral does),
and is bisected otherwise. One refuted candidate refutes the family.
"""

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pdsearch.criteria.over_box import CERTIFIED, OVER_A_BOX, Box, FamilyShape, between
from pdsearch.criteria.result import PROVED, REFUTED, UNDECIDED, Result
from pdsearch.enclosure.search import Budget
from pdsearch.family import Candidate, Family

__all__ = [
    "CERTIFIED",
    "FamilyMap",
    "FamilyShape",
    "Part",
    "decide_criterion",
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
    demands = shape.demands
    corners = [shape.candidate_at(shape.box, share) for share in (0.0, 1.0, 0.5)]
    corners += [shape.family.default, *_other_corners(shape)]
    for candidate in corners:
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
        part = Budget(boxes=400, seconds=max(budget.seconds / 10, 0.1))
        verdict, witness = OVER_A_BOX[criterion](shape, box, part)
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
    widest, size = -1, 0.0
    for index, (side, whole, d) in enumerate(zip(box, shape.box, shape.distributions, strict=True)):
        if side[0] == side[1]:
            continue
        log = d.log and side[0] > 0
        extent = math.log(side[1] / side[0]) if log else side[1] - side[0]
        total = math.log(whole[1] / whole[0]) if log else whole[1] - whole[0]
        if total > 0 and extent / total > size:
            widest, size = index, extent / total
    if widest < 0 or size < 2.0**-30:
        return None
    lo, hi, _ = box[widest]
    middle = between(lo, hi, log=shape.distributions[widest].log)
    if not lo < middle < hi:
        return None
    first, second = list(box), list(box)
    first[widest], second[widest] = (lo, middle, 0), (middle, hi, 0)
    return tuple(first), tuple(second)


def map_criterion(
    shape: FamilyShape, criterion: str, budget: Budget, *, parts: int = 400
) -> FamilyMap:
    """Cut the space into proved, refuted and undecided parts, largest undecided part first."""
    counter = itertools.count()
    done: list[tuple[Box, str, float]] = []
    heap = [(-1.0, next(counter), shape.box)]
    while heap:
        volume, _, box = heapq.heappop(heap)
        part = Budget(boxes=400, seconds=max(budget.seconds / 10, 0.1))
        verdict, _ = OVER_A_BOX[criterion](shape, box, part)
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
        tuple(
            Part(
                {name: (lo, hi) for name, (lo, hi, _) in zip(shape.names, box, strict=True)},
                verdict,
                volume,
            )
            for box, verdict, volume in done
        ),
    )


def narrowed(maps: Sequence[FamilyMap], family: Family) -> dict[str, tuple[float, float]] | None:
    """The smallest ranges that hold every point not refuted by any of the maps.

    Returns:
        Ranges by parameter; None where some map refutes all of the space.
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
    return ranges
