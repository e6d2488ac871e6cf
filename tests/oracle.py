"""High-precision values of expressions: the oracle that no code under test has a hand in."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import mpmath
import sympy
import torch
from optuna.distributions import FloatDistribution

from pdsearch import Candidate, Family
from pdsearch.expression import exact, t, x

# 1 - erf(z) of a double still has digits at 1e-308: what is left of 360 is enough.
DIGITS = 360

MPMATH: dict[str, Callable[..., Any]] = {
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "Heaviside": lambda z, middle: mpmath.mpf(0 if z < 0 else 1) if z else middle,
}


@functools.lru_cache(maxsize=512)
def function(expression: sympy.Expr, progress: float) -> Callable[[Any], Any]:
    """The expression in x as a function of mpmath numbers."""
    bound = expression.xreplace({t: exact(progress)})
    return sympy.lambdify(x, bound, modules=[MPMATH, "mpmath"])


def value(expression: sympy.Expr, point: float, *, progress: float = 0.0) -> float:
    """The expression at one double, by mpmath in 360 digits, rounded once."""
    with mpmath.workdps(DIGITS):
        return float(function(expression, progress)(mpmath.mpf(point)))


def values(candidate: Candidate, points: Sequence[float], *, progress: float = 0.0) -> list[float]:
    return [value(candidate.expression, point, progress=progress) for point in points]


def at_random(family: Family, fraction: float) -> Candidate:
    """A candidate inside the family's box, by a fraction that differs from name to name."""
    chosen, space = {}, cast("dict[str, FloatDistribution]", family.space)
    for position, (name, d) in enumerate(space.items()):
        share = (fraction * (position + 1) * 0.6180339887) % 1.0
        chosen[name] = (
            d.low * (d.high / d.low) ** share if d.log else d.low + share * (d.high - d.low)
        )
    return family.bind(**chosen)


def float32_inputs(*places: float) -> torch.Tensor:
    """float32: random ones, sizes of all kinds, and the neighbours of breakpoints."""
    generator = torch.Generator().manual_seed(3)
    sizes = torch.logspace(-40, 38, 60)
    near = torch.tensor(places, dtype=torch.float32).repeat(5)
    for step in range(5):
        part = near[step * len(places) : (step + 1) * len(places)]
        for _ in range(abs(step - 2)):
            part.copy_(torch.nextafter(part, torch.tensor(math.inf if step > 2 else -math.inf)))
    return torch.cat([torch.randn(60, generator=generator) * 3, sizes, -sizes, near])
