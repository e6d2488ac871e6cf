"""Measure how long a study's report takes, by its number of trials.

    python benchmarks/report.py [--trials 300 1000 3000] [--epochs 8]

Nothing is trained: the script writes finished trials as a search would have left them. It prints
the CPU seconds of opening the study, of the report and of `status`, and how often Optuna was
queried for the study's attributes and trials meanwhile.
"""

import argparse
import math
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from pdsearch.criteria import gate
from pdsearch.family import Family, load_family
from pdsearch.report import study_report
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.begin import Plan, begin
from pdsearch.study.file import validate
from pdsearch.study.sources import Named
from pdsearch.study.stored import StoredStudy, open_named, status

FAMILIES = ("exp_tail", "rational_tail", "leaky")
LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11", "classifier.2")


def made(folder: Path, *, trials: int, epochs: int = 8, name: str = "made-up") -> StoredStudy:
    """Write a finished study of that many trials to a SQLite file in the folder."""
    url = f"sqlite:///{folder / f'{name}-{trials}.db'}"
    settings = validate(
        {
            "study": {
                "name": name, "families": list(FAMILIES), "references": ["b_silu"],
                "trials": trials, "storage": url, "output": str(folder),
            },
            "trial": {"dataset": "digits", "epochs": epochs, "batch_size": 64},
        },
        directory=folder,
    )  # fmt: skip
    families = {family: load_family(family) for family in FAMILIES}
    references = {"b_silu": load_family("b_silu")}
    plan = Plan(
        settings=settings,
        named=Named({"": families}, references),
        device="cpu",
        threads=1,
        content={},
    )
    stored = begin(plan)
    random.seed(trials)
    # Fail the queued trials, because the measured study is over.
    for waiting in stored.study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
        stored.study._storage.set_trial_state_values(
            waiting._trial_id, state=optuna.trial.TrialState.FAIL
        )
    found = [_trial(load_family("relu"), "baseline", epochs)]
    found += [_trial(family, "reference", epochs) for family in references.values()]
    while len(found) < trials:
        found.append(_trial(families[random.choice(FAMILIES)], "candidate", epochs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        stored.study.add_trials(found)
    return open_named(name, url)


_REPORTS: dict[str, dict[str, Any]] = {}


def _trial(family: Family, kind: str, epochs: int) -> optuna.trial.FrozenTrial:
    drawn = {
        name: math.exp(random.uniform(math.log(d.low), math.log(d.high)))
        if d.log
        else random.uniform(d.low, d.high)
        for name, d in family.space.items()
    }
    candidate = family.default if kind != "candidate" else family.bind(**drawn)
    top = 0.7 + random.gauss(0, 0.02)
    curve = [
        {
            "epoch": epoch,
            "loss": 2.3 * math.exp(-0.3 * epoch),
            "accuracy": top * (1 - math.exp(-epoch)),
            "dead": {layer: random.random() / 10 for layer in LAYERS},
            "seconds": 12.0,
            "learning_rate": 0.02,
            "evaluation_loss": 2.4 * math.exp(-0.3 * epoch),
            "value": top * (1 - math.exp(-epoch)),
        }
        for epoch in range(1, epochs + 1)
    ]
    pruned = kind == "candidate" and random.random() < 0.4
    curve = curve[: max(1, epochs // 3)] if pruned else curve
    attributes: dict[str, Any] = {
        "kind": kind,
        "candidate": candidate.to_dict(),
        "epochs": curve,
        "seconds": 12.0 * len(curve),
        "status": "pruned" if pruned else "complete",
    }
    if kind == "candidate":
        # One check per family: checks are slow, and only the size of the result matters.
        report = _REPORTS.setdefault(family.name, gate(candidate).to_dict())
        attributes["criteria"] = {**report, "target": candidate.name}
    distributions: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    if kind == "candidate":
        distributions = {"family": optuna.distributions.CategoricalDistribution(FAMILIES)}
        distributions |= {f"{family.name}.{name}": d for name, d in family.space.items()}
        parameters = {"family": family.name}
        parameters |= {f"{family.name}.{name}": value for name, value in drawn.items()}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE,
        value=curve[-1]["value"],
        params=parameters,
        distributions=distributions,
        user_attrs=TrialAttrs.named(**attributes),
        intermediate_values={entry["epoch"]: entry["value"] for entry in curve},
    )


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the queries to the storage."""
    storage = optuna.storages._CachedStorage
    asked: Counter[str] = Counter()
    names = ("get_study_user_attrs", "get_all_trials", "get_study_directions")
    before = {name: getattr(storage, name) for name in names}

    def counting(name: str) -> Any:
        def ask(self: Any, *words: Any, **keys: Any) -> Any:
            asked[name] += 1
            return before[name](self, *words, **keys)

        return ask

    for name in names:
        setattr(storage, name, counting(name))
    try:
        yield asked
    finally:
        for name in names:
            setattr(storage, name, before[name])


def measured(folder: Path, *, trials: int, epochs: int) -> dict[str, Any]:
    """Return the CPU seconds of each step and the numbers of queries to the storage."""
    stored = made(folder, trials=trials, epochs=epochs)
    with counted() as asked:
        start = time.process_time()
        stored = open_named(stored.name, stored.url)
        opened = time.process_time()
        page = study_report(stored)
        reported = time.process_time()
        status(stored)
        done = time.process_time()
    return {
        "trials": trials,
        "open": opened - start,
        "report": reported - opened,
        "status": done - reported,
        "MB": len(page) / 1e6,
        **asked,
    }


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--epochs", type=int, default=8)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for trials in words.trials:
            found = measured(Path(folder), trials=trials, epochs=words.epochs)
            print(
                ", ".join(
                    f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in found.items()
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
