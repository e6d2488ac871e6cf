"""Monotone tails through knots: the parameters are the tail's values themselves. Ours.

The tail reaches `r0` at zero from below. At -1, -2, ... each value is the last one times a ratio
in [0, 1]; one unit after the last knot the tail is 0. The values only shrink to the left, so the
tail is non-decreasing for all parameters.
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

KNOTS = 4


def ratios(count: int) -> list[sympy.Symbol]:
    """Return the parameters r0, r1, ..."""
    return [sympy.Symbol(f"r{i}", nonnegative=True) for i in range(count)]


def values(count: int) -> list[sympy.Expr]:
    """Return the tail at 0, -1, ..., -count: r0, r0·r1, ..., and 0 at the end."""
    parameters = ratios(count)
    return [sympy.Mul(*parameters[: i + 1]) for i in range(count)] + [sympy.S.Zero]


def linear(count: int) -> sympy.Expr:
    """Return straight lines between the values."""
    v = values(count)
    arms = [(v[i] * (x + i + 1) + v[i + 1] * (-x - i), x >= -i - 1) for i in range(count)]
    return sympy.Piecewise((1, x > 0), *arms, (0, True))


def cubic(count: int) -> sympy.Expr:
    """Return one cubic per segment, with a continuous slope below zero.

    The slope at a knot is the smaller of the two neighbouring secants' (at 0 the last secant's, at
    the end 0). The four Bernstein coefficients of a segment then never decrease, and neither does
    the cubic (Fritsch and Carlson 1980, SIAM J. Numer. Anal. 17(2)).
    """
    v = values(count)
    rise = [v[i] - v[i + 1] for i in range(count)]
    slope = [rise[0], *(sympy.Min(rise[i - 1], rise[i]) for i in range(1, count)), sympy.S.Zero]
    arms = []
    for i in range(count):
        s = x + i + 1  # from 0 at the segment's left end to 1 at its right end
        segment = (
            v[i + 1] * (1 - s) ** 3
            + 3 * (v[i + 1] + slope[i + 1] / 3) * s * (1 - s) ** 2
            + 3 * (v[i] - slope[i] / 3) * s**2 * (1 - s)
            + v[i] * s**3
        )
        arms.append((segment, x >= -i - 1))
    return sympy.Piecewise((1, x > 0), *arms, (0, True))


SPACE = {f"r{i}": FloatDistribution(0.0, 1.0) for i in range(KNOTS)}
DEFAULTS = {"r0": 0.3, "r1": 0.6, "r2": 0.6, "r3": 0.6}

knots_linear = Family(
    "knots_linear",
    linear(KNOTS),
    space=SPACE,
    defaults=DEFAULTS,
    reference="ours; monotone piecewise-linear tail through four knots",
)

knots_cubic = Family(
    "knots_cubic",
    cubic(KNOTS),
    space=SPACE,
    defaults=DEFAULTS,
    reference="ours; monotone piecewise-cubic tail through four knots, Fritsch and Carlson 1980",
)
