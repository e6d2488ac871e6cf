"""Beginning a study, or going on with one: what is kept with it, and what may not change."""

import importlib.metadata
import random
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from pdsearch import interrupt
from pdsearch.criteria import FamilyGate
from pdsearch.errors import InputError
from pdsearch.family import Family, load_family
from pdsearch.study.content import CONTENT, other_content
from pdsearch.study.innards import ENQUEUED, study_names
from pdsearch.study.kept import PREFIX, kept_settings, reading
from pdsearch.study.own import KEPT, changed
from pdsearch.study.owner import owner_of
from pdsearch.study.queue import current
from pdsearch.study.settings import OBJECTIVES, StudyFile
from pdsearch.study.space import BASELINE, FIXED, grid, offered
from pdsearch.study.storage import connect, shown_url, storage_errors
from pdsearch.study.stored import SCHEMA, StoredStudy, gates_of, read

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


def begin(
    settings: StudyFile,
    *,
    searched: Mapping[str, Family],
    references: Mapping[str, Family],
    url: str,
    kept: Mapping[str, Any],
    threads: int | None = None,
    decide: Callable[[StudyFile], StudyFile],
    settle: Callable[[], Mapping[str, FamilyGate]] = dict,
    direction: Direction = "maximize",
) -> StoredStudy:
    """Makes a study, or opens the one of that name and checks that it is the same.

    Args:
        settings: the study file, resolved.
        searched: families that candidates are drawn from.
        references: families run at their defaults.
        url: the storage's.
        kept: further study attributes by name, `device` and the like, `CONTENT` among them; a study
            that exists keeps its own.
        threads: of a trial, where somebody asked for a number; a study keeps those it began with.
        decide: what `auto` settings come to; asked once, when the study is made.
        settle: what is known of whole families; asked once likewise.
        direction: of the first objective.

    Raises:
        InputError: the study was begun with other settings.
        StorageError: the storage refuses.
    """
    backend = connect(url, create=True)
    name = settings.study.name
    families = {BASELINE: load_family(BASELINE), **references, **searched}
    directions: list[Direction] = [
        direction,
        *(OBJECTIVES[key] for key in settings.study.objectives[1:]),
    ]
    attributes = {
        "families": {key: family.to_dict() for key, family in families.items()},
        "searched": list(searched),
        "references": list(references),
        "directory": str(settings.directory),
        "versions": versions(),
        **kept,
    }
    with storage_errors(url):
        study = None
        with reading(name, url, backend):
            names = study_names(backend)
        if name not in names:
            # Before anything is written: what fails here leaves nothing behind.
            attributes |= _decided_once(settings, decide, settle)
            study = _create(backend, name, directions)
        if study is None:
            with reading(name, url, backend):
                study = _existing(backend, name, url)
                study.get_trials(deepcopy=False)
            if PREFIX + "settings" in study.user_attrs:
                stored = read(study, url)
                stored.trials()  # what is damaged is told before anything is written
                resolved = with_decided(settings, stored.settings)
                attributes["settings"] = kept_settings(resolved)
                if _check_same(stored, attributes, threads=threads):
                    for key in ("settings", "directory"):
                        study.set_user_attr(PREFIX + key, attributes[key])
                    _queue_fixed(study, references)
                    _queue_grid(study, settings, searched)
                    return read(study, url)
            # Nothing has come of it yet (a mistake in the file, most likely): begin anew.
            attributes |= _decided_once(settings, decide, settle)
            optuna.delete_study(study_name=name, storage=backend)
            study = optuna.create_study(study_name=name, storage=backend, directions=directions)
        for key, value in attributes.items():
            study.set_user_attr(PREFIX + key, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(settings.study.objectives))
        _queue_fixed(study, references)
        _queue_grid(study, settings, searched)
        # Last: what tells other processes that the study is whole.
        study.set_user_attr(PREFIX + "schema", SCHEMA)
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
    """The settings with what was decided for `auto` when the study was made."""
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
    study = optuna.load_study(study_name=name, storage=backend)
    until = time.monotonic() + MAKING
    while PREFIX + "schema" not in study.user_attrs:
        if time.monotonic() > until:
            if PREFIX + "settings" in study.user_attrs:
                # Whoever made it was killed in between; what is missing is queued below.
                study.set_user_attr(PREFIX + "schema", SCHEMA)
                break
            ours = all(key.startswith(PREFIX) for key in study.user_attrs)
            if ours and not study.get_trials(deepcopy=False):
                break  # killed even before that: begun anew
            raise InputError(
                f"{shown_url(url)} holds a study {name!r} that pdsearch did not make: choose "
                "another study.name"
            )
        interrupt.check()
        interrupt.pause(0.1)
    return study


def _decisive(value: Any) -> Any:
    """What of a setting, or of the families in it, decides trials: not the source they cite."""
    if isinstance(value, Mapping):
        return {key: entry for key, entry in value.items() if key != "reference"}
    return [_decisive(entry) for entry in value] if isinstance(value, list) else value


def _check_same(stored: StoredStudy, attributes: Mapping[str, Any], *, threads: int | None) -> bool:
    """Whether to go on with a study; False if it may be replaced, for nothing came of it.

    Raises:
        InputError: naming every setting that has changed.
    """
    attrs = stored.study.user_attrs
    changes = changes_of(stored.settings, attrs, attributes)
    for key in other_content(attrs.get(PREFIX + CONTENT, {}), attributes[CONTENT]):
        changes.append(f"{key}: its content")
    if threads is not None and threads != attrs.get(PREFIX + "threads"):
        # The order of a sum depends on them, and the last bits of a result with it.
        changes.append(f"threads {attrs.get(PREFIX + 'threads')} → {threads}")
    for key in ("train", "criteria", "direction"):
        if key == "criteria" and PREFIX + key not in attrs:
            continue  # begun before they were kept
        if attrs.get(PREFIX + key) != attributes.get(key):
            changes.append(f"{key} {attrs.get(PREFIX + key)!r} → {attributes.get(key)!r}")
    if not changes:
        return True
    trials = stored.study.get_trials(deepcopy=False)
    begun = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            owner = owner_of(trial.user_attrs.get(PREFIX + "owner"))
            begun = begun or owner is None or owner.alive() is not False
    if not begun:
        return False
    raise InputError(
        f"study {stored.name!r} in {stored.storage} was begun with other settings: "
        f"{'; '.join(changes)}. Restore them, or choose another study.name"
    )


def changes_of(
    stored: StudyFile, attrs: Mapping[str, Any], attributes: Mapping[str, Any]
) -> list[str]:
    """What a study file says otherwise than the study's settings, families and criteria."""
    old, new = _flat(stored.model_dump(mode="json")), _flat(attributes["settings"])
    changes = [
        f"{key} {old.get(key)!r} → {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if _decisive(old.get(key)) != _decisive(new.get(key)) and key not in FREE
    ]
    for key, family in attributes["families"].items():
        before = attrs[PREFIX + "families"].get(key)
        if before is not None and _decisive(before) != _decisive(family):
            changes.append(f"family {key} {before['formula']!r} → {family['formula']!r}")
    for spec in changed(attrs.get(PREFIX + KEPT, {}), attributes.get(KEPT, {})):
        changes.append(f"criteria.own {spec!r}: what its file says")
    return changes


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and not prefix:
            flat |= _flat(value, f"{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _queue_fixed(study: "optuna.Study", references: Mapping[str, Family]) -> None:
    """Queues the baseline and the references, those that are not there yet or gave up."""
    there = set()
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get(PREFIX + "kind") in FIXED and trial.state != TrialState.FAIL:
            data = trial.user_attrs[PREFIX + "candidate"]  # `check_trial` has looked
            there.add((trial.user_attrs[PREFIX + "kind"], data["family"]["name"]))
    wanted = [("baseline", load_family(BASELINE))]
    wanted += [("reference", family) for family in references.values()]
    for kind, family in wanted:
        if (kind, family.name) not in there:
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.WAITING,
                    user_attrs={
                        PREFIX + "kind": kind,
                        PREFIX + "candidate": family.default.to_dict(),
                    },
                )
            )


def _queue_grid(study: "optuna.Study", settings: StudyFile, searched: Mapping[str, Family]) -> None:
    """Queues a grid's points, those that are not there yet, as far as the total has room."""
    if settings.study.sampler != "grid":
        return
    family = next(iter(searched.values()))
    trials = [t for t in current(study.get_trials(deepcopy=False)) if t.state != TrialState.FAIL]
    fixed = 1 + len(settings.study.references)
    there = [
        trial.params or trial.system_attrs.get(ENQUEUED, {})
        for trial in trials
        if trial.user_attrs.get(PREFIX + "kind") not in FIXED
    ]
    room = max(0, settings.study.trials - fixed - len(there))
    space = offered(family, gates_of(study).get(family.name))
    points = grid(family, settings.study.trials - fixed, space=space)
    missing = [point for point in points if point not in there]
    if room < len(missing):  # a larger total, whose grid is another: not one corner of it
        missing = random.Random(settings.study.seed).sample(missing, room)
    for point in missing:
        study.enqueue_trial(point)


def versions() -> dict[str, str]:
    """Of what decides a trial's numbers."""
    from pdsearch import __version__

    return {
        "pdsearch": __version__,
        "torch": importlib.metadata.version("torch"),
        "optuna": optuna.__version__,
    }


def other_versions(attributes: Mapping[str, Any]) -> str | None:
    """What is said where a study goes on under other versions than it was begun with.

    Args:
        attributes: the study's own.

    Returns:
        One line; None under the same versions.
    """
    begun_with = attributes.get(PREFIX + "versions", {})
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
