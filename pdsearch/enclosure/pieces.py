"""The real line cut where an expression bends or jumps; each smooth piece has its own variable.

A piece between two breakpoints is written in s ∈ [0, 1] with x = lo + (hi - lo)·s (or x = lo·s if
it ends at 0), in exact arithmetic, so that a zero at a breakpoint sits at s = 0 or s = 1, where
floats are exact. An unbounded piece is written in y = |x| ≥ Y, with leading powers taken out of
sums.

Breakpoints are roots of the arguments of `Abs`, `Heaviside`, `Min`, … and of conditions: those
linear in x (also with parameters in the coefficients), and polynomials with exact real roots.
Other nodes stay unchanged; their enclosures are wide where they are undecided, never wrong.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Heaviside, Max, Min, Piecewise, S
from sympy.core.relational import Relational

from pdsearch.enclosure import clock
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.algebra import factored, polynomial_in, quotient, real_roots, tidy
from pdsearch.enclosure.interval import Box, Interval
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
    box: Box = ()
    _signs: dict[sympy.Expr, int | None] = field(default_factory=dict, compare=False, repr=False)

    def sign(self, expression: sympy.Expr) -> int | None:
        """1 if the expression is ≥ 0 over the whole box, -1 if ≤ 0, 0 if both, None if unknown.

        Exact for numbers: zero is recognised symbolically, everything else by Arb.
        """
        if expression not in self._signs:
            self._signs[expression] = self._sign(expression)
        return self._signs[expression]

    def _sign(self, expression: sympy.Expr) -> int | None:
        if expression in (sympy.oo, -sympy.oo):
            return 1 if expression is sympy.oo else -1
        if not expression.free_symbols:
            return exact_sign(expression)
        return 0 if factored(expression) == 0 else iv.weak_sign(self._enclosed(expression))

    def _enclosed(self, expression: sympy.Expr) -> Interval:
        if expression.free_symbols - set(self.symbols):
            return iv.NOWHERE
        return Program(prepare(factored(expression)), self.symbols).enclose(self.box)

    def exact_sign(self, expression: sympy.Expr) -> int | None:
        """0 if the expression is 0 over the whole box, 1 if > 0, -1 if < 0, None if unknown."""
        return 0 if self.sign(expression) == 0 else self.strict_sign(expression)

    def strict_sign(self, expression: sympy.Expr) -> int | None:
        """1 if > 0 over the whole box, -1 if < 0, else None."""
        if not expression.free_symbols:
            return self.sign(expression) or None
        return iv.strict_sign(self._enclosed(expression))


@dataclass(frozen=True)
class Piece:
    """A stretch of the real line on which the expression is one formula.

    Attributes:
        lo: Left end, exact (in the parameters, if any), or -oo.
        hi: Right end, or oo.
        expression: The formula in x.
        local: The formula in `variable`, in its tightest form.
        plain: The formula in `variable` as it was written, whose enclosure is sometimes tighter.
        position: x in terms of `variable`.
        start: The variable's interval.
    """

    lo: sympy.Expr
    hi: sympy.Expr
    expression: sympy.Expr
    local: sympy.Expr
    plain: sympy.Expr
    position: sympy.Expr
    start: Interval

    @property
    def variable(self) -> sympy.Symbol:
        """The piece's own variable: `y` if it is unbounded, else `s`."""
        return y if self.tail else s

    @property
    def smooth(self) -> bool:
        """Whether no node is left that may bend or jump."""
        return not self.expression.has(*NOT_SMOOTH)

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
        return self.lo is -sympy.oo or self.hi is sympy.oo

    def with_expression(self, expression: sympy.Expr) -> "Piece":
        """The same stretch with another formula in x."""
        return _piece(self.lo, self.hi, expression, self.position, self.start)


Stretch = tuple[sympy.Expr, sympy.Expr, sympy.Expr]
"""The ends of a piece and its formula in x."""


def localise(expression: sympy.Expr, position: sympy.Expr) -> sympy.Expr:
    """The expression in x, written in the variable of a position and in its tightest form."""
    # xreplace does not re-evaluate everything; expanding the arguments does.
    inside = prepare(tidy(expression.xreplace({x: position})))
    return tail_form(inside, y) if position.has(y) else inside


def _piece(
    lo: sympy.Expr,
    hi: sympy.Expr,
    expression: sympy.Expr,
    position: sympy.Expr,
    start: Interval,
) -> Piece:
    local = localise(expression, position)
    plain = prepare(expression.xreplace({x: position}))
    return Piece(lo, hi, expression, local, plain, position, start)


def cut(expression: sympy.Expr, domain: Domain | None = None) -> list[Piece]:
    """The pieces of an expression in x, from left to right; 0 is always an end of one.

    Args:
        expression: In x and the domain's parameters.
        domain: The parameters' ranges; none for a bound candidate.
    """
    domain = domain or Domain()
    pieces: list[Piece] = []
    for lo, hi, formula in stretches(expression, domain):
        pieces += _localised(lo, hi, formula, domain)
    return pieces


def stretches(expression: sympy.Expr, domain: Domain | None = None) -> list[Stretch]:
    """As `cut`, before the formula of each piece is written in the piece's own variable."""
    return [
        stretch
        for lo, hi in itertools.pairwise([-sympy.oo, S.Zero, sympy.oo])
        for stretch in _resolve(expression, lo, hi, domain or Domain(), frozenset())
    ]


def _localised(lo: sympy.Expr, hi: sympy.Expr, formula: sympy.Expr, domain: Domain) -> list[Piece]:
    if lo.is_finite and hi.is_finite:
        # Most formulas are simplest around 0, so the piece that ends there starts there.
        position = lo * s if hi == 0 else lo + (hi - lo) * s
        return [_piece(lo, hi, formula, position, (0.0, 1.0, 0))]
    end, side = (hi, -1) if lo is -sympy.oo else (lo, 1)
    edge = max(_beyond(side * end, domain) or FIRST, _beyond_switches(formula, domain))
    outer, inner = ((lo, -edge), (-edge, hi)) if side < 0 else ((edge, hi), (lo, edge))
    resolved = _resolve(formula, *outer, domain, frozenset())
    far = resolved[0][2] if len(resolved) == 1 else formula
    tail = _piece(*outer, far, side * y, (float(edge), float("inf"), 0))
    if side * edge == end:
        return [tail]
    near = _localised(*inner, formula, domain)
    return [tail, *near] if side < 0 else [*near, tail]


def _beyond_switches(formula: sympy.Expr, domain: Domain) -> sympy.Integer:
    """The |x| beyond which, for all parameters, no bend or jump with an unknown place is left.

    The place of ``x > b`` is unknown if the sign of b is.
    """
    edge = sympy.Integer(0)
    for node in formula.atoms(*NOT_SMOOTH):
        for function in _switches(node):
            polynomial = polynomial_in(function, x) if function.has(x) else None
            if polynomial is not None and polynomial.degree() == 1:
                direction, root = _line(polynomial, domain)
                if direction is not None:
                    edge = max(edge, *(_beyond(r, domain) or edge for r in (root, -root)))
    return edge if edge < FARTHEST else sympy.Integer(0)


def _beyond(number: sympy.Expr, domain: Domain) -> sympy.Integer | None:
    """A power of two above the number for all parameters: where the unbounded piece may start.

    None for a number so large that no float lies far enough beyond it.
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
) -> list[Stretch]:
    """Stretches between two places; nodes that cannot be decided become opaque."""
    clock.check()
    node = _next_node(expression, opaque)
    if node is None:
        return [(lo, hi, expression)]
    undecided = opaque | {node}
    function = next(iter(_switches(node)), None)
    roots = None if function is None else _roots(function, lo, hi, domain)
    if function is None or roots is None:
        return _resolve(expression, lo, hi, domain, undecided)
    result: list[Stretch] = []
    for left, right in itertools.pairwise([lo, *roots, hi]):
        sign = _sign_between(function, left, right, domain)
        decided = node if sign is None else _decided(node, function, sign)
        simpler = expression.xreplace({node: decided})
        if simpler == expression or len(result) > MAX_PIECES:
            return _resolve(expression, lo, hi, domain, undecided)
        result += _resolve(simpler, left, right, domain, opaque)
    return result


def germ(expression: sympy.Expr, side: int) -> sympy.Expr:
    """A bound candidate's formula in y = |x| beyond every breakpoint, however far out it is.

    There a polynomial has the sign of its leading coefficient. Conditions remain unless they are
    polynomials with rational coefficients.
    """
    opaque: frozenset[sympy.Basic] = frozenset()
    while (node := _next_node(expression, opaque)) is not None:
        opaque |= {node}
        for function in _switches(node):
            polynomial = polynomial_in(function, x)
            leading = function if polynomial is None else polynomial.LC()
            if leading.is_Rational and leading != 0:
                degree = 0 if polynomial is None else polynomial.degree()
                sign = (1 if leading > 0 else -1) * side**degree
                expression = expression.xreplace({node: _decided(node, function, sign)})
                break
    return localise(expression, side * y)


def _next_node(expression: sympy.Expr, opaque: frozenset[sympy.Basic]) -> sympy.Basic | None:
    """A node that may switch, and whose switching functions contain no such node."""
    for node in sympy.preorder_traversal(expression):
        if (
            isinstance(node, NOT_SMOOTH)
            and node not in opaque
            and not any(function.has(*NOT_SMOOTH) for function in _switches(node))
        ):
            return node
    return None


def _switches(node: sympy.Basic) -> list[sympy.Expr]:
    """Functions whose sign decides the node."""
    if isinstance(node, Min | Max):
        first, second, *_ = _sorted(node.args)
        return [first - second]
    if isinstance(node, Piecewise):
        return [
            (relation.args[0] - relation.args[1])
            for _, condition in node.args
            for relation in _sorted(condition.atoms(Relational))
        ]
    return [node.args[0]]


def _sorted(nodes: Iterable[Any]) -> list[Any]:
    return sorted(nodes, key=sympy.default_sort_key)


def _decided(node: sympy.Basic, function: sympy.Expr, sign: int) -> sympy.Expr:
    """The node where its switching function is > 0 (sign 1), < 0 (-1) or ≡ 0 (0)."""
    if isinstance(node, sympy.Abs):
        return node.args[0] * (1 if sign >= 0 else -1)
    if isinstance(node, sympy.sign):
        return sympy.Integer(sign)
    if isinstance(node, Heaviside):
        return {1: S.One, 0: node.args[1], -1: S.Zero}[sign]
    if isinstance(node, Min | Max):
        first, second, *rest = _sorted(node.args)
        keep = first if (sign >= 0) == isinstance(node, Max) else second
        return node.func(keep, *rest)
    assert isinstance(node, Piecewise)
    truths: dict[Any, Any] = {}
    for _, condition in node.args:
        for relation in condition.atoms(Relational):
            difference = relation.args[0] - relation.args[1]
            if difference in (function, -function):
                its = sign if difference == function else -sign
                truths[relation] = sympy.sympify(RELATIONS[relation.rel_op](its, 0))
    return Piecewise(*((e, c.xreplace(truths)) for e, c in node.args))


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
        direction, root = _line(polynomial, domain)
        candidates = None if direction is None else [root]
    elif not function.free_symbols - {x} and all(c.is_Rational for c in polynomial.coeffs()):
        candidates = real_roots(polynomial)
    else:
        return None
    # A piece that ended farther out would leave no float for the unbounded one.
    if candidates is None or any(_beyond(side * r, domain) is None
                                 for r in candidates for side in (1, -1)):  # fmt: skip
        return None
    inside = []
    for root in candidates:
        above = 1 if lo is -sympy.oo else domain.sign(root - lo)
        below = 1 if hi is sympy.oo else domain.sign(hi - root)
        if above is None or below is None:
            return None
        if above == below == 1:  # otherwise outside for every parameter, or at an end
            inside.append(root)
    return inside


def _line(polynomial: sympy.Poly, domain: Domain) -> tuple[int | None, sympy.Expr]:
    """The sign of a linear polynomial's slope, and its root; None and 0 if the sign is unknown."""
    slope, offset = polynomial.all_coeffs()
    direction = domain.strict_sign(slope)
    return direction, S.Zero if direction is None else quotient(-offset, slope)


def _sign_between(
    function: sympy.Expr, lo: sympy.Expr, hi: sympy.Expr, domain: Domain
) -> int | None:
    """The sign of a switching function between neighbouring roots."""
    if not function.has(x):
        return domain.exact_sign(function)
    polynomial = polynomial_in(function, x)
    if polynomial is not None and polynomial.degree() == 1:
        direction, root = _line(polynomial, domain)
        if direction is None:
            return None
        if lo.is_finite and domain.sign(lo - root) in (0, 1):
            return direction
        if hi.is_finite and domain.sign(root - hi) in (0, 1):
            return -direction
        return None
    if polynomial is not None:
        if function.free_symbols - {x}:
            return None
        return exact_sign(polynomial.eval(_between(lo, hi)))
    signs = set()
    try:
        parts = _localised(lo, hi, function, domain)
    except TypeError:
        return None
    for part in parts:
        box = (part.start, *domain.box)
        variables = (part.variable, *domain.symbols)
        program = Program(part.local, variables, tail=box if part.tail else None)
        signs.add(iv.strict_sign(program.enclose(box)))
    return signs.pop() if len(signs) == 1 else None


def _between(lo: sympy.Expr, hi: sympy.Expr) -> sympy.Expr:
    if lo.is_finite and hi.is_finite:
        return (lo + hi) / 2
    if lo.is_finite:
        return lo + 1
    return hi - 1 if hi.is_finite else S.Zero
