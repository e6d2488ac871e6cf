"""Measure how early the order of candidates shows within a training.

    python benchmarks/early.py --dataset folder:PATH [--shapes 14] [--epochs 6] [--batch 256]

Trains ReLU, B-SiLU and candidates drawn from five families (those that pass the `paper` profile)
with one seed, the same initial weights and the same batches. Prints Spearman's rank correlation of
the validation loss (negated) and of the validation accuracy with the accuracy after the last epoch,
after each batch of the first epoch and after each epoch.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.stats import spearmanr

from pdsearch import Candidate, load_family
from pdsearch.criteria import gate
from pdsearch.data import load_dataset
from pdsearch.trial import Look, TrialSettings, run_trial

FAMILIES = ("exp_tail", "rational_tail", "gaussian_tail", "ramp", "leaky")


def shapes(count: int) -> list[Candidate]:
    """Return ReLU, B-SiLU and `count` candidates, drawn uniformly over each (log) range."""
    draw = np.random.default_rng(5)
    found = [load_family("relu").default, load_family("b_silu").default]
    while len(found) < count + 2:
        family = load_family(FAMILIES[draw.integers(len(FAMILIES))])
        chosen = {}
        for name, range_ in family.space.items():
            ends = np.array([range_.low, range_.high])
            chosen[name] = (
                float(np.exp(draw.uniform(*np.log(ends)))) if range_.log else draw.uniform(*ends)
            )
        candidate = family.bind(**chosen)
        if gate(candidate, profile="paper").passed:
            found.append(candidate)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="as in a study file")
    parser.add_argument("--shapes", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.dataset)
    settings = TrialSettings(
        epochs=arguments.epochs, batch_size=arguments.batch, initialisation="he",
        precision="float32", memory_format="channels_last",
    )  # fmt: skip
    batches = int(len(dataset.train_labels) * (1 - settings.validation)) // settings.batch_size
    losses, accuracies = [], []
    for candidate in shapes(arguments.shapes):
        seen: list[Look] = []
        result = run_trial(
            candidate, settings, dataset, seed=0, threads=arguments.threads, looks=batches,
            on_look=seen.append,
        )  # fmt: skip
        if result.diverged:
            print(f"{candidate.name}: {result.diverged}: omitted", file=sys.stderr)
            continue
        losses.append([one.loss for one in seen] + [e.evaluation_loss for e in result.epochs])
        accuracies.append([one.accuracy for one in seen] + [e.accuracy for e in result.epochs])
        print(f"{candidate.name}: {100 * result.value:.2f} %", file=sys.stderr, flush=True)
    final = [row[-1] for row in accuracies]
    names = [f"batch {n}" for n in range(1, batches)]
    names += [f"epoch {n}" for n in range(1, arguments.epochs + 1)]
    print(f"{len(final)} shapes, {batches} batches per epoch: rank correlation of loss, accuracy")
    for at, name in enumerate(names):
        by_loss = spearmanr([-row[at] for row in losses], final).statistic
        by_accuracy = spearmanr([row[at] for row in accuracies], final).statistic
        print(f"after {name:9} {by_loss:6.2f} {by_accuracy:6.2f}")


if __name__ == "__main__":
    main()
