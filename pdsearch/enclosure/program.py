"""An expression compiled once into a flat list of operations, with three ways to run it.

* `Program.enclose`: over a box, on float end points (`pdsearch.enclosure.interval`);
* `Program.ball`: at a point, in Arb at the working precision;
* `Program.complex_ball`: on a complex ball, for certified integration.

No sympy is left in the inner loops.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy
from flint import acb, arb, ctx, fmpq
from sympy import Add, Heaviside, Max, Min, Mul, Piecewise, Pow, S
from sympy.core.relational import Relational
from sympy.logic.boolalg import And, BooleanFalse, BooleanTrue, Not, Or

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.nodes import elasticity, prepare, tail_form
from pdsearch.enclosure.operations import (
    ADD,
    AND,
    CHOICES,
    CONSTANT,
    FUNCTIONS,
    HEAVISIDE,
    MAX,
    MIN,
    MULTIPLY,
    NEGATE,
    NOT,
    NOWHERE,
    OR,
    PIECEWISE,
    POWER,
    RECIPROCAL,
    RELATION_OPERATIONS,
    SQRT,
    Operation,
    UndecidedError,
    integer_power,
    taken,
)

Box = Sequence[Interval]

_NO_REAL_NUMBER = (sympy.nan, sympy.zoo, sympy.oo, S.NegativeInfinity, S.ImaginaryUnit)
"""What sympy makes of a division by zero or the root of a negative number."""


def rational_interval(value: Fraction) -> Interval:
    """The floats around an exact rational."""
    try:
        nearest = float(value)
    except OverflowError:
        return (1.7e308, math.inf, 0) if value > 0 else (-math.inf, -1.7e308, 0)
    exact = Fraction(nearest)
    if exact == value:
        return (nearest, nearest, 0)
    if exact < value:
        return (nearest, iv.up(nearest), 0)
    return (iv.down(nearest), nearest, 0)


def to_arb(value: Fraction | float | int) -> arb:
    """A rational as an Arb ball at the working precision."""
    if isinstance(value, Fraction):
        return arb(fmpq(value.numerator, value.denominator))
    return arb(value)


class _Compiler:
    def __init__(self, variables: Sequence[sympy.Symbol], *, tail: Box | None = None) -> None:
        self.variables = tuple(variables)
        self.tail = tail
        self.index: dict[Any, int] = {}
        self.count = len(variables)
        self.code: list[tuple[Operation, tuple[int, ...]]] = []
        self.constants: list[tuple[int, Any]] = []
        for position, symbol in enumerate(variables):
            self.index[symbol] = position

    def emit(self, key: Any, operation: Operation, *args: int) -> int:
        self.code.append((operation, args))
        self.count += 1
        if key is not None:
            self.index[key] = self.count - 1
        return self.count - 1

    def constant(self, value: sympy.Expr | bool) -> int:
        key = ("constant", isinstance(value, bool), value)  # True == 1 in Python
        if key not in self.index:
            self.constants.append((self.count, value))
            self.code.append((CONSTANT, ()))
            self.index[key] = self.count
            self.count += 1
        return self.index[key]

    def condition(self, node: Any) -> int:
        key = ("condition", node)
        if key in self.index:
            return self.index[key]
        if isinstance(node, BooleanTrue | BooleanFalse):
            return self.constant(bool(node))
        if isinstance(node, Relational):
            left, right = node.args
            operation = RELATION_OPERATIONS[node.rel_op]
            return self.emit(key, operation, self.expression(left - right))
        if isinstance(node, Not):
            return self.emit(key, NOT, self.condition(node.args[0]))
        if isinstance(node, And | Or):
            operation = AND if isinstance(node, And) else OR
            indices = [self.condition(arg) for arg in node.args]
            result = indices[0]
            for other in indices[1:]:
                result = self.emit(None, operation, result, other)
            self.index[key] = result
            return result
        raise TypeError(f"no enclosure for the condition {node}")

    def expression(self, node: sympy.Expr) -> int:
        known = self.index.get(node)
        if known is not None:
            return known
        clock.check()
        result = self._expression(node)
        self.index[node] = result
        return result

    def _fold(self, operation: Operation, indices: Sequence[int]) -> int:
        result = indices[0]
        for other in indices[1:]:
            result = self.emit(None, operation, result, other)
        return result

    def _expression(self, node: sympy.Expr) -> int:
        if node.is_Rational or node in (S.Pi, S.Exp1):
            return self.constant(node)
        if node in _NO_REAL_NUMBER:
            return self.emit(None, NOWHERE)
        if isinstance(node, Add):
            return self._fold(ADD, [self.expression(arg) for arg in node.args])
        if isinstance(node, Mul):
            if node.args[0] is S.NegativeOne:
                rest = Mul(*node.args[1:])
                if rest != -node or not isinstance(rest, Mul) or rest.args[0] is not S.One:
                    return self.emit(None, NEGATE, self.expression(rest))
            if self.tail is not None:
                result = self._tail_product(node, self.tail)
                if result is not None:
                    return result
            return self._fold(MULTIPLY, [self.expression(arg) for arg in node.args])
        if isinstance(node, Pow):
            return self._power(node)
        if isinstance(node, Min | Max):
            extreme = MIN if isinstance(node, Min) else MAX
            return self._fold(extreme, [self.expression(arg) for arg in node.args])
        if isinstance(node, Heaviside):
            at_zero = node.args[1] if len(node.args) > 1 else S.Half
            return self.emit(
                None, HEAVISIDE, self.expression(node.args[0]), self.expression(at_zero)
            )
        if isinstance(node, Piecewise):
            indices = []
            for value, condition in node.args:
                indices += [self.expression(value), self.condition(condition)]
            return self.emit(None, PIECEWISE, *indices)
        operation = FUNCTIONS.get(type(node))
        if operation is None:
            raise TypeError(f"no enclosure for {type(node).__name__} in {node}")
        return self.emit(None, operation, self.expression(node.args[0]))

    def _tail_product(self, node: Mul, tail: Box) -> int | None:
        """The factors that vanish or grow towards infinity taken together, times the others."""
        y = self.variables[0]
        moving = [
            factor
            for factor in node.args
            if factor.has(y) and not _settles(Program(factor, self.variables).enclose(tail))
        ]
        if len(moving) < 2:
            return None
        product = Mul(*moving)
        operation = _tail_product(product, self.variables)
        if operation is None:
            return None
        natural = self._fold(MULTIPLY, [self.expression(factor) for factor in moving])
        bounded = self.emit(None, operation, natural, *range(len(self.variables)))
        others = [self.expression(factor) for factor in node.args if factor not in moving]
        return self._fold(MULTIPLY, [bounded, *others])

    def _power(self, node: Pow) -> int:
        base, exponent = node.args
        if isinstance(exponent, sympy.Integer):
            number = int(exponent)
            if number < 0:
                return self.emit(None, RECIPROCAL, self.expression(base ** (-number)))
            return self.emit(None, integer_power(number), self.expression(base))
        if isinstance(exponent, sympy.Rational) and exponent.q == 2:
            if exponent < 0:
                return self.emit(None, RECIPROCAL, self.expression(base ** (-exponent)))
            root = self.index.get(("sqrt", base))
            if root is None:
                root = self.emit(("sqrt", base), SQRT, self.expression(base))
            if exponent.p == 1:
                return root
            return self.emit(None, integer_power(int(exponent.p)), root)
        if base is S.Exp1:
            return self.emit(None, FUNCTIONS[sympy.exp], self.expression(exponent))
        return self.emit(None, POWER, self.expression(base), self.expression(exponent))


def _settles(value: Interval) -> bool:
    """Bounded, and away from zero."""
    lo, hi, _ = value
    return math.isfinite(lo) and math.isfinite(hi) and (lo > 0.0 or hi < 0.0)


def _tail_product(node: sympy.Expr, variables: tuple[sympy.Symbol, ...]) -> Operation | None:
    """A product that may be ∞·0 towards infinity, bounded by its own monotonicity there.

    Let h be the product and E = y·h′/h its elasticity in the first variable y. Where E ≤ 0 on all
    of [y₀, ∞), |h| falls, so |h| ≤ |h(y₀)| there; where E ≥ 0, |h| ≥ |h(y₀)|.
    """
    y = variables[0]
    try:
        rate = elasticity(node, y)
        if rate is None:
            return None
        slope = Program(tail_form(prepare(rate), y), variables)
    except OutOfReachError:
        return None
    value = Program(node, variables)

    def apply(natural: Interval, *box: Interval) -> Interval:
        # Where a factor may jump its elasticity says nothing of what lies behind.
        if box[0][1] != math.inf or natural[2]:
            return natural
        rates = slope.enclose(box)
        if rates[2] or not (rates[1] <= 0.0 or rates[0] >= 0.0):
            return natural
        start = box[0][0]
        lo, hi, flag = value.enclose([(start, start, 0), *box[1:]])
        if flag:
            return natural
        if rates[1] <= 0.0:
            size = max(-lo, hi)
            return (max(natural[0], -size), min(natural[1], size), natural[2])
        if natural[0] >= 0.0:
            return (max(natural[0], lo), natural[1], natural[2])
        if natural[1] <= 0.0:
            return (natural[0], min(natural[1], hi), natural[2])
        return natural

    return Operation(
        "tail product", apply, lambda natural, *_: natural, lambda natural, *_: natural
    )


class Program:
    """A compiled expression of ``variables``, in the order given.

    Args:
        expression: What to compile, best after `pdsearch.enclosure.nodes.prepare`.
        variables: Every symbol in it.
        tail: A box whose first variable runs to +∞: products of what grows and what vanishes
            there are bounded by more than the product of their bounds.

    Raises:
        TypeError: The expression holds a node without an enclosure.
    """

    def __init__(
        self,
        expression: sympy.Expr,
        variables: Sequence[sympy.Symbol],
        *,
        tail: Box | None = None,
    ) -> None:
        self.expression = expression
        self.variables = tuple(variables)
        unknown = expression.free_symbols - set(variables)
        if unknown:
            raise TypeError(f"free symbols without a range: {unknown}")
        compiler = _Compiler(variables, tail=tail)
        self.result = compiler.expression(expression)
        self._constants = dict(compiler.constants)
        self._operations = compiler.code
        self._interval_code: list[tuple[Any, tuple[int, ...]]] = []
        start = len(self.variables)
        for position, (operation, args) in enumerate(compiler.code, start=start):
            if operation is CONSTANT:
                self._interval_code.append((_interval_constant(self._constants[position]), ()))
            elif operation is NOWHERE:
                self._interval_code.append((iv.NOWHERE, ()))
            else:
                self._interval_code.append((operation.interval, args))

    @property
    def length(self) -> int:
        """How many operations it runs, each different part of the expression once."""
        return len(self._operations)

    def enclose(self, box: Box) -> Interval:
        """An interval that holds every value over the box where the expression is defined."""
        values: list[Any] = list(box)
        append = values.append
        for function, args in self._interval_code:
            count = len(args)
            if count == 1:
                append(function(values[args[0]]))
            elif count == 2:
                append(function(values[args[0]], values[args[1]]))
            elif count == 0:
                append(function)
            else:
                append(function(*[values[i] for i in args]))
        result: Interval = values[self.result]
        return result

    def choices(self, box: Box) -> dict[int, int] | None:
        """Which way each bend or jump goes all over a box; None where one is undecided.

        Returns:
            For each such operation's position the factor ±1 or 0 (abs, sign, step) or the number
            of the argument that it equals (min, max, piecewise).
        """
        values: list[Any] = list(box)
        chosen: dict[int, int] = {}
        for position, (operation, _) in enumerate(self._operations, start=len(values)):
            function, places = self._interval_code[position - len(self.variables)]
            inputs = [values[i] for i in places]
            values.append(function(*inputs) if inputs else function)
            if operation.name in CHOICES:
                choice = CHOICES[operation.name](*inputs)
                if choice is None:
                    return None
                chosen[position] = choice
        return chosen

    def _run(
        self, point: Sequence[Any], *, real: bool, choices: Mapping[int, int] | None = None
    ) -> Any:
        values: list[Any] = list(point)
        for position, (operation, args) in enumerate(self._operations, start=len(values)):
            if operation is CONSTANT:
                value = _ball_constant(self._constants[position])
                values.append(value if real or isinstance(value, bool) else acb(value))
                continue
            function = operation.ball if real else operation.complex
            chosen = [values[i] for i in args]
            # An undecided condition matters only if an arm that is taken needs it.
            trouble = next((v for v in chosen if isinstance(v, UndecidedError)), None)
            if choices and position in choices:
                values.append(taken(operation.name, choices[position], chosen))
            elif function is None:
                values.append(UndecidedError(operation.name))
            elif trouble is not None and operation is not PIECEWISE:
                values.append(trouble)
            else:
                try:
                    values.append(function(*chosen))
                except UndecidedError as error:
                    values.append(error)
        result = values[self.result]
        if isinstance(result, UndecidedError):
            return arb.nan() if real else acb(arb.nan(), arb.nan())
        return result

    def ball(self, point: Sequence[arb]) -> arb:
        """The value at a point, as a ball at the working precision.

        Not finite where it is undefined, or a condition is not decided at this precision.
        """
        return self._run(point, real=True)

    def complex_ball(self, point: Sequence[acb], choices: Mapping[int, int] | None = None) -> acb:
        """The value on a complex ball; not finite where it might not be analytic.

        Args:
            point: The variables' values.
            choices: What `choices` returned for the stretch that is integrated over.
        """
        return self._run(point, real=False, choices=choices)

    def at(self, point: Sequence[Fraction | float | int], *, precision: int = 106) -> arb:
        """The value at exact rational coordinates, as `ball` gives it."""
        with ctx.workprec(precision):
            return self.ball([to_arb(value) for value in point])


def _interval_constant(value: Any) -> Any:
    if isinstance(value, bool):
        return (value, not value, 0)
    if value.is_Rational:
        return rational_interval(Fraction(int(value.p), int(value.q)))
    return iv.ball_interval(_ball_constant(value))


def _ball_constant(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if value.is_Rational:
        return arb(fmpq(int(value.p), int(value.q)))
    if value is S.Pi:
        return arb.pi()
    return arb(1).exp()
