r"""Predicting the accuracy of a training too long for a search from two or three shorter ones.

The paired difference :math:`d` of two shapes' accuracies depends on the length of training, about
as :math:`d(E) = a + b/E` for runs of E epochs, each with its whole schedule. Least squares over
lengths :math:`l_1, \dots, l_k` predict :math:`d(E)` as a weighted sum
:math:`\sum_i w_i\,d(l_i)`, whose weights depend only on the lengths and add up to 1. The same sum
of a shape's own accuracies, minus that of ReLU's, is the predicted difference. So each candidate
has its own value, and no trial needs another's.
"""

import math
from collections.abc import Sequence


def lengths(epochs: int) -> tuple[int, ...]:
    """Return the lengths of a trial's runs: a quarter, a half and all of its epochs, each once."""
    return tuple(sorted({max(1, round(epochs / part)) for part in (4, 2, 1)}))


def weights(of: Sequence[int], *, horizon: int) -> tuple[float, ...]:
    r"""Return the weight of each length's accuracy in the prediction at the horizon.

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
    r"""Return the ratio of a prediction's standard error to that of one accuracy.

    For independent errors of equal size it is :math:`\sqrt{\sum_i w_i^2}`.
    """
    return math.hypot(*weights(of, horizon=horizon))
