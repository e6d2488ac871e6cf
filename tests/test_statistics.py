"""Statistics against published worked examples and independent integrals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdsearch.statistics import (
    bootstrap_mean,
    holm,
    mean_std,
    paired_difference,
    paired_power,
    pairs_needed,
    rank_correlation,
)

# Cushny and Peebles 1905, the data of Student's paper of 1908 and R's `sleep`: extra hours of
# sleep under two drugs.
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def test_paired_t_matches_the_published_sleep_example() -> None:
    # R, t.test(group1, group2, paired = TRUE): t = -4.0621, p = 0.002833,
    # interval -2.4598858 -0.7001142.
    result = paired_difference(DRUG_1, DRUG_2)
    assert result.n == 10
    assert result.difference == pytest.approx(-1.58)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)
    assert result.interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.effect is not None
    assert result.effect * math.sqrt(10) == pytest.approx(-4.0621, abs=5e-5)


def test_two_pairs_by_hand() -> None:
    # Differences 1 and 3: mean 2, sd √2, standard error 1, t = 2 on one degree of freedom (Cauchy):
    # p = 1 − 2·atan(2)/π, interval 2 ± tan(0.475 π).
    result = paired_difference((2.0, 4.0), (1.0, 1.0))
    assert result.difference == 2.0
    assert result.std == pytest.approx(math.sqrt(2))
    assert result.p_value == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    half = math.tan(0.475 * math.pi)
    assert result.interval == pytest.approx((2 - half, 2 + half))
    assert result.bootstrap is None


def test_one_pair_has_a_difference_and_nothing_else() -> None:
    result = paired_difference((0.75,), (0.5,))
    assert result.difference == 0.25
    assert (result.std, result.interval, result.bootstrap, result.p_value, result.effect) == (
        (None,) * 5
    )


def test_no_pair_has_no_difference() -> None:
    result = paired_difference((), ())
    assert result.n == 0
    assert math.isnan(result.difference)


@pytest.mark.parametrize("shift", [0.0, 0.1, -1 / 360])
def test_without_spread_no_certainty_is_claimed(shift: float) -> None:
    baseline = (0.9, 0.8, 0.7)
    result = paired_difference([value + shift for value in baseline], baseline)
    assert result.difference == pytest.approx(shift)
    assert result.std == 0.0
    assert (result.interval, result.bootstrap, result.p_value) == (None, None, None)


def test_unequal_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="equal lengths, got 2 and 3"):
        paired_difference((1, 2), (1, 2, 3))
    with pytest.raises(ValueError, match="equal lengths, got 2 and 3"):
        rank_correlation((1, 2), (1, 2, 3))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=2, max_size=12))
def test_swapping_the_pairs_flips_the_sign_and_keeps_p(pairs: list[tuple[int, int]]) -> None:
    first = [a / 10_000 for a, _ in pairs]
    second = [b / 10_000 for _, b in pairs]
    forth, back = paired_difference(first, second), paired_difference(second, first)
    assert forth.difference == pytest.approx(-back.difference, abs=1e-12)
    assert forth.p_value == pytest.approx(back.p_value)
    if forth.interval is not None and back.interval is not None:
        assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]))
        assert forth.interval[0] <= forth.difference <= forth.interval[1]
        # The interval leaves zero out exactly where p < 0.05.
        assert forth.p_value is not None
        if abs(forth.p_value - 0.05) > 1e-9:
            assert (forth.interval[0] > 0 or forth.interval[1] < 0) == (forth.p_value < 0.05)


def test_bootstrap_is_repeatable_and_close_to_the_normal_theory_for_many_values() -> None:
    values = np.random.default_rng(3).normal(0.2, 1.0, 400)
    interval = bootstrap_mean(values)
    assert interval == bootstrap_mean(values)
    assert interval is not None
    half = 1.959964 * float(values.std(ddof=1)) / 20
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_bootstrap_of_three_values_stays_between_them() -> None:
    interval = bootstrap_mean((1.0, 2.0, 4.0))
    assert interval is not None
    assert 1.0 <= interval[0] < interval[1] <= 4.0


def test_bootstrap_needs_three_values_and_spread() -> None:
    assert bootstrap_mean((1.0, 2.0)) is None
    assert bootstrap_mean((0.5, 0.5, 0.5, 0.5)) is None


def test_holm_matches_the_worked_example() -> None:
    # The worked example of Wikipedia, "Holm-Bonferroni method", for p = 0.01, 0.04, 0.03, 0.005.
    assert holm((0.01, 0.04, 0.03, 0.005)) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_absent_values_out_of_the_count() -> None:
    assert holm((None, 0.02, None, 0.03)) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm(()) == []
    assert holm((None,)) == [None]
    assert holm((0.9, 0.8)) == [1.0, 1.0]


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.5"):
        holm((1.5,))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    # The procedure as Holm states it: up the ordered p-values, until one is above α / (m − i).
    alpha, m = 0.05, len(p_values)
    rejected: set[int] = set()
    for i, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
        if (m - i) * p_values[index] > alpha:
            break
        rejected.add(index)
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p is not None and p <= alpha} == rejected


@pytest.mark.parametrize(
    ("effect", "pairs"),
    # Two-sided paired t-test, α = 0.05, power 0.8: the sizes G*Power and Cohen's tables give.
    [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)],
)
def test_pairs_needed_matches_published_sample_sizes(effect: float, pairs: int) -> None:
    assert pairs_needed(effect) == pairs
    assert pairs_needed(-effect) == pairs


@pytest.mark.parametrize(
    ("effect", "n", "alpha"), [(0.5, 34, 0.05), (1.0, 8, 0.01), (2.0, 4, 0.05)]
)
def test_power_matches_an_integral_over_the_sample_variance(
    effect: float, n: int, alpha: float
) -> None:
    # ∫ Φ(delta − critical·√(w/nu)) dχ²(w) plus the far tail: no noncentral t involved.
    from scipy import integrate, stats

    nu = n - 1
    critical = stats.t.ppf(1 - alpha / 2, nu)
    delta = effect * math.sqrt(n)

    def density(w: float) -> float:
        root = critical * math.sqrt(w / nu)
        both = stats.norm.cdf(delta - root) + stats.norm.cdf(-delta - root)
        return float(both * stats.chi2.pdf(w, nu))

    expected, _ = integrate.quad(density, 0, nu + 40 * math.sqrt(2 * nu), limit=200)
    assert paired_power(effect, n, alpha=alpha) == pytest.approx(expected, abs=2e-5)


def test_pairs_needed_at_the_ends() -> None:
    assert pairs_needed(0.0) is None
    assert pairs_needed(math.nan) is None
    assert pairs_needed(1e-4) is None
    assert pairs_needed(50.0) == 2
    few, many = pairs_needed(0.5), pairs_needed(0.5, alpha=0.05 / 7)
    assert few is not None and many is not None and few < many
    assert (
        paired_power(0.5, many, alpha=0.05 / 7) >= 0.8 > paired_power(0.5, many - 1, alpha=0.05 / 7)
    )
    assert paired_power(3.0, 1) == 0.0


# Wikipedia, "Spearman's rank correlation coefficient": IQ against hours of television a week.
IQ = (106, 100, 86, 101, 99, 103, 97, 113, 112, 110)
HOURS = (7, 27, 2, 50, 28, 29, 20, 12, 6, 17)


def test_spearman_matches_the_published_example() -> None:
    result = rank_correlation(IQ, HOURS)
    assert result is not None
    assert result.rho == pytest.approx(-29 / 165)
    # The article gives 0.627188 by the t approximation; the permutation value lies near it.
    assert result.p_value == pytest.approx(0.627188, abs=0.02)
    assert result.interval is not None
    assert result.interval[0] < -29 / 165 < result.interval[1]
    assert result == rank_correlation(IQ, HOURS)


def test_spearman_of_few_pairs_has_the_exact_permutation_p() -> None:
    # Of 24 orders of four values two are as extreme as the perfect one.
    result = rank_correlation((1, 2, 3, 4), (10, 20, 30, 40))
    assert result is not None
    assert (result.rho, result.p_value) == (pytest.approx(1.0), pytest.approx(2 / 24))
    assert result.interval is None


def test_spearman_with_ties_is_pearson_of_mean_ranks() -> None:
    # Ranks (1.5, 1.5, 3, 4) and (1, 2, 3.5, 3.5): r = 4/√(4.5·4.5).
    result = rank_correlation((5, 5, 6, 7), (1, 2, 9, 9))
    assert result is not None
    assert result.rho == pytest.approx(4 / 4.5)


def test_spearman_says_nothing_of_constants_or_three_pairs() -> None:
    assert rank_correlation((1, 1, 1, 1, 1), (1, 2, 3, 4, 5)) is None
    assert rank_correlation((1, 2, 3, 4, 5), (2, 2, 2, 2, 2)) is None
    assert rank_correlation((1, 2, 3), (1, 2, 3)) is None


def test_mean_and_sample_standard_deviation() -> None:
    assert mean_std((2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0)) == (
        5.0,
        pytest.approx(math.sqrt(32 / 7)),
    )
    assert mean_std((0.5,)) == (0.5, None)
    with pytest.raises(ValueError, match="mean of no values"):
        mean_std(())


def test_holm_keeps_false_alarms_below_the_level_where_rows_share_a_baseline() -> None:
    # Five rows that do not differ from one baseline, 8 seeds, 4 000 made-up studies: the share
    # with any adjusted p below 0.05 must be at most 0.05 (three standard errors of slack: 0.0103).
    from scipy import stats

    rng = np.random.default_rng(7)
    seeds, rows = rng.normal(size=(4000, 8, 1)), rng.normal(size=(4000, 8, 6))
    accuracies = seeds + rows
    p_values = stats.ttest_rel(accuracies[:, :, 1:], accuracies[:, :, :1], axis=1).pvalue
    alarms = np.mean([min(p for p in holm(list(one)) if p is not None) < 0.05 for one in p_values])
    unadjusted = np.mean(p_values.min(axis=1) < 0.05)
    assert alarms < 0.05 + 0.0103
    assert unadjusted > 0.12


def test_the_seeds_named_are_enough_in_four_of_five_repetitions() -> None:
    from scipy import stats

    n = pairs_needed(0.8)
    assert n is not None
    samples = np.random.default_rng(8).normal(0.8, 1.0, size=(20_000, n))
    seen = np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05)
    # 15 pairs: power 0.821; four standard errors are 0.011.
    assert seen == pytest.approx(0.821, abs=0.011)
