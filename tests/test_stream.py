"""Streams of tasks: against a plain loop of torch, and themselves interrupted."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from streams import DATA, LEAKY, RELU, TAIL, Stop, numbers, seed_of, settings, trial
from torch import nn

from pdsearch.data import channel_statistics, normalise, stratified_split
from pdsearch.errors import InputError
from pdsearch.family import Candidate
from pdsearch.trial import (
    EpochRecord,
    Stream,
    TaskRecord,
    TrialSettings,
    learning_rate_at,
    loop,
    run_over_learning_rates,
    run_trial,
)

# ------------------------------------------------------------------------------ the plain loop


class Tail(torch.autograd.Function):
    """ReLU whose derivative below zero is given by a function."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, below: Any) -> torch.Tensor:
        ctx.save_for_backward(input)
        ctx.below = below
        return input.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (input,) = ctx.saved_tensors
        return torch.where(input > 0, grads[0], grads[0] * ctx.below(input)), None


def plain(below: Any, change: str, *, seed: int = 3, test: bool = False) -> list[dict[str, float]]:
    """A stream in plain torch: what every task came to."""
    if test:
        pool, own = DATA.test_images, DATA.test_labels
        mean, deviation = channel_statistics(DATA.train_images)
    else:
        kept, _ = stratified_split(DATA.train_labels, share=0.1, seed=seed)
        pool, own = DATA.train_images[kept], DATA.train_labels[kept]
        mean, deviation = channel_statistics(pool)
    chosen = torch.randperm(len(own), generator=seed_of(seed, "stream images"))[:44]
    images, own = normalise(pool[chosen], mean, deviation), own[chosen]
    torch.manual_seed(seed_of(seed, "weights").initial_seed())
    layers = [nn.Linear(3072, 16), nn.Linear(16, 16), nn.Linear(16, 4)]
    parameters = [p for layer in layers for p in layer.parameters()]
    momenta = [torch.zeros_like(p) for p in parameters]

    def forward(batch: torch.Tensor) -> torch.Tensor:
        values = batch.flatten(1)
        for layer in layers[:-1]:
            values = Tail.apply(layer(values), below)
        return layers[-1](values)

    told = []
    for task in range(4):
        generator = seed_of(seed, "stream task", task)
        here, labels = images, own
        if change == "labels":
            labels = torch.randint(4, (44,), generator=generator)
        else:
            order = torch.randperm(1024, generator=generator)
            here = images.reshape(44, 3, 1024)[..., order].reshape(44, 3, 32, 32)
        right, losses = 0, []
        for epoch in range(task * 3, task * 3 + 3):
            order = torch.randperm(44, generator=seed_of(seed, "batches", epoch))
            for start in range(0, 40, 8):  # the last 4 are left out of the epoch
                part = order[start : start + 8]
                logits = forward(here[part])
                loss = F.cross_entropy(logits, labels[part])
                right += int((logits.argmax(1) == labels[part]).sum())
                losses.append(loss.item())
                for p, grad, momentum in zip(
                    parameters, torch.autograd.grad(loss, parameters), momenta, strict=True
                ):
                    momentum.mul_(0.9).add_(grad)
                    with torch.no_grad():
                        p.sub_(0.02 * momentum)
        with torch.no_grad():
            logits = forward(here)
        told.append(
            {
                "accuracy": right / 120,
                "loss": sum(losses) / 15,
                "final_accuracy": float((logits.argmax(1) == labels).double().mean()),
                "evaluation_loss": float(F.cross_entropy(logits, labels)),
                "norm": float(layers[1].weight.detach().norm()),
            }
        )
    return told


@pytest.mark.parametrize("change", ["labels", "pixels"])
@pytest.mark.parametrize(
    ("candidate", "below"),
    [
        (RELU, lambda input: torch.zeros(())),
        (LEAKY, lambda input: torch.tensor(0.125)),
        (TAIL, lambda input: input.exp() / 2),
    ],
    ids=["relu", "leaky", "tail"],
)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_it_is_a_plain_loop_over_tasks(
    candidate: Candidate, below: Any, change: str, split: Any
) -> None:
    stream = {"tasks": 4, "images": 44, "last": 2, "change": change}
    result = trial(candidate, settings=settings(stream=stream), split=split)
    wanted = plain(below, change, test=split == "test")
    for record, one in zip(result.epochs, wanted, strict=True):
        assert isinstance(record, TaskRecord)
        assert record.accuracy == pytest.approx(one["accuracy"], abs=1e-12)
        assert record.final_accuracy == pytest.approx(one["final_accuracy"], abs=1e-12)
        assert record.loss == pytest.approx(one["loss"], rel=2e-5)
        assert record.evaluation_loss == pytest.approx(one["evaluation_loss"], rel=2e-5)
        assert record.weight_norms["3"] == pytest.approx(one["norm"], rel=2e-6)
    assert result.value == pytest.approx((wanted[2]["accuracy"] + wanted[3]["accuracy"]) / 2)
    assert [list(r.weight_norms) for r in result.epochs] == [["1", "3", "5"]] * 4  # type: ignore[attr-defined]
    assert [list(r.dead) for r in result.epochs] == [["2", "4"]] * 4


# ------------------------------------------------------------------------------------ the tasks


def stream_of(seed: int = 3, split: Any = "validation", **changed: Any) -> Stream:
    stream = {"tasks": 4, "images": 44, "last": 2, **changed}
    place = torch.device("cpu")
    return Stream.of(DATA, settings(stream=stream), seed=seed, split=split, device=place)


def test_labels_are_drawn_anew_and_images_stay() -> None:
    stream = stream_of()
    tasks = [stream.task(n) for n in range(40)]
    assert all(torch.equal(one.images, tasks[0].images) for one in tasks)
    labels = torch.stack([one.labels for one in tasks])
    assert labels.unique(dim=0).shape[0] == 40
    counts = labels.flatten().bincount(minlength=4)
    spread = (1760 * 0.25 * 0.75) ** 0.5
    assert ((counts - 440).abs() < 5 * spread).all()


def test_pixels_move_alike_in_all_images_and_channels_of_a_task() -> None:
    stream = stream_of(change="pixels")
    own = stream.data.images.flatten(2)
    orders = set()
    for number in range(3):
        task = stream.task(number)
        assert torch.equal(task.labels, stream.data.labels)
        moved = task.images.flatten(2)
        # Each moved column of all images is one of the originals, by one permutation.
        place = {column.numpy().tobytes(): at for at, column in enumerate(own.permute(2, 0, 1))}
        order = [place[column.numpy().tobytes()] for column in moved.permute(2, 0, 1)]
        assert sorted(order) == list(range(1024))
        orders.add(tuple(order))
    assert len(orders) == 3


def test_a_search_draws_from_the_training_set_and_a_confirmation_from_the_test_set() -> None:
    mean, deviation = channel_statistics(DATA.train_images)
    test = {one.numpy().tobytes() for one in normalise(DATA.test_images, mean, deviation)}
    found = [one.numpy().tobytes() for one in stream_of(split="test").data.images]
    assert set(found) <= test
    assert len(set(found)) == 44
    other = [one.numpy().tobytes() for one in stream_of(4, split="test").data.images]
    assert set(other) != set(found)


def test_the_test_set_is_out_of_a_searchs_sight() -> None:
    broken = dataclasses.replace(DATA, test_images=DATA.test_images * 0, fingerprint="")
    assert numbers(run_trial(LEAKY, settings(), broken, seed=3, threads=1)) == numbers(trial())


def test_candidates_of_a_seed_meet_the_same_tasks_and_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[torch.Tensor]] = []
    prepared = loop.Loop._prepared

    def watch(self: loop.Loop, images: torch.Tensor) -> torch.Tensor:
        seen[-1].append(images.clone())
        return prepared(self, images)

    monkeypatch.setattr(loop.Loop, "_prepared", watch)
    for candidate, seed in ((RELU, 0), (TAIL, 0), (TAIL, 1)):
        seen.append([])
        trial(candidate, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not torch.equal(seen[1][0], seen[2][0])


# ----------------------------------------------------------------------- as any other trial


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_resumed_is_uninterrupted(tmp_path: Path, after: int, optimizer: str) -> None:
    chosen = settings(optimizer=optimizer, learning_rate=0.003)
    whole = trial(settings=chosen)
    told: list[EpochRecord] = []

    def stop(record: EpochRecord) -> None:
        if record.epoch == after:
            raise Stop

    file = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        trial(settings=chosen, checkpoint=file, on_epoch=stop)
    resumed = trial(settings=chosen, checkpoint=file, on_epoch=told.append)
    assert numbers(resumed) == numbers(whole)
    assert resumed.value == whole.value
    assert [type(one) for one in told] == [TaskRecord] * 4


def test_batches_are_counted_over_the_whole_stream() -> None:
    seen: list[tuple[int, int]] = []
    trial(on_batch=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 60) for n in range(1, 61)]


def test_a_diverged_stream_says_where() -> None:
    result = trial(settings=settings(learning_rate=1e4))
    assert result.diverged is not None
    assert result.diverged.endswith("of 5") or "limit" in result.diverged
    assert "in task 1, epoch 1, batch" in result.diverged
    assert result.value != result.value


def test_each_rate_has_its_own_stream() -> None:
    rates = (0.001, 0.03)
    found = run_over_learning_rates(
        LEAKY, settings(learning_rates=rates), DATA, seed=3, threads=1, device="cpu"
    )
    alone = {rate: trial(settings=settings(learning_rate=rate)).value for rate in rates}
    assert {rate: one.value for rate, one in found.results.items()} == alone
    assert found.learning_rate == max(alone, key=lambda rate: alone[rate])


def test_another_model_than_the_mlp(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(64, classes))\n"
    )
    result = trial(settings=settings(model="own.py:net"), directory=tmp_path)
    assert len(result.epochs) == 4
    assert list(result.epochs[0].weight_norms) == ["0", "3"]  # type: ignore[attr-defined]


def test_schedules_run_anew_in_each_task() -> None:
    chosen = settings(schedule="cosine")
    rates = [learning_rate_at(chosen, step, steps=5) for step in range(60)]
    assert rates[:15] == rates[15:30] == rates[45:]
    assert rates[0] == 0.02
    assert rates[14] < 0.001


def test_the_mlp_without_a_stream() -> None:
    result = trial(settings=settings(stream=None, augment=False))
    assert [type(one) for one in result.epochs] == [EpochRecord] * 3


# --------------------------------------------------------------------------------- the settings

BEFORE = {
    "model": "alexnet",
    "dataset": "cifar10",
    "validation": 0.1,
    "epochs": 8,
    "batch_size": 256,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "learning_rates": [],
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0005,
    "schedule": "one-cycle",
    "milestones": [0.5, 0.75],
    "step_factor": 0.1,
    "augment": True,
    "initialisation": "pytorch",
    "dropout": None,
    "precision": "auto",
    "memory_format": "auto",
    "compile": False,
}
"""What version 0.1 dumps: the keys of stored confirmations are digests of it."""


def test_settings_without_a_stream_read_as_they_did() -> None:
    assert TrialSettings().model_dump(mode="json") == BEFORE
    assert list(TrialSettings().model_dump(mode="json")) == list(BEFORE)
    assert json.loads(TrialSettings().model_dump_json()) == BEFORE
    assert TrialSettings.model_validate(BEFORE) == TrialSettings()


def test_a_stream_survives_json() -> None:
    for chosen in (settings(), settings(width=128), settings(stream={})):
        dumped = chosen.model_dump(mode="json")
        assert TrialSettings.model_validate(json.loads(json.dumps(dumped))) == chosen
        changed = chosen.model_copy(update={"learning_rate": 1.0})
        assert changed.model_dump(mode="json")["stream"] == dumped["stream"]


def test_what_a_stream_implies() -> None:
    bare = TrialSettings(stream={}, batch_size=32)
    assert (bare.augment, bare.schedule, bare.weight_decay) == (False, "constant", 0.0)
    assert (bare.rounds, bare.passes) == (60, 480)
    named = TrialSettings(stream={}, schedule="cosine", weight_decay=1e-4)
    assert (named.schedule, named.weight_decay) == ("cosine", 1e-4)
    short = TrialSettings(stream={"tasks": 3})
    assert short.stream is not None
    assert short.stream.last == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment": True}, "augment must be false with a stream"),
        ({"batch_size": 45}, "batch_size must be at most the 44 images"),
        ({"stream": {"tasks": 12, "last": 13}}, "last must be at most the 12 tasks, got 13"),
        ({"stream": {"tasks": 0}}, "greater than or equal to 1"),
        ({"stream": {"change": "colours"}}, "'labels' or 'pixels'"),
        ({"stream": {"task": 3}}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**change)


def test_too_few_images() -> None:
    chosen = settings(stream={"tasks": 2, "images": 60})
    trial(settings=chosen)
    with pytest.raises(InputError, match=r"stream\.images: must be ≤ 50, the images of made, got"):
        trial(settings=chosen, split="test")
