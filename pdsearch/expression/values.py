"""Numbers from expressions, at a bounded cost.

sympy evaluates constants as it builds them, to any precision they need: `exp(exp(exp(20)))`,
`9**9**9` or `exp(10**9*log(2))` would never end. So constants are evaluated here first, where a
number beyond 10^±1000 is an error rather than a computation.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from mpmath.ctx_mp import MPContext

from pdsearch.errors import FormulaError
from pdsearch.expression.functions import RELATIONS, truth

LARGEST = 1_000
"""Constants of formulas must be below 10 to this power, and above its inverse unless 0."""

CONTEXT = MPContext()  # separate from mpmath.mp: nobody changes its precision, so threads share it
CONTEXT.dps = 50
_mpf = CONTEXT.mpf
_HUGE = 10**6  # arguments of exp beyond it are not computed: 10^434294 is no useful number
_FAR = 10**20  # where bounded functions have long reached their limits
MOST_BITS = 4_000  # larger exact fractions are reduced to 50 digits

Number = Fraction | Any  # Any: an mpf or a float


class Undefined(Exception):
    """The expression has no finite real value at the point. The message says why."""


class Unknown(Exception):
    """The value cannot be found at a bounded cost."""


def rational(node: Any) -> Fraction:
    """Return a sympy number as a Fraction."""
    return Fraction(int(node.p), int(node.q))


def wide(value: Number) -> Any:
    """Return the number with 50 digits."""
    if isinstance(value, Fraction):
        return _mpf(value.numerator) / value.denominator
    return value


def _narrow(value: Number) -> Number:
    if (
        isinstance(value, Fraction)
        and value.numerator.bit_length() + value.denominator.bit_length() > MOST_BITS
    ):
        return wide(value)
    return value


def _chain(operation: Callable[[Number, Number], Number]) -> Callable[..., Number]:
    """Return a sum or a product of any number of arguments, exact as long as they are."""

    def both(a: Number, b: Number) -> Number:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return _narrow(operation(a, b))
        return operation(wide(a), wide(b))

    return lambda *numbers: functools.reduce(both, numbers)


def _power(base: Number, exponent: Number) -> Number:
    if base == 0:
        if exponent == 0:
            return Fraction(1)
        if exponent > 0:
            return Fraction(0)
        if not isinstance(base, Fraction):
            raise Unknown  # a tiny number that was rounded to 0
        raise Undefined("divides by zero")
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if base < 0 and not whole:
        raise Undefined("is not real")
    size = abs(float(CONTEXT.log(abs(wide(base))))) * abs(float(wide(exponent)))
    if not size < _HUGE:
        raise Unknown
    if whole and isinstance(base, Fraction) and size < MOST_BITS / 2 and abs(exponent) <= 1_000:
        return _narrow(base ** int(exponent))
    return CONTEXT.power(wide(base), int(exponent) if whole else wide(exponent))


def _exp(z: Number) -> Number:
    if z == 0:
        return Fraction(1)
    if z > _HUGE:
        raise Unknown
    return CONTEXT.exp(wide(z)) if z > -_HUGE else _mpf(0)


def _log(z: Number) -> Number:
    if z == 1:
        return Fraction(0)
    if z == 0 and not isinstance(z, Fraction):
        raise Unknown
    if z <= 0:
        raise Undefined("takes the logarithm of a number that is not positive")
    return CONTEXT.log(wide(z))


def _ordered(numbers: tuple[Number, ...]) -> Callable[[Number], Any]:
    """Return a key to compare by: a Fraction and an mpf do not compare with each other."""
    return (lambda z: z) if all(isinstance(z, Fraction) for z in numbers) else wide


def _within(function: Any, limit: int, at_zero: int) -> Callable[[Number], Number]:
    """Return a function that is computed up to a size of its argument."""

    def value(z: Number) -> Number:
        if abs(z) > limit:
            raise Unknown
        return function(wide(z)) if z != 0 else Fraction(at_zero)

    return value


def _bounded(function: Any, low: Any, middle: Fraction, high: Any) -> Callable[[Number], Number]:
    """Return a monotone function that has reached its limits far out."""

    def value(z: Number) -> Number:
        if z == 0:
            return middle
        if z > _FAR:
            return high
        return low if z < -_FAR else function(wide(z))

    return value


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + CONTEXT.exp(-z)) if z > -_HUGE else _mpf(0)


def _softplus(z: Number) -> Number:
    if z > _HUGE:
        return z
    return CONTEXT.log(1 + CONTEXT.exp(wide(z))) if z > -_HUGE else _mpf(0)


_ONE = Fraction(1)
_ZERO = Fraction(0)

_EXACT: Mapping[str, Callable[..., Number]] = {
    "Add": _chain(operator.add),
    "Mul": _chain(operator.mul),
    "Pow": _power,
    "Pi": lambda: +CONTEXT.pi,
    "Exp1": lambda: +CONTEXT.e,
    "exp": _exp,
    "log": _log,
    "sin": _within(CONTEXT.sin, _FAR, 0),
    "cos": _within(CONTEXT.cos, _FAR, 1),
    "sinh": _within(CONTEXT.sinh, _HUGE, 0),
    "cosh": _within(CONTEXT.cosh, _HUGE, 1),
    "tanh": _bounded(CONTEXT.tanh, -_ONE, _ZERO, _ONE),
    "atan": lambda z: CONTEXT.atan(wide(z)) if z != 0 else _ZERO,
    "erf": _bounded(CONTEXT.erf, -_ONE, _ZERO, _ONE),
    "erfc": _bounded(CONTEXT.erfc, 2 * _ONE, _ONE, _mpf(0)),
    "sigmoid": _bounded(_sigmoid, _mpf(0), Fraction(1, 2), _ONE),
    "softplus": _softplus,
    "Abs": abs,
    "sign": lambda z: Fraction((z > 0) - (z < 0)),
    "Heaviside": lambda z, at_zero: at_zero if z == 0 else Fraction(int(z > 0)),
    "Min": lambda *z: min(z, key=_ordered(z)),
    "Max": lambda *z: max(z, key=_ordered(z)),
}

# The same on floats: quick, and exact enough to see that nothing is wrong.
_QUICK: Mapping[str, Callable[..., Number]] = {
    "Add": lambda *z: functools.reduce(operator.add, z),
    "Mul": lambda *z: functools.reduce(operator.mul, z),
    "Pow": math.pow,
    "Pi": lambda: math.pi,
    "Exp1": lambda: math.e,
    **{
        name: getattr(math, name)
        for name in ("exp", "log", "sin", "cos", "sinh", "cosh", "tanh", "atan", "erf", "erfc")
    },
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)) if z > -700 else math.exp(z),
    "softplus": lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z))),
    "Abs": abs,
    "sign": lambda z: float((z > 0) - (z < 0)),
    "Heaviside": lambda z, at_zero: at_zero if z == 0 else float(z > 0),
    "Min": min,
    "Max": max,
}


class Evaluator:
    """Evaluates an expression at one point, with Fractions and 50 digits or with floats."""

    def __init__(self, values: Mapping[sympy.Symbol, Number], *, quick: bool) -> None:
        self.known: dict[sympy.Basic, Number] = dict(values)
        self.quick = quick
        self.table = _QUICK if quick else _EXACT

    def value(self, node: Any) -> Number:
        """Return the value of a part, which is remembered."""
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = self.compute(node)
        return found

    def compute(self, node: Any) -> Number:
        """Compute the value of a part from its arguments."""
        if node.is_Rational:
            return int(node.p) / int(node.q) if self.quick else rational(node)
        if isinstance(node, sympy.Piecewise):
            for value, condition in node.args:
                if truth(condition, self._holds):
                    return self.value(value)
            raise Undefined("is undefined (no arm of Piecewise is taken)")
        if node is sympy.I:
            raise Undefined("is not real")
        if node in (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
            raise Undefined("is not finite")
        function = self.table.get(type(node).__name__)
        if function is None:
            raise Unknown
        return function(*map(self.value, node.args))

    def _holds(self, relation: Any) -> bool:
        sides = (self.value(relation.lhs), self.value(relation.rhs))
        return bool(RELATIONS[relation.rel_op](*map(_ordered(sides), sides)))


def evaluate(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> Number:
    """Return the value at a point, exact if the arithmetic is rational, else to about 50 digits.

    Raises:
        Undefined: it has no finite real value there.
        Unknown: it cannot be found at a bounded cost.
    """
    try:
        return Evaluator(values, quick=False).value(expression)
    except (ArithmeticError, mpmath.libmp.ComplexResult, ValueError, MemoryError):
        raise Unknown from None


def constant_value(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> Number:
    """Return the value of a part without x, which must be of a reasonable size.

    Raises:
        FormulaError: it is not finite, or beyond 10^±1000.
    """
    try:
        value = evaluate(expression, values)
    except Undefined as error:
        raise FormulaError(f"a constant of the formula {error}") from None
    except Unknown:
        raise FormulaError("a constant of the formula is too large to compute") from None
    if value == 0 and not isinstance(value, Fraction):
        raise FormulaError(f"a constant of the formula is beyond 10^-{LARGEST}")
    if value != 0:
        size = abs(wide(value))
        if size > _mpf(10) ** LARGEST or size < _mpf(10) ** -LARGEST:
            sign = "" if size > 1 else "-"
            raise FormulaError(f"a constant of the formula is beyond 10^{sign}{LARGEST}")
        # A sum that is neither exact nor larger than its rounding error may be 0.
        if expression.is_Add and not isinstance(value, Fraction) and size < _mpf(10) ** -40:
            raise FormulaError("a constant of the formula cannot be told from 0")
    return value
