"""The assumptions of a formula's symbols, compared with the values that they stand for.

sympy simplifies by a symbol's assumptions as soon as a formula is written: with
`Symbol("x", positive=True)` the condition x > 0 is True, and a Piecewise becomes its first arm. So
an assumption that does not hold for every value is an error.
"""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple

import sympy

from pdsearch.errors import FormulaError


class Values(NamedTuple):
    """The values that a symbol stands for: a range, of whole numbers or not."""

    low: float
    high: float
    whole: bool = False


X, T = Values(float("-inf"), float("inf")), Values(0.0, 1.0)
_DEEPEST = 8


def _samples(values: Values) -> list[sympy.Expr]:
    """Return numbers of all kinds among the values; decimals alone for a parameter.

    An end of the range at 0 does not count: people write `positive=True` for [0, 0.3].
    """
    if values is X:
        return [*map(sympy.Rational, ("-2", "-3/2", "0", "1/3", "1", "4")), sympy.sqrt(2), sympy.pi]
    low, high = sympy.Rational(values.low), sympy.Rational(values.high)
    shares = (low + (high - low) / parts for parts in (2, 3))
    found = {low, high, low + 1, sympy.ceiling(low), sympy.floor(high), sympy.S.Zero, *shares}
    return [
        number
        for number in found
        if low <= number <= high
        and (number.is_integer or not values.whole)
        and (number != 0 or low < 0 < high or low == high)
    ]


def check_assumptions(expression: sympy.Expr, ranges: Mapping[str, Values]) -> None:
    """Refuse a formula with a symbol whose assumptions do not hold for all its values.

    Args:
        expression: as it was written.
        ranges: of the parameters; other symbols except x and t are ignored.

    Raises:
        FormulaError: naming the symbol and the assumption.
    """
    known = {**ranges, "x": X, "t": T}
    for symbol in sorted(expression.free_symbols | expression.atoms(sympy.Dummy), key=str):
        if symbol.name in known:
            _check(symbol, known[symbol.name])


def check_constant(expression: sympy.Expr) -> None:
    """Refuse a formula without x if the caller has a variable x with wrong assumptions.

    Only for one without undeclared parameters, whose error says more.
    With ``x = Symbol("x", positive=True)``, ``Piecewise((1, x > 0), (0.3, True))`` is the number 1
    by the time it arrives here. Only the callers' variables still show why.

    Raises:
        FormulaError: naming the assumption.
    """
    if not any(symbol.name == "x" for symbol in expression.free_symbols):
        for symbol in _in_sight():
            _check(symbol, X)


def _check(symbol: sympy.Symbol, values: Values) -> None:
    facts = symbol.assumptions0
    samples = _samples(values)
    wrong = [
        fact
        for fact, value in facts.items()
        if any(getattr(number, f"is_{fact}") is (not value) for number in samples)
    ]
    if not wrong:
        return
    fact = next((f for f in _PLAIN if f in wrong and facts[f]), wrong[0])
    name, declared = symbol.name, f"{fact}={facts[fact]}"
    if values is X:
        raise FormulaError(
            f"x was declared with {declared}, by which sympy simplifies the formula: use "
            f'pdsearch.x, Symbol("x") or Symbol("x", real=True)'
        )
    raise FormulaError(
        f"{name} was declared with {declared}, which does not hold for all of [{values.low:g}, "
        f'{values.high:g}]: use Symbol("{name}") or Symbol("{name}", real=True)'
    )


def _in_sight() -> list[sympy.Symbol]:
    """Return the symbols called x among the variables of the running functions and files."""
    found: list[sympy.Symbol] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name in _INSIDE:
        frame = frame.f_back
    if frame is not None and frame.f_globals.get("__name__", "").startswith("pdsearch."):
        return []  # the formula came from text, in which x has no assumptions
    for _ in range(_DEEPEST):
        if frame is None:
            break
        names: dict[str, Any] = {**frame.f_globals, **frame.f_locals}
        found += [v for v in names.values() if isinstance(v, sympy.Symbol) and v.name == "x"]
        frame = frame.f_back
    return found


_INSIDE = ("check_constant", "_check_assumptions", "__post_init__", "__init__")
_PLAIN = (  # the assumptions that people write, for the message
    *("positive", "negative", "zero", "prime", "even", "odd", "integer", "nonnegative"),
    *("nonpositive", "nonzero", "rational", "irrational", "imaginary"),
)
