"""Smooth steps: primitives of the surrogates that spiking networks use for a spike's derivative.

Where a formula of the source is a half plus something that tends to minus a half, each side is
written by itself, so that the left tail keeps its digits.
"""

import sympy
from optuna.distributions import FloatDistribution
from sympy import Abs, Piecewise, Rational, atan, erfc, exp, pi, sqrt

from pdsearch.expression import clamp, sigmoid, x
from pdsearch.family import Family

alpha = sympy.Symbol("alpha", real=True)
half = Rational(1, 2)
_SPIKING = "SpikingJelly's surrogate of the same name, Fang et al. 2023, doi 10.1126/sciadv.adi1480"

sigmoid_step = Family(
    "sigmoid",
    sigmoid(alpha * x),
    space={"alpha": FloatDistribution(0.5, 16.0, log=True)},
    defaults={"alpha": 4.0},
    aliases=("softplus", "tanh"),
    reference=f"{_SPIKING}; also the derivative of softplus, and the step of tanh at twice the "
    "slope",
)

atan_step = Family(
    "atan",
    half + atan(pi * alpha * x / 2) / pi,
    space={"alpha": FloatDistribution(0.5, 16.0, log=True)},
    defaults={"alpha": 2.0},
    reference=_SPIKING,
)

softsign = Family(
    "softsign",
    Piecewise((1 - half / (1 + alpha * x), x > 0), (half / (1 - alpha * x), True)),
    space={"alpha": FloatDistribution(0.5, 16.0, log=True)},
    defaults={"alpha": 2.0},
    reference=_SPIKING,
)

erf_step = Family(
    "erf",
    erfc(-alpha * x) / 2,
    space={"alpha": FloatDistribution(0.5, 8.0, log=True)},
    defaults={"alpha": 2.0},
    reference=_SPIKING,
)

piecewise_exp = Family(
    "piecewise_exp",
    Piecewise((1 - exp(-alpha * x) / 2, x > 0), (exp(alpha * x) / 2, True)),
    space={"alpha": FloatDistribution(0.25, 8.0, log=True)},
    defaults={"alpha": 1.0},
    reference=_SPIKING,
)

piecewise_quadratic = Family(
    "piecewise_quadratic",
    Piecewise(
        (1, alpha * x > 1),
        (1 - (1 - alpha * x) ** 2 / 2, x > 0),
        ((1 + alpha * x) ** 2 / 2, alpha * x > -1),
        (0, True),
    ),
    space={"alpha": FloatDistribution(0.1, 4.0, log=True)},
    defaults={"alpha": 1.0},
    reference=_SPIKING,
)

rect = Family(
    "rect",
    clamp(alpha * x + half, 0, 1),
    space={"alpha": FloatDistribution(0.1, 4.0, log=True)},
    defaults={"alpha": 1.0},
    reference=_SPIKING,
)

q_pseudo_spike = Family(
    "q_pseudo_spike",
    Piecewise(
        (1 - (1 + 2 * x / (alpha - 1)) ** (1 - alpha) / 2, x > 0),
        ((1 - 2 * x / (alpha - 1)) ** (1 - alpha) / 2, True),
    ),
    # Singular at alpha = 1.
    space={"alpha": FloatDistribution(1.2, 6.0)},
    defaults={"alpha": 2.0},
    reference="primitive of the q-pseudo-spike surrogate, Herranz-Celotti and Rouat 2022, "
    "arXiv:2202.00282",
)

_root = sqrt(x**2 + alpha**2)
circle = Family(
    "circle",
    Piecewise(
        (half + x / (2 * _root), x > 0),
        (alpha**2 / (2 * _root * (_root + Abs(x))), True),
    ),
    space={"alpha": FloatDistribution(0.05, 4.0, log=True)},
    defaults={"alpha": 1.0},
    aliases=("squareplus",),
    reference="primitive of Norse's circle surrogate; also the derivative of squareplus, "
    "arXiv:2112.11687",
)
