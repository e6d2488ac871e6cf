"""Streams of tasks: against a plain loop of torch, and themselves interrupted."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sympy
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from pdsearch import trial as trial_room
from pdsearch.cli import main
from pdsearch.confirm import confirm, confirm_table, read_runs
from pdsearch.confirm.contenders import REMEDIES, STREAM_ACTIVATIONS
from pdsearch.data import Dataset, channel_statistics, load_dataset, normalise, stratified_split
from pdsearch.errors import InputError
from pdsearch.expression import parse, x
from pdsearch.family import Candidate, Family, load_family
from pdsearch.models import MLP
from pdsearch.report.confirm_curves import stream_curves
from pdsearch.study import search
from pdsearch.trial import (
    EpochRecord,
    Stream,
    TaskRecord,
    TrialResult,
    TrialSettings,
    learning_rate_at,
    loop,
    run,
    run_over_learning_rates,
    run_trial,
)

RELU = Family("relu", sympy.Piecewise((1, x > 0), (0, True))).default
LEAKY = Family("tenth", sympy.Piecewise((1, x > 0), (sympy.Rational(1, 8), True))).default
TAIL = Family("tail", sympy.Piecewise((1, x > 0), (sympy.exp(x) / 2, True))).default


def made_up(n: int = 90, m: int = 50) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n + m, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.arange(n + m) % 4
    return Dataset("made", images[:n], labels[:n], images[n:], labels[n:], ("a", "b", "c", "d"))


DATA = made_up()


def settings(**changed: Any) -> TrialSettings:
    given: dict[str, Any] = {
        "model": "mlp",
        "width": 16,
        "depth": 2,
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": 0.02,
        "precision": "float32",
        "memory_format": "contiguous",
        "stream": {"tasks": 4, "images": 44, "last": 2},
    }
    return TrialSettings(**{**given, **changed})


def trial(candidate: Candidate = LEAKY, **options: Any) -> TrialResult:
    chosen = options.pop("settings", None) or settings()
    options = {"seed": 3, "threads": 1, "device": "cpu", **options}
    return run_trial(candidate, chosen, DATA, **options)


def numbers(result: TrialResult) -> list[dict[str, Any]]:
    """All of a result that must repeat: everything but times."""
    return [
        {k: v for k, v in dataclasses.asdict(e).items() if k != "seconds"} for e in result.epochs
    ]


# ------------------------------------------------------------------------------ the plain loop


def seed_of(seed: int, *purpose: object) -> torch.Generator:
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


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
            values = Tail.apply(layer(values), below)  # type: ignore[no-untyped-call]
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


class _Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_resumed_is_uninterrupted(tmp_path: Path, after: int, optimizer: str) -> None:
    chosen = settings(optimizer=optimizer, learning_rate=0.003)
    whole = trial(settings=chosen)
    told: list[EpochRecord] = []

    def stop(record: EpochRecord) -> None:
        if record.epoch == after:
            raise _Stop

    file = tmp_path / "run.safetensors"
    with pytest.raises(_Stop):
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
    bare = TrialSettings(stream={}, batch_size=32)  # type: ignore[arg-type]
    assert (bare.augment, bare.schedule, bare.weight_decay) == (False, "constant", 0.0)
    assert (bare.rounds, bare.passes) == (60, 480)
    named = TrialSettings(stream={}, schedule="cosine", weight_decay=1e-4)  # type: ignore[arg-type]
    assert (named.schedule, named.weight_decay) == ("cosine", 1e-4)
    short = TrialSettings(stream={"tasks": 3})  # type: ignore[arg-type]
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
    row = SimpleNamespace(name="relu", kind="baseline", runs=runs)
    figures = stream_curves(SimpleNamespace(rows=[row]))  # type: ignore[arg-type]
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


# ------------------------------------------------------------------------------- the remedies


def remedied(**changed: Any) -> TrialSettings:
    return settings(stream={"tasks": 2, "images": 44}, **changed)


def by_hand(chosen: TrialSettings, *, after: Any = None, loss: Any = None) -> list[torch.Tensor]:
    """The weights after a run of torch's own modules, optimiser and autograd."""
    task = Stream.of(DATA, chosen, seed=3, split="validation", device=torch.device("cpu"))
    torch.manual_seed(seed_of(3, "weights").initial_seed())
    net = nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)),
    )
    initial = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    step = 0
    for number in range(2):
        data = task.task(number)
        for epoch in range(number * 3, number * 3 + 3):
            order = torch.randperm(44, generator=seed_of(3, "batches", epoch))
            for start in range(0, 40, 8):
                part = order[start : start + 8]
                total = F.cross_entropy(net(data.images[part]), data.labels[part])
                if loss is not None:
                    total = total + loss(list(net.parameters()), initial)
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                if after is not None:
                    after(net, optimizer, data.images[part], step)
                step += 1
    return [p.detach() for p in net.parameters()]


def trained_weights(monkeypatch: pytest.MonkeyPatch, chosen: TrialSettings) -> list[torch.Tensor]:
    seen: list[nn.Module] = []
    build = run.build_model

    def spy(*arguments: Any, **options: Any) -> nn.Module:
        seen.append(build(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(run, "build_model", spy)
    trial(RELU, settings=chosen)
    return [p.detach() for p in seen[0].parameters()]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)


def test_l2_towards_the_initial_weights_is_that_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(now: list[torch.Tensor], initial: list[torch.Tensor]) -> torch.Tensor:
        return 0.5 * sum(((p - q) ** 2).sum() for p, q in zip(now, initial, strict=True))

    chosen = remedied(l2_init=0.5)
    found = trained_weights(monkeypatch, chosen)
    assert_same(found, by_hand(chosen, loss=loss))
    plain = by_hand(chosen)
    assert max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True)) > 1e-3


RENEWED = {"replacement_rate": 0.02, "maturity": 4, "decay": 0.8}


class Renewing:
    """Continual backprop over plain lists, unit by unit."""

    def __init__(self) -> None:
        self.utility = [[0.0] * 16 for _ in range(2)]
        self.age = [[0] * 16 for _ in range(2)]
        self.count = [0.0, 0.0]
        self.replaced = 0
        self.outputs: list[torch.Tensor] = []

    def __call__(
        self, net: nn.Sequential, optimizer: torch.optim.Optimizer, images: Any, step: int
    ) -> None:
        layers: list[Any] = [net[1], net[3], net[5]]
        hidden = self.outputs
        for at in range(2):
            for unit in range(16):
                leaving = layers[at + 1].weight.detach()[:, unit].abs().sum()
                now = float(hidden[at][:, unit].abs().mean() * leaving)
                self.utility[at][unit] = 0.8 * self.utility[at][unit] + 0.2 * now
                self.age[at][unit] += 1
            mature = [unit for unit in range(16) if self.age[at][unit] > 4]
            self.count[at] += 0.02 * len(mature)
            if self.count[at] < 1:
                continue
            self.count[at] -= 1
            worst = min(mature, key=lambda unit: self.utility[at][unit])
            seed = seed_of(3, "continual backprop", step, at)
            features = layers[at].in_features
            drawn = torch.rand(1, features, generator=seed)[0]
            with torch.no_grad():
                layers[at].weight[worst] = (2 * drawn - 1) / features**0.5
                layers[at].bias[worst] = 0
                layers[at + 1].weight[:, worst] = 0
            optimizer.state[layers[at].weight]["momentum_buffer"][worst] = 0
            optimizer.state[layers[at].bias]["momentum_buffer"][worst] = 0
            optimizer.state[layers[at + 1].weight]["momentum_buffer"][:, worst] = 0
            self.utility[at][worst], self.age[at][worst] = 0.0, 0
            self.replaced += 1


def test_continual_backprop_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = remedied(continual_backprop=RENEWED)
    hand = Renewing()
    outputs: dict[int, torch.Tensor] = {}
    forward = nn.ReLU.forward

    def watched(self: nn.ReLU, input: torch.Tensor) -> torch.Tensor:
        output = forward(self, input)
        outputs[len(outputs) % 2] = output.detach()
        if len(outputs) == 2:
            hand.outputs = [outputs.pop(0), outputs.pop(1)]
        return output

    with monkeypatch.context() as patched:
        patched.setattr(nn.ReLU, "forward", watched)
        wanted = by_hand(chosen, after=hand)
    assert hand.replaced >= 12
    assert_same(trained_weights(monkeypatch, chosen), wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"continual_backprop": RENEWED},
        {"l2_init": 0.1},
        {"continual_backprop": RENEWED, "optimizer": "adam"},
    ],
    ids=["renewal", "l2", "renewal with adam"],
)
def test_remedies_resume_where_they_were(tmp_path: Path, change: dict[str, Any]) -> None:
    chosen = settings(**change)
    whole = trial(settings=chosen)

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise _Stop

    file = tmp_path / "run.safetensors"
    with pytest.raises(_Stop):
        trial(settings=chosen, checkpoint=file, on_epoch=stop)
    assert numbers(trial(settings=chosen, checkpoint=file)) == numbers(whole)


def test_crelu_and_layer_normalisation_are_torchs() -> None:
    torch.manual_seed(0)
    wide = MLP(classes=4, width=8, depth=2, activation="crelu", normalisation="layer")
    batch = torch.randn(5, 3, 32, 32)
    values = batch.flatten(1)
    weights = {name: p for name, p in wide.named_parameters()}
    for at in (1, 4):
        values = F.linear(values, weights[f"{at}.weight"], weights[f"{at}.bias"])
        values = F.layer_norm(values, (8,))
        values = torch.cat([values.relu(), (-values).relu()], 1)
    assert values.shape == (5, 16)
    wanted = F.linear(values, weights["7.weight"], weights["7.bias"])
    torch.testing.assert_close(wide(batch), wanted)


@pytest.mark.parametrize("change", [{"activation": "crelu"}, {"normalisation": "layer"}])
def test_networks_of_the_controls_train(change: dict[str, Any]) -> None:
    result = trial(RELU, settings=settings(**change))
    assert result.diverged is None
    assert len(result.epochs[-1].dead) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "alexnet", "activation": "crelu"}, "activation is for model 'mlp' only"),
        ({"model": "alexnet", "continual_backprop": {}}, "continual_backprop is for model 'mlp'"),
        ({"normalisation": "layer", "continual_backprop": {}}, "without normalisation"),
        ({"compile": True, "continual_backprop": {}}, "cannot be compiled"),
        ({"l2_init": -1.0}, "greater than or equal to 0"),
        ({"continual_backprop": {"decay": 1.0}}, "less than 1"),
    ],
)
def test_remedies_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**change)


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
