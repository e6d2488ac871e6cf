"""Whether an expression is a finite real number at every x, shown for the formula as it is given.

Rewriting may remove a pole or the logarithm of a negative number: behind a factor that is zero once
multiplied out, by cancelling a common factor, or where a choice has only one argument left. So the
conditions are collected from the formula itself, part by part: a divisor is not 0, the argument of
a logarithm is positive, that of a root is not negative, each wherever its arm of a Piecewise is
taken. Where all of them hold, every rewritten form equals the formula everywhere.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sympy
from sympy import Add, Mul, Piecewise, Pow, S

from pdsearch.enclosure import clock
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.nodes import POSITIVE, prepare
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.points import sign_at
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Bisection, Budget, Smooth, halves, side_lengths
from pdsearch.errors import shortened
from pdsearch.expression import x

NOT_ZERO, POSITIVE_ONLY, NOT_NEGATIVE = "is not 0", "is positive", "is not negative"


@dataclass(frozen=True)
class Demand:
    """What must hold of a part for the whole to be defined.

    Attributes:
        part: The divisor, or the argument of a logarithm or root.
        holds: What must be true of it.
        guarded: The part where its arm is taken, and 1 elsewhere.
    """

    part: sympy.Expr
    holds: str
    guarded: sympy.Expr


Path = tuple[tuple[tuple[Any, ...], Any], ...]
"""For each Piecewise around a part: the conditions of the arms before its own, and its own."""


def demands_of(expression: sympy.Expr, domain: Domain) -> list[Demand]:
    """Return all that must hold for an expression to be defined, innermost first, each once."""
    found: dict[Demand, None] = {}
    for part, holds, path in _walk(expression, (), domain, set()):
        guarded = part
        for before, own in reversed(path):
            arms = [(S.One, condition) for condition in before]
            guarded = Piecewise(*arms, (guarded, own), (S.One, True), evaluate=False)
        found.setdefault(Demand(part, holds, cast(sympy.Expr, guarded)))
    return list(found)


def _walk(
    node: Any, path: Path, domain: Domain, seen: set[tuple[Any, Path]]
) -> Iterator[tuple[sympy.Expr, str, Path]]:
    if not node.args or (node, path) in seen:
        return
    seen.add((node, path))
    clock.check()
    if isinstance(node, Piecewise):
        before: tuple[Any, ...] = ()
        for value, condition in node.args:
            yield from _walk(condition, (*path, (before, S.true)), domain, seen)
            yield from _walk(value, (*path, (before, condition)), domain, seen)
            before = (*before, condition)
        if before[-1] != sympy.true:
            yield S.Zero, NOT_ZERO, (*path, (before, S.true))  # a gap
        return
    for arg in node.args:
        yield from _walk(arg, path, domain, seen)
    if isinstance(node, sympy.log):
        yield node.args[0], POSITIVE_ONLY, path
    elif isinstance(node, Pow) and node.base is not sympy.E:
        base, exponent = node.args
        if exponent.is_Integer:
            if exponent < 0:
                yield base, NOT_ZERO, path
        elif domain.strict_sign(exponent) == 1:
            yield base, NOT_NEGATIVE, path
        else:
            yield base, POSITIVE_ONLY, path


def is_defined(expression: sympy.Expr, domain: Domain, budget: Budget) -> str | None:
    """Return None if the expression is defined for all x and parameters, else what is not shown."""
    for demand in demands_of(expression, domain):
        if not (_everywhere(demand, domain) or _on_pieces(demand, domain, budget)):
            return f"it is not shown that {shortened(str(demand.part), 60)} {demand.holds}"
    return None


def _everywhere(demand: Demand, domain: Domain) -> bool:
    """Whether it holds on the whole line, whatever arm is taken."""
    part = prepare(demand.part)
    box = ((-math.inf, math.inf, 0), *domain.box)
    return _holds(part, demand.holds, (x, *domain.symbols), box, tail=False)


def _holds(
    part: sympy.Expr,
    holds: str,
    variables: tuple[sympy.Symbol, ...],
    box: tuple[Interval, ...],
    *,
    tail: bool,
) -> bool:
    def enclosed(node: sympy.Expr) -> Interval:
        return Program(node, variables, tail=box if tail else None).enclose(box)

    def least(node: sympy.Expr) -> bool:
        """Whether a part is positive: by its form, for exp(-x) is 0 to an interval."""
        if isinstance(node, POSITIVE):
            return True
        if isinstance(node, Mul):
            return all(least(cast(sympy.Expr, arg)) for arg in node.args)
        if isinstance(node, Pow) and not node.exp.is_Integer:
            return least(cast(sympy.Expr, node.base))
        if isinstance(node, Pow) and least(cast(sympy.Expr, node.base)):
            return True
        if isinstance(node, Add):
            parts = [cast(sympy.Expr, arg) for arg in node.args]
            if any(map(least, parts)) and all(least(p) or enclosed(p)[0] >= 0.0 for p in parts):
                return True
        return enclosed(node)[0] > 0.0

    if holds == NOT_NEGATIVE and enclosed(part)[0] >= 0.0:
        return True
    if least(part):
        return True
    if holds != NOT_ZERO:
        return False
    if isinstance(part, Mul):
        return all(_holds(cast(sympy.Expr, arg), holds, variables, box, tail=tail)
                   for arg in part.args)  # fmt: skip
    return enclosed(part)[1] < 0.0


def _on_pieces(demand: Demand, domain: Domain, budget: Budget) -> bool:
    """Whether it holds on every piece of the line, and where they meet."""
    pieces = cut(demand.guarded, domain)
    for left, right in itertools.pairwise(pieces):
        # Where an unbounded piece starts nothing happens: its closed neighbour holds the place.
        if not (left.tail or right.tail) and not _holds_at(demand, left.hi, domain):
            return False
    return all(_on_piece(piece, demand.holds, domain, budget) for piece in pieces)


def _holds_at(demand: Demand, place: sympy.Expr, domain: Domain) -> bool:
    if domain.symbols:
        with sympy.evaluate(False):
            value = demand.guarded.xreplace({x: place})
        lo, hi, _ = Program(value, domain.symbols).enclose(domain.box)
        return lo > 0.0 or (demand.holds == NOT_ZERO and hi < 0.0) or (
            demand.holds == NOT_NEGATIVE and lo >= 0.0
        )  # fmt: skip
    sign = sign_at(demand.guarded, place)
    return sign is not None and (
        sign > 0
        or (sign < 0 and demand.holds == NOT_ZERO)
        or (sign == 0 and demand.holds == NOT_NEGATIVE)
    )


def _on_piece(piece: Piece, holds: str, domain: Domain, budget: Budget) -> bool:
    if piece.local == S.One:
        return True
    function = Smooth.on(piece, domain)
    whole = function.box
    if _holds(piece.local, holds, function.variables, whole, tail=piece.tail):
        return True
    weights = side_lengths(whole)

    def cut(box: tuple[Interval, ...]) -> Sequence[tuple[Interval, ...]] | None:
        parts = halves(box, weights)
        return parts if parts is not None and budget.spend() else None

    search = Bisection(
        [whole], judge=lambda box: _box_holds(function, box, holds, piece) or None, cut=cut
    )
    return all(held for _, held in search)


def _box_holds(function: Smooth, box: tuple[Interval, ...], holds: str, piece: Piece) -> bool:
    lo, hi, flag = function.enclose(box)
    if lo > 0.0 or (hi < 0.0 and holds == NOT_ZERO):
        return True
    if lo >= 0.0 and holds == NOT_NEGATIVE:
        return True
    if box[0][1] == math.inf and _holds(
        function.local, holds, function.variables, box, tail=piece.tail
    ):
        return True
    if hi < 0.0 or piece.tail or flag or len(box) > 1:
        return False
    # Zero at an end of a piece, which the piece itself does not hold, and moving away from there.
    for end in (0.0, 1.0):
        if box[0][0] <= end <= box[0][1]:
            try:
                slope = function.partial(0).enclose(box)
            except OutOfReachError:
                return False
            if slope[2]:
                return False
            inward = slope[0] > 0.0 if end == 0.0 else slope[1] < 0.0
            outward = slope[1] < 0.0 if end == 0.0 else slope[0] > 0.0
            sign = function.end_sign(end)
            if inward and sign is not None and sign >= 0:
                return True
            if outward and holds == NOT_ZERO and sign is not None and sign <= 0:
                return True
    return False
