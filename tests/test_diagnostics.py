"""The look inside a training network, against gradients of hand-written copies."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from streams import DATA, LEAKY, RELU, TAIL, numbers, settings, trial
from torch import nn

from pdsearch.autograd import convert
from pdsearch.confirm.contenders import Contender, raised_rate
from pdsearch.family import Candidate, fade, load_family
from pdsearch.trial import Diagnosis, TrialSettings, learning_rate_at, run_trial
from pdsearch.trial.diagnostics import agreement, batch_size, turnover


class ByHand(torch.autograd.Function):
    """ReLU with slope(x) as its backward's factor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: Callable[..., torch.Tensor]) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.slope(x, grads[0]), None


class Own(nn.Module):
    def __init__(self, slope: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ByHand.apply(x, self.slope)


def tenth(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, 1.0, 0.125)


def tail(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, 1.0, x.exp() / 2)


def upward(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, 1.0, torch.where(gradient < 0, 0.125, 0.0))


def step(x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return (x > 0).to(x)


def network(bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(256, 12, bias=False),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 4),
    )
    with torch.no_grad():
        model.get_parameter("0.bias").add_(bias)
    return model


def by_hand(model: nn.Sequential, slope: Callable[..., torch.Tensor]) -> nn.Sequential:
    made = copy.deepcopy(model)
    for name, module in list(made.named_children()):
        if isinstance(module, nn.ReLU):
            setattr(made, name, Own(slope))
    return made.eval()


def wanted(
    model: nn.Sequential, slope: Callable[..., torch.Tensor], images: Any, labels: Any
) -> dict[str, tuple[float, float]]:
    """Cosine and norm ratio by the parameter's layer, "" for the net, in float64."""
    gradients = []
    for each in (slope, step):
        made = by_hand(model, each)
        F.cross_entropy(made(images), labels).backward()
        gradients.append({name: p.grad.double().flatten() for name, p in made.named_parameters()})
    found = {}
    layers = {name.rpartition(".")[0] for name in gradients[0]}
    for layer in ("", *layers):
        own = [n for n in gradients[0] if not layer or n.rpartition(".")[0] == layer]
        p, e = (torch.cat([g[name] for name in own]) for g in gradients)
        cosine = float(F.cosine_similarity(p, e, dim=0, eps=0.0))
        found[layer] = (cosine, float(p.norm() / e.norm()))
    return found


IMAGES = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(20) % 4


@pytest.mark.parametrize(
    ("candidate", "slope"),
    [
        (LEAKY, tenth),
        (TAIL, tail),
        (Candidate(LEAKY.family, {}, "up"), upward),
        (RELU, step),
    ],
    ids=["leaky", "tail", "up", "relu"],
)
def test_cosine_and_norm_ratio_are_those_of_two_copies(
    candidate: Candidate, slope: Callable[..., torch.Tensor]
) -> None:
    plain = network()
    model = convert(copy.deepcopy(plain), candidate)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    net, layers = agreement(model, IMAGES, LABELS, precision=torch.autocast("cpu", enabled=False))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    expected = wanted(plain, slope, IMAGES, LABELS)
    assert layers.keys() == expected.keys() - {""}
    for name, pair in {"": net, **layers}.items():
        assert pair == pytest.approx(expected[name], rel=1e-4), name
    if slope is not step:
        assert net[0] is not None and net[0] < 0.999


def test_a_net_without_any_gradient_has_neither() -> None:
    model = convert(network(bias=-100.0), RELU)
    _, layers = agreement(model, IMAGES, LABELS, precision=torch.autocast("cpu", enabled=False))
    assert layers["0"] == (None, None)
    assert layers["7"] == pytest.approx((1.0, 1.0))
    plain = network()
    nothing = agreement(plain, IMAGES, LABELS, precision=torch.autocast("cpu", enabled=False))
    assert nothing == ((None, None), {})


@pytest.mark.parametrize(
    ("images", "size"), [(10, 16), (4096, 16), (25_600, 100), (50_000, 195), (10**6, 256)]
)
def test_the_batch_is_a_small_share_of_a_round(images: int, size: int) -> None:
    assert batch_size(images) == size


def test_turnover_counts_units_by_layer() -> None:
    before = {"a": torch.tensor([True, True, False, False]), "gone": torch.tensor([True])}
    now = {"a": torch.tensor([False, True, True, False]), "new": torch.tensor([True])}
    assert turnover(before, now) == ({"a": 0.25}, {"a": 0.25})


@pytest.mark.parametrize("stream", [True, False])
def test_a_look_inside_changes_nothing_and_survives_an_interruption(
    stream: bool, tmp_path: Path
) -> None:
    chosen = settings() if stream else settings(stream=None, epochs=4, augment=False)
    plain = trial(TAIL, settings=chosen)
    looked = trial(TAIL, settings=chosen, diagnostics=True)
    assert all(one.diagnostics is None for one in plain.epochs)
    assert [{**n, "diagnostics": None} for n in numbers(looked)] == numbers(plain)
    asked = trial(TAIL, settings=chosen.model_copy(update={"diagnostics": True}))
    assert numbers(asked) == numbers(looked)

    class Stop(Exception):
        pass

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise Stop

    file = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        trial(TAIL, settings=chosen, diagnostics=True, checkpoint=file, on_epoch=stop)
    resumed = trial(TAIL, settings=chosen, diagnostics=True, checkpoint=file)
    assert numbers(resumed) == numbers(looked)
    assert isinstance(resumed.epochs[0].diagnostics, Diagnosis)


CHANGING = settings(learning_rate=0.1, stream={"tasks": 6, "images": 44, "last": 2})


def test_units_that_die_and_come_back_add_up() -> None:
    """Dead shares change by who came back and who died: the images stay the same."""
    records = trial(RELU, diagnostics=True, settings=CHANGING).epochs
    changes = 0
    for before, now in itertools.pairwise(records):
        looked = now.diagnostics
        assert looked is not None
        for name, share in now.dead.items():
            moved = looked.died[name] - looked.revived[name]
            assert share == pytest.approx(before.dead[name] + moved)
            changes += looked.died[name] > 0
    assert changes


def test_a_control_that_replaces_the_module_has_no_gradients_to_compare() -> None:
    (first, *_) = trial(LEAKY, diagnostics=True, module=lambda: nn.LeakyReLU(0.1)).epochs
    assert first.diagnostics is not None
    assert (first.diagnostics.cosine, first.diagnostics.layers) == (None, {})
    assert first.diagnostics.died.keys() == first.dead.keys()


# ------------------------------------------------------------------ ReLU at a raised early rate


def record(ratios: list[float | None], **other: Any) -> dict[str, Any]:
    entries = [
        {"epoch": n, "diagnostics": {"norm_ratio": ratio}} for n, ratio in enumerate(ratios, 1)
    ]
    setting = {"trial": {"epochs": len(ratios)}}
    return {"epochs": entries, "diverged": None, "seed": 7, "setting": setting, **other}


def contender(candidate: Candidate) -> Contender:
    return Contender("tail", "candidate", "pseudo-derivative", candidate.formula, candidate)


SWITCHED = fade(TAIL.family, "switch").bind(end=0.5)


@pytest.mark.parametrize(
    ("candidate", "factor", "until"),
    [
        (TAIL, (1.2 * 1.3 * 1.1 * 1.6) ** 0.25, 1.0),
        (SWITCHED, (1.2 * 1.3) ** 0.5, 0.5),
        (fade(TAIL.family, "linear", end=0.75).default, (1.2 * 1.3 * 1.1) ** (1 / 3), 0.75),
    ],
    ids=["constant", "switch", "linear"],
)
def test_the_factor_is_the_mean_of_the_ratios_while_it_lasts(
    candidate: Candidate, factor: float, until: float
) -> None:
    control = raised_rate(contender(candidate), record([1.2, 1.3, 1.1, 1.6]))
    assert isinstance(control, Contender)
    assert control.candidate == load_family("relu").default
    early = control.changes["early_rate"]
    assert early["until"] == until
    assert early["factor"] == pytest.approx(factor, rel=5e-3)
    changed = control.settings(TrialSettings())
    assert changed.early_rate is not None
    assert changed.early_rate.factor == early["factor"]


@pytest.mark.parametrize(
    ("candidate", "run", "why"),
    [
        (TAIL, record([1.2], diverged="the loss exploded"), "diverged at seed 7"),
        (fade(TAIL.family, "switch").bind(end=0.1), record([1.2, 1.0]), "after its first epoch"),
        (TAIL, record([None, None]), "no gradient of its own"),
        (TAIL, {**record([1.0]), "epochs": [{"epoch": 1}]}, "measured no gradients"),
    ],
)
def test_why_there_is_no_raised_rate(candidate: Candidate, run: Any, why: str) -> None:
    told = raised_rate(contender(candidate), run)
    assert isinstance(told, str) and why in told


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one-cycle"])
@pytest.mark.parametrize("stream", [None, {"tasks": 3, "images": 20, "last": 1}])
def test_the_rate_is_raised_for_its_share_of_the_run(schedule: str, stream: Any) -> None:
    base: dict[str, Any] = {
        "epochs": 4,
        "schedule": schedule,
        "augment": False,
        "stream": stream,
        "batch_size": 8,
    }
    plain = TrialSettings(**base)
    raised = TrialSettings(**base | {"early_rate": {"factor": 1.5, "until": 0.3}})
    steps = 5
    total = plain.passes * steps
    for s in range(total):
        factor = 1.5 if s / total < 0.3 else 1.0
        assert learning_rate_at(raised, s, steps=steps) == pytest.approx(
            factor * learning_rate_at(plain, s, steps=steps)
        )


def test_settings_without_them_read_as_before() -> None:
    dumped = TrialSettings().model_dump(mode="json")
    assert not {"early_rate", "diagnostics"} & dumped.keys()


# ----------------------------------------------------------------------------- learned criteria


def test_it_works_in_bfloat16_and_on_what_is_not_a_stream() -> None:
    chosen = settings(stream=None, epochs=2, augment=False, precision="bfloat16")
    found = run_trial(TAIL, chosen, DATA, seed=1, device="cpu", threads=1, diagnostics=True)
    for one in found.epochs:
        assert one.diagnostics is not None and one.diagnostics.cosine is not None
        assert 0.5 < one.diagnostics.cosine <= 1 and math.isfinite(one.diagnostics.norm_ratio or 0)
