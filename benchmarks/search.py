"""Compare a whole search with a tutorial-style script: speed, wall time, overhead, memory.

    python benchmarks/search.py [--parts speed study overhead memory] [--dataset folder:PATH]
        [--images 20000] [--trials 30] [--epochs 8] [--rounds 5] [--seeds 5] [--json]

The other side is `benchmarks/tutorial.py`, with the same network, families, ranges, recipe, number
of trials and epochs, on the same files and the same machine, in the same run.

* speed: images per second in a one-epoch trial, including evaluation and model building. The
  tutorial's script, one pdsearch trial on all threads, and as many pdsearch trials side by side as
  `workers = "auto"` starts take turns, round by round; each round gives a ratio.
* study: the wall time of both commands from start to end, then the test accuracy of what each
  selected, retrained by `pdsearch confirm` over the same seeds. pdsearch also trains ReLU within
  the same number of trials; it has no references, because the tutorial has none.
* overhead: the wall time of a one-worker `pdsearch search` minus the time of its epochs (including
  their evaluation), with trials of 20 s or a little more and decoded image files. It is split into
  the time before the first trial, per trial, and after the last one.
* memory: the peak resident set of a one-worker `pdsearch search` on as many images as CIFAR-10 has.
  The first run decodes the files, the second finds them decoded.

The fused kernel is compiled before anything is timed (some 12 s, once per machine).

Without --dataset, the images are made up: ten low-frequency patterns in noise, written as PNG
files.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRIAL_SECONDS = 20.0
CIFAR = (50_000, 10_000)

STUDY = """\
[study]
name = "{name}"
families = ["exp_tail", "rational_tail", "gaussian_tail", "ramp", "leaky"]
references = {references}
trials = {trials}
pruner = "{pruner}"

[trial]
model = "alexnet"
dataset = "folder:{folder}"
epochs = {epochs}
batch_size = {batch}
learning_rate = 0.02
schedule = "one-cycle"
initialisation = "he"
"""


# ---------------------------------------------------------------------------------------- the files


def write_images(folder: Path, *, spec: str | None, train: int, test: int) -> Path:
    """Write image files of a data set, or of a made-up one, equally many per class."""
    import numpy as np
    from PIL import Image

    sets: dict[str, tuple[Any, Any]] = {}
    names = [str(digit) for digit in range(10)]
    if spec is None:
        random = np.random.default_rng(0)
        patterns = random.normal(size=(10, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
        for part, count in (("train", train), ("test", test)):
            labels = np.arange(count) % 10
            made = np.empty((count, 3, 32, 32), dtype=np.uint8)
            for start in range(0, count, 1000):
                chosen = labels[start : start + 1000]
                size = (len(chosen), 1, 1, 1)
                signal = random.uniform(0.0, 0.6, size=size) * patterns[chosen]
                noise = random.normal(size=(len(chosen), 3, 32, 32))
                made[start : start + 1000] = np.clip(128 + 50 * (signal + noise), 0, 255)
            sets[part] = made, labels
    else:
        from pdsearch.data import load_dataset

        loaded = load_dataset(spec)
        names = list(loaded.classes)
        for part, images, labels, count in (
            ("train", loaded.train_images, loaded.train_labels, train),
            ("test", loaded.test_images, loaded.test_labels, test),
        ):
            each = max(2, count // len(names))
            kept = np.concatenate(
                [np.flatnonzero(labels.numpy() == label)[:each] for label in range(len(names))]
            )
            sets[part] = images.numpy()[kept], labels.numpy()[kept]
    for part, (images, labels) in sets.items():
        for name in names:
            (folder / part / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image.transpose(1, 2, 0)).save(
                folder / part / names[label] / f"{number:06}.png", compress_level=1
            )
    return folder


# ------------------------------------------------------------------------ (a) speed through a trial

_READY: Any = None  # what the trials in a pool's process need


def _tutorial_begin(folder: str, batch: int) -> None:
    global _READY
    sys.path.insert(0, str(HERE))
    import tutorial

    _READY = tutorial.loaders(Path(folder), batch=batch)
    _tutorial_trial()


def _tutorial_trial() -> int:
    import tutorial

    parameters = {"alpha": 0.3, "beta": 1.0}
    for _ in tutorial.train("exp_tail", parameters, _READY, epochs=1):
        pass
    return len(_READY[0]) * _READY[0].batch_size


def _ours_begin(folder: str, batch: int, threads: int, settings: dict[str, Any] | None) -> None:
    global _READY
    from pdsearch.data import load_dataset
    from pdsearch.trial import TrialSettings, resolve_device, resolve_settings

    dataset = load_dataset(f"folder:{folder}")
    if settings is None:
        trial = TrialSettings(epochs=1, batch_size=batch, initialisation="he")
        trial = resolve_settings(trial, dataset, resolve_device("auto"), threads=threads)
    else:
        trial = TrialSettings.model_validate(settings)
    _READY = dataset, trial, threads
    _ours_trial()


def _ours_settings() -> dict[str, Any]:
    return _READY[1].model_dump(mode="json")


def _ours_trial() -> int:
    from pdsearch.family import load_family
    from pdsearch.trial import run_trial

    dataset, settings, threads = _READY
    run_trial(load_family("exp_tail").default, settings, dataset, seed=0, threads=threads)
    return int(len(dataset.train_labels) * 0.9) // settings.batch_size * settings.batch_size


def _pool(size: int, begin: Callable[..., None], *given: Any) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(size, mp_context=context, initializer=begin, initargs=given)


def _throughput(pool: ProcessPoolExecutor, trial: Callable[[], int], together: int) -> float:
    begin = time.perf_counter()
    done = [pool.submit(trial) for _ in range(together)]
    images = sum(one.result() for one in done)
    return images / (time.perf_counter() - begin)


def speed(folder: Path, *, batch: int, rounds: int, share: Any, cores: int) -> dict[str, Any]:
    """Measure images per second in three ways, and the ratios to the tutorial by round."""
    tutorial = _pool(1, _tutorial_begin, str(folder), batch)
    tutorial.submit(int).result()  # starts it with OpenMP's default wait policy
    # Like the command line, see pdsearch/cli/__init__.py.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    alone = _pool(1, _ours_begin, str(folder), batch, cores, None)
    settings = {"one trial, all threads": alone.submit(_ours_settings).result()}
    probe = _pool(1, _ours_begin, str(folder), batch, share.threads, None)
    settings["side by side"] = probe.submit(_ours_settings).result()
    probe.shutdown()
    together = _pool(
        share.workers, _ours_begin, str(folder), batch, share.threads, settings["side by side"]
    )
    together.submit(int).result()
    ways: dict[str, list[float]] = {
        "tutorial": [],
        "one trial, all threads": [],
        "side by side": [],
    }
    for number in range(rounds + 1):
        one = {
            "tutorial": _throughput(tutorial, _tutorial_trial, 1),
            "one trial, all threads": _throughput(alone, _ours_trial, 1),
            "side by side": _throughput(together, _ours_trial, share.workers),
        }
        for name, value in one.items():
            if number:  # the first round warms up
                ways[name].append(value)
        log(f"round {number} of {rounds}: " + ", ".join(f"{k} {v:.0f}" for k, v in one.items()))
    for pool in (tutorial, alone, together):
        pool.shutdown()
    base = ways["tutorial"]
    return {
        "rounds": rounds,
        "workers": share.workers,
        "threads": share.threads,
        "precision": {name: one["precision"] for name, one in settings.items()},
        "images_per_second": {name: statistics.median(values) for name, values in ways.items()},
        "ratio": {
            name: _spread([ours / theirs for ours, theirs in zip(values, base, strict=True)])
            for name, values in ways.items()
            if name != "tutorial"
        },
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


# ------------------------------------------------------------------------------- (b) a whole study


def study(
    folder: Path, place: Path, *, trials: int, epochs: int, batch: int, seeds: int, pruner: str
) -> dict[str, Any]:
    """Measure the wall time of both searches and the accuracy of what they select."""
    file = place / "study.toml"
    text = STUDY.format(
        name="ours", references=[], trials=trials, pruner=pruner, folder=folder, epochs=epochs,
        batch=batch,
    )  # fmt: skip
    file.write_text(text + f"\n[confirm]\nepochs = {epochs}\n", encoding="utf-8")
    ours, seconds, _ = _pdsearch(["search", str(file), "--json"], place)
    log(f"ours: {seconds:.0f} s, {ours['trials']}")
    begin = time.perf_counter()
    command = [sys.executable, str(HERE / "tutorial.py"), str(folder), "--json"]
    sizes = ["--trials", str(trials), "--epochs", str(epochs), "--batch", str(batch)]
    output = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True).stdout
    theirs = json.loads(output)
    theirs["seconds"] = time.perf_counter() - begin
    log(f"tutorial: {theirs['seconds']:.0f} s, {theirs['epochs']} epochs")
    found: dict[str, Any] = {
        "trials": trials,
        "epochs": epochs,
        "pruner": pruner,
        "ours": {
            "seconds": seconds,
            "best": ours["best"],
            "counts": ours["trials"],
            "epochs": _epochs_trained(place),
        },
        "tutorial": theirs,
        "ratio": theirs["seconds"] / seconds,
    }
    if seeds:
        found["confirmed"] = _confirmed(file, place, theirs, seeds=seeds)
    return found


def _epochs_trained(place: Path) -> int:
    from pdsearch.study import open_study

    stored = open_study("ours", storage=f"sqlite:///{place / 'study.db'}")
    return sum(len(row.epochs) for row in stored.trials() if row.duplicate_of is None)


def _confirmed(file: Path, place: Path, theirs: dict[str, Any], *, seeds: int) -> dict[str, Any]:
    """Return the test accuracy of the two selected candidates over the same seeds."""
    from pdsearch import load_family
    from pdsearch.statistics import paired_difference

    candidate = load_family(theirs["family"]).bind(**theirs["parameters"])
    chosen = place / "tutorial.json"
    chosen.write_text(candidate.to_json(), encoding="utf-8")
    words = ["confirm", str(file), "--top", "1", "--candidate", str(chosen), "--json"]
    outcome, _, _ = _pdsearch([*words, "--seeds", str(seeds)], place)
    rows = {row["kind"]: row for row in outcome["rows"]}
    ours, other = rows["candidate"], rows.get("given", rows["candidate"])
    difference = paired_difference(ours["accuracy"], other["accuracy"])
    return {
        "seeds": seeds,
        "relu": rows["baseline"]["mean"],
        "ours": ours["mean"],
        "tutorial": other["mean"],
        "difference": difference.difference,
        "ci95": difference.interval,
        "p_value": difference.p_value,
    }


# ------------------------------------------------------------------------ (c) overhead, (d) memory


def overhead(
    folder: Path, place: Path, *, trials: int, batch: int, images: int, per_second: float
) -> dict[str, Any]:
    """Measure the time that a one-worker study with 20 s trials spends outside training."""
    from pdsearch.data import load_dataset
    from pdsearch.study import open_study

    load_dataset(f"folder:{folder}")  # decodes the files into the cache
    epochs = math.ceil(TRIAL_SECONDS * per_second / (0.9 * images))
    file = place / "overhead.toml"
    text = STUDY.format(
        name="overhead", references=["b_silu"], trials=trials, pruner="none", folder=folder,
        epochs=epochs, batch=batch,
    )  # fmt: skip
    file.write_text(text, encoding="utf-8")
    begin = datetime.now()
    _, seconds, _ = _pdsearch(["search", str(file), "--workers", "1", "--json"], place)
    end = datetime.now()
    stored = open_study("overhead", storage=f"sqlite:///{place / 'study.db'}")
    run = [trial for trial in stored.study.get_trials() if trial.state.is_finished()]
    first = min(trial.datetime_start for trial in run if trial.datetime_start)
    last = max(trial.datetime_complete for trial in run if trial.datetime_complete)
    taken = [
        sum(epoch["seconds"] for epoch in row.epochs)
        for row in stored.trials()
        if row.duplicate_of is None and row.epochs
    ]
    return {
        "trials": trials,
        "trained": len(taken),
        "trial_seconds": statistics.mean(taken),
        "seconds": seconds,
        "training_seconds": sum(taken),
        "share": 1 - sum(taken) / seconds,
        "before_seconds": (first - begin).total_seconds(),
        "each_seconds": ((last - first).total_seconds() - sum(taken)) / len(run),
        "after_seconds": (end - last).total_seconds(),
    }


def memory(folder: Path, place: Path, *, batch: int) -> dict[str, Any]:
    """Measure the peak resident set, in bytes, of a search on as many images as CIFAR-10 has."""
    peaks = []
    for name in ("first", "second"):
        file = place / f"{name}.toml"
        text = STUDY.format(
            name=name, references=[], trials=2, pruner="none", folder=folder, epochs=1, batch=batch
        )
        file.write_text(text, encoding="utf-8")
        _, _, peak = _pdsearch(["search", str(file), "--workers", "1", "--json"], place)
        peaks.append(peak)
    return {"decoding": peaks[0], "decoded": peaks[1]}


def _pdsearch(words: list[str], place: Path) -> tuple[dict[str, Any], float, int]:
    """Run a command; return its JSON, its wall time and its peak resident set."""
    environment = {
        **os.environ,
        "PDSEARCH_STORAGE": f"sqlite:///{place / 'study.db'}",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pdsearch", *words]
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, cwd=place, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"pdsearch {' '.join(words)}: {process.returncode}\n{errors.read()}")
        unit = 1 if sys.platform == "darwin" else 1024
        return json.load(out), seconds, usage.ru_maxrss * unit


# ---------------------------------------------------------------------------------- the whole


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(report: dict[str, Any]) -> None:
    load = ", ".join(f"{value:.1f}" for value in report["load_before"])
    print(
        f"{report['hardware']}, {report['cores']} cores (load before {load}), Python "
        f"{report['python']}, torch {report['torch']}; {report['images']} images of "
        f"{report['dataset']}, batch {report['batch']}"
    )
    if found := report.get("speed"):
        print(
            f"speed, n = {found['rounds']} rounds, {found['workers']} side by side "
            f"with {found['threads']} thread(s) each:"
        )
        for name, value in found["images_per_second"].items():
            ratio = found["ratio"].get(name)
            precision = found["precision"].get(name, "float32")
            span = (
                f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['most']:.2f}]"
                if ratio
                else "1"
            )
            print(f"  {name:24}{precision:10}{value:8.0f} images/s{span:>22}")
    if found := report.get("study"):
        ours, theirs = found["ours"], found["tutorial"]
        print(
            f"study of {found['trials']} trials, at most {found['epochs']} epochs each, "
            f"pruner of pdsearch: {found['pruner']}:"
        )
        print(f"  pdsearch {ours['seconds']:8.0f} s, {ours['epochs']} epochs trained")
        print(f"  tutorial {theirs['seconds']:8.0f} s, {theirs['epochs']} epochs trained")
        print(f"  ratio    {found['ratio']:8.2f}")
        if sure := found.get("confirmed"):
            interval = sure["ci95"]
            shown = (
                f", 95 % [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else ""
            )
            print(
                f"  test accuracy over {sure['seeds']} seeds: pdsearch {100 * sure['ours']:.2f} %, "
                f"tutorial {100 * sure['tutorial']:.2f} %, ReLU {100 * sure['relu']:.2f} %; "
                f"pdsearch minus tutorial {100 * sure['difference']:+.2f}{shown} points"
            )
    if found := report.get("overhead"):
        print(
            f"overhead: {100 * found['share']:.2f} % of {found['seconds']:.0f} s "
            f"({found['trained']} of {found['trials']} trials trained, "
            f"{found['trial_seconds']:.1f} s each): {found['before_seconds']:.1f} s before the "
            f"first, {found['each_seconds']:.2f} s per trial, {found['after_seconds']:.1f} s after "
            "the last"
        )
    if found := report.get("memory"):
        print(
            f"memory: {found['decoding'] / 1e9:.2f} GB if the run decodes the files, "
            f"{found['decoded'] / 1e9:.2f} GB if they were decoded before"
        )


def main() -> None:
    parts = ("speed", "study", "overhead", "memory")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--dataset", help="as in a study file; default: made-up images")
    parser.add_argument("--images", type=int, default=20_000, help="training images to use")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5, help="of the confirmation; 0 for none")
    parser.add_argument("--pruner", default="halving", help="of the pdsearch study")
    parser.add_argument("--overhead-trials", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    import torch

    from pdsearch import kernels
    from pdsearch.study.machine import available_cores, share_out
    from pdsearch.trial import resolve_device

    cores = available_cores()
    report: dict[str, Any] = {
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else machine(),
        "cores": cores,
        "load_before": list(os.getloadavg()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dataset": arguments.dataset or "made-up patterns",
        "images": arguments.images,
        "batch": arguments.batch,
    }
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        os.environ["PDSEARCH_CACHE"] = str(place / "cache")
        small = arguments.images // 5
        log("compiling the kernel")
        kernels.available()
        log("writing the images")
        files = write_images(
            place / "images", spec=arguments.dataset, train=arguments.images, test=small
        )
        options = {"batch": arguments.batch}
        if "speed" in arguments.parts:
            report["speed"] = speed(
                files,
                rounds=arguments.rounds,
                share=share_out("auto", device=str(resolve_device("auto"))),
                cores=cores,
                **options,
            )
        if "study" in arguments.parts:
            report["study"] = study(
                files,
                place,
                trials=arguments.trials,
                epochs=arguments.epochs,
                seeds=arguments.seeds,
                pruner=arguments.pruner,
                **options,
            )
        if "overhead" in arguments.parts:
            known = report.get("speed", {})
            report["overhead"] = overhead(
                files,
                place,
                trials=arguments.overhead_trials,
                images=arguments.images,
                per_second=known["images_per_second"]["side by side"] / known["workers"]
                if known
                else 1800.0,
                **options,
            )
        if "memory" in arguments.parts:
            full = write_images(
                place / "full", spec=arguments.dataset, train=CIFAR[0], test=CIFAR[1]
            )
            report["memory"] = memory(full, place, **options)
    report["load_after"] = list(os.getloadavg())
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)


def machine() -> str:
    """Return the processor's name, as far as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
