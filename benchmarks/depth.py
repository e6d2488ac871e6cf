"""How deep, and at how large a rate, does a network without normalisation still train?

    python benchmarks/depth.py --dataset folder:PATH --folder FOLDER [--images 10000]
        [--depths 8 16 24 32 40] [--rates 0.003 0.01 0.03 0.1 0.3] [--epochs 20] [--seeds 3]
        [--width 128] [--part 0/1] [--figure FILE.html] [--json]

A plain network (`model = "mlp"`, He's initialisation, a constant rate, SGD with momentum 0.9) is
trained at each depth and rate with each row's derivative, from the same initial weights and on the
same batches for all rows of a seed, and scored on the test images. For each row and depth, the
script prints the mean accuracy at the row's best rate, and the largest rate at which it trains: at
which every seed gets at least half of the accuracy above chance that the best of all rows, depths
and rates has on average.

Each finished run goes into FOLDER/runs.jsonl, with the loss and the cosines to the exact gradient
after each epoch, and the same command resumes where it stopped.
Several processes with `--part 0/2` and `--part 1/2` share the runs.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from search import write_images
from torch import nn

from pdsearch import Candidate, fade, load_family
from pdsearch.data import load_dataset
from pdsearch.trial import EpochRecord, TrialSettings, run_trial

TAIL = {"alpha": 0.355, "beta": 2.39}
LEAKY = functools.partial(nn.LeakyReLU, 0.1)
Key = tuple[str, int, float, int]  # row, depth, rate, seed


def rows() -> dict[str, Candidate]:
    """Return the rows by name. "LeakyReLU" is the activation, its derivative exact."""
    tail, leaky = load_family("exp_tail"), load_family("leaky")
    return {
        "ReLU": load_family("relu").default,
        "LeakyReLU": leaky.bind(alpha=0.1),
        "leaky": leaky.bind(alpha=0.1),
        "leaky up": Candidate(leaky, {"alpha": 0.1}, "up"),
        "tail": tail.bind(**TAIL),
        "tail up": Candidate(tail, TAIL, "up"),
        "tail up, linear fade": Candidate(fade(tail, "linear", end=1.0), TAIL, "up"),
    }


def one(key: Key, dataset: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one run and return its numbers."""
    row, depth, rate, seed = key
    settings = TrialSettings(
        model="mlp", depth=depth, width=arguments.width, initialisation="he", dropout=0.0,
        epochs=arguments.epochs, batch_size=128, learning_rate=rate, schedule="constant",
        weight_decay=0.0, augment=False, precision="float32",
    )  # fmt: skip
    result = run_trial(
        rows()[row], settings, dataset, seed=seed, threads=1, device="cpu", split="test",
        module=LEAKY if row == "LeakyReLU" else None, diagnostics=True,
    )  # fmt: skip
    last = result.epochs[-1] if result.epochs else None
    return {
        "row": row, "depth": depth, "rate": rate, "seed": seed,
        # A diverged run has the accuracy of guessing.
        "accuracy": 1 / len(dataset.classes) if result.diverged else result.value,
        "diverged": result.diverged,
        "dead": None if last is None else float(np.mean(list(last.dead.values()))),
        "seconds": result.seconds,
        "epochs": [looked(epoch) for epoch in result.epochs],
    }  # fmt: skip


def looked(epoch: EpochRecord) -> dict[str, float | None]:
    """Return an epoch's loss and the cosines to the exact gradient: of all layers, of the first."""
    found = epoch.diagnostics
    assert found is not None
    first = next(iter(found.layers.values()), (None, None))  # ReLU's own gradient has no layers
    return {"loss": epoch.loss, "cosine": found.cosine, "cosine of the first layer": first[0]}


def summary(runs: dict[Key, dict[str, Any]], chance: float) -> dict[str, Any]:
    """Return each row's accuracies by depth and rate, and the rates at which it trains."""
    seeds = sorted({seed for *_, seed in runs})
    cells: dict[tuple[str, int, float], list[float]] = {}
    for (row, depth, rate, _), run in runs.items():
        cells.setdefault((row, depth, rate), []).append(run["accuracy"])
    trained = chance + (max(map(np.mean, cells.values())) - chance) / 2
    found: dict[str, Any] = {"n": len(seeds), "trained": float(trained), "rows": []}
    for row, depth in dict.fromkeys((row, depth) for row, depth, _ in cells):
        rates = {rate: cells[r, d, rate] for r, d, rate in cells if (r, d) == (row, depth)}
        best = max(rates, key=lambda rate: float(np.mean(rates[rate])))
        able = [rate for rate, values in rates.items() if min(values) >= trained]
        dead = [runs[row, depth, best, seed]["dead"] for seed in seeds]
        found["rows"].append(
            {
                "row": row, "depth": depth, "best_rate": best,
                "accuracy": float(np.mean(rates[best])), "by_seed": rates[best],
                "dead": None if None in dead else float(np.mean(dead)),
                "largest_rate": max(able, default=None),
                "by_rate": {f"{rate:g}": values for rate, values in sorted(rates.items())},
            }
        )  # fmt: skip
    return found


def table(found: dict[str, Any]) -> str:
    """Return Markdown: for each row and depth, accuracy at its best rate, and the largest rate."""
    depths = sorted({entry["depth"] for entry in found["rows"]})
    lines = [
        "| row | " + " | ".join(f"{depth} layers" for depth in depths) + " |",
        "| --- |" + " --- |" * len(depths),
    ]
    for row in dict.fromkeys(entry["row"] for entry in found["rows"]):
        cells = {entry["depth"]: entry for entry in found["rows"] if entry["row"] == row}
        texts = [
            f"{100 * cell['accuracy']:.1f} ({cell['best_rate']:g}); "
            + ("–" if cell["largest_rate"] is None else f"{cell['largest_rate']:g}")
            if (cell := cells.get(depth))
            else ""
            for depth in depths
        ]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"Accuracy in % at the row's best rate (that rate); the largest rate at which every "
            f"one of {found['n']} seeds reaches {100 * found['trained']:.1f} %.",
        ]
    )


def figure(found: dict[str, Any]) -> Any:
    """Plot the accuracy at each row's best rate over the depth."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    palette = ("#444", "#999", "#f0a868", "#e0701a", "#8ab6e8", "#2f7ed8", "#1a9c78")
    for name, tone in zip(rows(), palette, strict=True):
        entries = sorted((e for e in found["rows"] if e["row"] == name), key=lambda e: e["depth"])
        drawn.add_scatter(
            x=[entry["depth"] for entry in entries],
            y=[100 * entry["accuracy"] for entry in entries],
            name=name, mode="lines+markers", line={"color": tone, "width": 3}, marker={"size": 9},
        )  # fmt: skip
    depths = sorted({entry["depth"] for entry in found["rows"]})
    drawn.update_xaxes(title="hidden layers", tickvals=depths)
    drawn.update_yaxes(title="test accuracy at the row's best rate, %")
    drawn.update_layout(template="plotly_white", margin={"t": 20, "r": 20})
    return drawn


def main() -> int:
    """Train the missing runs, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 16, 24, 32, 40])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.1, 0.3])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--part", default="0/1", help="k/n: train every n-th run, from the k-th")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = arguments.folder / "runs.jsonl"
    runs: dict[Key, dict[str, Any]] = {}
    for line in kept.read_text().splitlines() if kept.exists() else []:
        entry = json.loads(line)
        runs[entry["row"], entry["depth"], entry["rate"], entry["seed"]] = entry
    images = arguments.folder / "images"
    if not images.exists():
        write_images(images, spec=arguments.dataset, train=arguments.images, test=5_000)
    dataset = load_dataset(f"folder:{images}")
    wanted: list[Key] = [
        (row, depth, rate, seed)
        for seed in range(arguments.seeds)
        for depth in arguments.depths
        for rate in arguments.rates
        for row in rows()
    ]
    part, parts = map(int, arguments.part.split("/"))
    for number, key in enumerate(wanted):
        if key in runs or number % parts != part:
            continue
        runs[key] = one(key, dataset, arguments)
        with kept.open("a") as file:
            file.write(json.dumps(runs[key]) + "\n")
        print(*key, f"{runs[key]['accuracy']:.4f}", file=sys.stderr, flush=True)
    if any(key not in runs for key in wanted):
        return 0  # the other parts have not finished
    found = summary({key: runs[key] for key in wanted}, 1 / len(dataset.classes))
    if arguments.figure is not None:
        figure(found).write_html(
            arguments.figure, include_plotlyjs=True, config={"displayModeBar": False}
        )
    print(json.dumps(found) if arguments.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
