"""`search` and `worker`: a study from its file, or from Python around one's own training."""

import contextlib
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna

from pdsearch import interrupt
from pdsearch.errors import InputError
from pdsearch.family import Family
from pdsearch.study.begin import begin, other_versions, with_decided
from pdsearch.study.content import CONTENT, content_of, other_content
from pdsearch.study.kept import PREFIX
from pdsearch.study.own import KEPT
from pdsearch.study.patience import STORAGE_WAIT
from pdsearch.study.prepare import (
    check_first_trial,
    dataset_of,
    decided,
    device_of,
    image_trainer,
    name_of,
    own_as_begun,
    resolved,
    settings_of,
    spec_of,
    warn,
)
from pdsearch.study.progress import Display
from pdsearch.study.queue import fail_dead_trials
from pdsearch.study.rows import TrialRow
from pdsearch.study.settings import FamilySpec, StudyFile
from pdsearch.study.space import check_installed, settle_families
from pdsearch.study.storage import settle, shown_url, storage_errors, waiting
from pdsearch.study.stored import StoredStudy, open_named, open_study, summary
from pdsearch.study.ties import decide_ties
from pdsearch.study.train import FunctionTrainer, Trainer
from pdsearch.study.trust import check_output, runnable
from pdsearch.study.workers import (
    WORTH,
    end_all,
    is_helper,
    parent_alive,
    share_out,
    start,
)


@dataclass(frozen=True)
class SearchResult:
    """A study that has reached its total.

    Attributes:
        study: its name.
        stored: the study itself, to read on.
    """

    study: str
    stored: StoredStudy

    @property
    def best(self) -> TrialRow | None:
        """The best complete candidate, with its `candidate` and `value`; None if there is none."""
        return self.stored.best()

    def to_dict(self) -> dict[str, Any]:
        """What `pdsearch search --json` prints: counts, best, baseline, references."""
        return summary(self.stored)


def search(
    study: StudyFile | str | Path | None = None,
    *,
    families: Sequence[Family | FamilySpec] | None = None,
    references: Sequence[Family | FamilySpec] | None = None,
    train: Callable[..., Any] | None = None,
    name: str | None = None,
    trials: int | None = None,
    storage: str | None = None,
    workers: int | Literal["auto"] | None = None,
    device: str = "auto",
    threads: int | None = None,
    seed: int | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    criteria: Sequence[Callable[..., Any]] = (),
    storage_wait: float = STORAGE_WAIT,
    progress: bool = True,
) -> SearchResult:
    """Runs a study until its total of trials is reached; the same call again goes on with it.

    With `train`, candidates are trained by your function instead of on images: it is called as
    `train(candidate)`, or `train(candidate, seed=…)` if it takes a seed, and yields a value an
    epoch (a generator), the last one counting, or returns one value. A value is a real number:
    Python's, NumPy's, a 0-d tensor or array; a tuple such as (accuracy, loss) is refused. The
    baseline and the references run first. Values that are not finite count as divergence.

    Args:
        study: a study file or its path; None to give `families` and the rest here.
        families: `Family` objects or what a study file may name.
        references: as `families`; those of the study file, else `leaky` and `b_silu`.
        train: your own training.
        name: the study's.
        trials: the study's total.
        storage: an SQLAlchemy URL.
        workers: processes side by side on this machine, or `auto`; a function can have only one.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads a trial; kept with the study, for a sum's order depends on them, so
            that another number is refused later. Left out, they follow from the machine alone, not
            from `workers`, or are those that the study keeps.
        seed: of the sampler and of every training.
        sampler: as in a study file.
        pruner: as in a study file.
        direction: whether `train`'s values are better large or small.
        criteria: your own, beside the required ones: functions of a candidate.
        storage_wait: seconds that the storage may be away once trials run.
        progress: show it on stderr.

    Raises:
        InputError: something given is wrong, or the study was begun with other settings.
        StorageError: the storage cannot be used.
        UnsupportedError: a combination that Optuna cannot do.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; everything finished is kept.
    """
    changes: dict[str, Any] = {
        "name": name,
        "trials": trials,
        "storage": storage,
        "workers": workers,
        "seed": seed,
        "sampler": sampler,
        "pruner": pruner,
        "families": None if families is None else [spec_of(family) for family in families],
        "references": None if references is None else [spec_of(family) for family in references],
    }
    settings = settings_of(study, {key: v for key, v in changes.items() if v is not None})
    if direction not in ("maximize", "minimize"):
        raise InputError(f"direction must be maximize | minimize, got {direction!r}")
    if direction == "minimize" and train is None:
        raise InputError("direction='minimize' is for a train function; accuracy is maximized")
    several = settings.study.workers not in (1, "auto")
    if train is not None and several:
        raise InputError(
            f"workers must be 1 with a train function, got {settings.study.workers}: a function "
            "cannot be handed to other processes; call search in each of them on one storage"
        )
    if train is not None and len(settings.study.objectives) > 1:
        raise InputError("a train function has one objective: its value")
    if train is not None and (settings.study.looks or settings.study.prune_by):
        raise InputError(
            "looks and prune_by are for pdsearch's own training: a pruner compares the values that "
            "a train function yields, as often as it yields one"
        )
    if criteria and several:
        raise InputError("criteria of your own need workers=1: they cannot be handed on")
    with interrupt.handled(), _optunas_errors_only():
        searched, listed, own, texts = resolved(settings)
        check_installed(settings.study)
        url = settings.study.storage
        # Wrong data or a wrong model must be told before anything is written.
        check_output(settings.directory / settings.study.output / settings.study.name)
        dataset = None if train is not None else dataset_of(settings, progress=progress)
        function = None if train is None else FunctionTrainer(train)
        if dataset is not None:
            check_first_trial(settings, dataset)
        if function is not None and settings.study.tie_seeds and not function.takes_seed:
            raise InputError("study.tie_seeds needs a train function that takes a seed")
        said = Display(quiet=not progress, total=settings.study.trials)
        where = device_of(device, train)
        share = share_out(settings.study.workers, device=where, threads=threads)
        kept = {
            "device": where,
            "threads": share.threads,
            "train": None if train is None else name_of(train),
            "criteria": [name_of(one) for one in criteria] or None,
            "direction": direction,
            KEPT: texts,
            CONTENT: content_of(settings.trial, dataset, directory=settings.directory),
        }
        stored = begin(
            settings,
            searched=searched,
            references=listed,
            url=url,
            kept=kept,
            threads=threads if train is None else None,
            decide=lambda file: decided(file, dataset, device=device, threads=share.threads),
            settle=lambda: settle_families(searched, settings.criteria, say=said.say),
            direction=direction,
        )
        stored = _of_file(stored, settings)
        with storage_errors(url):
            kept_threads = stored.study.user_attrs.get(PREFIX + "threads")
        if kept_threads != share.threads:  # begun on another machine, or told otherwise
            share = share_out(settings.study.workers, device=where, threads=kept_threads)
        # A function of this process cannot be handed to another one.
        side_by_side = 1 if train is not None or criteria else share.workers
        trainer = function or image_trainer(stored, dataset, device=device)
        _run(
            stored,
            trainer,
            url=url,
            progress=progress,
            device=device,
            where=where,
            side_by_side=side_by_side,
            criteria=(*own, *criteria),
            storage_wait=storage_wait,
        )
        # Read anew: the storage as it was written to is closed, and one plain file again.
        done = _of_file(open_named(stored.name, url), settings)
        warn(done, dataset, say=said.note)
    return SearchResult(done.name, done)


def worker(
    study: StudyFile | str | Path,
    *,
    storage: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    trust_study_code: bool = False,
    storage_wait: float = STORAGE_WAIT,
    progress: bool = True,
) -> StoredStudy:
    """Joins a study that was begun by `pdsearch search`; leaves when nothing is left to begin.

    Args:
        study: its file or its name.
        storage: an SQLAlchemy URL.
        device: as for `search`.
        threads: those that the study keeps, or nothing.
        trust_study_code: with a name instead of a file, run the Python files that the storage
            names, and write where it says.
        storage_wait: as for `search`.
        progress: show it on stderr.

    Raises:
        InputError: no such study, one around a Python function or with criteria from Python, one
            that was begun with other settings, threads, images, or another text of a file, or one
            whose storage alone names a Python file to run.
        StorageError: the storage cannot be used.
        KeyboardInterrupt: on Ctrl-C or SIGTERM.
    """
    with interrupt.handled(), _optunas_errors_only():
        found = open_study(study, storage=storage)
        found.trials()  # what is damaged is told before anything is run or written
        with storage_errors(found.url):
            kept = found.study.user_attrs
        for key, does in (
            ("train", "trains by a Python function"),
            ("criteria", "has criteria in Python"),
        ):
            if kept.get(PREFIX + key) is not None:
                raise InputError(
                    f"study {found.name!r} {does}, which cannot be handed on: join it by calling "
                    f"pdsearch.search(..., {key}=…) on the same storage"
                )
        kept_threads = kept.get(PREFIX + "threads")
        if threads is not None and threads != kept_threads:
            raise InputError(
                f"study {found.name!r} was begun with threads {kept_threads}, on which the last "
                f"bits of its results depend, got {threads}: leave it out"
            )
        said = Display(quiet=not progress, total=found.settings.study.trials)
        found = runnable(found, trust=trust_study_code, say=said.note)
        check_output(found.output)
        stored = replace(found, study=open_named(found.name, found.url, write=True).study)
        dataset = dataset_of(stored.settings, progress=progress)
        now = content_of(stored.settings.trial, dataset, directory=stored.directory)
        if other := other_content(kept.get(PREFIX + CONTENT, {}), now):
            raise InputError(
                f"study {stored.name!r} was begun with other content of {', '.join(other)}"
            )
        trainer = image_trainer(stored, dataset, device=device, threads=threads)
        _run(
            stored,
            trainer,
            url=stored.url,
            progress=progress,
            device=device,
            where=device_of(device, None),
            criteria=own_as_begun(stored),
            storage_wait=storage_wait,
        )
    return stored


# -------------------------------------------------------------------------------------- the parts


def _of_file(stored: StoredStudy, settings: StudyFile) -> StoredStudy:
    """A study that goes by its file, with which it was just compared, not by what is stored."""
    return replace(
        stored,
        settings=with_decided(settings, stored.settings),
        directory=settings.directory,
        output=settings.directory / settings.study.output / stored.name,
        file=settings,
        trusted=True,
    )


def _run(
    stored: StoredStudy,
    trainer: Trainer,
    *,
    url: str,
    progress: bool,
    device: str,
    where: str,
    storage_wait: float,
    side_by_side: int | None = None,
    criteria: tuple[Callable[..., Any], ...] = (),
) -> None:
    """Runs trials: to the study's total, `side_by_side` at once; as one of its workers if None."""
    from pdsearch.study.run import Session

    alive = parent_alive()
    settings = stored.settings.study
    helpers: list[subprocess.Popen[str]] = []
    until_total = side_by_side is not None
    further = (side_by_side or 1) - 1

    def recruit(left: float, trials: int) -> bool:
        """Starts the further workers where they gain more than their start takes."""
        if settings.workers == "auto" and left < WORTH:
            return False
        for _ in range(min(further, trials)):
            helpers.append(_start_worker(stored, device=device, storage_wait=storage_wait))
        if helpers:
            display.say(f"{1 + len(helpers)} trials side by side from now on (--workers)")
        return True

    with (
        storage_errors(url),
        Display(quiet=not progress, total=settings.trials) as display,
        waiting(stored.study, seconds=storage_wait, say=display.note, wanted=alive),
    ):
        session = Session(
            stored,
            trainer,
            display,
            wanted=alive,
            extra_criteria=criteria,
            recruit=recruit if further and settings.workers == "auto" else None,
        )
        display.say(f"study {stored.name}: {shown_url(url)}")
        for line in () if is_helper() else _remarks(stored):
            display.note(line)
        begun_on = stored.study.user_attrs.get(PREFIX + "device", where)
        if begun_on.partition(":")[0] != where.partition(":")[0]:
            display.say(
                f"the study was begun on {begun_on} and goes on on {where}: the same seed no "
                "longer gives the same bits, so pairs are a little less alike (--device)"
            )
        try:
            if settings.workers != "auto":
                recruit(math.inf, settings.trials)
            session.run(until_total=until_total)
            if until_total:
                decide_ties(stored, trainer, display, check_wanted=session.check_wanted)
        finally:
            if killed := end_all(helpers):
                fail_dead_trials(stored.study, ended=killed)
            settle(stored.study)


def _remarks(stored: StoredStudy) -> Iterator[str]:
    """What is said once before a study goes on."""
    kept, total = stored.study.user_attrs, stored.settings.study.trials
    fixed = 1 + len(kept[PREFIX + "references"])
    if total <= fixed:
        yield (
            f"study.trials = {total} leaves no trial to a candidate: ReLU and the references take "
            f"{fixed}"
        )
    if line := other_versions(kept):
        yield line


def _start_worker(
    stored: StoredStudy, *, device: str, storage_wait: float
) -> "subprocess.Popen[str]":
    request = {
        "file": stored.settings.model_dump(mode="json"),
        "directory": str(stored.directory),
        "storage": stored.url,
        "device": device,
        "storage_wait": storage_wait,
    }
    return start("pdsearch.study.helper", request)


@contextlib.contextmanager
def _optunas_errors_only() -> Iterator[None]:
    """Keeps Optuna's log to its errors.

    Not WARNING: it prints a traceback for every interrupted trial and every one tried again, which
    this package tells in a line.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
