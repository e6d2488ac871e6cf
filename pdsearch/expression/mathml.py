"""Formulas as MathML, which browsers render without a library."""

import html
from typing import Any

import sympy
from markupsafe import Markup
from sympy.printing.mathml import MathMLPresentationPrinter

_LONG = 10_000
"""Rationals with a larger numerator or denominator are shown as decimals with six digits."""


def equation(expression: sympy.Expr, *, left: str = "g(x)") -> Markup:
    """Return `left = expression` as a displayed formula."""
    return _math(f"<mi>{html.escape(left)}</mi><mo>=</mo>{_print(expression)}", display="block")


def symbol(name: str) -> Markup:
    """Return a parameter's name as it looks in a formula: alpha as α."""
    return _math(_print(sympy.Symbol(name)), display="inline")


def _math(inner: str, *, display: str) -> Markup:
    return Markup(f'<math display="{display}"><mrow>{inner}</mrow></math>')


def _print(expression: sympy.Basic) -> str:
    long = {
        number: sympy.Float(number, 6)
        for number in expression.atoms(sympy.Rational)
        if max(abs(number.p), number.q) >= _LONG and number != int(number)
    }
    expression = expression.xreplace(long)
    # Sympy does not escape the signs of comparisons. Its text has no other bare brackets.
    text = _Printer().doprint(expression)
    text = text.replace("<mo><</mo>", "<mo>&lt;</mo>").replace("<mo>></mo>", "<mo>&gt;</mo>")
    return text.replace("&ExponentialE;", "e")


class _Printer(MathMLPresentationPrinter):
    """Sympy's printer, with nodes that it would print as plain function calls."""

    def _element(self, tag: str, *children: Any) -> Any:
        element = self.dom.createElement(tag)
        for child in children:
            if isinstance(child, str):
                child = self.dom.createTextNode(child)
            element.appendChild(child)
        return element

    def _print_Piecewise(self, expr: Any) -> Any:
        element = self._element
        table = element("mtable")
        table.setAttribute("class", "cases")
        for value, condition in expr.args:
            where = element("mtext", "\u2003otherwise")
            if condition != sympy.true:
                word = element("mtext", "\u2003for\u00a0")
                where = element("mrow", word, self._print(condition))
            row = element("mtr", element("mtd", self._print(value)), element("mtd", where))
            table.appendChild(row)
        return table

    def _call(self, expr: Any) -> Any:
        element = self._element
        name = element("mi", _NAMES.get(expr.func.__name__, expr.func.__name__))
        argument = self._print(expr.args[0])
        return element("mrow", name, element("mo", "("), argument, element("mo", ")"))

    _print_sigmoid = _print_softplus = _print_Heaviside = _print_sign = _call


_NAMES = {"sigmoid": "σ", "Heaviside": "H"}
