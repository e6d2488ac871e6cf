"""Expressions as text that `parse` reads back, and as LaTeX."""

import functools
from collections.abc import Callable
from typing import Any, cast

import sympy
from sympy.printing.latex import LatexPrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from pdsearch.expression.functions import slope_and_rest, x

_FEWEST = 9  # denominators below it read better as fractions: x/2, 3/8
_MOST_PLACES = 60


def decimal(number: sympy.Rational) -> str | None:
    """Return the exact decimal form, if there is one and it reads better than the fraction."""
    q = int(number.q)
    if (q < _FEWEST and q not in (1, 5)) or (q == 1 and abs(number) < 10**21):
        return None
    twos = fives = 0
    while q % 2 == 0:
        q, twos = q // 2, twos + 1
    while q % 5 == 0:
        q, fives = q // 5, fives + 1
    if q != 1:
        return None
    places = max(twos, fives)
    digits = str(abs(int(number.p)) * 10**places // int(number.q))
    power = len(digits) - 1 - places  # of the first digit
    digits = digits.rstrip("0")
    sign = "-" if number.p < 0 else ""
    if len(digits) > _MOST_PLACES:
        return None
    if -5 <= power < 21:
        whole = digits.rjust(len(digits) - power, "0") if power < 0 else digits
        cut = max(power, 0) + 1
        return f"{sign}{whole[:cut].ljust(cut, '0')}.{whole[cut:]}".rstrip(".")
    return f"{sign}{digits[0]}{'.' + digits[1:] if digits[1:] else ''}e{power}"


def oriented(relation: Any) -> tuple[sympy.Expr, str, sympy.Expr]:
    """Return a comparison with x alone on the left if possible: `x > -alpha`.

    sympy orders the sides by the symbols' names: `alpha > -x`.
    """
    slope, rest = slope_and_rest(relation)
    if slope in (1, -1) and not rest.has(x) and relation.lhs != x:
        turned = {">": "<", "<": ">", ">=": "<=", "<=": ">="}.get(relation.rel_op, relation.rel_op)
        return x, relation.rel_op if slope == 1 else turned, -rest / slope
    return relation.lhs, relation.rel_op, relation.rhs


def goes_below(factor: sympy.Expr) -> bool:
    """Whether a factor is written in the denominator."""
    return bool(
        factor.is_Pow and factor.base is not sympy.E and factor.exp.as_coeff_Mul()[0].is_negative
    )


def _fraction(
    expr: sympy.Mul, written: Callable[[sympy.Rational], str | None]
) -> tuple[str, list[str], list[str], list[sympy.Expr], list[sympy.Expr]]:
    """Return a product's sign, its number above and below the line, and its factors there."""
    number, rest = expr.as_coeff_Mul()
    size = abs(number)
    text = written(size)
    top = [text or str(size.p)] if text or size.p != 1 else []
    bottom = [str(size.q)] if not text and size.q != 1 else []
    factors = [f for f in (rest.as_ordered_factors() if rest.is_Mul else [rest]) if f != 1]
    below = [sympy.Pow(f.base, -f.exp) for f in factors if goes_below(f)]
    return "-" if number < 0 else "", top, bottom, [f for f in factors if not goes_below(f)], below


class _PositiveFirst:
    """Sums begin with a term that has no minus sign, where there is one: `1 - exp(-x)/2`."""

    def _as_ordered_terms(self, expr: sympy.Add, order: Any = None) -> list[sympy.Expr]:
        terms = expr.as_ordered_terms(order)
        for number, term in enumerate(terms):
            if not term.as_coeff_Mul()[0].is_negative:
                return [term, *terms[:number], *terms[number + 1 :]]
        return terms


class _FormulaPrinter(_PositiveFirst, StrPrinter):
    """Prints what `parse` reads.

    Every product is printed flat, as the parser reads it: `2*(a + b)*c` is a product of three
    factors, not of 2a + 2b and c.
    """

    def _print_Rational(self, expr: sympy.Rational) -> str:
        return decimal(expr) or f"{self._print(sympy.Integer(expr.p))}/{expr.q}"

    def _print_Integer(self, expr: sympy.Integer) -> str:
        return decimal(expr) or str(expr.p)

    def _print_Mul(self, expr: sympy.Mul) -> str:
        sign, top, bottom, above, below = _fraction(expr, decimal)
        top += [self._factor(f) for f in above]
        bottom += [self.parenthesize(f, PRECEDENCE["Mul"] + 1) for f in below]
        text = sign + ("*".join(top) or "1")
        if not bottom:
            return text
        return text + "/" + (bottom[0] if len(bottom) == 1 else f"({'*'.join(bottom)})")

    def _factor(self, factor: sympy.Expr) -> str:
        if factor.is_Rational and not factor.is_Integer:
            return f"({self._print(factor)})"
        return self.parenthesize(factor, PRECEDENCE["Mul"])

    def _print_Pow(self, expr: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expr.args
        if base is sympy.E:
            return f"exp({self._print(exponent)})"
        if exponent == sympy.Rational(1, 2):
            return f"sqrt({self._print(base)})"
        if goes_below(expr):
            inverse = sympy.Pow(base, -exponent)
            return f"1/{self.parenthesize(inverse, PRECEDENCE['Mul'] + 1)}"
        left = self.parenthesize(base, PRECEDENCE["Pow"] + 1)
        if base.is_Rational and not (base.is_Integer and base >= 0):
            left = f"({self._print(base)})"
        right = self._print(exponent)
        plain = exponent.is_Symbol or (exponent.is_Integer and exponent >= 0)
        return f"{left}**{right if plain else f'({right})'}"

    def _print_exp(self, expr: sympy.Expr) -> str:
        return f"exp({self._print(expr.args[0])})"

    def _print_And(self, expr: sympy.And) -> str:
        return " & ".join(f"({self._print(a)})" for a in sorted(expr.args, key=str))

    def _print_Or(self, expr: sympy.Or) -> str:
        return " | ".join(f"({self._print(a)})" for a in sorted(expr.args, key=str))

    def _print_Relational(self, expr: Any) -> str:
        left, operator, right = oriented(expr)
        return f"{self._print(left)} {operator} {self._print(right)}"


def _scientific(text: str | None) -> str | None:
    """Return the decimal with its power of ten in LaTeX."""
    if text is None or "e" not in text:
        return text
    digits, _, power = text.partition("e")
    return rf"{digits} \cdot 10^{{{power}}}"


class _LatexPrinter(_PositiveFirst, LatexPrinter):
    """Adds exact decimals, and comparisons with x on the left."""

    def _print_Relational(self, expr: Any) -> str:
        left, operator, right = oriented(expr)
        sign = {">=": r"\geq", "<=": r"\leq", "==": "=", "!=": r"\neq"}.get(operator, operator)
        return f"{self._print(left)} {sign} {self._print(right)}"

    def _print_Rational(self, expr: sympy.Rational) -> str:
        shown = _scientific(decimal(expr))
        return shown or cast(str, super()._print_Rational(expr))

    def _print_Integer(self, expr: sympy.Integer) -> str:
        return _scientific(decimal(expr)) or str(expr.p)

    def _print_Mul(self, expr: sympy.Mul) -> str:
        # Not sympy's, which simplifies to tell constants apart; that may never end.
        minus, top, bottom, above, below = _fraction(expr, lambda n: _scientific(decimal(n)))
        sign = minus and "- "
        divided = bool(below or bottom)
        # One sum alone above or below a line needs no brackets.
        top += self._factors(above, alone=divided and not top)
        bottom += self._factors(below, alone=not bottom)
        if not divided:
            return sign + " ".join(top)
        return rf"{sign}\frac{{{' '.join(top) or '1'}}}{{{' '.join(bottom)}}}"

    def _factors(self, factors: list[sympy.Expr], *, alone: bool) -> list[str]:
        bare = alone and len(factors) == 1
        return [
            rf"\left({self._print(f)}\right)"
            if self._needs_mul_brackets(f) and not bare
            else self._print(f)
            for f in factors
        ]

    def _print_Symbol(self, expr: sympy.Symbol, style: str = "plain") -> str:
        text = cast(str, super()._print_Symbol(expr, style))
        word, _, index = text.partition("_")
        if word.isalpha() and len(word) > 1:  # a word, not a product of its letters
            return rf"\mathit{{{word}}}" + (f"_{index}" if index else "")
        return text


@functools.lru_cache(maxsize=4_096)
def format_formula(expression: sympy.Expr) -> str:
    """Return the expression as text that `parse` reads back to an equal expression."""
    return cast(str, _FormulaPrinter().doprint(expression))


@functools.lru_cache(maxsize=4_096)
def format_latex(expression: sympy.Expr) -> str:
    """Return the expression in LaTeX."""
    return cast(str, _LatexPrinter().doprint(expression))
