"""Shapes that turn into ReLU's own derivative during training: at t = 1 the exact step. Ours.

Each is the convex mixture (1 - t)·shape + t·step: the shape fades out linearly in training
progress t.
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, t, x
from pdsearch.expression import sigmoid

alpha, beta = sympy.symbols("alpha beta", positive=True)
HEIGHT = FloatDistribution(0.01, 1.0)
RATE = FloatDistribution(0.1, 10.0, log=True)


annealed_exp_tail = Family(
    "annealed_exp_tail",
    sympy.Piecewise((1, x > 0), ((1 - t) * alpha * sympy.exp(beta * x), True)),
    space={"alpha": HEIGHT, "beta": RATE},
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours; exp_tail that fades out as t goes to 1",
)

annealed_rational_tail = Family(
    "annealed_rational_tail",
    sympy.Piecewise((1, x > 0), ((1 - t) * alpha / (1 + (beta * x) ** 2), True)),
    space={"alpha": HEIGHT, "beta": RATE},
    defaults={"alpha": 0.3, "beta": 1.0},
    reference="ours; rational_tail that fades out as t goes to 1",
)

# 1 - (1 - t)·σ(-αx) above zero, which keeps its digits near 1
annealed_sigmoid = Family(
    "annealed_sigmoid",
    sympy.Piecewise(
        (1 - (1 - t) * sigmoid(-alpha * x), x > 0), ((1 - t) * sigmoid(alpha * x), True)
    ),
    space={"alpha": FloatDistribution(0.5, 20.0, log=True)},
    defaults={"alpha": 4.0},
    reference="ours; derivative of softplus that turns into the step as t goes to 1",
)

B_SILU = sympy.diff((x + alpha) * sigmoid(x), x)

annealed_b_silu = Family(
    "annealed_b_silu",
    sympy.Piecewise(((1 - t) * B_SILU + t, x > 0), ((1 - t) * B_SILU, True)),
    space={"alpha": FloatDistribution(0.5, 3.0)},
    defaults={"alpha": 1.67},
    reference="ours; B-SiLU of SUGAR, arXiv:2505.22074, that turns into the step as t goes to 1",
)
