"""Derivatives of smooth activations, each taken by sympy from the activation itself.

`sigmoid` and `erfc` replace the tanh and erf of the papers: the same functions, without a
difference of near-equal numbers that would leave no correct digit of a tail.
"""

import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x
from pdsearch.expression import exact, sigmoid, softplus

alpha = sympy.Symbol("alpha", positive=True)

elu = Family(
    "elu",
    sympy.diff(sympy.Piecewise((x, x > 0), (alpha * (sympy.exp(x) - 1), True)), x),
    space={"alpha": FloatDistribution(0.05, 2.0)},
    defaults={"alpha": 1.0},
    reference="derivative of ELU, Clevert et al. 2016, arXiv:1511.07289",
)

# The two constants in float64, as in Klambauer et al. and in torch.
SELU_SCALE, SELU_ALPHA = exact(1.0507009873554805), exact(1.6732632423543772)

selu = Family(
    "selu",
    sympy.diff(
        sympy.Piecewise(
            (SELU_SCALE * x, x > 0), (SELU_SCALE * SELU_ALPHA * (sympy.exp(x) - 1), True)
        ),
        x,
    ),
    reference="derivative of SELU, Klambauer et al. 2017, arXiv:1706.02515",
)

celu = Family(
    "celu",
    sympy.diff(sympy.Piecewise((x, x > 0), (alpha * (sympy.exp(x / alpha) - 1), True)), x),
    space={"alpha": FloatDistribution(0.1, 4.0, log=True)},
    defaults={"alpha": 1.0},
    reference="derivative of CELU, Barron 2017, arXiv:1704.07483",
)

silu = Family(
    "silu",
    sympy.diff(x * sigmoid(x), x),
    reference="derivative of SiLU, Elfwing et al. 2017, arXiv:1702.03118",
)

b_silu = Family(
    "b_silu",
    sympy.diff((x + alpha) * sigmoid(x) - alpha / 2, x),
    space={"alpha": FloatDistribution(0.5, 3.0)},
    defaults={"alpha": 1.67},
    reference="B-SiLU of SUGAR, arXiv:2505.22074; here negative below -2.73, above 1 for x > 0.17",
)

gelu = Family(
    "gelu",
    sympy.diff(x * sympy.erfc(-x / sympy.sqrt(2)) / 2, x),
    reference="derivative of GELU, Hendrycks and Gimpel 2016, arXiv:1606.08415",
)

# x/2·(1 + tanh u) = x·σ(2u)
TANH_ARGUMENT = sympy.sqrt(2 / sympy.pi) * (x + exact(0.044715) * x**3)

gelu_tanh = Family(
    "gelu_tanh",
    sympy.diff(x * sigmoid(2 * TANH_ARGUMENT), x),
    reference="derivative of GELU's tanh approximation, Hendrycks and Gimpel 2016, "
    "arXiv:1606.08415",
)

mish = Family(
    "mish",
    sympy.diff(x * sympy.tanh(softplus(x)), x),
    reference="derivative of Mish, Misra 2019, arXiv:1908.08681",
)

hardswish = Family(
    "hardswish",
    sympy.factor(sympy.diff(sympy.Piecewise((0, x < -3), (x * (x + 3) / 6, x <= 3), (x, True)), x)),
    reference="derivative of hard-swish, Howard et al. 2019 (MobileNetV3), arXiv:1905.02244",
)
