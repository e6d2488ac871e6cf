"""Expressions rewritten, by exact identities, into functions that saturate.

People write the logistic function as `1/(1 + exp(-x))` and differentiate it by hand. In that form
it overflows and cancels; as `sigmoid(x)` it does neither, and neither does its derivative.
`saturating` finds such quotients, complements such as `1 + tanh(z)` and squares such as
`1 - tanh(z)**2`, after `2**x` has become `exp(x*log(2))`. It walks over the tree once and compares
structures: it calls no sympy function that may take long (`simplify`, `factor`, `cancel`) on a
user's formula.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import sympy
from sympy import Add, Mul, Pow, S

from pdsearch.enclosure.nodes import exponential_form, rebuilt
from pdsearch.expression import sigmoid, softplus, x

__all__ = ["pd_erfc", "saturating"]


class pd_erfc(sympy.Function):
    """erfc(z), which sympy does not rewrite: its own erfc(-z) becomes 2 - erfc(z)."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """The derivative of erfc."""
        return -2 * sympy.exp(-(self.args[0] ** 2)) / sympy.sqrt(sympy.pi)


@functools.lru_cache(maxsize=4_096)
def saturating(expression: sympy.Expr) -> sympy.Expr:
    """The same function of x, in terms of functions that saturate."""
    if not expression.args or not expression.has(x):
        return expression
    node = exponential_form(rebuilt(expression, saturating))
    for kind, rule in _RULES.items():
        if isinstance(node, kind):
            return rule(node)
    return node


def exponential(term: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """(c, u) with term = c·exp(u) and no other exponential in c."""
    found = [factor for factor in Mul.make_args(term) if isinstance(factor, sympy.exp)]
    if not found:
        return term, S.Zero
    u = Add(*(factor.args[0] for factor in found))
    return Mul(*(f for f in Mul.make_args(term) if f not in found)), u


def _two_exponentials(
    total: sympy.Expr,
) -> tuple[sympy.Expr, sympy.Expr, sympy.Expr, int] | None:
    """(c, u, v, sign) with total = c·(exp(u) + sign·exp(v)), u = 0 where one is a constant."""
    if not isinstance(total, Add) or len(total.args) != 2:
        return None
    (c, u), (d, v) = (exponential(term) for term in total.args)
    if v == 0:
        c, u, d, v = d, v, c, u
    sign = 1 if c == d else -1 if c == -d else 0
    if sign == 0 or u == v or c.has(x):
        return None
    return c, u, v, sign


def _power(power: Pow) -> sympy.Expr:
    """Turn (c·exp(u) + c·exp(v))ᵖ into cᵖ·exp(p·u)·σ(u - v)⁻ᵖ, for p < 0."""
    base, exponent = power.args
    found = _two_exponentials(base)
    if found is None or found[3] < 0 or not exponent.could_extract_minus_sign():
        return power
    c, u, v, _ = found
    if not (c.is_positive or exponent.is_Integer) or exponent.has(x):
        return power
    return _product(Mul(c**exponent, sympy.exp(exponent * u), sigmoid(u - v) ** -exponent))


def _product(product: sympy.Expr) -> sympy.Expr:
    """exp(-u)·σ(u) → σ(-u), a difference by a sum of exponentials → tanh, sinh/cosh → tanh."""
    factors = list(Mul.make_args(product))
    powers: dict[sympy.Expr, int] = {}
    for factor in factors:
        base, n = factor.as_base_exp()
        if isinstance(base, sigmoid | sympy.cosh | sympy.sinh) and n.is_Integer:
            powers[base] = int(n)
    if not powers:
        return product
    rest = [f for f in factors if f.as_base_exp()[0] not in powers]
    changed = _hyperbolic_quotients(powers) + _differences(powers, rest)
    exponentials = [f for f in rest if isinstance(f, sympy.exp)]
    if exponentials:
        u = exponentials[0].args[0]
        for base in [b for b in powers if isinstance(b, sigmoid)]:
            z = base.args[0]
            ratio = -u / z
            count = min(powers[base], int(ratio)) if ratio.is_Integer and ratio > 0 else 0
            if count > 0:
                powers[base] -= count
                other = sigmoid(-z)
                powers[other] = powers.get(other, 0) + count
                rest[rest.index(exponentials[0])] = sympy.exp(u + count * z)
                changed += 1
                break
    if not changed:
        return product
    # One factor's change may be what another waits for.
    written = Mul(*rest, *(base**n for base, n in powers.items() if n))
    return _product(written) if isinstance(written, Mul) else written


def _hyperbolic_quotients(powers: dict[sympy.Expr, int]) -> int:
    changed = 0
    for base in [b for b in powers if isinstance(b, sympy.sinh)]:
        below = sympy.cosh(base.args[0])
        count = min(powers[base], -powers.get(below, 0))
        if count > 0:
            powers[base] -= count
            powers[below] += count
            powers[sympy.tanh(base.args[0])] = count
            changed += 1
    return changed


def _differences(powers: dict[sympy.Expr, int], rest: list[Any]) -> int:
    """c·(exp(u) - exp(v))·exp(-u)·σ(u - v) → c·tanh((u - v)/2), once."""
    u = next((f.args[0] for f in rest if isinstance(f, sympy.exp)), S.Zero)
    for place, factor in enumerate(rest):
        found = _two_exponentials(factor)
        if found is None or found[3] > 0:
            continue
        c, first, second, _ = found
        for a, b, sign in ((first, second, 1), (second, first, -1)):
            quotient = sigmoid(a - b)
            if powers.get(quotient, 0) < 1 or (a != 0 and u == 0):
                continue
            powers[quotient] -= 1
            rest[place] = sign * c * sympy.tanh((a - b) / 2) * sympy.exp(a)
            return 1
    return 0


def _logarithm(node: sympy.Expr) -> sympy.Expr:
    """log(1 + exp(u)) → softplus(u), log(exp(u) + exp(v)) → u + softplus(v - u)."""
    found = _two_exponentials(node.args[0])
    if found is None or found[3] < 0 or not found[0].is_positive:
        return node
    c, u, v, _ = found
    return sympy.log(c) + u + softplus(v - u)


def _sum(total: sympy.Expr) -> sympy.Expr:
    """Join each constant with a function that tends to it, as long as there are any."""
    terms = list(total.args)
    changed = True
    while changed and len(terms) > 1:
        changed = False
        for place, term in enumerate(terms):
            joined = _joined(term, [*terms[:place], *terms[place + 1 :]])
            if joined is not None:
                partner, value = joined
                terms.remove(term)
                terms.remove(partner)
                terms.append(value)
                changed = True
                break
    return Add(*terms)


def _joined(term: sympy.Expr, others: Sequence[Any]) -> tuple[sympy.Expr, sympy.Expr] | None:
    """Another term, and the sum of both as one term."""
    there, kind = {_kind(other) for other in others}, _kind(term)
    for node in Mul.make_args(term):
        function = node.base if isinstance(node, Pow) and node.exp == 2 else node
        if not isinstance(function, _LIMITS if node is function else _SQUARES):
            continue
        rest, z = kind - {node}, function.args[0]
        # Products of dozens of factors are slow to build: only where a partner may exist.
        if rest not in there and rest | {sigmoid(z)} not in there:
            continue
        c = Mul(*(factor for factor in Mul.make_args(term) if factor != node))
        for limit, complement in _complements(node, function, z):
            partner = -c * limit
            if partner in others:
                return partner, partner * complement
    return None


def _kind(term: Any) -> frozenset[Any]:
    """The factors of a product without its number."""
    return frozenset(factor for factor in Mul.make_args(term) if not factor.is_Rational)


_SQUARES = (sympy.tanh, sigmoid)
_LIMITS = (sympy.tanh, sigmoid, sympy.erf, sympy.erfc, pd_erfc, sympy.sign, sympy.Heaviside)


def _complements(node: Any, function: Any, z: sympy.Expr) -> list[tuple[Any, sympy.Expr]]:
    """Terms L next to which the node is better joined, and for each of them 1 - node/L."""
    half = S.Half
    if node is not function and isinstance(function, sympy.tanh):
        return [(1, 4 * sigmoid(2 * z) * sigmoid(-2 * z))]
    if node is not function:
        return [(sigmoid(z), sigmoid(-z)), (1, sigmoid(-z) * (1 + sigmoid(z)))]
    if isinstance(function, sympy.sign):
        return [(-1, 2 * sympy.Heaviside(z, half)), (1, 2 * sympy.Heaviside(-z, half))]
    if isinstance(function, sympy.Heaviside):
        return [(1, sympy.Heaviside(-z, 1 - function.args[1]))]
    if isinstance(function, sympy.tanh):
        return [(-1, 2 * sigmoid(2 * z)), (1, 2 * sigmoid(-2 * z))]
    if isinstance(function, sigmoid):
        return [(1, sigmoid(-z)), (half, -sympy.tanh(z / 2))]
    if isinstance(function, sympy.erf):
        return [(-1, pd_erfc(-z)), (1, pd_erfc(z))]
    return [(2, pd_erfc(-z) / 2), (1, sympy.erf(z))]


_RULES: dict[type, Callable[[Any], sympy.Expr]] = {
    Add: _sum,
    Mul: _product,
    Pow: _power,
    sympy.log: _logarithm,
}
