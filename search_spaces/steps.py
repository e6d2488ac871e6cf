"""The true derivative of ReLU, and shapes that are constant or nearly so on each side of zero.

At x = 0 each has the value of its negative side, as ReLU's own derivative 1[x > 0] does.
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

alpha = sympy.Symbol("alpha", nonnegative=True)

relu = Family(
    "relu",
    sympy.Piecewise((1, x > 0), (0, True)),
    reference="the true derivative of ReLU: the baseline",
)

leaky = Family(
    "leaky",
    sympy.diff(sympy.Piecewise((x, x > 0), (alpha * x, True)), x),
    space={"alpha": FloatDistribution(0.001, 0.5, log=True)},
    defaults={"alpha": 0.01},
    reference="derivative of leaky ReLU, Maas et al. 2013 (ICML workshop); in the backward pass "
    "only: ProxyGrad, arXiv:2410.16958",
)

helu = Family(
    "helu",
    sympy.Piecewise((1, x > -alpha), (0, True)),
    space={"alpha": FloatDistribution(0.01, 3.0)},
    defaults={"alpha": 0.5},  # ours
    reference="HeLU, the step moved to -alpha, arXiv:2411.10573",
)

nelu = Family(
    "nelu",
    sympy.diff(sympy.Piecewise((x, x > 0), (-alpha / (1 + x**2), True)), x),
    space={"alpha": FloatDistribution(0.01, 0.5, log=True)},
    defaults={"alpha": 0.05},
    reference="NeLU of SUGAR, arXiv:2505.22074; negative for every x < 0",
)

log_tailed = Family(
    "log_tailed",
    sympy.diff(sympy.Piecewise((alpha * x, x <= 0), (x, x <= 1), (1 + sympy.log(x), True)), x),
    space={"alpha": FloatDistribution(0.0, 0.3)},
    defaults={"alpha": 0.0},
    reference="derivative of a ReLU whose output grows as log x above 1, arXiv:1702.00953",
)
