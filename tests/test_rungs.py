"""Successive halving: rungs against their definition, decisions against whole rankings."""

import itertools
import math
import random

import pytest

from pdsearch.study.pruning import FACTOR, Runner, among_best, next_up, rung_steps


@pytest.mark.parametrize(
    ("epochs", "looks", "steps"),
    [
        # By hand. One look an epoch: after 1, 4 and 16 epochs, as long as a third is saved.
        (1, 1, ()),
        (2, 1, (1,)),
        (5, 1, (1,)),
        (6, 1, (1, 4)),
        (30, 1, (1, 4, 16)),
        # Four in the first: a quarter of an epoch, one, four.
        (1, 4, (1,)),
        (6, 4, (1, 4, 16)),
        (5, 4, (1, 4)),
        # Three: a third; 4 steps are not the end of an epoch, 6 are; 16 become 18.
        (6, 3, (1, 6)),
        (9, 3, (1, 6, 18)),
        # Five: 1 and 4 within the first epoch, 16 become 20.
        (6, 5, (1, 4, 20)),
    ],
)
def test_rungs(epochs: int, looks: int, steps: tuple[int, ...]) -> None:
    assert rung_steps(epochs=epochs, looks=looks) == steps


@pytest.mark.parametrize("minimize", [False, True])
def test_the_best_quarter_is_that_of_the_ranking(minimize: bool) -> None:
    draw = random.Random(1)
    for n in range(1, 20):
        values = [draw.random() for _ in range(n)]
        ranking = sorted(values, reverse=not minimize)
        for index, value in enumerate(values):
            others = values[:index] + values[index + 1 :]
            expected = value in ranking[: n // FACTOR]
            assert among_best(value, others, minimize=minimize) is expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_goes_on(value: float) -> None:
    assert not among_best(value, [-1.0] * 20, minimize=False)
    assert not among_best(value, [1.0] * 20, minimize=True)


def test_a_value_that_is_no_number_is_nobodys_rival() -> None:
    assert among_best(0.5, [0.1] * 3 + [math.nan] * 5, minimize=False)
    assert not among_best(0.5, [0.1] * 2 + [math.nan] * 5, minimize=False)


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_left_stopped_is_not_among_the_best(seed: int, minimize: bool) -> None:
    """A whole run, one runner at a time, against the rule that defines its end.

    At every rung, of all that got there the best quarter have gone on; and none went on that was
    not among the best quarter at the time.
    """
    draw = random.Random(seed)
    rungs = (1, 4, 16)
    # Different orders at different steps, and one that is never stopped.
    curves = [{step: draw.random() for step in (*rungs, 24)} for _ in range(40)]
    reached: list[dict[int, float]] = []
    stopped: list[int | None] = []

    def go(index: int, past: int) -> None:
        for step in (*rungs, 24):
            if step <= past:
                continue
            others = [values[step] for at, values in enumerate(reached) if step in values]
            reached[index][step] = curves[index][step]
            stops = index > 0 and step in rungs
            if stops and not among_best(curves[index][step], others, minimize=minimize):
                stopped[index] = step
                return
        stopped[index] = None

    def all_up() -> None:
        while True:
            runners = [
                Runner(i, v, s) for i, (v, s) in enumerate(zip(reached, stopped, strict=True))
            ]
            up = next_up(runners, rungs, minimize=minimize)
            if up is None:
                return
            assert up.stopped is not None
            go(up.number, up.stopped)

    for index in range(len(curves)):
        reached.append({})
        stopped.append(None)
        go(index, 0)
        all_up()
    for step in rungs:
        there = sorted(
            (i for i, values in enumerate(reached) if step in values),
            key=lambda i: reached[i][step],
            reverse=not minimize,
        )
        best = there[: len(there) // FACTOR]
        assert all(stopped[index] != step for index in best)
        gone = [i for i in there if stopped[i] != step]
        assert len(best) <= len(gone) <= len(there)
    assert max(itertools.chain(*reached)) == 24


def test_who_goes_on_first() -> None:
    def runner(number: int, stopped: int | None, **values: float) -> Runner:
        return Runner(number, {int(k[1:]): v for k, v in values.items()}, stopped)

    low = [runner(n, 1, s1=n / 100) for n in range(20)]
    high = [runner(20 + n, 4, s1=1.0 + n, s4=n / 10) for n in range(4)]
    # The higher rung is served first, and the best there.
    assert next_up([*low, *high], (1, 4)) is high[3]
    # Of the 24 at the lower rung six may go on, of whom four have.
    on = [Runner(r.number, r.values, None) for r in high]
    assert next_up([*low, *on], (1, 4)) is low[19]
    assert next_up([*low[:19], *on], (1, 4)) is low[18]
    assert next_up(on, (1, 4)) is None
    assert next_up([*low, *high], (1, 4), earned=False) is high[3]
    assert next_up([*low, *high], (1, 4), minimize=True, earned=False) is high[0]
    assert next_up(on, (1, 4), earned=False) is None
    assert next_up([runner(1, 1, s1=-math.inf)], (1,), earned=False) is None
