"""Shapes of our own: exactly 1 above zero, and a tail below it that leaves no unit dead.

What the paper's abstract asks for, in the plainest forms: "to alleviate the zero derivative
problem and be consistent with original derivative in general".
"""

import sympy
from optuna.distributions import FloatDistribution
from sympy import Piecewise, exp

from pdsearch.expression import t, x
from pdsearch.family import Family

alpha, beta, power, width = sympy.symbols("alpha beta power width", real=True)

exp_tail = Family(
    "exp_tail",
    Piecewise((1, x > 0), (alpha * exp(beta * x), True)),
    space={
        "alpha": FloatDistribution(0.01, 1.0),
        "beta": FloatDistribution(0.1, 10.0, log=True),
    },
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours; at beta = 1 the derivative of ELU, Clevert et al. 2016, arXiv:1511.07289",
)

rational_tail = Family(
    "rational_tail",
    Piecewise((1, x > 0), (alpha / (1 + (beta * x) ** 2), True)),
    space={
        "alpha": FloatDistribution(0.01, 1.0),
        "beta": FloatDistribution(0.1, 10.0, log=True),
    },
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours: falls as 1/x², so no unit is too far below zero to come back",
)

power_tail = Family(
    "power_tail",
    Piecewise((1, x > 0), (alpha / (1 - beta * x) ** power, True)),
    space={
        "alpha": FloatDistribution(0.01, 1.0),
        "beta": FloatDistribution(0.1, 10.0, log=True),
        "power": FloatDistribution(0.5, 4.0),
    },
    defaults={"alpha": 0.3, "beta": 1.0, "power": 1.0},
    reference="ours: a tail of any power",
)

gaussian_tail = Family(
    "gaussian_tail",
    Piecewise((1, x > 0), (alpha * exp(-((beta * x) ** 2)), True)),
    space={
        "alpha": FloatDistribution(0.01, 1.0),
        "beta": FloatDistribution(0.1, 3.0, log=True),
    },
    defaults={"alpha": 0.3, "beta": 0.5},
    reference="ours: flat at zero, then falls fast",
)

ramp = Family(
    "ramp",
    Piecewise((1, x > 0), (alpha * (1 + x / width), x > -width), (0, True)),
    space={"alpha": FloatDistribution(0.01, 1.0), "width": FloatDistribution(0.5, 10.0)},
    defaults={"alpha": 0.3, "width": 4.0},
    reference="ours: linear down to 0 at -width",
)

window = Family(
    "window",
    Piecewise((1, x > 0), (alpha, x >= -width), (0, True)),
    space={"alpha": FloatDistribution(0.01, 1.0), "width": FloatDistribution(0.5, 10.0)},
    defaults={"alpha": 0.1, "width": 4.0},
    reference="ours: leaky over a window, dead below it",
)

annealed_exp_tail = Family(
    "annealed_exp_tail",
    Piecewise((1, x > 0), ((1 - t) * alpha * exp(beta * x), True)),
    space=exp_tail.space,
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours: exp_tail that fades to the step as training ends",
)

annealed_rational_tail = Family(
    "annealed_rational_tail",
    Piecewise((1, x > 0), ((1 - t) * alpha / (1 + (beta * x) ** 2), True)),
    space=rational_tail.space,
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours: rational_tail that fades to the step as training ends",
)
