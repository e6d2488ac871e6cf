"""Where an expression is not a finite real number, found by trying the likely points.

Nothing is proved here: the enclosures prove that a formula is finite everywhere.
"""

import functools
import operator
from collections.abc import Iterator, Mapping, Set
from fractions import Fraction
from typing import Any

import sympy
from flint import arb, ctx, fmpq, fmpq_poly

from pdsearch.errors import FormulaError, short
from pdsearch.expression.functions import MOST_ARGUMENT, SATURATING, exact, symbol, t, x
from pdsearch.expression.values import (
    CONTEXT,
    LARGEST,
    Evaluator,
    Undefined,
    Unknown,
    constant_value,
    evaluate,
    rational,
)
from pdsearch.expression.writing import format_formula


def check_binding(expression: sympy.Expr, values: Mapping[sympy.Symbol, sympy.Rational]) -> None:
    """Refuse values that would make sympy compute a constant of unreasonable size.

    With a = 10^9 in 2**a, for instance, sympy writes out 10^9 bits.

    Raises:
        FormulaError: a part without x becomes undefined, or beyond 10^±1000.
    """
    numbers = {name: rational(value) for name, value in values.items()}
    constant = set(numbers)
    for power in expression.atoms(sympy.Pow):
        exponent = power.exp.free_symbols
        if exponent and power.base is not sympy.E and power.free_symbols <= constant:
            # sympy looks for roots in 12**0.1000000000000001, and does not return.
            raise FormulaError(
                f"{short(str(power))} is a power of constants: make it one parameter"
            )
    for node, part in _constant_parts(expression, constant):
        value = constant_value(part, numbers)
        if node.is_Pow and part is node.args[1] and abs(value) > LARGEST:
            raise FormulaError(f"an exponent is beyond {LARGEST:,} in size")
        if part is not node and isinstance(node, SATURATING) and abs(value) > MOST_ARGUMENT:
            raise FormulaError(
                f"{type(node).__name__} of a constant beyond {MOST_ARGUMENT:,} in size"
            )


def _constant_parts(
    expression: sympy.Expr, known: Set[sympy.Symbol]
) -> Iterator[tuple[sympy.Expr, sympy.Expr]]:
    """Yield powers and functions, each with those of its parts that hold known symbols alone."""
    for node in expression.atoms(sympy.Pow, sympy.Function) - expression.atoms(sympy.Piecewise):
        for part in (*node.args, node):
            if part.free_symbols and part.free_symbols <= known:
                yield node, part


def check_defined(expression: sympy.Expr, values: Mapping[str, float]) -> None:
    """Refuse an expression that is not a finite real number at a point tried, at some values.

    If t is in it, at t = 0 and at t = 1.

    Args:
        expression: in x, t and the parameters.
        values: of the parameters.

    Raises:
        FormulaError: naming the point.
    """
    exactly = {symbol(name): exact(value) for name, value in values.items()}
    numbers = {name: rational(value) for name, value in exactly.items()}
    at = [f"{name} = {value:g}" for name, value in values.items()]
    annealed = t in expression.free_symbols
    formula = short(format_formula(expression))
    moments = (0, 1) if annealed else (0,)
    try:
        check_binding(expression, exactly)
        for progress in moments if annealed else ():
            _check_size(expression, {**numbers, t: Fraction(progress)})
    except FormulaError as error:
        there = f" at {', '.join(at)}" if at else ""
        raise FormulaError(f"{error}{there}: {formula}") from None
    for progress in moments:
        trouble = undefined_at(expression, {**numbers, t: Fraction(progress)})
        if trouble is not None:
            point, what = trouble
            shown = [f"x = {float(point):.6g}", *at]
            shown += [f"t = {progress}"] if annealed else []
            raise FormulaError(
                f"{formula[1:-1]} {what} at {', '.join(shown)}; a pseudo-derivative must be a "
                "finite real number at every x"
            )


def _check_size(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> None:
    """Refuse values with which sympy would compute without end: exp(exp(exp(10*t))) at t = 1."""
    for _, part in _constant_parts(expression, values.keys()):
        try:
            evaluate(part, values)
        except Undefined:
            continue  # perhaps in an arm that is not taken there
        except Unknown:
            raise FormulaError(
                f"{short(str(part))} is too large to compute at the ends of t"
            ) from None


_POINTS = frozenset([Fraction(n) for n in (0, 1, -1, 2, -2, 10, -10, 100, -100)]) | {
    Fraction(1, 3),
    Fraction(-1, 3),
    Fraction(-27, 10),
}
_NEAR = Fraction(1, 1000)
_MOST_DEGREE = 12
_ROOT_BITS = 110


def undefined_at(
    expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction] | None = None
) -> tuple[sympy.Rational, str] | None:
    """Return a point at which an expression is not a finite real number, if one is found.

    Tries the places where formulas break: 0, ±1, far out (±100), the bounds of conditions, and
    the real zeros of polynomial denominators.

    Args:
        expression: in x and the symbols of `values`.
        values: of t and the parameters.

    Returns:
        (the point, what happens there), or None.
    """
    values = dict(values or {})
    points = set(_POINTS)
    for relation in expression.atoms(sympy.core.relational.Relational):
        points |= _around(_roots(relation.lhs - relation.rhs, values))
    for node in expression.atoms(sympy.Pow, sympy.log):
        base = node.args[0]
        if base.has(x) and not (node.is_Pow and node.exp.is_Integer and node.exp > 0):
            points |= _around(_roots(base, values))
    quick = {name: float(value) for name, value in values.items()}
    for point in sorted(points):
        try:
            value = Evaluator({**quick, x: float(point)}, quick=True).value(expression)
            if abs(value) < 1e8:
                continue
        except (Undefined, Unknown, ArithmeticError, ValueError):
            pass  # the exact value decides
        what = _trouble(expression, {**values, x: point})
        if what is not None:
            return sympy.Rational(point.numerator, point.denominator), what
    return None


def _around(roots: list[Fraction]) -> set[Fraction]:
    return {point for root in roots for point in (root, root + _NEAR, root - _NEAR)}


def _trouble(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> str | None:
    try:
        value = evaluate(expression, values)
    except Undefined as error:
        return str(error)
    except Unknown:
        return None
    if abs(value) > 10**300:
        return "overflows"
    # Irrational roots are known to some 30 digits; nothing else grows that large next to one.
    near_a_root = values[x].denominator > 10**20
    return "grows without bound" if near_a_root and abs(value) > 10**12 else None


def _roots(base: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> list[Fraction]:
    """Return the real roots in x of a polynomial; rational ones exactly."""
    try:
        polynomial = _polynomial(base, values)
    except (Undefined, Unknown):
        return []
    if polynomial.degree() < 1:
        return []
    rationals = [root for root, _ in polynomial.roots()]
    with ctx.workprec(_ROOT_BITS):
        found: Any = polynomial.complex_roots()  # pairs; python-flint's own annotation is wrong
        real = [root.real for root, _ in found if root.imag == 0]
        others = [r.mid() for r in real if not any(r.overlaps(arb(one)) for one in rationals)]
    return [Fraction(int(root.p), int(root.q)) for root in rationals] + [
        Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
        for mantissa, exponent in (root.man_exp() for root in others)
    ]


def _polynomial(node: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> fmpq_poly:
    """Return a polynomial in x of low degree; irrational coefficients are taken to 45 digits.

    Not as a `sympy.Poly`, which writes and compiles Python code for its arithmetic.
    """
    if node == x:
        return fmpq_poly([0, 1])
    if not node.has(x):
        value = evaluate(node, values)
        number = value if isinstance(value, Fraction) else Fraction(CONTEXT.nstr(value, 45))
        return fmpq_poly([fmpq(number.numerator, number.denominator)])
    if node.is_Pow and node.exp.is_Integer and 0 < node.exp <= _MOST_DEGREE:
        parts, join = [_polynomial(node.base, values)] * int(node.exp), operator.mul
    elif node.is_Add or node.is_Mul:
        parts = [_polynomial(part, values) for part in node.args]
        join = operator.add if node.is_Add else operator.mul
    else:
        raise Unknown
    if join is operator.mul and sum(part.degree() for part in parts) > _MOST_DEGREE:
        raise Unknown
    return functools.reduce(join, parts)
