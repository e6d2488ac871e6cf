"""The runs of confirmations in a study's storage: one attribute for each finished run."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from pdsearch import __version__
from pdsearch.confirm.outcome import Confirmation, assemble, how_of, identity_of
from pdsearch.errors import InputError
from pdsearch.plain import plain
from pdsearch.statistics import guessing
from pdsearch.study.attributes import RUNS, SCHEMA, runs_of
from pdsearch.study.storage import storage_errors

if TYPE_CHECKING:
    import torch

    from pdsearch.data import Dataset
    from pdsearch.study import StoredStudy
    from pdsearch.trial import EpochRecord, TrialSettings


@dataclass(frozen=True)
class Setting:
    """Everything that the rows of one confirmation have in common.

    Attributes:
        trial: The trial's settings.
        data: The data set's fingerprint: a folder's content may change.
        device: The kind of device.
        versions: Of the software that decides a run's numbers.
        rate_epochs: Epochs of the runs that choose the learning rates; None: as the trial.
        model_source: A digest of the model's own file, if it has one.
    """

    trial: "TrialSettings"
    data: str
    device: str
    versions: Mapping[str, str]
    rate_epochs: int | None = None
    model_source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        described = {**vars(self), "trial": self.trial.model_dump(mode="json")}
        return {key: value for key, value in described.items() if value is not None}

    def of_rates(self) -> "Setting":
        """Return the setting of the runs that choose the learning rates."""
        if self.rate_epochs is None:
            return self
        trial = self.trial.model_copy(update={"epochs": self.rate_epochs})
        return replace(self, trial=trial, rate_epochs=None)


def run_key(
    setting: Mapping[str, Any], *, identity: str, seed: int, split: str, rate: float
) -> str:
    """Return the study attribute of a run: a digest of everything that its result depends on."""
    document = {
        "schema": SCHEMA,
        "setting": setting,
        "contender": identity,
        "seed": seed,
        "split": split,
        "learning_rate": rate,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return RUNS + hashlib.sha256(text.encode()).hexdigest()[:24]


def read_runs(stored: "StoredStudy") -> dict[str, dict[str, Any]]:
    """Return every stored run of a schema that this version reads, by its key."""
    with storage_errors(stored.storage):
        attributes = stored.study.user_attrs
    return runs_of(attributes)


def epoch_entry(record: "EpochRecord") -> dict[str, Any]:
    """Return the entry of an epoch, or of a stream's task, in a run's record."""
    from pdsearch.trial import TaskRecord

    kept = ["epoch", "loss", "accuracy"]
    if isinstance(record, TaskRecord):
        kept += ["final_accuracy", "dead", "weight_norms"]
    entry = {name: getattr(record, name) for name in kept}
    if record.diagnostics is not None:
        entry["diagnostics"] = asdict(record.diagnostics)
    return dict(plain(entry))


def chance_of(
    settings: "TrialSettings",
    dataset: "Dataset",
    *,
    seed: int,
    split: Literal["validation", "test"],
) -> float:
    """Return the accuracy of always naming the commonest class, of a stream's in each task."""
    import torch

    from pdsearch.trial import Stream

    if settings.stream is not None:
        place = torch.device("cpu")
        stream = Stream.of(dataset, settings, seed=seed, split=split, device=place)
        return sum(guessing(stream.task(n).labels) for n in stream.counted) / len(stream.counted)
    return guessing(dataset.test_labels if split == "test" else dataset.train_labels)


def load_confirmation(stored: "StoredStudy") -> Confirmation | None:
    """Load a study's confirmation, finished or not, from its storage; None without a test run.

    Of several confirmations on one model and data set (other epochs, another device) it is the
    latest; those on other models and data sets are its `transfers`.
    """
    records = [record for record in read_runs(stored).values() if record["split"] == "test"]
    if not records:
        return None
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["finished"]):
        trial = record["setting"]["trial"]
        latest[trial["model"], trial["dataset"]] = record["setting"]
    home = (stored.settings.trial.model, stored.settings.trial.dataset)
    order = sorted(latest, key=lambda place: place != home)
    return assemble_all(stored, [latest[place] for place in order], records)


def assemble_all(
    stored: "StoredStudy",
    settings: Iterable[Mapping[str, Any]],
    records: Collection[Mapping[str, Any]],
) -> Confirmation:
    """Assemble the confirmation under the first setting, with the others as its `transfers`."""
    picks = [
        identity_of(row.candidate.formula, how=how_of(row.candidate))
        for row in stored.ranked()
        if row.candidate is not None
    ]
    main, *others = (assemble(stored.name, setting, records, picks=picks) for setting in settings)
    return replace(main, transfers=tuple(others))


def trials_of(
    stored: "StoredStudy", *, budget: int, transfer: Sequence[str]
) -> tuple[list["TrialSettings"], list[str]]:
    """Return the trial settings of the main confirmation and of each transfer, and notes."""
    notes = []
    home = stored.settings.trial.model_copy(update={"epochs": budget})
    trials = [home]
    for text in transfer:
        model, at, dataset = text.partition("@")
        if not (model and at and dataset):
            raise InputError(
                f"a transfer is written MODEL@DATASET (such as resnet18@cifar100), got {text!r}"
            )
        changes = {"model": model, "dataset": dataset}
        if home.initialisation == "caffe" and model != "alexnet":
            changes["initialisation"] = "pytorch"
            notes.append(f"{model} begins from PyTorch's initialisation: Caffe's is AlexNet's.")
        try:
            there = home.altered(changes)
        except ValidationError as error:
            said = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
            raise InputError(f"transfer {text!r}: {said}") from None
        if there not in trials:
            trials.append(there)
    return trials, notes


def hardware(place: "torch.device") -> str:
    """Return the kind of a device, which distinguishes confirmations, without its number."""
    import torch

    return f"cuda ({torch.cuda.get_device_name(place)})" if place.type == "cuda" else place.type


def versions() -> dict[str, str]:
    """Return the versions of the software that decides a run's numbers."""
    import torch

    return {"pdsearch": __version__, "torch": str(torch.__version__)}
