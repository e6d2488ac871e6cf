"""1 above zero and a tail below it: the step, plus a gradient where ReLU has none. Ours."""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

alpha, beta, power, width = sympy.symbols("alpha beta power width", positive=True)
HEIGHT = FloatDistribution(0.01, 1.0)
RATE = FloatDistribution(0.1, 10.0, log=True)


def step_and(tail: sympy.Expr) -> sympy.Expr:
    """Return 1 for x > 0, `tail` elsewhere."""
    return sympy.Piecewise((1, x > 0), (tail, True))


exp_tail = Family(
    "exp_tail",
    step_and(alpha * sympy.exp(beta * x)),
    space={"alpha": HEIGHT, "beta": RATE},
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours; at alpha = beta = 1 the derivative of ELU, Clevert et al. 2016, "
    "arXiv:1511.07289",
)

rational_tail = Family(
    "rational_tail",
    step_and(alpha / (1 + (beta * x) ** 2)),
    space={"alpha": HEIGHT, "beta": RATE},
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours; the bell of Agnesi as a tail",
)

power_tail = Family(
    "power_tail",
    step_and(alpha / (1 - beta * x) ** power),
    space={"alpha": HEIGHT, "beta": RATE, "power": FloatDistribution(0.5, 4.0)},
    defaults={"alpha": 0.3, "beta": 1.0, "power": 1.0},
    reference="ours; at power = 1 a hyperbola",
)

gaussian_tail = Family(
    "gaussian_tail",
    step_and(alpha * sympy.exp(-((beta * x) ** 2))),
    space={"alpha": HEIGHT, "beta": FloatDistribution(0.05, 3.0, log=True)},
    defaults={"alpha": 0.3, "beta": 0.5},
    reference="ours; half a Gaussian bump as a tail",
)

ramp = Family(
    "ramp",
    sympy.Piecewise((1, x > 0), (alpha * (1 + x / width), x > -width), (0, True)),
    space={"alpha": HEIGHT, "width": FloatDistribution(0.5, 10.0, log=True)},
    defaults={"alpha": 0.3, "width": 4.0},
    reference="ours; linear from alpha at 0 to 0 at -width",
)

window = Family(
    "window",
    sympy.Piecewise((1, x > 0), (alpha, x >= -width), (0, True)),
    space={"alpha": HEIGHT, "width": FloatDistribution(0.5, 10.0, log=True)},
    defaults={"alpha": 0.3, "width": 4.0},
    reference="ours; leaky ReLU's derivative cut off below -width",
)
