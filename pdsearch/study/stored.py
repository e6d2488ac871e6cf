"""Reading a study back: what the command line, the report and the confirmation see of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.criteria import FamilyGate
from pdsearch.errors import InputError, StorageError, first_line, one_line
from pdsearch.family import Family
from pdsearch.study.attributes import (
    SCHEMA,
    StudyAttrs,
    TrialAttrs,
    check_study,
    check_trial,
    clean,
    with_storage,
)
from pdsearch.study.innards import storage_of, study_names
from pdsearch.study.machine import owner_of
from pdsearch.study.queue import current
from pdsearch.study.rows import Status, TrialRow, best_of, counts_of, finite, latest, ranked
from pdsearch.study.settings import (
    StudyFile,
    check_name,
    default_storage,
    is_file_spec,
    load_study_file,
)
from pdsearch.study.storage import (
    connect,
    damaged,
    reading,
    shown_url,
    storage_errors,
)

if TYPE_CHECKING:
    import optuna


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
    _checked: set[int] = field(default_factory=set, repr=False, compare=False)

    def trials(self) -> list[TrialRow]:
        """Every trial in the order of their numbers, as the storage holds them now."""
        with reading(self.name, self.storage, storage_of(self.study)):
            frozen = self.study.get_trials(deepcopy=False)
            kept = StudyAttrs(self.study).only("seeds")
        check_study(self.name, self.storage, kept, whole=False)
        seeds = StudyAttrs(kept).seeds or {}
        for trial in frozen:
            if trial.number not in self._checked:
                check_trial(self.name, self.storage, trial.number, trial.user_attrs)
            if trial.state.is_finished():
                self._checked.add(trial.number)
        return [self._row(trial, seeds.get(str(trial.number), {})) for trial in current(frozen)]

    def _row(
        self, trial: "optuna.trial.FrozenTrial", seeds: Mapping[str, float | None]
    ) -> TrialRow:
        try:
            return row_of(trial, seeds)
        except InputError as error:  # the candidate's
            about = f"trial {trial.number}'s {TrialAttrs.candidate.key!r}: {first_line(error)}"
            raise damaged(self.name, self.storage, about) from error

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
            return StudyAttrs(self.study).family_gates()

    @property
    def own_criteria(self) -> dict[str, str]:
        """The files of the criteria that its study file names, by `path.py:function`."""
        with storage_errors(self.storage):
            return StudyAttrs(self.study).own_criteria or {}

    @property
    def minimize(self) -> bool:
        """Whether a smaller value is better (only where a Python function says so)."""
        with storage_errors(self.storage):
            return self.study.directions[0].name == "MINIMIZE"

    def baseline(self) -> TrialRow | None:
        """The trial of true ReLU; None until it has begun."""
        return latest([row for row in self.trials() if row.kind == "baseline"])

    def references(self) -> dict[str, TrialRow]:
        """The references' trials by family name."""
        rows = [row for row in self.trials() if row.kind == "reference"]
        names = dict.fromkeys(row.candidate.family.name for row in rows if row.candidate)
        found = {}
        for name in names:
            row = latest([r for r in rows if r.candidate and r.candidate.family.name == name])
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
    return StudyAttrs(stored.study).train


def status(stored: StoredStudy) -> dict[str, Any]:
    """How far a study is, as plain data: what `pdsearch status --json` prints."""
    rows, attrs = stored.trials(), StudyAttrs(stored.study.user_attrs)
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
        "train": attrs.train,
        "device": attrs.device,
        "versions": attrs.versions,
    }


def owner_alive(row: TrialRow) -> bool | None:
    """Whether the process that runs a trial lives; None where that cannot be known here."""
    owner = owner_of(row.owner)
    return None if owner is None else owner.alive()


def summary(stored: StoredStudy, rows: list[TrialRow] | None = None) -> dict[str, Any]:
    """What `pdsearch search --json` prints."""
    rows = stored.trials() if rows is None else rows
    counts = counts_of(rows)
    best = best_of(rows, minimize=stored.minimize)
    baseline = latest([row for row in rows if row.kind == "baseline"])
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
            "value": finite(best.value),
        },
        "baseline": {"value": _reached(baseline) if baseline else None},
        "references": references,
    }


def _reached(row: TrialRow) -> float | None:
    """The value of a trial that came to its end: on the way there it says nothing of the end."""
    return finite(row.value) if row.status == "complete" else None


def open_study(study: StudyFile | str | Path, *, storage: str | None = None) -> StoredStudy:
    """Open a study that has been begun.

    Args:
        study: a study file or its path, or the name of a study in the storage.
        storage: an SQLAlchemy URL; default: the study file's, for a name the general default.

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
    """Open the study of that name in that storage; `write` where trials will be run."""
    import optuna

    backend = connect(url, write=write)
    shown = shown_url(url)
    with reading(name, url, backend):
        names = study_names(backend)
        if name not in names:
            known = ", ".join(names[:20]) or "none yet"
            raise InputError(f"{shown} holds no study {name!r} (it holds: {known})")
        study = optuna.load_study(study_name=name, storage=backend)
    stored = read(study, url)
    if write:
        with storage_errors(url):
            clean(study)
    return stored


def read(study: "optuna.Study", url: str) -> StoredStudy:
    """The stored study around an open Optuna study."""
    name = study.study_name
    with reading(name, url, storage_of(study)):
        attrs = StudyAttrs(study.user_attrs)
        if not study.directions:
            raise damaged(name, url, "it has no direction")
    schema = attrs.schema
    if schema is None:
        raise InputError(
            f"study {name!r} in {shown_url(url)} was not made by pdsearch, "
            "or its making was interrupted: choose another name, or run its search again"
        )
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        key = StudyAttrs.schema.key
        raise damaged(name, url, f"its {key!r} is {ascii(schema)[:40]}, no version")
    if schema > SCHEMA:
        raise InputError(
            f"study {name!r} was written by a newer pdsearch (schema {schema}, this "
            f"version reads up to {SCHEMA}): update pdsearch"
        )
    check_study(name, url, attrs.all)
    part = "settings"
    try:
        settings = StudyFile.model_validate(with_storage(attrs.settings, url))
        part = "families"
        families = {key: Family.from_dict(data) for key, data in (attrs.families or {}).items()}
    except ValueError as error:
        raise StorageError(
            f"what study {name!r} in {shown_url(url)} keeps of its {part} cannot be read: "
            f"{one_line(error)[:200]}"
        ) from error
    # It may be a copy under another name (`optuna.copy_study`).
    settings = settings.model_copy(
        update={"study": settings.study.model_copy(update={"name": name})}
    )
    directory = Path(attrs.directory or ".")
    if not directory.is_dir():  # the study was begun on another machine
        directory = Path.cwd()
    settings._directory = directory
    output = Path(settings.study.output)
    if not output.is_absolute():
        output = directory / output
    return StoredStudy(
        name=name,
        storage=shown_url(url),
        study=study,
        settings=settings,
        families=families,
        output=output / name,
        directory=directory,
        url=url,
    )


def row_of(trial: "optuna.trial.FrozenTrial", seeds: Mapping[str, float | None]) -> TrialRow:
    """Return a trial as a row, with its values by further seed."""
    attrs = TrialAttrs(trial)
    candidate = attrs.drawn()
    seconds = attrs.seconds
    if seconds is None and trial.state.is_finished() and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    status = _status(trial)
    # Optuna gives a pruned trial the last value that a pruner saw, which may be a loss.
    values = tuple(trial.values) if trial.values and status == "complete" else ()
    value = values[0] if values else None
    epochs = tuple(attrs.epochs or ())
    if value is None and status in ("pruned", "diverged", "running"):
        reached = [entry["value"] for entry in (*(attrs.looks or ()), *epochs)]
        value = reached[-1] if reached else None
    return TrialRow(
        number=trial.number,
        kind=attrs.kind or "candidate",
        status=status,
        candidate=candidate,
        value=finite(value),
        epochs=epochs,
        criteria=attrs.criteria,
        reason=attrs.reason,
        seconds=seconds,
        parameters=dict(candidate.parameters) if candidate else {},
        values=values,
        duplicate_of=attrs.duplicate_of,
        learning_rate=attrs.learning_rate,
        seeds={int(seed): value for seed, value in seeds.items()},
        owner=attrs.owner,
        started=trial.datetime_start,
    )


_STATUS: Mapping[str, Status] = {
    "COMPLETE": "complete",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


def _status(trial: "optuna.trial.FrozenTrial") -> Status:
    if trial.state.name != "PRUNED":
        return _STATUS[trial.state.name]
    kept = TrialAttrs(trial).status
    return "diverged" if kept == "diverged" else "ruled_out" if kept == "ruled_out" else "pruned"
