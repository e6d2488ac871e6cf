"""Does `horizon` pick better than short accuracy? Compare predictions at 40 epochs with the truth.

    python benchmarks/horizon.py --dataset folder:PATH --folder FOLDER [--images 10000]
        [--truth 40] [--epochs 8] [--seeds 2] [--rate 0.02] [--initialisation pytorch] [--json]

Shapes from several families, fades and directions train AlexNet (step schedule) for a quarter, a
half and all of `--epochs`, each with its whole schedule, and for `--truth` epochs, from the same
seeds. For each score, the script prints the Spearman correlation of its mean over the seeds with
the true one, and its regret (the true best accuracy minus that of the shape it picks). The scores
are:

- accuracy after `--epochs` epochs, and after 1.75 times as many, which costs as much as the
  horizon;
- the prediction of `pdsearch.study.horizon` from the three lengths, and from the longer two;
- the negated validation loss after `--epochs`;
- the cosine of the pseudo-gradient to the exact one after the first epoch.

Each finished run goes into FOLDER/runs.jsonl, and a checkpoint follows every epoch, so the same
command resumes where it stopped.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from search import write_images

from pdsearch import Candidate, fade, load_family
from pdsearch.data import load_dataset
from pdsearch.study.horizon import lengths, weights
from pdsearch.study.image_trainer import WORST_LOSS
from pdsearch.trial import TrialSettings, run_trial

TAIL = {"alpha": 0.355, "beta": 2.39}


def shapes() -> dict[str, Candidate]:
    """Return ReLU and a dozen other shapes; those that fade have the tail's parameters."""
    tail, leaky = load_family("exp_tail"), load_family("leaky")
    rational = load_family("rational_tail")
    found = {
        "relu": load_family("relu").default,
        "leaky 0.01": leaky.bind(alpha=0.01),
        "leaky 0.1": leaky.bind(alpha=0.1),
        "leaky 0.3": leaky.bind(alpha=0.3),
        "exp_tail": tail.bind(**TAIL),
        "exp_tail wide": tail.bind(alpha=0.3, beta=0.5),
        "exp_tail low": tail.bind(alpha=0.1, beta=1.0),
        "rational_tail": rational.bind(alpha=0.996, beta=4.37),
        "b_silu": load_family("b_silu").default,
    }
    found["exp_tail up"] = Candidate(tail, TAIL, "up")
    found["leaky 0.1 up"] = Candidate(leaky, {"alpha": 0.1}, "up")
    for kind, end in (("linear", 1.0), ("switch", 0.1), ("switch", 0.25)):
        faded = fade(tail, kind, end=end)
        found[f"exp_tail {kind} {end:g}"] = faded.bind(**TAIL)
    both = fade(tail, "linear", end=1.0)
    found["exp_tail up linear"] = Candidate(both, TAIL, "up")
    return found


def one(
    candidate: Candidate, epochs: int, seed: int, dataset: Any, arguments: Any
) -> dict[str, Any]:
    """Train one run and return its numbers."""
    checkpoint = arguments.folder / "runs" / f"{arguments.part.replace('/', '-')}.safetensors"
    settings = TrialSettings(
        model="alexnet", epochs=epochs, batch_size=128, learning_rate=arguments.rate,
        schedule="step", milestones=(0.75,), weight_decay=5e-4, validation=0.2,
        initialisation=arguments.initialisation, precision=arguments.precision,
        memory_format="channels_last",
    )  # fmt: skip
    result = run_trial(
        candidate, settings, dataset, seed=seed, threads=1, device="cpu", diagnostics=True,
        checkpoint=checkpoint,
    )  # fmt: skip
    whole = result.diverged is None
    looked = result.epochs[0].diagnostics if result.epochs else None
    found = {
        # A diverged run has the accuracy of guessing, and ranks last by the other scores.
        "accuracy": result.value if whole else 1 / len(dataset.classes),
        "loss": result.epochs[-1].evaluation_loss if whole else WORST_LOSS,
        "cosine": looked.cosine if whole and looked is not None else -1.0,
        "diverged": result.diverged,
        "seconds": result.seconds,
    }
    checkpoint.unlink(missing_ok=True)
    return found


def scores(runs: dict[tuple[str, int, int], dict[str, Any]], arguments: Any) -> dict[str, Any]:
    """Compare each score, averaged over the seeds, with the truth."""
    names = list(dict.fromkeys(name for name, _, _ in runs))
    short = lengths(arguments.epochs)
    longer = round(1.75 * arguments.epochs)

    def mean(name: str, key: str, epochs: int) -> float:
        values = [runs[name, epochs, seed][key] for seed in range(arguments.seeds)]
        return float(np.mean(values))

    def predicted(name: str, of: tuple[int, ...]) -> float:
        shares = weights(of, horizon=arguments.truth)
        return sum(w * mean(name, "accuracy", n) for w, n in zip(shares, of, strict=True))

    ways = {
        f"accuracy at {arguments.epochs}": lambda n: mean(n, "accuracy", arguments.epochs),
        f"accuracy at {longer}": lambda n: mean(n, "accuracy", longer),
        f"horizon from {short}": lambda n: predicted(n, short),
        **({f"horizon from {short[1:]}": lambda n: predicted(n, short[1:])} if short[2:] else {}),
        f"loss at {arguments.epochs}": lambda n: -mean(n, "loss", arguments.epochs),
        "early cosine": lambda n: mean(n, "cosine", arguments.epochs),
    }
    truth = np.array([mean(name, "accuracy", arguments.truth) for name in names])
    found: dict[str, Any] = {"shapes": names, "truth": truth.tolist(), "ways": {}}
    for way, score in ways.items():
        values = np.array([score(name) for name in names])
        found["ways"][way] = {
            "spearman": float(stats.spearmanr(values, truth).statistic),
            "picks": names[int(values.argmax())],
            "regret": float(truth.max() - truth[int(values.argmax())]),
            "values": values.tolist(),
        }
    return found


def main() -> int:
    """Train the missing runs, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--truth", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--initialisation", default="pytorch", help="he: of use for few epochs")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--part", default="0/1", help="k/n: train every n-th run, from the k-th")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = arguments.folder / "runs.jsonl"
    runs: dict[tuple[str, int, int], dict[str, Any]] = {}
    for line in kept.read_text().splitlines() if kept.exists() else []:
        entry = json.loads(line)
        runs[entry["shape"], entry["epochs"], entry["seed"]] = entry
    images = arguments.folder / "images"
    if not images.exists():
        write_images(images, spec=arguments.dataset, train=arguments.images, test=10)
    dataset = load_dataset(f"folder:{images}")
    every = [*lengths(arguments.epochs), round(1.75 * arguments.epochs), arguments.truth]
    wanted = [
        (name, epochs, seed)
        for seed in range(arguments.seeds)
        for epochs in every
        for name in shapes()
    ]
    part, parts = map(int, arguments.part.split("/"))
    for number, key in enumerate(wanted):
        if key in runs or number % parts != part:
            continue
        name, epochs, seed = key
        entry = one(shapes()[name], epochs, seed, dataset, arguments)
        runs[key] = {"shape": name, "epochs": epochs, "seed": seed, **entry}
        with kept.open("a") as file:
            file.write(json.dumps(runs[key]) + "\n")
        print(f"{name}, {epochs} epochs, seed {seed}: {entry['accuracy']:.4f}", file=sys.stderr)
    if any(key not in runs for key in wanted):
        return 0
    found = scores(runs, arguments)
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(f"{'score':28} {'Spearman':>9} {'regret, points':>15}  picks")
    for way, one_way in found["ways"].items():
        regret = 100 * one_way["regret"]
        print(f"{way:28} {one_way['spearman']:9.2f} {regret:15.2f}  {one_way['picks']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
