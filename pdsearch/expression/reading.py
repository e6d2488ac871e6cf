"""Expressions in their canonical form, from text and from sympy."""

from collections.abc import Iterable

import sympy
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from pdsearch.errors import FormulaError, InputError
from pdsearch.expression.assumptions import check_assumptions
from pdsearch.expression.functions import (
    exact,
    function_names,
    shown,
    sigmoid,
    softplus,
    symbol,
    t,
    x,
)
from pdsearch.expression.interpreter import check_digits, check_exponent, read
from pdsearch.expression.writing import format_formula

_ALLOWED_NODES: tuple[type, ...] = (
    sympy.Rational,
    sympy.Symbol,
    sympy.Add,
    sympy.Mul,
    sympy.Pow,
    sympy.exp,
    sympy.log,
    sympy.sin,
    sympy.cos,
    sympy.sinh,
    sympy.cosh,
    sympy.tanh,
    sympy.atan,
    sympy.erf,
    sympy.erfc,
    sigmoid,
    softplus,
    sympy.Abs,
    sympy.sign,
    sympy.Heaviside,
    sympy.Min,
    sympy.Max,
    sympy.Piecewise,
    sympy.functions.elementary.piecewise.ExprCondPair,
    sympy.And,
    sympy.Or,
    sympy.Not,
    BooleanTrue,
    BooleanFalse,
    sympy.StrictGreaterThan,
    sympy.GreaterThan,
    sympy.StrictLessThan,
    sympy.LessThan,
    sympy.Equality,
    sympy.Unequality,
    type(sympy.pi),
    type(sympy.E),
)


def parse(text: str, *, parameters: Iterable[str] | None = None) -> sympy.Expr:
    """Read a formula in x (and t) from text, running nothing that is in it.

    The grammar is Python's arithmetic: numbers (decimal literals are exact rationals), `+ - * /
    **`, comparisons (chained ones too), `and`/`or`/`not` (also `&`, `|`, `~`), the constants `pi`
    and `E`, and calls of `FUNCTIONS`.

    Args:
        text: such as `"Piecewise((1, x > 0), (a*exp(x), True))"`.
        parameters: the declared parameters. None: any other valid name is a parameter.

    Returns:
        The expression, with canonical real symbols.

    Raises:
        FormulaError: one line that says what is wrong and at which column.
    """
    allowed = None if parameters is None else frozenset(parameters)
    for name in allowed or ():
        symbol(name)
    expr = read(text, allowed)
    _check_nodes(expr)
    return _settled(expr)


def canonical(expression: sympy.Expr | float) -> sympy.Expr:
    """The expression with canonical symbols and exact numbers, as `parse` would build it.

    Symbols are replaced by the real symbol of the same name, and floating-point numbers by exact
    rationals, so that two definitions that
    read the same are equal and a round trip through text gives back the same object.

    Raises:
        FormulaError: the expression holds something outside of what `parse` accepts, or x or t was
            declared to be what it is not, such as positive.
    """
    expr = sympy.sympify(expression) if isinstance(expression, int | float) else expression
    if not isinstance(expr, sympy.Expr):
        raise FormulaError(
            f"a family's expression must be a sympy expression in x, got {type(expr).__name__}"
        )
    check_assumptions(expr, {})
    known = {"x": x, "t": t}
    replacements = {
        s: known.get(s.name) or symbol(s.name) for s in expr.free_symbols | expr.atoms(sympy.Dummy)
    }
    expr = expr.xreplace({old: new for old, new in replacements.items() if old != new})
    floats = expr.atoms(sympy.Float)
    if floats:
        expr = expr.xreplace({number: exact(number) for number in floats})
    _check_nodes(expr)
    return _settled(expr)


def _settled(expr: sympy.Expr) -> sympy.Expr:
    """The expression that its own text reads back to.

    sympy's automatic simplifications depend on the order in which an expression is put together;
    what is left after two or three round trips through text no longer changes.
    """
    for _ in range(6):
        again = read(format_formula(expr), None)
        if again == expr:
            return expr
        expr = again
    raise FormulaError(
        f"the formula has no stable form, write it differently: {shown(format_formula(expr))}"
    )


def _check_nodes(expr: sympy.Basic) -> None:
    for node in sympy.preorder_traversal(expr):
        if isinstance(node, sympy.Tuple):
            continue
        if node in (sympy.nan, sympy.oo, -sympy.oo, sympy.zoo) or node is sympy.I:
            raise FormulaError(
                f"the formula holds {node}: a pseudo-derivative must be a finite real number at "
                "every x"
            )
        if not isinstance(node, _ALLOWED_NODES):
            raise FormulaError(
                f"the formula holds {type(node).__name__}, which pdsearch cannot compile; "
                f"functions that it can: {function_names()}"
            )
        if isinstance(node, sympy.Pow):
            check_exponent(node.exp)
        if isinstance(node, sympy.Rational):
            check_digits(node)


def check_parameters_used(expression: sympy.Expr, names: Iterable[str]) -> None:
    """Refuse declared parameters that the formula does not hold, and held ones not declared.

    Raises:
        InputError: naming them.
    """
    declared = set(names)
    held = {s.name for s in expression.free_symbols} - {"x", "t"}
    if missing := sorted(held - declared):
        raise InputError(
            f"parameter(s) {', '.join(missing)} of the formula have no range: declare each "
            f"(declared: {', '.join(sorted(declared)) or 'none'})"
        )
    if unused := sorted(declared - held):
        raise InputError(
            f"parameter(s) {', '.join(unused)} are declared but not in the formula "
            f"{format_formula(expression)}"
        )
