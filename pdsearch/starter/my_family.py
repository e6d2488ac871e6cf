"""A family of pseudo-derivatives: one symbolic expression with a range for each parameter.

pdsearch check my_family.py                 Does it meet the design criteria?
pdsearch check my_family.py --family        Does it meet them over all parameter ranges?
pdsearch search study.toml                  Which parameters train best?
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

alpha, beta = sympy.symbols("alpha beta")

# Above zero: ReLU's own derivative, 1. Below zero: a slope that starts at alpha and fades out, so
# that inactive units keep learning, but less the further they are from zero.
my_family = Family(
    "my_family",
    sympy.Piecewise((1, x > 0), (alpha / (1 + (beta * x) ** 2), True)),
    space={
        "alpha": FloatDistribution(0.01, 0.9),
        "beta": FloatDistribution(0.1, 10.0, log=True),
    },
    defaults={"alpha": 0.2, "beta": 1.0},
    reference="my own",
)
