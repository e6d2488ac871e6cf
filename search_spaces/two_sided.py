"""Shapes that differ from 1 above zero too: 1 minus a tail there, another tail below. Ours.

With alpha = gamma = 1/2 the first is continuous at zero; with gamma = 0 all are one-sided tails.
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

alpha, beta, gamma, delta = sympy.symbols("alpha beta gamma delta", nonnegative=True)
SPACE = {
    "alpha": FloatDistribution(0.01, 1.0),
    "beta": FloatDistribution(0.1, 10.0, log=True),
    "gamma": FloatDistribution(0.0, 0.5),
    "delta": FloatDistribution(0.1, 10.0, log=True),
}
DEFAULTS = {"alpha": 0.3, "beta": 1.0, "gamma": 0.2, "delta": 2.0}

two_sided_exp = Family(
    "two_sided_exp",
    sympy.Piecewise(
        (1 - gamma * sympy.exp(-delta * x), x > 0), (alpha * sympy.exp(beta * x), True)
    ),
    space=SPACE,
    defaults=DEFAULTS,
    reference="ours; an exponential on each side",
)

two_sided_rational = Family(
    "two_sided_rational",
    sympy.Piecewise(
        (1 - gamma / (1 + (delta * x) ** 2), x > 0), (alpha / (1 + (beta * x) ** 2), True)
    ),
    space=SPACE,
    defaults=DEFAULTS,
    reference="ours; a bell of Agnesi on each side",
)

two_sided_power = Family(
    "two_sided_power",
    sympy.Piecewise((1 - gamma / (1 + delta * x), x > 0), (alpha / (1 - beta * x), True)),
    space=SPACE,
    defaults=DEFAULTS,
    reference="ours; a hyperbola on each side",
)
