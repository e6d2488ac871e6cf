r"""The accuracy of a longer training than a search can afford, from two or three shorter ones.

The paired difference :math:`d` of two shapes' accuracies changes with the length of training, and
near enough as :math:`d(E) = a + b/E` for runs of E epochs, each with its whole schedule. Least
squares over lengths :math:`l_1, \dots, l_k` predict :math:`d(E)` as a weighted sum
:math:`\sum_i w_i\,d(l_i)`, whose weights depend on the lengths alone and add up to 1. So the same
sum of a shape's own accuracies, less that of ReLU's, is the difference that is predicted: each
candidate has a value of its own, and no trial needs another's.
"""

import math
from collections.abc import Sequence


def lengths(epochs: int) -> tuple[int, ...]:
    """What a trial of so many epochs trains for, one after the other: a quarter, a half, all.

    Of fewer than 4 epochs the shorter runs that remain; each once.
    """
    return tuple(sorted({max(1, round(epochs / part)) for part in (4, 2, 1)}))


def weights(of: Sequence[int], *, horizon: int) -> tuple[float, ...]:
    r"""The weight of each length's accuracy in the prediction at the horizon.

    .. math:: w_i = \tfrac1k + \frac{(1/E - m)(1/l_i - m)}{\sum_j (1/l_j - m)^2}, \qquad
              m = \tfrac1k \sum_j 1/l_j

    Args:
        of: two or more lengths, all different, in epochs.
        horizon: E, in epochs.
    """
    inverse = [1 / length for length in of]
    middle = sum(inverse) / len(inverse)
    spread = sum((one - middle) ** 2 for one in inverse)
    return tuple(
        1 / len(inverse) + (1 / horizon - middle) * (one - middle) / spread for one in inverse
    )


def noise(of: Sequence[int], *, horizon: int) -> float:
    r"""How many times as large a prediction's standard error is as one accuracy's.

    For independent errors of one size: :math:`\sqrt{\sum_i w_i^2}`.
    """
    return math.hypot(*weights(of, horizon=horizon))
