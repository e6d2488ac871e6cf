"""Expressions rewritten, by exact identities, so that no exponential in them overflows.

Where exponentials meet in a product, a quotient or a difference, an expression is written as
m·exp(L). The mantissa m contains only exponentials of terms that are never positive. L is a sum of
α·u⁺ + β·u⁻, u⁺ = max(u, 0) and u⁻ = min(u, 0), with exact coefficients: 1 + exp(u) is
(exp(u⁻) + exp(-u⁺))·exp(u⁺), and common exponents of two factors cancel exactly, before any float
is rounded.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Abs, Add, Heaviside, Mul, Piecewise, Pow, S
from sympy.core.relational import Relational

from pdsearch.choices import MOST_SPLITS, bounded, hoisted, may_overflow
from pdsearch.enclosure.algebra import nesting, size
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.nodes import map_condition, moving_power, rebuilt
from pdsearch.expression import sigmoid, softplus, x
from pdsearch.saturating import pd_erfc
from pdsearch.text_nodes import (
    pd_arccot,
    pd_erfc_ratio,
    pd_expm1,
    pd_largest,
    pd_negative,
    pd_positive,
    pd_softplus_ratio,
)

LARGEST_TREE = 4_000  # nodes of an expression that is rewritten
MOST_NESTED = 6
"""Exponentials within exponentials: with each level, building a product takes sympy two to three
times as long."""
MOST_CONSTANT = 300  # in an exponent: exp of it, and its square, are floats
SLOW = 0.2  # exponents below it
HIGH_DEGREE = 6  # powers of x up to it fit into float64 up to 1e51: for every float32 x

_GROWING = (sympy.exp, sympy.sinh, sympy.cosh, sigmoid, softplus)
_VANISHING = (sigmoid, softplus, sympy.erfc, pd_erfc)

_LOG_SIZE = pd_largest(sympy.log(Abs(x)), -(sympy.Integer(10) ** 30))
"""log(abs(x)), finite at 0: the difference of two multiples of -inf would be NaN."""

Exponents = Mapping[sympy.Expr, tuple[sympy.Expr, sympy.Expr]]
"""For each u, the α and β of α·u⁺ + β·u⁻."""


@functools.lru_cache(maxsize=4_096)
def finite_form(expression: sympy.Expr) -> sympy.Expr:
    """The same function of x, in a form whose value is finite where the function's is.

    An expression that is too large, or whose form would be, is returned unchanged.
    """
    too_large = size(expression) > LARGEST_TREE
    if too_large or nesting(expression, _GROWING) > MOST_NESTED or not expression.has(x):
        return expression
    try:
        split = hoisted(expression, MOST_SPLITS)
        return _Scaler(split).value(split)
    except OutOfReachError:
        return expression


@dataclass(frozen=True)
class _Scaled:
    """m·exp(L)."""

    mantissa: sympy.Expr
    exponents: Exponents

    @property
    def product(self) -> sympy.Expr:
        return self.mantissa * sympy.exp(_text(self.exponents))

    @property
    def key(self) -> frozenset[Any]:
        return frozenset(self.exponents.items())


def _plus(*parts: tuple[Exponents, sympy.Expr]) -> Exponents:
    """The sum of exponents, each times a factor."""
    total: dict[sympy.Expr, tuple[sympy.Expr, sympy.Expr]] = {}
    for exponents, factor in parts:
        for u, (alpha, beta) in exponents.items():
            before = total.get(u, (S.Zero, S.Zero))
            total[u] = (before[0] + factor * alpha, before[1] + factor * beta)
    return {u: pair for u, pair in total.items() if pair[0] != 0 or pair[1] != 0}


def _text(exponents: Exponents) -> sympy.Expr:
    """L itself."""
    terms = []
    for u, (alpha, beta) in exponents.items():
        if alpha == beta or _never_negative(u):
            terms.append(alpha * u)
        elif alpha == -beta:
            terms.append(alpha * Abs(u, evaluate=False))
        else:
            terms.append(alpha * pd_positive(u) + beta * pd_negative(u))
    return Add(*terms)


def _never_negative(u: sympy.Expr) -> bool:
    if isinstance(u, Mul):
        return all(_never_negative(f) for f in u.args)
    if isinstance(u, Pow) and u.exp.is_Integer:
        return bool(u.exp % 2 == 0) or _never_negative(u.base)
    return bool(u.is_Rational and u >= 0) or isinstance(
        u, Abs | sympy.exp | sympy.cosh | sigmoid | softplus | sympy.erfc | pd_erfc | pd_positive
    )


def _grows(exponents: Exponents) -> bool:
    """Whether L may be large."""
    return any(
        not (alpha.is_number and alpha <= 0)
        or not ((beta.is_number and beta >= 0) or _never_negative(u))
        for u, (alpha, beta) in exponents.items()
    )


def _linear(node: sympy.Expr, factor: sympy.Expr = S.One) -> dict[sympy.Expr, sympy.Expr]:
    """Rational coefficients by monomial; a sum times a factor without one is multiplied out."""
    total: dict[sympy.Expr, sympy.Expr] = defaultdict(lambda: S.Zero)
    for term in Add.make_args(node):
        number, rest = (term * factor).as_coeff_Mul()
        sums = [f for f in Mul.make_args(rest) if isinstance(f, Add)]
        if len(sums) == 1 and len(sums[0].args) <= 8:
            others = Mul(*(f for f in Mul.make_args(rest) if f is not sums[0]))
            for monomial, coefficient in _linear(sums[0], others).items():
                total[monomial] += number * coefficient
        else:
            total[rest] += number
    return {monomial: c for monomial, c in total.items() if c != 0}


class _Scaler:
    """Rewrites one expression; `value` returns a part in its finite form."""

    def __init__(self, expression: sympy.Expr) -> None:
        inner = [a for f in expression.atoms(sympy.Function) for a in f.args]
        self.heavy = max(map(_degree, [expression, *inner])) > HIGH_DEGREE
        self.known: dict[sympy.Expr, sympy.Expr] = {}
        self.shifts: dict[sympy.Expr, set[sympy.Expr]] = {}
        self.shown: dict[sympy.Expr, sympy.Expr] = {}
        for node in expression.atoms(sympy.exp, sympy.sinh, sympy.cosh, sigmoid):
            self._direction(node.args[0], learn=True)

    def value(self, node: Any) -> Any:
        """The part in a form that can be evaluated by itself."""
        if not isinstance(node, sympy.Expr) or not node.args or not node.has(x):
            return node
        if node not in self.known:
            self.known[node] = bounded(self._value(node))
        return self.known[node]

    def condition(self, condition: Any) -> Any:
        """A condition; sides that may overflow are compared by the mantissa of their difference."""
        if isinstance(condition, Relational):
            left, right = condition.args
            if may_overflow(left) or may_overflow(right):
                difference = self.scaled(left - right, deep=False)
                return condition.func(difference.mantissa, S.Zero, evaluate=False)
        elif condition.args:
            return condition.func(*map(self.condition, condition.args))
        return map_condition(condition, self.value)

    def _value(self, node: sympy.Expr) -> sympy.Expr:
        if isinstance(node, Add):
            return self._sum_of_values(node)
        if isinstance(node, Mul | Pow | sympy.exp) and not moving_power(node):
            return self.scaled(node, deep=False).product
        if isinstance(node, Heaviside | sympy.sign) and may_overflow(node):
            sign = self.scaled(node.args[0], deep=False).mantissa
            return node.func(sign, *node.args[1:])
        if isinstance(node, sympy.log) and may_overflow(node):
            found = self.scaled(node.args[0], deep=False)
            return sympy.log(found.mantissa) + _text(found.exponents)
        return rebuilt(node, self.value, self.condition)

    def _sum_of_values(self, node: Add) -> sympy.Expr:
        """Term by term, unless terms overflow and may cancel."""
        terms = list(node.args)
        scaled = [self.scaled(term, deep=False) for term in terms]
        growing = {s.key for s in scaled if _grows(s.exponents)}
        grown = [s.mantissa for s in scaled if s.key in growing]
        signs = {bool(m > 0) if m.is_Rational else None for m in grown}
        if len(growing) > 1 and (len(signs) > 1 or None in signs):
            return self._added(scaled).product
        values = []
        while terms:
            term, one = terms.pop(), scaled.pop()
            partner, value = S.Zero, None
            if one.exponents:
                partner = -one.mantissa
                value = one.mantissa * pd_expm1(_text(one.exponents))
            elif arc := [f for f in Mul.make_args(term) if isinstance(f, sympy.atan)]:
                # c·atan(z) ± c·pi/2
                c = term / arc[0]
                for sign in (1, -1):
                    if sign * c * sympy.pi / 2 in terms:
                        partner = sign * c * sympy.pi / 2
                        value = sign * c * pd_arccot(-sign * self.value(arc[0].args[0]))
            if value is not None and partner in terms:
                place = terms.index(partner)
                del terms[place], scaled[place]
                values.append(value)
            else:
                values.append(self.value(term))
        return Add(*values)

    def scaled(self, node: sympy.Expr, *, deep: bool) -> _Scaled:
        """The part as m·exp(L).

        Args:
            node: The part.
            deep: Whether to take the decay out of functions that vanish, such as `sigmoid`: only
                next to functions that grow.

        Raises:
            OutOfReachError: It grows too large.
        """
        found = self._scaled(node, deep=deep)
        bounded(Add(found.mantissa, *found.exponents, evaluate=False))
        return found

    def _scaled(self, node: sympy.Expr, *, deep: bool) -> _Scaled:
        if node.is_Rational:
            return _number(node)
        if not node.has(x):
            return _Scaled(node, {})
        if isinstance(node, sympy.exp):
            return self._exponential(node.args[0])
        if isinstance(node, sympy.sinh | sympy.cosh):
            u = node.args[0]
            sign = 1 if isinstance(node, sympy.cosh) else -1
            halves = (sympy.exp(u) / 2, sign * sympy.exp(-u) / 2)
            return self._added([self.scaled(half, deep=deep) for half in halves])
        if isinstance(node, Mul):
            return self._multiplied(node, deep=deep)
        if isinstance(node, Pow) and not moving_power(node):
            return self._raised(node, deep=deep)
        if isinstance(node, Add):
            return self._added([self.scaled(a, deep=deep) for a in node.args])
        if deep and isinstance(node, _VANISHING):
            return self._vanishing(node)
        return _Scaled(self.value(node), {})

    def _multiplied(self, node: Mul, *, deep: bool) -> _Scaled:
        factors = [self.scaled(f, deep=deep) for f in node.args]
        total = _plus(*((f.exponents, S.One) for f in factors))
        divisors = [f for f in node.args if _divides(f)]
        if not deep and (
            (_grows(total) and node.has(*_VANISHING))
            or (len(node.args) > 1 and any(f.has(*_VANISHING) for f in divisors))
        ):
            return self._multiplied(node, deep=True)
        return _Scaled(Mul(*(f.mantissa for f in factors)), total)

    def _raised(self, node: Pow, *, deep: bool) -> _Scaled:
        base, p = node.base, node.exp
        if base == x and self.heavy and p.is_Integer and abs(p) > 1:
            sign = S.One if p % 2 == 0 else sympy.sign(x)
            return _Scaled(sign, {_LOG_SIZE: (p, p)})
        found = self.scaled(base, deep=deep or is_root(p))
        return _Scaled(found.mantissa**p, _plus((found.exponents, p)))

    def _vanishing(self, node: sympy.Expr) -> _Scaled:
        z = node.args[0]
        if isinstance(node, sympy.erfc | pd_erfc):
            number, rest = z.as_coeff_Mul()
            constant, moving = rest.as_independent(x, as_Add=False)
            if constant.is_positive or constant == 1:
                part = pd_positive(moving) if number > 0 else pd_negative(moving)
                square = constant**2 * number**2
            else:
                part, square = pd_positive(z), S.One
            return _Scaled(pd_erfc_ratio(self.value(z)), {part**2: (-square, -square)})
        power = self._exponential(z)
        if len(power.exponents) != 1 or power.mantissa != 1:
            if isinstance(node, sigmoid):
                return self._raised(Pow(1 + sympy.exp(-z), -1), deep=True)
            return _Scaled(self.value(node), {})
        ((u, (alpha, beta)),) = power.exponents.items()
        falling = {u: (S.Zero, beta) if beta > 0 else (alpha, S.Zero)}
        if isinstance(node, sigmoid):
            return _Scaled(sigmoid(Abs(self.value(z), evaluate=False)), falling)
        return _Scaled(pd_softplus_ratio(self.value(z)), falling)

    def _direction(self, u: sympy.Expr, *, learn: bool = False) -> Any:
        """(d, q, c) with u = q·d + c, q rational, and c free of x."""
        monomials = _linear(u)
        moving = {m: c for m, c in monomials.items() if m.has(x)}
        rest = Add(*(c * m for m, c in monomials.items() if m not in moving))
        if not moving:
            return None, S.Zero, rest
        q = moving[min(moving, key=sympy.default_sort_key)]
        d = Add(*(c / q * m for m, c in moving.items()))
        if learn:
            self.shifts.setdefault(d, set()).add(rest / q)
        shifts = self.shifts.get(d, ())
        # One shift for all: the exponential is taken from where it is 1.
        if len(shifts) == 1 and rest != 0:
            return d + next(iter(shifts)), q, rest - q * next(iter(shifts))
        return d, q, rest

    def _exponential(self, u: sympy.Expr) -> _Scaled:
        """exp(u); factors free of x join the mantissa, except numbers beyond all floats."""
        d, q, c = self._direction(u)
        found: dict[sympy.Expr, tuple[sympy.Expr, sympy.Expr]] = {}
        if d is not None:
            # In the form it was written in, if possible: b·(x - c) rounds less than b·x - b·c.
            shown = self.shown.setdefault(d, u / q if c == 0 else d)
            found[self.value(shown)] = (q, q)
        if c.is_Rational and abs(c) > MOST_CONSTANT:
            return _Scaled(S.One, {**found, S.One: (c, c)})
        return _Scaled(sympy.exp(c), found)

    def _added(self, terms: list[_Scaled]) -> _Scaled:
        """A sum, with its largest exponential taken out."""
        groups: dict[frozenset[Any], list[_Scaled]] = defaultdict(list)
        for term in terms:
            groups[term.key].append(term)
        sums = [(Add(*(t.mantissa for t in same)), same[-1].exponents) for same in groups.values()]
        parts = [(m, L) for m, L in sums if m != 0]
        if not parts:
            return _Scaled(S.Zero, {})
        if len(parts) == 1:
            return _Scaled(*parts[0])
        pivot = _pivot([L for _, L in parts])
        if pivot is None:
            largest = pd_largest(*(_text(L) for _, L in parts))
            pivot = {largest: (S.One, S.One)}
        # Where the coefficients add up to zero, that of exp(L) - 1 is the same sum.
        function = pd_expm1 if Add(*(m for m, _ in parts)) == 0 else sympy.exp
        mantissa = Add(
            *(m * function(_text(_plus((L, S.One), (pivot, S.NegativeOne)))) for m, L in parts)
        )
        return _Scaled(mantissa, pivot)


def is_root(exponent: sympy.Expr) -> bool:
    """Whether a power is far from zero where its base underflows: sigmoid(x)**0.01 at -1000."""
    return not (exponent.is_integer or (exponent.is_number and abs(exponent) >= 1))


def _number(value: sympy.Rational) -> _Scaled:
    """A number; if it is beyond all floats, as a sign and a logarithm."""
    digits = max(abs(int(value.p)).bit_length(), int(value.q).bit_length())
    if digits < 900 or value == 0:
        return _Scaled(value, {})
    return _Scaled(sympy.sign(value), {sympy.log(abs(value)): (S.One, S.One)})


def _pivot(parts: list[Exponents]) -> Exponents | None:
    """Exponents that none of the parts exceeds, and that one of them reaches at every x."""
    directions = list(dict.fromkeys(u for part in parts for u in part))
    if len(directions) > 3:
        return None
    zero = (S.Zero, S.Zero)
    top: dict[sympy.Expr, tuple[sympy.Expr, sympy.Expr]] = {}
    for u in directions:
        pairs = [part.get(u, zero) for part in parts]
        if not all(alpha.is_number and beta.is_number for alpha, beta in pairs):
            return None
        top[u] = (max(a for a, _ in pairs), min(b for _, b in pairs))
    for sides in itertools.product(*((0,) if _never_negative(u) else (0, 1) for u in directions)):
        highest = {u: top[u][side] for u, side in zip(directions, sides, strict=True)}
        reached = [
            {u: part.get(u, zero)[side] for u, side in zip(directions, sides, strict=True)}
            for part in parts
        ]
        if highest not in reached:
            return None
    # The side that a direction never takes does not matter.
    return _plus(
        ({u: (a, a) if _never_negative(u) else (a, b) for u, (a, b) in top.items()}, S.One)
    )


def _degree(node: sympy.Basic) -> int:
    """The largest power of x in numerator or denominator, not counting exponents."""
    if node == x:
        return 1
    if not isinstance(node, sympy.Expr) or not node.has(x) or isinstance(node, _BOUNDED):
        return 0
    if isinstance(node, Piecewise):
        return max(_degree(arm.expr) for arm in node.args)
    if isinstance(node, Mul):
        above = sum(_degree(f) for f in node.args if not _divides(f))
        return max(above, sum(_degree(f) for f in node.args if _divides(f)))
    if isinstance(node, Pow) and node.exp.is_Rational:
        below = _degree(node.base)
        # A base that overflows is still large under a low root: 1e308**0.1.
        slow = below > 1 and abs(node.exp) < SLOW
        return HIGH_DEGREE + 1 if slow else int(abs(node.exp) * below)
    return max(_degree(arg) for arg in node.args)


_BOUNDED = (
    *(sympy.exp, sympy.tanh, sympy.erf, sympy.erfc, sympy.atan, sympy.sin, sympy.cos),
    *(sigmoid, pd_erfc, Heaviside, sympy.sign, sympy.log, sympy.sinh, sympy.cosh),
)
"""Functions whose size is no power of x; exponentials are scaled separately."""


def _divides(factor: sympy.Basic) -> bool:
    return isinstance(factor, Pow) and bool(factor.exp.is_negative)
