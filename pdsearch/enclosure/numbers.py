"""Exact numbers, and expressions in x at exact points: sign, floats and zero, at a bounded cost.

Signs come from Arb. Multiplying a number out may show that it is exactly zero. An algebraic number
other than zero is at least 1/M, where M bounds its Mahler measure, so enough bits decide.
"""

import functools
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from flint import arb, ctx
from sympy import Add, Mul, Pow, S
from sympy.utilities.iterables import sift

from pdsearch.enclosure.algebra import expanded, has_long_power, size
from pdsearch.enclosure.interval import ball_interval
from pdsearch.enclosure.nodes import prepare
from pdsearch.enclosure.program import Program
from pdsearch.expression import x
from pdsearch.expression.values import (
    CONTEXT,
    Evaluator,
    Undefined,
    Unknown,
    rational,
    wide,
)

LARGEST_ARGUMENT = 10**6
"""exp of a constant beyond it is not evaluated: sympy would compute its digits."""
MOST_ZERO_BITS = 30_000


def enclosed(number: sympy.Expr, *, precision: int = 64) -> arb:
    """A constant as a ball; not finite where it is undefined or out of reach."""
    with ctx.workprec(precision):
        return Program(prepare(number), ()).ball(())


def is_float(number: sympy.Expr) -> bool:
    """Whether an exact number is a float."""
    if not number.is_Rational:
        return False
    near = as_float(number)
    return math.isfinite(near) and Fraction(near) == rational(number)


def as_float(number: sympy.Expr) -> float:
    """The nearest float or one next to it; infinite beyond the largest."""
    if number in (sympy.oo, -sympy.oo):
        return math.inf if number is sympy.oo else -math.inf
    if number.is_Rational:
        try:
            return float(rational(number))
        except OverflowError:
            return math.copysign(math.inf, int(number.p))
    return float(enclosed(number).mid())


def finite_float(number: sympy.Expr) -> float:
    """The nearest finite float, or one next to it."""
    return min(max(as_float(number), -sys.float_info.max), sys.float_info.max)


@functools.lru_cache(maxsize=4096)
def exact_sign(number: sympy.Expr) -> int | None:
    """The sign of an exact real number; None where 1000 bits and multiplying out do not decide."""
    if number.is_Rational:
        return 0 if number.is_zero else (1 if number > 0 else -1)
    program = Program(prepare(number), ())
    for precision in (64, 256, 1024):
        with ctx.workprec(precision):
            ball = program.ball(())
        if ball > 0:
            return 1
        if ball < 0:
            return -1
        if ball.is_nan():
            return None
        if precision == 256 and _is_zero(number):
            return 0
    return None


def _is_zero(number: sympy.Expr) -> bool:
    """Whether a constant is certainly zero."""
    simple = expanded(number)
    if simple.is_Rational:
        return bool(simple == 0)
    # Collected by their transcendental factors: zero if the coefficient of each is.
    coefficients: dict[sympy.Expr, list[sympy.Expr]] = defaultdict(list)
    for term in Add.make_args(simple):
        algebraic, rest = sift(Mul.make_args(term), _is_algebraic, binary=True)
        coefficients[Mul(*rest)].append(Mul(*algebraic))
    return all(_algebraic_zero(Add(*parts)) for parts in coefficients.values())


def _is_algebraic(node: sympy.Expr) -> bool:
    if node.is_Rational:
        return True
    if isinstance(node, Add | Mul):
        return all(_is_algebraic(arg) for arg in node.args)
    return isinstance(node, Pow) and node.exp.is_Rational and _is_algebraic(node.base)


def _algebraic_zero(number: sympy.Expr) -> bool:
    if number.is_Rational:
        return bool(number == 0)
    if size(number) > 400:
        return False
    _, bits = _measure(number)
    if bits > MOST_ZERO_BITS:
        return False
    ball = enclosed(number, precision=int(bits) + 64)
    return bool(ball.is_finite() and abs(ball) < arb(2) ** -(int(bits) + 1))


def _measure(node: sympy.Expr) -> tuple[int, float]:
    """Upper bounds of an algebraic number's degree and of the logarithm of its Mahler measure.

    M(a ± b) ≤ 2^(mn)·M(a)ⁿ·M(b)ᵐ and M(a·b) ≤ M(a)ⁿ·M(b)ᵐ for degrees m and n, and
    M(1/a) = M(a), M(a^(1/k)) ≤ M(a) of degree mk; a number other than 0 is at least 1/M.
    """
    if node.is_Rational:
        return 1, math.log2(max(abs(int(node.p)), int(node.q)))
    if isinstance(node, Pow):
        degree, bits = _measure(node.base)
        p, q = abs(int(node.exp.p)), int(node.exp.q)
        return degree * q, bits * p
    parts = [_measure(arg) for arg in node.args]
    degree, bits = parts[0]
    for other, more in parts[1:]:
        plus = degree * other if isinstance(node, Add) else 0
        bits = bits * other + more * degree + plus
        degree *= other
        if bits > MOST_ZERO_BITS:
            break
    return degree, bits


# ------------------------------------------------------------------ evaluation at a number

_INTERNAL: Mapping[str, Any] = {
    "sigmoid_bell": lambda u: 1 / (4 * CONTEXT.cosh(u / 2) ** 2),
    "sech2": lambda u: 1 / CONTEXT.cosh(u) ** 2,
    "arccot": lambda u: CONTEXT.pi / 2 - CONTEXT.atan(u),
}


class _Sizes(Evaluator):
    """Values of an expression's parts, internal nodes among them."""

    def compute(self, node: Any) -> Any:
        function = _INTERNAL.get(type(node).__name__)
        if function is None:
            return super().compute(node)
        argument = CONTEXT.mpf(1) * wide(self.value(node.args[0]))
        return function(argument) if abs(argument) < LARGEST_ARGUMENT else CONTEXT.mpf(0)


def is_computable(expression: sympy.Expr, at: Mapping[sympy.Symbol, sympy.Expr]) -> bool:
    """Whether sympy can evaluate the expression at a point: no constant is too large.

    sympy asks each constant that it builds for its sign, and would compute exp(exp(exp(exp(9)))).
    """
    values = {
        symbol: rational(place) if place.is_Rational else CONTEXT.mpf(as_float(place))
        for symbol, place in at.items()
        if not place.free_symbols
    }
    sizes = _Sizes(values, quick=False)
    for node in expression.atoms(Pow, sympy.Function):
        if isinstance(node, sympy.Piecewise | sympy.Min | sympy.Max):
            continue
        power = isinstance(node, Pow) and node.base is not sympy.E
        if power and node.exp.is_Rational and abs(node.exp) <= 64:
            continue
        parts = node.args if isinstance(node, sympy.Function) or power else (node.exp,)
        if any(part.free_symbols - set(values) for part in parts):
            continue  # not a constant
        try:
            found = [wide(sizes.value(part)) for part in parts]
            largest = max(abs(value) for value in found)
            if power:  # by the size of its logarithm
                largest = abs(found[1]) * (1 + abs(CONTEXT.log(abs(found[0]) or 1)))
        except Undefined:
            continue  # a rounded root may seem to divide by zero
        except (Unknown, ArithmeticError, mpmath.libmp.ComplexResult, ValueError):
            return False
        if not largest <= LARGEST_ARGUMENT and not isinstance(node, _AT_ANY_SIZE):
            return False
    return True


_AT_ANY_SIZE = (sympy.Abs, sympy.sign, sympy.Heaviside, sympy.log, sympy.atan)
"""Functions that sympy evaluates quickly, however large the argument."""


# -------------------------------------------------------------------- expressions at a point


@functools.lru_cache(maxsize=1024)
def _compiled(expression: sympy.Expr) -> Program:
    return Program(prepare(expression), (x,))


def at_place(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """An expression at a place that may hold parameters; None where sympy has no such form."""
    if not is_computable(expression, {x: place}):
        return None
    try:
        return expression.xreplace({x: place})
    except ValueError:  # sympy's Min and Max: "the argument is not comparable"
        return None


def ball_at(expression: sympy.Expr, place: sympy.Expr) -> arb:
    """Return a ball around an expression at a point; nan where it is undefined or undecided."""
    # A whole number exactly, for conditions such as x == 10**300.
    digits = abs(int(place)).bit_length() if place.is_Integer else 0
    precision = max(128, digits + 64)
    with ctx.workprec(precision):
        value = _compiled(expression).ball([enclosed(place, precision=precision)])
        return value if value.is_finite() else arb.nan()


def ends_at(expression: sympy.Expr, place: sympy.Expr) -> tuple[float, float] | None:
    """Return the floats around an expression at an exact point; None where it is not known."""
    value = evaluated(expression, place)
    if value is not None:
        return ball_interval(enclosed(value))[:2]
    ball = ball_at(expression, place)
    return ball_interval(ball)[:2] if ball.is_finite() else None


def sign_at(expression: sympy.Expr, place: sympy.Expr, less: sympy.Expr = S.Zero) -> int | None:
    """The exact sign of an expression minus another at an exact point; None if it is not known."""
    ball = ball_at(expression, place) - ball_at(less, place)
    if ball > 0:
        return 1
    if ball < 0:
        return -1
    value, other = evaluated(expression, place), evaluated(less, place)
    return None if value is None or other is None else exact_sign(value - other)


def size_less(expression: sympy.Expr, place: sympy.Expr, bound: sympy.Expr) -> int | None:
    """The sign of |f| minus a bound at an exact point; None if it is not known."""
    above, below = sign_at(expression, place, bound), sign_at(-bound, place, expression)
    if 1 in (above, below):
        return 1
    return None if above is None or below is None else max(above, below)


@functools.lru_cache(maxsize=4096)
def evaluated(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """An expression in x at an exact point; None where it is undefined or a condition is open."""
    arm = _arm_at(expression, place)
    if arm is None or not is_computable(arm, {x: place}):
        return None
    if has_long_power(arm):
        with sympy.evaluate(False):
            value = arm.xreplace({x: place})
    else:
        try:
            value = _substituted(arm, place)
        except ValueError:  # sympy's Min and Max: "the argument is not comparable"
            return None
    unusable = (sympy.nan, sympy.zoo, sympy.oo, S.NegativeInfinity, sympy.Piecewise, sympy.I)
    if value.free_symbols or value.has(*unusable):
        return None
    return value if enclosed(value, precision=106).is_finite() else None


def _substituted(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr:
    """The expression at a point, with arguments expanded where sympy cannot compare them.

    At a breakpoint that is a cube root, for example, two arguments of `Min` may be the same number
    in different forms.
    """
    try:
        return expression.xreplace({x: place})
    except ValueError:
        arm = _arm_at(expression, place)
        if isinstance(expression, sympy.Piecewise):
            return _substituted(arm, place) if arm is not None else sympy.nan
        args = (expanded(_substituted(a, place)) for a in expression.args)
        return expression.func(*args)


def _arm_at(expression: sympy.Expr, place: sympy.Expr) -> sympy.Expr | None:
    """The arm of a Piecewise that applies at a point; any other expression itself."""
    if isinstance(expression, sympy.Piecewise):
        for value, condition in expression.args:
            if not is_computable(condition, {x: place}):
                return None
            truth = condition.xreplace({x: place})
            if truth == sympy.true:
                return _arm_at(value, place)
            if truth != sympy.false:
                return None
        return None  # a gap
    return expression
