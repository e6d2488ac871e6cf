"""Where an expression is not a finite real number, as far as that can be found by looking.

A proof that a formula is finite everywhere is not attempted: that is for the enclosures.
"""

from collections.abc import Mapping
from fractions import Fraction

import mpmath
import sympy

from pdsearch.errors import FormulaError
from pdsearch.expression.functions import MOST_ARGUMENT, SATURATING, shown, x
from pdsearch.expression.values import (
    CONTEXT,
    LARGEST,
    MOST_BITS,
    Evaluator,
    Undefined,
    Unknown,
    constant_value,
    evaluate,
    rational,
    wide,
)

_ZERO, _ONE = Fraction(0), Fraction(1)


def check_binding(expression: sympy.Expr, values: Mapping[sympy.Symbol, sympy.Rational]) -> None:
    """Refuse values that would make sympy compute a constant of unreasonable size.

    Putting a = 10^9 into 2**a, for instance, has sympy write out 10^9 bits.

    Raises:
        FormulaError: a part without x becomes undefined, or beyond 10^±1000.
    """
    numbers = {name: rational(value) for name, value in values.items()}
    constant = set(numbers)
    for power in expression.atoms(sympy.Pow):
        exponent = power.exp.free_symbols
        if exponent and power.base is not sympy.E and power.free_symbols <= constant:
            # sympy looks for roots in 12**0.1000000000000001, and does not come back.
            raise FormulaError(
                f"{shown(str(power))} is a power of constants: make it one parameter"
            )
    for node in expression.atoms(sympy.Pow, sympy.Function):
        if isinstance(node, sympy.Piecewise):
            continue
        for part in (*node.args, node):
            if part.free_symbols and part.free_symbols <= constant:
                value = constant_value(part, numbers)
                if node.is_Pow and part is node.args[1] and abs(value) > LARGEST:
                    raise FormulaError(f"an exponent is beyond {LARGEST:,} in size")
                if part is not node and isinstance(node, SATURATING) and abs(value) > MOST_ARGUMENT:
                    raise FormulaError(
                        f"{type(node).__name__} of a constant beyond {MOST_ARGUMENT:,} in size"
                    )


def check_size(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> None:
    """Refuse values that would have sympy compute without end: exp(exp(exp(10*t))) at t = 1.

    Args:
        expression: in x and the symbols of `values`.
        values: of t and the parameters.

    Raises:
        FormulaError: a part without x is too large to compute.
    """
    for node in expression.atoms(sympy.Pow, sympy.Function) - expression.atoms(sympy.Piecewise):
        for part in (*node.args, node):
            if part.free_symbols and part.free_symbols <= values.keys():
                try:
                    evaluate(part, values)
                except Undefined:
                    continue  # in an arm that is not taken there, perhaps
                except Unknown:
                    raise FormulaError(
                        f"{shown(str(part))} is too large to compute at the ends of t"
                    ) from None


_POINTS = tuple(
    sorted(
        {Fraction(n) for n in (0, 1, -1, 2, -2, 10, -10, 100, -100)}
        | {Fraction(1, 3), Fraction(-1, 3), Fraction(-27, 10)}
    )
)
_NEAR = Fraction(1, 1000)


def undefined_at(
    expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction] | None = None
) -> tuple[sympy.Rational, str] | None:
    """A point at which an expression is not a finite real number, if one is found.

    Looks at the places where formulas break: 0, ±1, far out (±100), the bounds of conditions, and
    the real zeros of polynomial denominators. It can only find a failure, never prove that there
    is none: that is for the enclosures.

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
            pass  # looked at closely below
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
    # Irrational roots are known to 25 digits; nothing else grows that large beside one.
    near_a_root = values[x].denominator > 10**20
    return "grows without bound" if near_a_root and abs(value) > 10**12 else None


def _roots(base: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> list[Fraction]:
    """Real roots in x of a polynomial of low degree; rational ones exactly, others to 25 digits."""
    try:
        coefficients = _coefficients(base, values)
    except (Undefined, Unknown):
        return []
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    if len(coefficients) == 2:
        return [-coefficients[0] / coefficients[1]]
    if len(coefficients) < 2:
        return []
    try:
        roots = CONTEXT.polyroots([wide(c) for c in reversed(coefficients)], maxsteps=200)
    except (mpmath.libmp.NoConvergence, ArithmeticError):
        return []
    found = []
    for root in roots:
        if abs(root.imag) > 1e-20 * (1 + abs(root)) or not 1e-50 < abs(root) < 1e50:
            continue
        near = Fraction(str(CONTEXT.nstr(root.real, 30)))
        plain = near.limit_denominator(10**6)
        exactly = sum(c * plain**k for k, c in enumerate(coefficients)) == 0
        found.append(plain if exactly else near)
    return found + ([Fraction(0)] if coefficients[0] == 0 else [])


def _coefficients(node: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> list[Fraction]:
    """Of a polynomial in x, from the constant on; of rational numbers only.

    Not by `sympy.Poly`, which writes and compiles Python code for its arithmetic.
    """
    if node == x:
        return [_ZERO, _ONE]
    if not node.has(x):
        value = evaluate(node, values)
        if not isinstance(value, Fraction):
            value = Fraction(str(CONTEXT.nstr(value, 45)))  # an irrational one, to 45 digits
        return [value]
    if node.is_Add:
        total: list[Fraction] = []
        for part in node.args:
            terms = _coefficients(part, values)
            total += [_ZERO] * (len(terms) - len(total))
            for power, term in enumerate(terms):
                total[power] += term
        return total
    if node.is_Mul:
        product = [_ONE]
        for part in node.args:
            product = _product(product, _coefficients(part, values))
        return product
    if node.is_Pow and node.exp.is_Integer and 0 < node.exp <= _MOST_DEGREE:
        base, product = _coefficients(node.base, values), [_ONE]
        for _ in range(int(node.exp)):
            product = _product(product, base)
        return product
    raise Unknown


_MOST_DEGREE = 12


def _product(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    if len(a) + len(b) - 2 > _MOST_DEGREE:
        raise Unknown
    product = [_ZERO] * (len(a) + len(b) - 1)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            product[i + j] += left * right
    if any(c.numerator.bit_length() + c.denominator.bit_length() > MOST_BITS for c in product):
        raise Unknown
    return product
