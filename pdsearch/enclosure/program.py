"""An expression compiled once into a flat list of operations, with three ways to run it.

* `Program.enclose`: over a box, on float end points (`pdsearch.enclosure.interval`);
* `Program.ball`: at a point, in Arb at the working precision;
* `Program.complex_ball`: on a complex ball, for certified integration.

The inner loops do not use sympy.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy
from flint import acb, arb, ctx
from sympy import Mul, Piecewise, Pow, S
from sympy.core.relational import Relational

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.interval import Interval, to_arb
from pdsearch.enclosure.nodes import elasticity, prepare, tail_form
from pdsearch.enclosure.operations import (
    CONDITIONS,
    FOLDED,
    FUNCTIONS,
    MULTIPLY,
    NEGATE,
    NOWHERE,
    PIECEWISE,
    POWER,
    RECIPROCAL,
    SQRT,
    Operation,
    UndecidedError,
    constant,
    integer_power,
)

NO_REAL_NUMBER = (sympy.nan, sympy.zoo, sympy.oo, S.NegativeInfinity, S.ImaginaryUnit)
"""What sympy makes of a division by zero or the root of a negative number."""


class _Compiler:
    def __init__(
        self, variables: Sequence[sympy.Symbol], *, tail: Sequence[Interval] | None = None
    ) -> None:
        self.variables = tuple(variables)
        self.tail = tail
        self.index: dict[Any, int] = {symbol: i for i, symbol in enumerate(variables)}
        self.code: list[tuple[Operation, tuple[int, ...]]] = []

    def emit(self, operation: Operation, *args: int) -> int:
        self.code.append((operation, args))
        return len(self.variables) + len(self.code) - 1

    def compiled(self, node: Any) -> int:
        """The place of the value of an expression or a condition."""
        if node not in self.index:
            clock.check()
            self.index[node] = self._compile(node)
        return self.index[node]

    def _fold(self, operation: Operation, nodes: Iterable[Any]) -> int:
        result, *others = map(self.compiled, nodes)
        for other in others:
            result = self.emit(operation, result, other)
        return result

    def _compile(self, node: Any) -> int:
        if node.is_Rational or node in (S.Pi, S.Exp1):
            return self.emit(constant(node))
        if node in (S.true, S.false):
            return self.emit(constant(bool(node)))
        if node in NO_REAL_NUMBER:
            return self.emit(NOWHERE)
        if isinstance(node, Relational):
            left, right = node.args
            return self.emit(CONDITIONS[node.rel_op], self.compiled(left - right))
        if isinstance(node, Mul):
            return self._product(node)
        if isinstance(node, Pow):
            return self._power(node)
        if type(node) in FOLDED:
            return self._fold(FOLDED[type(node)], node.args)
        if isinstance(node, Piecewise):
            parts = [part for arm in node.args for part in arm.args]
            return self.emit(PIECEWISE, *map(self.compiled, parts))
        operation = FUNCTIONS.get(type(node))
        if operation is None:
            raise TypeError(f"no enclosure for {type(node).__name__} in {node}")
        return self.emit(operation, *map(self.compiled, node.args))

    def _product(self, node: Mul) -> int:
        if node.args[0] is S.NegativeOne:
            rest = Mul(*node.args[1:])
            if rest != -node or not isinstance(rest, Mul) or rest.args[0] is not S.One:
                return self.emit(NEGATE, self.compiled(rest))
        result = None if self.tail is None else self._tail_product(node, self.tail)
        return self._fold(MULTIPLY, node.args) if result is None else result

    def _tail_product(self, node: Mul, tail: Sequence[Interval]) -> int | None:
        """The factors that vanish or grow towards infinity taken together, times the others."""
        y = self.variables[0]
        moving = [
            factor
            for factor in node.args
            if factor.has(y) and not _settles(Program(factor, self.variables).enclose(tail))
        ]
        bound = _tail_bound(Mul(*moving), self.variables) if len(moving) > 1 else None
        if bound is None:
            return None
        result = self.emit(bound, self._fold(MULTIPLY, moving), *range(len(self.variables)))
        others = [self.compiled(factor) for factor in node.args if factor not in moving]
        for other in others:
            result = self.emit(MULTIPLY, result, other)
        return result

    def _power(self, node: Pow) -> int:
        base, exponent = node.args
        root = exponent.is_Rational and exponent.q == 2
        if exponent.is_Rational and exponent < 0 and (root or exponent.is_Integer):
            return self.emit(RECIPROCAL, self.compiled(base ** (-exponent)))
        if exponent.is_Integer:
            return self.emit(integer_power(int(exponent)), self.compiled(base))
        if root:
            key = ("sqrt", base)
            if key not in self.index:
                self.index[key] = self.emit(SQRT, self.compiled(base))
            if exponent.p == 1:
                return self.index[key]
            return self.emit(integer_power(int(exponent.p)), self.index[key])
        if base is S.Exp1:
            return self.emit(FUNCTIONS[sympy.exp], self.compiled(exponent))
        return self.emit(POWER, self.compiled(base), self.compiled(exponent))


def _settles(value: Interval) -> bool:
    """Bounded, and away from zero."""
    lo, hi, _ = value
    return math.isfinite(lo) and math.isfinite(hi) and (lo > 0.0 or hi < 0.0)


def _tail_bound(node: sympy.Expr, variables: tuple[sympy.Symbol, ...]) -> Operation | None:
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
        # Where a factor may jump, its elasticity does not bound what lies beyond the jump.
        if box[0][1] != math.inf or natural[2]:
            return natural
        rates = slope.enclose(box)
        if iv.weak_sign(rates) is None:
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

    return Operation(apply, lambda natural, *_: natural, lambda natural, *_: natural)


class Program:
    """A compiled expression of ``variables``, in the order given.

    Args:
        expression: What to compile, best after `pdsearch.enclosure.nodes.prepare`.
        variables: Every symbol in it.
        tail: A box whose first variable runs to +∞. Products of factors that grow and factors that
            vanish there get a tighter bound than the product of their bounds.

    Raises:
        TypeError: The expression contains a node without an enclosure.
    """

    def __init__(
        self,
        expression: sympy.Expr,
        variables: Sequence[sympy.Symbol],
        *,
        tail: Sequence[Interval] | None = None,
    ) -> None:
        unknown = expression.free_symbols - set(variables)
        if unknown:
            raise TypeError(f"free symbols without a range: {unknown}")
        compiler = _Compiler(variables, tail=tail)
        self._result = compiler.compiled(expression)
        self._operations = compiler.code
        # An operation without arguments is the same over every box.
        self._interval_code = [
            (operation.interval if args else operation.interval(), args)
            for operation, args in compiler.code
        ]

    @property
    def length(self) -> int:
        """How many operations it runs, each different part of the expression once."""
        return len(self._operations)

    def enclose(self, box: Sequence[Interval]) -> Interval:
        """An interval that contains every value of the expression over the box."""
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
        result: Interval = values[self._result]
        return result

    def choices(self, box: Sequence[Interval]) -> dict[int, Callable[..., Any]] | None:
        """By position, the analytic function that each bend or jump equals all over a box.

        Returns:
            None where one of them is undecided.
        """
        values: list[Any] = list(box)
        chosen: dict[int, Callable[..., Any]] = {}
        for (operation, args), (function, _) in zip(
            self._operations, self._interval_code, strict=True
        ):
            inputs = [values[i] for i in args]
            if operation.choose is not None:
                choice = operation.choose(*inputs)
                if choice is None:
                    return None
                chosen[len(values)] = choice
            values.append(function(*inputs) if args else function)
        return chosen

    def _run(
        self, point: Sequence[Any], arithmetic: str, choices: Mapping[int, Callable[..., Any]]
    ) -> Any:
        """The value in one of the arithmetics; an `UndecidedError` where a condition is open."""
        values: list[Any] = list(point)
        for operation, args in self._operations:
            chosen = choices.get(len(values))
            function = chosen or getattr(operation, arithmetic)
            inputs = [values[i] for i in args]
            # An undecided condition matters only if an arm that is taken needs it.
            trouble = next((v for v in inputs if isinstance(v, UndecidedError)), None)
            if function is None:
                values.append(UndecidedError())
            elif trouble is not None and chosen is None and operation is not PIECEWISE:
                values.append(trouble)
            else:
                try:
                    values.append(function(*inputs))
                except UndecidedError as error:
                    values.append(error)
        return values[self._result]

    def ball(self, point: Sequence[arb]) -> arb:
        """The value at a point, as a ball at the working precision.

        Not finite where it is undefined, or a condition is not decided at this precision.
        """
        result = self._run(point, "ball", {})
        return arb.nan() if isinstance(result, UndecidedError) else result

    def complex_ball(
        self, point: Sequence[acb], choices: Mapping[int, Callable[..., Any]] | None = None
    ) -> acb:
        """The value on a complex ball; not finite where it might not be analytic.

        Args:
            point: The variables' values.
            choices: What `choices` returned for the stretch that is integrated over.
        """
        result = self._run(point, "complex", choices or {})
        return acb(arb.nan(), arb.nan()) if isinstance(result, UndecidedError) else result

    def at(self, point: Sequence[Fraction | float | int], *, precision: int = 106) -> arb:
        """The value at exact rational coordinates, as `ball` gives it."""
        with ctx.workprec(precision):
            return self.ball([to_arb(value) for value in point])
