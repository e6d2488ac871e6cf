"""Rewriting by sympy, only where it is known beforehand to end soon.

`factor`, `expand` and the like take time and memory that grow with the degree, the number of terms
and the size of the numbers: a power such as exp(12345*x/10000) alone makes `factor` a polynomial of
degree 12 345. This module first estimates the expanded form from the expression's structure, and
returns the expression unchanged if the form would be too large. Parts that are not polynomials
become symbols, so that sympy sees only polynomials with rational coefficients.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import sympy
from sympy import Add, Mul, Piecewise, Pow, S

from pdsearch.enclosure import clock

MOST_TERMS = 250
MOST_DEGREE = 24
"""Factoring over the rationals takes milliseconds up to here, and may double with each degree."""
MOST_BITS = 6_000


@functools.lru_cache(maxsize=16_384)
def size(expression: sympy.Basic) -> int:
    """How many nodes an expression has, written out as a tree."""
    return 1 + sum(map(size, expression.args))


@functools.lru_cache(maxsize=16_384)
def nesting(expression: sympy.Basic, kinds: tuple[type, ...] = (sympy.Function,)) -> int:
    """How many functions, or nodes of some kinds, are nested within one another."""
    inner = max((nesting(arg, kinds) for arg in expression.args), default=0)
    return inner + isinstance(expression, kinds)


@functools.lru_cache(maxsize=16_384)
def derivative_size(expression: sympy.Basic, v: sympy.Symbol) -> int:
    """An upper estimate of the size of the derivative in v."""
    if expression == v or not expression.has(v):
        return 1
    parts = [derivative_size(arg, v) for arg in expression.args]
    if isinstance(expression, Add):
        return 1 + sum(parts)
    if isinstance(expression, Mul):
        moving = sum(1 for arg in expression.args if arg.has(v))
        return 1 + sum(parts) + moving * size(expression)
    return sum(parts) + 2 * size(expression) + 4


def _is_whole_power(node: Any) -> bool:
    return isinstance(node, Pow) and bool(node.exp.is_Integer) and node.base is not sympy.E


class _Extent(NamedTuple):
    """Upper estimates of a quotient of polynomials, multiplied out."""

    above: float  # terms
    below: float
    degree: int
    bits: int


_TOO_LARGE = _Extent(math.inf, math.inf, 10**9, 10**9)


@functools.lru_cache(maxsize=16_384)
def _extent(node: sympy.Expr, symbols: int) -> _Extent:
    if node.is_Rational:
        bits = int(node.p).bit_length() + int(node.q).bit_length()
        return _Extent(1, 1, 0, 0 if bits <= 4 else bits)
    if isinstance(node, Add | Mul):
        parts = [_extent(arg, symbols) for arg in node.args]
        degree, bits = sum(p.degree for p in parts), sum(p.bits for p in parts)
        if isinstance(node, Add) and all(p.below == 1 for p in parts):
            degree = max(p.degree for p in parts)
        below = math.prod(p.below for p in parts)
        if isinstance(node, Add):
            above = sum(p.above * below / p.below for p in parts)
        else:
            above = math.prod(p.above for p in parts)
        return _capped(_Extent(above, below, degree, bits), symbols)
    if _is_whole_power(node):
        part, times = _extent(node.base, symbols), abs(int(node.exp))
        if part is _TOO_LARGE or times > 10 * MOST_DEGREE:
            return _TOO_LARGE
        above, below = (min(part.above**times, 1e30), min(part.below**times, 1e30))
        if node.exp < 0:
            above, below = below, above
        return _capped(_Extent(above, below, part.degree * times, part.bits * times), symbols)
    return _Extent(1, 1, 1, 0)  # a symbol, or a part that a symbol replaces


def _capped(extent: _Extent, symbols: int) -> _Extent:
    if extent.degree > 10**6 or extent.bits > 10**6:
        return _TOO_LARGE
    most = math.comb(extent.degree + symbols, symbols)
    return _Extent(min(extent.above, most), min(extent.below, most), extent.degree, extent.bits)


def _generators(node: sympy.Expr, found: dict[sympy.Expr, sympy.Dummy]) -> sympy.Expr:
    """The expression with a symbol in place of each part that is not a polynomial."""
    if node.is_Rational or node.is_Symbol:
        return node
    if isinstance(node, Add | Mul):
        args = [_generators(arg, found) for arg in node.args]
        return node.func(*args)
    if _is_whole_power(node):
        return Pow(_generators(node.base, found), node.exp)
    return found.setdefault(node, sympy.Dummy())


def _on_polynomials(
    function: Callable[[sympy.Expr], sympy.Expr], expression: sympy.Expr
) -> sympy.Expr | None:
    """A function of sympy's applied to a quotient of polynomials; None where it is not finite."""
    found: dict[sympy.Expr, sympy.Dummy] = {}
    polynomial = _generators(expression, found)
    if polynomial.has(S.ComplexInfinity, S.NaN):
        return None
    return function(polynomial).xreplace({v: part for part, v in found.items()})


def _small(expression: sympy.Expr, *, degree: int = MOST_DEGREE) -> bool:
    nodes = sum(1 for _ in zip(range(400), sympy.preorder_traversal(expression), strict=False))
    if nodes >= 400:
        return False
    symbols = max(len(_leaves(expression)), 1)
    extent = _extent(expression, symbols)
    largest = degree if symbols == 1 else degree // 2
    return (
        extent.degree <= largest
        and extent.above <= MOST_TERMS
        and extent.below <= MOST_TERMS
        and extent.bits <= MOST_BITS
    )


def _leaves(node: sympy.Expr) -> set[sympy.Expr]:
    """The parts of which an expression is a quotient of polynomials."""
    if node.is_Rational:
        return set()
    if isinstance(node, Add | Mul) or _is_whole_power(node):
        return set().union(*(_leaves(arg) for arg in node.args))
    return {node}


@functools.lru_cache(maxsize=4096)
def factored(expression: sympy.Expr) -> sympy.Expr:
    """A quotient of polynomials as a product of its factors; unchanged where that is too much."""
    clock.check()
    if not _small(expression):
        return expression
    plain = expanded(expression) if _leaves(expression) - expression.free_symbols else expression
    product = _on_polynomials(sympy.factor, plain)
    return expression if product is None else product


@functools.lru_cache(maxsize=4096)
def expanded(expression: sympy.Expr) -> sympy.Expr:
    """Multiplied out; unchanged where that is too much."""
    clock.check()
    if not expression.args or isinstance(expression, Piecewise) or not _expandable(expression):
        return expression
    return sympy.expand(expression)


def multiplied_out(expression: sympy.Expr) -> sympy.Expr:
    """Products of sums as sums of products; unchanged where those are too many."""
    clock.check()
    return sympy.expand_mul(expression) if _expandable(expression) else expression


def _expandable(expression: sympy.Expr) -> bool:
    """Whether it is small, and so are the parts in functions, which sympy also multiplies out."""
    return _small(expression, degree=64) and all(
        _expandable(arg)
        for leaf in _leaves(expression)
        for arg in leaf.args
        if isinstance(arg, sympy.Expr)
    )


def quotient(above: sympy.Expr, below: sympy.Expr) -> sympy.Expr:
    """A quotient without common factors, where finding them is cheap."""
    whole = above / below
    if (above.is_Rational and below.is_Rational) or not _small(whole):
        return whole
    reduced = _on_polynomials(sympy.cancel, whole)
    return whole if reduced is None else reduced


@functools.lru_cache(maxsize=1024)
def polynomial_in(expression: sympy.Expr, v: sympy.Symbol) -> sympy.Poly | None:
    """The expression as a polynomial in v; None where it is not one, or a large one."""
    clock.check()
    if not expression.is_polynomial(v) or not _small(expression):
        return None
    return sympy.Poly(expression, v)


def real_roots(polynomial: sympy.Poly) -> list[sympy.Expr] | None:
    """The real roots in order, each once; None where one has no exact form by square roots."""
    roots = list(dict.fromkeys(sympy.real_roots(polynomial)))
    return None if any(root.has(sympy.CRootOf) for root in roots) else roots


def has_long_power(expression: sympy.Expr, *, deep: bool = True) -> bool:
    """Whether there is a power with an exponent such as 0.1000000000000001, an exact rational.

    sympy splits 12**(p/q) into prime powers with thousands of millions of digits, so the base of
    such a power must not become a number.
    """
    powers = expression.atoms(sympy.Pow) if deep else {expression}
    return any(
        isinstance(power, sympy.Pow) and power.exp.is_Rational and power.exp.q > 64
        for power in powers
    )


@functools.lru_cache(maxsize=2048)
def tidy(expression: sympy.Expr) -> sympy.Expr:
    """Expand the arguments of functions, and factor rational functions."""
    clock.check()
    if not expression.args:
        return expression
    if all(leaf.is_Symbol or not leaf.free_symbols for leaf in _leaves(expression)):
        return factored(expression)
    if isinstance(expression, Piecewise) or has_long_power(expression, deep=False):
        return expression
    args = [tidy(arg) if isinstance(arg, sympy.Expr) else arg for arg in expression.args]
    if expression.is_Function:
        args = [expanded(arg) if isinstance(arg, sympy.Expr) else arg for arg in args]
    return expression.func(*args)
