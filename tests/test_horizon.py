"""Search for a longer training than a trial has: against numpy's fit, and trials run by hand."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import SMALL_NET

from pdsearch.cli import main
from pdsearch.data import load_dataset
from pdsearch.errors import InputError
from pdsearch.study import open_study, search
from pdsearch.study.file import validate
from pdsearch.study.horizon import lengths, noise, weights
from pdsearch.study.image_trainer import ImageTrainer
from pdsearch.study.trainer import Reached
from pdsearch.trial import run_trial

STUDY = """
[study]
name = "far"
families = ["exp_tail"]
references = ["leaky"]
trials = 4
seed = 1
sampler = "random"
pruner = "none"
workers = 1
horizon = 20
[trial]
model = "small.py:net"
dataset = "digits"
epochs = 4
batch_size = 64
learning_rate = 0.1
precision = "float32"
memory_format = "contiguous"
[confirm]
seeds = 1
epochs = 2
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(SMALL_NET, encoding="utf-8")
    Path("study.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(8, (2, 4, 8)), (20, (5, 10, 20)), (2, (1, 2)), (3, (1, 2, 3)), (5, (1, 2, 5)), (1, (1,))],
)
def test_a_quarter_a_half_and_all(epochs: int, expected: tuple[int, ...]) -> None:
    assert lengths(epochs) == expected


@pytest.mark.parametrize("of", [(2, 4, 8), (1, 2), (5, 10, 20), (1, 3, 4, 9)])
@pytest.mark.parametrize("horizon", [10, 40, 1000])
def test_the_weighted_sum_is_the_least_squares_prediction(
    of: tuple[int, ...], horizon: int
) -> None:
    random = np.random.default_rng(len(of) + horizon)
    ours = weights(of, horizon=horizon)
    for _ in range(5):
        values = random.normal(size=len(of))
        slope, intercept = np.polyfit(1 / np.array(of), values, 1)
        predicted = intercept + slope / horizon
        assert sum(w * v for w, v in zip(ours, values, strict=True)) == pytest.approx(predicted)
    assert sum(ours) == pytest.approx(1)
    many = random.normal(size=(200_000, len(of))) @ np.array(ours)
    assert noise(of, horizon=horizon) == pytest.approx(many.std(), rel=0.02)


def test_a_line_in_one_over_the_epochs_is_met_exactly() -> None:
    """What is predicted for a + b/E is a + b/E, so that its difference to ReLU's is too."""
    line = [0.02 - 0.08 / length for length in (2, 4, 8)]
    predicted = sum(w * d for w, d in zip(weights((2, 4, 8), horizon=40), line, strict=True))
    assert predicted == pytest.approx(0.02 - 0.08 / 40)


def test_a_trials_value_is_predicted_from_its_own_runs(here: Path) -> None:
    result = search("study.toml", device="cpu", threads=1, progress=False)
    data = load_dataset("digits")
    slope, ends = weights((1, 2, 4), horizon=20), (1, 3, 7)
    rows = result.stored.trials()
    assert [row.status for row in rows] == ["complete"] * 4
    for row in rows:
        assert row.candidate is not None
        assert [entry["epoch"] for entry in row.epochs] == list(range(1, 8))
        values = []
        for length, end in zip((1, 2, 4), ends, strict=True):
            settings = result.stored.settings.trial.model_copy(update={"epochs": length})
            alone = run_trial(
                row.candidate, settings, data, seed=1, threads=1, device="cpu", directory=here
            )
            values.append(alone.value)
            assert row.epochs[end - 1]["accuracy"] == alone.value
        assert row.value == pytest.approx(sum(w * v for w, v in zip(slope, values, strict=True)))
    assert main(["report", "far", "-o", "page.html", "-q"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "validation accuracy predicted at 20 epochs" in page
    assert "<dt>best, predicted</dt>" in page and "<dt>ReLU, predicted</dt>" in page


def test_of_several_rates_one_is_followed_through_all_lengths(here: Path) -> None:
    file = STUDY.replace("learning_rate = 0.1", "learning_rates = [0.1, 0.001]")
    Path("study.toml").write_text(file.replace("epochs = 4", "epochs = 2"), encoding="utf-8")
    result = search("study.toml", device="cpu", threads=1, trials=2, progress=False)
    for row in result.stored.trials():
        accuracies = [entry["accuracy"] for entry in row.epochs]
        assert [entry["epoch"] for entry in row.epochs] == list(range(1, 7))
        short, long = weights((1, 2), horizon=20)
        by_rate = {
            0.1: short * accuracies[0] + long * accuracies[3],
            0.001: short * accuracies[1] + long * accuracies[5],
        }
        assert row.value == pytest.approx(max(by_rate.values()))
        assert row.learning_rate == max(by_rate, key=lambda rate: by_rate[rate])
    assert main(["report", "far", "-o", "page.html", "-q"]) == 0


def test_an_interrupted_trial_goes_on_with_the_length_it_was_at(here: Path) -> None:
    whole = search("study.toml", device="cpu", threads=1, progress=False).stored.trials()
    settings = validate(open_study("far").settings.model_dump(mode="json"), directory=here)
    candidate = whole[0].candidate
    assert candidate is not None

    class Stop(Exception):
        pass

    def run(stop: int | None) -> tuple[Any, list[Reached]]:
        seen: list[Reached] = []

        def on_step(at: Reached) -> None:
            seen.append(at)
            if at.step == stop and at.most is None:
                raise Stop

        trainer = ImageTrainer(settings, load_dataset("digits"), device="cpu", threads=1)
        file = here / "kept.safetensors"
        return trainer(
            candidate, seed=1, on_step=on_step, on_batch=lambda *_: None, checkpoint=file
        ), seen

    trained = 0
    with pytest.raises(Stop):
        run(5)
    began = {path.name.split("-")[-2] for path in here.glob("kept-*")}
    assert began == {"1", "2", "4"}
    outcome, seen = run(None)
    trained = sum(at.whole and at.most is None for at in seen)
    assert trained == 7
    assert outcome.values == pytest.approx((whole[0].value,))


def test_after_two_lengths_the_most_it_may_come_to_is_told(here: Path) -> None:
    search("study.toml", device="cpu", threads=1, trials=1, progress=False)
    settings = validate(open_study("far").settings.model_dump(mode="json"), directory=here)
    seen: list[Reached] = []
    trainer = ImageTrainer(settings, load_dataset("digits"), device="cpu", threads=1)
    row = open_study("far").trials()[0]
    assert row.candidate is not None
    trainer(row.candidate, seed=1, on_step=seen.append, on_batch=lambda *_: None, checkpoint=None)
    (hope,) = [at for at in seen if at.most is not None]
    one, two = (at.value for at in seen if at.step in (1, 3) and at.most is None)
    short, long = weights((1, 2), horizon=20)
    predicted = short * one + long * two
    images = 0.1 * len(load_dataset("digits").train_labels)
    share = min(max(predicted, 0.0), 1.0)
    error = math.hypot(short, long) * math.sqrt(2 * share * (1 - share) / images)
    assert hope.step == 3
    assert hope.most == pytest.approx(predicted + 2 * error, abs=1e-9)


@pytest.mark.parametrize(("pruner", "status"), [("median", "pruned"), ("none", "complete")])
def test_who_cannot_catch_up_is_pruned(
    here: Path, monkeypatch: pytest.MonkeyPatch, pruner: str, status: str
) -> None:
    """Told that the third trial may come to 0.2 at most, where ReLU came to more."""
    own = ImageTrainer._hope
    count = itertools.count(1)

    def hope(self: ImageTrainer, legs: Any) -> Reached:
        found = own(self, legs)
        most = 0.2 if next(count) == 4 else 1.0
        return Reached(found.step, found.value, found.standing, None, most=most)

    monkeypatch.setattr(ImageTrainer, "_hope", hope)
    Path("study.toml").write_text(STUDY.replace('"none"', f'"{pruner}"'), encoding="utf-8")
    rows = search("study.toml", device="cpu", threads=1, progress=False).stored.trials()
    assert [row.status for row in rows] == ["complete"] * 3 + [status]
    if status == "pruned":
        assert "predicted to stay below" in str(rows[3].reason)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"study": {"horizon": 4}}, "study.horizon: must be more than trial.epochs, 4, got 4"),
        ({"trial": {"epochs": 1}}, "study.horizon: needs trial.epochs of at least 2"),
        ({"trial": {"stream": {"tasks": 3}, "augment": False}}, "a stream of tasks has none"),
        ({"study": {"horizon": "far"}}, "study.horizon"),
    ],
)
def test_what_is_wrong_is_said(here: Path, changes: dict[str, Any], said: str) -> None:
    import tomllib

    data = tomllib.loads(STUDY)
    for section, keys in changes.items():
        data[section].update(keys)
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        validate(data, directory=here)


def test_a_train_function_has_no_horizon(here: Path) -> None:
    def train(candidate: Any) -> float:
        return 0.5

    with pytest.raises(InputError, match=r"study\.horizon"):
        search("study.toml", train=train, progress=False)
