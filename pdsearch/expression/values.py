"""Numbers from expressions, at a bounded cost: what guards sympy against formulas too large for it.

Sympy evaluates constants as it builds them, and to any precision it takes: `exp(exp(exp(20)))`,
`9**9**9` or `exp(10**9*log(2))` would keep it busy for ever. So constants are evaluated here
first, where a number beyond 10^±1000 is an error rather than a computation.

A proof that a formula is finite everywhere is not attempted: that is for the enclosures.
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from mpmath.ctx_mp import MPContext

from pdsearch.errors import FormulaError
from pdsearch.expression.functions import x

LARGEST = 1_000
"""Constants of formulas must be below 10 to this power, and above its inverse unless 0."""

_context = MPContext()  # an own one: its precision is nobody else's, so threads may share it
_context.dps = 50
_mpf = _context.mpf
_HUGE = 10**6  # arguments of exp beyond it are not computed: 10^434294 is no useful number
_FAR = 10**20  # where bounded functions have long reached their limits
_MOST_BITS = 4_000  # exact fractions larger than that go on as 50 digits

Number = Fraction | Any  # Any: mpf, which has no type to check


class Undefined(Exception):
    """The expression has no finite real value at the point. The message says why."""


class Unknown(Exception):
    """The value cannot be told at a bounded cost."""


def _rational(node: Any) -> Fraction:
    return Fraction(int(node.p), int(node.q))


def _wide(value: Number) -> Any:
    """As a number of 50 digits."""
    if isinstance(value, Fraction):
        return _mpf(value.numerator) / value.denominator
    return value


def _narrow(value: Number) -> Number:
    if (
        isinstance(value, Fraction)
        and value.numerator.bit_length() + value.denominator.bit_length() > _MOST_BITS
    ):
        return _wide(value)
    return value


def _add(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _narrow(a + b)
    return _wide(a) + _wide(b)


def _multiply(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _narrow(a * b)
    return _wide(a) * _wide(b)


def _power(base: Number, exponent: Number) -> Number:
    if base == 0:
        if exponent == 0:
            return Fraction(1)
        if exponent > 0:
            return Fraction(0)
        if not isinstance(base, Fraction):
            raise Unknown  # a tiny number that was rounded to 0
        raise Undefined("divides by zero")
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if base < 0 and not whole:
        raise Undefined("is not real")
    size = abs(float(_context.log(abs(_wide(base))))) * abs(float(_wide(exponent)))
    if not size < _HUGE:
        raise Unknown
    if whole and isinstance(base, Fraction) and size < _MOST_BITS / 2 and abs(exponent) <= 1_000:
        return _narrow(base ** int(exponent))
    return _context.power(_wide(base), int(exponent) if whole else _wide(exponent))


def _exp(z: Number) -> Number:
    if z == 0:
        return Fraction(1)
    if z > _HUGE:
        raise Unknown
    return _context.exp(_wide(z)) if z > -_HUGE else _mpf(0)


def _log(z: Number) -> Number:
    if z == 1:
        return Fraction(0)
    if z == 0 and not isinstance(z, Fraction):
        raise Unknown
    if z <= 0:
        raise Undefined("takes the logarithm of a number that is not positive")
    return _context.log(_wide(z))


def _even_hyperbolic(z: Number) -> Number:
    if abs(z) > _HUGE:
        raise Unknown
    return _context.cosh(_wide(z)) if z != 0 else Fraction(1)


def _odd_hyperbolic(z: Number) -> Number:
    if abs(z) > _HUGE:
        raise Unknown
    return _context.sinh(_wide(z)) if z != 0 else Fraction(0)


def _ordered(numbers: tuple[Number, ...]) -> Callable[[Number], Any]:
    """A key to compare by: Fractions and mpf do not compare with one another."""
    return (lambda z: z) if all(isinstance(z, Fraction) for z in numbers) else _wide


def _wave(function: Any, at_zero: int, z: Number) -> Number:
    if abs(z) > _FAR:
        raise Unknown
    return function(_wide(z)) if z != 0 else Fraction(at_zero)


def _bounded(function: Any, low: Any, middle: Fraction, high: Any, z: Number) -> Number:
    """A monotone function that has reached its limits far out."""
    if z == 0:
        return middle
    if z > _FAR:
        return high
    return low if z < -_FAR else function(_wide(z))


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + _context.exp(-z)) if z > -_HUGE else _mpf(0)


def _softplus(z: Number) -> Number:
    if z > _HUGE:
        return z
    return _context.log(1 + _context.exp(_wide(z))) if z > -_HUGE else _mpf(0)


def _heaviside(z: Number, at_zero: Number) -> Number:
    return at_zero if z == 0 else Fraction(int(z > 0))


_ONE = Fraction(1)
_ZERO = Fraction(0)

_EXACT: Mapping[str, Any] = {
    "exp": _exp,
    "log": _log,
    "sin": lambda z: _wave(_context.sin, 0, z),
    "cos": lambda z: _wave(_context.cos, 1, z),
    "sinh": _odd_hyperbolic,
    "cosh": _even_hyperbolic,
    "tanh": lambda z: _bounded(_context.tanh, -_ONE, _ZERO, _ONE, z),
    "atan": lambda z: _context.atan(_wide(z)) if z != 0 else _ZERO,
    "erf": lambda z: _bounded(_context.erf, -_ONE, _ZERO, _ONE, z),
    "erfc": lambda z: _bounded(_context.erfc, 2 * _ONE, _ONE, _mpf(0), z),
    "sigmoid": lambda z: _bounded(_sigmoid, _mpf(0), Fraction(1, 2), _ONE, z),
    "softplus": _softplus,
    "Abs": abs,
    "sign": lambda z: Fraction((z > 0) - (z < 0)),
    "Heaviside": _heaviside,
    "Min": lambda *z: min(z, key=_ordered(z)),
    "Max": lambda *z: max(z, key=_ordered(z)),
}

# The same on floats: quick, and exact enough to see that nothing is wrong.
_QUICK: Mapping[str, Any] = {
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "atan": math.atan,
    "erf": math.erf,
    "erfc": math.erfc,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)) if z > -700 else math.exp(z),
    "softplus": lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z))),
    "Abs": abs,
    "sign": lambda z: float((z > 0) - (z < 0)),
    "Heaviside": lambda z, at_zero: at_zero if z == 0 else float(z > 0),
    "Min": min,
    "Max": max,
}

_TESTS: Mapping[str, Any] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


class _Evaluator:
    """Evaluates an expression at one point, with Fractions and 50 digits or with floats."""

    def __init__(self, values: Mapping[sympy.Symbol, Number], *, quick: bool) -> None:
        self.known: dict[sympy.Basic, Number] = dict(values)
        self.quick = quick
        self.table = _QUICK if quick else _EXACT

    def value(self, node: Any) -> Number:
        found = self.known.get(node)
        if found is None:
            found = self.known[node] = self.compute(node)
        return found

    def compute(self, node: Any) -> Number:
        if node.is_Rational:
            return int(node.p) / int(node.q) if self.quick else _rational(node)
        if node.is_Add:
            total = self.value(node.args[0])
            for part in node.args[1:]:
                total = total + self.value(part) if self.quick else _add(total, self.value(part))
            return total
        if node.is_Mul:
            product = self.value(node.args[0])
            for part in node.args[1:]:
                factor = self.value(part)
                product = product * factor if self.quick else _multiply(product, factor)
            return product
        if node.is_Pow and node.base is not sympy.E:
            base, exponent = (self.value(a) for a in node.args)
            return math.pow(base, exponent) if self.quick else _power(base, exponent)
        if node is sympy.pi:
            return math.pi if self.quick else +_context.pi
        if node is sympy.E:
            return math.e if self.quick else +_context.e
        if isinstance(node, sympy.Piecewise):
            for value, condition in node.args:
                if self.truth(condition):
                    return self.value(value)
            raise Undefined("is undefined (no arm of Piecewise is taken)")
        if isinstance(node, sympy.exp):
            return self.table["exp"](self.value(node.args[0]))
        if node is sympy.I:
            raise Undefined("is not real")
        if node in (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
            raise Undefined("is not finite")
        function = self.table.get(type(node).__name__)
        if function is None:
            raise Unknown
        return function(*(self.value(a) for a in node.args))

    def truth(self, condition: Any) -> bool:
        if condition in (sympy.true, sympy.false):
            return condition == sympy.true
        if isinstance(condition, sympy.And):
            return all(self.truth(a) for a in condition.args)
        if isinstance(condition, sympy.Or):
            return any(self.truth(a) for a in condition.args)
        if isinstance(condition, sympy.Not):
            return not self.truth(condition.args[0])
        test = _TESTS[condition.rel_op]
        sides = (self.value(condition.lhs), self.value(condition.rhs))
        return bool(test(*(sides if self.quick else map(_ordered(sides), sides))))


def evaluate(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> Number:
    """The value at a point, exact where arithmetic is rational, else to some 50 digits.

    Raises:
        Undefined: it has no finite real value there.
        Unknown: it cannot be told at a bounded cost.
    """
    try:
        return _Evaluator(values, quick=False).value(expression)
    except (ArithmeticError, mpmath.libmp.ComplexResult, ValueError, MemoryError):
        raise Unknown from None


def check_constant(expression: sympy.Expr) -> Number:
    """The value of a formula's constant part, which must be of a reasonable size.

    Raises:
        FormulaError: it is not finite, or beyond 10^±1000.
    """
    return _constant(expression, {})


def _constant(expression: sympy.Expr, values: Mapping[sympy.Symbol, Fraction]) -> Number:
    try:
        value = evaluate(expression, values)
    except Undefined as error:
        raise FormulaError(f"a constant of the formula {error}") from None
    except Unknown:
        raise FormulaError("a constant of the formula is too large to compute") from None
    if value != 0:
        size = abs(_wide(value))
        if size > _mpf(10) ** LARGEST or size < _mpf(10) ** -LARGEST:
            raise FormulaError(
                f"a constant of the formula is beyond 10^{'' if size > 1 else '-'}{LARGEST}"
            )
        # A sum that is neither exact nor larger than its rounding error may well be 0.
        if expression.is_Add and not isinstance(value, Fraction) and size < _mpf(10) ** -40:
            raise FormulaError("a constant of the formula cannot be told from 0")
    return value


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
        if node.is_Pow and node.base is not sympy.E:
            exponent = node.exp
            return int(
                self.bits(node.base) * max(1, abs(exponent)) if exponent.is_Rational else total
            )
        return total

    def check(self, node: Any) -> None:
        """Refuse what is beyond 300 000 bits.

        Raises:
            FormulaError: it is.
        """
        if self.bits(node) > 300_000:
            raise FormulaError("powers are nested too deeply here")


def check_binding(expression: sympy.Expr, values: Mapping[sympy.Symbol, sympy.Rational]) -> None:
    """Refuse values that would make sympy compute a constant of unreasonable size.

    Putting a = 10^9 into 2**a, for instance, has sympy write out 10^9 bits.

    Raises:
        FormulaError: a part without x becomes undefined, or beyond 10^±1000.
    """
    numbers = {name: _rational(value) for name, value in values.items()}
    constant = set(numbers)
    for node in expression.atoms(sympy.Pow, sympy.exp, sympy.sinh, sympy.cosh, sympy.log):
        parts = [node, *node.args]
        for part in parts:
            if part.free_symbols and part.free_symbols <= constant:
                value = _constant(part, numbers)
                if node.is_Pow and part is node.args[1] and abs(value) > LARGEST:
                    raise FormulaError(f"an exponent is beyond {LARGEST:,} in size")


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
            value = _Evaluator({**quick, x: float(point)}, quick=True).value(expression)
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
        roots = _context.polyroots([_wide(c) for c in reversed(coefficients)], maxsteps=200)
    except (mpmath.libmp.NoConvergence, ArithmeticError):
        return []
    found = []
    for root in roots:
        if abs(root.imag) > 1e-20 * (1 + abs(root)) or not 1e-50 < abs(root) < 1e50:
            continue
        near = Fraction(str(_context.nstr(root.real, 30)))
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
            value = Fraction(float(value)) if abs(value) < 1e300 else _unknown()
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


def _unknown() -> Fraction:
    raise Unknown


def _product(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    if len(a) + len(b) - 2 > _MOST_DEGREE:
        raise Unknown
    product = [_ZERO] * (len(a) + len(b) - 1)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            product[i + j] += left * right
    if any(c.numerator.bit_length() + c.denominator.bit_length() > _MOST_BITS for c in product):
        raise Unknown
    return product
