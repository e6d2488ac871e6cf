"""Proof that an expression is a finite real number at every x, for the formula as it was written.

Rewriting may remove a pole or the logarithm of a negative number: if a factor is zero once
multiplied out, if a common factor cancels, or if a choice has only one argument left. So the
conditions are collected from the formula itself, part by part: a divisor is not 0, the argument of
a logarithm is positive, that of a root is not negative, each wherever its arm of a Piecewise is
taken. Where all of them hold, every rewritten form equals the formula everywhere.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import sympy
from sympy import Add, Mul, Piecewise, Pow, S

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Box, Interval
from pdsearch.enclosure.nodes import POSITIVE, prepare
from pdsearch.enclosure.numbers import sign_at
from pdsearch.enclosure.pieces import Domain, Piece, cut
from pdsearch.enclosure.program import Program
from pdsearch.enclosure.search import Bisection, Budget, Smooth, halves, side_lengths
from pdsearch.errors import shortened
from pdsearch.expression import x

NOT_ZERO, POSITIVE_ONLY, NOT_NEGATIVE = "is not 0", "is positive", "is not negative"


Path = tuple[tuple[tuple[Any, ...], Any], ...]
"""For each Piecewise around a part: the conditions of the arms before its arm, and of its arm."""


def is_defined(expression: sympy.Expr, domain: Domain, budget: Budget) -> str | None:
    """Return None if the expression is defined for all x and parameters, else what is not shown."""
    for part, holds, path in dict.fromkeys(_walk(expression, (), domain, set())):
        guarded = part  # where its arm is taken, and 1 elsewhere
        for before, own in reversed(path):
            arms = [(S.One, condition) for condition in before]
            guarded = Piecewise(*arms, (guarded, own), (S.One, True), evaluate=False)
        if not (_everywhere(part, holds, domain) or _on_pieces(guarded, holds, domain, budget)):
            return f"it is not shown that {shortened(str(part), 60)} {holds}"
    return None


def _walk(
    node: Any, path: Path, domain: Domain, seen: set[tuple[Any, Path]]
) -> Iterator[tuple[sympy.Expr, str, Path]]:
    """Each part that needs a condition, with the condition and the path, innermost first."""
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


def _everywhere(part: sympy.Expr, holds: str, domain: Domain) -> bool:
    """Whether the condition holds on the whole line, whatever arm is taken."""
    box = ((-math.inf, math.inf, 0), *domain.box)
    return _holds(prepare(part), holds, (x, *domain.symbols), box, tail=False)


def _allows(holds: str, value: Interval) -> bool:
    """Whether a condition holds for every number of an interval."""
    lo, hi, _ = value
    return lo > 0.0 or (holds == NOT_NEGATIVE and lo >= 0.0) or (holds == NOT_ZERO and hi < 0.0)


def _holds(
    part: sympy.Expr,
    holds: str,
    variables: tuple[sympy.Symbol, ...],
    box: Box,
    *,
    tail: bool,
) -> bool:
    def enclosed(node: sympy.Expr) -> Interval:
        return Program(node, variables, tail=box if tail else None).enclose(box)

    def positive(node: sympy.Expr) -> bool:
        """Whether a part is positive, by its form: the interval of exp(-x) includes 0."""
        if isinstance(node, POSITIVE):
            return True
        if isinstance(node, Mul):
            return all(positive(arg) for arg in node.args)
        if isinstance(node, Pow) and not node.exp.is_Integer:
            return positive(node.base)
        if isinstance(node, Pow) and positive(node.base):
            return True
        if isinstance(node, Add):
            parts = [arg for arg in node.args]
            if any(map(positive, parts)) and all(
                positive(p) or enclosed(p)[0] >= 0.0 for p in parts
            ):
                return True
        return enclosed(node)[0] > 0.0

    if positive(part):
        return True
    if holds == NOT_ZERO and isinstance(part, Mul):
        factors = part.args
        return all(_holds(factor, holds, variables, box, tail=tail) for factor in factors)
    return _allows(holds, enclosed(part))


def _on_pieces(guarded: sympy.Expr, holds: str, domain: Domain, budget: Budget) -> bool:
    """Whether the condition holds on every piece of the line, and where they meet."""
    pieces = cut(guarded, domain)
    for left, right in itertools.pairwise(pieces):
        # An unbounded piece does not start at a breakpoint: its neighbour contains the place.
        if not (left.tail or right.tail) and not _holds_at(guarded, holds, left.hi, domain):
            return False
    return all(_on_piece(piece, holds, domain, budget) for piece in pieces)


def _holds_at(guarded: sympy.Expr, holds: str, place: sympy.Expr, domain: Domain) -> bool:
    if domain.symbols:
        with sympy.evaluate(False):
            value = guarded.xreplace({x: place})
        return _allows(holds, Program(value, domain.symbols).enclose(domain.box))
    sign = sign_at(guarded, place)
    return sign is not None and _allows(holds, (sign, sign, 0))


def _on_piece(piece: Piece, holds: str, domain: Domain, budget: Budget) -> bool:
    if piece.local == S.One:
        return True
    function = Smooth.on(piece, domain)
    whole = function.box
    if _holds(piece.local, holds, function.variables, whole, tail=piece.tail):
        return True
    weights = side_lengths(whole)
    search = Bisection(
        [whole],
        judge=lambda box: _box_holds(function, box, holds, piece) or None,
        cut=lambda box: halves(box, weights),
        budget=budget,
    )
    return all(held for _, held in search)


def _box_holds(function: Smooth, box: Box, holds: str, piece: Piece) -> bool:
    value = function.enclose(box)
    if _allows(holds, value):
        return True
    if box[0][1] == math.inf and _holds(
        function.local, holds, function.variables, box, tail=piece.tail
    ):
        return True
    if value[1] < 0.0 or piece.tail or value[2] or len(box) > 1:
        return False
    # An open piece may be zero at its end, if it moves away from zero inside.
    for end in (0.0, 1.0):
        if box[0][0] <= end <= box[0][1]:
            try:
                trend = iv.strict_sign(function.partial(0).enclose(box))
            except OutOfReachError:
                return False
            sign = function.end_sign(end)
            if trend is None or sign is None:
                continue
            inside = trend if end == 0.0 else -trend  # the sign of the change inwards
            if inside * sign >= 0 and _allows(holds, (inside, inside, 0)):
                return True
    return False
