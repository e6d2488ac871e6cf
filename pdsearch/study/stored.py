"""Reading a study back: what the command line, the report and the confirmation see of it."""

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pdsearch.criteria import FamilyGate
from pdsearch.errors import InputError, StorageError
from pdsearch.family import Candidate, Family
from pdsearch.study.kept import clean, with_storage
from pdsearch.study.owner import owner_of
from pdsearch.study.queue import current
from pdsearch.study.settings import StudyFile, check_name, is_file_spec, load_study_file
from pdsearch.study.storage import connect, default_storage, shown_url, storage_errors

if TYPE_CHECKING:
    import optuna

SCHEMA = 1
PREFIX = "pdsearch:"

Kind = Literal["baseline", "reference", "candidate"]
Status = Literal["complete", "pruned", "diverged", "ruled_out", "failed", "running", "waiting"]

COUNTED: tuple[Status, ...] = ("complete", "pruned", "diverged", "ruled_out")
"""What a study's total counts; a failed trial is tried again instead."""


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        number: Optuna's number of the trial.
        kind: what it ran for; only a `candidate` can be the study's best.
        status: how it ended, or that it has not.
        candidate: None until one was drawn.
        value: what counts, usually the last epoch's validation accuracy (a fraction); of a pruned
            trial the last one it reached, of one within its first epoch the accuracy there.
        epochs: an entry an epoch, as `pdsearch.trial.EpochRecord`.
        criteria: what the gate found, as `Report.to_dict()`; None where nothing was checked.
        reason: why it was ruled out, stopped or failed.
        seconds: that it took, waiting not included.
        parameters: the candidate's, by the family's own names.
        values: one an objective; empty until complete.
        duplicate_of: the number of the earlier trial of the same g whose result it shares.
        learning_rate: the one that counts, where each candidate tried several.
        seeds: values by further seed, where a near-tie was decided by them; None where it diverged.
        owner: host, process and start time of whoever runs it.
        started: when, in local time of that host.
    """

    number: int
    kind: Kind
    status: Status
    candidate: Candidate | None
    value: float | None
    epochs: tuple[dict[str, Any], ...] = ()
    criteria: dict[str, Any] | None = None
    reason: str | None = None
    seconds: float | None = None
    parameters: dict[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    duplicate_of: int | None = None
    learning_rate: float | None = None
    seeds: dict[int, float | None] = field(default_factory=dict)
    owner: dict[str, Any] | None = None
    started: datetime | None = None


@dataclass(frozen=True)
class StoredStudy:
    """A study as its storage holds it.

    Attributes:
        name: the study's name.
        storage: its URL, without a password.
        study: Optuna's own object.
        settings: the resolved study file.
        families: by name: those searched, the references and the baseline.
        output: the folder for what is made of it.
        directory: what relative paths in the settings are relative to.
        url: of the storage, its password included: for processes that are to open it too.
        file: the user's own study file, where it was opened by one.
        trusted: whether its settings are the user's own, and not only the storage's: see `trust`.
    """

    name: str
    storage: str
    study: "optuna.Study"
    settings: StudyFile
    families: Mapping[str, Family]
    output: Path
    directory: Path
    url: str = field(default="", repr=False)
    file: StudyFile | None = field(default=None, repr=False)
    trusted: bool = False

    def trials(self) -> list[TrialRow]:
        """Every trial in the order of their numbers, as the storage holds them now."""
        with storage_errors(self.storage):
            frozen = self.study.get_trials(deepcopy=False)
            seeds = self.study.user_attrs.get(PREFIX + "seeds", {})
        return [_row(trial, seeds.get(str(trial.number), {})) for trial in current(frozen)]

    def best(self) -> TrialRow | None:
        """The best complete candidate, the first of `ranked`; never the baseline or a reference."""
        return best_of(self.trials(), minimize=self.minimize)

    def ranked(self) -> list[TrialRow]:
        """The complete candidates, each g once, the best first."""
        return ranked(self.trials(), minimize=self.minimize)

    @property
    def gates(self) -> dict[str, FamilyGate]:
        """What was decided for whole families when the study was begun, by name."""
        with storage_errors(self.storage):
            return gates_of(self.study)

    @property
    def own_criteria(self) -> dict[str, str]:
        """The files of the criteria that its study file names, by `path.py:function`."""
        with storage_errors(self.storage):
            return dict(self.study.user_attrs.get(PREFIX + "own_criteria", {}))

    @property
    def minimize(self) -> bool:
        """Whether a smaller value is better (only where a Python function says so)."""
        with storage_errors(self.storage):
            return self.study.directions[0].name == "MINIMIZE"

    def baseline(self) -> TrialRow | None:
        """The trial of true ReLU; None until it has begun."""
        return _latest([row for row in self.trials() if row.kind == "baseline"])

    def references(self) -> dict[str, TrialRow]:
        """The references' trials by family name."""
        rows = [row for row in self.trials() if row.kind == "reference"]
        names = dict.fromkeys(row.candidate.family.name for row in rows if row.candidate)
        found = {}
        for name in names:
            row = _latest([r for r in rows if r.candidate and r.candidate.family.name == name])
            if row is not None:
                found[name] = row
        return found

    def counts(self) -> dict[str, int]:
        """Trials by status, and `total`: those that the study's total counts.

        `pruned` includes the diverged ones, which `diverged` tells apart.
        """
        return counts_of(self.trials())


def trained_by(stored: StoredStudy) -> str | None:
    """The name of the Python function that trains; None where pdsearch does.

    Of a function's values nothing is known, nor of its model and data.
    """
    name: str | None = stored.study.user_attrs.get(PREFIX + "train")
    return name


def gates_of(study: "optuna.Study") -> dict[str, FamilyGate]:
    """As `StoredStudy.gates`; nothing is known in a study that an earlier version has begun."""
    kept = study.user_attrs.get(PREFIX + "gates", {})
    return {name: FamilyGate.from_dict(data) for name, data in kept.items()}


def counts_of(rows: Sequence[TrialRow]) -> dict[str, int]:
    """As `StoredStudy.counts`, of rows at hand."""
    by = {status: sum(row.status == status for row in rows) for status in Status.__args__}  # type: ignore[attr-defined]  # a Literal's members; mypy does not know
    by["pruned"] += by["diverged"]
    by["total"] = by["complete"] + by["pruned"] + by["ruled_out"]
    return by


def ranked(rows: Iterable[TrialRow], *, minimize: bool = False) -> list[TrialRow]:
    """The complete candidates, each g once, the best first: what `best`, reports and confirm name.

    By their value over the study's seed. Those that a near-tie put to further seeds stand together,
    where the first of them stands, and among themselves by their mean over the seeds that all of
    them have; one that diverged at such a seed comes after them.
    """
    sign = 1 if minimize else -1
    found = sorted(_distinct(rows), key=lambda row: (sign * (row.value or 0.0), row.number))
    retried = [row for row in found if row.seeds]
    common = set.intersection(*(set(row.seeds) for row in retried)) if retried else set()

    def by_mean(row: TrialRow) -> tuple[bool, float, int]:
        values = [row.value, *(row.seeds[seed] for seed in sorted(common))]
        kept = [value for value in values if value is not None]
        return len(kept) < len(values), sign * sum(kept) / len(kept), row.number

    place = next((place for place, row in enumerate(found) if row.seeds), 0)
    rest = [row for row in found if not row.seeds]
    return [*rest[:place], *sorted(retried, key=by_mean), *rest[place:]]


def _distinct(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The complete candidates, the first of each g."""
    numbers: set[int] = set()
    formulas: set[str] = set()
    found = []
    for row in rows:
        if row.kind != "candidate" or row.status != "complete" or _finite(row.value) is None:
            continue
        # A duplicate shares its original's values; of a reference's duplicates the first is named.
        original = row.number if row.duplicate_of is None else row.duplicate_of
        # Two workers may have trained one g at the same time, without knowing of each other.
        formula = f"trial {row.number}" if row.candidate is None else row.candidate.identity
        if original not in numbers and formula not in formulas:
            found.append(row)
        numbers.add(original)
        formulas.add(formula)
    return found


def best_of(rows: Iterable[TrialRow], *, minimize: bool = False) -> TrialRow | None:
    """As `StoredStudy.best`, of rows at hand."""
    return next(iter(ranked(rows, minimize=minimize)), None)


def status(stored: StoredStudy) -> dict[str, Any]:
    """How far a study is, as plain data: what `pdsearch status --json` prints."""
    rows = stored.trials()
    running = [
        {
            "trial": row.number,
            "kind": row.kind,
            "candidate": row.candidate.name if row.candidate else None,
            "epoch": len(row.epochs),
            "host": (row.owner or {}).get("host"),
            "pid": (row.owner or {}).get("pid"),
            "alive": owner_alive(row),
            "seconds": None
            if row.started is None
            else max(0.0, (datetime.now() - row.started).total_seconds()),
        }
        for row in rows
        if row.status == "running"
    ]
    return {
        **summary(stored, rows),
        "target": stored.settings.study.trials,
        "running": running,
        "families": {name: gate.to_dict() for name, gate in stored.gates.items()},
        "waiting": sum(row.status == "waiting" for row in rows),
        "train": trained_by(stored),
        "device": stored.study.user_attrs.get(PREFIX + "device"),
        "versions": stored.study.user_attrs.get(PREFIX + "versions"),
    }


def owner_alive(row: TrialRow) -> bool | None:
    """Whether the process that runs a trial lives; None where that cannot be told from here."""
    owner = owner_of(row.owner)
    return None if owner is None else owner.alive()


def summary(stored: StoredStudy, rows: list[TrialRow] | None = None) -> dict[str, Any]:
    """What `pdsearch search --json` prints."""
    rows = stored.trials() if rows is None else rows
    counts = counts_of(rows)
    best = best_of(rows, minimize=stored.minimize)
    baseline = _latest([row for row in rows if row.kind == "baseline"])
    references = {}
    for row in rows:
        if row.kind == "reference" and row.candidate is not None and row.status != "failed":
            references[row.candidate.family.name] = _reached(row)
    shown = ("complete", "pruned", "ruled_out", "failed", "total")
    return {
        "study": stored.name,
        "storage": stored.storage,
        "trials": {key: counts[key] for key in shown},
        "best": None
        if best is None or best.candidate is None
        else {
            "trial": best.number,
            "family": best.candidate.family.name,
            "parameters": dict(best.candidate.parameters),
            "formula": best.candidate.formula,
            "value": _finite(best.value),
        },
        "baseline": {"value": _reached(baseline) if baseline else None},
        "references": references,
    }


def _reached(row: TrialRow) -> float | None:
    """The value of a trial that came to its end: on the way there it says nothing of the end."""
    return _finite(row.value) if row.status == "complete" else None


def open_study(study: StudyFile | str | Path, *, storage: str | None = None) -> StoredStudy:
    """Opens a study that has been begun.

    Args:
        study: a study file or its path, or the name of a study in the storage.
        storage: an SQLAlchemy URL; the study file's if left out, or for a name the default.

    Raises:
        InputError: no such file, or no study of that name in the storage.
        StorageError: the storage cannot be read.
    """
    if isinstance(study, StudyFile) or is_file_spec(study):
        file = study if isinstance(study, StudyFile) else load_study_file(study)
        stored = open_named(file.study.name, storage or file.study.storage)
        # How to confirm may be changed at any time; what made the trials may not.
        settings = stored.settings.model_copy(update={"confirm": file.confirm})
        settings._directory = stored.directory
        return replace(stored, settings=settings, file=file)
    return open_named(check_name(str(study)), storage or default_storage())


def open_named(name: str, url: str, *, write: bool = False) -> StoredStudy:
    """Opens the study of that name in that storage; `write` where trials will be run."""
    import optuna

    backend = connect(url, write=write)
    shown = shown_url(url)
    with storage_errors(url):
        names = optuna.get_all_study_names(backend)
        if name not in names:
            known = ", ".join(sorted(names)[:20]) or "none yet"
            raise InputError(f"{shown} holds no study {name!r} (it holds: {known})")
        study = optuna.load_study(study_name=name, storage=backend)
        if write:
            clean(study)
        return read(study, url)


def read(study: "optuna.Study", url: str) -> StoredStudy:
    """The stored study around an open Optuna study."""
    attrs = study.user_attrs
    schema = attrs.get(PREFIX + "schema")
    if schema is None:
        raise InputError(
            f"study {study.study_name!r} in {shown_url(url)} was not made by pdsearch, "
            "or its making was interrupted: choose another name, or run its search again"
        )
    if not isinstance(schema, int) or schema > SCHEMA:
        raise InputError(
            f"study {study.study_name!r} was written by a newer pdsearch (schema {schema}, this "
            f"version reads up to {SCHEMA}): update pdsearch"
        )
    try:
        settings = StudyFile.model_validate(with_storage(attrs[PREFIX + "settings"], url))
        families = {
            name: Family.from_dict(data) for name, data in attrs[PREFIX + "families"].items()
        }
    except (KeyError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise StorageError(
            f"what study {study.study_name!r} keeps of its settings cannot be read: {first}"
        ) from error
    directory = Path(attrs.get(PREFIX + "directory", "."))
    if not directory.is_dir():  # the study was begun on another machine
        directory = Path.cwd()
    settings._directory = directory
    output = Path(settings.study.output)
    if not output.is_absolute():
        output = directory / output
    return StoredStudy(
        name=study.study_name,
        storage=shown_url(url),
        study=study,
        settings=settings,
        families=families,
        output=output / study.study_name,
        directory=directory,
        url=url,
    )


def candidate_from(data: Mapping[str, Any]) -> Candidate:
    """A candidate from plain data; a family's formula is parsed once, not once a trial."""
    family = _family(json.dumps(data["family"], sort_keys=True))
    return Candidate(family, dict(data["parameters"]))


@functools.lru_cache(maxsize=256)
def _family(text: str) -> Family:
    return Family.from_dict(json.loads(text))


def _row(trial: "optuna.trial.FrozenTrial", seeds: Mapping[str, float | None]) -> TrialRow:
    attrs = trial.user_attrs
    data = attrs.get(PREFIX + "candidate")
    candidate = candidate_from(data) if data is not None else None
    seconds = attrs.get(PREFIX + "seconds")
    if seconds is None and trial.state.is_finished() and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    state = _status(trial)
    # Optuna gives a pruned trial the last value that a pruner saw, which may be a loss.
    values = tuple(trial.values) if trial.values and state == "complete" else ()
    value = values[0] if values else None
    epochs = tuple(attrs.get(PREFIX + "epochs", ()))
    if value is None and state in ("pruned", "diverged", "running"):
        reached = [entry["value"] for entry in (*attrs.get(PREFIX + "looks", ()), *epochs)]
        value = reached[-1] if reached else None
    return TrialRow(
        number=trial.number,
        kind=attrs.get(PREFIX + "kind", "candidate"),
        status=state,
        candidate=candidate,
        value=_finite(value),
        epochs=epochs,
        criteria=attrs.get(PREFIX + "criteria"),
        reason=attrs.get(PREFIX + "reason"),
        seconds=seconds,
        parameters=dict(candidate.parameters) if candidate else {},
        values=values,
        duplicate_of=attrs.get(PREFIX + "duplicate_of"),
        learning_rate=attrs.get(PREFIX + "learning_rate"),
        seeds={int(seed): value for seed, value in seeds.items()},
        owner=attrs.get(PREFIX + "owner"),
        started=trial.datetime_start,
    )


def _status(trial: "optuna.trial.FrozenTrial") -> Status:
    name = trial.state.name
    if name == "PRUNED":
        kept = trial.user_attrs.get(PREFIX + "status")
        return kept if kept in ("diverged", "ruled_out") else "pruned"
    known: dict[str, Status] = {
        "COMPLETE": "complete",
        "FAIL": "failed",
        "RUNNING": "running",
        "WAITING": "waiting",
    }
    return known[name]


def _latest(rows: list[TrialRow]) -> TrialRow | None:
    """Of several attempts the one that did not fail, else the last."""
    good = [row for row in rows if row.status != "failed"]
    return (good or rows)[-1] if rows else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
