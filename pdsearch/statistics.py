"""The statistics behind `confirm` and the learned criteria: pure functions of numbers.

Whatever scipy has is scipy's; what it lacks (Holm's adjustment, the sample size of a paired t-test)
is written here from its closed form. Nothing here draws from a global random state: the same
numbers give the same interval every time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# Draws of a bootstrap or a permutation test: scipy's own default.
RESAMPLES = 9_999

# Spread below this counts as none. Accuracies are counts over at most some 10^6 images, so
# differences that are not equal differ by 1e-6 or more; equal ones differ by rounding, about 1e-16.
NO_SPREAD = 1e-12

# Sample sizes above this are answered with None: nobody trains that often.
MOST_PAIRS = 100_000


@dataclass(frozen=True)
class PairedDifference:
    """What n paired values say about the mean of their differences.

    Attributes:
        n: Number of pairs.
        difference: Mean of `treated − baseline`; nan with no pair.
        std: Sample standard deviation of the differences (divisor n − 1); None with fewer than two.
        interval: Confidence interval of the mean by the paired t; None with fewer than two pairs or
            no spread.
        bootstrap: The same by bootstrap (BCa, percentile where BCa is not defined); None likewise,
            or with two pairs.
        p_value: Two-sided, of the paired t-test; None where there is no interval.
        effect: `difference / std`, Cohen's d_z; None where there is no interval.
    """

    n: int
    difference: float
    std: float | None
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    p_value: float | None
    effect: float | None


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of n pairs.

    Attributes:
        n: Number of pairs.
        rho: Spearman's rank correlation, ties at their mean rank.
        interval: Bootstrap confidence interval (pairs resampled); None where ρ is exactly ±1.
        p_value: Two-sided, by permutation: exact where all orders can be tried (n ≤ 7).
    """

    n: int
    rho: float
    interval: tuple[float, float] | None
    p_value: float


def guessing(labels: "torch.Tensor") -> float:
    """The accuracy of always naming the most frequent class; `labels` are (n,), int64."""
    return float(labels.bincount().max()) / len(labels)


def beyond_guessing(accuracy: float, chance: float) -> bool:
    """Whether a classifier does more than guess: by a twentieth of what there is to gain.

    Args:
        accuracy: a fraction of the images.
        chance: what is reached by always naming the most frequent class.
    """
    return accuracy > chance + (1 - chance) / 20


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (divisor n − 1; None for a single value).

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("mean of no values")
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def paired_difference(
    treated: Sequence[float], baseline: Sequence[float], *, confidence: float = 0.95
) -> PairedDifference:
    """Mean of `treated − baseline` over pairs, with its interval and the paired t-test.

    Where every pair differs by the same amount there is no spread to judge the mean by, and a
    t-test would claim certainty (accuracies are counts of images: two seeds agree by chance
    easily); no interval and no p are given then.

    Args:
        treated: n values.
        baseline: n values, each the partner of the one at its place.
        confidence: Coverage of the intervals.

    Raises:
        ValueError: If the two differ in length.
    """
    from scipy import stats

    if len(treated) != len(baseline):
        raise ValueError(f"pairs need equal lengths, got {len(treated)} and {len(baseline)}")
    differences = np.asarray(treated, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return PairedDifference(0, math.nan, None, None, None, None, None)
    mean = float(differences.mean())
    if n == 1:
        return PairedDifference(1, mean, None, None, None, None, None)
    std = float(differences.std(ddof=1))
    if std <= NO_SPREAD:
        return PairedDifference(n, mean, 0.0, None, None, None, None)
    test = stats.ttest_rel(treated, baseline)
    low, high = test.confidence_interval(confidence)
    return PairedDifference(
        n,
        mean,
        std,
        (float(low), float(high)),
        bootstrap_mean(differences, confidence=confidence),
        float(test.pvalue),
        mean / std,
    )


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.float64], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap confidence interval of a mean: BCa (Efron 1987), percentile where it fails.

    Of few values a bootstrap interval is too short: it knows no spread beyond theirs. Of 600 normal
    samples each, the 95 % interval held the true mean in 71 % (n = 3), 79 % (4), 83 % (5), 88 % (8)
    and 92 % (16); the t interval is the one to quote, this one shows whether it hangs on normality.
    None with fewer than three values or without spread.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 3 or float(np.ptp(array)) <= NO_SPREAD:
        return None
    return _bootstrap((array,), np.mean, confidence=confidence, seed=seed)


def _bootstrap(
    data: tuple[NDArray[Any], ...],
    statistic: Any,
    *,
    confidence: float,
    seed: int,
    paired: bool = False,
) -> tuple[float, float] | None:
    """An interval by BCa; by percentiles where the jackknife or the draws leave BCa undefined."""
    import warnings

    from scipy import stats

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # scipy warns and answers nan where BCa is undefined; the nan is looked at below.
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            result = stats.bootstrap(
                data,
                statistic,
                paired=paired,
                vectorized=True,
                n_resamples=RESAMPLES,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            )
        low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    return None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values, in the order given.

    `adjusted₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎)` over the m p-values that are there, in
    rising order; None stays None and is not counted. Rejecting where the adjusted one is below a
    level keeps the chance of any false rejection below it, however the tests depend on each other.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 6 (1979) 65-70.

    Raises:
        ValueError: If a p-value is outside [0, 1].
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
    """Power of the two-sided paired t-test with n pairs at the effect `mean / std`.

    `P(T > t)` for T noncentral t with n − 1 degrees of freedom and noncentrality `effect·√n`, t the
    critical value at `alpha / 2`. The far tail is left out: at a power worth asking for it is below
    1e-5.
    """
    from scipy import stats

    if n < 2:
        return 0.0
    critical = float(stats.t.isf(alpha / 2, n - 1))
    return float(stats.nct.sf(critical, n - 1, abs(effect) * math.sqrt(n)))


def pairs_needed(effect: float, *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Fewest pairs at which the two-sided paired t-test has the given power at the given effect.

    Args:
        effect: `mean / std` of the differences (Cohen's d_z); its sign does not matter.
        power: Chance to see the effect if it is real and as large as stated.
        alpha: Level of the test.

    Returns:
        The number of pairs (at least 2), or None if it is above 100 000 or the effect is zero.
    """
    from scipy import stats

    if not math.isfinite(effect) or effect == 0.0:
        return None
    # The normal approximation is a lower bound, a few pairs short of the answer.
    normal = (stats.norm.isf(alpha / 2) + stats.norm.ppf(power)) / abs(effect)
    low = max(2, math.floor(normal**2))
    if low > MOST_PAIRS:
        return None
    while paired_power(effect, low, alpha=alpha) < power:
        low += 1
    return low


def rank_correlation(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> RankCorrelation | None:
    """Spearman's ρ with a bootstrap interval and a permutation p-value.

    The p-value is that of shuffling one side, all orders for n ≤ 7 and 9 999 random ones above
    (scipy's own for ρ rests on a t approximation that its documentation advises against below some
    500 pairs). None with fewer than four pairs or if either side does not vary.

    Args:
        first: n values.
        second: n values, each the partner of the one at its place.
        confidence: Coverage of the interval.
        seed: Of the resampling.

    Raises:
        ValueError: If the two differ in length.
    """
    from scipy import stats

    if len(first) != len(second):
        raise ValueError(f"pairs need equal lengths, got {len(first)} and {len(second)}")
    n = len(first)
    if n < 4 or any(float(np.ptp(side)) <= NO_SPREAD for side in (first, second)):
        return None
    # All that matters of the values is their order: their numbers among the distinct ones.
    a, b = (np.unique(np.asarray(side), return_inverse=True)[1] for side in (first, second))
    rho = float(_spearman(a, b))
    ranks = _ranks(b)
    test = stats.permutation_test(
        (_ranks(a),),
        lambda shuffled, axis: _pearson(shuffled, ranks, axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    # Resamples of a perfect order are perfectly ordered: a bootstrap would claim certainty.
    perfect = abs(rho) >= 1 - NO_SPREAD
    interval = (
        None
        if perfect
        else _bootstrap((a, b), _spearman, confidence=confidence, seed=seed, paired=True)
    )
    return RankCorrelation(n, rho, interval, float(test.pvalue))


def _spearman(a: NDArray[np.int64], b: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
    """Spearman's ρ along the last axis of values numbered from 0 in rising order."""
    return _pearson(_ranks(a), _ranks(b), axis=axis)


def _ranks(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks along the last axis, equal values sharing their mean, by counting instead of sorting.

    Sorting 9 999 resamples of 600 values takes about a second, counting them a fifth of that.
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
    """Pearson's r along an axis; 0 where a side is constant: such a resample says nothing."""
    a = a - a.mean(axis=axis, keepdims=True)
    b = b - b.mean(axis=axis, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    products = (a * b).sum(axis=axis)
    # Rounding alone can carry |r| past 1 by an ulp.
    return np.clip(np.divide(products, scale, out=np.zeros_like(products), where=scale > 0), -1, 1)
