"""The limits of a formula, checked before sympy computes without end.

A formula is a line that a person types. The caps are about ten times what the library's largest
formula needs, and keep every text below a second and a few megabytes.

While it builds an expression, sympy asks each part for its sign and whether it is real. Most of
these questions are cheap. Three checks refuse the shapes for which the cost multiplies with every
level of nesting; they estimate it from the structure alone.

Each check raises a `FormulaError`.
"""

import functools
from typing import Any

import sympy

from pdsearch.errors import FormulaError, short
from pdsearch.expression.functions import sigmoid, softplus, x

MAX_LENGTH = 10_000
MAX_NODES = 2_000
MAX_DEPTH = 40
MAX_DIGITS = 660
MAX_BITS = 2_200  # as many digits, and twice the 1 064 bits of 1e-320 as an exact decimal
MAX_EXPONENT = 64
# sympy compares the arguments of these in pairs, and what they contain at every step.
MAX_CHOICES = 48
MAX_ARMS = 64
MAX_EXP = 2_302  # the exponential of a constant beyond this is beyond 10^1000
MOST_SPREAD = 300_000  # bits
MOST_UNREAL = 1
MOST_LEVELS = 8

_CHOICES = (sympy.Min, sympy.Max, sympy.Abs, sympy.sign, sympy.Heaviside)

_remembered = functools.lru_cache(maxsize=20_000)


def check_digits(number: sympy.Rational) -> None:
    """Refuse a number that takes too long to compute with."""
    if max(abs(int(number.p)).bit_length(), int(number.q).bit_length()) > MAX_BITS:
        raise FormulaError("the formula holds a number of too many digits")


def check_exponent(exponent: sympy.Expr) -> None:
    """Refuse an exponent that contains a large number."""
    largest = max((abs(n) for n in exponent.atoms(sympy.Rational)), default=0)
    if largest > MAX_EXPONENT:
        raise FormulaError(
            f"the exponent {short(str(exponent))} is too large: at most {MAX_EXPONENT} in size"
        )


@_remembered
def _spread(node: Any) -> int:
    """Estimate the bits of a formula's numbers over one common denominator, from above.

    sympy forms it whenever it asks for the sign of a sum. That is harmless for (x + 1/3)**64, but
    (((x + 1/3)**64 + 1/3)**64 + 1/3)**64 has a denominator of 3^262144. A parameter counts as a
    number of 17 digits.
    """
    if node.is_Rational:
        return max(int(node.p).bit_length(), int(node.q).bit_length()) if node.q != 1 else 0
    if node.is_Symbol:
        return 0 if node == x else 60
    total = min(sum(map(_spread, node.args)), 10**9)
    if node.is_Pow and node.base is not sympy.E and node.exp.is_Rational:
        return int(_spread(node.base) * max(1, abs(node.exp)))
    return total


@_remembered
def _nature(node: Any) -> tuple[bool, int]:
    """Return whether a part is surely positive, and how deep functions are nested in it.

    What counts are levels of functions around a part that may not be real; -1 if there is none.
    Around x**0.3, which is complex for negative x, sympy looks for real and imaginary parts of
    every function: three levels of tanh take a third of a second, each further one four times
    that, and with an exponent of 17 digits two levels may not end at all.
    """
    if node.is_number and (node.is_Rational or not node.args):
        return bool(node.is_positive), -1
    if not node.args:
        return False, -1
    natures = [_nature(a) for a in node.args]
    positive = all(p for p, _ in natures)
    depth = max(d for _, d in natures)
    around = depth + 1 if depth >= 0 else -1
    if node.is_Add:
        # A sum of positive terms and of even powers, with at least one positive term.
        rest = [a for a, (p, _) in zip(node.args, natures, strict=True) if not p]
        return len(rest) < len(node.args) and all(map(_even, rest)) and depth < 0, depth
    if node.is_Mul:
        return positive, depth
    if node.is_Pow and node.base is not sympy.E:
        if natures[0][0] and depth < 0:
            return True, -1
        return False, depth if node.exp.is_Integer else depth + 1
    if isinstance(node, sympy.log):
        return False, around if depth >= 0 or positive else 0
    if isinstance(node, sympy.exp | sympy.cosh | sigmoid | softplus):
        return depth < 0, around
    if isinstance(node, sympy.Function) and not isinstance(node, sympy.Piecewise):
        return False, around
    return False, depth


def _even(node: Any) -> bool:
    """Whether a term is a product of even powers, absolute values and positive numbers."""
    return all(
        (f.is_Rational and f >= 0)
        or isinstance(f, sympy.Abs)
        or (f.is_Pow and f.exp.is_Integer and f.exp % 2 == 0)
        for f in sympy.Mul.make_args(node)
    )


@_remembered
def _level(node: Any) -> int:
    """Return how deep choices (Min, Abs, ...), open powers and quotients by sums are nested.

    sympy compares the arguments of a choice with one another, together with the choices that they
    contain, and it multiplies continued fractions out.
    """
    counts = isinstance(node, _CHOICES) or (
        node.is_Pow
        and node.base is not sympy.E
        and (not node.exp.is_Rational or (node.exp < 0 and node.base.is_Add))
    )
    return max(map(_level, node.args), default=0) + bool(counts)


def check_spread(node: Any) -> None:
    """Refuse powers of sums of fractions within one another; see `_spread`."""
    if _spread(node) > MOST_SPREAD:
        raise FormulaError("powers are nested too deeply here")


def check_inside(argument: Any) -> None:
    """Refuse an argument with functions around a part that may not be real; see `_nature`."""
    if _nature(argument)[1] >= MOST_UNREAL:
        raise FormulaError(
            "functions are nested too deeply around a root, power or logarithm that is not "
            "real everywhere"
        )


def check_levels(node: Any) -> None:
    """Refuse choices within one another; see `_level`."""
    if _level(node) > MOST_LEVELS:
        raise FormulaError(
            f"Min, Max, Abs, sign, Heaviside, powers such as x**alpha and quotients such as "
            f"1/(x + 1) are nested more than {MOST_LEVELS} deep"
        )
