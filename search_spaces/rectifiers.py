"""Derivatives of ReLU's variants, and shapes proposed as pseudo-derivatives for ReLU itself."""

import sympy
from optuna.distributions import FloatDistribution
from sympy import Piecewise, Rational, erfc, exp, pi, sqrt, tanh

from pdsearch.expression import sigmoid, softplus, x
from pdsearch.family import Family

alpha, beta = sympy.symbols("alpha beta", real=True)

relu = Family(
    "relu",
    Piecewise((1, x > 0), (0, True)),
    reference="the derivative of ReLU as every framework has it: the baseline",
)

leaky = Family(
    "leaky",
    Piecewise((1, x > 0), (alpha, True)),
    space={"alpha": FloatDistribution(0.001, 0.5, log=True)},
    defaults={"alpha": 0.01},
    reference="derivative of leaky ReLU, Maas et al. 2013; in the backward pass only: "
    "ProxyGrad, arXiv:2410.16958",
)

helu = Family(
    "helu",
    Piecewise((1, x > -alpha), (0, True)),
    space={"alpha": FloatDistribution(0.01, 3.0)},
    defaults={"alpha": 0.5},
    reference="HeLU, a step shifted to -alpha, arXiv:2411.10573",
)

# Written with sigmoid(x)*sigmoid(-x) for sigmoid(x)*(1 - sigmoid(x)): the same, not cancelling.
b_silu = Family(
    "b_silu",
    sigmoid(x) + (x + alpha) * sigmoid(x) * sigmoid(-x),
    space={"alpha": FloatDistribution(0.5, 3.0)},
    defaults={"alpha": 1.67},
    reference="SUGAR with the bounded SiLU, Horuz et al. 2025, arXiv:2505.22074",
)

nelu = Family(
    "nelu",
    Piecewise((1, x > 0), (2 * alpha * x / (1 + x**2) ** 2, True)),
    space={"alpha": FloatDistribution(0.01, 0.5, log=True)},
    defaults={"alpha": 0.05},
    reference="SUGAR with NeLU, Horuz et al. 2025, arXiv:2505.22074",
)

elu = Family(
    "elu",
    Piecewise((1, x > 0), (alpha * exp(x), True)),
    space={"alpha": FloatDistribution(0.1, 2.0)},
    defaults={"alpha": 1.0},
    reference="derivative of ELU, Clevert et al. 2016, arXiv:1511.07289",
)

# The constants of the paper, to the digits that torch uses.
_SELU_ALPHA = Rational("1.6732632423543772848170429916717")
_SELU_SCALE = Rational("1.0507009873554804934193349852946")
selu = Family(
    "selu",
    Piecewise((_SELU_SCALE, x > 0), (_SELU_SCALE * _SELU_ALPHA * exp(x), True)),
    reference="derivative of SELU, Klambauer et al. 2017, arXiv:1706.02515",
)

celu = Family(
    "celu",
    Piecewise((1, x > 0), (sympy.diff(alpha * (exp(x / alpha) - 1), x), True)),
    space={"alpha": FloatDistribution(0.1, 4.0, log=True)},
    defaults={"alpha": 1.0},
    reference="derivative of CELU, Barron 2017, arXiv:1704.07483",
)

silu = Family(
    "silu",
    sympy.diff(x * sigmoid(beta * x), x),
    space={"beta": FloatDistribution(0.25, 8.0, log=True)},
    defaults={"beta": 1.0},
    reference="derivative of SiLU (swish), Elfwing et al. 2017, arXiv:1702.03118",
)

gelu = Family(
    "gelu",
    sympy.diff(x * erfc(-x / sqrt(2)) / 2, x),
    reference="derivative of GELU, Hendrycks and Gimpel 2016, arXiv:1606.08415",
)

# x/2 (1 + tanh u) = x sigmoid(2u): the form that does not cancel for negative x.
gelu_tanh = Family(
    "gelu_tanh",
    sympy.diff(x * sigmoid(2 * sqrt(2 / pi) * (x + Rational("0.044715") * x**3)), x),
    reference="derivative of GELU's tanh approximation, Hendrycks and Gimpel 2016, "
    "arXiv:1606.08415",
)

# 1 - tanh(z)**2 is written as 4 sigmoid(2z) sigmoid(-2z), its form without cancellation.
mish = Family(
    "mish",
    tanh(softplus(x))
    + 4 * x * sigmoid(x) * sigmoid(2 * softplus(x)) * sigmoid(-2 * softplus(x)),
    reference="derivative of Mish, Misra 2019, arXiv:1908.08681",
)

hardswish = Family(
    "hardswish",
    Piecewise((0, x <= -3), (sympy.diff(x * (x + 3) / 6, x), x < 3), (1, True)),
    reference="derivative of hard swish, Howard et al. 2019, arXiv:1905.02244",
)

log_tailed = Family(
    "log_tailed",
    Piecewise((1 / x, x > 1), (1, x > 0), (alpha, True)),
    space={"alpha": FloatDistribution(0.0, 0.5)},
    defaults={"alpha": 0.0},
    reference="derivative of a ReLU with a logarithmic tail, arXiv:1702.00953",
)
