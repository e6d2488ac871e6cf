"""What a search loads and checks before its first trial: settings, families, images, the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pdsearch.data
import pdsearch.trial
from pdsearch.criteria import UserCriterion
from pdsearch.data import Dataset, stratified_split
from pdsearch.errors import InputError, short
from pdsearch.family import Family, load_family
from pdsearch.models import check_network
from pdsearch.statistics import beyond_guessing, guessing
from pdsearch.study.begin import Direction, Plan
from pdsearch.study.families import BASELINE, as_spec
from pdsearch.study.file import load_study_file, validate
from pdsearch.study.image_trainer import ImageTrainer
from pdsearch.study.launched import check_launched, device_of_workers
from pdsearch.study.machine import share_out, threads_wanted
from pdsearch.study.sampler import check_installed
from pdsearch.study.settings import StudyFile, StudySection
from pdsearch.study.sources import changed_texts, code_of, content_of, load_own, resolved
from pdsearch.study.stored import StoredStudy
from pdsearch.study.trainer import FunctionTrainer, Trainer
from pdsearch.study.trust import check_output


def settings_of(study: StudyFile | str | Path | None, **given: Any) -> StudyFile:
    """Return the study file of a call, with the values of `[study]` that the call gives."""
    changes = {key: value for key, value in given.items() if value is not None}
    for key in sorted(changes.keys() & {"families", "references"}):
        if isinstance(changes[key], str | Family | Mapping):
            raise InputError(f"{key} must be a list, got {short(changes[key])}: put it in brackets")
        changes[key] = [as_spec(one) if isinstance(one, Family) else one for one in changes[key]]
    if study is None:
        if "families" not in changes:
            raise InputError("search needs a study file, or families=…")
        return validate({"study": {"name": "pdsearch", **changes}}, directory=Path.cwd())
    file = study if isinstance(study, StudyFile) else load_study_file(study)
    if not changes:
        return file
    data = file.model_dump(mode="json")
    return validate({**data, "study": {**data["study"], **changes}}, directory=file.directory)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of `search` that a study file does not contain."""

    train: Callable[..., Any] | None
    criteria: tuple[Callable[..., Any], ...]
    direction: Direction
    device: str
    threads: int | None
    launcher: str = "local"
    gpus: int = 0

    @property
    def elsewhere(self) -> str | None:
        """The device of workers on a cluster; None if trials run on this machine."""
        return None if self.launcher == "local" else device_of_workers(self.gpus)

    @property
    def alone(self) -> bool:
        """Whether it has functions, which other processes cannot run."""
        return self.train is not None or bool(self.criteria)

    def check(self, study: StudySection) -> None:
        """Check that the arguments and the study file agree.

        Raises:
            InputError: they do not.
        """
        if self.direction not in ("maximize", "minimize"):
            raise InputError(f"direction must be maximize | minimize, got {self.direction!r}")
        several = study.workers not in (1, "auto")
        check_launched(
            study, launcher=self.launcher, gpus=self.gpus, device=self.device, alone=self.alone
        )
        if self.train is None:
            if self.criteria and several:
                raise InputError("custom criteria need workers=1: other processes cannot run them")
            if self.direction == "minimize":
                raise InputError(
                    "direction='minimize' is for a train function; accuracy is maximized"
                )
            return
        if several:
            raise InputError(
                f"workers must be 1 with a train function, got {study.workers}: other processes "
                "cannot run the function; call search in each of them on one storage"
            )
        if study.groups:
            raise InputError(
                "study.groups is for pdsearch's own training: with a train function, search one "
                "group, and convert(model, {pattern: candidate, …}) in the function"
            )
        if len(study.objectives) > 1:
            raise InputError("a train function has one objective: its value")
        if study.horizon is not None:
            raise InputError(
                "study.horizon is for pdsearch's own training: a train function has no length"
            )
        if study.looks or study.prune_by:
            raise InputError(
                "looks and prune_by are for pdsearch's own training: a pruner compares the values "
                "that a train function yields, as often as it yields one"
            )


@dataclass(frozen=True)
class Prepared:
    """A search that is ready to begin; `dataset` is None if a function trains."""

    plan: Plan
    call: Call
    dataset: Dataset | None
    function: FunctionTrainer | None

    def decided(self, file: StudyFile) -> StudyFile:
        """Return the settings with `auto` decided by a measurement."""
        if self.dataset is None:
            return file
        if self.call.elsewhere == "cuda" and not torch.cuda.is_available():
            return self._decided_for_gpu(file, self.dataset)
        trial = pdsearch.trial.resolve_settings(
            file.trial,
            self.dataset,
            pdsearch.trial.resolve_device(self.call.elsewhere or self.call.device),
            threads=self.plan.threads,
            directory=file.directory,
        )
        return file.model_copy(update={"trial": trial})

    def _decided_for_gpu(self, file: StudyFile, dataset: Dataset) -> StudyFile:
        """Return the settings for workers with a GPU, which this machine lacks."""
        if file.trial.precision == "auto":
            raise InputError(
                "trial.precision is auto, which a probe on a GPU decides when a study begins, and "
                "this machine has none: set it (--set trial.precision=bfloat16 or float32)"
            )
        # With a precision, only one memory format is left, and nothing is measured.
        precision, layout = pdsearch.trial.probe_precision(
            file.trial, dataset, torch.device("cuda"), directory=file.directory
        )
        decided = {"precision": precision, "memory_format": layout}
        return file.model_copy(update={"trial": file.trial.model_copy(update=decided)})

    def trainer(self, stored: StoredStudy) -> Trainer:
        """Return the trainer of the study's candidates."""
        return self.function or image_trainer(stored, self.dataset, device=self.call.device)


def prepare(settings: StudyFile, call: Call) -> Prepared:
    """Load everything that a search needs, and check it before anything is written.

    Raises:
        InputError: a family, a criterion, the data or the model is wrong.
        UnsupportedError: the sampler needs a package that is not installed, or the model's ReLUs
            cannot be replaced.
    """
    named = resolved(settings)
    check_installed(settings.study)
    check_output(settings.directory / settings.study.output / settings.study.name)
    dataset, function = None, None
    if call.train is None:
        dataset = dataset_of(settings)
        check_first_trial(settings, dataset)
    else:
        function = FunctionTrainer(call.train)
        if settings.study.tie_seeds and not function.takes_seed:
            raise InputError("study.tie_seeds needs a train function that takes a seed")
    train = None if call.train is None else _name_of(call.train)
    if call.elsewhere is None:
        device = device_of(call.device, train)
        wanted = settings.study.workers
        threads = share_out(wanted, device=device, threads=call.threads).threads
    else:  # the cores of this machine do not count: each worker asks for as many as its threads
        device, threads = call.elsewhere, call.threads or threads_wanted() or 1
    plan = Plan(
        settings=settings,
        named=named,
        device=device,
        threads=threads,
        fixed_threads=call.threads is not None and train is None,
        train=train,
        criteria=[_name_of(one) for one in call.criteria] or None,
        direction=call.direction,
        content=content_of(settings.trial, dataset, directory=settings.directory)
        | code_of(call.train),
    )
    return Prepared(plan, call, dataset, function)


def own_as_begun(stored: StoredStudy) -> tuple[UserCriterion, ...]:
    """Return a study's custom criteria, if their files are as when it was begun."""
    functions, texts = load_own(stored.settings.criteria, directory=stored.directory)
    if other := changed_texts(stored.own_criteria, texts):
        raise InputError(
            f"study {stored.name!r} was begun with another text of {', '.join(other)}: restore "
            "it (the report shows what it was)"
        )
    return functions


def dataset_of(settings: StudyFile) -> Dataset:
    """Return the images of a study."""
    trial = settings.trial
    return pdsearch.data.load_dataset(
        trial.dataset,
        image_size=trial.image_size,
        channels=trial.channels,
        directory=settings.directory,
    )


def check_first_trial(settings: StudyFile, dataset: Dataset) -> None:
    """Check what would fail in the first trial: the size of a batch, and the model.

    Raises:
        InputError: with the setting's name.
        UnsupportedError: the model's ReLUs cannot be replaced.
    """
    trial = settings.trial
    train, _ = stratified_split(
        dataset.train_labels,
        share=trial.validation,
        seed=settings.study.seed,
        classes=dataset.classes,
    )
    if trial.batch_size > len(train):
        raise InputError(
            f"trial.batch_size: must be ≤ {len(train)}, the images of {trial.dataset!r} without "
            f"those held back, got {trial.batch_size}"
        )
    pdsearch.trial.check_room(trial, dataset)
    batches = len(train) // trial.batch_size
    if settings.study.looks is not None and settings.study.looks > batches:
        raise InputError(
            f"study.looks: must be ≤ {batches}, the batches of an epoch, got {settings.study.looks}"
        )
    with torch.random.fork_rng():
        check_network(
            trial.network,
            classes=len(dataset.classes),
            shape=dataset.shape,
            sites=trial.sites,
            directory=settings.directory,
            candidate=settings.study.everywhere(load_family(BASELINE).default),
        )


def _name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def device_of(device: str, train: str | None) -> str:
    """Return the device of a study's trials, as the study keeps it."""
    return str(pdsearch.trial.resolve_device(device)) if train is None else "the train function's"


def image_trainer(stored: StoredStudy, dataset: Any, *, device: str) -> ImageTrainer:
    """Return the trainer of a study on images."""
    attrs = stored.attrs
    return ImageTrainer(
        stored.settings,
        dataset,
        device=device,
        threads=attrs.threads,
        source=(attrs.content or {}).get(f"trial.model {stored.settings.trial.model!r}"),
    )


def warn(stored: StoredStudy, dataset: Dataset | None, *, say: Callable[[str], None]) -> None:
    """Report that a study compared nothing: its ReLU diverged, or no network learned anything."""
    rows = stored.trials()
    reached = [row.values[0] for row in rows if row.status == "complete"]
    remedy = "" if dataset is None else ": use a smaller learning rate"
    if any(row.kind == "baseline" and row.status == "diverged" for row in rows):
        if reached:
            say(f"ReLU's trial diverged, so nothing is compared with it{remedy}")
        else:
            say(f"no trial came to its end, and ReLU's diverged{remedy}")
    if dataset is None or not reached:
        return
    trial = stored.settings.trial
    chance = 1 / len(dataset.classes) if trial.stream else guessing(dataset.train_labels)
    if not beyond_guessing(max(reached), chance):
        say(
            f"no trial is above guessing ({100 * chance:.1f} %), ReLU's included, which says "
            "nothing about the candidates: use more epochs, another learning rate or "
            'initialisation = "he"'
        )
