"""Streams of tasks as studies: searched, confirmed beside their controls, and reported."""

from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from torch import nn

from pdsearch import trial as trial_room
from pdsearch.cli import main
from pdsearch.confirm import confirm, confirm_table, read_runs
from pdsearch.confirm.contenders import REMEDIES, STREAM_ACTIVATIONS
from pdsearch.confirm.outcome import Confirmation, Row
from pdsearch.confirm.runs import Setting, run_key
from pdsearch.data import load_dataset
from pdsearch.errors import InputError
from pdsearch.expression import parse, x
from pdsearch.family import load_family
from pdsearch.report.confirm_figures import row_curves
from pdsearch.study import load_study_file, search
from pdsearch.trial import (
    TrialSettings,
    run_trial,
)

# ----------------------------------------------------------------------------- the whole path

STUDY = """
[study]
name = "stream"
families = [{name = "low", formula = "Piecewise((1, x > 0), (a, True))", space = {a = [0.1, 0.3]}}]
references = []
trials = 3
pruner = "median"
workers = 1
[trial]
model = "mlp"
width = 16
depth = 2
dataset = "digits"
epochs = 2
batch_size = 32
precision = "float32"
learning_rates = [0.03, 0.01]
stream = {tasks = 4, images = 96, last = 2}
[confirm]
seeds = 2
"""


def test_the_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stream.toml").write_text(STUDY)
    result = search("stream.toml", threads=1, progress=False)
    rows = result.stored.trials()
    assert [row.status for row in rows] == ["complete"] * 3
    assert result.stored.settings.confirm.epochs == 2
    for row in rows:
        assert [entry["epoch"] for entry in row.epochs] == list(range(1, 9))
        accuracies = [entry["accuracy"] for entry in row.epochs]
        by_rate = {0.03: sum(accuracies[2:4]) / 2, 0.01: sum(accuracies[6:]) / 2}
        assert row.value == pytest.approx(max(by_rate.values()), abs=1e-12)
        assert row.learning_rate == max(by_rate, key=lambda rate: by_rate[rate])
        assert {"final_accuracy", "weight_norms", "dead"} <= row.epochs[-1].keys()
    found = confirm(result.stored, top=1, threads=1, workers=1)
    assert [row.kind for row in found.rows] == ["baseline", "candidate"]
    assert found.epochs == 2
    best = rows[0]
    alone = run_trial(
        load_family("relu").default,
        result.stored.settings.trial.model_copy(
            update={"learning_rate": best.learning_rate, "learning_rates": ()}
        ),
        load_dataset("digits"),
        seed=1000,
        split="test",
        threads=1,
    )
    assert found.rows[0].accuracy[0] == alone.value
    records = [r for r in read_runs(result.stored).values() if r["split"] == "test"]
    assert {len(record["epochs"]) for record in records} == {4}
    assert all(0.1 < record["chance"] < 0.25 for record in records)
    assert "dead" in records[0]["epochs"][0]
    assert found.to_dict()["stream"] == {
        "tasks": 4,
        "images": 96,
        "change": "labels",
        "last": 2,
    }
    assert "a stream of 4 tasks (labels drawn anew) of 2 epochs each" in confirm_table(found)
    assert main(["report", "stream", "-o", "page.html", "-q"]) == 0
    page = (tmp_path / "page.html").read_text()
    for text in (
        "a trial is a stream of 4 tasks",
        "accuracy within the task",
        "accuracy after the task",
        "L2 norm of all weights",
        "dead units, mean over layers",
        "training accuracy within its last 2 tasks, on test images",
    ):
        assert text in page, text
    capsys.readouterr()
    assert main(["status", "stream"]) == 0
    assert "accuracy in the last tasks" in capsys.readouterr().out


def test_curves_of_a_confirmation_are_the_runs_own() -> None:
    runs = tuple(
        tuple(
            {
                "epoch": task,
                "accuracy": 0.1 * task * seed,
                "final_accuracy": 0.5,
                "dead": {"a": 0.2, "b": 0.4},
                "weight_norms": {"a": 3.0, "b": 4.0},
            }
            for task in (1, 2)
        )
        for seed in (1, 3)
    )
    row = Row(
        name="relu", kind="baseline", formula="", seed_values=(1, 3), accuracy=(0.5, 0.5), mean=0.5,
        std=0.0, paired=None, p_adjusted=None, seeds_needed=None, learning_rate=0.1, diverged=(),
        seconds=1.0, runs=runs,
    )  # fmt: skip
    figures = row_curves(Confirmation("s", "m", "d", 2, 0.1, (row,), stream={"tasks": 2}))
    assert list(figures) == [
        "accuracy within the task",
        "accuracy after the task",
        "dead units, mean over layers",
        "L2 norm of all weights",
    ]
    band, line = figures["accuracy within the task"].data
    assert list(line.x) == [1, 2]
    assert list(line.y) == pytest.approx([0.2, 0.4])
    spread = 2**0.5 / 10  # of 0.1 and 0.3, divisor n − 1
    assert list(band.y) == pytest.approx(
        [0.2 + spread, 0.4 + 2 * spread, 0.4 - 2 * spread, 0.2 - spread]
    )
    assert list(figures["L2 norm of all weights"].data[0].y) == [5.0, 5.0]
    assert list(figures["dead units, mean over layers"].data[0].y) == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trial.stream.tasks='\"3\"'", "trial.stream.tasks: must be a whole number, got '3'"),
        ("trial.stream.tasks=true", "trial.stream.tasks: must be a whole number, got true"),
        ("trial.stream.tusks=3", "trial.stream.tusks: unknown key; did you mean tasks?"),
        ("trial.stream=3", "trial.stream: must be a table, got 3"),
        ("trial.stream.images=0", "trial.stream.images: must be ≥ 2, got 0"),
        ("trial.stream.change=colour", "trial.stream.change: must be one of labels | pixels, got"),
        ("trial.stream.images=400", "trial.stream.images: must be ≤ 359"),
        ("trial.augment=true", "augment must be false with a stream"),
        ("study.looks=2", "study.looks: is for the first epoch"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stream.toml").write_text(STUDY)
    key, _, value = change.partition("=")
    assert main(["search", "stream.toml", "--set", f"{key}={value.strip(chr(39))}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "pdsearch.db").exists()


def test_controls_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = STUDY.replace("tasks = 4, images = 96, last = 2", "tasks = 2, images = 64")
    (tmp_path / "stream.toml").write_text(text.replace("epochs = 2", "epochs = 1"))
    stored = search("stream.toml", threads=1, progress=False).stored
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(),\n"
        "                         nn.Linear(8, classes))\n"
    )
    found = confirm(
        stored,
        top=0,
        seeds=1,
        controls=True,
        threads=1,
        workers=1,
        transfer=["own.py:net@digits"],
    )
    assert [(row.kind, row.name) for row in found.rows] == [
        ("baseline", "relu"),
        ("activation", "LeakyReLU"),
        ("activation", "LeakyReLU(0.1)"),
        ("activation", "ELU"),
        *(("remedy", name) for name in REMEDIES),
    ]
    assert all(row.learning_rate in (0.03, 0.01) for row in found.rows)
    # Only what does not need the MLP goes along to another model.
    there = [row.name for row in found.transfers[0].rows if row.kind == "remedy"]
    assert there == [name for name, changes in REMEDIES.items() if "l2_init" in changes]
    # Each is the run that its settings make.
    settings = stored.settings.trial
    for row in found.rows:
        if row.kind == "remedy":
            changes = {"learning_rate": row.learning_rate, "learning_rates": []}
            chosen = {**settings.model_dump(mode="json"), **REMEDIES[row.name], **changes}
            alone = run_trial(
                load_family("relu").default,
                TrialSettings.model_validate(chosen),
                load_dataset("digits"),
                seed=1000,
                split="test",
                threads=1,
            )
            assert row.accuracy == (alone.value,), row.name
    # The same call again trains nothing.
    monkeypatch.setattr(trial_room, "run_trial", None)
    again = confirm(stored, top=0, seeds=1, controls=True, threads=1, workers=1)
    assert [row.accuracy for row in again.rows] == [row.accuracy for row in found.rows]


@pytest.mark.parametrize(
    ("name", "make"),
    [("LeakyReLU(0.1)", lambda: nn.LeakyReLU(0.1)), ("ELU", nn.ELU), ("LeakyReLU", nn.LeakyReLU)],
)
def test_the_activations_formulas_are_torchs(name: str, make: Any) -> None:
    formula = parse(STREAM_ACTIVATIONS[name], parameters=())
    for at in (-3.0, -0.5, 0.0, 0.25, 2.0):
        ours = float(formula.subs(x, sympy.Rational(str(at))).evalf(30))
        theirs = make()(torch.tensor(at, dtype=torch.float64)).item()
        assert ours == pytest.approx(theirs, abs=1e-14)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (TrialSettings(), "pdsearch:confirm/ab5905fadd85f4b212317627"),
        (
            TrialSettings(model="resnet18", learning_rates=(0.1, 0.01), epochs=20),
            "pdsearch:confirm/ee0e24cd383192633c4bb946",
        ),
    ],
)
def test_confirmations_from_before_there_were_streams_are_recognised(
    settings: TrialSettings, key: str
) -> None:
    """The keys are those that version 0.1 gave."""
    versions = {"pdsearch": "0.1.0", "torch": "2.14.1"}
    setting = Setting(settings, "0" * 64, "cpu", versions)
    identity = "pseudo-derivative: x"
    found = run_key(setting.to_dict(), identity=identity, seed=1000, split="test", rate=0.02)
    assert found == key


def test_a_setting_within_something_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "stream.toml").write_text(STUDY)
    with pytest.raises(InputError, match=r"--set study\.families\.a: families is not a table"):
        load_study_file(tmp_path / "stream.toml", overrides={"study.families.a": "1"})
    found = load_study_file(tmp_path / "stream.toml", overrides={"trial.stream.tasks": "3"})
    assert found.trial.stream is not None
    assert (found.trial.stream.tasks, found.trial.stream.images) == (3, 96)
