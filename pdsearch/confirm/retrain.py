"""The retraining: who takes part, what each run is, and what the storage keeps of it."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pdsearch.confirm.contenders import Contender, choose_contenders
from pdsearch.confirm.outcome import Confirmation, assemble
from pdsearch.errors import InputError
from pdsearch.study.storage import storage_errors

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.family import Candidate
    from pdsearch.study import StoredStudy
    from pdsearch.trial import TrialSettings

SCHEMA = 1
PREFIX = "pdsearch:confirm/"

# Confirmation seeds are the study's seed plus this and up: far from those a search uses (its own
# seed and, for near-ties, the few after it).
FIRST_SEED = 1000


@dataclass(frozen=True)
class _Setting:
    """All that the rows of one confirmation have in common; it tells confirmations apart."""

    trial: "TrialSettings"
    data: str  # the data set's fingerprint: a folder's content may change
    device: str
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "trial": self.trial.model_dump(mode="json"),
            "data": self.data,
            "device": self.device,
            "versions": dict(self.versions),
        }


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _key(setting: Mapping[str, Any], *, identity: str, seed: int, split: str, rate: float) -> str:
    return PREFIX + _digest(
        {
            "schema": SCHEMA,
            "setting": setting,
            "contender": identity,
            "seed": seed,
            "split": split,
            "learning_rate": rate,
        }
    )


@dataclass
class _Session:
    """The runs of one call: what is stored already, and how to make what is not."""

    stored: "StoredStudy"
    threads: int | None
    progress: Callable[[str], None] | None
    records: dict[str, dict[str, Any]]
    planned: int
    done: int = 0
    trained: int = 0
    seconds: float = 0.0

    def run(
        self,
        contender: Contender,
        setting: _Setting,
        dataset: "Dataset",
        *,
        seed: int,
        split: str,
        rate: float,
    ) -> dict[str, Any]:
        """One run, from the storage or by training; stored before it is returned."""
        from pdsearch import trial

        document = setting.to_dict()
        key = _key(document, identity=contender.identity, seed=seed, split=split, rate=rate)
        self.done += 1
        if key in self.records:
            return self.records[key]
        checkpoint = self.stored.output / "confirm" / f"{key.removeprefix(PREFIX)}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        result = trial.run_trial(
            contender.candidate,
            setting.trial.model_copy(update={"learning_rate": rate, "learning_rates": ()}),
            dataset,
            seed=seed,
            device=setting.device,
            threads=self.threads,
            split=split,
            checkpoint=checkpoint,
            module=contender.module,
        )
        # A diverged network's output is no number: what it can claim is the accuracy of guessing.
        accuracy = 1 / len(dataset.classes) if result.diverged else result.value
        record = {
            "schema": SCHEMA,
            "setting": document,
            "name": contender.name,
            "kind": contender.kind,
            "how": contender.how,
            "formula": contender.formula,
            "candidate": None if contender.module else contender.candidate.to_dict(),
            "seed": seed,
            "split": split,
            "learning_rate": rate,
            "accuracy": float(accuracy),
            "diverged": result.diverged,
            "epochs": [
                {"epoch": e.epoch, "loss": _number(e.loss), "accuracy": _number(e.accuracy)}
                for e in result.epochs
            ],
            "seconds": float(result.seconds),
            "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        with storage_errors(self.stored.storage):
            self.stored.study.set_user_attr(key, record)
        # Not before: where the storage refuses, the next call takes the run up from here.
        checkpoint.unlink(missing_ok=True)
        self.records[key] = record
        self.trained += 1
        self.seconds += result.seconds
        if self.progress is not None:
            left = (self.planned - self.done) * self.seconds / self.trained / 60
            self.progress(
                f"{self.done}/{self.planned} {setting.trial.model} on {setting.trial.dataset}: "
                f"{contender.name}, seed {seed}: {split} accuracy {100 * accuracy:.2f} % "
                f"({result.seconds:.0f} s{', diverged' if result.diverged else ''}; "
                f"at most {left:.0f} min left)"
            )
        return record

    def best_rate(
        self, contender: Contender, setting: _Setting, dataset: "Dataset", *, seed: int
    ) -> float:
        """The rate for the test runs: the only one, or the grid's best by validation accuracy."""
        grid = tuple(setting.trial.learning_rates)
        if not grid:
            return float(setting.trial.learning_rate)
        accuracies = [
            self.run(contender, setting, dataset, seed=seed, split="validation", rate=rate)[
                "accuracy"
            ]
            for rate in grid
        ]
        return float(grid[accuracies.index(max(accuracies))])


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def confirm(
    stored: "StoredStudy",
    *,
    seeds: int | None = None,
    top: int = 3,
    epochs: int | None = None,
    candidates: Sequence["Candidate"] = (),
    controls: bool = False,
    transfer: Sequence[str] = (),
    device: str = "auto",
    threads: int | None = None,
    seed: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Confirmation:
    """Retrains the study's best candidates, its references and the baseline over the same seeds.

    Args:
        stored: The study.
        seeds: How many; the study file's `confirm.seeds` if left out.
        top: How many of the study's best candidates, distinct in g.
        epochs: Of each run; the study file's `confirm.epochs` if left out.
        candidates: More to retrain beside them.
        controls: Also retrain the activation whose true derivative is the best candidate's g, and
            plain LeakyReLU, GELU and SiLU.
        transfer: `MODEL@DATASET`: the same rows again there.
        device: As for a search.
        threads: As for a search.
        seed: The first seed; `FIRST_SEED` above the study's if left out.
        progress: Called with one line for each finished run.

    Returns:
        Every row retrained under these settings, those of earlier calls included.

    Raises:
        InputError: On a number below 1, an unknown model or data set, or a study with nothing to
            confirm.
    """
    from pdsearch.data import load_dataset
    from pdsearch.trial import resolve_device

    settings = stored.settings
    n = settings.confirm.seeds if seeds is None else seeds
    budget = settings.confirm.epochs if epochs is None else epochs
    for name, number, least in (("seeds", n, 1), ("top", top, 0), ("epochs", budget, 1)):
        if number < least:
            raise InputError(f"{name} must be at least {least}, got {number}")
    first = settings.study.seed + FIRST_SEED if seed is None else seed
    contenders, notes = choose_contenders(stored, top=top, given=candidates, controls=controls)
    place = str(resolve_device(device))
    trials = _trials(stored, budget=budget, transfer=transfer)
    # All are loaded before the first run, so that a misspelt one does not end hours of training.
    data = {
        name: load_dataset(name, directory=stored.directory)
        for name in dict.fromkeys(t.dataset for t in trials)
    }
    versions = _versions()
    stages = [_Setting(t, data[t.dataset].fingerprint, place, versions) for t in trials]
    records = _records(stored)
    runs = len(stages) * len(contenders) * (n + len(settings.trial.learning_rates))
    session = _Session(stored, threads, progress, records, planned=runs)
    for setting in stages:
        dataset = data[setting.trial.dataset]
        rates = {
            contender.identity: session.best_rate(
                contender, setting, dataset, seed=settings.study.seed
            )
            for contender in contenders
        }
        # Seed by seed, so that what an interruption leaves behind is already paired.
        for number in range(first, first + n):
            for contender in contenders:
                rate = rates[contender.identity]
                session.run(contender, setting, dataset, seed=number, split="test", rate=rate)
    main, *others = (
        assemble(stored.name, setting.to_dict(), session.records.values()) for setting in stages
    )
    return replace(main, notes=(*main.notes, *notes), transfers=tuple(others))


def _trials(
    stored: "StoredStudy", *, budget: int, transfer: Sequence[str]
) -> list["TrialSettings"]:
    """The trial settings of the main confirmation and of each transfer."""
    home = stored.settings.trial.model_copy(update={"epochs": budget})
    trials = [home]
    for text in transfer:
        model, at, dataset = text.partition("@")
        if not (model and at and dataset):
            raise InputError(
                f"a transfer is written MODEL@DATASET (such as resnet18@cifar100), got {text!r}"
            )
        there = home.model_copy(update={"model": model, "dataset": dataset})
        if there not in trials:
            trials.append(there)
    return trials


def _versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    import torch

    from pdsearch import __version__

    return {"pdsearch": __version__, "torch": str(torch.__version__)}


def _records(stored: "StoredStudy") -> dict[str, dict[str, Any]]:
    """Every stored run of a schema this version reads, by its key."""
    with storage_errors(stored.storage):
        attributes = stored.study.user_attrs
    return {
        key: record
        for key, record in attributes.items()
        if key.startswith(PREFIX) and record.get("schema") == SCHEMA
    }


def load_confirmation(stored: "StoredStudy") -> Confirmation | None:
    """What the storage holds of the study's confirmation, finished or not; None without a test run.

    Of several confirmations of one model and data set (other epochs, another device) the one worked
    on last is given; those on other models and data sets are its `transfers`.
    """
    records = [record for record in _records(stored).values() if record["split"] == "test"]
    if not records:
        return None
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["finished"]):
        trial = record["setting"]["trial"]
        latest[trial["model"], trial["dataset"]] = record["setting"]
    home = (stored.settings.trial.model, stored.settings.trial.dataset)
    order = sorted(latest, key=lambda place: (place != home, list(latest).index(place)))
    main, *others = (assemble(stored.name, latest[place], records) for place in order)
    return replace(main, transfers=tuple(others))
