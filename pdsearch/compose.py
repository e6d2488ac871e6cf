r"""New families from activations and from other families.

`family_of` differentiates an activation; `below`, `mixture`, `scale` and `shift` combine families.
The result is a family like any other, with the parameters of its parts, their ranges and defaults.
If both families have a parameter `alpha`, that of the second becomes `alpha_2`.

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
from pdsearch.errors import FormulaError, InputError, short
from pdsearch.expression import canonical, check_parameters_used, parse, symbol, x
from pdsearch.family import Family, parameters_in, side

__all__ = ["below", "family_of", "mixture", "scale", "shift"]

_NAME_LENGTH = 64

# name → (range, default; None: the middle of the range)
_Parameters = dict[str, tuple[BaseDistribution, float | None]]


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
    the derivative does not exist, and g ignores the jump.

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
        **parameters_in(derivative, space, defaults or {}),
        reference=reference or "derivative of an activation",
    )


def below(negative: Family, positive: Family, *, name: str | None = None) -> Family:
    """Return the family with the g of one family where x ≤ 0 and of another where x > 0.

    Parameters that matter only on a dropped side are dropped.

    Args:
        negative: the family below zero.
        positive: the family above zero.
        name: of the result.

    Raises:
        InputError: one is no family.
    """
    _check_families("below", negative, positive)
    left = side(negative.expression, positive=False)
    right = side(positive.expression, positive=True)
    right, parameters = _joined(negative, left, positive, right)
    return _composed(
        name,
        f"{negative.name}_below_{positive.name}",
        sympy.Piecewise((right, x > 0), (left, True)),
        parameters,
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
        weight: a number in [0, 1], or a range for a parameter `weight`; by default [0, 1].
        name: of the mixture.

    Raises:
        InputError: one is no family, or the weight is outside [0, 1].
    """
    _check_families("mixture", first, second)
    _check_range("weight", weight)
    expression, parameters = _joined(first, first.expression, second, second.expression)
    weight = FloatDistribution(0.0, 1.0) if weight is None else weight
    factor = _parameter("weight", weight, 0.5, parameters)
    bounds = (weight.low, weight.high) if isinstance(weight, FloatDistribution) else (weight,)
    if not all(0 <= bound <= 1 for bound in bounds):
        raise InputError(f"the weight of a mixture must be in [0, 1], got {weight}")
    return _composed(
        name,
        f"{first.name}_and_{second.name}",
        _merged(first.expression, expression, lambda a, b: (1 - factor) * a + factor * b),
        parameters,
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
    _check_families("scale", family)
    _check_range("width", width)
    _check_range("height", height)
    if width is None and height is None:
        raise InputError("scale needs a width or a height")
    lowest = width.low if isinstance(width, FloatDistribution) else width
    if lowest is not None and not lowest > 0:
        raise InputError(f"the width must be positive, got {width}")
    expression, parameters = family.expression, _parameters(family, family.expression)
    if width is not None:
        factor = _parameter("width", width, 1.0, parameters)
        expression = expression.xreplace({x: x / factor})
    if height is not None:
        factor = _parameter("height", height, 1.0, parameters)
        expression = _merged(factor, expression, lambda a, b: a * b)
    return _composed(
        name,
        f"scaled_{family.name}",
        expression,
        parameters,
        reference=f"{family.name}, stretched",
    )


def shift(
    family: Family, *, by: float | FloatDistribution | None = None, name: str | None = None
) -> Family:
    """Return the moved shape g(x + shift), which is further left if the shift is positive.

    Args:
        family: the shape to move.
        by: a number, or a range for a parameter `shift`; by default [-1, 1].
        name: of the result.

    Raises:
        InputError: `family` is no family, or `by` no number.
    """
    _check_families("shift", family)
    _check_range("by", by)
    parameters = _parameters(family, family.expression)
    by = FloatDistribution(-1.0, 1.0) if by is None else by
    moved = _parameter("shift", by, 0.0, parameters)
    return _composed(
        name,
        f"shifted_{family.name}",
        family.expression.xreplace({x: x + moved}),
        parameters,
        reference=f"{family.name}, shifted",
    )


def _check_families(function: str, *given: object) -> None:
    for one in given:
        if not isinstance(one, Family):
            raise InputError(
                f"compose.{function} needs a Family, as load_family returns it by name, got "
                f"{short(one)}"
            )


def _check_range(name: str, given: object) -> None:
    if given is None or isinstance(given, FloatDistribution):
        return
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InputError(f"{name} must be a number or a FloatDistribution, got {short(given)}")


def _composed(
    name: str | None,
    default: str,
    expression: sympy.Expr,
    parameters: _Parameters,
    *,
    reference: str,
) -> Family:
    """Return the family without parameters that cancel, as a weight of equal shapes does."""
    settled = canonical(expression)
    held = {s.name for s in settled.free_symbols}
    return Family(
        name or default[:_NAME_LENGTH],
        settled,
        space={n: d for n, (d, _) in parameters.items() if n in held},
        defaults={n: v for n, (_, v) in parameters.items() if n in held and v is not None},
        reference=reference,
    )


def _parameters(family: Family, part: sympy.Expr) -> _Parameters:
    """Return the parameters of a family that are in a part of its expression."""
    held = {s.name for s in part.free_symbols}
    return {n: (d, family.defaults[n]) for n, d in family.space.items() if n in held}


def _joined(
    first: Family, first_part: sympy.Expr, second: Family, second_part: sympy.Expr
) -> tuple[sympy.Expr, _Parameters]:
    """Return the second part, renamed, and the parameters of both parts."""
    parameters, own = _parameters(first, first_part), _parameters(second, second_part)
    renamed = {}
    for old, entry in own.items():
        # Distinct from the first's names, those already given, and the second's other names.
        new = _fresh(old, {*parameters, *(own.keys() - {old})})
        renamed[symbol(old)] = symbol(new)
        parameters[new] = entry
    return second_part.xreplace(renamed), parameters


def _fresh(name: str, taken: Iterable[str]) -> str:
    """Return `name`, or `name_2`, `name_3`, …: the first that is not taken."""
    taken = set(taken)
    numbered = (f"{name[:36]}_{i}" for i in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _parameter(
    name: str, given: float | FloatDistribution, default: float, parameters: _Parameters
) -> sympy.Expr:
    """Return a number as it is, or a new parameter with the given range."""
    if not isinstance(given, FloatDistribution):
        return canonical(given)
    new = _fresh(name, parameters)
    parameters[new] = (given, default if given.low <= default <= given.high else None)
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
