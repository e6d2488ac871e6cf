"""The boxes of a proof, to be drawn: intervals of x on each of which a bound decided."""

import itertools
import math
from dataclasses import dataclass

from pdsearch.criteria.decide import Claim
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.search import minimum


@dataclass(frozen=True)
class ProofBox:
    """An interval of x and a certified enclosure of g over it.

    Attributes:
        x: Its ends, to the nearest float; infinite at the ends of the line.
        g: A lower and an upper bound of g there.
    """

    x: tuple[float, float]
    g: tuple[float, float]


def boxes_of(shape: Shape, claim: Claim) -> tuple[ProofBox, ...]:
    """The boxes of a claim's proof from left to right; none where it is not proved by them.

    What holds at the single points where pieces meet is decided by exact arithmetic and is no box.

    Raises:
        OutOfReachError: The time is up.
    """
    found = []
    for index, function in enumerate(shape.functions):
        ends: set[float] = set(function.start[:2])
        for asked, floor in claim.floors(shape, index):
            leaves: list[tuple[iv.Interval, ...]] = []
            low = minimum(asked, shape.budget.fresh(), above=floor, below=floor, leaves=leaves)
            if not (low.complete and low.lo >= floor):
                return ()
            ends |= {end for ((left, right, _),) in leaves for end in (left, right)}
        for left, right in itertools.pairwise(sorted(ends)):
            places = sorted(float(shape.x_at(index, end)) for end in (left, right))
            bounds = []
            for oriented in (function, function.negated):
                lo, _, flag = oriented.lower(((left, right, 0),))
                bounds.append(-math.inf if flag & iv.UNDEFINED else lo)
            found.append(ProofBox((places[0], places[1]), (bounds[0], -bounds[1])))
    return tuple(sorted(found, key=lambda box: box.x))
