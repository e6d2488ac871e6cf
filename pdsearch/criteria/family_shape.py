"""A family over the box of its parameters, and the candidates in it."""

from fractions import Fraction
from typing import cast

import sympy

from pdsearch.criteria.records import RECORDS, Demands
from pdsearch.criteria.result import Result
from pdsearch.criteria.shape import Box, Shape
from pdsearch.enclosure.interval import Interval, rational_interval
from pdsearch.enclosure.pieces import Domain
from pdsearch.enclosure.search import Budget
from pdsearch.expression import exact, symbol
from pdsearch.family import Candidate, Family, Range, at_share, in_range


class FamilyShape(Shape):
    """A family's pieces and programs, made once for all boxes of its parameters."""

    def __init__(self, family: Family, demands: Demands) -> None:
        self.family = family
        self.demands = demands
        self.names = family.parameters
        self.ranges = [cast(Range, family.space[name]) for name in self.names]
        # A parameter that is known to be positive simplifies better.
        symbols = tuple(
            sympy.Symbol(name, positive=True) if d.low > 0 else symbol(name)
            for name, d in zip(self.names, self.ranges, strict=True)
        )
        # A bound candidate's 0.7 is 7/10, which is not the float 0.7: the box holds both.
        box = tuple(
            (_decimal_interval(d.low)[0], _decimal_interval(d.high)[1], 0) for d in self.ranges
        )
        replaced = {symbol(s.name): s for s in symbols}
        super().__init__(
            cast(sympy.Expr, family.expression.xreplace(replaced)),
            domain=Domain(symbols, box),
            budget=Budget(boxes=2000, seconds=1.0),
        )
        self._results: dict[tuple[tuple[float, ...], str], Result] = {}

    def corner(self, end: int) -> Box:
        """The point of the space at which every parameter is least (end 0) or greatest (end 1)."""
        return tuple((side[end], side[end], 0) for side in self.box)

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
        """The criterion's result for one candidate, kept."""
        key = (tuple(candidate.parameters.values()), criterion)
        if key not in self._results:
            shape = Shape(candidate.expression, budget=self.budget)
            self._results[key] = RECORDS[criterion].check(shape, self.demands)
        return self._results[key]


def _decimal_interval(value: float) -> Interval:
    """The floats around a number as it is written."""
    number = exact(value)
    nearest, written = float(value), Fraction(int(number.p), int(number.q))
    lo, hi, _ = rational_interval(written)
    return (min(lo, nearest), max(hi, nearest), 0)
