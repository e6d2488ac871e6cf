"""The boxes of a proof, to be drawn: intervals of x on each of which a bound decided."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from sympy import oo

from pdsearch.criteria.certified import OVERTIME
from pdsearch.criteria.result import SLACK, Demands
from pdsearch.criteria.shape import Shape, negated
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.search import Smooth, minimum

PROVED_BY_BOXES = ("sign_preserving", "bounded", "non_decreasing")
"""Criteria whose proof is a bound on each of some intervals."""


@dataclass(frozen=True)
class ProofBox:
    """An interval of x and a certified enclosure of g over it.

    Attributes:
        x: its ends, to the nearest float; infinite at the ends of the line.
        g: a lower and an upper bound of g there.
    """

    x: tuple[float, float]
    g: tuple[float, float]


def boxes_of(shape: Shape, demands: Demands, criterion: str) -> tuple[ProofBox, ...]:
    """The boxes of a criterion's proof from left to right; none where it is not proved by them.

    What holds at the single points where pieces meet is decided by exact arithmetic and is no box.
    """
    with time_limit(OVERTIME * shape.budget.seconds):
        try:
            return _boxes_of(shape, demands, criterion)
        except OutOfReachError:
            return ()


def _boxes_of(shape: Shape, demands: Demands, criterion: str) -> tuple[ProofBox, ...]:
    found = []
    for index, function in enumerate(shape.functions):
        ends: set[float] = set(function.start[:2])
        for asked, floor in _questions(shape, demands, criterion, index):
            leaves: list[tuple[iv.Interval, ...]] = []
            low = minimum(asked, shape.budget.fresh(), above=floor, below=floor, leaves=leaves)
            if not (low.complete and low.lo >= floor):
                return ()
            ends |= {end for ((left, right, _),) in leaves for end in (left, right)}
        opposite = negated(function)
        for left, right in itertools.pairwise(sorted(ends)):
            places = sorted(_place(shape, index, end) for end in (left, right))
            bounds = []
            for oriented in (function, opposite):
                lo, _, flag = oriented.lower(((left, right, 0),))
                bounds.append(-math.inf if flag & iv.UNDEFINED else lo)
            found.append(ProofBox((places[0], places[1]), (bounds[0], -bounds[1])))
    return tuple(sorted(found, key=lambda box: box.x))


def _questions(
    shape: Shape, demands: Demands, criterion: str, index: int
) -> Iterator[tuple[Smooth, float]]:
    """Functions on a piece that must not fall below a number."""
    piece, function = shape.pieces[index], shape.functions[index]
    if criterion == "sign_preserving":
        yield function, 0.0
    elif criterion == "bounded":
        floor = -(demands.number("bounded") + SLACK)
        yield function, floor
        yield negated(function), floor
    elif function.local.has(piece.variable):
        slope = function.partial(0)
        yield (slope if piece.rising else negated(slope)), 0.0


def _place(shape: Shape, index: int, local: float) -> float:
    if math.isinf(local):
        return -math.inf if shape.pieces[index].lo is -oo else math.inf
    place = shape.x_at(index, local)
    assert place is not None
    return float(place)
