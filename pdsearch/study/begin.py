"""Beginning a study, or resuming one: what is stored with it, and what may not change."""

import contextlib
import importlib.metadata
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from pdsearch import __version__, interrupt
from pdsearch.criteria import FamilyGate
from pdsearch.errors import InputError
from pdsearch.family import load_family
from pdsearch.study.attributes import FIXED, SCHEMA, StudyAttrs, TrialAttrs, kept_settings
from pdsearch.study.families import BASELINE, grid, offered
from pdsearch.study.innards import ENQUEUED, study_names
from pdsearch.study.machine import owner_alive
from pdsearch.study.queue import ENDED, current
from pdsearch.study.settings import OBJECTIVES, StudyFile
from pdsearch.study.sources import Named, changed_texts, other_content
from pdsearch.study.storage import connect, reading, storage_errors
from pdsearch.study.stored import StoredStudy, read
from pdsearch.study.url import shown_url

FREE = (
    "study.trials",
    "study.storage",
    "study.output",
    "study.workers",
    "study.tie_seeds",
    "confirm.seeds",
    "confirm.epochs",
    "confirm.rate_epochs",
)
"""Settings that may change between runs of a study, because no trial's result depends on them."""

Direction = Literal["minimize", "maximize"]

MAKING = 15.0  # seconds to wait for another process that is creating the study


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study is to be.

    Its fields are those of `StudyAttrs` as far as they are stored. `fixed_threads` says whether the
    user chose the number of threads.
    """

    settings: StudyFile
    named: Named
    device: str
    threads: int
    fixed_threads: bool = False
    train: str | None = None
    criteria: Sequence[str] | None = None
    direction: Direction = "maximize"
    content: Mapping[str, str]

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective."""
        further = self.settings.study.objectives[1:]
        return [self.direction, *(OBJECTIVES[key] for key in further)]

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of a new study, except those that are decided once."""
        return {
            "families": {key: family.to_dict() for key, family in self.named.families.items()},
            "searched": list(self.named.searched),
            "references": list(self.named.references),
            "directory": str(self.settings.directory),
            "versions": versions(),
            "device": self.device,
            "threads": self.threads,
            "train": self.train,
            "criteria": None if self.criteria is None else list(self.criteria),
            "direction": self.direction,
            "own_criteria": dict(self.named.texts),
            "content": dict(self.content),
            **self._of_groups(),
        }

    def _of_groups(self) -> dict[str, Any]:
        """Return the names of each group's families; nothing without groups, as before them."""
        if not self.settings.study.groups:
            return {}
        return {"groups": {name: list(found) for name, found in self.named.groups.items()}}


def begin(
    plan: Plan,
    *,
    decide: Callable[[StudyFile], StudyFile] = lambda file: file,
    settle: Callable[[], Mapping[str, FamilyGate]] = dict,
) -> StoredStudy:
    """Create a study, or open the one of that name and check that it is the same.

    Args:
        plan: what it is to be.
        decide: returns the settings with `auto` decided; called once, when the study is created.
        settle: returns the decisions for whole families; likewise called once.

    Raises:
        InputError: the study was begun with other settings.
        StorageError: the storage cannot be used.
    """
    name, url = plan.settings.study.name, plan.settings.study.storage
    backend = connect(url, create=True)

    def create() -> optuna.Study:
        return optuna.create_study(study_name=name, storage=backend, directions=plan.directions)

    def attributes() -> dict[str, Any]:
        # Before anything is written: a failure leaves nothing behind.
        return plan.attributes() | _decided_once(plan.settings, decide, settle)

    with storage_errors(url):
        study = None
        with reading(name, url, backend):
            names = study_names(backend)
        if name not in names:
            kept = attributes()
            with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
                study = create()
        if study is None:
            with reading(name, url, backend):
                study = _existing(backend, name, url)
                study.get_trials(deepcopy=False)
            if "settings" in StudyAttrs(study) and _resumed(study, plan):
                return read(study, url)
            # It has no result yet (most likely because of a mistake in the file): begin again.
            kept = attributes()
            optuna.delete_study(study_name=name, storage=backend)
            study = create()
        StudyAttrs(study).write(**kept)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(plan.settings.study.objectives))
        _queue(study, plan)
        # The last step: it shows other processes that the study is complete.
        StudyAttrs(study).schema = SCHEMA
        return read(study, url)


def _decided_once(
    settings: StudyFile,
    decide: Callable[[StudyFile], StudyFile],
    settle: Callable[[], Mapping[str, FamilyGate]],
) -> dict[str, Any]:
    with interrupt.exposed():
        gates, decided = settle(), decide(settings)
    return {
        "gates": {name: gate.to_dict() for name, gate in gates.items()},
        "settings": kept_settings(decided),
    }


def with_decided(settings: StudyFile, stored: StudyFile) -> StudyFile:
    """Return the settings with the values that `auto` got when the study was created."""
    decided = {
        key: getattr(stored.trial, key)
        for key in ("precision", "memory_format")
        if getattr(settings.trial, key) == "auto"
    }
    return settings.model_copy(update={"trial": settings.trial.model_copy(update=decided)})


def _existing(backend: optuna.storages.BaseStorage, name: str, url: str) -> optuna.Study:
    """Return the study of that name, once it is complete or known to have been left incomplete."""
    study = optuna.load_study(study_name=name, storage=backend)
    until = time.monotonic() + MAKING
    while "schema" not in (attrs := StudyAttrs(study)):
        if time.monotonic() > until:
            if "settings" in attrs:
                # Its creator was killed before the last step; missing trials are queued later.
                attrs.schema = SCHEMA
                break
            if attrs.ours() and not study.get_trials(deepcopy=False):
                break  # its creator was killed even earlier: begin again
            raise InputError(
                f"{shown_url(url)} holds a study {name!r} that pdsearch did not make: choose "
                "another study.name"
            )
        interrupt.check()
        interrupt.pause(0.1)
    return study


# ----------------------------------------------------------------------------- what may not change


def _resumed(study: optuna.Study, plan: Plan) -> bool:
    """Resume a study; return False if it may be replaced, because it has no result yet.

    Raises:
        InputError: settings have changed: all of them.
    """
    stored = read(study, plan.settings.study.storage)
    stored.trials()  # report damage before anything is written
    attrs, now = stored.attrs, plan.attributes()
    changes = changes_of(stored, plan.settings, plan.named)
    changes += [f"{key}: its content" for key in other_content(attrs.content or {}, plan.content)]
    if plan.fixed_threads and plan.threads != attrs.threads:
        # The order of a sum depends on them, and so do the last bits of a result.
        changes.append(f"threads {attrs.threads} → {plan.threads}")
    for key in ("train", "criteria", "direction"):
        if key == "criteria" and key not in attrs:
            continue  # begun before they were stored
        if (before := getattr(attrs, key)) != now[key]:
            changes.append(f"{key} {before!r} → {now[key]!r}")
    if changes and not _has_results(study):
        return False
    refuse(stored, changes, "choose another study.name")
    resolved = with_decided(plan.settings, stored.settings)
    StudyAttrs(study).write(settings=kept_settings(resolved), directory=now["directory"])
    _queue(study, plan)
    return True


def refuse(stored: StoredStudy, changes: Sequence[str], otherwise: str) -> None:
    """Raise an `InputError` if settings have changed since the study was begun."""
    if changes:
        raise InputError(
            f"study {stored.name!r} in {stored.storage} was begun with other settings: "
            f"{'; '.join(changes)}. Restore them, or {otherwise}"
        )


def changes_of(stored: StoredStudy, file: StudyFile, named: Named) -> list[str]:
    """Return how a study file, and what it names, differ from what a study was begun with."""
    attrs, settings = stored.attrs, with_decided(file, stored.settings)
    old, new = (_flat(each.model_dump(mode="json")) for each in (stored.settings, settings))
    changes = [
        f"{key} {old.get(key)!r} → {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if _decisive(old.get(key)) != _decisive(new.get(key)) and key not in FREE
    ]
    if old.get("study.groups") != new.get("study.groups"):  # `trial.only` follows from them
        changes = [change for change in changes if not change.startswith("trial.only ")]
    for key, family in named.families.items():
        before, now = (attrs.families or {}).get(key), family.to_dict()
        if before is not None and _decisive(before) != _decisive(now):
            changes.append(f"family {key} {before['formula']!r} → {now['formula']!r}")
    for spec in changed_texts(attrs.own_criteria or {}, named.texts):
        changes.append(f"criteria.own {spec!r}: the content of its file")
    return changes


def _decisive(value: Any) -> Any:
    """Return a setting without the sources that its families cite: they affect no trial."""
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if key != "reference"}
    return [_decisive(entry) for entry in value] if isinstance(value, list) else value


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a study file by `section.key`."""
    return {
        f"{section}.{key}": value for section, keys in data.items() for key, value in keys.items()
    }


def _has_results(study: optuna.Study) -> bool:
    """Whether a trial has ended with a result, or may be running."""
    return any(
        trial.state in ENDED
        or (trial.state == TrialState.RUNNING and owner_alive(TrialAttrs(trial).owner) is not False)
        for trial in study.get_trials(deepcopy=False)
    )


# --------------------------------------------------------------------------------- queued trials


def _queue(study: optuna.Study, plan: Plan) -> None:
    """Queue the baseline, the references and a grid's points that are missing."""
    _queue_fixed(study, plan)
    if plan.settings.study.sampler == "grid":
        _queue_grid(study, plan)


def _queue_fixed(study: optuna.Study, plan: Plan) -> None:
    """Queue the baseline and the references that are missing or were given up."""
    there = set()
    for trial in study.get_trials(deepcopy=False):
        attrs = TrialAttrs(trial)
        if attrs.kind in FIXED and trial.state != TrialState.FAIL:
            data = attrs.candidate or {}  # `check_trial` has checked it
            there.add((attrs.kind, data["family"]["name"]))
    wanted = [("baseline", load_family(BASELINE))]
    wanted += [("reference", family) for family in plan.named.references.values()]
    for kind, family in wanted:
        if (kind, family.name) not in there:
            kept = TrialAttrs.named(kind=kind, candidate=family.default.to_dict())
            study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=kept))


def _queue_grid(study: optuna.Study, plan: Plan) -> None:
    """Queue a grid's missing points, as far as the total has room."""
    family = next(iter(plan.named.searched.values()))
    settings = plan.settings.study
    most = settings.trials - 1 - len(settings.references)
    there = [
        trial.params or trial.system_attrs.get(ENQUEUED, {})
        for trial in current(study.get_trials(deepcopy=False))
        if trial.state != TrialState.FAIL and not TrialAttrs(trial).fixed
    ]
    room = max(0, most - len(there))
    space = offered(family, StudyAttrs(study).family_gates().get(family.name))
    missing = [point for point in grid(family, most, space=space) if point not in there]
    if room < len(missing):  # a larger total has another grid: take points from all of it
        missing = random.Random(settings.seed).sample(missing, room)
    for point in missing:
        study.enqueue_trial(point)


# --------------------------------------------------------------------------------------- versions


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect a trial's numbers."""
    return {
        "pdsearch": __version__,
        "torch": importlib.metadata.version("torch"),
        "optuna": optuna.__version__,
    }


def other_versions(attrs: StudyAttrs) -> str | None:
    """Return a line if a study was begun with other versions than these, else None."""
    begun_with = attrs.versions or {}
    others = [
        f"{name} {begun_with[name]}, now {version}"
        for name, version in versions().items()
        if begun_with.get(name, version) != version
    ]
    if not others:
        return None
    return (
        f"the study was begun with {'; '.join(others)}: new results may differ from the earlier "
        "ones in their last bits, or more"
    )
