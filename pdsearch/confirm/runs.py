"""What a study's storage keeps of its confirmations: one attribute for each finished run."""

import hashlib
import json
import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pdsearch.confirm.outcome import Confirmation, assemble, how_of, identity_of
from pdsearch.errors import StorageError
from pdsearch.statistics import guessing
from pdsearch.study.storage import storage_errors

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.study import StoredStudy
    from pdsearch.trial import EpochRecord, TrialSettings

SCHEMA = 1
PREFIX = "pdsearch:confirm/"

# Seconds before each further try to keep a finished run: a server that restarts, or a SQLite file
# that others are writing to, is back within a minute.
PATIENCE = (1, 5, 30)


@dataclass(frozen=True)
class Setting:
    """All that the rows of one confirmation have in common; it tells confirmations apart."""

    trial: "TrialSettings"
    data: str  # the data set's fingerprint: a folder's content may change
    device: str
    versions: Mapping[str, str]
    rate_epochs: int | None = None  # of the runs that choose the learning rates, if not the trial's
    model_source: str | None = None  # a digest of the model's own file, which may change too

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        described: dict[str, Any] = {
            "trial": self.trial.model_dump(mode="json"),
            "data": self.data,
            "device": self.device,
            "versions": dict(self.versions),
        }
        if self.rate_epochs is not None:
            described["rate_epochs"] = self.rate_epochs
        if self.model_source is not None:
            described["model_source"] = self.model_source
        return described

    def of_rates(self) -> "Setting":
        """The setting of the runs that choose the learning rates."""
        if self.rate_epochs is None:
            return self
        trial = self.trial.model_copy(update={"epochs": self.rate_epochs})
        return replace(self, trial=trial, rate_epochs=None)


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def run_key(
    setting: Mapping[str, Any], *, identity: str, seed: int, split: str, rate: float
) -> str:
    """The study attribute that keeps a run: a digest of all that its result depends on."""
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


def read_runs(stored: "StoredStudy") -> dict[str, dict[str, Any]]:
    """Every stored run of a schema this version reads, by its key."""
    with storage_errors(stored.storage):
        attributes = stored.study.user_attrs
    return {
        key: record
        for key, record in attributes.items()
        if key.startswith(PREFIX) and record.get("schema") == SCHEMA
    }


def keep_run(stored: "StoredStudy", key: str, record: Mapping[str, Any]) -> None:
    """Keeps a finished run with the study, however long it takes the storage within reason.

    Raises:
        StorageError: the storage still refuses after 36 s.
    """
    for wait in (*PATIENCE, None):
        try:
            with storage_errors(stored.storage):
                stored.study.set_user_attr(key, dict(record))
            return
        except StorageError:
            if wait is None:
                raise
            time.sleep(wait)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def epoch_entry(record: "EpochRecord") -> dict[str, Any]:
    """What a run's record keeps of an epoch; of a stream's task also what grows over the tasks."""
    from pdsearch.trial import TaskRecord

    told: dict[str, Any] = {
        "epoch": record.epoch,
        "loss": _number(record.loss),
        "accuracy": _number(record.accuracy),
    }
    if isinstance(record, TaskRecord):
        norms = {name: _number(norm) for name, norm in record.weight_norms.items()}
        told |= {
            "final_accuracy": _number(record.final_accuracy),
            "dead": dict(record.dead),
            "weight_norms": norms,
        }
    return told


def chance_of(
    settings: "TrialSettings",
    dataset: "Dataset",
    *,
    seed: int,
    split: Literal["validation", "test"],
) -> float:
    """The accuracy of always naming the commonest class, of the images or of a stream's tasks."""
    import torch

    from pdsearch.trial import Stream

    if settings.stream is not None:
        place = torch.device("cpu")
        stream = Stream.of(dataset, settings, seed=seed, split=split, device=place)
        return sum(guessing(stream.task(n).labels) for n in stream.counted) / len(stream.counted)
    return guessing(dataset.test_labels if split == "test" else dataset.train_labels)


def load_confirmation(stored: "StoredStudy") -> Confirmation | None:
    """What the storage holds of the study's confirmation, finished or not; None without a test run.

    Of several confirmations of one model and data set (other epochs, another device) the one worked
    on last is given; those on other models and data sets are its `transfers`.
    """
    records = [record for record in read_runs(stored).values() if record["split"] == "test"]
    if not records:
        return None
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["finished"]):
        trial = record["setting"]["trial"]
        latest[trial["model"], trial["dataset"]] = record["setting"]
    home = (stored.settings.trial.model, stored.settings.trial.dataset)
    order = sorted(latest, key=lambda place: (place != home, list(latest).index(place)))
    return assemble_all(stored, [latest[place] for place in order], records)


def assemble_all(
    stored: "StoredStudy",
    settings: Iterable[Mapping[str, Any]],
    records: Collection[Mapping[str, Any]],
) -> Confirmation:
    """The confirmation under the first setting, those under the others its `transfers`."""
    picks = [
        identity_of(row.candidate.formula, how=how_of(row.candidate))
        for row in stored.ranked()
        if row.candidate is not None
    ]
    main, *others = (assemble(stored.name, setting, records, picks=picks) for setting in settings)
    return replace(main, transfers=tuple(others))
