"""Remedies for the loss of plasticity: against torch's own losses and steps written by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from streams import DATA, RELU, Stop, numbers, seed_of, settings, trial
from torch import nn

from pdsearch.networks import MLP
from pdsearch.trial import (
    EpochRecord,
    Stream,
    TrialSettings,
    run,
)

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
        return (
            0.5
            * torch.stack([((p - q) ** 2).sum() for p, q in zip(now, initial, strict=True)]).sum()
        )

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
            raise Stop

    file = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
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
