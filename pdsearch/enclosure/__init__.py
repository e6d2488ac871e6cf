"""Certified interval enclosures of expressions, and decisions built on them.

`program` compiles an expression for float intervals and Arb balls, `nodes` brings it into a form
with tight enclosures, `pieces` cuts the real line where it bends or jumps, `search` is branch and
bound, `limits` and `integral` do what their names say. `interval` holds the arithmetic.
"""

from pdsearch.enclosure.integral import gaussian_integral
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.limits import limit_at_infinity
from pdsearch.enclosure.nodes import prepare
from pdsearch.enclosure.pieces import Domain, Piece, cut, stretches
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Budget, Minimum, Smooth, minimum

__all__ = [
    "Budget",
    "Domain",
    "Interval",
    "Minimum",
    "Piece",
    "Program",
    "Smooth",
    "cut",
    "gaussian_integral",
    "limit_at_infinity",
    "minimum",
    "prepare",
    "stretches",
]
