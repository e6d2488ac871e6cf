"""Measure the cost of diagnostics: trials with them relative to the same trials without.

    python benchmarks/diagnostics.py [--rounds 5] [--json]

Each round trains one trial each way (which goes first alternates). The result is the median over
the rounds of the ratio of their times, including the model's setup.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch

from pdsearch import load_family
from pdsearch.data import Dataset
from pdsearch.trial import TrialSettings, run_trial

PLACES: dict[str, dict[str, Any]] = {
    "alexnet": {"model": "alexnet", "epochs": 3, "batch_size": 128},
    "stream": {
        "model": "mlp", "epochs": 15, "batch_size": 32,
        "stream": {"tasks": 5, "images": 1600, "last": 5},
    },
}  # fmt: skip


def images(count: int) -> Dataset:
    """Return noise in the layout of CIFAR-10; the content does not affect the time."""
    draw = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (count + 2000, 3, 32, 32), generator=draw).to(torch.uint8)
    labels = torch.arange(count + 2000) % 10
    names = tuple("0123456789")
    return Dataset("noise", made[:count], labels[:count], made[count:], labels[count:], names)


def main() -> int:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    dataset, candidate = images(6000), load_family("exp_tail").default
    found: dict[str, float] = {}
    for name, given in PLACES.items():
        settings = TrialSettings(
            precision="float32", memory_format="contiguous", learning_rate=0.003, **given
        )
        ratios = []
        for number in range(arguments.rounds):
            taken = {}
            for looked in (True, False) if number % 2 else (False, True):
                begin = time.perf_counter()
                run_trial(candidate, settings, dataset, seed=number, threads=1, diagnostics=looked)
                taken[looked] = time.perf_counter() - begin
            ratios.append(taken[True] / taken[False])
        found[name] = statistics.median(ratios)
        if not arguments.json:
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            print(f"{name:8} {found[name]:.3f} ({spread}, {len(ratios)} rounds)", flush=True)
    if arguments.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
