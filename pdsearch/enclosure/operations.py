"""The operations of a compiled expression, each in three arithmetics.

Float intervals for enclosures, Arb balls for points, complex balls for integration; and for what
bends or jumps, which way it goes all over a box.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from flint import acb, arb

from pdsearch.enclosure import functions as fn
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.nodes import arccot, erfc_ratio, sech2, sigmoid_bell
from pdsearch.expression import RELATIONS, sigmoid, softplus


class UndecidedError(ArithmeticError):
    """A condition could not be decided at the working precision."""


def _acb_nan() -> acb:
    return acb(arb.nan(), arb.nan())


def _acb_atan(z: acb) -> acb:
    # The branch cuts run from ±i to ±i∞; Arb's atan does not check them.
    if z.real.contains(0) and float(abs(z.imag).upper()) >= 1.0:
        return _acb_nan()
    return z.atan()


def _acb_sigmoid(z: acb) -> acb:
    if float(z.real.mid()) < 0.0:
        power = z.exp()
        return power / (1 + power)
    return 1 / (1 + (-z).exp())


def _acb_bell(z: acb) -> acb:
    power = (-z if float(z.real.mid()) > 0.0 else z).exp()
    return power / (1 + power) ** 2


def _acb_softplus(z: acb) -> acb:
    if float(z.real.mid()) > 0.0:
        return z + (1 + (-z).exp()).log(analytic=True)
    return (1 + z.exp()).log(analytic=True)


@dataclass(frozen=True)
class Operation:
    """One operation in each arithmetic; ``complex`` is None where it has no analytic form."""

    name: str
    interval: Callable[..., Any]
    ball: Callable[..., Any]
    complex: Callable[..., Any] | None


def _ball_sign(a: arb) -> arb:
    if a > 0:
        return arb(1)
    if a < 0:
        return arb(-1)
    if a.is_zero():
        return arb(0)
    raise UndecidedError


def _ball_step(a: arb, at_zero: arb) -> arb:
    if a > 0:
        return arb(1)
    if a < 0:
        return arb(0)
    if a.is_zero():
        return at_zero
    raise UndecidedError


def _ball_real_power(a: arb, b: arb) -> arb:
    if a.is_zero() and b > 0:
        return arb(0)
    return a**b


def _ball_relation(kind: str) -> Callable[[arb], bool]:
    def decide(difference: arb) -> bool:
        if not (difference > 0 or difference < 0 or difference.is_zero()):
            raise UndecidedError
        return bool(RELATIONS[kind](difference, 0))

    return decide


def _interval_relation(kind: str) -> Callable[[Interval], tuple[bool, bool, int]]:
    """(may be true, may be false, flag) of ``difference kind 0``."""
    if_above, if_below, if_zero = (RELATIONS[kind](sign, 0) for sign in (1, -1, 0))

    def decide(difference: Interval) -> tuple[bool, bool, int]:
        lo, hi, flag = difference
        above, below, zero = hi > 0.0, lo < 0.0, lo <= 0.0 <= hi
        return (
            (above and if_above) or (below and if_below) or (zero and if_zero),
            (above and not if_above) or (below and not if_below) or (zero and not if_zero),
            flag,
        )

    return decide


RELATION_OPERATIONS = {
    kind: Operation(kind, _interval_relation(kind), _ball_relation(kind), None)
    for kind in RELATIONS
}

AND = Operation(
    "and",
    lambda a, b: (a[0] and b[0], a[1] or b[1], a[2] | b[2]),
    lambda a, b: a and b,
    None,
)
OR = Operation(
    "or",
    lambda a, b: (a[0] or b[0], a[1] and b[1], a[2] | b[2]),
    lambda a, b: a or b,
    None,
)
NOT = Operation("not", lambda a: (a[1], a[0], a[2]), lambda a: not a, None)


def _interval_piecewise(*values: Any) -> Interval:
    result: Interval | None = None
    arms = 0
    flag = 0
    for value, condition in zip(values[::2], values[1::2], strict=True):
        may, may_not, condition_flag = condition
        flag |= condition_flag
        if may:
            arms += 1
            result = value if result is None else iv.hull(result, value)
        if not may_not:
            break
    else:
        flag |= iv.UNDEFINED  # a gap: no arm is certain to apply
    if result is None:
        return iv.NOWHERE
    if arms > 1:
        flag |= iv.JUMP
    return (result[0], result[1], result[2] | flag)


def _ball_piecewise(*values: Any) -> Any:
    for value, condition in zip(values[::2], values[1::2], strict=True):
        if isinstance(condition, UndecidedError):
            return condition
        if condition:
            return value
    return arb.nan()


ADD = Operation("add", iv.add, lambda a, b: a + b, lambda a, b: a + b)
MULTIPLY = Operation("mul", iv.multiply, lambda a, b: a * b, lambda a, b: a * b)
NEGATE = Operation("neg", iv.negate, lambda a: -a, lambda a: -a)
RECIPROCAL = Operation("inv", iv.reciprocal, lambda a: 1 / a, lambda a: 1 / a)
SQRT = Operation("sqrt", iv.square_root, lambda a: a.sqrt(), lambda a: a.sqrt(analytic=True))
POWER = Operation("pow", fn.real_power, _ball_real_power, lambda a, b: a.pow(b, analytic=True))
MIN = Operation("min", iv.minimum, lambda a, b: a.min(b), None)
MAX = Operation("max", iv.maximum, lambda a, b: a.max(b), None)
HEAVISIDE = Operation("step", iv.step, _ball_step, None)
PIECEWISE = Operation("piecewise", _interval_piecewise, _ball_piecewise, None)

FUNCTIONS: dict[type, Operation] = {
    sympy.exp: Operation("exp", fn.exponential, lambda a: a.exp(), lambda a: a.exp()),
    sympy.log: Operation("log", fn.logarithm, lambda a: a.log(), lambda a: a.log(analytic=True)),
    sympy.sin: Operation("sin", fn.sine, lambda a: a.sin(), lambda a: a.sin()),
    sympy.cos: Operation("cos", fn.cosine, lambda a: a.cos(), lambda a: a.cos()),
    sympy.tanh: Operation("tanh", fn.tanh, lambda a: a.tanh(), lambda a: a.tanh()),
    sympy.sinh: Operation("sinh", fn.sinh, lambda a: a.sinh(), lambda a: a.sinh()),
    sympy.cosh: Operation("cosh", fn.cosh, lambda a: a.cosh(), lambda a: a.cosh()),
    sympy.atan: Operation("atan", fn.atan, lambda a: a.atan(), _acb_atan),
    sympy.erf: Operation("erf", fn.erf, lambda a: a.erf(), lambda a: a.erf()),
    sympy.erfc: Operation("erfc", fn.erfc, lambda a: a.erfc(), lambda a: a.erfc()),
    sigmoid: Operation("sigmoid", fn.sigmoid, fn.arb_sigmoid, _acb_sigmoid),
    softplus: Operation("softplus", fn.softplus, fn.arb_softplus, _acb_softplus),
    arccot: Operation("arccot", fn.arccot, fn.arb_arccot, lambda a: acb.pi() / 2 - _acb_atan(a)),
    sigmoid_bell: Operation("bell", fn.bell, fn.arb_bell, _acb_bell),
    sech2: Operation("sech2", fn.sech2, fn.arb_sech2, lambda a: 4 * _acb_bell(2 * a)),
    erfc_ratio: Operation("erfc_ratio", fn.erfc_ratio, fn.arb_erfc_ratio, None),
    sympy.Abs: Operation("abs", iv.absolute, abs, None),
    sympy.sign: Operation("sign", iv.sign, _ball_sign, None),
}


def integer_power(exponent: int) -> Operation:
    """A whole power."""
    return Operation(
        f"pow{exponent}",
        lambda a: iv.integer_power(a, exponent),
        lambda a: a**exponent,
        lambda a: a**exponent,
    )


def _sign_choice(value: Interval, *_: Interval) -> int | None:
    lo, hi, _flag = value
    if lo == hi == 0.0:
        return 0
    return 1 if lo >= 0.0 else (-1 if hi <= 0.0 else None)


def _strict_choice(value: Interval, *_: Interval) -> int | None:
    lo, hi, _flag = value
    return 1 if lo > 0.0 else (-1 if hi < 0.0 else None)


def _order_choice(a: Interval, b: Interval) -> int | None:
    """0 where a ≤ b all over the box, 1 where b ≤ a."""
    return 0 if a[1] <= b[0] else (1 if b[1] <= a[0] else None)


def _arm_choice(*values: Any) -> int | None:
    for index, (may, may_not, _flag) in enumerate(values[1::2]):
        if may and may_not:
            return None
        if may:
            return 2 * index
    return None


CHOICES: dict[str, Callable[..., int | None]] = {
    "abs": _sign_choice,
    "sign": _strict_choice,
    "step": _strict_choice,
    "min": _order_choice,
    "max": lambda a, b: None if (c := _order_choice(a, b)) is None else 1 - c,
    "piecewise": _arm_choice,
}


def taken(name: str, choice: int, values: Sequence[Any]) -> Any:
    """The complex value of an operation whose choice is known."""
    if name == "abs":
        return values[0] * choice if choice else values[0]
    if name == "sign":
        return acb(choice)
    if name == "step":
        return acb(1 if choice > 0 else 0)
    return values[choice]


NOWHERE = Operation("nowhere", lambda: iv.NOWHERE, arb.nan, _acb_nan)
CONSTANT = Operation("constant", lambda: None, lambda: None, lambda: None)
