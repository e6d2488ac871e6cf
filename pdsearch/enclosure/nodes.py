"""Expressions rewritten into a form with tight enclosures, and their derivatives.

Interval arithmetic does not know that two occurrences of a variable are the same number, so its
``1 - tanh(u)**2`` and ``exp(u)/(1 + exp(u))`` are far too wide. `prepare` rewrites such
combinations as single nodes, each of which is a monotone or even function of one argument.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import sympy
from sympy import Add, Heaviside, Max, Min, Mul, Piecewise, Pow, S
from sympy.core.relational import Relational

from pdsearch.enclosure import clock
from pdsearch.enclosure.algebra import derivative_size
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.expression import sigmoid, softplus, x

MOST_NODES = 6_000
"""Size of a derivative, written out: about a hundred times what the library's families need."""

NOT_SMOOTH = (sympy.Abs, sympy.sign, Heaviside, Min, Max, Piecewise)
"""Nodes that may bend or jump."""


class InternalNode(sympy.Function):
    """A positive function of one argument that only enclosures know.

    sympy must not know its name. It evaluates and prints a function by the name of its class, so
    that a class called `bell` would mean the Bell numbers.
    """

    nargs = 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        """The function times its logarithmic derivative."""
        return self * _LOG_DERIVATIVES[type(self)](self.args[0])

    def _eval_is_positive(self) -> bool | None:
        return True if self.args[0].is_real else None

    def _eval_is_real(self) -> bool | None:
        return True if self.args[0].is_real else None

    def _eval_evalf(self, prec: int) -> sympy.Expr | None:
        return None


class sigmoid_bell(InternalNode):
    """σ(u)·σ(-u) = 1/(4·cosh²(u/2)): even, falling in |u|."""


class sech2(InternalNode):
    """1/cosh²(u) = 1 - tanh²(u): even, falling in |u|."""


class arccot(InternalNode):
    """π/2 - atan(u), in (0, π): falling."""


class erfc_ratio(InternalNode):
    """2·exp(-u²)/(√π·erfc(u)): minus the logarithmic derivative of erfc; increasing."""


POSITIVE = (sympy.exp, sympy.cosh, sympy.erfc, sigmoid, softplus, InternalNode)
"""Functions that are positive at every real argument."""


@functools.lru_cache(maxsize=4096)
def prepare(expression: sympy.Expr) -> sympy.Expr:
    """The same function in terms of nodes with tight enclosures."""
    if not expression.args:
        return expression
    clock.check()
    if isinstance(expression, sympy.DiracDelta):
        return S.Zero  # jumps are decided separately
    node = rebuilt(expression, prepare, lambda c: map_condition(c, prepare, evaluate=True))
    for kind, rule in _RULES.items():
        if isinstance(node, kind):
            return rule(node)
    return node


def rebuilt(
    node: sympy.Expr,
    function: Callable[[Any], Any],
    on_condition: Callable[[Any], Any] | None = None,
) -> sympy.Expr:
    """A node with a function applied to its arguments; the node itself if none of them changes.

    In a `Piecewise`, it is applied to the values of the arms, and to both sides of each comparison
    unless `on_condition` converts the conditions.
    """
    if isinstance(node, Piecewise):
        convert = on_condition or (lambda condition: map_condition(condition, function))
        arms = [(function(arm.expr), convert(arm.cond)) for arm in node.args]
        return Piecewise(*arms, evaluate=False)
    args = [function(arg) for arg in node.args]
    changed = any(a is not b for a, b in zip(args, node.args, strict=True))
    return node.func(*args) if changed else node


def moving_power(node: sympy.Basic) -> bool:
    """Whether a node is a power with x in its exponent."""
    return isinstance(node, Pow) and node.exp.has(x)


def exponential_form(node: sympy.Expr) -> sympy.Expr:
    """exp(p·log(b)) for a power b^p with x in p; other nodes unchanged.

    A power stays as it is if b is no positive number, or may be 0 at some x.
    """
    if moving_power(node):
        base, power = node.args
        if base.is_positive or (base.free_symbols and not base.has(x)):
            return sympy.exp(power * sympy.log(base))
    return node


def exponentials(expression: sympy.Expr) -> sympy.Expr:
    """The expression with exp(x·log(2)) for 2ˣ, because more is known of it.

    A power with x in its base as well stays as it is.
    """

    def taken(node: sympy.Basic) -> bool:
        return moving_power(node) and not node.base.has(x)

    if not any(map(taken, expression.atoms(Pow))):
        return expression
    return expression.replace(taken, exponential_form)


def map_condition(condition: Any, function: Callable[[Any], Any], *, evaluate: bool = False) -> Any:
    """A condition with a function applied to both sides of each comparison in it."""
    if isinstance(condition, Relational):
        sides = [function(side) for side in condition.args]
        if all(a is b for a, b in zip(sides, condition.args, strict=True)):
            return condition
        return condition.func(*sides, evaluate=evaluate)
    if condition.args:
        parts = (map_condition(arg, function, evaluate=evaluate) for arg in condition.args)
        return condition.func(*parts)
    return condition


def _one_plus_exp(expression: sympy.Expr) -> sympy.Expr | None:
    """Return u where the expression is 1 + exp(u)."""
    if isinstance(expression, Add) and len(expression.args) == 2:
        one, power = expression.args
        if one is S.One and isinstance(power, sympy.exp):
            return power.args[0]
    return None


def _prepare_log(node: sympy.Expr) -> sympy.Expr:
    u = _one_plus_exp(node.args[0])
    return node if u is None else softplus(u)


def _prepare_power(power: Pow) -> sympy.Expr:
    base, exponent = power.args
    if isinstance(exponent, sympy.Integer) and exponent < 0:
        rest = _one_plus_exp(base)
        if rest is not None:
            return sigmoid(-rest) ** (-exponent)
        if isinstance(base, sympy.cosh) and exponent == -2:
            return sech2(base.args[0])
    return power


def _prepare_sum(total: Add) -> sympy.Expr:
    """A constant and one term as one node: c - c·σ(u) → c·σ(-u), and the like."""
    constants = [term for term in total.args if _plain_number(term)]
    if len(constants) != 1:
        return total
    constant = constants[0]
    terms = [term for term in total.args if term != constant]
    for index, term in enumerate(terms):
        joined = _with_constant(constant, term)
        if joined is not None:
            return Add(joined, *terms[:index], *terms[index + 1 :])
    return total


def _plain_number(term: sympy.Expr) -> bool:
    """Whether a term is a product of rationals, π and e: obviously a number other than zero.

    sympy's `is_zero` computes the minimal polynomial of a sum of roots, which took eight seconds
    for the slope of `circle` at one point.
    """
    return all(
        (factor.is_Rational and not factor.is_zero) or factor in (S.Pi, S.Exp1)
        for factor, _ in (part.as_base_exp() for part in Mul.make_args(term))
    )


def _with_constant(constant: sympy.Expr, term: sympy.Expr) -> sympy.Expr | None:
    """Join c - c·σ(u) → c·σ(-u), c ± c·tanh(u) → 2c·σ(±2u), c - c·tanh²(u) → c·sech²(u) etc."""
    for node in Mul.make_args(term):
        for limit, complement in _complements(node):
            # No cancelling: a factor (x² - 1)/((x - 1)·(x + 1)) is 1 except at two places.
            if term / node / constant * limit == -1:
                return constant * complement
    return None


def _complements(node: Any) -> list[tuple[sympy.Expr, sympy.Expr]]:
    """Limits of a function at ±∞, and for each limit L the function 1 - node/L."""
    u = node.args[0] if node.args else node
    both = (S.One, S.NegativeOne)
    if isinstance(node, sigmoid):
        return [(S.One, sigmoid(-u))]
    if isinstance(node, sympy.tanh):
        return [(sign, 2 * sigmoid(-2 * sign * u)) for sign in both]
    if isinstance(node, sympy.erf):
        return [(sign, sympy.erfc(sign * u)) for sign in both]
    if isinstance(node, sympy.atan):
        return [(sign * sympy.pi / 2, 2 / sympy.pi * arccot(sign * u)) for sign in both]
    if isinstance(node, Pow) and node.exp == 2 and isinstance(node.base, sympy.tanh):
        return [(S.One, sech2(u.args[0]))]
    return []


def _prepare_product(product: Mul) -> sympy.Expr:
    """exp(-u)·σ(u) → σ(-u) and σ(u)·σ(-u) → sigmoid_bell(u), as often as the powers allow."""
    powers: Counter[sympy.Expr] = Counter()
    rest: list[sympy.Expr] = []
    for factor in product.args:
        base, exponent = factor.as_base_exp()
        if isinstance(base, sigmoid) and isinstance(exponent, sympy.Integer) and exponent > 0:
            powers[base.args[0]] += int(exponent)
        else:
            rest.append(factor)
    before = Counter(powers)
    for index, factor in enumerate(rest):
        if isinstance(factor, sympy.exp) and powers[u := -factor.args[0]] > 0:
            powers[u] -= 1
            powers[-u] += 1
            rest[index] = S.One
    bells: list[sympy.Expr] = []
    for u in list(powers):
        count = min(powers[u], powers[-u])
        if count > 0:
            powers[u] -= count
            powers[-u] -= count
            bells.append(sigmoid_bell(u) ** count)
    if powers == before:
        return product
    return Mul(*rest, *bells, *(sigmoid(u) ** n for u, n in powers.items() if n))


_RULES: dict[type, Callable[[Any], sympy.Expr]] = {
    Add: _prepare_sum,
    Mul: _prepare_product,
    Pow: _prepare_power,
    sympy.log: _prepare_log,
}


def derivative(expression: sympy.Expr, v: sympy.Symbol, *, most: int = MOST_NODES) -> sympy.Expr:
    """The derivative where there is one: of what jumps 0, of |u| sign(u)·u′.

    For those nodes sympy's own `diff` asks whether their arguments are real, which may never end,
    and leaves deltas behind.

    Args:
        expression: What to differentiate.
        v: The variable.
        most: How many nodes the derivative may have.

    Raises:
        OutOfReachError: It would be too large, or the time is up.
    """
    clock.check()
    if derivative_size(expression, v) > most:
        raise OutOfReachError("a derivative grows too large")
    return _slope(expression, v, {v: S.One})


def _slope(node: sympy.Expr, v: sympy.Symbol, known: dict[sympy.Expr, sympy.Expr]) -> sympy.Expr:
    """The derivative by the chain rule, of each node once, in the form of sympy's own rules.

    sympy's `diff` recurses a dozen calls for each level: forty nested functions exceed Python's
    limit.
    """
    found = known.get(node)
    if found is None:
        found = known[node] = _by_rule(node, v, known)
    return found


def _by_rule(node: sympy.Expr, v: sympy.Symbol, known: dict[sympy.Expr, sympy.Expr]) -> sympy.Expr:
    if not node.args or isinstance(node, sympy.sign | Heaviside):
        return S.Zero
    if isinstance(node, Piecewise):
        return Piecewise(*((_slope(a.expr, v, known), a.cond) for a in node.args))
    slopes = [_slope(arg, v, known) for arg in node.args]
    if isinstance(node, Add):
        return Add(*slopes)
    moving = [(place, slope) for place, slope in enumerate(slopes) if slope != 0]
    if isinstance(node, Mul):
        return Add(*(Mul(*node.args[:i], slope, *node.args[i + 1 :]) for i, slope in moving))
    if isinstance(node, Pow):
        base, exponent = node.args
        rate = slopes[0] * exponent / base if slopes[0] != 0 else S.Zero
        rate += slopes[1] * sympy.log(base) if slopes[1] != 0 else S.Zero
        return node * rate
    if isinstance(node, sympy.Abs):
        return sympy.sign(node.args[0]) * slopes[0]
    return Add(*(node.fdiff(place + 1) * slope for place, slope in moving))


def elasticity(expression: sympy.Expr, y: sympy.Symbol) -> sympy.Expr | None:
    """y·f′(y)/f(y), without the quotients of vanishing numbers that f′/f would hold.

    None where f is zero on a whole arm.
    """
    return _finite(_rate(expression, y, y))


def log_derivative(expression: sympy.Expr, v: sympy.Symbol) -> sympy.Expr | None:
    """f′(v)/f(v), factor by factor; None where f is zero on a whole arm."""
    return _finite(_rate(expression, v, S.One))


def _finite(rate: sympy.Expr) -> sympy.Expr | None:
    return None if rate.has(sympy.nan, sympy.zoo, sympy.oo, S.NegativeInfinity) else rate


def _rate(expression: sympy.Expr, v: sympy.Symbol, times: sympy.Expr) -> sympy.Expr:
    clock.check()
    if not expression.has(v):
        return S.Zero
    if expression == v:
        return times / v
    if isinstance(expression, Mul):
        return Add(*(_rate(factor, v, times) for factor in expression.args))
    if isinstance(expression, sympy.exp):
        return times * derivative(expression.args[0], v)
    if isinstance(expression, Pow) and not expression.exp.has(v):
        return expression.exp * _rate(expression.base, v, times)
    if rate := _LOG_DERIVATIVES.get(type(expression)):
        u = expression.args[0]
        return times * derivative(u, v) * rate(u)
    return times * derivative(expression, v) / expression


_LOG_DERIVATIVES: dict[type, Callable[[sympy.Expr], sympy.Expr]] = {
    sigmoid: lambda u: sigmoid(-u),
    sigmoid_bell: lambda u: -sympy.tanh(u / 2),
    sech2: lambda u: -2 * sympy.tanh(u),
    sympy.erfc: lambda u: -erfc_ratio(u),
    arccot: lambda u: -1 / ((1 + u**2) * arccot(u)),
    erfc_ratio: lambda u: erfc_ratio(u) - 2 * u,
}


@functools.lru_cache(maxsize=4096)
def tail_form(expression: sympy.Expr, y: sympy.Symbol) -> sympy.Expr:
    """The same function for large y > 0, with the leading power taken out of each sum.

    ``y**2 + 3*y`` becomes ``y**2*(1 + 3/y)``, so that powers cancel in quotients and each remaining
    bracket has a limit.
    """
    clock.check()
    if not expression.has(y) or not expression.args or isinstance(expression, Piecewise):
        return expression
    args = [tail_form(arg, y) if isinstance(arg, sympy.Expr) else arg for arg in expression.args]
    rebuilt = expression.func(*args)
    if isinstance(rebuilt, Add):
        powers = [term.as_coeff_exponent(y) for term in rebuilt.args]
        if all(exponent.is_Rational for _, exponent in powers):
            # Only where the sizes in a bracket really differ, and not for terms that decay anyway.
            leading = max(exponent for _, exponent in powers)
            if leading > 0 and any(not c.has(y) and e == leading for c, e in powers):
                inner = Add(*(c * y ** (e - leading) for c, e in powers))
                return y**leading * inner
    return rebuilt
