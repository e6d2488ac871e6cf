"""Integrals of the bumps that spiking networks use as surrogates of a spike's derivative.

A spike's surrogate approximates the derivative *of the step*. ReLU's derivative is the step itself,
so the bump's integral replaces it. Where the textbook form is a half plus a difference, each side
is written separately: the function is the same, and its tails keep their digits.
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x
from pdsearch.expression import clamp, softplus

alpha = sympy.Symbol("alpha", positive=True)


def odd_about_half(below: sympy.Expr) -> sympy.Expr:
    """Return g with g(x) + g(-x) = 1 from its negative side."""
    return sympy.Piecewise((1 - below.xreplace({x: -x}), x > 0), (below, True))


sigmoid_step = Family(
    "sigmoid",
    sympy.diff(softplus(alpha * x) / alpha, x),
    space={"alpha": FloatDistribution(0.5, 20.0, log=True)},
    defaults={"alpha": 4.0},
    reference="derivative of softplus (sharpness alpha), and the tanh step of alpha/2; spiking "
    "surrogate of SpikingJelly, Fang et al. 2023, arXiv:2310.16620",
    aliases=("softplus", "tanh"),
)

atan = Family(
    "atan",
    sympy.Rational(1, 2) + sympy.atan(sympy.pi * alpha * x / 2) / sympy.pi,
    space={"alpha": FloatDistribution(0.5, 20.0, log=True)},
    defaults={"alpha": 2.0},
    reference="arctangent surrogate, Fang et al. 2021, arXiv:2007.05785; SpikingJelly",
)

# (1 + αx/(1 + α|x|))/2
softsign = Family(
    "softsign",
    odd_about_half(1 / (2 * (1 - alpha * x))),
    space={"alpha": FloatDistribution(0.5, 20.0, log=True)},
    defaults={"alpha": 2.0},
    reference="fast sigmoid of SuperSpike, Zenke and Ganguli 2018, arXiv:1705.11146; SpikingJelly",
)

erf = Family(
    "erf",
    sympy.erfc(-alpha * x) / 2,
    space={"alpha": FloatDistribution(0.25, 10.0, log=True)},
    defaults={"alpha": 2.0},
    reference="error-function surrogate of SpikingJelly, Fang et al. 2023, arXiv:2310.16620",
)

piecewise_exp = Family(
    "piecewise_exp",
    odd_about_half(sympy.exp(alpha * x) / 2),
    space={"alpha": FloatDistribution(0.25, 10.0, log=True)},
    defaults={"alpha": 1.0},
    reference="two-sided exponential of SLAYER, Shrestha and Orchard 2018, arXiv:1810.08646; "
    "SpikingJelly",
)

# 1/2 + αx - α²x|x|/2, clipped to [0, 1]
piecewise_quadratic = Family(
    "piecewise_quadratic",
    sympy.Piecewise(
        (1, alpha * x >= 1),
        (1 - (1 - alpha * x) ** 2 / 2, x > 0),
        ((1 + alpha * x) ** 2 / 2, alpha * x > -1),
        (0, True),
    ),
    space={"alpha": FloatDistribution(0.1, 5.0, log=True)},
    defaults={"alpha": 1.0},
    reference="primitive of the triangle of Bellec et al. 2018, arXiv:1803.09574; SpikingJelly",
)

rect = Family(
    "rect",
    clamp(alpha * x + sympy.Rational(1, 2), 0, 1),
    space={"alpha": FloatDistribution(0.05, 5.0, log=True)},
    defaults={"alpha": 1.0},
    reference="primitive of the rectangle of STBP, Wu et al. 2018, arXiv:1706.02609; SpikingJelly",
)

# Singular at alpha = 1. Libraries disagree on alpha - 1 or alpha + 1; this is SpikingJelly's.
q_pseudo_spike = Family(
    "q_pseudo_spike",
    odd_about_half((1 - 2 * x / (alpha - 1)) ** (1 - alpha) / 2),
    space={"alpha": FloatDistribution(1.1, 6.0)},
    defaults={"alpha": 2.0},
    reference="q-PseudoSpike, Herranz-Celotti and Rouat 2022, arXiv:2202.00282; SpikingJelly",
)

# 1/2 + x/(2√(x² + α²))
ROOT = sympy.sqrt(x**2 + alpha**2)

circle = Family(
    "circle",
    odd_about_half(alpha**2 / (2 * ROOT * (ROOT - x))),
    space={"alpha": FloatDistribution(0.05, 4.0, log=True)},
    defaults={"alpha": 1.0},  # ours
    reference="circle surrogate of Norse (Pehle and Pedersen 2021); derivative of squareplus, "
    "Barron 2021, arXiv:2112.11687",
    aliases=("squareplus",),
)
