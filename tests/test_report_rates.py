"""Accuracy by learning rate: against the trials run again outside any study."""

import html
from pathlib import Path
from typing import Any

import pytest
from made_up import SMALL_NET

from pdsearch.confirm import confirm
from pdsearch.data import load_dataset
from pdsearch.family import load_family
from pdsearch.report import study_report
from pdsearch.report.rates import (
    RateCurve,
    best_run,
    by_learning_rate,
    rate_curves,
    runs_by_rate,
)
from pdsearch.report.view import View
from pdsearch.study import TrialRow, open_study, search
from pdsearch.trial import TrialSettings, run_trial

STUDY = """
[study]
name = "rated"
families = ["exp_tail"]
references = ["leaky"]
trials = 4
seed = 1
sampler = "random"
pruner = "none"
workers = 1
[trial]
model = "small.py:net"
dataset = "digits"
epochs = 2
batch_size = 64
learning_rates = [0.01, 0.1]
precision = "float32"
memory_format = "contiguous"
[confirm]
seeds = 1
epochs = 2
"""

GRID = TrialSettings(epochs=3, learning_rates=(0.02, 0.01, 0.04))


def row(accuracies: list[float], **given: Any) -> TrialRow:
    epochs = tuple(
        {"epoch": number, "accuracy": accuracy, "value": accuracy, "loss": 1.0}
        for number, accuracy in enumerate(accuracies, start=1)
    )
    candidate = load_family("exp_tail").default
    return TrialRow(1, "candidate", "complete", candidate, 0.5, epochs, **given)


def test_a_trials_runs_are_told_apart() -> None:
    runs = runs_by_rate(row([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]), GRID)
    assert {
        rate: [(e["epoch"], e["accuracy"]) for e in run] for rate, run in runs.items()
    } == {
        0.02: [(1, 0.1), (2, 0.2), (3, 0.3)],
        0.01: [(1, 0.4), (2, 0.5), (3, 0.6)],
        0.04: [(1, 0.7)],
    }  # fmt: skip
    assert runs_by_rate(row([]), GRID) == {}


@pytest.mark.parametrize(
    ("accuracies", "rate", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 0.01, [0.4, 0.5, 0.6]),
        # Pruned: the best of those that came equally far.
        ([0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.9], None, [0.1, 0.2, 0.3]),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9], None, [0.4, 0.5, 0.6]),
        ([0.1, 0.2], None, [0.1, 0.2]),
        ([], None, []),
    ],
)
def test_one_run_stands_for_a_trial(
    accuracies: list[float], rate: float | None, expected: list[float]
) -> None:
    shown = best_run(row(accuracies, learning_rate=rate), GRID)
    assert [entry["accuracy"] for entry in shown.epochs] == expected
    assert [entry["epoch"] for entry in shown.epochs] == list(range(1, len(expected) + 1))


def test_without_a_grid_a_trial_is_one_run() -> None:
    one = row([0.1, 0.2, 0.3])
    assert best_run(one, TrialSettings(epochs=3)) is one


def test_the_figure_names_what_is_compared() -> None:
    curves = [
        RateCurve("ReLU", "baseline", {0.04: 0.5, 0.01: 0.3, 0.02: 0.4}),
        RateCurve("a", "candidate", {0.01: 0.35, 0.02: 0.45}),
        RateCurve("b", "candidate", {0.01: 0.36, 0.02: 0.41}),
        RateCurve("c", "candidate", {0.02: 0.1}),
        RateCurve("forward control of a", "forward_control", {0.01: 0.5}),
    ]
    figure = by_learning_rate(curves, best="a", rates=(0.02, 0.01, 0.04))
    assert figure is not None
    shown = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data if trace.name}
    assert shown == {
        "other candidates": ([0.01, 0.02], [0.36, 0.41]),
        "best: a": ([0.01, 0.02], [0.35, 0.45]),
        "ReLU": ([0.01, 0.02, 0.04], [0.3, 0.4, 0.5]),
        "forward control of a": ([0.01], [0.5]),
    }
    assert list(figure.layout.xaxis.ticktext) == ["0.01", "0.02", "0.04"]
    assert by_learning_rate([RateCurve("a", "candidate", {0.01: 0.5})], best="a", rates=()) is None


def test_a_train_functions_epochs_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text(STUDY, encoding="utf-8")
    stored = search(
        "study.toml", train=lambda candidate: iter([0.1, 0.2, 0.3]), progress=False
    ).stored
    view = View(stored, tuple(stored.trials()))
    assert view.rates == () and view.runs == view.rows
    assert next(len(row.epochs) for row in view.runs if row.status == "complete") == 3
    assert "at the learning rate it was best at" not in study_report(stored)


def test_a_studys_curves_are_those_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(SMALL_NET, encoding="utf-8")
    Path("study.toml").write_text(STUDY, encoding="utf-8")
    search("study.toml", device="cpu", threads=1, progress=False)
    confirm(open_study("study.toml"), forward_control=True, top=1, device="cpu", workers=1)
    stored = open_study("study.toml")
    from pdsearch.confirm import read_runs

    curves = rate_curves(stored, stored.trials(), list(read_runs(stored).values()))
    dataset = load_dataset("digits")
    rows: dict[str, Any] = {
        ("ReLU" if r.kind == "baseline" else r.candidate.name): r for r in stored.trials()
    }
    for one in curves[:-1]:
        for rate in (0.01, 0.1):
            alone = run_trial(
                rows[one.name].candidate,
                stored.settings.trial.model_copy(update={"learning_rate": rate}),
                dataset,
                seed=1,
                device="cpu",
                threads=1,
                directory=stored.directory,
            )
            assert one.accuracy[rate] == alone.value
    assert [one.kind for one in curves] == [
        "baseline", "reference", "candidate", "candidate", "forward_control",
    ]  # fmt: skip
    assert set(curves[-1].accuracy) == {0.01, 0.1}
    # A run from before the model's file was changed is no point of the same curve.
    run = next(r for r in read_runs(stored).values() if r["kind"] == "forward_control")
    setting = {**run["setting"], "model_source": "of an earlier text"}
    chosen = {"split": "validation", "learning_rate": 0.5, "accuracy": 0.9, "diverged": False}
    earlier = {**run, **chosen, "setting": setting, "finished": "2000-01-01T00:00:00"}
    again = rate_curves(stored, stored.trials(), [*read_runs(stored).values(), earlier])
    assert again == curves
    page = html.unescape(study_report(stored))
    assert "After 2 epochs at each rate, one seed." in page
    assert "Each trial's run at the learning rate it was best at." in page
