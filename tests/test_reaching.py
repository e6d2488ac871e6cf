"""Time to accuracy: closed forms, by hand."""

import math
from typing import Any

import pytest
from scipy import stats

from pdsearch.confirm.reaching import epochs_to, reaching


@pytest.mark.parametrize(
    ("accuracies", "target", "wanted"),
    [
        ([0.2, 0.4, 0.6], 0.5, 2.5),
        ([0.2, 0.4, 0.6], 0.4, 2.0),
        ([0.2, 0.4, 0.6], 0.15, 0.5),  # from guessing, 0.1, on
        ([0.2, 0.5, 0.3, 0.6], 0.5, 2.0),  # first reached
        ([0.2, 0.4], 0.6, None),
        ([0.2, None, 0.9], 0.6, None),  # a loss that was not finite
        ([], 0.6, None),
        ([0.3], 0.05, 0.0),
    ],
)
def test_epochs_to(accuracies: list[float | None], target: float, wanted: float | None) -> None:
    found = epochs_to(accuracies, target, start=0.1)
    assert found is None if wanted is None else found == pytest.approx(wanted, abs=1e-12)


def run(seed: int, *accuracies: float, diverged: str | None = None, **trial: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "accuracy": accuracies[-1],
        "diverged": diverged,
        "chance": 0.1,
        "setting": {"trial": trial},
        "epochs": [{"epoch": e, "accuracy": a} for e, a in enumerate(accuracies, start=1)],
    }


RELU = [run(1, 0.2, 0.4, 0.6), run(2, 0.3, 0.5, 0.64), run(3, 0.3, 0.4, 0.5)]


def test_paired_over_the_seeds_at_which_both_reach_it() -> None:
    # The target is the mean of 0.6, 0.64 and 0.5: 0.58. ReLU's third seed never reaches it.
    rows = [run(1, 0.4, 0.68, 0.7), run(2, 0.48, 0.58, 0.6), run(3, 0.5, 0.6, 0.7)]
    found = reaching(rows, RELU, own=False)
    assert found is not None and found.target == pytest.approx(0.58)
    assert found.epochs == pytest.approx((1 + 0.18 / 0.28, 2.0, 1.8))
    own = reaching(RELU, RELU, own=True)
    assert own is not None and own.paired is None and own.never == 1
    assert own.epochs[:2] == pytest.approx((2.9, 2 + 0.08 / 0.14)) and own.epochs[2] is None
    differences = [found.epochs[i] - own.epochs[i] for i in (0, 1)]
    assert found.paired is not None and found.paired.n == 2
    assert found.paired.difference == pytest.approx(sum(differences) / 2)
    half = stats.t.ppf(0.975, 1) * stats.tstd(differences) / math.sqrt(2)
    assert found.paired.interval == pytest.approx(
        (found.paired.difference - half, found.paired.difference + half)
    )
    document = found.to_dict()
    assert document["pairs"] == 2 and document["never"] == 0


def test_a_diverged_run_never_reaches_it() -> None:
    found = reaching([run(1, 0.9, 0.1, diverged="the loss exploded")], RELU, own=False)
    assert found is not None and found.epochs == (None,) and found.mean is None
    assert found.to_dict()["difference"] is None


def test_a_stream_has_no_time_to_accuracy() -> None:
    tasks = [run(1, 0.2, 0.4, stream={"tasks": 2})]
    assert reaching(tasks, tasks, own=True) is None
    assert reaching([run(1, 0.2)], [], own=False) is None
