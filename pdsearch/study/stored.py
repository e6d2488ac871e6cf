"""Reading a stored study, for the command line, the report and the confirmation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdsearch.criteria import FamilyGate
from pdsearch.errors import InputError, StorageError, first_line, one_line
from pdsearch.family import Drawn, Family, Grouped
from pdsearch.study.attributes import (
    SCHEMA,
    StudyAttrs,
    TrialAttrs,
    check_study,
    check_trial,
    clean,
    with_storage,
)
from pdsearch.study.file import load_study_file
from pdsearch.study.innards import storage_of, study_names
from pdsearch.study.machine import owner_alive
from pdsearch.study.notebook import best_figure, ranking_html
from pdsearch.study.queue import current
from pdsearch.study.rows import (
    Status,
    TrialRow,
    baseline_of,
    best_of,
    check_drawn,
    counts_of,
    finite,
    ranked,
    references_of,
)
from pdsearch.study.settings import StudyFile, check_name, default_storage, is_file_spec
from pdsearch.study.storage import connect, damaged, reading, storage_errors
from pdsearch.study.url import shown_url

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class StoredStudy:
    """A study in its storage.

    Attributes:
        name: the study's name.
        storage: its URL without the password.
        study: Optuna's own object.
        settings: the resolved study file.
        families: by name: those searched, the references and the baseline.
        output: the folder for its checkpoints, reports and exports.
        url: of the storage, with the password, for processes that open it too.
        file: the user's own study file, if it was opened by one.
        trusted: whether the user vouches for its settings, not only the storage: see `trust`.
    """

    name: str
    storage: str
    study: optuna.Study
    settings: StudyFile
    families: Mapping[str, Family]
    output: Path
    url: str = field(repr=False)
    file: StudyFile | None = field(default=None, repr=False)
    trusted: bool = False
    _checked: set[int] = field(default_factory=set, repr=False, compare=False)

    @property
    def directory(self) -> Path:
        """The base of relative paths in the settings."""
        return self.settings.directory

    @property
    def attrs(self) -> StudyAttrs:
        """A copy of the study's attributes as they are now."""
        with storage_errors(self.url):
            return StudyAttrs(self.study.user_attrs)

    @property
    def gates(self) -> dict[str, FamilyGate]:
        """What was decided for whole families when the study was begun, by name."""
        return self.attrs.family_gates()

    @property
    def own_criteria(self) -> dict[str, str]:
        """The texts of the files of its custom criteria, by `path.py:function`."""
        return self.attrs.own_criteria or {}

    @property
    def minimize(self) -> bool:
        """Whether a smaller value is better (only if a Python function says so)."""
        with storage_errors(self.url):
            return self.study.directions[0].name == "MINIMIZE"

    def trials(self) -> list[TrialRow]:
        """Return every trial as it is stored now, by number."""
        with reading(self.name, self.url, storage_of(self.study)):
            frozen = self.study.get_trials(deepcopy=False)
        return self.rows(frozen)

    def rows(self, frozen: Sequence[FrozenTrial]) -> list[TrialRow]:
        """Return the study's trials, read before as Optuna has them, by number."""
        with reading(self.name, self.url, storage_of(self.study)):
            kept = StudyAttrs(self.study).only("seeds")
        check_study(self.name, self.url, kept, whole=False)
        seeds = StudyAttrs(kept).seeds or {}
        for trial in frozen:
            if trial.number not in self._checked:
                check_trial(self.name, self.url, trial.number, trial.user_attrs)
            if trial.state.is_finished():
                self._checked.add(trial.number)
        rows = []
        for trial in current(frozen):
            try:
                rows.append(_row(trial, seeds.get(str(trial.number), {})))
                check_drawn(rows[-1], self.settings.study.groups)
            except InputError as error:  # of the candidate
                about = f"trial {trial.number}'s {TrialAttrs.candidate.key!r}: {first_line(error)}"
                raise damaged(self.name, self.url, about) from error
        return rows

    def ranked(self) -> list[TrialRow]:
        """Return the complete candidates, each g once, the best first."""
        return ranked(self.trials(), minimize=self.minimize)

    def best(self) -> TrialRow | None:
        """Return the best complete candidate, never the baseline or a reference."""
        return best_of(self.trials(), minimize=self.minimize)

    def baseline(self) -> TrialRow | None:
        """Return the trial of true ReLU; None until it has begun."""
        return baseline_of(self.trials())

    def references(self) -> dict[str, TrialRow]:
        """Return the references' trials by family name."""
        return references_of(self.trials())

    def counts(self) -> dict[str, int]:
        """Return the number of trials by status; see `counts_of`."""
        return counts_of(self.trials())

    def plot(self) -> "go.Figure":
        """Draw the shapes of the best candidates, and the references dashed.

        Raises:
            InputError: No candidate is complete.
        """
        return best_figure(self.trials(), minimize=self.minimize)

    def _repr_html_(self) -> str:
        return ranking_html(self.name, self.trials(), minimize=self.minimize)


def trained_by(stored: StoredStudy) -> str | None:
    """Return the name of the Python function that trains; None if pdsearch trains.

    The model and data of a function, and the meaning of its values, are unknown.
    """
    return StudyAttrs(stored.study).train


def status(stored: StoredStudy) -> dict[str, Any]:
    """Return a study's progress as plain data: what `pdsearch status --json` prints."""
    rows, attrs = stored.trials(), stored.attrs
    running = [
        {
            "trial": row.number,
            "kind": row.kind,
            "candidate": row.candidate.name if row.candidate else None,
            "epoch": len(row.epochs),
            "host": (row.owner or {}).get("host"),
            "pid": (row.owner or {}).get("pid"),
            "alive": owner_alive(row.owner),
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


def summary(stored: StoredStudy, rows: list[TrialRow] | None = None) -> dict[str, Any]:
    """Return what `pdsearch search --json` prints."""
    rows = stored.trials() if rows is None else rows
    counts = counts_of(rows)
    best = best_of(rows, minimize=stored.minimize)
    baseline, references = baseline_of(rows), references_of(rows)
    shown = ("complete", "pruned", "ruled_out", "failed", "total")
    return {
        "study": stored.name,
        "storage": stored.storage,
        "trials": {key: counts[key] for key in shown},
        "best": None
        if best is None or best.candidate is None
        else {"trial": best.number, **_described(best.candidate), "value": finite(best.value)},
        "baseline": {"value": _reached(baseline) if baseline else None},
        "references": {
            name: _reached(row) for name, row in references.items() if row.status != "failed"
        },
    }


def _described(drawn: Drawn) -> dict[str, Any]:
    """Return a candidate's family, parameters and formula; those of each group if it has groups."""
    if isinstance(drawn, Grouped):
        parts = drawn.parts.items()
        return {
            "groups": {
                group: {"layers": list(drawn.layers[group]), **_described(part)}
                for group, part in parts
            }
        }
    return {
        "family": drawn.family.name,
        "parameters": dict(drawn.parameters),
        "formula": drawn.formula,
    }


def _reached(row: TrialRow) -> float | None:
    """Return the value of a complete trial; until then it says little about the end."""
    return finite(row.value) if row.status == "complete" else None


def open_study(study: StudyFile | str | Path, *, storage: str | None = None) -> StoredStudy:
    """Open a study that has been begun.

    Args:
        study: a study file or its path, or the name of a study in the storage.
        storage: an SQLAlchemy URL; default: the study file's; with a name, the general default.

    Raises:
        InputError: there is no such file, or no study of that name in the storage.
        StorageError: the storage cannot be read.
    """
    if isinstance(study, StudyFile) or is_file_spec(study):
        file = study if isinstance(study, StudyFile) else load_study_file(study)
        stored = open_named(file.study.name, storage or file.study.storage)
        # `[confirm]` may change at any time; what made the trials may not.
        settings = stored.settings.model_copy(update={"confirm": file.confirm})
        return replace(stored, settings=settings, file=file)
    return open_named(check_name(str(study)), storage or default_storage())


def open_named(name: str, url: str, *, write: bool = False) -> StoredStudy:
    """Open the study of that name in that storage; with `write`, to run trials."""
    backend = connect(url, write=write)
    with reading(name, url, backend):
        names = study_names(backend)
        if name not in names:
            known = ", ".join(names[:20]) or "none yet"
            raise InputError(f"{shown_url(url)} holds no study {name!r} (it holds: {known})")
        study = optuna.load_study(study_name=name, storage=backend)
    stored = read(study, url)
    if write:
        with storage_errors(url):
            clean(study)
    return stored


def read(study: optuna.Study, url: str) -> StoredStudy:
    """Return the stored study around an open study of Optuna's."""
    name = study.study_name
    with reading(name, url, storage_of(study)):
        attrs = StudyAttrs(study.user_attrs)
        if not study.directions:
            raise damaged(name, url, "it has no direction")
    schema = attrs.schema
    if schema is None:
        raise InputError(
            f"study {name!r} in {shown_url(url)} was not made by pdsearch, "
            "or its creation was interrupted: choose another name, or run its search again"
        )
    check_study(name, url, attrs.only("schema"), whole=False)
    if schema > SCHEMA:
        raise InputError(
            f"study {name!r} was written by a newer pdsearch (schema {schema}, this "
            f"version reads up to {SCHEMA}): update pdsearch"
        )
    check_study(name, url, attrs.all)
    part = "settings"
    try:
        settings = StudyFile.model_validate(with_storage(attrs.settings or {}, url))
        part = "families"
        families = {key: Family.from_dict(data) for key, data in (attrs.families or {}).items()}
        if set(attrs.groups or ()) != set(settings.study.groups):
            raise ValueError("its groups are not those of its settings")
    except ValueError as error:
        raise StorageError(
            f"the {part} of study {name!r} in {shown_url(url)} cannot be read: "
            f"{one_line(error)[:200]}"
        ) from error
    directory = Path(attrs.directory or ".")
    if not directory.is_dir():  # the study was begun on another machine
        directory = Path.cwd()
    # It may be a copy under another name (`optuna.copy_study`).
    section = settings.study.model_copy(update={"name": name})
    return StoredStudy(
        name=name,
        storage=shown_url(url),
        study=study,
        settings=settings.model_copy(update={"study": section}).at(directory),
        families=families,
        output=directory / settings.study.output / name,
        url=url,
    )


def _row(trial: FrozenTrial, seeds: Mapping[str, float | None]) -> TrialRow:
    """Return a trial as a row, with its values by further seed."""
    attrs = TrialAttrs(trial)
    candidate = attrs.drawn()
    seconds = attrs.seconds
    if seconds is None and trial.state.is_finished() and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    status = _STATUS[trial.state]
    if status == "pruned":
        status = _PRUNED.get(attrs.status or "", status)
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


_STATUS: dict[TrialState, Status] = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_PRUNED: dict[str, Status] = {"diverged": "diverged", "ruled_out": "ruled_out"}
