"""What the tests of streams share: a small data set, short settings, the seeds by their formula."""

import dataclasses
import hashlib
import json
from typing import Any

import sympy
import torch

from pdsearch.data import Dataset
from pdsearch.expression import x
from pdsearch.family import Candidate, Family
from pdsearch.trial import TrialResult, TrialSettings, run_trial

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


def seed_of(seed: int, *purpose: object) -> torch.Generator:
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Stop(Exception):
    """Raised to interrupt a run."""
