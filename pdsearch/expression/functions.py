"""The symbols, numbers and functions that formulas are made of."""

import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import mpmath
import sympy
from sympy.core.function import ArgumentIndexError

from pdsearch.errors import FormulaError, short

x = sympy.Symbol("x", real=True)
"""The pre-activation: the input of the ReLU whose backward pass is replaced."""

t = sympy.Symbol("t", real=True)
"""Training progress in [0, 1], for annealed families."""

RELATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
"""The comparisons by sympy's `rel_op`."""


def truth(condition: Any, holds: Callable[[Any], bool]) -> bool:
    """Return whether a condition is true, given which comparisons hold."""
    if condition in (sympy.true, sympy.false):
        return bool(condition == sympy.true)
    if isinstance(condition, sympy.And):
        return all(truth(part, holds) for part in condition.args)
    if isinstance(condition, sympy.Or):
        return any(truth(part, holds) for part in condition.args)
    if isinstance(condition, sympy.Not):
        return not truth(condition.args[0], holds)
    return holds(condition)


def slope_and_rest(relation: Any) -> tuple[sympy.Expr, sympy.Expr]:
    """Return s and r of a comparison whose sides differ by s·x + r; r may still contain x."""
    difference = relation.lhs - relation.rhs
    slope = difference.coeff(x, 1)
    return slope, difference - slope * x


class _Increasing(sympy.Function):
    """A positive increasing function of one real argument, kept as one node.

    One node lets the torch printer emit a call that neither overflows nor cancels, and lets the
    enclosures use that it is increasing.
    """

    _values: ClassVar[tuple[sympy.Expr, sympy.Expr, sympy.Expr]]  # at -oo, 0 and oo
    _written: ClassVar[str]  # in LaTeX
    _number: ClassVar[Any]  # the function of an mpmath number
    _slope: ClassVar[Any]  # the derivative of an expression

    @classmethod
    def eval(cls, z: sympy.Expr) -> sympy.Expr | None:
        """Return the exact values where there are any."""
        if z.is_zero:
            return cls._values[1]
        if z is sympy.oo:
            return cls._values[2]
        return cls._values[0] if z is -sympy.oo else None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """Return the derivative."""
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return type(self)._slope(self.args[0])

    def _eval_is_real(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    _eval_is_positive = _eval_is_real

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        z = self.args[0]._eval_evalf(prec)
        if z is None or not z.is_Float:
            return None
        with mpmath.workprec(prec + 10):
            value = type(self)._number(z._to_mpmath(prec + 10))
            return cast(sympy.Expr, sympy.Float._new(value._mpf_, prec))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = f"^{{{exp}}}" if exp is not None else ""
        return rf"{self._written}{power}\left({printer._print(self.args[0])}\right)"


class sigmoid(_Increasing):
    r"""The logistic function :math:`\sigma(z) = 1 / (1 + e^{-z})`.

    Its derivative is σ(z)·σ(−z): no difference of near-equal numbers on either side.
    """

    nargs = 1
    _values = (sympy.S.Zero, sympy.Rational(1, 2), sympy.S.One)
    _written = r"\sigma"
    _number = staticmethod(lambda z: mpmath.mpf(1) / (1 + mpmath.exp(-z)))
    _slope = staticmethod(lambda z: sigmoid(z) * sigmoid(-z))

    def _eval_rewrite_as_exp(self, z: sympy.Expr, **_: Any) -> sympy.Expr:
        return 1 / (1 + sympy.exp(-z))


class softplus(_Increasing):
    r"""The softplus :math:`\ln(1 + e^z)`; its derivative is `sigmoid`."""

    nargs = 1
    _values = (sympy.S.Zero, sympy.log(2), sympy.oo)
    _written = r"\operatorname{softplus}"
    _number = staticmethod(lambda z: mpmath.log1p(mpmath.exp(z)))
    _slope = staticmethod(lambda z: sigmoid(z))

    def _eval_rewrite_as_log(self, z: sympy.Expr, **_: Any) -> sympy.Expr:
        return sympy.log(1 + sympy.exp(z))


def clamp(z: Any, low: Any, high: Any) -> sympy.Expr:
    """Return `z` limited to [low, high], as `Min(Max(z, low), high)`."""
    return cast(sympy.Expr, sympy.Min(sympy.Max(z, low), high))


_ONE_ARGUMENT = (
    *(sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.sinh, sympy.cosh, sympy.tanh, sympy.atan),
    *(sympy.erf, sympy.erfc, sigmoid, softplus, sympy.Abs, sympy.sign),
)

FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    # name: (constructor, least arguments, most arguments)
    **{function.__name__: (function, 1, 1) for function in _ONE_ARGUMENT},
    "sqrt": (sympy.sqrt, 1, 1),
    "abs": (sympy.Abs, 1, 1),
    "Heaviside": (sympy.Heaviside, 1, 2),
    **dict.fromkeys(("Min", "min"), (sympy.Min, 2, 8)),
    **dict.fromkeys(("Max", "max"), (sympy.Max, 2, 8)),
    "clamp": (clamp, 3, 3),
    "Piecewise": (sympy.Piecewise, 1, 64),
}
"""What a formula may call. `min`, `max` and `abs` are alternative spellings of sympy's names."""

SATURATING = (
    *(sympy.sin, sympy.cos, sympy.tanh, sympy.atan, sympy.erf, sympy.erfc, sigmoid, softplus),
)
"""Functions that sympy computes at constants of any size, in time that grows with the size."""
MOST_ARGUMENT = 10**6  # of a constant that these are given

CONSTANTS: Mapping[str, sympy.Expr] = {"pi": sympy.pi, "E": sympy.E}
NOT_FINITE = frozenset({"nan", "NaN", "oo", "inf", "Infinity", "zoo"})

RESERVED = frozenset(
    {"x", "t", "I", "torch", "math", "family", "True", "False", "None"}
    | set(FUNCTIONS)
    | set(CONSTANTS)
    | NOT_FINITE
)
"""Names that parameters cannot have."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")


def function_names() -> str:
    """Return the names of the functions for messages."""
    return ", ".join(sorted(FUNCTIONS.keys() - {"Abs", "Min", "Max"}, key=str.lower))


def symbol(name: str) -> sympy.Symbol:
    """Return the canonical real symbol of a parameter.

    Raises:
        FormulaError: `name` is reserved, a Python keyword, or not a plain identifier.
    """
    if not isinstance(name, str) or not _NAME.match(name) or name.startswith("__"):
        raise FormulaError(
            f"{short(name)} cannot name a parameter: use an ASCII identifier of at most 40 "
            "characters, such as alpha or beta_2"
        )
    if keyword.iskeyword(name) and name not in RESERVED:
        raise FormulaError(
            f"{name!r} cannot name a parameter: it is a Python keyword; use a name such as lam"
        )
    if name in RESERVED:
        raise FormulaError(
            f"{name!r} cannot name a parameter: it is reserved (x is the pre-activation, t the "
            "training progress, the others are functions and constants of formulas)"
        )
    return sympy.Symbol(name, real=True)


def exact(value: float | int | sympy.Expr) -> sympy.Rational:
    """Return the exact rational of a number's shortest decimal form: 0.1 becomes 1/10.

    Raises:
        FormulaError: the number is not finite.
    """
    if isinstance(value, sympy.Rational):
        return value
    if isinstance(value, bool):
        raise FormulaError(f"a number is needed, got {value!r}")
    if isinstance(value, int):
        return sympy.Integer(value)
    number = float(value)
    if not math.isfinite(number):
        raise FormulaError(f"a finite number is needed, got {number!r}")
    return sympy.Rational(repr(number))
