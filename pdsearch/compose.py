r"""New families from activations and from other families.

`family_of` differentiates an activation; `below`, `mixture`, `scale` and `shift` combine families.
Each returns a family like any other, with the parameters of its parts, their ranges and defaults.
A parameter of the second family is renamed if the first has one of that name: `alpha` to `alpha_2`.

    >>> from pdsearch import compose, load_family
    >>> compose.below(load_family("exp_tail"), load_family("sigmoid")).parameters
    ('alpha', 'beta', 'alpha_2')
"""

import itertools
from collections.abc import Callable, Iterable, Mapping

import sympy
from optuna.distributions import BaseDistribution, FloatDistribution

from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.nodes import derivative as slope
from pdsearch.errors import FormulaError, InputError
from pdsearch.expression import canonical, check_parameters_used, parse, symbol, x
from pdsearch.family import Family, side

__all__ = ["below", "family_of", "mixture", "scale", "shift"]

_NAME_LENGTH = 64


def family_of(
    activation: sympy.Expr | str,
    *,
    name: str = "activation",
    space: Mapping[str, BaseDistribution] | None = None,
    defaults: Mapping[str, float] | None = None,
    reference: str = "",
) -> Family:
    """Return the family whose g is the derivative of an activation.

    At a corner of the activation, g has the value of the Piecewise arm that holds there. At a jump
    the derivative does not exist, and g leaves the jump out.

    Args:
        activation: a sympy expression in `pdsearch.x`, or the text of one.
        name: of the family.
        space: a distribution for each parameter.
        defaults: values within the ranges.
        reference: where the activation comes from.

    Raises:
        FormulaError: the activation cannot be read or differentiated.
        InputError: the parameters do not fit the space.
    """
    space = dict(space or {})
    expression = (
        parse(activation, parameters=space)
        if isinstance(activation, str)
        else canonical(activation)
    )
    check_parameters_used(expression, space)
    try:
        derivative = slope(expression, x)
    except OutOfReachError as error:
        raise FormulaError(f"the activation {name!r} cannot be differentiated: {error}") from None
    return Family(
        name,
        derivative,
        # A parameter that only moves the activation up or down is not in its derivative.
        space={n: d for n, d in space.items() if symbol(n) in derivative.free_symbols},
        defaults={
            n: v for n, v in (defaults or {}).items() if symbol(n) in derivative.free_symbols
        },
        reference=reference or "derivative of an activation",
    )


def below(negative: Family, positive: Family, *, name: str | None = None) -> Family:
    """Return a family with one's g where x ≤ 0 and another's where x > 0.

    A parameter that matters only on a dropped side is dropped with it.

    Args:
        negative: the family below zero.
        positive: the family above.
        name: of the result.
    """
    left = side(negative.expression, positive=False)
    right = side(positive.expression, positive=True)
    right, space, defaults = _joined(negative, left, positive, right)
    return _composed(
        name or f"{negative.name}_below_{positive.name}"[:_NAME_LENGTH],
        sympy.Piecewise((right, x > 0), (left, True)),
        space=space,
        defaults=defaults,
        reference=f"{negative.name} below zero, {positive.name} above",
    )


def mixture(
    first: Family,
    second: Family,
    *,
    weight: float | FloatDistribution | None = None,
    name: str | None = None,
) -> Family:
    """Return the mixture (1 − weight)·first + weight·second.

    Args:
        first: the family at weight 0.
        second: the family at weight 1.
        weight: a number in [0, 1], or a range for a parameter `weight`; None: all of [0, 1].
        name: of the mixture.

    Raises:
        InputError: the weight is outside [0, 1].
    """
    expression, space, defaults = _joined(first, first.expression, second, second.expression)
    factor = _parameter("weight", weight, FloatDistribution(0.0, 1.0), space, defaults, 0.5)
    bounds = (weight.low, weight.high) if isinstance(weight, FloatDistribution) else (weight,)
    if any(bound is not None and not 0 <= bound <= 1 for bound in bounds):
        raise InputError(f"the weight of a mixture must be in [0, 1], got {weight}")
    return _composed(
        name or f"{first.name}_and_{second.name}"[:_NAME_LENGTH],
        _merged(first.expression, expression, lambda a, b: (1 - factor) * a + factor * b),
        space=space,
        defaults=defaults,
        reference=f"mixture of {first.name} and {second.name}",
    )


def scale(
    family: Family,
    *,
    width: float | FloatDistribution | None = None,
    height: float | FloatDistribution | None = None,
    name: str | None = None,
) -> Family:
    """Return the stretched shape height·g(x/width).

    Args:
        family: the shape to stretch.
        width: a positive number or range, for a parameter `width`.
        height: a number or range, for a parameter `height`.
        name: of the result.

    Raises:
        InputError: neither is given, or the width is not positive.
    """
    if width is None and height is None:
        raise InputError("scale needs a width or a height")
    lowest = width.low if isinstance(width, FloatDistribution) else width
    if lowest is not None and not lowest > 0:
        raise InputError(f"the width must be positive, got {width}")
    space, defaults = dict(family.space), dict(family.defaults)
    expression = family.expression
    if width is not None:
        factor = _parameter("width", width, None, space, defaults, 1.0)
        expression = expression.xreplace({x: x / factor})
    if height is not None:
        factor = _parameter("height", height, None, space, defaults, 1.0)
        expression = _merged(factor, expression, lambda a, b: a * b)
    return _composed(
        name or f"scaled_{family.name}"[:_NAME_LENGTH],
        expression,
        space=space,
        defaults=defaults,
        reference=f"{family.name}, stretched",
    )


def shift(
    family: Family, *, by: float | FloatDistribution | None = None, name: str | None = None
) -> Family:
    """Return the moved shape g(x + shift), which is further left if the shift is positive.

    Args:
        family: the shape to move.
        by: a number, or a range for a parameter `shift`; None: [-1, 1].
        name: of the result.
    """
    space, defaults = dict(family.space), dict(family.defaults)
    moved = _parameter("shift", by, FloatDistribution(-1.0, 1.0), space, defaults, 0.0)
    return _composed(
        name or f"shifted_{family.name}"[:_NAME_LENGTH],
        family.expression.xreplace({x: x + moved}),
        space=space,
        defaults=defaults,
        reference=f"{family.name}, shifted",
    )


def _composed(
    name: str,
    expression: sympy.Expr,
    *,
    space: Mapping[str, BaseDistribution],
    defaults: Mapping[str, float],
    reference: str,
) -> Family:
    """Return the family without parameters that cancelled, as a weight of equal shapes does."""
    settled = canonical(expression)
    held = {s.name for s in settled.free_symbols}
    return Family(
        name,
        settled,
        space={n: d for n, d in space.items() if n in held},
        defaults={n: v for n, v in defaults.items() if n in held},
        reference=reference,
    )


def _joined(
    first: Family, first_part: sympy.Expr, second: Family, second_part: sympy.Expr
) -> tuple[sympy.Expr, dict[str, BaseDistribution], dict[str, float]]:
    """Return the second part, renamed, with the ranges and defaults of what both parts hold."""
    held = {s.name for s in first_part.free_symbols}
    space = {n: d for n, d in first.space.items() if n in held}
    defaults = {n: first.defaults[n] for n in space}
    own = [n for n in second.space if symbol(n) in second_part.free_symbols]
    renamed = {}
    for old in own:
        # Unlike the first's names, those given already, and the second's other names.
        new = _fresh(old, {*space, *(n for n in own if n != old)})
        renamed[symbol(old)] = symbol(new)
        space[new] = second.space[old]
        defaults[new] = second.defaults[old]
    return second_part.xreplace(renamed), space, defaults


def _fresh(name: str, taken: Iterable[str]) -> str:
    """Return `name`, or with the first number from 2 on that makes it new."""
    taken = set(taken)
    numbered = (f"{name[:36]}_{i}" for i in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _parameter(
    name: str,
    given: float | FloatDistribution | None,
    otherwise: FloatDistribution | None,
    space: dict[str, BaseDistribution],
    defaults: dict[str, float],
    default: float,
) -> sympy.Expr:
    """Return a number as it is, or a new parameter with the given range."""
    distribution = otherwise if given is None else given
    if not isinstance(distribution, FloatDistribution):
        return canonical(distribution)
    new = _fresh(name, space)
    space[new] = distribution
    if distribution.low <= default <= distribution.high:
        defaults[new] = default
    return symbol(new)


def _merged(
    first: sympy.Expr,
    second: sympy.Expr,
    combine: Callable[[sympy.Expr, sympy.Expr], sympy.Expr],
) -> sympy.Expr:
    """Combine two expressions, arm by arm where the same conditions split them."""
    conditions = {
        tuple(c for _, c in e.args) for e in (first, second) if isinstance(e, sympy.Piecewise)
    }
    if len(conditions) != 1:
        return combine(first, second)
    (common,) = conditions
    arms = [
        [value for value, _ in e.args] if isinstance(e, sympy.Piecewise) else [e] * len(common)
        for e in (first, second)
    ]
    return sympy.Piecewise(*((combine(a, b), c) for a, b, c in zip(*arms, common, strict=True)))
