"""Statistics of `confirm` and the learned criteria, as pure functions.

scipy is used wherever it can be; Holm's adjustment and the sample size of a paired t-test are
written here. Random draws have a fixed seed, so the same numbers give the same interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

CONFIDENCE = 0.95
POWER = 0.8

# Resamples of a bootstrap or permutation test: scipy's default.
RESAMPLES = 9_999

# A smaller spread counts as zero. Accuracies are counts over at most about 10^6 images, so unequal
# ones differ by at least 1e-6; equal ones differ by rounding errors of about 1e-16.
NO_SPREAD = 1e-12

MOST_PAIRS = 100_000


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of n pairs, with the paired t-test.

    The last four are None below two pairs or without spread.
    """

    n: int
    difference: float  # mean of `treated − baseline`; nan without pairs
    std: float | None = None  # of the differences (divisor n − 1); None below two pairs
    interval: tuple[float, float] | None = None  # 95 % confidence interval of the mean
    bootstrap: tuple[float, float] | None = None  # the same by `bootstrap_mean`
    p_value: float | None = None  # two-sided
    effect: float | None = None  # Cohen's d_z, `difference / std`


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of n pairs; ties share their mean rank."""

    n: int
    rho: float
    interval: tuple[float, float] | None  # 95 %, by bootstrap over pairs; None where ρ is ±1
    p_value: float  # two-sided, by permutation


def guessing(labels: "torch.Tensor") -> float:
    """Return the accuracy of always predicting the most frequent class; `labels`: (n,), int64."""
    return float(labels.bincount().max()) / len(labels)


def beyond_guessing(accuracy: float, chance: float) -> bool:
    """Return whether an accuracy exceeds chance by a twentieth of the distance to 1.

    Args:
        accuracy: A fraction of the images.
        chance: The accuracy of always predicting the most frequent class.
    """
    return accuracy > chance + (1 - chance) / 20


def mean_std(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (divisor n − 1; None for one value).

    Raises:
        ValueError: There are no values.
    """
    if len(values) == 0:
        raise ValueError("mean of no values")
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def paired_difference(treated: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Return the mean of `treated − baseline` over n pairs, its interval and the paired t-test.

    If all pairs differ by the same amount, a t-test would claim certainty, although two seeds
    easily agree by chance (accuracies are counts of images). The interval and p are None then.

    Raises:
        ValueError: The two differ in length.
    """
    from scipy import stats

    _check_lengths(treated, baseline)
    differences = np.asarray(treated, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return PairedDifference(0, math.nan)
    mean, std = mean_std(differences)
    if std is None:
        return PairedDifference(n, mean)
    if std <= NO_SPREAD:
        return PairedDifference(n, mean, std=0.0)
    test = stats.ttest_rel(treated, baseline)
    low, high = test.confidence_interval(CONFIDENCE)
    return PairedDifference(
        n=n,
        difference=mean,
        std=std,
        interval=(float(low), float(high)),
        bootstrap=bootstrap_mean(differences),
        p_value=float(test.pvalue),
        effect=mean / std,
    )


def _check_lengths(first: Sequence[float], second: Sequence[float]) -> None:
    if len(first) != len(second):
        raise ValueError(f"pairs need equal lengths, got {len(first)} and {len(second)}")


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64],
) -> tuple[float, float] | None:
    """Return a 95 % bootstrap interval of a mean: BCa (Efron 1987), or percentile where BCa fails.

    With few values it is too short: over 600 normal samples, it held the true mean in 71 % (n = 3),
    79 % (4), 83 % (5), 88 % (8) and 92 % (16). Quote the t interval; this one shows whether that
    depends on normality. None with fewer than three values or without spread.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 3 or float(np.ptp(array)) <= NO_SPREAD:
        return None
    return _bootstrap((array,), np.mean)


def _bootstrap(
    data: tuple[NDArray[Any], ...], statistic: Any, *, paired: bool = False
) -> tuple[float, float] | None:
    """Return a BCa interval, or a percentile interval where BCa is undefined."""
    import warnings

    from scipy import stats

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # Where BCa is undefined, scipy warns and returns nan, which is checked below.
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            result = stats.bootstrap(
                data,
                statistic,
                paired=paired,
                vectorized=True,
                n_resamples=RESAMPLES,
                confidence_level=CONFIDENCE,
                method=method,
                rng=np.random.default_rng(0),
            )
        low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    return None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's step-down adjusted p-values in the given order.

    `adjusted₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎)` over the m p-values in ascending order.
    None stays None and does not count. Controls the family-wise error rate under any dependence.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 6 (1979) 65-70.

    Raises:
        ValueError: A p-value is outside [0, 1].
    """
    present = [(p, index) for index, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(sorted(present)):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"a p-value must be in [0, 1], got {p}")
        running = max(running, min(1.0, (len(present) - rank) * p))
        adjusted[index] = running
    return adjusted


def paired_power(effect: float, n: int, *, alpha: float = 0.05) -> float:
    """Return the power of the two-sided paired t-test with n pairs at the effect `mean / std`.

    `P(T > t)`, where T is noncentral t with n − 1 degrees of freedom and noncentrality `effect·√n`,
    and t is the critical value at `alpha / 2`. The far tail is neglected: it is below 1e-5 at any
    useful power.
    """
    from scipy import stats

    if n < 2:
        return 0.0
    critical = float(stats.t.isf(alpha / 2, n - 1))
    return float(stats.nct.sf(critical, n - 1, abs(effect) * math.sqrt(n)))


def pairs_needed(effect: float, *, alpha: float = 0.05) -> int | None:
    """Return the fewest pairs at which the two-sided paired t-test has 80 % power.

    Args:
        effect: `mean / std` of the differences (Cohen's d_z); its sign does not matter.
        alpha: Level of the test.

    Returns:
        The number of pairs (at least 2), or None if it exceeds 100 000 or the effect is zero.
    """
    from scipy import stats

    if not math.isfinite(effect) or effect == 0.0:
        return None
    # The normal approximation is a lower bound, only a few pairs too low.
    normal = (stats.norm.isf(alpha / 2) + stats.norm.ppf(POWER)) / abs(effect)
    low = max(2, math.floor(normal**2))
    if low > MOST_PAIRS:
        return None
    while paired_power(effect, low, alpha=alpha) < POWER:
        low += 1
    return low


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation | None:
    """Return Spearman's ρ of n pairs with a bootstrap interval and a permutation p-value.

    The p-value comes from permuting one side: all orders for n ≤ 7, otherwise 9 999 random ones.
    (scipy's p-value uses a t approximation, which its documentation advises against below about
    500 pairs.) None with fewer than four pairs or if either side is constant.

    Raises:
        ValueError: The two differ in length.
    """
    from scipy import stats

    _check_lengths(first, second)
    n = len(first)
    if n < 4 or any(float(np.ptp(side)) <= NO_SPREAD for side in (first, second)):
        return None
    # Only the order matters, so values are replaced by their index among the distinct values.
    a, b = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (first, second))
    rho = float(_spearman(a, b))
    ranks = _ranks(b)
    test = stats.permutation_test(
        (_ranks(a),),
        lambda shuffled, axis: _pearson(shuffled, ranks, axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    # Resamples of a perfect order are perfectly ordered, so a bootstrap would claim certainty.
    perfect = abs(rho) >= 1 - NO_SPREAD
    interval = None if perfect else _bootstrap((a, b), _spearman, paired=True)
    return RankCorrelation(n, rho, interval, float(test.pvalue))


def _spearman(a: NDArray[np.int64], b: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
    """Return Spearman's ρ along the last axis; values are indices among the distinct values."""
    return _pearson(_ranks(a), _ranks(b), axis=axis)


def _ranks(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ranks along the last axis; equal values share their mean rank.

    Counting takes a fifth of the time of sorting, which is 1 s for 9 999 resamples of 600 values.
    """
    rows = codes.reshape(-1, codes.shape[-1])
    width = int(rows.max()) + 1
    places = rows + width * np.arange(len(rows))[:, None]
    counts = np.bincount(places.ravel(), minlength=width * len(rows)).reshape(-1, width)
    means = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return means.ravel()[places].reshape(codes.shape)


def _pearson(
    a: NDArray[np.float64], b: NDArray[np.float64], *, axis: int = -1
) -> NDArray[np.float64]:
    """Return Pearson's r along an axis; 0 where a side is constant."""
    a = a - a.mean(axis=axis, keepdims=True)
    b = b - b.mean(axis=axis, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    products = (a * b).sum(axis=axis)
    # Rounding errors can push |r| above 1.
    return np.clip(np.divide(products, scale, out=np.zeros_like(products), where=scale > 0), -1, 1)
