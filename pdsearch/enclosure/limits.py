"""Exact limits at infinity, from those of monotone primitives; products by their elasticity.

For a product ∞·0 the elasticity E = y·h′/h decides: if E tends to a negative number (or -∞), h
falls faster than some negative power of y and tends to 0. Other cases remain unknown: sympy's own
`limit` proves nothing.
"""

import math
from collections.abc import Callable

import sympy
from sympy import Add, Max, Min, Mul, Pow, S, oo

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.nodes import (
    arccot,
    elasticity,
    erfc_ratio,
    prepare,
    sech2,
    sigmoid_bell,
    tail_form,
)
from pdsearch.enclosure.numbers import is_computable
from pdsearch.enclosure.pieces import Domain, y
from pdsearch.enclosure.program import Program
from pdsearch.expression import sigmoid, softplus

_AT_INFINITY: dict[type, tuple[sympy.Expr | None, sympy.Expr]] = {
    # function: (limit at -oo, limit at oo)
    sympy.exp: (S.Zero, oo),
    sympy.log: (None, oo),
    sigmoid: (S.Zero, S.One),
    softplus: (S.Zero, oo),
    sympy.tanh: (S.NegativeOne, S.One),
    sympy.atan: (-sympy.pi / 2, sympy.pi / 2),
    sympy.erf: (S.NegativeOne, S.One),
    sympy.erfc: (S(2), S.Zero),
    sympy.sinh: (-oo, oo),
    sympy.cosh: (oo, oo),
    arccot: (sympy.pi, S.Zero),
    sigmoid_bell: (S.Zero, S.Zero),
    sech2: (S.Zero, S.Zero),
    erfc_ratio: (S.Zero, oo),
    sympy.Abs: (oo, oo),
    sympy.sign: (S.NegativeOne, S.One),
}
_CONTINUOUS = (*_AT_INFINITY, sympy.sin, sympy.cos, Add, Min, Max)


def limit_at_infinity(
    expression: sympy.Expr, domain: Domain | None = None, *, depth: int = 0
) -> sympy.Expr | None:
    """The limit for y → ∞ as an exact expression, ±oo, or None where it is not known.

    Args:
        expression: In `pdsearch.enclosure.pieces.y` and the domain's parameters, in the form that
            `tail_form` gives.
        domain: The parameters' ranges.
        depth: Of nested products; beyond 4 the limit is unknown.
    """
    domain, e = domain or Domain(), expression
    clock.check()
    if not e.has(y):
        return None if e.has(sympy.nan, sympy.zoo, sympy.oo, S.NegativeInfinity) else e
    if e == y:
        return oo
    if depth > 4:
        return None

    def inner(part: sympy.Expr) -> sympy.Expr | None:
        return limit_at_infinity(part, domain, depth=depth)

    if isinstance(e, Mul):
        return _product(e, inner, domain, depth)
    if isinstance(e, Pow):
        return _power(e, inner, domain, depth)
    if not isinstance(e, _CONTINUOUS):
        return None
    limits = [limit for limit in map(inner, e.args) if limit is not None]
    if len(limits) < len(e.args):
        return None
    if isinstance(e, Add):
        return None if oo in limits and -oo in limits else Add(*limits)
    (limit, *_) = limits
    if isinstance(e, Min | Max):
        return _applied(e, limits)
    if limit in (oo, -oo):
        ends = _AT_INFINITY.get(type(e))
        return None if ends is None else ends[1 if limit is oo else 0]
    if isinstance(e, sympy.sign | sympy.log):
        sign = domain.strict_sign(limit)
        if sign is None or (isinstance(e, sympy.log) and sign < 0):
            return None
    return _applied(e, limits)


def _applied(e: sympy.Expr, limits: list[sympy.Expr]) -> sympy.Expr | None:
    """A function of its arguments' limits; None where sympy would compute it for too long."""
    stand_ins = [sympy.Dummy(real=True) for _ in limits]
    known = {
        dummy: limit
        for dummy, limit in zip(stand_ins, limits, strict=True)
        if not (limit.free_symbols or limit in (oo, -oo) or (limit.is_Rational and e.is_Pow))
    }
    rest = [d if d in known else limit for d, limit in zip(stand_ins, limits, strict=True)]
    if known and not is_computable(e.func(*rest), known):
        return None
    return e.func(*limits)


def _product(
    e: Mul,
    inner: Callable[[sympy.Expr], sympy.Expr | None],
    domain: Domain,
    depth: int,
) -> sympy.Expr | None:
    limits = {factor: inner(factor) for factor in e.args}
    unknown = [factor for factor, limit in limits.items() if limit is None]
    infinite = [factor for factor, limit in limits.items() if limit in (oo, -oo)]
    signs = {f: domain.strict_sign(v) or domain.sign(v) for f, v in limits.items() if v is not None}
    vanishing = [factor for factor, sign in signs.items() if sign == 0]
    if infinite and any(factor not in vanishing and domain.strict_sign(limits[factor]) is None
                        for factor in signs if factor not in infinite):  # fmt: skip
        return None  # a limit that may be zero, next to one that is infinite
    if unknown:
        # Bounded but without a limit, such as a sine: zero times it is still zero.
        if vanishing and not infinite and all(_bounded(factor, domain) for factor in unknown):
            return S.Zero
        return None
    if infinite and vanishing:
        moving = Mul(*infinite, *vanishing)
        rate = elasticity(moving, y)
        if rate is None:
            return None
        limit = limit_at_infinity(tail_form(prepare(rate), y), domain, depth=depth + 1)
        sign = None if limit is None else domain.strict_sign(limit)
        if sign is None:
            return None
        if sign < 0:
            return S.Zero
    if infinite:
        sign = iv.strict_sign(_far(e, domain))
        return None if sign is None else sign * oo
    return Mul(*(limits[f] for f in e.args))


def _power(
    e: Pow,
    inner: Callable[[sympy.Expr], sympy.Expr | None],
    domain: Domain,
    depth: int,
) -> sympy.Expr | None:
    base, exponent = e.base, e.exp
    if exponent.has(y):
        rewritten = tail_form(prepare(sympy.exp(exponent * sympy.log(base))), y)
        return limit_at_infinity(rewritten, domain, depth=depth + 1)
    limit = inner(base)
    sign = domain.strict_sign(exponent)
    if limit is None or sign is None:
        return None
    if limit is oo:
        return oo if sign > 0 else S.Zero
    whole = exponent.is_Integer
    if limit is -oo:
        if not whole:
            return None
        return S.Zero if sign < 0 else (oo if exponent.is_even else -oo)
    if domain.sign(limit) == 0:
        real = whole or iv.weak_sign(_far(base, domain)) == 1
        return S.Zero if sign > 0 and real else None
    base_sign = domain.strict_sign(limit)
    if (not whole and base_sign != 1) or (sign < 0 and base_sign is None):
        return None
    return _applied(e, [limit, exponent])


def _far(e: sympy.Expr, domain: Domain) -> iv.Interval:
    """An enclosure far out, where the sign is that of the limit."""
    for start in (2.0**6, 2.0**20, 2.0**60):
        value = _enclosed_from(start, e, domain)
        if iv.strict_sign(value) is not None:
            break
    return value


def _bounded(e: sympy.Expr, domain: Domain) -> bool:
    lo, hi, flag = _enclosed_from(2.0**10, e, domain)
    return not flag & iv.UNDEFINED and math.isfinite(lo) and math.isfinite(hi)


def _enclosed_from(start: float, e: sympy.Expr, domain: Domain) -> iv.Interval:
    box = ((start, math.inf, 0), *domain.box)
    return Program(e, (y, *domain.symbols), tail=box).enclose(box)
