"""Searches around a Python function, read back by plain Optuna."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from made_up import made_up_study
from optuna.distributions import FloatDistribution, IntDistribution

from pdsearch import Candidate, Family, InputError, load_family
from pdsearch.criteria import FamilyGate, check
from pdsearch.errors import PdsearchError
from pdsearch.expression import parse
from pdsearch.family import Drawn
from pdsearch.insight import learned_criteria
from pdsearch.report import study_report
from pdsearch.study import attempt, load_study_file, open_study, search, status
from pdsearch.study import run as loop
from pdsearch.study.api import SearchResult
from pdsearch.study.attributes import FIXED, Kind
from pdsearch.study.families import grid, offered, resolve_families
from pdsearch.study.pruning import make_pruner
from pdsearch.study.rows import Status, TrialRow, ranked
from pdsearch.study.sampler import make_sampler, trial_seed
from pdsearch.study.settings import StudySection
from pdsearch.study.twins import Curve

KIND = "pdsearch:kind"


def at_minus_one(candidate: Drawn | None) -> float:
    assert isinstance(candidate, Candidate)
    return float(candidate(torch.tensor([-1.0]))[0])


def train(candidate: Candidate, seed: int) -> Iterator[float]:
    """Best where g(-1) = 0.3; the order among candidates is the same at every epoch."""
    for epoch in range(1, 5):
        yield 1 - abs(at_minus_one(candidate) - 0.3) - 0.1 / epoch


def find(tmp_path: Path, **keys: Any) -> SearchResult:
    arguments = {
        "families": ["exp_tail", "leaky"],
        "references": ["b_silu"],
        "train": train,
        "trials": 10,
        "storage": f"sqlite:///{tmp_path}/study.db",
        "progress": False,
        **keys,
    }
    return search(**arguments)


def plain(tmp_path: Path, name: str = "pdsearch") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path}/study.db")


@pytest.fixture(autouse=True)
def _here(workdir: Path) -> None:
    """Every search of this file writes its results to a folder of its own."""


# --------------------------------------------------------------------------------- the whole path


def test_a_search_as_plain_optuna_sees_it(tmp_path: Path) -> None:
    result = find(tmp_path)
    study = plain(tmp_path)
    assert [t.user_attrs[KIND] for t in study.trials[:2]] == ["baseline", "reference"]
    assert all(t.user_attrs[KIND] == "candidate" for t in study.trials[2:])
    assert len(study.trials) == 10
    assert all(not t.params for t in study.trials[:2])
    for trial in study.trials[2:]:
        family = trial.params["family"]
        assert {name.split(".")[0] for name in trial.params} == {"family", family}
    candidates = [
        t
        for t in study.trials
        if t.user_attrs[KIND] == "candidate" and t.state == optuna.trial.TrialState.COMPLETE
    ]
    best = max(candidates, key=lambda trial: trial.values[0])
    data = result.to_dict()
    assert data["best"]["trial"] == best.number
    assert data["best"]["value"] == best.value
    assert data["best"]["family"] == best.params["family"]
    assert (result.best.number, result.best.value) == (best.number, best.value)
    assert data["baseline"]["value"] == study.trials[0].value == pytest.approx(0.7 - 0.025)
    assert list(data["references"]) == ["b_silu"]
    states = [t.state.name for t in study.trials]
    assert data["trials"]["complete"] == states.count("COMPLETE")
    assert data["trials"]["pruned"] + data["trials"]["ruled_out"] == states.count("PRUNED")
    assert data["trials"]["total"] == 10
    assert set(data) == {"study", "storage", "trials", "best", "baseline", "references"}


def test_what_is_kept_with_a_study(tmp_path: Path) -> None:
    result = find(tmp_path, trials=4)
    attrs = plain(tmp_path).user_attrs
    assert attrs["pdsearch:schema"] == 1
    assert attrs["pdsearch:versions"]["torch"] == torch.__version__.split("+")[0]
    assert attrs["pdsearch:versions"]["optuna"] == optuna.__version__
    assert Family.from_dict(attrs["pdsearch:families"]["exp_tail"]) == load_family("exp_tail")
    assert attrs["pdsearch:settings"]["study"]["trials"] == 4
    stored = open_study("pdsearch", storage=f"sqlite:///{tmp_path}/study.db")
    assert stored.settings == result.stored.settings
    assert set(stored.families) == {"relu", "exp_tail", "leaky", "b_silu"}
    for row in stored.trials():
        assert row.candidate is not None
        assert row.epochs[-1]["accuracy"] == pytest.approx(row.value)
        assert row.seconds >= 0


def test_the_total_is_the_studys(tmp_path: Path) -> None:
    find(tmp_path, trials=5)
    before = {t.number: t.value for t in plain(tmp_path).trials}
    find(tmp_path, trials=5)
    assert {t.number: t.value for t in plain(tmp_path).trials} == before
    find(tmp_path, trials=8)
    after = {t.number: t.value for t in plain(tmp_path).trials}
    assert len(after) == 8
    assert after.items() >= before.items()


def test_a_resumed_search_draws_what_an_uninterrupted_one_draws(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # TPE starts up longer in a longer study; random search has no such phase.
    find(tmp_path / "a", sampler="random", trials=9)
    find(tmp_path / "b", sampler="random", trials=5)
    find(tmp_path / "b", sampler="random", trials=9)
    once, twice = plain(tmp_path / "a").trials, plain(tmp_path / "b").trials
    assert [t.params for t in once] == [t.params for t in twice]


def test_trial_seeds_differ_by_study_seed_and_number() -> None:
    sections = [StudySection(name="s", families=["leaky"], seed=seed) for seed in range(3)]
    seeds = {trial_seed(section, n) for section in sections for n in range(100)}
    assert len(seeds) == 300


# --------------------------------------------------------------------------- criteria, references


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies as an earlier version began them: nothing is known of whole families."""

    def nothing(families: Any, criteria: Any, *, say: Any) -> dict[str, Any]:
        return {}

    monkeypatch.setattr("pdsearch.study.api.settle_families", nothing)


@pytest.mark.usefixtures("one_by_one")
def test_ruled_out_candidates_are_never_trained(tmp_path: Path) -> None:
    trained = []

    def note(candidate: Candidate) -> Iterator[float]:
        trained.append(candidate)
        yield at_minus_one(candidate)

    steep = {"formula": "a + x - x", "space": {"a": [0.9, 1.0]}, "name": "constant"}
    steep["formula"] = "Piecewise((1, x > 0), (a, True))"
    result = find(tmp_path, train=note, families=[steep], trials=6, references=["nelu"])
    # A constant near 1 below zero is not consistent with ReLU's derivative: E|g - 1[x>0]| = a/2.
    rows = result.stored.trials()
    assert [row.status for row in rows] == ["complete", "complete", *["ruled_out"] * 4]
    assert len(trained) == 2
    for row in rows[2:]:
        assert "consistent" in row.reason
        assert isinstance(row.candidate, Candidate)
        assert not check(row.candidate)["consistent"].passed
        assert row.criteria["passed"] is False
        assert row.value is None
    assert result.to_dict()["best"] is None
    assert result.to_dict()["trials"]["ruled_out"] == 4
    frozen = plain(tmp_path).trials[2]
    assert frozen.state == optuna.trial.TrialState.PRUNED
    assert frozen.constraints == {"criteria": 1.0}


def with_threshold(tmp_path: Path, consistent: float) -> Path:
    file = tmp_path / "s.toml"
    file.write_text(
        '[study]\nname = "s"\nfamilies = ["leaky"]\nreferences = []\ntrials = 4\n'
        f'storage = "sqlite:///{tmp_path}/study.db"\n[criteria]\nconsistent = {consistent}\n'
    )
    return file


@pytest.mark.usefixtures("one_by_one")
def test_thresholds_move_the_gate(tmp_path: Path) -> None:
    rows = search(with_threshold(tmp_path, 1e-4), train=train, progress=False).stored.trials()
    assert [row.status for row in rows] == ["complete", *["ruled_out"] * 3]


# ------------------------------------------------------------------- what holds for whole families


def test_of_a_family_that_cannot_pass_it_is_said_and_nothing_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(candidate: Candidate) -> float:
        assert candidate.family.name == "relu"
        return 0.5

    url = f"sqlite:///{tmp_path}/study.db"
    found = search(
        families=["helu"], references=[], trials=4, name="flat", storage=url, train=train
    )
    said = capsys.readouterr().err
    assert said.count("each candidate of helu will be ruled out: no parameters can pass") == 1
    assert found.to_dict()["trials"] == {
        "complete": 1, "pruned": 0, "ruled_out": 3, "failed": 0, "total": 4,
    }  # fmt: skip
    assert found.to_dict()["best"] is None
    assert found.stored.gates["helu"].hopeless.startswith("no parameters can pass all criteria")


def spy_on_gates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    asked = []
    original = attempt.gate

    def spy(candidate: Candidate, **keys: Any) -> Any:
        asked.append((candidate.family.name, keys["known"]))
        return original(candidate, **keys)

    monkeypatch.setattr(attempt, "gate", spy)
    return asked


def test_what_a_family_is_proved_for_is_not_asked_of_its_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spy_on_gates(monkeypatch)
    stored = find(tmp_path, families=["leaky", "rational_tail"], trials=12).stored
    attribute = plain(tmp_path).user_attrs["pdsearch:gates"]
    assert attribute["leaky"] == {
        "proved": ["alive_below_zero", "consistent"],
        "ranges": {},
        "hopeless": "",
    }
    assert attribute["rational_tail"]["proved"] == ["alive_below_zero"]
    assert {name for name, _ in asked} == {"leaky", "rational_tail"}
    for name, known in asked:
        assert known == dict.fromkeys(attribute[name]["proved"], "proved")
    for row in stored.trials()[2:]:
        entries = {entry["name"]: entry for entry in row.criteria["criteria"]}
        whole = row.candidate.family.name == "leaky"
        assert (entries["consistent"]["value"] is None) == whole
        assert (entries["consistent"]["detail"] == "for the whole family") == whole
        assert entries["alive_below_zero"]["verdict"] == "proved"
        assert entries["alive_below_zero"]["detail"] == "for the whole family"
    assert status(stored)["families"] == attribute


def test_a_family_is_decided_once_for_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(tmp_path, trials=4)
    kept = plain(tmp_path).user_attrs["pdsearch:gates"]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("decided again")

    monkeypatch.setattr("pdsearch.study.families.settle", never)
    find(tmp_path, trials=6)
    assert plain(tmp_path).user_attrs["pdsearch:gates"] == kept


def test_a_study_begun_without_it_goes_on_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pdsearch.study.begin._decided_once", without_gates)
        find(tmp_path, trials=4)
    assert "pdsearch:gates" not in plain(tmp_path).user_attrs
    asked = spy_on_gates(monkeypatch)
    stored = find(tmp_path, trials=12).stored
    assert "pdsearch:gates" not in plain(tmp_path).user_attrs
    assert asked and all(known == {} for _, known in asked)
    assert stored.gates == {} and status(stored)["families"] == {}
    drawn: list[Any] = [
        t.distributions for t in plain(tmp_path).trials if "exp_tail.beta" in t.params
    ]
    assert all(space["exp_tail.beta"].high == 10.0 for space in drawn)


def without_gates(
    settings: StudySection, decide: Callable[..., Any], settle: Any
) -> dict[str, Any]:
    return {"settings": decide(settings).model_dump(mode="json")}


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "grid"])
def test_what_is_ruled_out_for_every_candidate_is_not_offered(tmp_path: Path, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    find(tmp_path, sampler=sampler, families=["exp_tail"], trials=14, pruner="none")
    study = plain(tmp_path)
    low, high = study.user_attrs["pdsearch:gates"]["exp_tail"]["ranges"]["beta"]
    assert low == 0.1 and high < 6
    values = [t.params["exp_tail.beta"] for t in study.trials[2:]]
    assert len(values) == 12 and low <= min(values) and max(values) <= high
    if sampler == "grid":
        assert max(values) == high
    for trial in study.trials[2:]:
        drawn: Any = trial.distributions["exp_tail.beta"]
        assert drawn.high == high
        # The family stays as it was written: what is kept of a candidate does not change.
        space = trial.user_attrs["pdsearch:candidate"]["family"]["space"]
        assert space["beta"]["high"] == 10.0


def test_own_criteria_are_asked_of_every_candidate(tmp_path: Path) -> None:
    asked = []

    def mine(candidate: Candidate) -> tuple[float, bool]:
        asked.append(candidate)
        return 0.0, True

    stored = find(tmp_path, families=["leaky"], criteria=[mine], trials=6).stored
    assert asked == [row.candidate for row in stored.trials()[2:]]


def test_ranges_are_narrowed_on_their_own_steps() -> None:
    family = Family(
        "steps",
        parse("Piecewise((1, x > 0), (n*s*a/100, True))", parameters=["n", "s", "a"]),
        space={
            "n": IntDistribution(1, 9, step=2),
            "s": FloatDistribution(0.1, 0.9, step=0.1),
            "a": FloatDistribution(0.01, 1.0, log=True),
        },
    )
    ranges = {"n": (2.1, 7.9), "s": (0.3, 0.5), "a": (0.02, 0.5)}
    space = offered(family, FamilyGate(ranges=ranges))
    assert space["n"] == IntDistribution(3, 7, step=2)
    assert space["s"] == family.space["s"]
    assert space["a"] == FloatDistribution(0.02, 0.5, log=True)
    # No whole number lies within: nothing is cut off, each candidate is decided by itself.
    assert offered(family, FamilyGate(ranges={"n": (3.2, 4.8)}))["n"] == family.space["n"]
    assert offered(family) == dict(family.space)


def test_families_are_named_on_stderr_as_they_are_decided(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    find(tmp_path, trials=2, progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == [
        "criteria of the family exp_tail (1 of 2)",
        "criteria of the family leaky (2 of 2)",
    ]


def test_references_are_never_best_and_never_pruned(tmp_path: Path) -> None:
    def prefers_the_reference(candidate: Candidate) -> Iterator[float]:
        value = 0.9 if candidate.family.name == "b_silu" else 0.1
        for epoch in range(1, 9):
            yield value / epoch  # worse every epoch: what pruners stop

    result = find(tmp_path, train=prefers_the_reference, trials=8)
    data = result.to_dict()
    assert data["best"]["family"] != "b_silu"
    assert data["references"]["b_silu"] > data["best"]["value"]
    assert [row.status for row in result.stored.trials()[:2]] == ["complete", "complete"]


def test_own_criteria_gate_too(tmp_path: Path) -> None:
    def small_tail(candidate: Candidate) -> tuple[float, bool]:
        value = at_minus_one(candidate)
        return value, value < 0.05

    rows = find(tmp_path, criteria=[small_tail], families=["leaky"], trials=8).stored.trials()
    assert {row.status == "ruled_out" for row in rows[2:]} == {True, False}
    for row in rows[2:]:
        assert (row.status == "ruled_out") == (at_minus_one(row.candidate) >= 0.05)


# ---------------------------------------------------------------- pruning, divergence, duplicates


@pytest.mark.parametrize("pruner", ["hyperband", "median", "halving"])
def test_pruners_stop_the_worse_ones(tmp_path: Path, pruner: str) -> None:
    steps: list[tuple[Drawn | None, int]] = []

    def count(candidate: Candidate) -> Iterator[float]:
        for epoch, value in enumerate(train(candidate, 0), start=1):
            steps.append((candidate, epoch))
            yield value

    result = find(tmp_path, train=count, trials=12, pruner=pruner, families=["exp_tail"])
    counts = result.stored.counts()
    assert counts["pruned"] > 0
    assert counts["total"] == 12
    for row in result.stored.trials():
        if row.status == "pruned":
            assert len(row.epochs) < 4
            assert steps.count((row.candidate, 4)) == 0
            word = "stopped" if pruner == "halving" else "pruned"
            assert row.reason == f"{word} after epoch {len(row.epochs)}"


@pytest.mark.parametrize("pruner", ["hyperband", "median", "halving"])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_candidate_is_finished_however_good_the_references_are(
    tmp_path: Path, pruner: str, direction: str
) -> None:
    sign = 1 if direction == "maximize" else -1

    def train(candidate: Candidate) -> Iterator[float]:
        known = candidate.family.name in ("relu", "b_silu", "silu", "gelu", "elu")
        value = 2.0 if known else at_minus_one(candidate)
        for epoch in range(1, 9):
            yield sign * (value - 1 / epoch)

    found = find(
        tmp_path, train=train, trials=12, pruner=pruner, direction=direction,
        families=["exp_tail"], references=["b_silu", "silu", "gelu", "elu"],
    ).stored  # fmt: skip
    rows = [row for row in found.trials() if row.kind == "candidate" and row.epochs]
    assert found.counts()["pruned"] > 0
    # The order of candidates is the same at every epoch, so that the best of all must be there.
    assert found.best().number == max(rows, key=lambda row: at_minus_one(row.candidate)).number


def test_no_pruner_prunes_nothing(tmp_path: Path) -> None:
    counts = find(tmp_path, trials=7, pruner="none").stored.counts()
    assert counts["pruned"] == 0


@pytest.mark.parametrize(
    ("epochs", "first", "brackets"), [(2, 1, 1), (8, 2, 2), (30, 8, 2), (100, 25, 2)]
)
def test_hyperbands_resources_are_epochs(epochs: int, first: int, brackets: int) -> None:
    settings = StudySection(name="s", families=["leaky"])
    pruner: Any = make_pruner(settings, epochs=epochs)
    assert (pruner._min_resource, pruner._max_resource) == (first, epochs)
    assert math.floor(math.log(epochs / first, 3)) + 1 == brackets


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(
    ("each", "epochs"),
    [
        # By hand: 9 epochs, rungs after 1 and 4 of them, ReLU ahead of the candidates c1 to c8.
        # Worse and worse: with c7 eight have got to the first rung, so that two may go on, ReLU and
        # c1. At the next rung it is one of two and stops. In the end none is finished: it goes on.
        (-1, [9, 9, 1, 1, 1, 1, 1, 1, 1]),
        # Better and better: c7 is the second of eight, c8 the second of nine. At the next rung they
        # are too few for one to go on, so that both stop; in the end the better one goes on.
        (1, [9, 1, 1, 1, 1, 1, 1, 4, 9]),
    ],
)
def test_halving_stops_and_takes_up_again(
    tmp_path: Path, each: int, epochs: list[int], direction: str
) -> None:
    sign = 1 if direction == "maximize" else -1
    known: dict[Candidate, int] = {}

    def train(candidate: Candidate) -> Iterator[float]:
        if candidate.family.name != "relu":
            known.setdefault(candidate, each * len(known))
        start = known.get(candidate, 100)
        yield from (sign * (start + epoch / 1000) for epoch in range(1, 10))

    stored = find(
        tmp_path, train=train, trials=9, pruner="halving", families=["leaky"], references=[],
        direction=direction,
    ).stored  # fmt: skip
    rows = stored.trials()
    by = {row.candidate: row for row in rows if row.kind == "candidate"}
    assert len(rows) == stored.counts()["total"] == 9
    assert [len(stored.baseline().epochs), *(len(by[c].epochs) for c in known)] == epochs
    ended = [row for row in by.values() if row.status == "complete"]
    assert [len(row.epochs) for row in ended] == [9]
    assert stored.best() == ended[0]
    for row in by.values():
        if row.status == "pruned":
            assert row.reason == f"stopped after epoch {len(row.epochs)}"
            assert row.value == row.epochs[-1]["accuracy"]


def test_a_continuation_first_of_all_has_the_studys_pruner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not Optuna's default, the median, which a study has when it is loaded."""
    own, run = loop.next_to_continue, attempt.Attempt.run
    known: dict[Candidate, int] = {}
    pruners: list[type[optuna.pruners.BasePruner]] = []
    keys: dict[str, Any] = {
        "trials": 9,
        "pruner": "halving",
        "families": ["leaky"],
        "references": [],
    }

    def train(candidate: Candidate) -> Iterator[float]:
        place = 100 if candidate.family.name == "relu" else known.setdefault(candidate, len(known))
        yield from (place + epoch / 1000 for epoch in range(1, 10))

    def cut_off(*args: Any, **options: Any) -> Any:
        if (found := own(*args, **options)) is not None:
            raise KeyboardInterrupt
        return found

    def spy(self: attempt.Attempt) -> Any:
        pruners.append(type(self._study.pruner))
        return run(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "next_to_continue", cut_off)
        with pytest.raises(KeyboardInterrupt):
            find(tmp_path, train=train, **keys)
    monkeypatch.setattr(attempt.Attempt, "run", spy)
    find(tmp_path, train=train, **keys)
    assert set(pruners) == {optuna.pruners.NopPruner}


def test_one_that_cannot_go_on_does_not_end_the_others(tmp_path: Path) -> None:
    """The best at the first rung fails whenever it is taken up again."""
    known: dict[Candidate, int] = {}

    def train(candidate: Candidate) -> Iterator[float]:
        place = 100 if candidate.family.name == "relu" else known.setdefault(candidate, len(known))
        for epoch in range(1, 10):
            if place == 0 and epoch == 2:
                raise RuntimeError("this one breaks the machine")
            yield 1 - place / 1000

    keys = {
        "train": train, "pruner": "halving", "families": ["leaky"], "references": [],
        "sampler": "random",
    }  # fmt: skip
    for total in (9, 9, 12):  # again, and further
        stored = find(tmp_path, trials=total, **keys).stored
        assert stored.counts()["total"] == total
        assert stored.counts()["failed"] == 3  # the attempts to go on, once and for all
    ended = [row for row in stored.trials() if row.kind == "candidate" and row.status == "complete"]
    assert ended and all(row.candidate != next(iter(known)) for row in ended)


@pytest.mark.parametrize(("trials", "one"), [(12, True), (39, True), (40, False)])
def test_hyperband_has_one_bracket_in_a_short_study(trials: int, one: bool) -> None:
    settings = StudySection(name="s", families=["leaky"], trials=trials)
    pruner: Any = make_pruner(settings, epochs=8)
    assert isinstance(pruner, optuna.pruners.SuccessiveHalvingPruner) is one
    assert pruner._min_resource == 2


@pytest.mark.parametrize("epochs", [None, 1])
def test_nothing_is_pruned_in_one_epoch(epochs: int | None) -> None:
    settings = StudySection(name="s", families=["leaky"])
    assert isinstance(make_pruner(settings, epochs=epochs), optuna.pruners.NopPruner)


def test_divergence_is_a_prune_with_its_reason(tmp_path: Path) -> None:
    def blows_up(candidate: Candidate) -> Iterator[float]:
        yield 0.5
        yield math.nan if candidate.family.name == "rational_tail" else 0.6

    result = find(tmp_path, train=blows_up, families=["rational_tail"], trials=5, pruner="none")
    rows = result.stored.trials()
    diverged = [row for row in rows[2:] if row.status != "ruled_out"]
    assert diverged
    assert all(row.status == "diverged" and "epoch 2" in row.reason for row in diverged)
    counts = result.to_dict()["trials"]
    assert (counts["pruned"], counts["failed"], counts["total"]) == (len(diverged), 0, 5)


def test_duplicates_share_the_result(tmp_path: Path) -> None:
    calls = []

    def once(candidate: Candidate) -> Iterator[float]:
        calls.append(candidate)
        yield at_minus_one(candidate)

    # silu has no parameters: each candidate of it is the same g.
    result = find(tmp_path, train=once, families=["silu"], references=["leaky"], trials=8)
    rows = result.stored.trials()
    assert [candidate.family.name for candidate in calls] == ["relu", "leaky", "silu"]
    assert [row.duplicate_of for row in rows[2:]] == [None, 2, 2, 2, 2, 2]
    assert len({row.value for row in rows[2:]}) == 1
    assert result.stored.counts()["total"] == 8


def test_a_candidate_equal_to_a_reference_shares_its_result(tmp_path: Path) -> None:
    calls = []

    def once(candidate: Candidate) -> Iterator[float]:
        calls.append(candidate.family.name)
        yield at_minus_one(candidate)

    same = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.01, 0.01]}}
    result = find(tmp_path, train=once, families=[same], references=["leaky"], trials=4)
    assert calls == ["relu", "leaky"]
    assert [row.duplicate_of for row in result.stored.trials()] == [None, None, 1, 1]


@pytest.mark.parametrize("condition", ["exp(x) > {}", "x**3 + x > -{}"])
def test_jumps_at_places_that_are_not_rational(condition: str) -> None:
    def curve(at: str) -> Curve:
        text = f"Piecewise((1, x > 0), (1/2, {condition.format(at)}), (0, True))"
        return Curve(Family("f", parse(text)).default)

    one, near = curve("0.6005"), curve("0.6010")
    assert (one.values == near.values).all()
    assert one.same(one) and not one.same(near)


def test_two_who_trained_one_g_at_the_same_time_are_one() -> None:
    gelu = load_family("gelu").default
    rows = [TrialRow(n, "candidate", "complete", gelu, 0.5, seeds={}) for n in (3, 4)]
    assert [r.number for r in ranked(rows)] == [3]


def test_jumps_at_other_places_are_another_g(tmp_path: Path) -> None:
    helu = load_family("helu")
    one, near, same = (Curve(helu.bind(alpha=at)) for at in (0.501, 0.502, 0.501 + 1e-9))
    assert (one.values == near.values).all()  # both jump between the same two points of the grid
    assert one.same(one) and one.same(same) and not one.same(near)
    elu, celu = (Curve(load_family(name).default) for name in ("elu", "celu"))
    assert elu.same(celu)


def row(
    number: int,
    value: float | None,
    *,
    kind: Kind = "candidate",
    status: Status = "complete",
    **more: Any,
) -> TrialRow:
    return TrialRow(number, kind, status, None, value, **more)


@pytest.mark.parametrize("minimize", [False, True])
def test_the_order_of_the_best(minimize: bool) -> None:
    sign = -1 if minimize else 1
    rows = [
        row(0, 0.9 * sign, kind="baseline"),
        row(1, 0.8 * sign, kind="reference"),
        row(2, 0.5 * sign),
        row(3, 0.6 * sign, seeds={1: 0.4 * sign}),
        row(4, 0.59 * sign, seeds={1: 0.58 * sign}),
        row(5, 0.6 * sign, duplicate_of=3),
        row(6, 0.95 * sign, status="pruned"),
        row(7, None),
        row(8, 0.595 * sign),  # later, and not near enough to be asked again
        row(9, 0.61 * sign, seeds={1: None}),
    ]
    decided = [4, 3, 9]  # by the mean over both seeds; who has none comes after them
    assert [r.number for r in ranked(rows, minimize=minimize)] == [*decided, 8, 2]
    # Only what all of them have tells them apart: a raised tie_seeds, or an interruption.
    more = [replace(r, seeds={**r.seeds, 2: 0.0}) if r.number == 3 else r for r in rows]
    assert [r.number for r in ranked(more, minimize=minimize)] == [*decided, 8, 2]
    rows.append(row(10, 0.7 * sign))  # the study went on, and this one is ahead of all of them
    assert [r.number for r in ranked(rows, minimize=minimize)] == [10, *decided, 8, 2]
    rows += [row(11, 0.8 * sign, duplicate_of=1), row(12, 0.8 * sign, duplicate_of=1)]
    assert [r.number for r in ranked(rows, minimize=minimize)] == [11, 10, *decided, 8, 2]


# --------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "grid"])
def test_each_sampler(tmp_path: Path, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    result = find(tmp_path, sampler=sampler, families=["exp_tail"], trials=14, pruner="none")
    study = plain(tmp_path)
    assert len(study.trials) == 14
    points = [t.params for t in study.trials if t.user_attrs[KIND] == "candidate"]
    # GP comes back to the best point; its duplicates are not trained again.
    assert len({tuple(sorted(p.items())) for p in points}) >= (8 if sampler == "gp" else 12)
    assert result.stored.counts()["total"] == 14
    if sampler in ("cmaes", "gp"):
        keys = {key.split(":")[0] for t in study.trials[2:] for key in t.system_attrs}
        assert keys & {"cma", "gp"}, "the sampler fell back on random draws"


def test_tpe_learns_from_candidates_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = optuna.samplers.TPESampler._sample

    def spy(self: Any, study: optuna.Study, trial: optuna.trial.FrozenTrial, space: Any) -> Any:
        seen.append(
            (dict(space), [t.user_attrs.get(KIND) for t in study._get_trials(deepcopy=False)])
        )
        return original(self, study, trial, space)

    monkeypatch.setattr(optuna.samplers.TPESampler, "_sample", spy)
    find(tmp_path, trials=14)
    assert seen
    assert not any(kind in FIXED for _, kinds in seen for kind in kinds)
    assert any("exp_tail.alpha" in space for space, _ in seen)


@pytest.mark.slow
def test_tpe_comes_closer_than_random(tmp_path: Path) -> None:
    gaps = {}
    for sampler in ("tpe", "random"):
        result = find(tmp_path, name=sampler, sampler=sampler, trials=40, pruner="none")
        rows = [row for row in result.stored.trials() if row.kind == "candidate" and row.value]
        late = sorted(abs(at_minus_one(row.candidate) - 0.3) for row in rows[-15:])
        gaps[sampler] = late[len(late) // 2]
    assert gaps["tpe"] < gaps["random"]


@pytest.mark.parametrize("points", [1, 7, 10, 16, 27])
def test_grid_fits_its_points(points: int) -> None:
    family = load_family("exp_tail")
    found = grid(family, points)
    assert 0.6 * points <= len(found) <= points
    space: Any = family.space
    for name, distribution in space.items():
        values = sorted({point[f"exp_tail.{name}"] for point in found})
        if len(values) > 1:
            assert values[0] == pytest.approx(distribution.low)
            assert values[-1] == pytest.approx(distribution.high)
        if len(values) > 2:
            steps = [b / a if distribution.log else b - a for a, b in itertools.pairwise(values)]
            assert steps == pytest.approx([steps[0]] * len(steps))


def test_a_larger_grid_is_not_filled_from_one_corner(tmp_path: Path) -> None:
    keys = {"families": ["exp_tail"], "references": [], "sampler": "grid", "pruner": "none"}
    find(tmp_path, trials=10, **keys)
    rows = find(tmp_path, trials=17, **keys).stored.trials()
    # Nine points of 3 x 3, then seven of the twelve further ones of 4 x 4.
    assert len({tuple(row.parameters.values()) for row in rows[1:]}) == 16
    alphas = [row.parameters["alpha"] for row in rows[10:]]
    assert min(alphas) == 0.01 and max(alphas) == 1.0


def test_two_objectives(tmp_path: Path) -> None:
    section = StudySection(name="s", families=["leaky"], sampler="nsga2")
    assert section.objectives == ["accuracy", "dead_units"]
    assert section.pruner == "none"
    assert isinstance(make_sampler(section, seed=0), optuna.samplers.NSGAIISampler)


def test_two_objectives_within_narrowed_ranges(workdir: Path) -> None:
    """NSGA-II from the file to the report, its children within what the family's gate left."""
    stored = made_up_study(workdir, trials=36, confirmed=False, sampler="nsga2")
    study = optuna.load_study(study_name="made-up", storage=f"sqlite:///{workdir}/study.db")
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    narrowed = {
        f"{family}.{name}": ends
        for family, gate in study.user_attrs["pdsearch:gates"].items()
        for name, ends in gate["ranges"].items()
    }
    whole: Any = load_family("exp_tail").space["beta"]
    low, high = narrowed["exp_tail.beta"]
    assert whole.low <= low < high < whole.high
    drawn = {name: 0 for name in narrowed}
    for trial in study.trials:
        for name in narrowed.keys() & trial.params.keys():
            low, high = narrowed[name]
            distribution: Any = trial.distributions[name]
            assert (distribution.low, distribution.high) == (low, high)
            assert low <= trial.params[name] <= high
            drawn[name] += 1
    assert drawn["exp_tail.beta"] > 0
    # Nine a generation: later ones are children of earlier ones, which crossover keeps in range.
    generations = {
        value
        for trial in study.trials
        for key, value in trial.system_attrs.items()
        if "generation" in key
    }
    assert max(generations) >= 2
    rows = [row for row in stored.trials() if row.status == "complete"]
    assert len(rows) > 9 and all(len(row.values) == 2 for row in rows)
    candidates = [row for row in rows if row.kind == "candidate"]
    best = stored.best()
    assert best.number == max(candidates, key=lambda row: row.values[0]).number
    unbeaten = {trial.number for trial in study.best_trials}
    for row in rows:
        better = [
            other for other in rows
            if other.values[0] >= row.values[0] and other.values[1] <= row.values[1]
            and other.values != row.values
        ]  # fmt: skip
        assert (row.number in unbeaten) == (not better)
    page = study_report(stored)
    assert "nsga2" in page and "dead" in page
    assert "The nsga2 sampler is adaptive" in " ".join(learned_criteria(stored).notes)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sampler": "cmaes"}, "one family only.*use tpe or random"),
        ({"sampler": "cmaes", "pruner": "halving", "families": ["exp_tail"]}, "from whole trials"),
        ({"sampler": "gp"}, "one family only"),
        ({"sampler": "grid"}, "one family only"),
        ({"sampler": "anneal"}, "study.sampler: must be one of tpe | random"),
        ({"pruner": "sha"}, "study.pruner: must be one of hyperband"),
        ({"sampler": "grid", "families": ["silu"]}, "needs parameters to search"),
        ({"sampler": "cmaes", "families": ["leaky"]}, "two parameters or more"),
        ({"families": ["exp_tial"]}, "study.families.0: no family .*exp_tail"),
        ({"families": ["leaky", "leaky"]}, "is there twice"),
        ({"families": []}, "study.families: needs at least 1 entry"),
        ({"references": ["relu"]}, "is the baseline"),
        ({"trials": 0}, "study.trials: must be ≥ 1, got 0"),
        ({"workers": 2}, "workers must be 1 with a train function"),
        ({"train": 5}, "train must be callable"),
        ({"direction": "up"}, "direction must be maximize | minimize"),
        ({"direction": "minimize", "train": None}, "for a train function"),
        ({"families": None}, "needs a study file, or families"),
        ({"families": [{"formula": "x", "spacee": {}}]}, "unknown key 'spacee'"),
        ({"families": [{"space": {}}]}, "needs formula"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, keys: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find(tmp_path, **keys)
    assert not (tmp_path / "study.db").exists()


def test_all_families_that_cannot_be_had_are_told_at_once(tmp_path: Path) -> None:
    settings = StudySection(name="s", families=["nope", "leaky"], references=["nada"])
    with pytest.raises(InputError, match=r"families\.0: no family 'nope'") as caught:
        resolve_families(settings, directory=tmp_path)
    assert len(str(caught.value).splitlines()) == 2


# ---------------------------------------------------------------------------- the user's function


def test_a_function_may_return_its_value(tmp_path: Path) -> None:
    result = find(tmp_path, train=lambda candidate: at_minus_one(candidate), trials=4)
    row = result.stored.trials()[1]
    assert row.value == at_minus_one(row.candidate)


def test_smaller_can_be_better(tmp_path: Path) -> None:
    result = find(
        tmp_path, train=lambda candidate: at_minus_one(candidate), direction="minimize", trials=8
    )
    rows = [r for r in result.stored.trials() if r.kind == "candidate" and r.status == "complete"]
    assert result.stored.best().value == min(row.value for row in rows if row.value is not None)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda candidate: "good", "must yield numbers, got 'good'"),
        (lambda candidate: None, "must yield one number per epoch, or return one"),
        (lambda candidate: iter(()), "yielded no value"),
    ],
)
def test_what_a_function_gives_is_checked(
    tmp_path: Path, function: Callable[[Candidate], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find(tmp_path, train=function)


def test_a_wrong_program_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    calls = []

    def broken(candidate: Candidate) -> Iterator[float]:
        calls.append(1)
        if len(calls) == 3:
            raise TypeError("a bug of the user's")
        yield at_minus_one(candidate)

    with pytest.raises(TypeError, match="a bug of the user's"):
        find(tmp_path, train=broken, trials=6)
    names = [t.state.name for t in plain(tmp_path).trials]
    assert names == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    failed, again = plain(tmp_path).trials[2:]
    assert again.params == failed.params
    result = find(tmp_path, train=broken, trials=6)
    assert result.to_dict()["trials"]["total"] == 6


def test_a_failing_machine_is_tried_again(tmp_path: Path) -> None:
    calls = []

    def sometimes(candidate: Candidate) -> Iterator[float]:
        calls.append(candidate)
        if len(calls) in (1, 3):
            raise RuntimeError("CUDA error: out of memory")
        yield at_minus_one(candidate)

    result = find(tmp_path, train=sometimes, trials=6)
    counts = result.to_dict()["trials"]
    assert (counts["total"], counts["failed"]) == (6, 2)
    failed = [row for row in result.stored.trials() if row.status == "failed"]
    assert all(row.reason == "RuntimeError: CUDA error: out of memory" for row in failed)
    assert calls[0] == calls[2] == calls[3]
    assert result.to_dict()["baseline"]["value"] == 0.0


def test_a_machine_that_always_fails_ends_the_study(tmp_path: Path) -> None:
    calls = []

    def never(candidate: Candidate) -> Iterator[float]:
        calls.append(candidate)
        raise OSError("No space left on device")
        yield

    with pytest.raises(PdsearchError, match=r"\(baseline\) failed at every attempt.*No space left"):
        find(tmp_path, train=never)
    # The references wait their turn between the baseline's attempts.
    assert sum(candidate.family.name == "relu" for candidate in calls) == 3


def test_near_ties_are_decided_by_more_seeds(tmp_path: Path) -> None:
    def noisy(candidate: Candidate, seed: int) -> Iterator[float]:
        # Over the study's own seed all nearly tie; over others smaller tails are better.
        yield 0.9 - (0.0 if seed == 0 else at_minus_one(candidate)) + at_minus_one(candidate) / 1e6

    file = tmp_path / "s.toml"
    file.write_text(
        '[study]\nname = "s"\nfamilies = ["leaky"]\nreferences = []\ntrials = 8\ntie_seeds = 2\n'
        f'pruner = "none"\nstorage = "sqlite:///{tmp_path}/study.db"\n'
    )
    result = search(file, train=noisy, progress=False)
    rows = [row for row in result.stored.trials() if row.kind == "candidate" and row.value]
    retried = [row for row in rows if row.seeds]
    assert len(retried) == 3
    assert all(set(row.seeds) == {1, 2} for row in retried)
    best = result.stored.best()
    assert best == min(retried, key=lambda row: at_minus_one(row.candidate))
    assert best.value != max(row.value for row in rows if row.value is not None)
    assert result.stored.counts()["total"] == 8


def test_who_diverges_over_a_further_seed_is_not_best(tmp_path: Path) -> None:
    def brittle(candidate: Candidate, seed: int) -> Iterator[float]:
        # Nearly tied below zero, where a divergence counted as 0 would win.
        steepest = at_minus_one(candidate) == max(slopes)
        yield math.nan if seed == 2 and steepest else -1 + at_minus_one(candidate) / 1e6

    file = tmp_path / "s.toml"
    file.write_text(
        '[study]\nname = "s"\nfamilies = ["leaky"]\nreferences = []\ntrials = 8\n'
        f'pruner = "none"\nstorage = "sqlite:///{tmp_path}/study.db"\n'
    )
    slopes = [2.0]
    search(file, train=brittle, progress=False)
    rows = open_study(file).ranked()
    slopes = [at_minus_one(row.candidate) for row in rows]
    assert slopes == sorted(slopes, reverse=True)
    file.write_text(file.read_text().replace("trials = 8", "trials = 8\ntie_seeds = 2"))
    stored = search(file, train=brittle, progress=False).stored
    second, third, first, *rest = stored.ranked()
    assert [row.number for row in (first, second, third, *rest)] == [row.number for row in rows]
    assert first.seeds == {1: first.value, 2: None}
    assert stored.best() == second


@pytest.mark.parametrize(("times", "seeds"), [(2, {1, 2}), (3, {2})])
def test_a_failure_over_a_further_seed_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: int, seeds: set[int]
) -> None:
    failures: list[Candidate] = []

    def shaky(candidate: Candidate, seed: int) -> Iterator[float]:
        if seed == 1 and len(failures) < times:
            failures.append(candidate)
            raise RuntimeError("CUDA out of memory")
        yield 0.9

    file = tmp_path / "s.toml"
    file.write_text(
        '[study]\nname = "s"\nfamilies = ["leaky"]\nreferences = []\ntrials = 4\ntie_seeds = 2\n'
        f'pruner = "none"\nstorage = "sqlite:///{tmp_path}/study.db"\n'
    )
    stored = search(file, train=shaky, progress=False).stored
    told = capsys.readouterr().err
    assert told.count("RuntimeError: CUDA out of memory") == times
    assert ("skipped" in told) == (times == 3)
    first = next(row for row in stored.trials() if row.candidate == failures[0])
    assert set(first.seeds) == seeds
    again = search(file, train=shaky, progress=False).stored
    assert all(set(row.seeds) == {1, 2} for row in again.trials() if row.seeds)


def test_ties_need_a_function_with_seeds(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[study]\nname = "s"\nfamilies = ["leaky"]\ntie_seeds = 2\n')
    with pytest.raises(InputError, match="takes a seed"):
        search(file, train=lambda candidate: 1.0, progress=False)


# --------------------------------------------------------------------------------------- resuming


def test_other_settings_are_refused_with_their_names(tmp_path: Path) -> None:
    find(tmp_path, trials=4)
    with pytest.raises(InputError, match=r"study\.sampler 'tpe' → 'random'; study\.seed 0 → 5"):
        find(tmp_path, trials=4, sampler="random", seed=5)
    with pytest.raises(InputError, match=r"study\.families"):
        ours = load_family("exp_tail")
        other = Family("exp_tail", ours.expression**2, space=ours.space, defaults=ours.defaults)
        find(tmp_path, trials=4, families=[other, "leaky"])


def test_a_librarys_family_may_cite_another_source_and_be_no_other_formula(tmp_path: Path) -> None:
    # As after an upgrade: a study file names the family, the study holds what it was.
    study = find(tmp_path, trials=4).stored.study
    before = study.user_attrs["pdsearch:families"]
    cited = {**before["leaky"], "reference": "another paper"}
    study.set_user_attr("pdsearch:families", {**before, "leaky": cited})
    assert find(tmp_path, trials=5).stored.counts()["total"] == 5
    other = {**before["leaky"], "formula": "Piecewise((1, x > 0), (alpha/2, True))"}
    study.set_user_attr("pdsearch:families", {**before, "leaky": other})
    with pytest.raises(InputError, match=r"family leaky 'Piecewise.*alpha/2"):
        find(tmp_path, trials=6)


def test_a_family_of_ones_own_may_cite_another_source(tmp_path: Path) -> None:
    ours = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}, "name": "m"}
    find(tmp_path, trials=4, families=[ours])
    cited = {**ours, "reference": "my thesis"}
    assert find(tmp_path, trials=5, families=[cited]).stored.counts()["total"] == 5
    with pytest.raises(InputError, match=r"study\.families"):
        find(tmp_path, trials=6, families=[{**ours, "space": {"a": [0.1, 0.4]}}])


def test_settings_may_change_as_long_as_nothing_came_of_them(tmp_path: Path) -> None:
    def broken(candidate: Candidate) -> None:
        raise ValueError("batch too large")

    with pytest.raises(ValueError, match="batch too large"):
        find(tmp_path, train=broken)
    result = find(tmp_path, train=train, sampler="random", trials=5)
    assert result.to_dict()["trials"] == {
        "complete": result.to_dict()["trials"]["complete"],
        "pruned": result.to_dict()["trials"]["pruned"],
        "ruled_out": result.to_dict()["trials"]["ruled_out"],
        "failed": 0,
        "total": 5,
    }


def test_a_study_that_is_not_ours_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdsearch.study.begin.MAKING", 0.1)
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="pdsearch", storage=url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(InputError, match="that pdsearch did not make"):
        find(tmp_path)
    with pytest.raises(InputError, match="was not made by pdsearch"):
        open_study("pdsearch", storage=url)
    assert len(plain(tmp_path).trials) == 2


@pytest.mark.parametrize("last", ["families", "versions", "threads", "settings"])
def test_a_study_whose_making_was_cut_off_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    monkeypatch.setattr("pdsearch.study.begin.MAKING", 0.1)
    write = optuna.Study.set_user_attr

    def cut_off(self: optuna.Study, key: str, value: Any) -> None:
        if key == f"pdsearch:{last}":
            raise KeyboardInterrupt
        write(self, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "set_user_attr", cut_off)
        with pytest.raises(KeyboardInterrupt):
            find(tmp_path, trials=3)
    assert "pdsearch:schema" not in plain(tmp_path).user_attrs
    assert find(tmp_path, trials=3).stored.counts()["total"] == 3


def test_a_baseline_that_diverged_has_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def blows_up(candidate: Candidate) -> Iterator[float]:
        yield 0.45
        yield math.nan if candidate.family.name in ("relu", "b_silu") else 0.6

    result = find(tmp_path, train=blows_up, trials=5, pruner="none")
    assert result.to_dict()["baseline"] == {"value": None}
    assert result.to_dict()["references"] == {"b_silu": None}
    assert "ReLU's trial diverged, so nothing is compared with it" in capsys.readouterr().err
    page = study_report(result.stored)
    assert ", ReLU diverged" in page and "45.0" not in page.split("All trials")[0]
    assert status(result.stored)["train"].endswith("blows_up")


def test_a_study_without_room_for_a_candidate_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find(tmp_path, trials=2)
    assert "study.trials = 2 leaves no trial to a candidate" in capsys.readouterr().err
    find(tmp_path, trials=3)
    assert "leaves no trial" not in capsys.readouterr().err


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    find(tmp_path, trials=3)
    plain(tmp_path).set_user_attr("pdsearch:schema", 99)
    with pytest.raises(InputError, match="written by a newer pdsearch"):
        find(tmp_path, trials=3)


def test_status(tmp_path: Path) -> None:
    stored = find(tmp_path, trials=4).stored
    data = status(stored)
    assert data["target"] == 4
    assert data["running"] == []
    assert data["trials"]["total"] == 4


def test_confirm_settings_come_from_the_file(tmp_path: Path) -> None:
    text = (
        '[study]\nname = "s"\nfamilies = ["leaky"]\nreferences = []\ntrials = 2\n'
        f'storage = "sqlite:///{tmp_path}/study.db"\n'
    )
    file = tmp_path / "s.toml"
    file.write_text(text)
    search(file, train=train, progress=False)
    file.write_text(text + "[confirm]\nseeds = 3\n")
    assert open_study(file).settings.confirm.seeds == 3
    assert load_study_file(file).confirm.seeds == 3


def test_no_warning_and_no_log_of_optunas(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find(tmp_path, trials=4)
    assert capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_surplus_trials_of_a_race_are_no_part_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers see the last place at once: the later one's trial is dropped."""
    tally = loop.tally
    monkeypatch.setattr(loop, "tally", lambda trials: (tally(trials)[0], 0, 0))
    extra: list[int] = []

    def slow(candidate: Candidate) -> Iterator[float]:
        if len(extra) == 0:
            extra.append(1)
            # Somebody else draws a trial meanwhile, and the total has room for one only.
            other = plain(tmp_path)
            other.add_trial(optuna.create_trial(state=optuna.trial.TrialState.WAITING))
        yield 0.5

    result = find(tmp_path, train=slow, references=[], trials=2, families=["leaky"])
    assert result.stored.counts()["total"] == 2
