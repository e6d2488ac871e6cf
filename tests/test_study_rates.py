"""Several learning rates, of which some diverge: what pruners are told, and whom they stop.

The training is made up: a candidate's accuracy is known beforehand.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pdsearch.trial.run
from pdsearch import load_family, search
from pdsearch.data import load_dataset
from pdsearch.family import Candidate
from pdsearch.report import study_report
from pdsearch.study.file import validate
from pdsearch.study.image_trainer import WORST_LOSS, ImageTrainer
from pdsearch.study.settings import StudyFile
from pdsearch.study.trainer import Reached
from pdsearch.trial import EpochRecord, Look, TrialResult, TrialSettings

Course = Callable[[Candidate, float], list[float]]


def settings(folder: Path, *, study: dict[str, Any], trial: dict[str, Any]) -> StudyFile:
    common = {"name": "rated", "families": ["exp_tail"], "references": [], "workers": 1}
    storage = {"storage": f"sqlite:///{folder / 'study.db'}", "output": str(folder / "results")}
    data = {"dataset": "digits", "precision": "float32", "memory_format": "contiguous"}
    document = {"study": {**common, **storage, **study}, "trial": {**data, **trial}}
    return validate(document, directory=folder)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Course], None]:
    """Training whose accuracy after each epoch is said; with too few epochs it diverged then."""

    def install(course: Course) -> None:
        def run_trial(
            candidate: Candidate,
            settings: TrialSettings,
            dataset: Any,
            *,
            on_epoch: Callable[[EpochRecord], None],
            looks: int = 1,
            on_look: Callable[[Look], None] | None = None,
            **others: Any,
        ) -> TrialResult:
            rate = settings.learning_rate
            reached = course(candidate, rate)
            for number in range(1, looks if reached else 0):
                assert on_look is not None
                on_look(Look(number, 1 - reached[0], reached[0]))
            records = []
            for epoch, accuracy in enumerate(reached, start=1):
                record = EpochRecord(epoch, 1.0, accuracy, {}, 1.0, rate, 1 - accuracy)
                records.append(record)
                on_epoch(record)
            whole = len(reached) == settings.epochs
            value, why = (reached[-1], None) if whole else (math.nan, "made up to diverge")
            return TrialResult(tuple(records), value, why, 1.0, 1.0, 1, settings)

        monkeypatch.setattr(pdsearch.trial.run, "run_trial", run_trial)

    return install


def told(settings: StudyFile) -> list[Reached]:
    found: list[Reached] = []
    trainer = ImageTrainer(settings, load_dataset("digits"), device="cpu", threads=1)
    trainer(
        load_family("exp_tail").default,
        seed=0,
        on_step=found.append,
        on_batch=lambda done, total: None,
        checkpoint=None,
    )
    assert [at.step for at in found] == sorted({at.step for at in found})
    return found


COURSES = {0.1: [0.60, 0.55], 0.02: [0.30, 0.35, 0.38, 0.40], 0.01: [0.2, 0.3, 0.4, 0.45]}


@pytest.mark.parametrize(("prune_by", "worst"), [("accuracy", 0.0), ("loss", -WORST_LOSS)])
def test_what_a_diverged_rate_reached_counts_for_nothing_afterwards(
    tmp_path: Path, made_up: Callable[[Course], None], prune_by: str, worst: float
) -> None:
    made_up(lambda candidate, rate: COURSES[rate])
    study = {"pruner": "hyperband", "prune_by": prune_by}
    trial = {"epochs": 4, "learning_rates": [0.1, 0.02, 0.01]}
    found = told(settings(tmp_path, study=study, trial=trial))
    accuracies = [
        0.60, 0.55, None, None,  # the first rate, until it diverged
        0.30, 0.35, 0.38, 0.40, 0.40, 0.40, 0.40, 0.45,
    ]  # fmt: skip
    assert [at.step for at in found] == list(range(1, 13))
    for at, accuracy in zip(found, accuracies, strict=True):
        if accuracy is None:
            assert at.record is None and (at.value, at.standing) == (0.0, worst)
        else:
            assert at.record is not None and at.value == accuracy
            assert at.standing == (accuracy if prune_by == "accuracy" else accuracy - 1)


def test_the_looks_of_a_rate_that_diverged_at_once_pass_too(
    tmp_path: Path, made_up: Callable[[Course], None]
) -> None:
    made_up(lambda candidate, rate: [] if rate == 0.1 else [0.3, 0.4])
    study = {"pruner": "halving", "looks": 3}
    trial = {"epochs": 2, "learning_rates": [0.1, 0.02]}
    found = told(settings(tmp_path, study=study, trial=trial))
    # Three looks in the first epoch, then one step an epoch.
    assert [(at.step, at.record is None) for at in found] == [
        (1, True), (2, True), (3, True), (6, True), (9, False), (12, False),
    ]  # fmt: skip


def test_halving_stops_what_diverges_at_the_first_rate(
    tmp_path: Path, made_up: Callable[[Course], None]
) -> None:
    """The steeper, the worse, and the steepest diverge at the first rate: none of them leads."""

    def course(candidate: Candidate, rate: float) -> list[float]:
        alpha = candidate.parameters.get("alpha", 0.0)
        return [] if alpha > 0.4 and rate == 0.1 else [0.8 - alpha / 2] * 4

    made_up(course)
    study = {"pruner": "halving", "looks": 4, "trials": 24, "sampler": "random"}
    trial = {"epochs": 4, "learning_rates": [0.1, 0.02, 0.01]}
    file = settings(tmp_path, study=study, trial=trial)
    stored = search(file, device="cpu", threads=1, progress=False).stored
    rows = [
        row
        for row in stored.trials()
        if row.kind == "candidate" and row.status in ("complete", "pruned")
    ]
    steep = [row for row in rows if row.parameters["alpha"] > 0.4]
    assert len(steep) >= 5 and all(row.status == "pruned" for row in steep)
    best = stored.best()
    assert best is not None
    assert best.parameters["alpha"] == min(row.parameters["alpha"] for row in rows)
    assert "stopped after epoch 0.25" in study_report(stored)


def test_a_checkpoint_is_of_one_kind_of_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on elsewhere begins anew, where the run itself would refuse another's file."""
    file = settings(tmp_path, study={}, trial={"epochs": 1})
    data = load_dataset("digits")

    def files(kind: str) -> Path:
        seen: list[Path] = []

        def run(candidate: Any, settings: Any, dataset: Any, *, checkpoint: Path, **_: Any) -> Any:
            seen.append(checkpoint)
            raise KeyboardInterrupt

        monkeypatch.setattr(pdsearch.trial, "run_over_learning_rates", run)
        device = dataclasses.make_dataclass("Device", ["type"])(kind)
        monkeypatch.setattr(pdsearch.trial, "resolve_device", lambda text: device)
        trainer = ImageTrainer(file, data, device=kind, threads=1)
        with pytest.raises(KeyboardInterrupt):
            trainer(
                load_family("exp_tail").default,
                seed=0,
                on_step=lambda at: None,
                on_batch=lambda done, total: None,
                checkpoint=tmp_path / "a.safetensors",
            )
        return seen[0]

    assert files("cpu") == files("cpu") != files("cuda")
