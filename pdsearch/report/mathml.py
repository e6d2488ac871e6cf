"""Formulas as MathML, which browsers set without a library."""

import html
from typing import Any

import sympy
from markupsafe import Markup
from sympy.printing.mathml import MathMLPresentationPrinter

__all__ = ["equation", "symbol"]

_LONG = 10_000
"""Rationals with larger parts are shown as decimals, to six digits."""


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
    # Sympy leaves the signs of comparisons unescaped; nothing else in its text is a bare bracket.
    text = _Printer().doprint(expression)
    text = text.replace("<mo><</mo>", "<mo>&lt;</mo>").replace("<mo>></mo>", "<mo>&gt;</mo>")
    return text.replace("&ExponentialE;", "e")


class _Printer(MathMLPresentationPrinter):
    """Sympy's, with the nodes added that it would write as bare function calls."""

    def _element(self, tag: str, *children: Any) -> Any:
        element = self.dom.createElement(tag)
        for child in children:
            if isinstance(child, str):
                child = self.dom.createTextNode(child)
            element.appendChild(child)
        return element

    def _print_Piecewise(self, expr: Any) -> Any:
        table = self._element(
            "mtable",
            *(
                self._element(
                    "mtr",
                    self._element("mtd", self._print(value)),
                    self._element("mtd", self._condition(condition)),
                )
                for value, condition in expr.args
            ),
        )
        table.setAttribute("class", "cases")
        return table

    def _condition(self, condition: Any) -> Any:
        if condition == sympy.true:
            return self._element("mtext", "\u2003otherwise")
        return self._element(
            "mrow", self._element("mtext", "\u2003for\u00a0"), self._print(condition)
        )

    def _call(self, name: str, argument: Any) -> Any:
        return self._element(
            "mrow",
            self._element("mi", name),
            self._element("mo", "("),
            self._print(argument),
            self._element("mo", ")"),
        )

    def _print_sigmoid(self, expr: Any) -> Any:
        return self._call("σ", expr.args[0])

    def _print_softplus(self, expr: Any) -> Any:
        return self._call("softplus", expr.args[0])

    def _print_Heaviside(self, expr: Any) -> Any:
        return self._call("H", expr.args[0])

    def _print_sign(self, expr: Any) -> Any:
        return self._call("sign", expr.args[0])
