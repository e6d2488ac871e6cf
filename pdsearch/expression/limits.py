"""What of an expression would keep sympy busy for ever, seen before sympy does.

Building an expression, sympy asks each part for its sign and whether it is real. These questions
are mostly cheap; the two classes here refuse the shapes for which their cost multiplies with
every level of nesting. Both estimate from the structure alone and remember what they have seen.
"""

from typing import Any

import sympy

from pdsearch.errors import FormulaError
from pdsearch.expression.functions import sigmoid, softplus, x

MOST_BITS = 300_000
MOST_UNREAL = 1
MOST_LEVELS = 8


class Spread:
    """How many bits a formula's numbers would take over one common denominator.

    sympy forms it whenever it asks for the sign of a sum: harmless for (x + 1/3)**64, but
    (((x + 1/3)**64 + 1/3)**64 + 1/3)**64 has a denominator of 3^262144. An upper estimate.
    """

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def bits(self, node: Any) -> int:
        """The estimate; a parameter counts as a number of 17 digits."""
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = self._compute(node)
        return found

    def _compute(self, node: Any) -> int:
        if node.is_Rational:
            return max(int(node.p).bit_length(), int(node.q).bit_length()) if node.q != 1 else 0
        if node.is_Symbol:
            return 0 if node == x else 60
        total = min(sum(self.bits(a) for a in node.args), 10**9)
        if node.is_Pow and node.base is not sympy.E and node.exp.is_Rational:
            return int(self.bits(node.base) * max(1, abs(node.exp)))
        return total

    def check(self, node: Any) -> None:
        """Refuse what is too wide.

        Raises:
            FormulaError: it is.
        """
        if self.bits(node) > MOST_BITS:
            raise FormulaError("powers are nested too deeply here")


class Reality:
    """How deeply functions are nested around a part that sympy cannot tell to be real.

    Around x**0.3, which is complex for negative x, sympy looks for real and imaginary parts of
    every function: three levels of tanh take a third of a second, each further one four times
    that, and with an exponent of 17 digits two levels may already not end.
    """

    def __init__(self) -> None:
        self.known: dict[Any, tuple[bool, int]] = {}

    def nature(self, node: Any) -> tuple[bool, int]:
        """(surely positive, levels of functions around a part that may not be real; -1 if none)."""
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = self._compute(node)
        return found

    def _compute(self, node: Any) -> tuple[bool, int]:
        if node.is_number and (node.is_Rational or not node.args):
            return bool(node.is_positive), -1
        if not node.args:
            return False, -1
        natures = [self.nature(a) for a in node.args]
        positive = all(p for p, _ in natures)
        depth = max(d for _, d in natures)
        if node.is_Add or node.is_Mul:
            # A sum of positive terms and of even powers, of which one is not zero.
            if node.is_Add:
                rest = [a for a, (p, _) in zip(node.args, natures, strict=True) if not p]
                positive = len(rest) < len(node.args) and all(map(_even, rest)) and depth < 0
            return positive, depth
        if node.is_Pow and node.base is not sympy.E:
            base_positive = natures[0][0]
            if base_positive and depth < 0:
                return True, -1
            if node.exp.is_Integer:
                return False, depth
            return False, depth + 1 if depth >= 0 else 0
        if isinstance(node, sympy.log):
            return False, depth + 1 if depth >= 0 else (-1 if positive else 0)
        if isinstance(node, sympy.exp | sympy.cosh | sigmoid | softplus):
            return depth < 0, depth + 1 if depth >= 0 else -1
        if isinstance(node, sympy.Function) and not isinstance(node, sympy.Piecewise):
            return False, depth + 1 if depth >= 0 else -1
        return False, depth

    def check_inside(self, argument: Any) -> None:
        """Refuse an argument that no further function may stand around.

        Raises:
            FormulaError: functions stand around a part of it already.
        """
        if self.nature(argument)[1] >= MOST_UNREAL:
            raise FormulaError(
                "functions are nested too deeply around a root, power or logarithm that is not "
                "real everywhere"
            )


def _even(node: Any) -> bool:
    """Whether a term is made of even powers, absolute values, positive numbers: not negative."""
    factors = sympy.Mul.make_args(node)
    return all(
        (f.is_Rational and f >= 0)
        or isinstance(f, sympy.Abs)
        or (f.is_Pow and f.exp.is_Integer and f.exp % 2 == 0)
        for f in factors
    )


class Levels:
    """How deeply choices (Min, Abs, ...), open powers and quotients by sums are nested.

    sympy compares the arguments of a choice with one another, and whatever choices they hold; and
    it multiplies continued fractions out.
    """

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def level(self, node: Any) -> int:
        """The greatest number of such nodes around one another."""
        found = self.known.get(node)
        if found is None:
            inner = max((self.level(a) for a in node.args), default=0)
            counts = isinstance(node, _CHOICES) or (
                node.is_Pow
                and node.base is not sympy.E
                and (not node.exp.is_Rational or (node.exp < 0 and node.base.is_Add))
            )
            found = self.known[node] = inner + bool(counts)
        return found

    def check(self, node: Any) -> None:
        """Refuse what is nested too deeply.

        Raises:
            FormulaError: it is.
        """
        if self.level(node) > MOST_LEVELS:
            raise FormulaError(
                f"Min, Max, Abs, sign, Heaviside, powers such as x**alpha and quotients such as "
                f"1/(x + 1) are nested more than {MOST_LEVELS} deep"
            )


_CHOICES = (sympy.Min, sympy.Max, sympy.Abs, sympy.sign, sympy.Heaviside)
