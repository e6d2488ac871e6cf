"""The real line cut where an expression bends or jumps, each piece smooth and in its own variable.

A piece between two breakpoints is written in s ∈ [0, 1] with x = lo + (hi - lo)·s (or x = lo·s if
it ends at 0), in exact arithmetic, so that a zero at a breakpoint sits at s = 0 or s = 1, where
floats are exact. An
unbounded end is written in y = |x| ≥ Y, with leading powers taken out of sums.

Breakpoints are roots of the arguments of `Abs`, `Heaviside`, `Min`, … and of conditions: those
linear in x (also with parameters in the coefficients), and polynomials with exact real roots.
Other nodes stay as they are; enclosures of them are wide where they are undecided, never wrong.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sympy
from sympy import Heaviside, Max, Min, Piecewise, S
from sympy.core.relational import Relational

from pdsearch.enclosure import clock
from pdsearch.enclosure.algebra import factored, polynomial_in, quotient, real_roots, tidy
from pdsearch.enclosure.interval import Interval
from pdsearch.enclosure.nodes import NOT_SMOOTH, prepare, tail_form
from pdsearch.enclosure.numbers import exact_sign
from pdsearch.enclosure.program import Program
from pdsearch.expression import RELATIONS, x

s = sympy.Symbol("s", nonnegative=True)
"""Position within a bounded piece, in [0, 1]."""
y = sympy.Symbol("y", positive=True)
"""|x| on an unbounded piece."""

MAX_PIECES = 400

FIRST = sympy.Integer(4)
"""Where an unbounded piece starts at the nearest."""
FARTHEST = 2**20
"""An unbounded piece that starts farther out would leave too long a bounded one before it."""
FARTHEST_END = 2.0**1000
"""No piece ends farther out: the power of two beyond it must be a float with room to spare."""


@dataclass(frozen=True)
class Domain:
    """The parameters that are not bound, and their ranges."""

    symbols: tuple[sympy.Symbol, ...] = ()
    box: tuple[Interval, ...] = ()
    _signs: dict[sympy.Expr, int | None] = field(default_factory=dict, compare=False, repr=False)

    def sign(self, expression: sympy.Expr) -> int | None:
        """1 if the expression is ≥ 0 over the whole box, -1 if ≤ 0, 0 if both, None if unknown.

        Exact for numbers: zero is recognised symbolically, everything else by Arb.
        """
        if expression not in self._signs:
            self._signs[expression] = self._sign(expression)
        return self._signs[expression]

    def _sign(self, expression: sympy.Expr) -> int | None:
        if expression.is_Rational:
            return 0 if expression.is_zero else (1 if expression > 0 else -1)
        if expression in (sympy.oo, -sympy.oo):
            return 1 if expression is sympy.oo else -1
        if not expression.free_symbols:
            return exact_sign(expression)
        if expression.free_symbols - set(self.symbols):
            return None
        simple = factored(expression)
        if simple == 0:
            return 0
        lo, hi, flag = Program(prepare(simple), self.symbols).enclose(self.box)
        if flag:
            return None
        return 1 if lo >= 0.0 else (-1 if hi <= 0.0 else None)

    def exact_sign(self, expression: sympy.Expr) -> int | None:
        """0 if the expression is 0 over the whole box, 1 if > 0, -1 if < 0, None if unknown."""
        return 0 if self.sign(expression) == 0 else self.strict_sign(expression)

    def strict_sign(self, expression: sympy.Expr) -> int | None:
        """1 if > 0 over the whole box, -1 if < 0, else None."""
        if not expression.free_symbols:
            return self.sign(expression) or None
        if expression.free_symbols - set(self.symbols):
            return None
        lo, hi, flag = Program(prepare(factored(expression)), self.symbols).enclose(self.box)
        if flag:
            return None
        return 1 if lo > 0.0 else (-1 if hi < 0.0 else None)


@dataclass(frozen=True)
class Piece:
    """A stretch of the real line on which the expression is one formula.

    Attributes:
        lo: Left end, exact (in the parameters, if any), or -oo.
        hi: Right end, or oo.
        expression: The formula in x.
        local: The formula in `variable`, in its tightest form.
        plain: The formula in `variable` as it was written: now and then the tighter one.
        variable: `s` or `y`.
        position: x in terms of `variable`.
        start: The variable's interval.
        smooth: No node that may bend or jump is left.
    """

    lo: sympy.Expr
    hi: sympy.Expr
    expression: sympy.Expr
    local: sympy.Expr
    plain: sympy.Expr
    variable: sympy.Symbol
    position: sympy.Expr
    start: Interval
    smooth: bool

    @property
    def may_jump(self) -> bool:
        """Whether conditions are left that may make the expression jump."""
        return self.expression.has(Piecewise, sympy.sign, Heaviside)

    @property
    def rising(self) -> bool:
        """Whether x grows with the piece's variable."""
        return self.tail_side > 0 if self.tail else not self.mirrored

    @property
    def mirrored(self) -> bool:
        """Whether a bounded piece is counted from its right end."""
        return not self.tail and self.hi == 0

    @property
    def tail_side(self) -> int:
        """1 for the piece that ends at oo, -1 for the one that starts at -oo."""
        return -1 if self.lo is -sympy.oo else 1

    @property
    def tail(self) -> bool:
        """Whether the piece is unbounded."""
        return self.variable == y

    def with_expression(self, expression: sympy.Expr) -> "Piece":
        """The same stretch with another formula in x."""
        return _piece(self.lo, self.hi, expression, position=self.position, start=self.start)


def localise(expression: sympy.Expr, position: sympy.Expr, variable: sympy.Symbol) -> sympy.Expr:
    """The expression in x, written in the piece's variable and in its tightest form."""
    inside = expression.xreplace({x: position})
    # xreplace does not re-evaluate everything; expanding the arguments does.
    inside = prepare(tidy(inside))
    return tail_form(inside, y) if variable == y else inside


def _piece(
    lo: sympy.Expr,
    hi: sympy.Expr,
    expression: sympy.Expr,
    *,
    position: sympy.Expr,
    start: Interval,
) -> Piece:
    variable = y if position.has(y) else s
    return Piece(
        lo=lo,
        hi=hi,
        expression=expression,
        local=localise(expression, position, variable),
        plain=prepare(expression.xreplace({x: position})),
        variable=variable,
        position=position,
        start=start,
        smooth=not expression.has(*NOT_SMOOTH),
    )


def cut(
    expression: sympy.Expr, domain: Domain | None = None, *, at: Sequence[sympy.Expr] = (S.Zero,)
) -> list[Piece]:
    """The pieces of an expression in x, from left to right.

    Args:
        expression: In x and the domain's parameters.
        domain: The parameters' ranges; none for a bound candidate.
        at: Further places to cut, exact numbers in order.
    """
    domain = domain or Domain()
    pieces: list[Piece] = []
    for lo, hi, formula in stretches(expression, domain, at=at):
        pieces += _localised(lo, hi, formula, domain)
    return pieces


def stretches(
    expression: sympy.Expr, domain: Domain | None = None, *, at: Sequence[sympy.Expr] = (S.Zero,)
) -> list[tuple[sympy.Expr, sympy.Expr, sympy.Expr]]:
    """As `cut`: the ends of each piece and its formula, before it is localised."""
    found: list[tuple[sympy.Expr, sympy.Expr, sympy.Expr]] = []
    for lo, hi in itertools.pairwise([-sympy.oo, *at, sympy.oo]):
        found += _resolve(expression, lo, hi, domain or Domain(), frozenset())
    return found


def _localised(lo: sympy.Expr, hi: sympy.Expr, formula: sympy.Expr, domain: Domain) -> list[Piece]:
    if lo.is_finite and hi.is_finite:
        # Most formulas are simplest around 0, so a piece that ends there is counted from there.
        position = lo * s if hi == 0 else lo + (hi - lo) * s
        return [_piece(lo, hi, formula, position=position, start=(0.0, 1.0, 0))]
    end, side = (hi, -1) if lo is -sympy.oo else (lo, 1)
    edge = max(_beyond(side * end, domain) or FIRST, _beyond_switches(formula, domain))
    far = _far_formula(lo, -edge, formula, domain) if side < 0 else (
        _far_formula(edge, hi, formula, domain)
    )  # fmt: skip
    outer = (lo, -edge) if side < 0 else (edge, hi)
    tail = _piece(*outer, far, position=side * y, start=(float(edge), float("inf"), 0))
    if side * edge == end:
        return [tail]
    inner = _localised(*((-edge, hi) if side < 0 else (lo, edge)), formula, domain)
    return [tail, *inner] if side < 0 else [*inner, tail]


def _beyond_switches(formula: sympy.Expr, domain: Domain) -> sympy.Integer:
    """Where, for all parameters, every bend and jump lies behind whose place was left open.

    As of ``x > b`` on the side of 0 on which b may be or not.
    """
    edge = sympy.Integer(0)
    for node in formula.atoms(*NOT_SMOOTH):
        for function in _switches(node):
            polynomial = polynomial_in(function, x) if function.has(x) else None
            if polynomial is not None and polynomial.degree() == 1:
                slope, offset = polynomial.all_coeffs()
                if domain.strict_sign(slope) is not None:
                    root = quotient(-offset, slope)
                    edge = max(edge, *(_beyond(r, domain) or edge for r in (root, -root)))
    return edge if edge < FARTHEST else sympy.Integer(0)


def _far_formula(lo: sympy.Expr, hi: sympy.Expr, formula: sympy.Expr, domain: Domain) -> sympy.Expr:
    if not formula.has(*NOT_SMOOTH):
        return formula
    stretches = _resolve(formula, lo, hi, domain, frozenset())
    return stretches[0][2] if len(stretches) == 1 else formula


def _beyond(number: sympy.Expr, domain: Domain) -> sympy.Integer | None:
    """A power of two above the number for all parameters: where the unbounded piece may start.

    None for a number so large that no float is beyond it by as much.
    """
    bound = Program(prepare(number), domain.symbols).enclose(domain.box)[1]
    if not bound < FARTHEST_END:
        return None
    edge = int(FIRST)
    while edge < bound + 1.0 or edge <= bound:  # 2**53 + 1.0 is 2**53
        edge *= 2
    return sympy.Integer(edge)


def _resolve(
    expression: sympy.Expr,
    lo: sympy.Expr,
    hi: sympy.Expr,
    domain: Domain,
    opaque: frozenset[sympy.Basic],
) -> list[tuple[sympy.Expr, sympy.Expr, sympy.Expr]]:
    clock.check()
    node = _next_node(expression, opaque)
    if node is None:
        return [(lo, hi, expression)]
    for function in _switches(node):
        roots = _roots(function, lo, hi, domain)
        if roots is None:
            return _resolve(expression, lo, hi, domain, opaque | {node})
        ends = [lo, *roots, hi]
        result: list[tuple[sympy.Expr, sympy.Expr, sympy.Expr]] = []
        for left, right in itertools.pairwise(ends):
            sign = _sign_between(function, left, right, domain)
            if sign is None:
                return _resolve(expression, lo, hi, domain, opaque | {node})
            simpler = expression.xreplace({node: _decided(node, function, sign)})
            if simpler == expression or len(result) > MAX_PIECES:
                return _resolve(expression, lo, hi, domain, opaque | {node})
            result += _resolve(simpler, left, right, domain, opaque)
        return result
    return _resolve(expression, lo, hi, domain, opaque | {node})


def germ(expression: sympy.Expr, side: int) -> sympy.Expr:
    """A bound candidate's formula in y = |x| beyond every breakpoint, however far out it is.

    There a polynomial has the sign of its leading coefficient. Conditions that are no polynomials
    with rational coefficients stay.
    """
    opaque: frozenset[sympy.Basic] = frozenset()
    while (node := _next_node(expression, opaque)) is not None:
        opaque |= {node}
        for function in _switches(node):
            polynomial = polynomial_in(function, x)
            leading = function if polynomial is None else polynomial.LC()
            if leading.is_Rational and leading != 0:
                sign = (1 if leading > 0 else -1) * side ** (
                    polynomial.degree() if polynomial else 0
                )
                expression = expression.xreplace({node: _decided(node, function, sign)})
                break
    return localise(expression, side * y, y)


def _next_node(expression: sympy.Expr, opaque: frozenset[sympy.Basic]) -> sympy.Basic | None:
    """A node that may switch, whose switching functions do not themselves hold such nodes."""
    for node in sympy.preorder_traversal(expression):
        if (
            isinstance(node, NOT_SMOOTH)
            and node not in opaque
            and not any(function.has(*NOT_SMOOTH) for function in _switches(node))
        ):
            return cast(sympy.Basic, node)
    return None


def _switches(node: sympy.Basic) -> list[sympy.Expr]:
    """Functions whose sign decides the node."""
    if isinstance(node, Min | Max):
        first, second = sorted(node.args, key=sympy.default_sort_key)[:2]
        return [first - second]
    if isinstance(node, Piecewise):
        return [
            cast(sympy.Expr, relation.args[0] - relation.args[1])
            for _, condition in node.args
            for relation in sorted(condition.atoms(Relational), key=sympy.default_sort_key)
        ]
    return [cast(sympy.Expr, node.args[0])]


def _decided(node: sympy.Basic, function: sympy.Expr, sign: int) -> sympy.Expr:
    """The node where its switching function is > 0 (sign 1), < 0 (-1) or ≡ 0 (0)."""
    if isinstance(node, sympy.Abs):
        return cast(sympy.Expr, node.args[0] * (1 if sign >= 0 else -1))
    if isinstance(node, sympy.sign):
        return sympy.Integer(sign)
    if isinstance(node, Heaviside):
        if sign == 0:
            return cast(sympy.Expr, node.args[1] if len(node.args) > 1 else S.Half)
        return S.One if sign > 0 else S.Zero
    if isinstance(node, Min | Max):
        first, second = sorted(node.args, key=sympy.default_sort_key)[:2]
        keep = first if (sign >= 0) == isinstance(node, Max) else second
        rest = [arg for arg in node.args if arg not in (first, second)]
        return cast(sympy.Expr, node.func(keep, *rest))
    assert isinstance(node, Piecewise)
    truths: dict[Any, Any] = {}
    for _, condition in node.args:
        for relation in condition.atoms(Relational):
            difference = relation.args[0] - relation.args[1]
            if difference == function:
                truths[relation] = sympy.sympify(RELATIONS[relation.rel_op](sign, 0))
            elif difference == -function:
                truths[relation] = sympy.sympify(RELATIONS[relation.rel_op](-sign, 0))
    return cast(sympy.Expr, Piecewise(*((e, c.xreplace(truths)) for e, c in node.args)))


def _roots(
    function: sympy.Expr, lo: sympy.Expr, hi: sympy.Expr, domain: Domain
) -> list[sympy.Expr] | None:
    """Exact roots in x strictly between lo and hi, in order; None where that is not known."""
    if not function.has(x):
        return []
    polynomial = polynomial_in(function, x)
    if polynomial is None:
        sign = _sign_between(function, lo, hi, domain)
        return None if sign is None else []
    if polynomial.degree() <= 0:  # no x is left once it is multiplied out
        return []
    if polynomial.degree() == 1:
        slope, offset = polynomial.all_coeffs()
        if domain.strict_sign(slope) is None:
            return None
        candidates: list[sympy.Expr] | None = [quotient(-offset, slope)]
    elif not function.free_symbols - {x} and all(c.is_Rational for c in polynomial.coeffs()):
        candidates = real_roots(polynomial)
    else:
        return None
    # A piece that ended so far out would leave no float for the unbounded one.
    if candidates is None or any(_beyond(side * r, domain) is None
                                 for r in candidates for side in (1, -1)):  # fmt: skip
        return None
    inside = []
    for root in candidates:
        above = 1 if lo is -sympy.oo else domain.sign(root - lo)
        below = 1 if hi is sympy.oo else domain.sign(hi - root)
        if above is None or below is None:
            return None
        if above in (0, -1) or below in (0, -1):
            continue  # outside for every parameter (or at an end)
        inside.append(root)
    return inside


def _sign_between(
    function: sympy.Expr, lo: sympy.Expr, hi: sympy.Expr, domain: Domain
) -> int | None:
    """The sign of a switching function between neighbouring roots."""
    if not function.has(x):
        return domain.exact_sign(function)
    polynomial = polynomial_in(function, x)
    if polynomial is not None and polynomial.degree() == 1:
        slope, offset = polynomial.all_coeffs()
        direction = domain.strict_sign(slope)
        if direction is None:
            return None
        root = quotient(-offset, slope)
        if lo.is_finite and domain.sign(lo - root) in (0, 1):
            return direction
        if hi.is_finite and domain.sign(root - hi) in (0, 1):
            return -direction
        return None
    if polynomial is not None:
        if function.free_symbols - {x}:
            return None
        return exact_sign(polynomial.eval(_between(lo, hi)))
    try:
        piece = _localised(lo, hi, function, domain)
    except TypeError:
        return None
    signs = set()
    for part in piece:
        box = (part.start, *domain.box)
        variables = (part.variable, *domain.symbols)
        program = Program(part.local, variables, tail=box if part.tail else None)
        low, high, flag = program.enclose(box)
        signs.add(None if flag else (1 if low > 0.0 else (-1 if high < 0.0 else None)))
    return signs.pop() if len(signs) == 1 else None


def _between(lo: sympy.Expr, hi: sympy.Expr) -> sympy.Expr:
    if lo.is_finite and hi.is_finite:
        return (lo + hi) / 2
    if lo.is_finite:
        return lo + 1
    return hi - 1 if hi.is_finite else S.Zero
