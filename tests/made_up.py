"""A whole study, its search and its confirmation real, its training runs made up."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pdsearch.data
import pdsearch.trial
from pdsearch.confirm import confirm
from pdsearch.family import Candidate
from pdsearch.study import StoredStudy, open_study, search
from pdsearch.trial import EpochRecord, RateSearch, TrialResult, TrialSettings

# A model file: a network that trains in a second.
SMALL_NET = """
from torch import nn

def net(classes):
    return nn.Sequential(
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, classes)
    )
"""

LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11", "classifier.2")


def quality(candidate: Candidate) -> float:
    """The accuracy a candidate tends to: a little above ReLU's for a tail of about 0.3."""
    names = candidate.parameters
    alpha, beta = names.get("alpha", 0.0), names.get("beta", 1.0)
    if candidate.family.name == "relu":
        return 0.72
    if candidate.family.name == "b_silu":
        return 0.731
    return 0.725 + 0.02 * math.exp(-((alpha - 0.3) ** 2) / 0.05) - 0.01 * abs(math.log(beta)) / 3


def run(candidate: Candidate, settings: TrialSettings, seed: int) -> TrialResult:
    """A learning curve that ends near the candidate's quality."""
    noise = random.Random(f"{candidate.name} {seed}")
    common = random.Random(seed).gauss(0, 0.006)  # shared by all candidates of a seed
    top = quality(candidate) + common + noise.gauss(0, 0.003)
    low_tail = candidate(_minus_one())
    records = []
    for epoch in range(1, settings.epochs + 1):
        share = 1 - math.exp(-1.1 * epoch)
        dead = {
            layer: max(0.0, (0.25 if low_tail < 1e-6 else 0.06) * (i + 1) / 6 * share)
            for i, layer in enumerate(LAYERS)
        }
        records.append(
            EpochRecord(
                epoch,
                2.3 * math.exp(-0.35 * epoch) + noise.random() * 0.05,
                top * share,
                dead,
                12.0 + noise.random(),
                0.02,
                2.4 * math.exp(-0.3 * epoch) + (1 - top),
            )
        )
    value = records[-1].accuracy
    return TrialResult(tuple(records), value, None, 12.0 * len(records), 3000.0, 1, settings)


def _minus_one() -> Any:
    import torch

    return torch.tensor(-1.0)


@contextmanager
def made_up_training() -> Iterator[None]:
    """Inside, training costs nothing."""

    def over_rates(
        candidate: Candidate, settings: TrialSettings, dataset: Any, **options: Any
    ) -> RateSearch:
        result = run(candidate, settings, options["seed"])
        for record in result.epochs:
            options["on_epoch"](settings.learning_rate, record)
        return RateSearch(settings.learning_rate, result, {settings.learning_rate: result})

    def one(candidate: Candidate, settings: TrialSettings, dataset: Any, **options: Any) -> Any:
        return run(candidate, settings, options["seed"])

    def load(spec: str, **_: Any) -> Any:
        import torch

        return SimpleNamespace(
            name=spec, classes=tuple("0123456789"), shape=(3, 32, 32),
            fingerprint=f"content of {spec}",
            train_labels=torch.arange(1000) % 10, test_labels=torch.arange(200) % 10,
            train_images=torch.zeros(1000, 3, 32, 32, dtype=torch.uint8),
            test_images=torch.zeros(200, 3, 32, 32, dtype=torch.uint8),
        )  # fmt: skip

    def resolve(settings: TrialSettings, *_: Any, **__: Any) -> TrialSettings:
        return settings.model_copy(update={"precision": "float32", "memory_format": "contiguous"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdsearch.trial, "run_over_learning_rates", over_rates)
        patch.setattr(pdsearch.trial, "run_trial", one)
        patch.setattr(pdsearch.trial, "resolve_settings", resolve)
        patch.setattr(pdsearch.data, "load_dataset", load)
        yield


def made_up_study(
    folder: Path, *, trials: int = 24, confirmed: bool = True, **study: Any
) -> StoredStudy:
    """A finished study of three families in a storage of its own."""
    file = folder / "study.toml"
    url = f"sqlite:///{folder / 'study.db'}"
    lines = [
        "[study]",
        'name = "made-up"',
        'families = ["exp_tail", "rational_tail", "leaky"]',
        'references = ["b_silu"]',
        f"trials = {trials}",
        f"storage = {url!r}",
        *(f"{key} = {value!r}" for key, value in study.items()),
        "[trial]",
        'dataset = "digits"',
        "epochs = 6",
        "batch_size = 64",
        "[confirm]",
        "seeds = 6",
        "epochs = 4",
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with made_up_training():
        search(file, device="cpu", progress=False)
        stored = open_study(file)
        if confirmed:
            confirm(stored, top=2, device="cpu", controls=True)
    return open_study(file)
