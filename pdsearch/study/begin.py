"""Beginning a study, or resuming one: what is kept with it, and what may not change."""

import importlib.metadata
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from pdsearch import interrupt
from pdsearch.criteria import FamilyGate
from pdsearch.errors import InputError
from pdsearch.family import Family, load_family
from pdsearch.study.attributes import FIXED, SCHEMA, StudyAttrs, TrialAttrs, kept_settings
from pdsearch.study.families import BASELINE, grid, offered
from pdsearch.study.innards import ENQUEUED, study_names
from pdsearch.study.machine import owner_of
from pdsearch.study.queue import ENDED, current
from pdsearch.study.settings import OBJECTIVES, StudyFile
from pdsearch.study.sources import changed_texts, other_content
from pdsearch.study.storage import connect, reading, shown_url, storage_errors
from pdsearch.study.stored import StoredStudy, read

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
"""Settings that may differ from one run of a study to the next: no trial's result hangs on them."""

Direction = Literal["minimize", "maximize"]

MAKING = 15.0  # seconds given to another process that is just making the study


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study is to be; its fields are those of `StudyAttrs`, as far as they are kept.

    `fixed_threads` says whether somebody asked for that number of threads, and `texts` are those of
    the criteria's files.
    """

    settings: StudyFile
    searched: Mapping[str, Family]
    references: Mapping[str, Family]
    device: str
    threads: int
    fixed_threads: bool = False
    train: str | None = None
    criteria: Sequence[str] | None = None
    direction: Direction = "maximize"
    texts: Mapping[str, str]
    content: Mapping[str, str]

    @property
    def families(self) -> dict[str, Family]:
        """Every family, by name."""
        return families_of(self.searched, self.references)

    @property
    def directions(self) -> list[Direction]:
        """One an objective."""
        further = self.settings.study.objectives[1:]
        return [self.direction, *(OBJECTIVES[key] for key in further)]

    def attributes(self) -> dict[str, Any]:
        """What a new study keeps of it; the settings are kept as they are decided."""
        return {
            "families": {key: family.to_dict() for key, family in self.families.items()},
            "searched": list(self.searched),
            "references": list(self.references),
            "directory": str(self.settings.directory),
            "versions": versions(),
            "device": self.device,
            "threads": self.threads,
            "train": self.train,
            "criteria": None if self.criteria is None else list(self.criteria),
            "direction": self.direction,
            "own_criteria": dict(self.texts),
            "content": dict(self.content),
        }


def families_of(
    searched: Mapping[str, Family], references: Mapping[str, Family]
) -> dict[str, Family]:
    """Return every family of a study by name: the baseline's too."""
    return {BASELINE: load_family(BASELINE), **references, **searched}


def begin(
    plan: Plan,
    *,
    decide: Callable[[StudyFile], StudyFile],
    settle: Callable[[], Mapping[str, FamilyGate]] = dict,
) -> StoredStudy:
    """Make a study, or open the one of that name and check that it is the same.

    Args:
        plan: what it is to be.
        decide: returns the settings with `auto` decided; called once, when the study is made.
        settle: returns what is known of whole families; called once likewise.

    Raises:
        InputError: the study was begun with other settings.
        StorageError: the storage refuses.
    """
    name, url = plan.settings.study.name, plan.settings.study.storage
    backend = connect(url, create=True)

    with storage_errors(url):
        study = None
        with reading(name, url, backend):
            names = study_names(backend)
        if name not in names:
            # Before anything is written: what fails here leaves nothing behind.
            attributes = plan.attributes() | _decided_once(plan.settings, decide, settle)
            study = _create(backend, name, plan.directions)
        if study is None:
            with reading(name, url, backend):
                study = _existing(backend, name, url)
                study.get_trials(deepcopy=False)
            if "settings" in StudyAttrs(study) and _resumed(study, plan):
                return read(study, url)
            # Nothing has come of it yet (a mistake in the file, most likely): begin anew.
            attributes = plan.attributes() | _decided_once(plan.settings, decide, settle)
            optuna.delete_study(study_name=name, storage=backend)
            study = optuna.create_study(
                study_name=name, storage=backend, directions=plan.directions
            )
        StudyAttrs(study).write(**attributes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(plan.settings.study.objectives))
        _queue(study, plan)
        # Last: what tells other processes that the study is whole.
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
    """Return the settings with what was decided for `auto` when the study was made."""
    decided = {
        key: getattr(stored.trial, key)
        for key in ("precision", "memory_format")
        if getattr(settings.trial, key) == "auto"
    }
    return settings.model_copy(update={"trial": settings.trial.model_copy(update=decided)})


def _create(
    backend: optuna.storages.BaseStorage, name: str, directions: list[Direction]
) -> "optuna.Study | None":
    try:
        return optuna.create_study(study_name=name, storage=backend, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        return None


def _existing(backend: optuna.storages.BaseStorage, name: str, url: str) -> "optuna.Study":
    """The study of that name, once it is whole or known to have been left unfinished."""
    study = optuna.load_study(study_name=name, storage=backend)
    until = time.monotonic() + MAKING
    while "schema" not in (attrs := StudyAttrs(study)):
        if time.monotonic() > until:
            if "settings" in attrs:
                # Whoever made it was killed in between; what is missing is queued later.
                attrs.schema = SCHEMA
                break
            if attrs.ours() and not study.get_trials(deepcopy=False):
                break  # killed even before that: begun anew
            raise InputError(
                f"{shown_url(url)} holds a study {name!r} that pdsearch did not make: choose "
                "another study.name"
            )
        interrupt.check()
        interrupt.pause(0.1)
    return study


# ----------------------------------------------------------------------------- what may not change


def _resumed(study: "optuna.Study", plan: Plan) -> bool:
    """Whether a study is resumed; False if it may be replaced, because nothing came of it.

    Raises:
        InputError: naming every setting that has changed.
    """
    stored = read(study, plan.settings.study.storage)
    stored.trials()  # what is damaged is reported before anything is written
    resolved = with_decided(plan.settings, stored.settings)
    changes = _changes(stored, plan, resolved)
    if changes and not _has_results(study):
        return False
    if changes:
        raise InputError(
            f"study {stored.name!r} in {stored.storage} was begun with other settings: "
            f"{'; '.join(changes)}. Restore them, or choose another study.name"
        )
    StudyAttrs(study).write(
        settings=kept_settings(resolved), directory=str(plan.settings.directory)
    )
    _queue(study, plan)
    return True


def _changes(stored: StoredStudy, plan: Plan, resolved: StudyFile) -> list[str]:
    """Everything that is otherwise than when the study was begun."""
    attrs = StudyAttrs(stored.study.user_attrs)
    changes = changes_of(
        attrs, stored.settings, settings=resolved, families=plan.families, texts=plan.texts
    )
    for key in other_content(attrs.content or {}, plan.content):
        changes.append(f"{key}: its content")
    if plan.fixed_threads and plan.threads != attrs.threads:
        # The order of a sum depends on them, and the last bits of a result with it.
        changes.append(f"threads {attrs.threads} → {plan.threads}")
    now = plan.attributes()
    for key in ("train", "criteria", "direction"):
        if key == "criteria" and key not in attrs:
            continue  # begun before they were kept
        if (before := getattr(attrs, key)) != now[key]:
            changes.append(f"{key} {before!r} → {now[key]!r}")
    return changes


def changes_of(
    attrs: StudyAttrs,
    stored: StudyFile,
    *,
    settings: StudyFile,
    families: Mapping[str, Family],
    texts: Mapping[str, str],
) -> list[str]:
    """Return how settings, families and criteria's files differ from a study's.

    Args:
        attrs: what the study keeps.
        stored: its settings.
        settings: those of now, `auto` decided.
        families: those of now, by name.
        texts: of the criteria's files of now.
    """
    old, new = _flat(stored.model_dump(mode="json")), _flat(settings.model_dump(mode="json"))
    changes = [
        f"{key} {old.get(key)!r} → {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if _decisive(old.get(key)) != _decisive(new.get(key)) and key not in FREE
    ]
    for key, family in families.items():
        before, now = (attrs.families or {}).get(key), family.to_dict()
        if before is not None and _decisive(before) != _decisive(now):
            changes.append(f"family {key} {before['formula']!r} → {now['formula']!r}")
    for spec in changed_texts(attrs.own_criteria or {}, texts):
        changes.append(f"criteria.own {spec!r}: what its file says")
    return changes


def _decisive(value: Any) -> Any:
    """What of a setting, or of the families in it, decides trials: not the source they cite."""
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if key != "reference"}
    return [_decisive(entry) for entry in value] if isinstance(value, list) else value


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and not prefix:
            flat |= _flat(value, f"{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _has_results(study: "optuna.Study") -> bool:
    """Whether a trial has come to a result, or may be running."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state in ENDED:
            return True
        if trial.state == TrialState.RUNNING:
            owner = owner_of(TrialAttrs(trial).owner)
            if owner is None or owner.alive() is not False:
                return True
    return False


# --------------------------------------------------------------------------------- what is queued


def _queue(study: "optuna.Study", plan: Plan) -> None:
    """Queue the trials that are fixed beforehand, except those that are there."""
    _queue_fixed(study, plan.references)
    if plan.settings.study.sampler == "grid":
        _queue_grid(study, plan)


def _queue_fixed(study: "optuna.Study", references: Mapping[str, Family]) -> None:
    """Queue the baseline and the references, those that are not there yet or gave up."""
    there = set()
    for trial in study.get_trials(deepcopy=False):
        attrs = TrialAttrs(trial)
        if attrs.kind in FIXED and trial.state != TrialState.FAIL:
            data = attrs.candidate or {}  # `check_trial` has looked
            there.add((attrs.kind, data["family"]["name"]))
    wanted = [("baseline", load_family(BASELINE))]
    wanted += [("reference", family) for family in references.values()]
    for kind, family in wanted:
        if (kind, family.name) not in there:
            kept = TrialAttrs.named(kind=kind, candidate=family.default.to_dict())
            study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=kept))


def _queue_grid(study: "optuna.Study", plan: Plan) -> None:
    """Queue a grid's points, those that are not there yet, as far as the total has room."""
    family = next(iter(plan.searched.values()))
    settings = plan.settings.study
    trials = [t for t in current(study.get_trials(deepcopy=False)) if t.state != TrialState.FAIL]
    fixed = 1 + len(settings.references)
    there = [
        trial.params or trial.system_attrs.get(ENQUEUED, {})
        for trial in trials
        if not TrialAttrs(trial).fixed
    ]
    room = max(0, settings.trials - fixed - len(there))
    space = offered(family, StudyAttrs(study).family_gates().get(family.name))
    points = grid(family, settings.trials - fixed, space=space)
    missing = [point for point in points if point not in there]
    if room < len(missing):  # a larger total, whose grid is another: not one corner of it
        missing = random.Random(settings.seed).sample(missing, room)
    for point in missing:
        study.enqueue_trial(point)


def versions() -> dict[str, str]:
    """Return the versions of what decides a trial's numbers."""
    from pdsearch import __version__

    return {
        "pdsearch": __version__,
        "torch": importlib.metadata.version("torch"),
        "optuna": optuna.__version__,
    }


def other_versions(attrs: StudyAttrs) -> str | None:
    """One line where a study is resumed under other versions than it was begun with, else None."""
    begun_with = attrs.versions or {}
    others = [
        f"{name} {begun_with[name]}, now {version}"
        for name, version in versions().items()
        if begun_with.get(name, version) != version
    ]
    if not others:
        return None
    return (
        f"the study was begun with {'; '.join(others)}: what is trained from here on may differ "
        "in its last bits from what is there, or in more"
    )
