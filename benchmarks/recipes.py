"""Where does a pseudo-derivative help? Compare the same few with ReLU in several training recipes.

    python benchmarks/recipes.py --dataset folder:PATH --folder FOLDER [--images 10000]
        [--epochs 20] [--rate-epochs 8] [--seeds 4] [--batch 128] [--precision float32]
        [--recipes step he ...] [--candidates exp_tail:alpha=0.355,beta=2.39 ...]
        [--forward-control] [--workers auto] [--figure FILE.html] [--json]

Each recipe is a study in FOLDER/recipes.db, and the result is its `pdsearch confirm`. Every row
(ReLU, B-SiLU, the candidates) chooses its best learning rate from the same grid, on images held
back from the training set. It is then retrained over the same seeds on the whole training set and
scored on the test set. The same command resumes where it stopped.

Studies differ only in the recipe: initialisation, schedule, augmentation, dropout, depth,
optimiser, length of training. The images are the first of each class, `--images` for training and
up to 10 000 for testing.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from search import write_images

HERE = Path(__file__).resolve().parent
RATES = (0.02, 0.01, 0.04, 0.08)

COMMON: dict[str, Any] = {
    "model": "alexnet", "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4,
    "schedule": "step", "milestones": [0.75], "initialisation": "pytorch", "augment": True,
    "validation": 0.2, "memory_format": "channels_last",
}  # fmt: skip

RECIPES: dict[str, dict[str, Any]] = {
    "step": {},
    "he-one-cycle": {"initialisation": "he", "schedule": "one-cycle"},
    "he": {"initialisation": "he"},
    "no-augmentation": {"augment": False},
    "plain-16": {"model": f"{HERE / 'plain.py'}:depth16", "initialisation": "he"},
    "adam": {"optimizer": "adam", "learning_rates": [0.001, 0.0005, 0.00025, 0.002]},
    "no-dropout": {"dropout": 0.0},
    "plain-6": {"model": f"{HERE / 'plain.py'}:depth6", "initialisation": "he"},
}
"""What each recipe changes in `COMMON`. The plain networks are in `plain.py`."""

FAR = 6.0  # points; larger differences would leave the figure no room for the rest
PALETTE = ("#e0701a", "#2f7ed8", "#1a9c78", "#a05fd0", "#d6455d")

LENGTHS = {"step-half": ("step", 0.5), "step-double": ("step", 2.0)}
"""Recipes with another multiple of `--epochs`, at the learning rates of the base recipe."""

CANDIDATES = ("exp_tail:alpha=0.355,beta=2.39", "rational_tail:alpha=0.996,beta=4.37")
"""Found by the searches on all of CIFAR-10 (studies/results)."""


def bound(text: str) -> Any:
    """Return the candidate that `family:name=value,…` describes."""
    from pdsearch import load_family

    family, _, rest = text.partition(":")
    pairs = (pair.partition("=") for pair in rest.split(",") if pair)
    return load_family(family).bind(**{name: float(value) for name, _, value in pairs})


def one_recipe(name: str, folder: Path, images: Path, arguments: argparse.Namespace) -> Any:
    """Begin, resume or read back the confirmation of a recipe."""
    from pdsearch.confirm import confirm
    from pdsearch.study import search
    from pdsearch.study.file import validate

    name, length = LENGTHS.get(name, (name, 1.0))
    study = {
        "name": name, "families": ["leaky"], "references": ["b_silu"], "trials": 2,
        "pruner": "none", "storage": f"sqlite:///{folder / 'recipes.db'}",
        "output": str(folder / "results"),
    }  # fmt: skip
    trial = {
        **COMMON, "dataset": f"folder:{images}", "batch_size": arguments.batch,
        "precision": arguments.precision, "epochs": arguments.rate_epochs,
        "learning_rates": list(RATES), **RECIPES[name],
    }  # fmt: skip
    settings = validate({"study": study, "trial": trial}, directory=folder)
    # Two trials, ReLU and B-SiLU, and no candidate; their runs also choose their rates.
    stored = search(settings, workers=arguments.workers, threads=1, device="cpu").stored
    return confirm(
        stored,
        top=0,
        candidates=[bound(text) for text in arguments.candidates],
        seeds=arguments.seeds,
        epochs=round(length * arguments.epochs),
        rate_epochs=arguments.rate_epochs,
        forward_control=arguments.forward_control,
        workers=arguments.workers,
        threads=1,
        device="cpu",
        progress=log,
    )


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def names_of(found: dict[str, Any]) -> list[str]:
    """Return the names of all rows except ReLU's, in order."""
    return list(dict.fromkeys(row.name for one in found.values() for row in one.rows[1:]))


def cell(row: Any) -> str:
    """Format a row's difference to ReLU, in points."""
    if len(row.diverged) == row.seeds:
        return "diverged"
    span = "" if row.ci95 is None else " [{:+.2f}, {:+.2f}]".format(
        *(100 * end for end in row.ci95)
    )  # fmt: skip
    return f"{100 * row.difference:+.2f}{span}{'*' if row.significant else ''}"


def map_table(found: dict[str, Any]) -> str:
    """Return a Markdown table: per recipe, ReLU's accuracy and each paired difference and rate."""
    names = names_of(found)
    lines = [
        "| recipe | n | ReLU % (rate) | " + " | ".join(f"{name} − ReLU (rate)" for name in names),
        "| --- | --- | --- |" + " --- |" * len(names),
    ]
    lines[0] += " |"
    for recipe, confirmation in found.items():
        rows = {row.name: row for row in confirmation.rows}
        relu = confirmation.rows[0]
        cells = [recipe, str(relu.seeds), f"{100 * relu.mean:.2f} ({relu.learning_rate:g})"]
        for name in names:
            row = rows.get(name)
            if row is None or row.difference is None:
                cells.append("")
                continue
            cells.append(f"{cell(row)} ({row.learning_rate:g})")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Points of test accuracy, 95 % paired t intervals, learning rate in brackets; "
        "* p < 0.05, adjusted over the rows of one recipe, not over the recipes.",
    ]
    return "\n".join(lines)


def figure(found: dict[str, Any]) -> Any:
    """Plot the differences to ReLU by recipe with intervals; those beyond `FAR` are at the edge."""
    import plotly.graph_objects as go

    names = names_of(found)
    height = {recipe: place for place, recipe in enumerate(found)}
    rows = [
        (recipe, row)
        for recipe, confirmation in found.items()
        for row in confirmation.rows
        if row.name in names and row.difference is not None
    ]
    near = [(recipe, row) for recipe, row in rows if abs(100 * row.difference) <= FAR]
    ends = [0.0, *(100 * end for _, row in near for end in row.ci95 or (row.difference,))]
    left, right = min(ends) - 0.8, max(ends) + 0.8
    drawn = go.Figure()
    for place, name in enumerate(names):
        tone = PALETTE[place % len(PALETTE)]
        shift = 0.16 * (place - (len(names) - 1) / 2)
        inside = [(recipe, row) for recipe, row in near if row.name == name]
        drawn.add_scatter(
            x=[100 * row.difference for _, row in inside],
            y=[height[recipe] + shift for recipe, _ in inside],
            error_x={
                "type": "data", "thickness": 1.5, "width": 3,
                "array": [
                    100 * (row.ci95[1] - row.difference) if row.ci95 else 0.0 for _, row in inside
                ],
            },
            mode="markers",
            marker={"size": 9, "color": tone},
            name=name,
        )  # fmt: skip
        for recipe, row in rows:
            if row.name == name and (recipe, row) not in near:
                below = row.difference < 0
                drawn.add_scatter(
                    x=[left + 0.2 if below else right - 0.2],
                    y=[height[recipe] + shift],
                    mode="markers+text",
                    marker={
                        "size": 9, "color": tone, "symbol": f"arrow-{'left' if below else 'right'}",
                    },
                    text=f" {cell(row)} ",
                    textposition=f"middle {'right' if below else 'left'}",
                    textfont={"size": 11, "color": tone},
                    showlegend=False,
                )  # fmt: skip
    drawn.add_vline(x=0, line={"color": "#888", "width": 1})
    drawn.update_yaxes(
        tickvals=list(height.values()),
        ticktext=[
            f"{recipe}<br><span style='color:#888;font-size:11px'>"
            f"ReLU {100 * confirmation.rows[0].mean:.1f} %</span>"
            for recipe, confirmation in found.items()
        ],
        autorange="reversed",
        zeroline=False,
    )
    drawn.update_xaxes(
        title="test accuracy − ReLU's, points (95 % interval)", zeroline=False, range=[left, right]
    )
    drawn.update_layout(
        template="plotly_white", width=900, height=120 + 70 * len(found),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        margin={"t": 40, "r": 20, "b": 60},
    )  # fmt: skip
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="as in a study file")
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the images and studies go"
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate-epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--recipes", nargs="+", choices=[*RECIPES, *LENGTHS], default=[*RECIPES, *LENGTHS]
    )
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--forward-control", action="store_true")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.workers != "auto":
        arguments.workers = int(arguments.workers)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(arguments.dataset.encode()).hexdigest()[:8]
    images = folder / f"images-{arguments.images}-{name}"
    if not images.exists():
        # Written under another name first, so that an interruption leaves no incomplete folder.
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / "images"
            write_images(made, spec=arguments.dataset, train=arguments.images, test=10_000)
            made.rename(images)
    found = {}
    for name in arguments.recipes:
        found[name] = one_recipe(name, folder, images, arguments)
        log(f"{name}: {found[name].headline}")
    if arguments.figure is not None:
        figure(found).write_html(
            arguments.figure, include_plotlyjs=True, config={"displayModeBar": False}
        )
    if arguments.json:
        print(json.dumps({name: one.to_dict() for name, one in found.items()}, allow_nan=False))
    else:
        print(map_table(found))


if __name__ == "__main__":
    main()
