"""The symbols, numbers and functions that formulas are made of."""

import keyword
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import mpmath
import sympy
from sympy.core.function import ArgumentIndexError

from pdsearch.errors import FormulaError

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
"""What sympy's `rel_op` of a comparison says of its two sides."""


class sigmoid(sympy.Function):
    r"""The logistic function :math:`\sigma(z) = 1 / (1 + e^{-z})`, kept as one node.

    One node, rather than its exponential form, lets the torch printer emit a call that neither
    overflows nor cancels, and the enclosure use that it is increasing.
    """

    nargs = 1

    @classmethod
    def eval(cls, z: sympy.Expr) -> sympy.Expr | None:
        """Exact values, where there are any."""
        if z.is_zero:
            return sympy.Rational(1, 2)
        if z is sympy.oo:
            return sympy.S.One
        if z is -sympy.oo:
            return sympy.S.Zero
        return None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """σ′ = σ(z)·σ(−z): no difference of near-equal numbers on either side."""
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return sigmoid(self.args[0]) * sigmoid(-self.args[0])

    def _eval_is_real(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_is_positive(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_rewrite_as_exp(self, z: sympy.Expr, **_: Any) -> sympy.Expr:
        return 1 / (1 + sympy.exp(-z))

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        z = self.args[0]._eval_evalf(prec)
        if z is None or not z.is_Float:
            return None
        with mpmath.workprec(prec + 10):
            value = mpmath.mpf(1) / (1 + mpmath.exp(-z._to_mpmath(prec + 10)))
            return cast(sympy.Expr, sympy.Float._new(value._mpf_, prec))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = f"^{{{exp}}}" if exp is not None else ""
        return rf"\sigma{power}\left({printer._print(self.args[0])}\right)"


class softplus(sympy.Function):
    r"""The softplus :math:`\ln(1 + e^z)`, kept as one node; its derivative is `sigmoid`."""

    nargs = 1

    @classmethod
    def eval(cls, z: sympy.Expr) -> sympy.Expr | None:
        """Exact values, where there are any."""
        if z.is_zero:
            return sympy.log(2)
        if z is sympy.oo:
            return sympy.oo
        if z is -sympy.oo:
            return sympy.S.Zero
        return None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """The logistic function."""
        if argindex != 1:
            raise ArgumentIndexError(self, argindex)
        return sigmoid(self.args[0])

    def _eval_is_real(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_is_positive(self) -> bool | None:
        return cast("bool | None", self.args[0].is_real)

    def _eval_rewrite_as_log(self, z: sympy.Expr, **_: Any) -> sympy.Expr:
        return sympy.log(1 + sympy.exp(z))

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        z = self.args[0]._eval_evalf(prec)
        if z is None or not z.is_Float:
            return None
        with mpmath.workprec(prec + 10):
            value = mpmath.log1p(mpmath.exp(z._to_mpmath(prec + 10)))
            return cast(sympy.Expr, sympy.Float._new(value._mpf_, prec))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = f"^{{{exp}}}" if exp is not None else ""
        return rf"\operatorname{{softplus}}{power}\left({printer._print(self.args[0])}\right)"


def clamp(z: Any, low: Any, high: Any) -> sympy.Expr:
    """`z` limited to [low, high], as `Min(Max(z, low), high)`."""
    return cast(sympy.Expr, sympy.Min(sympy.Max(z, low), high))


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    # name: (constructor, least arguments, most arguments)
    "exp": (sympy.exp, 1, 1),
    "log": (sympy.log, 1, 1),
    "sqrt": (sympy.sqrt, 1, 1),
    "sin": (sympy.sin, 1, 1),
    "cos": (sympy.cos, 1, 1),
    "sinh": (sympy.sinh, 1, 1),
    "cosh": (sympy.cosh, 1, 1),
    "tanh": (sympy.tanh, 1, 1),
    "atan": (sympy.atan, 1, 1),
    "erf": (sympy.erf, 1, 1),
    "erfc": (sympy.erfc, 1, 1),
    "sigmoid": (sigmoid, 1, 1),
    "softplus": (softplus, 1, 1),
    "Abs": (sympy.Abs, 1, 1),
    "abs": (sympy.Abs, 1, 1),
    "sign": (sympy.sign, 1, 1),
    "Heaviside": (sympy.Heaviside, 1, 2),
    "Min": (sympy.Min, 2, 8),
    "min": (sympy.Min, 2, 8),
    "Max": (sympy.Max, 2, 8),
    "max": (sympy.Max, 2, 8),
    "clamp": (clamp, 3, 3),
    "Piecewise": (sympy.Piecewise, 1, 64),
}
"""What a formula may call. `min`, `max` and `abs` are other spellings of sympy's names."""

SATURATING = (
    *(sympy.sin, sympy.cos, sympy.tanh, sympy.atan, sympy.erf, sympy.erfc, sigmoid, softplus),
)
"""Functions that sympy computes at constants of any size, in time that grows with the size."""
MOST_ARGUMENT = 10**6

CONSTANTS: Mapping[str, sympy.Expr] = {"pi": sympy.pi, "E": sympy.E}
NOT_FINITE = frozenset({"nan", "NaN", "oo", "inf", "Infinity", "zoo"})

RESERVED = frozenset(
    {"x", "t", "I", "torch", "math", "family", "True", "False", "None"}
    | set(FUNCTIONS)
    | set(CONSTANTS)
    | NOT_FINITE
)
"""Names that no parameter may have."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")


def function_names() -> str:
    """The functions of formulas, for messages."""
    return ", ".join(
        sorted((n for n in FUNCTIONS if n not in ("Abs", "Min", "Max")), key=str.lower)
    )


def shown(text: object) -> str:
    """A short printable form of any text."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 60 else quoted[:56] + "...'"


def symbol(name: str) -> sympy.Symbol:
    """The canonical real symbol of a parameter.

    Raises:
        FormulaError: `name` is reserved, a Python keyword, or no plain identifier.
    """
    if not isinstance(name, str) or not _NAME.match(name) or name.startswith("__"):
        raise FormulaError(
            f"{shown(name)} cannot name a parameter: use an ASCII identifier of at most 40 "
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
    """The exact rational of a number's shortest decimal form: 0.1 becomes 1/10.

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
    if number != number or number in (float("inf"), float("-inf")):
        raise FormulaError(f"a finite number is needed, got {number!r}")
    return sympy.Rational(repr(number))
