"""What a search needs before its first trial: settings, families, images, a device; and checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch.criteria import UserCriterion
from pdsearch.errors import InputError
from pdsearch.family import Family
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.families import as_spec, resolve_families
from pdsearch.study.image_trainer import ImageTrainer
from pdsearch.study.settings import StudyFile, load_study_file, validate
from pdsearch.study.sources import changed_texts, load_own
from pdsearch.study.storage import storage_errors
from pdsearch.study.stored import StoredStudy
from pdsearch.study.trainer import FunctionTrainer

if TYPE_CHECKING:
    from pdsearch.data import Dataset


def settings_of(study: StudyFile | str | Path | None, **given: Any) -> StudyFile:
    """Return the study file that a call means, with the values that it gives itself."""
    changes = {key: value for key, value in given.items() if value is not None}
    for key in changes.keys() & {"families", "references"}:
        changes[key] = [as_spec(one) if isinstance(one, Family) else one for one in changes[key]]
    if study is None:
        if "families" not in changes:
            raise InputError("search needs a study file, or families=…")
        return validate({"study": {"name": "pdsearch", **changes}}, directory=Path.cwd())
    file = study if isinstance(study, StudyFile) else load_study_file(study)
    return file.with_study(**changes) if changes else file


def check_call(
    settings: StudyFile,
    *,
    train: Callable[..., Any] | None,
    criteria: Sequence[Callable[..., Any]],
    direction: str,
) -> None:
    """Check that what a call of `search` gives goes together.

    Raises:
        InputError: it does not.
    """
    study = settings.study
    if direction not in ("maximize", "minimize"):
        raise InputError(f"direction must be maximize | minimize, got {direction!r}")
    several = study.workers not in (1, "auto")
    if criteria and several and train is None:
        raise InputError("criteria of your own need workers=1: they cannot be handed on")
    if train is None:
        if direction == "minimize":
            raise InputError("direction='minimize' is for a train function; accuracy is maximized")
        return
    if several:
        raise InputError(
            f"workers must be 1 with a train function, got {study.workers}: a function "
            "cannot be handed to other processes; call search in each of them on one storage"
        )
    if len(study.objectives) > 1:
        raise InputError("a train function has one objective: its value")
    if study.horizon is not None:
        raise InputError(
            "study.horizon is for pdsearch's own training: a train function has no length"
        )
    if study.looks or study.prune_by:
        raise InputError(
            "looks and prune_by are for pdsearch's own training: a pruner compares the values that "
            "a train function yields, as often as it yields one"
        )


def function_trainer(settings: StudyFile, train: Callable[..., Any]) -> FunctionTrainer:
    """Return what trains a study's candidates by a user's function."""
    trainer = FunctionTrainer(train)
    if settings.study.tie_seeds and not trainer.takes_seed:
        raise InputError("study.tie_seeds needs a train function that takes a seed")
    return trainer


@dataclass(frozen=True)
class Named:
    """What a study file names: families, and its own criteria with their files' texts."""

    searched: dict[str, Family]
    references: dict[str, Family]
    criteria: tuple[UserCriterion, ...]
    texts: dict[str, str]


def resolved(settings: StudyFile) -> Named:
    """Return the families and the criteria that a study file names.

    Raises:
        InputError: everything that cannot be had, one a line.
    """
    problems = []
    families: tuple[dict[str, Family], dict[str, Family]] = {}, {}
    own: tuple[tuple[UserCriterion, ...], dict[str, str]] = (), {}
    try:
        families = resolve_families(settings.study, directory=settings.directory)
    except InputError as error:
        problems.append(str(error))
    try:
        own = load_own(settings.criteria, directory=settings.directory)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    return Named(*families, *own)


def own_as_begun(stored: StoredStudy) -> tuple[UserCriterion, ...]:
    """A study's own criteria, from files that still say what they said when it was begun."""
    functions, texts = load_own(stored.settings.criteria, directory=stored.directory)
    if other := changed_texts(stored.own_criteria, texts):
        raise InputError(
            f"study {stored.name!r} was begun with another text of {', '.join(other)}: restore "
            "it (the report shows what it was)"
        )
    return functions


def dataset_of(settings: StudyFile) -> "Dataset":
    """The images that a study trains on."""
    from pdsearch.data import load_dataset

    return load_dataset(settings.trial.dataset, directory=settings.directory)


def check_first_trial(settings: StudyFile, dataset: "Dataset") -> None:
    """What the first trial would find out: that the model cannot be had, or a batch not be filled.

    Raises:
        InputError: with the setting's name.
        UnsupportedError: the model's ReLUs cannot be replaced.
    """
    import torch

    from pdsearch.data import stratified_split
    from pdsearch.models import check_network
    from pdsearch.trial import check_room

    trial = settings.trial
    train, _ = stratified_split(
        dataset.train_labels,
        share=trial.validation,
        seed=settings.study.seed,
        classes=dataset.classes,
    )
    if trial.batch_size > len(train):
        raise InputError(
            f"trial.batch_size: must be ≤ {len(train)}, the images of {trial.dataset!r} less those "
            f"held back, got {trial.batch_size}"
        )
    check_room(trial, dataset)
    batches = len(train) // trial.batch_size
    if settings.study.looks is not None and settings.study.looks > batches:
        raise InputError(
            f"study.looks: must be ≤ {batches}, the batches of an epoch, got {settings.study.looks}"
        )
    with torch.random.fork_rng():
        classes = len(dataset.classes)
        check_network(trial.network, classes=classes, directory=settings.directory)


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, which is kept with a study."""
    return str(getattr(function, "__qualname__", type(function).__name__))


def device_of(device: str, train: Callable[..., Any] | None) -> str:
    """Where trials run, in the words that a study keeps."""
    if train is not None:
        return "the train function's"
    from pdsearch.trial import resolve_device

    return str(resolve_device(device))


def decided(
    settings: StudyFile, dataset: "Dataset | None", *, device: str, threads: int
) -> StudyFile:
    """The settings with `auto` decided by a measured probe."""
    if dataset is None:
        return settings
    from pdsearch.trial import resolve_device, resolve_settings

    trial = resolve_settings(
        settings.trial,
        dataset,
        resolve_device(device),
        threads=threads,
        directory=settings.directory,
    )
    return settings.model_copy(update={"trial": trial})


def warn(stored: StoredStudy, dataset: "Dataset | None", *, say: Callable[[str], None]) -> None:
    """Say where a study compared nothing: its ReLU diverged, or no network learned anything."""
    from pdsearch.statistics import beyond_guessing, guessing

    rows = stored.trials()
    reached = [row.values[0] for row in rows if row.status == "complete"]
    smaller = "" if dataset is None else ": it takes a smaller learning rate"
    if any(row.kind == "baseline" and row.status == "diverged" for row in rows):
        if reached:
            say(f"ReLU's trial diverged, so nothing is compared with it{smaller}")
        else:
            say(f"no trial came to its end, and ReLU's diverged{smaller}")
    if dataset is None or not reached:
        return
    trial = stored.settings.trial
    chance = 1 / len(dataset.classes) if trial.stream else guessing(dataset.train_labels)
    if not beyond_guessing(max(reached), chance):
        say(
            f"no trial is above guessing ({100 * chance:.1f} %), ReLU's included, which says "
            "nothing of the candidates: it takes more epochs, another learning rate or "
            'initialisation = "he"'
        )


def image_trainer(
    stored: StoredStudy, dataset: Any, *, device: str, threads: int | None = None
) -> ImageTrainer:
    """What trains a study's candidates on images."""
    with storage_errors(stored.url):
        attrs = StudyAttrs(stored.study.user_attrs)
    return ImageTrainer(
        stored.settings,
        dataset,
        device=device,
        threads=threads or attrs.threads,
        source=(attrs.content or {}).get(f"trial.model {stored.settings.trial.model!r}"),
    )
