"""Learned criteria: from made-up studies whose correlations are known."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sympy

import pdsearch.criteria
from pdsearch.family import Family
from pdsearch.insight import EARLY, FEWEST, insight_table, learned_criteria
from pdsearch.study.rows import TrialRow

a = sympy.Symbol("a")


def candidate(number: int) -> Any:
    from optuna.distributions import FloatDistribution

    from pdsearch.expression import x

    family = Family(
        "tail",
        sympy.Piecewise((1, x > 0), (a * sympy.exp(x), True)),
        space={"a": FloatDistribution(0.001, 1.0)},
    )
    return family.bind(a=(number + 1) / 1000)


def entry(name: str, value: Any, *, passed: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "statement": f"{name} holds",
        "verdict": "proved",
        "value": value,
        "passed": passed,
    }


def row(
    number: int, accuracy: float | None, criteria: list[dict[str, Any]], **other: Any
) -> TrialRow:
    fields: dict[str, Any] = {
        "candidate": candidate(number),
        "value": accuracy,
        "values": () if accuracy is None else (accuracy,),
        "epochs": ({},) * 3,
        "criteria": {"criteria": criteria},
    }
    return TrialRow(number, "candidate", **{"status": "complete", **fields, **other})


def study(rows: list[Any], *, sampler: str = "random", objectives: list[str] | None = None) -> Any:
    settings = SimpleNamespace(
        study=SimpleNamespace(sampler=sampler, objectives=objectives or ["accuracy"], groups={}),
        trial=SimpleNamespace(epochs=3),
        criteria=SimpleNamespace(bounds=lambda: {"consistent": 0.4}),
    )
    return SimpleNamespace(
        name="made-up",
        storage="sqlite:///:memory:",
        study=optuna.create_study(),
        settings=settings,
        trials=lambda: rows,
        minimize=False,
    )


REAL_GATE = pdsearch.criteria.gate


class Gate:
    """Stands in for the criteria: what it is told, and how often it was asked."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def __call__(self, candidate: Any, *, profile: str, thresholds: Any) -> Any:
        assert (profile, thresholds) == ("strict", {"consistent": 0.4})
        self.asked.append(candidate.formula)
        return SimpleNamespace(to_dict=lambda: {"criteria": self.entries})


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    fake = Gate()
    monkeypatch.setattr("pdsearch.insight.gate", fake)
    return fake


def mixed(n: int = 12) -> list[Any]:
    """Accuracy rises with `consistent`, has nothing to do with `gain`; `bounded` never varies."""
    order = [(5 * i) % n for i in range(n)] if math.gcd(5, n) == 1 else list(range(n))
    return [
        row(
            i,
            0.5 + i / 100,
            [
                entry("consistent", [i / 10 - 1e-12, i / 10 + 1e-12]),
                entry("gain", float(order[i])),
                entry("bounded", 1.0),
                entry("limits", None, passed=i % 2 == 0),
            ],
        )
        for i in range(n)
    ]


def test_a_monotone_criterion_is_found_and_the_others_are_not() -> None:
    insight = learned_criteria(study(mixed()))
    found = {learned.name: learned for learned in insight.criteria}
    assert list(found) == ["consistent", "limits", "bounded", "gain"]
    consistent = found["consistent"]
    assert consistent.correlation is not None
    assert consistent.correlation.rho == pytest.approx(1.0)
    # None of 9 999 random orders of twelve is as extreme; scipy counts the observed: 2 / 10 000.
    assert consistent.correlation.p_value == pytest.approx(2e-4)
    assert consistent.p_adjusted == pytest.approx(6e-4)
    assert consistent.verdict == "evidence"
    assert consistent.sentence == (
        "evidence: a larger mean distance of g from the step goes with higher accuracy"
    )
    assert found["gain"].verdict == "no evidence"
    assert found["bounded"].verdict == "constant"
    assert found["bounded"].correlation is None
    assert "no statement" in found["bounded"].sentence
    assert insight.headline == "Among 12 trials of 3 epochs, accuracy is related to consistent."


def test_a_criterion_without_values_counts_as_met_or_not() -> None:
    rows = [row(i, i / 10, [entry("limits", None, passed=i > 4)]) for i in range(10)]
    (limits,) = learned_criteria(study(rows)).criteria
    assert limits.measure == "whether it is met"
    assert limits.values == (0.0,) * 5 + (1.0,) * 5
    # Ranks 3 and 8 against 1..10: 62.5 / √(62.5 · 82.5).
    assert limits.correlation is not None
    assert limits.correlation.rho == pytest.approx(math.sqrt(62.5 / 82.5))
    assert "meeting it goes with higher accuracy" in limits.sentence


def test_only_trials_of_the_full_budget_count_and_each_shape_once() -> None:
    rows = mixed(8)
    rows += [
        row(20, 0.9, [entry("consistent", 9.0)], status="pruned"),
        row(21, None, [entry("consistent", 9.0)], status="ruled_out"),
        row(22, math.nan, [entry("consistent", 9.0)]),
        row(24, 0.9, [entry("consistent", 9.0)], candidate=candidate(0)),
    ]
    rows.append(row(25, 0.9, [entry("consistent", 9.0)], duplicate_of=3))
    insight = learned_criteria(study(rows))
    assert [point.trial for point in insight.points] == list(range(8))
    text = " ".join(insight.notes)
    assert "Left out: 1 pruned trial," in text
    assert "Left out: 1 ruled out trial," in text
    assert "Left out: 3 complete trials with" in text


def test_too_few_trials_make_no_statement() -> None:
    insight = learned_criteria(study(mixed(FEWEST - 1)))
    assert {learned.verdict for learned in insight.criteria} == {"too few trials"}
    assert "too few for a statement" in insight.headline


@pytest.mark.parametrize(("sampler", "word"), [("tpe", "adaptive"), ("random", "without looking")])
def test_the_sampler_is_spoken_of(sampler: str, word: str) -> None:
    assert word in learned_criteria(study(mixed(), sampler=sampler)).notes[0]


def test_an_unfinished_study_says_nothing() -> None:
    insight = learned_criteria(study([]))
    assert insight.criteria == ()
    assert "0 trials" in insight.headline
    assert insight_table(insight).startswith("0 trials")


def test_a_trial_without_a_report_leaves_a_gap() -> None:
    rows = [*mixed(), replace(row(30, 0.4, []), criteria=None)]
    insight = learned_criteria(study(rows))
    assert insight.criteria[0].values[-1] is None
    assert insight.criteria[0].n == 12


def test_the_document_is_plain_and_the_table_shows_every_criterion() -> None:
    insight = learned_criteria(study(mixed()))
    document = json.loads(json.dumps(insight.to_dict(), allow_nan=False))
    assert [one["name"] for one in document["criteria"]] == [
        "consistent",
        "limits",
        "bounded",
        "gain",
    ]
    assert document["criteria"][0]["rho"] == pytest.approx(1.0)
    assert document["criteria"][2]["rho"] is None
    assert len(document["points"]) == len(document["criteria"][0]["values"]) == 12
    table = insight_table(insight)
    for name in ("consistent", "gain", "bounded", "limits"):
        assert sum(line.startswith(name) for line in table.splitlines()) == 1


def test_of_two_objectives_the_accuracy_is_taken() -> None:
    rows = [row(i, 0.0, [entry("gain", float(i))], values=(-i / 10, i / 100)) for i in range(8)]
    insight = learned_criteria(study(rows, objectives=["dead_units", "accuracy"]))
    assert [point.accuracy for point in insight.points] == [i / 100 for i in range(8)]
    assert insight.criteria[0].correlation is not None
    assert insight.criteria[0].correlation.rho == pytest.approx(1.0)


def test_what_the_gate_left_out_is_decided_once_and_kept(gate: Gate) -> None:
    gate.entries = [entry("gain", 1.5), entry("consistent", 99.0)]
    made_up = study([row(i, i / 10, [entry("consistent", float(i))]) for i in range(6)])
    insight = learned_criteria(made_up)
    values = {learned.name: learned.values for learned in insight.criteria}
    # What the trial itself holds wins.
    assert values == {"consistent": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "gain": (1.5,) * 6}
    assert len(gate.asked) == 6
    assert learned_criteria(made_up) == insight
    assert len(gate.asked) == 6


def test_a_storage_that_cannot_be_written_to_is_no_obstacle(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = study(mixed())
    expected = learned_criteria(study(mixed()))

    def refuse(key: str, value: Any) -> None:
        raise optuna.exceptions.StorageInternalError("readonly")

    monkeypatch.setattr(made_up.study, "set_user_attr", refuse)
    assert learned_criteria(made_up) == expected


def test_values_of_a_real_candidate_are_those_of_the_criteria(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdsearch.insight.gate", REAL_GATE)
    insight = learned_criteria(study([row(299, 0.5, [])]))
    values = {learned.name: learned.values[0] for learned in insight.criteria}
    # a = 0.3: E|g - step| = 0.3 E[e^x; x < 0] = 0.3 e^(1/2) erfc(1/sqrt 2)/2, sup 1, inf 0.
    expected = 0.3 * math.exp(0.5) * math.erfc(1 / math.sqrt(2)) / 2
    assert values["consistent"] == pytest.approx(expected, abs=1e-5)
    assert values["bounded"] == pytest.approx(1.0, abs=1e-5)
    assert values["sign_preserving"] == pytest.approx(0.0, abs=1e-5)
    assert "cheap" not in values


def test_a_fall_counts_as_met_or_not_and_the_undecided_not_at_all() -> None:
    entries = [entry("non_decreasing", 0.0) for _ in range(6)]
    entries[1] = entry("non_decreasing", 0.003, passed=False)
    entries[2] = {**entry("non_decreasing", None, passed=False), "verdict": "undecided"}
    rows = [row(i, i / 10, [one]) for i, one in enumerate(entries)]
    (learned,) = learned_criteria(study(rows)).criteria
    assert learned.values == (1.0, 0.0, None, 1.0, 1.0, 1.0)


def test_a_wide_enclosure_is_no_value() -> None:
    values = ([0.1, 0.1001], [0.1, 0.9], [0.2, None], 0.3, math.inf)
    rows = [row(i, i / 10, [entry("gain", value)]) for i, value in enumerate(values)]
    (learned,) = learned_criteria(study(rows)).criteria
    assert learned.values == (pytest.approx(0.10005), None, None, 0.3, None)


def test_equal_accuracies_make_no_statement() -> None:
    rows = [row(i, 0.1, [entry("gain", float(i))]) for i in range(8)]
    (learned,) = learned_criteria(study(rows)).criteria
    assert learned.verdict == "constant"
    assert learned.sentence == "does not vary, or accuracy does not: no statement"


def test_early_figures_stand_beside_the_criteria() -> None:
    rows = []
    for n in range(8):
        looked = {
            "cosine": 0.9 + n / 100,
            "norm_ratio": 1.0,
            "layers": {},
            "revived": {"a": n / 10, "b": 0.0},
            "died": {},
        }
        epochs = [{"epoch": 1, "diagnostics": looked}, {"epoch": 2, "diagnostics": looked}]
        rows.append(row(n, 0.5 + n / 50, [entry("gain", 1.0)], epochs=epochs))
    found = {one.name: one for one in learned_criteria(study(rows)).criteria}
    assert set(EARLY) <= found.keys()
    assert found["early_cosine"].correlation.rho == pytest.approx(1.0)
    assert found["early_cosine"].values[3] == pytest.approx(0.93)
    assert found["early_revived"].values[2] == pytest.approx(0.1)
    assert found["early_norm_ratio"].verdict == "constant"
    assert "first epoch" in found["early_cosine"].statement
    without = learned_criteria(study([row(n, 0.5, [entry("gain", 1.0)]) for n in range(8)]))
    assert not set(EARLY) & {one.name for one in without.criteria}
