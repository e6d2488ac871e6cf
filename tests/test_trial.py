"""Trials: against a plain training loop, torch's own schedulers, and themselves interrupted."""

import contextlib
import copy
import dataclasses
import gc
import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sympy
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from pdsearch.autograd import convert
from pdsearch.data import Dataset, channel_statistics, load_dataset, stratified_split
from pdsearch.errors import InputError
from pdsearch.expression import t, x
from pdsearch.family import Candidate, Family
from pdsearch.trial import (
    EpochRecord,
    Look,
    TrialResult,
    TrialSettings,
    convolution,
    learning_rate_at,
    loop,
    probe_precision,
    resolve_device,
    resolve_settings,
    run,
    run_over_learning_rates,
    run_trial,
    speed,
)

RELU = Family("relu", sympy.Piecewise((1, x > 0), (0, True))).default
TAIL = Family("tail", sympy.Piecewise((1, x > 0), (sympy.exp(x) / 2, True))).default
ANNEALED = Family("annealed", sympy.Piecewise((1, x > 0), ((1 - t) / 2, True))).default

MODELS = """
import torch
from torch import nn

def small(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(200, 16), nn.ReLU(), nn.Linear(16, classes))

def normed(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(392, classes))

def plain(classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, classes))

def dead(classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, classes))
    with torch.no_grad():
        net[1].bias[:2] = -1e6
    return net

class Twice(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.b = nn.Linear(3072, 8), nn.Linear(8, 4)
        self.c, self.relu = nn.Linear(4, classes), nn.ReLU()

    def forward(self, images):
        return self.c(self.relu(self.b(self.relu(self.a(images.flatten(1))))))

class Calls(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(3072, 8), nn.Linear(8, classes), nn.ReLU()

    def forward(self, images):
        return self.b(torch.relu(self.relu(self.a(images.flatten(1)))))
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(MODELS)
    return tmp_path


def tiny_dataset(n: int = 200, m: int = 40) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n + m) % 4
    images = torch.randint(0, 60, (n + m, 3, 32, 32), generator=generator)
    for label in range(4):  # the brighter quarter tells the class
        row, column = divmod(label, 2)
        images[labels == label, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] += 120
    images = images.to(torch.uint8)
    return Dataset(
        "tiny", images[:n], labels[:n], images[n:], labels[n:], ("a", "b", "c", "d"), mirror=False
    )


TINY = tiny_dataset()


def settings(**changed: Any) -> TrialSettings:
    given = {
        "model": "own.py:small",
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.05,
        "precision": "float32",
        "memory_format": "contiguous",
    }
    return TrialSettings(**{**given, **changed})


def trial(models: Path, candidate: Candidate = TAIL, **options: Any) -> TrialResult:
    chosen = options.pop("settings", None) or settings()
    options = {"seed": 0, "threads": 1, "device": "cpu", "directory": models, **options}
    dataset = options.pop("dataset", TINY)
    return run_trial(candidate, chosen, dataset, **options)


def numbers(result: TrialResult) -> list[dict[str, Any]]:
    """All of a result that must repeat: everything but times."""
    return [
        {k: v for k, v in dataclasses.asdict(e).items() if k != "seconds"} for e in result.epochs
    ]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models of the runs, as they end."""
    seen: list[nn.Module] = []
    build = run.build_model

    def spy(*arguments: Any, **options: Any) -> nn.Module:
        seen.append(build(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(run, "build_model", spy)
    return seen


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the training steps and evaluations of the runs were given, normalised."""
    seen: list[torch.Tensor] = []
    prepared = loop.Loop._prepared

    def spy(self: loop.Loop, images: torch.Tensor) -> torch.Tensor:
        seen.append(prepared(self, images))
        return seen[-1]

    monkeypatch.setattr(loop.Loop, "_prepared", spy)
    return seen


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -3}, "greater than or equal to 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": math.inf}, "finite"),
        ({"learning_rates": [0.1, -1]}, "greater than 0"),
        ({"learning_rates": [0.1, 0.1]}, "holds a rate twice"),
        ({"validation": 1}, "less than 1"),
        ({"validation": 0}, "greater than 0"),
        ({"momentum": 1}, "less than 1"),
        ({"dropout": 1}, "less than 1"),
        ({"optimizer": "lion"}, "'sgd', 'adam' or 'adamw'"),
        ({"schedule": "linear"}, "'constant', 'step', 'cosine' or 'one-cycle'"),
        ({"precision": "float16"}, "'auto', 'float32' or 'bfloat16'"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov is for optimizer 'sgd' only"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs a momentum above 0"),
        ({"milestones": [0.7, 0.3]}, "milestones must ascend"),
        (
            {
                "milestones": [0.7, 0.3],
                "learning_rates": [0.1, 0.1],
                "nesterov": True,
                "momentum": 0,
            },
            "nesterov needs.*; milestones must.*; learning_rates holds",
        ),
        ({"epoch": 3}, "Extra inputs are not permitted"),
        ({"epochs": "many"}, "valid integer"),
    ],
)
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialSettings(**change)


def test_settings_are_frozen_documented_and_survive_json() -> None:
    made = TrialSettings(learning_rates=[0.1, 0.2], milestones=[0.5])
    with pytest.raises(ValidationError, match="frozen"):
        made.epochs = 3  # type: ignore[misc]
    assert TrialSettings.model_validate(json.loads(made.model_dump_json())) == made
    assert all(entry.description for entry in TrialSettings.model_fields.values())


# --- schedules ------------------------------------------------------------------------------------


def torchs_rates(schedule: str, *, epochs: int, steps: int) -> list[float]:
    """What torch's scheduler gives at each step."""
    from torch.optim import lr_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3, momentum=0.9)
    total = epochs * steps
    scheduler: lr_scheduler.LRScheduler
    if schedule == "step":
        # A fifth and a half of the epochs, in steps.
        marks = [round(0.2 * epochs) * steps, round(0.5 * epochs) * steps]
        scheduler = lr_scheduler.MultiStepLR(optimizer, marks, gamma=0.2)
    elif schedule == "cosine":
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, total)
    elif schedule == "one-cycle":
        scheduler = lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total, cycle_momentum=False)
    else:
        scheduler = lr_scheduler.ConstantLR(optimizer, factor=1)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total:
            scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one-cycle"])
@pytest.mark.parametrize(("epochs", "steps"), [(10, 7), (5, 4)])
def test_schedules_are_torchs(schedule: str, epochs: int, steps: int) -> None:
    chosen = settings(
        schedule=schedule,
        epochs=epochs,
        learning_rate=0.3,
        milestones=[0.2, 0.5],
        step_factor=0.2,
    )
    made = [learning_rate_at(chosen, step, steps=steps) for step in range(epochs * steps)]
    assert made == pytest.approx(torchs_rates(schedule, epochs=epochs, steps=steps), rel=1e-9)


@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_one_cycle_of_very_few_steps(total: int) -> None:
    chosen = settings(schedule="one-cycle", epochs=1)
    made = [learning_rate_at(chosen, step, steps=total) for step in range(total)]
    assert all(0 < rate <= 0.05 * (1 + 1e-12) for rate in made)


# --- the run --------------------------------------------------------------------------------------


def test_it_is_a_plain_training_loop(
    models: Path, trained: list[nn.Module], batches: list[torch.Tensor]
) -> None:
    """The same batches through torch's own ReLU and a textbook loop give the same weights."""
    chosen = settings(model="own.py:plain", epochs=2, batch_size=16, augment=False)
    result = trial(models, RELU, settings=chosen)
    train, held = stratified_split(TINY.train_labels, share=0.1, seed=0)
    mean, deviation = channel_statistics(TINY.train_images[train])
    clean = (TINY.train_images.float() - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)

    torch.manual_seed(loop.derive_seed(0, "weights"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=22, cycle_momentum=False
    )
    position = 0
    for epoch in range(2):
        seen, losses = [], []
        for _ in range(11):  # 180 images in batches of 16
            images = batches[position]
            position += 1
            # Each image is looked up among the clean ones, which gives its label.
            index = [int((clean - image).abs().amax((1, 2, 3)).argmin()) for image in images]
            assert clean[index].equal(images) or torch.allclose(clean[index], images, atol=1e-6)
            seen += index
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), TINY.train_labels[index])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if position < 23:
                schedule.step() if len(losses) + epoch * 11 < 22 else None
        assert len(set(seen)) == 176  # no image twice
        assert set(seen) <= set(train.tolist())
        assert result.epochs[epoch].loss == pytest.approx(sum(losses) / 11, rel=1e-4)
        position += 1  # the evaluation's batch
        with torch.no_grad():
            correct = (net(clean[held]).argmax(1) == TINY.train_labels[held]).double().mean()
        assert result.epochs[epoch].accuracy == pytest.approx(float(correct))
    for mine, plain in zip(trained[0].parameters(), net.parameters(), strict=True):
        assert torch.allclose(mine, plain, rtol=1e-3, atol=1e-5)


def test_it_learns(models: Path) -> None:
    result = trial(models, settings=settings(epochs=6))
    assert result.value == result.epochs[-1].accuracy > 0.8
    assert result.diverged is None
    assert [e.epoch for e in result.epochs] == [1, 2, 3, 4, 5, 6]
    assert result.images_per_second == pytest.approx(6 * 5 * 32 / result.seconds)
    rate = learning_rate_at(result.settings, 29, steps=5)
    assert result.epochs[-1].learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"precision": "bfloat16", "memory_format": "channels_last"},
        {"optimizer": "adamw", "learning_rate": 0.002},
        {"model": "own.py:normed"},
    ],
)
def test_bit_for_bit(models: Path, trained: list[nn.Module], change: dict[str, Any]) -> None:
    results = []
    for other in (0, 1):
        torch.manual_seed(other)  # what else the process drew must not matter
        results.append(trial(models, settings=settings(**change)))
    assert numbers(results[0]) == numbers(results[1])
    states = [model.state_dict() for model in trained]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_memory_format_does_not_matter(models: Path, optimizer: str) -> None:
    """Fused optimisers go wrong where weights and gradients lie differently in memory."""
    rate = 0.05 if optimizer == "sgd" else 0.002
    one, two = (
        trial(
            models,
            settings=settings(optimizer=optimizer, learning_rate=rate, memory_format=layout),
        )
        for layout in ("contiguous", "channels_last")
    )
    for first, second in zip(one.epochs, two.epochs, strict=True):
        assert second.loss == pytest.approx(first.loss, rel=1e-3)


def test_alexnet_bit_for_bit() -> None:
    digits = load_dataset("digits")
    small = dataclasses.replace(
        digits, train_images=digits.train_images[:100], train_labels=digits.train_labels[:100]
    )
    for precision in ("float32", "bfloat16"):
        chosen = TrialSettings(
            epochs=1,
            batch_size=40,
            precision=precision,
            memory_format="channels_last",
            initialisation="he",
        )
        one, two = (run_trial(TAIL, chosen, small, seed=3, threads=1) for _ in range(2))
        assert numbers(one) == numbers(two)


def test_candidates_of_a_seed_share_weights_and_batches(
    models: Path, trained: list[nn.Module], batches: list[torch.Tensor]
) -> None:
    seen = []
    for candidate, seed in ((RELU, 0), (TAIL, 0), (TAIL, 1)):
        batches.clear()

        def stop(_: EpochRecord) -> None:
            raise KeyboardInterrupt("stop")

        with pytest.raises(KeyboardInterrupt, match="stop"):
            trial(models, candidate, seed=seed, on_epoch=stop)
        seen.append([batch.clone() for batch in batches])
    assert all(a.equal(b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not seen[1][0].equal(seen[2][0])
    masks = []
    for candidate in (RELU, TAIL):
        torch.manual_seed(loop.derive_seed(0, "weights"))
        trial(models, candidate, settings=settings(learning_rate=1e-30, weight_decay=0, epochs=1))
        masks.append(trained[-1].state_dict())
    assert all(masks[0][name].equal(masks[1][name]) for name in masks[0])


def test_nothing_outside_changes(models: Path) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    trial(models, threads=threads + 1)
    assert torch.random.get_rng_state().equal(state)
    assert torch.get_num_threads() == threads


def test_augmentation_is_on_when_asked_for(models: Path, batches: list[torch.Tensor]) -> None:
    def distinct() -> int:
        # Rows of a border that padding alone can make: all at black's normalised value.
        edges = torch.cat([b for b in batches if len(b) == 32])[:, 0, 0]
        return int((edges.std(1) < 1e-6).sum())

    trial(models, settings=settings(augment=False))
    assert distinct() == 0
    batches.clear()
    trial(models, settings=settings(augment=True))
    assert distinct() > 30  # four of nine offsets give a black first row


def test_progress_runs_from_0_to_1(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    original = loop.set_progress

    def spy(model: nn.Module, progress: float) -> None:
        told.append(progress)
        original(model, progress)

    monkeypatch.setattr(loop, "set_progress", spy)
    batches: list[int] = []
    trial(
        models,
        ANNEALED,
        settings=settings(epochs=3),
        on_batch=lambda done, total: batches.append(total),
    )
    steps = batches[-1]
    assert len(batches) == steps > 3  # with every step, not with every epoch
    assert told == [step / (steps - 1) for step in range(steps)]
    told.clear()
    trial(models, RELU, settings=settings(epochs=1))
    assert told == []


def test_annealing_to_the_step_ends_with_the_step(models: Path, trained: list[nn.Module]) -> None:
    """With g the step in the last epoch, dead units get no gradient there, and did before."""
    gradients = []

    def look(done: int, total: int) -> None:
        weight = trained[-1].get_submodule("1").weight
        gradients.append(weight.grad[:2].abs().sum().item())

    chosen = settings(model="own.py:dead", epochs=2, batch_size=90, weight_decay=0)
    trial(models, ANNEALED, settings=chosen, on_batch=look)
    # 1 − t falls from 1 at the first of four steps to 0 at the last.
    assert len(gradients) == 4 and all(gradient > 0 for gradient in gradients[:3])
    assert gradients[3] == 0


def test_dead_units(models: Path) -> None:
    result = trial(models, RELU, settings=settings(model="own.py:dead", epochs=1))
    # Two of eight units can never be positive; of the others each is for some image.
    assert result.epochs[0].dead == {"2": 0.25}


def test_dead_units_are_channels_over_the_whole_validation_set(
    models: Path, trained: list[nn.Module]
) -> None:
    result = trial(models, RELU, settings=settings(learning_rate=0.3, epochs=2))
    train, held = stratified_split(TINY.train_labels, share=0.1, seed=0)
    mean, deviation = channel_statistics(TINY.train_images[train])
    clean = (TINY.train_images[held].float() - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    net = trained[0].eval()
    assert isinstance(net, nn.Sequential)
    wanted = {}
    with torch.no_grad():
        for number in (1, 3, 7):
            before = net[:number](clean)
            alive = (before > 0).transpose(0, 1).flatten(1).any(1)
            wanted[str(number)] = 1 - alive.double().mean().item()
    assert result.epochs[-1].dead == pytest.approx(wanted)


def test_a_module_called_twice_counts_twice(models: Path) -> None:
    result = trial(models, settings=settings(model="own.py:Twice", epochs=1))
    assert list(result.epochs[0].dead) == ["relu", "relu:2"]


def test_kept_bytes_by_hand(models: Path) -> None:
    result = trial(models, RELU, settings=settings(model="own.py:plain", epochs=1))
    # The flattened image, the output of ReLU (shared with what the next layer keeps) or also its
    # input, and the log-softmax is not part of the model: 4 bytes each.
    image, hidden = 3072 * 4, 16 * 4
    assert image + hidden <= result.kept_bytes <= image + 2 * hidden


@pytest.mark.parametrize("module", [None, nn.ReLU], ids=["pseudo-derivative", "control"])
def test_a_run_leaves_no_model_in_memory(
    models: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    left: list[weakref.ref[nn.Parameter]] = []
    build = run.build_model

    def spy(*arguments: Any, **options: Any) -> nn.Module:
        model = build(*arguments, **options)
        left.extend(weakref.ref(parameter) for parameter in model.parameters())
        return model

    monkeypatch.setattr(run, "build_model", spy)
    trial(models, settings=settings(epochs=1), module=module)
    gc.collect()
    assert len(left) == 8 and all(parameter() is None for parameter in left)


def test_controls_stand_in_for_the_relus(models: Path, trained: list[nn.Module]) -> None:
    result = trial(models, RELU, module=nn.GELU)
    assert sum(isinstance(m, nn.GELU) for m in trained[0].modules()) == 3
    assert not any(isinstance(m, nn.ReLU) for m in trained[0].modules())
    assert list(result.epochs[0].dead) == ["1", "3", "7"]
    assert numbers(result) != numbers(trial(models, RELU))


def test_the_search_never_sees_the_test_set(models: Path, batches: list[torch.Tensor]) -> None:
    blank = dataclasses.replace(
        TINY, test_images=torch.zeros(0, 3, 32, 32), test_labels=torch.zeros(0, dtype=torch.int64)
    )
    assert numbers(trial(models, dataset=blank)) == numbers(trial(models))
    _, held = stratified_split(TINY.train_labels, share=0.1, seed=0)
    assert {len(batch) for batch in batches} == {32, len(held)}


def test_confirmation_trains_on_all_and_sees_the_test_set(
    models: Path, batches: list[torch.Tensor]
) -> None:
    chosen = settings(epochs=1, batch_size=200, augment=False)
    trial(models, settings=chosen, split="test")
    mean, deviation = channel_statistics(TINY.train_images)
    train, test = batches
    assert len(train) == 200
    clean = (TINY.test_images.float() - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    assert torch.allclose(test, clean, atol=1e-6)


def test_on_batch_counts_the_whole_run(models: Path) -> None:
    told: list[tuple[int, int]] = []
    trial(models, on_batch=lambda done, total: told.append((done, total)))
    assert told == [(number, 15) for number in range(1, 16)]


# --- looks within the first epoch -----------------------------------------------------------------


@pytest.mark.parametrize("model", ["own.py:small", "own.py:normed"])
@pytest.mark.parametrize("looks", [2, 3, 5])
def test_looks_change_nothing(models: Path, looks: int, model: str) -> None:
    chosen = settings(model=model)
    seen: list[tuple[int, int]] = []
    done = 0

    def batch(number: int, total: int) -> None:
        nonlocal done
        done = number

    def look(one: Look) -> None:
        seen.append((one.number, done))

    with_looks = trial(models, settings=chosen, looks=looks, on_look=look, on_batch=batch)
    assert numbers(with_looks) == numbers(trial(models, settings=chosen))
    # Five batches an epoch: where equal parts of the first end, and never later.
    assert seen == [(number, number * 5 // looks) for number in range(1, looks)]


def test_a_look_and_an_epoch_see_the_same_network(
    models: Path, trained: list[nn.Module], batches: list[torch.Tensor]
) -> None:
    """With a rate that moves no weight, all losses are that of the initial network."""
    chosen = settings(learning_rate=1e-30, weight_decay=0.0, epochs=1)
    looks: list[Look] = []
    result = trial(models, settings=chosen, looks=5, on_look=looks.append)
    _, held = stratified_split(TINY.train_labels, share=chosen.validation, seed=0)
    evaluated = batches[-1]  # one batch holds all that is held back
    assert len(evaluated) == len(held)
    with torch.no_grad():
        logits = trained[-1].eval()(evaluated).double()
    labels = TINY.train_labels[held]
    expected = (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean().item()
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    assert len(looks) == 4
    for one in looks:
        assert one.loss == pytest.approx(expected, rel=1e-5)
        assert one.accuracy == accuracy
    assert result.epochs[0].evaluation_loss == pytest.approx(expected, rel=1e-5)


def test_what_a_look_raises_ends_the_run(models: Path) -> None:
    def stop(look: Look) -> None:
        raise Stop("stop")

    with pytest.raises(Stop, match="stop"):
        trial(models, looks=2, on_look=stop)


@pytest.mark.parametrize("looks", [0, -1, 6])
def test_looks_that_an_epoch_has_no_room_for(models: Path, looks: int) -> None:
    with pytest.raises(InputError, match="looks must be from 1 to the 5 batches"):
        trial(models, looks=looks)


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_divergence_is_a_result_with_its_reason(models: Path, rate: float) -> None:
    chosen = settings(learning_rate=rate, schedule="constant", epochs=50)
    told: list[EpochRecord] = []
    result = trial(models, settings=chosen, on_epoch=told.append)
    assert result.diverged is not None
    assert "in epoch" in result.diverged
    assert math.isnan(result.value)
    assert len(result.epochs) == len(told) < 5


def test_divergence_is_kept_by_the_checkpoint(models: Path) -> None:
    chosen = settings(learning_rate=1e30, schedule="constant")
    file = models / "c.safetensors"
    one = trial(models, settings=chosen, checkpoint=file)
    two = trial(models, settings=chosen, checkpoint=file)
    assert one.diverged == two.diverged is not None


# --- checkpoints ----------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_after(epoch: int) -> Callable[[EpochRecord], None]:
    def stop(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise Stop("stop")

    return stop


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.002},
        {"optimizer": "sgd", "nesterov": True, "memory_format": "channels_last"},
        {"model": "own.py:normed", "precision": "bfloat16"},
    ],
)
def test_resumed_is_uninterrupted(
    models: Path, trained: list[nn.Module], change: dict[str, Any]
) -> None:
    chosen = settings(epochs=4, **change)
    whole = trial(models, ANNEALED, settings=chosen)
    file = models / "deep" / "run.safetensors"
    for epoch in (1, 3):
        with pytest.raises(Stop, match="stop"):
            trial(models, ANNEALED, settings=chosen, checkpoint=file, on_epoch=stop_after(epoch))
    told: list[int] = []
    resumed = trial(
        models, ANNEALED, settings=chosen, checkpoint=file, on_epoch=lambda r: told.append(r.epoch)
    )
    assert told == [1, 2, 3, 4]
    assert numbers(resumed) == numbers(whole)
    first, last = trained[0].state_dict(), trained[-1].state_dict()
    assert all(first[name].equal(last[name]) for name in first)
    assert [f.name for f in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("every", "stop", "last", "expected"),
    [
        (0.0, None, True, [1, 2, 3, 4]),
        (1e9, None, True, [4]),
        (1e9, None, False, []),
        (1e9, 2, False, [2]),  # what is pruned or interrupted may be taken up
        (2.5, None, True, [3, 4]),  # each epoch takes a second below
        (1.5, None, False, [2, 4]),
    ],
)
def test_when_a_checkpoint_is_written(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: float,
    stop: int | None,
    last: bool,
    expected: list[int],
) -> None:
    written: list[int] = []
    now = 0.0

    def write(path: Path, *, state: dict[str, Any], **_: Any) -> None:
        written.append(len(state["epochs"]))

    def on_batch(done: int, total: int) -> None:
        nonlocal now
        now += 4 / total

    monkeypatch.setattr(run, "SAVE_EVERY", every)
    monkeypatch.setattr(run, "write_checkpoint", write)
    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: now))
    stopped = contextlib.nullcontext() if stop is None else pytest.raises(Stop, match="stop")
    with stopped:
        trial(
            models,
            settings=settings(epochs=4),
            checkpoint=models / "run.safetensors",
            save_last=last,
            on_batch=on_batch,
            on_epoch=stop_after(stop or 0),
        )
    assert written == expected


def test_a_finished_checkpoint_trains_no_more(models: Path) -> None:
    file = models / "run.safetensors"
    one = trial(models, checkpoint=file)
    told: list[int] = []
    two = trial(models, checkpoint=file, on_batch=lambda done, _: told.append(done))
    assert not told
    assert one == two


def test_a_checkpoint_of_another_run_is_refused(models: Path) -> None:
    file = models / "run.safetensors"
    trial(models, checkpoint=file)
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"candidate": RELU}, {"settings": settings(epochs=4)}
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(InputError, match=r"run.safetensors belongs to another run"):
            trial(models, **{"checkpoint": file, **change})


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_damaged_checkpoint_begins_anew(
    models: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = models / "run.safetensors"
    whole = trial(models, checkpoint=file)
    file.write_bytes(file.read_bytes()[:keep])
    assert numbers(trial(models, checkpoint=file)) == numbers(whole)
    assert "is damaged" in caplog.text


def test_a_checkpoint_that_cannot_be_written_warns(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "file").write_text("in the way")
    result = trial(models, checkpoint=models / "file" / "run.safetensors")
    assert len(result.epochs) == 3
    assert "cannot be written" in caplog.text


def test_resuming_keeps_what_the_probe_decided(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(precision="auto", memory_format="auto")
    file = models / "run.safetensors"
    monkeypatch.setattr(speed, "probe_precision", lambda *_, **__: ("bfloat16", "channels_last"))
    with pytest.raises(Stop, match="stop"):
        trial(models, settings=chosen, checkpoint=file, on_epoch=stop_after(1))
    monkeypatch.setattr(speed, "probe_precision", lambda *_, **__: ("float32", "contiguous"))
    assert trial(models, settings=chosen, checkpoint=file).settings.precision == "bfloat16"


# --- learning rates -------------------------------------------------------------------------------


def test_the_best_of_several_rates(models: Path) -> None:
    chosen = settings(learning_rates=(1e-5, 0.05, 1e30))
    told: list[tuple[float, int]] = []
    found = run_over_learning_rates(
        TAIL,
        chosen,
        TINY,
        seed=0,
        threads=1,
        directory=models,
        checkpoint=models / "run.safetensors",
        on_epoch=lambda rate, record: told.append((rate, record.epoch)),
    )
    assert found.learning_rate == 0.05
    assert list(found.results) == [1e-5, 0.05, 1e30]
    assert found.results[1e30].diverged
    assert numbers(found.best) == numbers(trial(models, settings=settings(learning_rate=0.05)))
    assert told[:6] == [(1e-5, 1), (1e-5, 2), (1e-5, 3), (0.05, 1), (0.05, 2), (0.05, 3)]
    names = sorted(file.name for file in models.glob("run*"))
    assert names == [f"run-{rate}.safetensors" for rate in ("0.05", "1e+30", "1e-05")]


def test_without_a_grid_the_one_rate_is_tried(models: Path) -> None:
    found = run_over_learning_rates(TAIL, settings(), TINY, seed=0, threads=1, directory=models)
    assert list(found.results) == [0.05]


# --- what does not fit ----------------------------------------------------------------------------


def test_batch_larger_than_the_data(models: Path) -> None:
    with pytest.raises(InputError, match="batch_size 500 is larger than the 180 images of tiny"):
        trial(models, settings=settings(batch_size=500))


def test_relu_called_as_a_function(models: Path) -> None:
    result = trial(models, settings=settings(model="own.py:Calls", epochs=2))
    assert list(result.epochs[0].dead) == ["relu", "relu_1"]  # in the order in which they run
    plain = trial(models, RELU, settings=settings(model="own.py:Calls", epochs=2))
    assert plain.epochs[0].loss != result.epochs[0].loss
    control = trial(models, settings=settings(model="own.py:Calls", epochs=1), module=nn.Softplus)
    assert control.epochs[0].loss != plain.epochs[0].loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "no device 'gpu': valid are auto, cpu, cuda, cuda:N and mps"),
        ({"device": "meta"}, "device 'meta' is not supported"),
        ({"device": "cuda:97"}, "device 'cuda:97' is not there: torch sees"),
        ({"device": "mps"}, "device 'mps' is not there: torch sees no Apple GPU"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"split": "train"}, "split must be 'validation' or 'test', got 'train'"),
    ],
)
def test_wrong_options(models: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trial(models, **options)


@pytest.mark.parametrize("failing", [False, True])
def test_an_apple_gpu_keeps_its_random_state(
    failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for what torch calls there: no such machine is at hand."""
    state = ["before"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda new: state.append(new))
    with contextlib.suppress(KeyError), speed.surroundings(resolve_device("mps"), threads=1):
        state[0] = "during"
        if failing:
            raise KeyError
    assert state == ["during", "before"]


# --- speed ----------------------------------------------------------------------------------------


def test_probe_decides_and_leaves_no_trace(models: Path) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    chosen = settings(precision="auto", memory_format="auto")
    precision, layout = probe_precision(chosen, TINY, torch.device("cpu"), directory=models)
    assert precision in ("float32", "bfloat16")
    assert layout in ("contiguous", "channels_last")
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        (
            ("auto", "auto"),
            {"float32": {"contiguous", "channels_last"}, "bfloat16": {"channels_last"}},
        ),
        (("float32", "auto"), {"float32": {"contiguous", "channels_last"}}),
        (("bfloat16", "auto"), {"bfloat16": {"channels_last"}}),
        (("auto", "contiguous"), {"float32": {"contiguous"}, "bfloat16": {"contiguous"}}),
        (("float32", "channels_last"), {"float32": {"channels_last"}}),
    ],
)
def test_probe_tries_what_is_left_open(
    models: Path, given: tuple[str, str], valid: dict[str, set[str]]
) -> None:
    chosen = settings(precision=given[0], memory_format=given[1])
    choices = speed._choices(chosen, torch.device("cpu"))
    found = {p: {layout for q, layout in choices if p == q} for p, _ in choices}
    assert found == valid
    assert probe_precision(chosen, TINY, torch.device("cpu"), directory=models) in choices


@pytest.mark.parametrize(
    ("precision", "layout"), [("float32", "contiguous"), ("bfloat16", "channels_last")]
)
def test_resolved_settings(monkeypatch: pytest.MonkeyPatch, precision: str, layout: str) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(speed, "probe_precision", lambda *_, **__: (precision, layout))
        made = resolve_settings(TrialSettings(), TINY, torch.device("cpu"))
    assert (made.precision, made.memory_format) == (precision, layout)
    assert resolve_settings(made, TINY, torch.device("cpu")) == made


def test_device() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == wanted


def test_numpy_scalars_are_not_needed(models: Path) -> None:
    """What is recorded goes into JSON as it is."""
    result = trial(models, settings=settings(epochs=1))
    text = json.dumps([dataclasses.asdict(record) for record in result.epochs])
    assert not isinstance(result.value, np.generic)
    assert json.loads(text)[0]["epoch"] == 1


@pytest.mark.gpu
def test_on_a_gpu(models: Path) -> None:
    """Bit for bit on the GPU, and close to the CPU."""
    one, two = (trial(models, device="cuda") for _ in range(2))
    assert numbers(one) == numbers(two)
    cpu = trial(models)
    assert one.epochs[0].loss == pytest.approx(cpu.epochs[0].loss, rel=0.1)


@pytest.mark.slow
def test_compiled_training_is_the_same_training(models: Path) -> None:
    plain = trial(models, settings=settings(epochs=2, dropout=0.0))
    compiled = trial(models, settings=settings(epochs=2, dropout=0.0, compile=True))
    for one, two in zip(plain.epochs, compiled.epochs, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-3)


# --- convolutions on small maps -------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        ((2, 2), (3, 3)),
        ((4, 4), (5, 5)),
        ((4, 4), (3, 3)),
        ((1, 1), (3, 3)),
        ((1, 2), (3, 3)),
        ((2, 2), (7, 7)),
        ((2, 2), (5, 3)),
        ((3, 5), (1, 3)),
        ((4, 1), (3, 1)),
    ],
)
def test_small_maps_are_torchs_convolution(
    size: tuple[int, int], kernel: tuple[int, int], bias: bool
) -> None:
    """In float64, where the two ways can only differ in rounding."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    images, weight = draw(6, 5, *size), draw(7, 5, *kernel)
    offset = draw(7) if bias else None
    upstream = draw(6, 7, *size)
    padding = (kernel[0] // 2, kernel[1] // 2)
    results = []
    for way in ("torch", "ours"):
        given: list[Any] = [
            v.clone().requires_grad_() if v is not None else None for v in (images, weight, offset)
        ]
        if way == "ours":
            made = convolution._SmallMap.apply(*given)
        else:
            made = F.conv2d(*given, padding=padding)  # type: ignore[call-overload]
        made.backward(upstream)
        results.append([made.detach(), *(v.grad for v in given if v is not None)])
    for theirs, ours in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (1, 1)])
@pytest.mark.parametrize("replaced", [True, False])
def test_a_relu_in_place_may_overwrite_a_small_map(size: tuple[int, int], replaced: bool) -> None:
    """As in torchvision's VGG."""
    torch.manual_seed(0)
    images, results = torch.randn(5, 3, *size, dtype=torch.float64), []
    for hasten in (True, False):
        torch.manual_seed(1)
        net: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        net = net.double()
        if replaced:
            net = convert(net, TAIL)
        if hasten:
            convolution.hasten(net)
        output = net(images)
        (output * torch.arange(4.0).view(-1, 1, 1)).sum().backward()
        results.append([output.detach(), *(p.grad for p in net.parameters())])
    for ours, torchs in zip(*results, strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-12, atol=1e-12)


def test_only_the_convolutions_that_fit_are_hastened() -> None:
    fits = nn.Conv2d(3, 4, 3, padding=1)
    others = [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(3, 4, 3, padding=2, dilation=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 4, 3, padding="same"),
    ]
    convolution.hasten(nn.ModuleList([fits, *others]))
    assert type(fits) is not nn.Conv2d
    assert all(type(other) is nn.Conv2d for other in others)


@pytest.mark.parametrize("half", [True, False])
def test_hastened_training_is_as_exact_as_torchs(half: bool) -> None:
    """Gradients in bfloat16 and in float32, ours and torch's, are equally far from float64's."""
    from pdsearch.models import build_model

    torch.manual_seed(0)
    model = build_model("alexnet", classes=10, initialisation="he").eval()
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
    names = [name for name, _ in model.named_parameters()]

    def gradients(net: nn.Module, *, half: bool, inputs: torch.Tensor) -> list[torch.Tensor]:
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = F.cross_entropy(net(inputs), labels)
        loss.backward()
        return [
            parameter.grad.double() for parameter in net.parameters() if parameter.grad is not None
        ]

    exact = gradients(copy.deepcopy(model).double(), half=False, inputs=images.double())
    torchs = gradients(copy.deepcopy(model), half=half, inputs=images)
    convolution.hasten(model)
    assert sum(type(m) is not nn.Conv2d and isinstance(m, nn.Conv2d) for m in model.modules()) == 4
    ours = gradients(model, half=half, inputs=images)
    slack = 1e-3 if half else 1e-6
    for name, true, theirs, mine in zip(names, exact, torchs, ours, strict=True):
        away = (mine - true).norm() / true.norm()
        assert away < 1.1 * (theirs - true).norm() / true.norm() + slack, name


def test_a_disk_that_is_full_warns_and_training_goes_on(
    models: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    result = trial(models, checkpoint=models / "run.safetensors")
    assert len(result.epochs) == 3
    assert "cannot be written (I/O error: No space left on device" in caplog.text
    assert list(models.glob("*safetensors*")) == []
