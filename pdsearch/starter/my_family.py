"""A family of pseudo-derivatives: one symbolic expression with a range for each parameter.

pdsearch check my_family.py                 does it meet the design criteria?
pdsearch check my_family.py --family        over all of its parameter ranges?
pdsearch search study.toml                  which parameters train best?
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

alpha, beta = sympy.symbols("alpha beta")

# Above zero ReLU's own derivative, 1. Below zero a slope that starts at alpha and fades out:
# units that are inactive still learn, the less the further they are from zero.
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
