"""What symbols were declared to be, held against what they stand for.

sympy simplifies by a symbol's assumptions while a formula is written down: with
`Symbol("x", positive=True)` the condition x > 0 is True, and a Piecewise its first arm, before
anybody can look. So an assumption that does not hold for every value is an error.
"""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple

import sympy

from pdsearch.errors import FormulaError


class Values(NamedTuple):
    """What a symbol stands for: a range, whole numbers or not."""

    low: float
    high: float
    whole: bool = False


X, T = Values(float("-inf"), float("inf")), Values(0.0, 1.0)
_REAL = sympy.Symbol("x", real=True).assumptions0
_DEEPEST = 8


def _truth(fact: str, values: Values) -> bool | None:
    """Whether an assumption holds for all values (True), for none (False), or for some.

    An end of the range at 0 is let be: `positive=True` for [0, 0.3] is how people write it.
    """
    low, high, whole = values
    known: dict[str, bool | None] = {
        "positive": True if low >= 0 < high else (False if high <= 0 else None),
        "negative": True if high <= 0 > low else (False if low >= 0 else None),
        "nonnegative": True if low >= 0 else (False if high <= 0 else None),
        "nonpositive": True if high <= 0 else (False if low >= 0 else None),
        "zero": True if low == high == 0 else (None if low < 0 < high else False),
        "integer": True if whole else None,
        "noninteger": False if whole else None,
        # A parameter's values are decimals.
        **dict.fromkeys(("rational", "algebraic"), None if values is X else True),
        **dict.fromkeys(("irrational", "transcendental"), None if values is X else False),
    }
    nonzero = known["zero"]
    known["nonzero"] = None if nonzero is None else not nonzero
    # Of what is left, as of even or prime, nothing holds; what is False follows from the rest.
    return known.get(fact.removeprefix("extended_"), _REAL.get(fact, False))


def check_assumptions(expression: sympy.Expr, ranges: Mapping[str, Values]) -> None:
    """Refuse a formula in which a symbol was declared to be what it need not be.

    Args:
        expression: as it was written.
        ranges: of the parameters; symbols that are neither x, t nor in here are not looked at.

    Raises:
        FormulaError: naming the symbol and the assumption.
    """
    known = {**ranges, "x": X, "t": T}
    for symbol in sorted(expression.free_symbols | expression.atoms(sympy.Dummy), key=str):
        if symbol.name in known:
            _check(symbol, known[symbol.name])


def check_constant(expression: sympy.Expr) -> None:
    """Refuse a formula whose x is gone, if whoever wrote it has an x with assumptions at hand.

    With ``x = Symbol("x", positive=True)``, ``Piecewise((1, x > 0), (0.3, True))`` is the number 1
    when it gets here: what is left to be looked at are the variables of the callers.

    Raises:
        FormulaError: naming the assumption.
    """
    if not any(symbol.name == "x" for symbol in expression.free_symbols):
        for symbol in _in_sight():
            _check(symbol, X)


def _check(symbol: sympy.Symbol, values: Values) -> None:
    facts = symbol.assumptions0
    wrong = [
        fact
        for fact, value in facts.items()
        if fact != "commutative"
        and value is not None
        and _truth(fact, values) is not value
        # What else a number below zero is not follows from its sign.
        and not (value is False and fact in ("prime", "composite", "even", "odd"))
    ]
    if not wrong:
        return
    told = next((f for f in _SAID if f in wrong and facts[f]), wrong[0])
    name, said = symbol.name, f"{told}={facts[told]}"
    if values is X:
        raise FormulaError(
            f"x was declared with {said}, by which sympy simplifies the formula: use pdsearch.x, "
            f'Symbol("x") or Symbol("x", real=True)'
        )
    raise FormulaError(
        f"{name} was declared with {said}, which does not hold for all of [{values.low:g}, "
        f'{values.high:g}]: use Symbol("{name}") or Symbol("{name}", real=True)'
    )


def _in_sight() -> list[sympy.Symbol]:
    """Symbols called x among the variables of the functions and files that are running."""
    found: list[sympy.Symbol] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in _INSIDE:
        frame = frame.f_back
    if frame is not None and frame.f_globals.get("__name__", "").startswith("pdsearch."):
        return []  # read from text, where x has no assumptions
    for _ in range(_DEEPEST):
        if frame is None:
            break
        names: dict[str, Any] = {**frame.f_globals, **frame.f_locals}
        found += [v for v in names.values() if isinstance(v, sympy.Symbol) and v.name == "x"]
        frame = frame.f_back
    return found


_INSIDE = ("check_constant", "_check_assumptions", "__post_init__", "__init__")
_SAID = (
    *("positive", "negative", "zero", "prime", "even", "odd", "integer", "nonnegative"),
    *("nonpositive", "nonzero", "rational", "irrational", "imaginary"),
)
