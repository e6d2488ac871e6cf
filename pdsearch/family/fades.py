"""Fading: any family's g early in training, ReLU's exact derivative later.

    g_t(x) = 1[x > 0] + w(t)·(g(x) − 1[x > 0])

The weight w falls from 1 at t = 0 to 0 at t = `end` and stays there. The faded family is one
expression in x and t like any other. `fading` recovers the parts from an expression, so that a
kernel takes w as an argument: a new t needs no table and no compilation.
"""

import functools
import math
from dataclasses import dataclass
from typing import cast

import sympy
from optuna.distributions import BaseDistribution, FloatDistribution
from sympy.core.relational import Relational

from pdsearch.errors import InputError
from pdsearch.expression import RELATIONS, canonical, sigmoid, symbol, t, x
from pdsearch.family.definition import Candidate, Family
from pdsearch.family.ranges import Range, parameters_in

__all__ = ["FADES", "Fading", "fade", "fading", "side"]

FADES = ("linear", "cosine", "switch")

END = FloatDistribution(0.02, 1.0, log=True)
"""Default range of `end`, the share of training after which the exact derivative is used."""


@dataclass(frozen=True)
class Fading:
    """The parts of a faded family.

    Attributes:
        base: the family at w = 1, with the parameters of the faded family except `end`.
        shape: of w: one of `FADES`.
        end: the progress from which w is 0: a number, or the name of a parameter.
    """

    base: Family
    shape: str
    end: float | str

    def end_of(self, candidate: Candidate) -> float:
        """Return the progress from which w is 0 for a candidate."""
        return candidate.parameters[self.end] if isinstance(self.end, str) else self.end

    def weight(self, candidate: Candidate, progress: float) -> float:
        """Return w at a training progress in [0, 1]: exactly 1 at 0, exactly 0 from `end` on."""
        end = self.end_of(candidate)
        if progress >= end:
            return 0.0
        if self.shape == "linear":
            return 1.0 - progress / end
        return (1.0 + math.cos(math.pi * progress / end)) / 2 if self.shape == "cosine" else 1.0

    def unfaded(self, candidate: Candidate) -> Candidate:
        """Return the candidate of the base family with the same parameters and direction."""
        kept = {name: candidate.parameters[name] for name in self.base.parameters}
        return Candidate(self.base, kept, candidate.direction)


def fade(
    family: Family,
    shape: str = "linear",
    *,
    end: float | FloatDistribution | None = None,
    name: str | None = None,
    reference: str | None = None,
) -> Family:
    """Return the family that fades into ReLU's own derivative during training.

        g_t(x) = 1[x>0] + w(t)·(g(x) − 1[x>0])

    where w(t) is 0 from `end` on, and before that

    * `linear`: 1 − t/end
    * `cosine`: (1 + cos(π·t/end))/2
    * `switch`: 1

    Args:
        family: g; it must not depend on t.
        shape: `linear`, `cosine` or `switch`.
        end: the progress in (0, 1] from which w is 0, or a range for a parameter `end`; by
            default the range `END`.
        name: by default `<family>_<shape>`.
        reference: by default the family's, and how it fades.

    Returns:
        A family with the parameters of `family` and, unless `end` is a number, `end`.

    Raises:
        InputError: an unknown shape, an `end` outside (0, 1], or a family that changes with t or
            already has a parameter `end`.
    """
    if not isinstance(family, Family):
        raise InputError(f"fade needs a Family, got {type(family).__name__}")
    if shape not in FADES:
        raise InputError(f"fade must be one of {', '.join(FADES)}, got {shape!r}")
    if family.annealed:
        raise InputError(f"family {family.name!r} changes with t already: it cannot be faded")
    space: dict[str, BaseDistribution] = dict(family.space)
    given = END if end is None else end
    if isinstance(given, FloatDistribution):
        if "end" in space:
            raise InputError(
                f"family {family.name!r} has a parameter 'end' already: rename it, or give end as "
                "a number"
            )
        low, high = given.low, given.high
        space["end"] = given
        until = symbol("end")
    else:
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise InputError(f"end must be a number in (0, 1] or a range of them, got {given!r}")
        low = high = float(given)
        until = canonical(float(given))
    if not 0.0 < low <= high <= 1.0:
        shown = f"{given!r}" if low == high else f"[{low:g}, {high:g}]"
        raise InputError(f"end must be in (0, 1], got {shown}")
    expression = _faded(family.expression, _weight(shape, until))
    if t not in expression.free_symbols:
        raise InputError(f"family {family.name!r} is the step itself: there is nothing to fade")
    return Family(
        name or f"{family.name}_{shape}"[:64],
        expression,
        space=space,
        defaults=family.defaults,
        reference=reference or f"{family.reference or family.name}; fades to the step ({shape})",
        directions=family.directions,
    )


@functools.lru_cache(maxsize=1_024)
def fading(family: Family) -> Fading | None:
    """Return the parts of a family that fades into the step; None for other families.

    A typed formula is recognised like one from `fade`: the parts must add up to it.
    """
    if not family.annealed:
        return None
    for shape, end in _weights_in(family.expression):
        weight = _weight(shape, end)
        base = family.expression.xreplace({weight: sympy.S.One}).xreplace({t: sympy.S.Zero})
        if t in base.free_symbols or _faded(base, weight) != family.expression:
            continue
        low = cast("Range", family.space[end.name]).low if end.is_Symbol else float(end)
        if low > 0:
            unfaded = Family(
                family.name,
                base,
                **parameters_in(base, family.space, family.defaults),
                directions=family.directions,
            )
            return Fading(unfaded, shape, end.name if end.is_Symbol else float(end))
    return None


def side(expression: sympy.Expr, *, positive: bool) -> sympy.Expr:
    """Return the expression where x > 0, or where x <= 0, with the conditions decided there."""
    decided = {}
    for relation in expression.atoms(Relational):
        turned = relation if relation.lhs == x else relation.reversed
        if turned.lhs != x or not turned.rhs.is_Rational:
            continue
        bound, holds = turned.rhs, RELATIONS[turned.rel_op]
        if positive and bound <= 0:
            decided[relation] = sympy.sympify(holds(1, 0))
        elif not positive and (bound > 0 or (bound == 0 and holds(-1, 0) == holds(0, 0))):
            decided[relation] = sympy.sympify(holds(-1, 0))
    return expression.xreplace(decided)


def _faded(g: sympy.Expr, weight: sympy.Expr) -> sympy.Expr:
    above, below = side(g, positive=True), side(g, positive=False)
    lower = below.args if isinstance(below, sympy.Piecewise) else [(below, sympy.true)]
    return canonical(
        sympy.Piecewise(
            (_above(above, weight), x > 0), *((weight * value, where) for value, where in lower)
        )
    )


def _above(g: sympy.Expr, weight: sympy.Expr) -> sympy.Expr:
    """Return 1 + w·(g − 1) in a form without cancellation where g is one minus something."""
    if isinstance(g, sympy.Piecewise):
        return sympy.Piecewise(*((_above(value, weight), where) for value, where in g.args))
    if isinstance(g, sigmoid):
        return 1 - weight * sigmoid(-g.args[0])
    if g.is_Add and g.as_coeff_Add()[0] == 1:
        return 1 - weight * (1 - g)
    return weight * g + 1 - weight


def _weight(shape: str, end: sympy.Expr) -> sympy.Expr:
    # One function rather than a Piecewise, whose arms would mix with those of g.
    if shape == "switch":
        return sympy.Heaviside(end - t, 0)
    if shape == "cosine":
        return (1 + sympy.cos(sympy.pi * sympy.Min(1, t / end))) / 2
    return 1 - t if end == 1 else sympy.Max(0, 1 - t / end)


def _weights_in(expression: sympy.Expr) -> list[tuple[str, sympy.Expr]]:
    """Return the shapes and ends that w may have, from the functions of t alone."""
    found: list[tuple[str, sympy.Expr]] = [("linear", sympy.S.One), ("cosine", sympy.S.One)]
    for node in expression.atoms(sympy.Heaviside, sympy.Max, sympy.Min):
        changing = [a for a in node.args if t in a.free_symbols]
        if x in node.free_symbols or len(changing) != 1:
            continue
        (part,) = changing
        if isinstance(node, sympy.Heaviside):
            found.append(("switch", part + t))
        elif part not in (1, t):
            linear = isinstance(node, sympy.Max)
            found.append(("linear" if linear else "cosine", t / (1 - part if linear else part)))
    return [pair for pair in found if pair[1].is_Symbol or pair[1].is_Rational]
