"""Values of expression trees by mpmath, and random trees: an oracle for the enclosures."""

import random

import mpmath
import sympy
from sympy import S

from pdsearch.enclosure.nodes import arccot, erfc_ratio, sech2, sigmoid_bell
from pdsearch.expression import sigmoid, softplus, t, x

a = sympy.Symbol("a", real=True)


class UndefinedError(ArithmeticError):
    """The expression has no real value at the point."""


class TooLargeError(ArithmeticError):
    """A number of more digits than there is memory for, such as exp(exp(exp(30)))."""


def raised(base: mpmath.mpf, exponent: mpmath.mpf) -> mpmath.mpf:
    if base > 0 and abs(exponent * mpmath.log(base)) > 1e9:
        raise TooLargeError
    return base**exponent


def oracle(expression: sympy.Basic, values: dict[sympy.Symbol, mpmath.mpf]) -> mpmath.mpf:
    """The expression's value by mpmath, node by node, at the working precision."""
    e = expression
    if isinstance(e, sympy.Symbol):
        return values[e]
    if isinstance(e, sympy.Rational):
        return mpmath.mpf(int(e.p)) / int(e.q)
    if e is S.Pi:
        return +mpmath.pi
    if e is S.Exp1:
        return mpmath.e + 0
    if isinstance(e, sympy.Piecewise):
        for value, condition in e.args:
            if truth(condition, values):
                return oracle(value, values)
        raise UndefinedError
    if isinstance(e, sympy.Heaviside):
        z = oracle(e.args[0], values)
        at_zero = oracle(e.args[1], values) if len(e.args) > 1 else mpmath.mpf(1) / 2
        return at_zero if z == 0 else mpmath.mpf(1 if z > 0 else 0)
    args = [oracle(arg, values) for arg in e.args]
    if isinstance(e, sympy.Add):
        return mpmath.fsum(args)
    if isinstance(e, sympy.Mul):
        return mpmath.fprod(args)
    if isinstance(e, sympy.Pow):
        base, exponent = args
        if base == 0 and exponent <= 0:
            raise UndefinedError
        # x**n with a parameter n is a real power, whatever value n has.
        if base < 0 and not e.exp.is_Integer:
            raise UndefinedError
        return raised(base, exponent)
    if isinstance(e, sympy.log):
        if args[0] <= 0:
            raise UndefinedError
        return mpmath.log(args[0])
    z = args[0]
    functions = {
        sympy.exp: lambda v: raised(mpmath.e, v),
        sympy.sin: mpmath.sin,
        sympy.cos: mpmath.cos,
        sympy.tanh: mpmath.tanh,
        sympy.sinh: mpmath.sinh,
        sympy.cosh: mpmath.cosh,
        sympy.atan: mpmath.atan,
        sympy.erf: mpmath.erf,
        sympy.erfc: mpmath.erfc,
        sigmoid: lambda v: 1 / (1 + mpmath.exp(-v)),
        softplus: lambda v: mpmath.log(1 + mpmath.exp(v)),
        sympy.Abs: abs,
        sympy.sign: mpmath.sign,
        sympy.Min: lambda *v: min(v),
        sympy.Max: lambda *v: max(v),
        sigmoid_bell: lambda v: 1 / (4 * mpmath.cosh(v / 2) ** 2),
        sech2: lambda v: mpmath.sech(v) ** 2,
        arccot: lambda v: mpmath.pi / 2 - mpmath.atan(v),
        erfc_ratio: lambda v: 2 * mpmath.exp(-v * v) / (mpmath.sqrt(mpmath.pi) * mpmath.erfc(v)),
    }
    return functions[type(e)](*args) if len(args) > 1 else functions[type(e)](z)


def truth(condition: sympy.Basic, values: dict[sympy.Symbol, mpmath.mpf]) -> bool:
    if condition in (sympy.true, sympy.false):
        return condition is sympy.true
    if isinstance(condition, sympy.core.relational.Relational):
        left, right = (oracle(side, values) for side in condition.args)
        return {
            ">": left > right, ">=": left >= right, "<": left < right,
            "<=": left <= right, "==": left == right, "!=": left != right,
        }[condition.rel_op]  # fmt: skip
    parts = [truth(part, values) for part in condition.args]
    if isinstance(condition, sympy.And):
        return all(parts)
    return any(parts) if isinstance(condition, sympy.Or) else not parts[0]


def random_expression(rng: random.Random, depth: int) -> sympy.Expr:
    """A formula of the kinds that a family may hold, in x, a and t."""
    if depth == 0:
        return rng.choice(
            [x, x, x, a, t, sympy.Rational(rng.randint(-9, 9), rng.randint(1, 7)), sympy.pi, S.One]
        )

    def part() -> sympy.Expr:
        return random_expression(rng, depth - 1)

    kind = rng.randrange(12)
    if kind <= 1:
        return part() + part()
    if kind <= 3:
        return part() * part()
    if kind == 4:
        exponents = [2, 3, -1, -2, S.Half, sympy.Rational(3, 2), -S.Half, a, 1 + t, x]
        return part() ** rng.choice(exponents)
    if kind == 5:
        return rng.choice([sympy.Abs, sympy.sign, sympy.Heaviside])(part())
    if kind == 6:
        return rng.choice([sympy.Min, sympy.Max])(part(), part())
    if kind == 7:
        relation = rng.choice([sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le])
        return sympy.Piecewise((part(), relation(part(), part())), (part(), True))
    return rng.choice(
        [
            sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tanh, sympy.sinh, sympy.cosh,
            sympy.atan, sympy.erf, sympy.erfc, sigmoid, softplus, sympy.sqrt, sigmoid_bell, sech2,
            arccot,
        ]
    )(part())  # fmt: skip
