"""Confirmation: from made-up training runs with known outcomes, and once for real on digits."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
import sympy
import torch
from made_up import SMALL_NET
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage

import pdsearch.autograd
import pdsearch.confirm.runs
import pdsearch.data
import pdsearch.trial
from pdsearch import interrupt
from pdsearch.confirm import (
    FIRST_SEED,
    confirm,
    confirm_markdown,
    confirm_table,
    load_confirmation,
)
from pdsearch.errors import InputError, StorageError, UnsupportedError
from pdsearch.expression import x
from pdsearch.family import Candidate, Family, load_family, load_target
from pdsearch.study.rows import TrialRow, ranked
from pdsearch.study.storage import connect
from pdsearch.trial import Diagnosis, EpochRecord, TrialSettings

TAIL = Family(
    "tail",
    sympy.Piecewise((1, x > 0), (sympy.Symbol("a") * sympy.exp(x), True)),
    space={"a": FloatDistribution(0.001, 1.0)},
)


def finished(number: int, a: float, value: float, **other: Any) -> TrialRow:
    fields = {"kind": "candidate", "status": "complete", "values": (value,), "value": value}
    return TrialRow(number, **{**fields, "candidate": TAIL.bind(a=a), **other})


def stored_study(
    tmp_path: Path,
    rows: Sequence[Any] = (),
    *,
    references: Sequence[str] = ("leaky",),
    learning_rates: tuple[float, ...] = (),
    storage: str | None = None,
    objectives: Sequence[str] = ("accuracy",),
    minimize: bool = False,
    **trial: Any,
) -> Any:
    known = {name: SimpleNamespace(candidate=load_family(name).default) for name in references}
    settings = SimpleNamespace(
        study=SimpleNamespace(
            seed=0, objectives=list(objectives), horizon=None, groups={}, everywhere=lambda one: one
        ),
        trial=TrialSettings(
            epochs=2,
            learning_rates=learning_rates,
            **{
                "dataset": "digits",
                "precision": "float32",
                "memory_format": "contiguous",
                **trial,
            },
        ),
        confirm=SimpleNamespace(seeds=4, epochs=3, rate_epochs=None),
    )
    return SimpleNamespace(
        name="made-up",
        study=optuna.create_study(storage=storage, study_name="made-up", load_if_exists=True),
        settings=settings,
        storage=str(storage or "sqlite:///:memory:"),
        url="",  # no other process can help: training is made up
        directory=tmp_path,
        output=tmp_path / "results",
        trusted=True,
        trials=lambda: list(rows),
        ranked=lambda: ranked(rows, minimize=minimize),
        references=lambda: known,
        minimize=minimize,
    )


# The pseudo-gradient is a quarter longer than the exact one.
LOOK = Diagnosis(0.9, 1.25, {"1": (0.9, 1.25)}, {"2": 0.0}, {"2": 0.1})

LOOK_KEPT = {
    "cosine": 0.9,
    "norm_ratio": 1.25,
    "layers": {"1": [0.9, 1.25]},
    "revived": {"2": 0.0},
    "died": {"2": 0.1},
}


@dataclass
class Lab:
    """Stands in for training: an accuracy by row, seed and rate; remembers who was trained."""

    accuracy: Callable[[str, int, float], float]
    calls: list[dict[str, Any]] = field(default_factory=list)
    stop_after: int | None = None
    diverging: tuple[tuple[str, int], ...] = ()
    diverging_at: float | None = None  # a learning rate
    pace: float | None = None  # seconds an epoch

    def run_trial(self, candidate: Candidate, settings: Any, dataset: Any, **keys: Any) -> Any:
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        module = keys["module"]
        who = candidate.name if module is None else type(module()).__name__
        self.calls.append({"who": who, "settings": settings, **keys})
        seed, rate = keys["seed"], settings.learning_rate
        return SimpleNamespace(
            value=self.accuracy(who, seed, rate),
            diverged="loss is nan"
            if (who, seed) in self.diverging or rate == self.diverging_at
            else None,
            epochs=(
                EpochRecord(1, math.nan, 0.5, {}, 1.0, rate, diagnostics=LOOK)
                if keys["diagnostics"]
                else EpochRecord(1, math.nan, 0.5, {}, 1.0, rate),
            ),
            seconds=1.5 if self.pace is None else self.pace * settings.epochs,
        )


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    laboratory = Lab(known)

    def load_dataset(spec: str, **_: Any) -> Any:
        if spec not in ("digits", "other", "small", "uneven"):
            raise InputError(f"unknown data set {spec!r}")
        return SimpleNamespace(
            classes=tuple("0123456789"),
            shape=(3, 32, 32),
            fingerprint=f"content of {spec}",
            train_images=range(10 if spec == "small" else 1438),
            train_labels=torch.arange(10 if spec == "small" else 1430) % 10,
            test_labels=torch.cat([torch.zeros(81), torch.arange(100) % 10]).long()
            if spec == "uneven"
            else torch.arange(360) % 10,
        )

    monkeypatch.setattr(pdsearch.trial, "run_trial", laboratory.run_trial)
    monkeypatch.setattr(pdsearch.data, "load_dataset", load_dataset)
    return laboratory


# Baseline by seed, and what each adds to it. The tail's differences are those of the sleep data of
# Student 1908 (R's `sleep`, first four), in thousandths: 1.2, 2.4, 1.3, 1.3.
BASE = (0.80, 0.83, 0.79, 0.81, 0.80, 0.82)
GAIN = (0.0012, 0.0024, 0.0013, 0.0013, 0.0, 0.001)


def known(who: str, seed: int, rate: float) -> float:
    place = seed - FIRST_SEED if seed >= FIRST_SEED else 0
    if who.startswith("tail"):
        return BASE[place] + GAIN[place]
    if who.startswith("leaky"):
        return BASE[place] - 0.01
    return BASE[place] + 0.001 * math.sin(7 * seed + len(who)) * (who != "relu")


def test_rows_differences_and_statistics(tmp_path: Path, lab: Lab) -> None:
    result = confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), device="cpu")
    assert [(row.name.split("(")[0], row.kind) for row in result.rows] == [
        ("relu", "baseline"),
        ("leaky", "reference"),
        ("tail", "candidate"),
    ]
    baseline, leaky, tail = result.rows
    assert baseline.accuracy == BASE[:4]
    assert baseline.mean == pytest.approx(0.8075)
    assert (baseline.difference, baseline.ci95, baseline.p_value) == (0.0, None, None)
    assert tail.seed_values == tuple(range(FIRST_SEED, FIRST_SEED + 4))
    # Differences 1.2, 2.4, 1.3, 1.3 thousandths: mean 1.55, sd √(0.97/3), t₀.₉₇₅ on 3 = 3.182446.
    sd = math.sqrt(0.97 / 3) / 1000
    assert tail.difference == pytest.approx(0.00155)
    assert tail.ci95 == pytest.approx((0.00155 - 3.182446 * sd / 2, 0.00155 + 3.182446 * sd / 2))
    # The same amount at each seed has no spread and no test; the tail is the only one compared.
    assert leaky.difference == pytest.approx(-0.01)
    assert (leaky.ci95, leaky.p_adjusted) == (None, None)
    assert tail.p_adjusted == tail.p_value
    assert tail.significant and tail.seeds_needed is None
    assert any("same amount at every seed" in note for note in result.notes)
    assert result.headline.startswith("tail(a=0.5) − ReLU = +0.15 points [+0.06, +0.25], n = 4")
    assert result.headline.endswith("better than ReLU.")


def test_runs_have_the_threads_of_the_studys_trials(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)])
    stored.study.set_user_attr("pdsearch:threads", 3)
    confirm(stored, seeds=1, device="cpu")
    confirm(stored, seeds=2, device="cpu", threads=5)
    assert [call["threads"] for call in lab.calls] == [3] * 3 + [5] * 3


def test_every_run_is_a_test_run_at_full_budget_with_fresh_seeds(tmp_path: Path, lab: Lab) -> None:
    confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), device="cpu", threads=1)
    assert len(lab.calls) == 3 * 4
    assert {call["split"] for call in lab.calls} == {"test"}
    assert {call["settings"].epochs for call in lab.calls} == {3}
    assert {call["threads"] for call in lab.calls} == {1}
    assert min(call["seed"] for call in lab.calls) == FIRST_SEED
    # Seed by seed: what an interruption leaves behind is paired.
    assert [call["seed"] for call in lab.calls] == sorted(call["seed"] for call in lab.calls)


def test_the_document_has_the_designs_fields_and_is_plain(tmp_path: Path, lab: Lab) -> None:
    result = confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), device="cpu")
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"study", "rows", "epochs", "dataset", "model", "learning_rate"} <= set(document)
    assert "transfers" not in document
    fixed = ("name", "formula", "seeds", "accuracy", "mean", "std", "difference", "ci95")
    for row in document["rows"]:
        assert set(fixed) | {"p_value", "p_adjusted"} <= set(row)
        assert row["seeds"] == len(row["accuracy"]) == 4
    assert (document["epochs"], document["dataset"], document["model"]) == (3, "digits", "alexnet")
    assert document["learning_rate"] == 0.02


def test_an_interruption_loses_no_finished_run_and_the_next_call_goes_on(
    tmp_path: Path, lab: Lab
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    rows = [finished(3, 0.5, 0.9)]
    lab.stop_after = 7
    with pytest.raises(KeyboardInterrupt):
        confirm(stored_study(tmp_path, rows, storage=url), device="cpu")
    half = load_confirmation(stored_study(tmp_path, rows, storage=url))
    assert half is not None
    assert [row.seeds for row in half.rows] == [3, 2, 2]
    lab.stop_after = None
    lines: list[str] = []
    whole = confirm(stored_study(tmp_path, rows, storage=url), device="cpu", progress=lines.append)
    assert len(lab.calls) == 12
    assert len(lines) == 5
    assert lines[-1].startswith("12/12 alexnet on digits: tail(a=0.5), seed 1003: test accuracy")
    done = {(call["who"], call["seed"]) for call in lab.calls}
    assert len(done) == 12
    # A third time there is nothing left to train, and what is read back is what was shown.
    again = confirm(stored_study(tmp_path, rows, storage=url), device="cpu")
    assert len(lab.calls) == 12
    assert again == whole == load_confirmation(stored_study(tmp_path, rows, storage=url))


def test_the_time_left_counts_epochs(tmp_path: Path, lab: Lab) -> None:
    """Runs that choose a rate are shorter: 4 of 1 epoch, then 4 of 10, a minute an epoch."""
    stored = stored_study(
        tmp_path, [finished(3, 0.5, 0.9)], references=(), learning_rates=(0.1, 0.2)
    )
    lab.pace = 60.0
    lines: list[str] = []
    confirm(stored, seeds=2, epochs=10, rate_epochs=1, device="cpu", progress=lines.append)
    told = [line.partition("about ")[2] for line in lines]
    assert told == [f"{left} min left)" for left in (43, 42, 41, 40, 30, 20, 10, 0)]


def test_keys_in_the_storage_are_the_documented_ones(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)])
    confirm(stored, seeds=1, device="cpu")
    keys = [key for key in stored.study.user_attrs if key.startswith("pdsearch:confirm/")]
    assert len(keys) == 3
    record = stored.study.user_attrs[keys[0]]
    assert record["epochs"] == [
        {"epoch": 1, "loss": None, "accuracy": 0.5, "diagnostics": LOOK_KEPT}
    ]
    assert Candidate.from_dict(record["candidate"]) == load_family("relu").default


def test_a_later_call_adds_rows_and_corrects_over_all_of_them(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    first = confirm(stored, device="cpu")
    silu = load_family("silu").default
    second = confirm(stored, candidates=[silu], device="cpu")
    assert [row.kind for row in second.rows] == ["baseline", "candidate", "given"]
    assert len(lab.calls) == 3 * 4
    assert first.rows[1].p_adjusted == first.rows[1].p_value
    small, large = sorted(row.p_value or 0.0 for row in second.rows[1:])
    adjusted = sorted(row.p_adjusted or 0.0 for row in second.rows[1:])
    assert adjusted[0] == pytest.approx(2 * small)
    assert adjusted[1] == pytest.approx(max(large, 2 * small))


def test_the_headline_is_of_the_studys_best_as_it_stands(tmp_path: Path, lab: Lab) -> None:
    rows = [finished(3, 0.5, 0.9), finished(4, 0.4, 0.8)]
    assert confirm(stored_study(tmp_path, rows), device="cpu").headline.startswith("tail(a=0.5) ")
    url = f"sqlite:///{tmp_path}/study.db"
    confirm(stored_study(tmp_path, rows, storage=url), device="cpu")
    rows.append(finished(5, 0.6, 0.95))  # the study went on
    later = confirm(stored_study(tmp_path, rows, storage=url), top=1, device="cpu")
    names = [row.name for row in later.rows if row.kind == "candidate"]
    assert names == ["tail(a=0.6)", "tail(a=0.5)", "tail(a=0.4)"]
    assert later.headline.startswith("tail(a=0.6) ")
    assert load_confirmation(stored_study(tmp_path, rows, storage=url)) == later


def test_who_was_given_first_is_a_candidate_once_the_study_has_it(tmp_path: Path, lab: Lab) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    rows = [finished(3, 0.5, 0.9), finished(4, 0.4, 0.8)]

    def study() -> Any:
        return stored_study(tmp_path, rows, storage=url, references=())

    confirm(study(), candidates=[TAIL.bind(a=0.5), TAIL.bind(a=0.9)], top=0, device="cpu")
    later = confirm(study(), device="cpu")
    assert [(row.name, row.kind) for row in later.rows] == [
        ("relu", "baseline"),
        ("tail(a=0.5)", "candidate"),
        ("tail(a=0.4)", "candidate"),
        ("tail(a=0.9)", "given"),
    ]
    assert later.headline.startswith("tail(a=0.5) ")


def test_the_best_are_distinct_finished_and_in_order(tmp_path: Path, lab: Lab) -> None:
    rows = [
        finished(1, 0.30, 0.90),
        finished(2, 0.30 + 1e-8, 0.91),
        finished(3, 0.70, 0.99, status="pruned"),
        finished(4, 0.80, math.nan),
        finished(5, 0.60, 0.95, kind="reference"),
        finished(6, 0.10, 0.80),
        finished(7, 0.20, 0.85),
    ]
    stored = stored_study(tmp_path, rows, references=())
    result = confirm(stored, top=2, seeds=2, device="cpu")
    assert [row.name for row in result.rows] == ["relu", "tail(a=0.3)", "tail(a=0.2)"]


def test_near_ties_and_directions_rank_as_the_study_does(tmp_path: Path, lab: Lab) -> None:
    rows = [
        finished(1, 0.1, 0.90),
        finished(2, 0.2, 0.89, seeds={1: 0.95}),
        finished(3, 0.3, 0.91, seeds={1: 0.80}),
        finished(4, 0.4, 0.99, duplicate_of=1),
    ]

    def names(**keys: Any) -> list[str]:
        result = confirm(stored_study(tmp_path, rows, references=(), **keys), seeds=1, device="cpu")
        return [row.name for row in result.rows[1:]]

    assert names() == ["tail(a=0.2)", "tail(a=0.3)", "tail(a=0.1)"]
    assert names(minimize=True) == ["tail(a=0.3)", "tail(a=0.2)", "tail(a=0.1)"]
    two = [finished(i, i / 10, value, values=(value, 1 - i)) for i, value in ((1, 0.7), (2, 0.8))]
    stored = stored_study(tmp_path, two, references=(), objectives=("accuracy", "dead_units"))
    result = confirm(stored, seeds=1, device="cpu")
    assert [row.name for row in result.rows[1:]] == ["tail(a=0.2)", "tail(a=0.1)"]


def test_a_row_that_equals_another_is_trained_once_under_both_names(
    tmp_path: Path, lab: Lab
) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    elu = load_family("elu").default
    same = Family("same", sympy.Piecewise((1, x > 0), (sympy.exp(x), True))).default
    result = confirm(stored, top=0, candidates=[elu, same], seeds=2, device="cpu")
    assert [row.name for row in result.rows] == ["relu", f"{elu.name} = same"]


def test_typed_formulas_are_told_apart_by_their_text(tmp_path: Path, lab: Lab) -> None:
    given = [load_target(text)[1] for text in ("sigmoid(4*x)", "sigmoid(3*x)", "0.123456789")]
    result = confirm(stored_study(tmp_path), seeds=2, candidates=given, device="cpu")
    names = [row.name for row in result.rows if row.kind == "given"]
    assert names == ["sigmoid(4*x)", "sigmoid(3*x)", "0.123457"]


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path, lab: Lab) -> None:
    result = confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), seeds=1, device="cpu")
    tail = result.rows[-1]
    assert tail.difference == pytest.approx(0.0012)
    assert (tail.std, tail.ci95, tail.p_value, tail.p_adjusted) == (None,) * 4
    assert result.headline == "tail(a=0.5) − ReLU = +0.12 points, n = 1: no statement (one seed)."
    assert any("One seed" in note for note in result.notes)
    json.dumps(result.to_dict(), allow_nan=False)
    assert "no statement" in confirm_table(result)


def test_a_diverged_run_counts_as_guessing_and_is_noted(tmp_path: Path, lab: Lab) -> None:
    lab.diverging = (("tail(a=0.5)", FIRST_SEED + 1),)
    result = confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), device="cpu")
    tail = result.rows[-1]
    assert tail.accuracy[1] == pytest.approx(0.1)
    assert tail.diverged == (FIRST_SEED + 1,)
    assert any("tail(a=0.5) diverged at seed 1001" in note for note in result.notes)


def test_what_is_not_significant_is_said_with_the_seeds_it_would_take(
    tmp_path: Path, lab: Lab
) -> None:
    # Differences ±: mean 0.25, sd 2.217 thousandths; d = 0.1127: normal theory asks for 618 pairs.
    noise = (0.002, -0.002, 0.003, -0.002)
    lab.accuracy = lambda who, seed, rate: (
        BASE[seed - FIRST_SEED] + (noise[seed - FIRST_SEED] if who.startswith("tail") else 0.0)
    )
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    result = confirm(stored, device="cpu")
    tail = result.rows[-1]
    assert not tail.significant
    effect = 0.00025 / (math.sqrt(sum((1000 * d - 0.25) ** 2 for d in noise) / 3) / 1000)
    normal = ((1.959964 + 0.841621) / effect) ** 2
    assert tail.seeds_needed == pytest.approx(normal, abs=3)
    assert f"not significant (about {tail.seeds_needed} seeds" in result.headline


def test_guessing_is_naming_the_largest_class(tmp_path: Path, lab: Lab) -> None:
    lab.diverging = (("tail(a=0.5)", FIRST_SEED + 1),)
    lab.accuracy = lambda who, seed, rate: 0.51
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], dataset="uneven")
    result = confirm(stored, device="cpu")
    assert result.rows[-1].accuracy[1] == pytest.approx(91 / 181)  # 81 and a tenth of 100 are one's
    assert any("No row is above guessing (50.3 %)" in note for note in result.notes)


def test_a_rate_that_diverges_is_never_the_best(tmp_path: Path, lab: Lab) -> None:
    lab.accuracy = lambda who, seed, rate: 0.02 * (1 - rate)  # all below guessing
    lab.diverging_at = 0.01
    stored = stored_study(tmp_path, references=(), learning_rates=(0.01, 0.1, 1.0))
    result = confirm(stored, top=0, seeds=2, device="cpu", candidates=[TAIL.bind(a=0.5)])
    assert {row.learning_rate for row in result.rows} == {0.1}


def test_each_row_gets_its_own_rate_from_validation_alone(tmp_path: Path, lab: Lab) -> None:
    best = {"relu": 0.1, "tail(a=0.5)": 0.01}

    def accuracy(who: str, seed: int, rate: float) -> float:
        return known(who, seed, rate) - abs(rate - best[who])

    lab.accuracy = accuracy
    rows = [finished(3, 0.5, 0.9)]
    stored = stored_study(tmp_path, rows, references=(), learning_rates=(0.01, 0.1, 1.0))
    result = confirm(stored, seeds=2, device="cpu")
    assert {row.name: row.learning_rate for row in result.rows} == best
    assert result.learning_rate is None
    for call in lab.calls:
        tuning = call["split"] == "validation"
        assert call["seed"] == (0 if tuning else call["seed"])
        assert tuning or call["settings"].learning_rate == best[call["who"]]
        assert call["settings"].learning_rates == ()
    assert sum(call["split"] == "validation" for call in lab.calls) == 6
    assert [row.seeds for row in result.rows] == [2, 2]
    assert "0.01, 0.1, 1" in result.notes[0]
    # With two seeds no bootstrap is to be had: neither its column nor a word of it.
    shown = confirm_table(result)
    assert "bootstrap" not in shown
    lines = {line.split("  ")[0]: line.split()[-1] for line in shown.splitlines() if "±" in line}
    assert {name: float(lines[name]) for name in best} == best


def test_rates_are_chosen_by_shorter_runs_and_by_those_of_the_search(
    tmp_path: Path, lab: Lab
) -> None:
    best = {"relu": 0.1, "leaky(alpha=0.01)": 1.0, "tail(a=0.5)": 0.01}
    lab.accuracy = lambda who, seed, rate: known(who, seed, rate) - abs(rate - best[who])
    rows = [
        # The search says otherwise than the runs here would: that it is heard can be seen.
        finished(
            0, 0.5, 0.8, kind="baseline", candidate=load_family("relu").default, learning_rate=0.01
        ),
        finished(3, 0.5, 0.9, learning_rate=1.0),
        finished(4, 0.6, 0.5, status="pruned"),
    ]
    stored = stored_study(tmp_path, rows, learning_rates=(0.01, 0.1, 1.0))

    def chosen(**keys: Any) -> tuple[dict[str, float], list[tuple[str, int]], Any]:
        before = len(lab.calls)
        result = confirm(stored, seeds=2, device="cpu", **keys)
        calls = [c for c in lab.calls[before:] if c["split"] == "validation"]
        tuning = sorted({(c["who"], c["settings"].epochs) for c in calls})
        return {row.name: row.learning_rate for row in result.rows}, tuning, result

    # Runs of one epoch, which the search never made: its own have two.
    rates, tuning, result = chosen(rate_epochs=1)
    assert rates == best
    assert tuning == [(who, 1) for who in sorted(best)]
    assert "after 1 epoch(s)" in result.notes[0]
    # As many epochs as the search's: only the reference, which it did not train, is tuned here.
    rates, tuning, result = chosen(rate_epochs=2)
    assert rates == {"relu": 0.01, "leaky(alpha=0.01)": 1.0, "tail(a=0.5)": 1.0}
    assert tuning == [("leaky(alpha=0.01)", 2)]
    assert [row.seeds for row in result.rows] == [2, 2, 2]  # no run of another choice among them
    # As many as the test runs, which is what is done if nothing is said.
    rates, tuning, result = chosen()
    assert rates == best
    assert tuning == [(who, 3) for who in sorted(best)]
    assert "after" not in result.notes[0]


@pytest.mark.parametrize(
    ("rates", "epochs", "problem"),
    [((), 2, "rate_epochs decides nothing"), ((0.1, 0.2), 0, "rate_epochs must be at least 1")],
)
def test_epochs_for_the_rates_that_mean_nothing(
    tmp_path: Path, rates: tuple[float, ...], epochs: int, problem: str
) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], learning_rates=rates)
    with pytest.raises(InputError, match=problem):
        confirm(stored, rate_epochs=epochs, device="cpu")


def test_the_tables_show_both_intervals(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    result = confirm(stored, seeds=5, device="cpu")
    row = result.rows[1]
    assert row.ci95 is not None and row.ci95_bootstrap is not None
    for ends in (row.ci95, row.ci95_bootstrap):
        low, high = (f"{float(end) * 100:+.2f}" for end in ends)
        for text in (confirm_table(result), confirm_markdown(result)):
            assert f"[{low}, {high}]" in text
    assert "learning rate 0.02" in confirm_table(result)  # in the caption: one for all
    assert "next to it the bootstrap's" in confirm_table(result)


def test_controls_are_the_forward_control_and_plain_activations(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    result = confirm(stored, controls=True, seeds=2, device="cpu")
    assert [(row.kind, row.name) for row in result.rows[2:]] == [
        ("forward_control", "forward control of tail(a=0.5)"),
        ("activation", "LeakyReLU"),
        ("activation", "GELU"),
        ("activation", "SiLU"),
        ("remedy", "ReLU at 1.25× its rate"),
    ]
    assert {"LeakyReLU", "GELU", "SiLU"} <= {call["who"] for call in lab.calls}


def test_the_forward_control_alone(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    alone = confirm(stored, forward_control=True, seeds=2, device="cpu")
    assert [(row.kind, row.name) for row in alone.rows[2:]] == [
        ("forward_control", "forward control of tail(a=0.5)")
    ]
    # Its runs serve the other controls' call as well.
    trained = len(lab.calls)
    result = confirm(stored, controls=True, seeds=2, device="cpu")
    kinds = ["forward_control", *["activation"] * 3, "remedy"]
    assert [row.kind for row in result.rows[2:]] == kinds
    assert len(lab.calls) == trained + 8


@pytest.mark.parametrize("name", ["LeakyReLU", "GELU", "SiLU"])
def test_the_activations_formulas_are_torchs(name: str) -> None:
    import torch

    from pdsearch.confirm.contenders import ACTIVATIONS
    from pdsearch.expression import parse

    formula = parse(ACTIVATIONS[name], parameters=())
    for at in (-3.0, -0.5, 0.0, 0.25, 2.0):
        ours = float(formula.subs(x, sympy.Rational(str(at))).evalf(30))
        theirs = getattr(torch.nn, name)()(torch.tensor(at, dtype=torch.float64)).item()
        assert ours == pytest.approx(theirs, abs=1e-14)


def test_transfers_are_kept_apart(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)])
    result = confirm(stored, seeds=2, transfer=["resnet18@other"], device="cpu")
    assert (result.model, result.dataset) == ("alexnet", "digits")
    (there,) = result.transfers
    assert (there.model, there.dataset) == ("resnet18", "other")
    assert len(there.rows) == len(result.rows) == 3
    assert len(lab.calls) == 12
    document = result.to_dict()
    assert document["transfers"][0]["model"] == "resnet18"
    assert load_confirmation(stored) == result
    assert "### resnet18 on other" in confirm_markdown(result)
    assert "resnet18 on other" in confirm_table(result)


def test_a_transfer_that_does_not_fit_the_settings_is_refused(tmp_path: Path, lab: Lab) -> None:
    """Such a setting would be ignored there, and the rows would not be what they seem."""
    stored = stored_study(
        tmp_path, [finished(3, 0.5, 0.9)], model="mlp", activation="crelu", normalisation="layer"
    )
    with pytest.raises(
        InputError,
        match=r"^transfer 'alexnet@digits': activation is for model 'mlp' only, not 'alexnet'; "
        r"normalisation is for model 'mlp' only",
    ):
        confirm(stored, transfer=["alexnet@digits"], device="cpu")
    assert lab.calls == []


def test_other_epochs_are_another_confirmation(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)])
    confirm(stored, seeds=2, device="cpu")
    other = confirm(stored, seeds=2, epochs=5, device="cpu")
    assert other.epochs == 5
    assert len(lab.calls) == 12
    assert load_confirmation(stored) == other


def test_caffes_initialisation_stays_with_alexnet(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], initialisation="caffe")
    result = confirm(stored, seeds=1, transfer=["resnet18@digits"], device="cpu")
    starts = {(call["settings"].model, call["settings"].initialisation) for call in lab.calls}
    assert starts == {("alexnet", "caffe"), ("resnet18", "pytorch")}
    assert "resnet18 begins from PyTorch's initialisation: Caffe's is AlexNet's." in result.notes


def test_a_study_around_a_function_is_refused(tmp_path: Path, lab: Lab) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)])
    stored.study.set_user_attr("pdsearch:train", "my_training")
    with pytest.raises(InputError, match="'made-up' trains by a Python function"):
        confirm(stored, device="cpu")


def test_a_finished_run_waits_for_a_storage_that_is_away(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = connect(f"sqlite:///{tmp_path}/study.db", create=True)
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=(), storage=storage)
    keep = RDBStorage.set_study_user_attr
    waits: list[float] = []
    said: list[str] = []
    monkeypatch.setattr(interrupt, "pause", waits.append)

    def away(why: str) -> Exception:
        lost = sqlalchemy.exc.OperationalError("UPDATE", None, OSError(why))
        error = optuna.exceptions.StorageInternalError("An exception is raised")
        error.__cause__ = lost
        return error

    def back_soon(self: RDBStorage, *args: Any) -> None:
        if len(waits) < 2:
            raise away("the server is starting up")
        keep(self, *args)

    monkeypatch.setattr(RDBStorage, "set_study_user_attr", back_soon)
    result = confirm(stored, seeds=1, device="cpu", workers=1, progress=said.append)
    assert waits[0] < waits[1] and len(waits) == 2
    assert [row.seeds for row in result.rows] == [1, 1]
    away_said, back_said = said[:2]
    assert "away (the server is starting up)" in away_said and "is back" in back_said

    def gone(self: RDBStorage, *args: Any) -> None:
        raise away("no route to host")

    monkeypatch.setattr(RDBStorage, "set_study_user_attr", gone)
    with pytest.raises(StorageError, match="no route to host"):
        confirm(stored, seeds=2, device="cpu", workers=1, storage_wait=0.1)


def test_an_untouched_study_has_no_confirmation(tmp_path: Path) -> None:
    assert load_confirmation(stored_study(tmp_path)) is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"top": -1}, "top must be at least 0, got -1"),
        ({"transfer": ["vgg16"]}, "a transfer is written MODEL@DATASET .* got 'vgg16'"),
        ({"transfer": ["@digits"]}, "a transfer is written MODEL@DATASET"),
        ({"transfer": ["vgg16@nowhere"]}, "unknown data set 'nowhere'"),
        ({"transfer": ["vgg61@digits"]}, "vgg61"),
        ({"transfer": ["alexnet@small"]}, "batch_size: 256 is more than the 10 training images"),
        ({"device": "cuda:77"}, "cuda:77"),
    ],
)
def test_wrong_input_ends_before_any_training(
    tmp_path: Path, lab: Lab, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), **{"device": "cpu", **keys})
    assert lab.calls == []


def test_a_study_without_candidates_says_what_to_do(tmp_path: Path, lab: Lab) -> None:
    with pytest.raises(InputError, match="'made-up' has no finished candidate to confirm yet"):
        confirm(stored_study(tmp_path), device="cpu")


def test_table_and_markdown_hold_every_row(tmp_path: Path, lab: Lab) -> None:
    result = confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), device="cpu")
    table = confirm_table(result)
    assert table.splitlines()[0] == result.headline
    assert table.splitlines()[1] == "alexnet on digits, test set, 3 epochs, learning rate 0.02"
    markdown = confirm_markdown(result)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(result.rows)
    assert len({line.count(" | ") for line in (lines[0], *lines[2:])}) == 1
    for row in result.rows:
        assert row.name in table and row.name in markdown
        assert f"{100 * row.mean:.2f}" in table and f"{100 * row.mean:.2f}" in markdown


def test_a_forward_control_without_a_closed_form_is_noted(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(candidate: Candidate) -> Any:
        raise UnsupportedError("no closed form is known for the integral of g")

    monkeypatch.setattr(pdsearch.autograd, "forward_control", refuse)
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)], references=())
    result = confirm(stored, controls=True, seeds=2, device="cpu")
    assert [row.kind for row in result.rows[2:]] == [*["activation"] * 3, "remedy"]
    assert "No forward control of tail(a=0.5): no closed form is known" in result.notes[-1]


def test_a_checkpoint_outlives_a_storage_that_refuses(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = stored_study(tmp_path, [finished(3, 0.5, 0.9)])
    train = lab.run_trial

    def run_trial(*values: Any, **keys: Any) -> Any:
        keys["checkpoint"].write_bytes(b"weights")
        return train(*values, **keys)

    def refuse(key: str, value: Any) -> None:
        raise OSError("the server has gone")

    monkeypatch.setattr(pdsearch.trial, "run_trial", run_trial)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="the server has gone"):
        broken.setattr(stored.study, "set_user_attr", refuse)
        confirm(stored, seeds=1, device="cpu")
    (kept,) = (stored.output / "confirm").iterdir()
    confirm(stored, seeds=1, device="cpu")
    assert lab.calls[0]["checkpoint"] == lab.calls[1]["checkpoint"] == kept
    assert not (stored.output / "confirm").exists()


def test_rows_at_the_level_of_guessing_are_called_so(tmp_path: Path, lab: Lab) -> None:
    lab.accuracy = lambda who, seed, rate: 0.1 + 0.001 * (seed % 3)
    result = confirm(stored_study(tmp_path, [finished(3, 0.5, 0.9)]), device="cpu")
    assert any("No row is above guessing (10.0 %)" in note for note in result.notes)
    assert sum("same amount" in note for note in result.notes) == 1


STUDY = """
[study]
name = "whole-path"
families = ["mild.py:mild"]
references = ["leaky"]
trials = 4
sampler = "random"
pruner = "none"
[trial]
model = "small.py:net"
dataset = "digits"
epochs = 1
batch_size = 128
learning_rate = 0.1
precision = "auto"
[confirm]
seeds = 2
epochs = 2
"""

FAMILY = """
import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, x

a = sympy.Symbol("a")
tail = sympy.Piecewise((1, x > 0), (a * sympy.exp(x), True))
mild = Family("mild", tail, space={"a": FloatDistribution(0.1, 0.5)})
"""


def test_the_whole_path_on_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pdsearch.data import load_dataset
    from pdsearch.insight import learned_criteria
    from pdsearch.study import open_study, search

    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text(STUDY, encoding="utf-8")
    Path("mild.py").write_text(FAMILY, encoding="utf-8")
    Path("small.py").write_text(SMALL_NET, encoding="utf-8")
    search("study.toml", device="cpu", threads=1, progress=False)
    stored = open_study("study.toml")
    result = confirm(stored, top=1, controls=True, device="cpu")
    assert [row.kind for row in result.rows] == [
        "baseline",
        "reference",
        "candidate",
        "forward_control",
        *["activation"] * 3,
        "remedy",
    ]
    assert result.rows[-1].name.startswith("ReLU at ")
    assert all(row.seeds == 2 and 0.1 < row.mean < 1 for row in result.rows)
    # The forward passes differ: max(x, x/100) against max(x, 0).
    by_name = {row.name: row for row in result.rows}
    assert by_name["LeakyReLU"].accuracy != by_name["leaky(alpha=0.01)"].accuracy

    # One run of it by hand, from the same seed: the same accuracy to the bit.
    candidate = next(row for row in result.rows if row.kind == "candidate")
    best = stored.best()
    assert best is not None and best.candidate is not None
    assert candidate.name == best.candidate.name
    alone = pdsearch.trial.run_trial(
        best.candidate,
        stored.settings.trial.model_copy(update={"epochs": 2}),
        load_dataset("digits"),
        seed=FIRST_SEED,
        device="cpu",
        threads=1,
        split="test",
        directory=tmp_path,
    )
    assert alone.value == candidate.accuracy[0]

    # Read back, and asked again: nothing is trained.
    monkeypatch.setattr(pdsearch.trial, "run_trial", None)
    assert load_confirmation(open_study("study.toml")) == result
    assert confirm(open_study("study.toml"), top=1, controls=True, device="cpu") == result
    insight = learned_criteria(stored)
    assert [point.kind for point in insight.points][:2] == ["baseline", "reference"]
    assert {"consistent", "gain", "bounded"} <= {learned.name for learned in insight.criteria}
