"""`search` and `worker`: a study from its file, or from Python around one's own training."""

import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pdsearch import interrupt
from pdsearch.errors import InputError
from pdsearch.family import Family
from pdsearch.processes import end_all, is_helper, parent_alive, start
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.begin import Plan, begin, other_versions
from pdsearch.study.families import settle_families
from pdsearch.study.machine import WORTH, share_out
from pdsearch.study.patience import STORAGE_WAIT
from pdsearch.study.prepare import (
    check_call,
    check_first_trial,
    dataset_of,
    decided,
    device_of,
    function_trainer,
    image_trainer,
    name_of,
    own_as_begun,
    resolved,
    settings_of,
    warn,
)
from pdsearch.study.progress import Display
from pdsearch.study.queue import fail_dead_trials
from pdsearch.study.rows import TrialRow
from pdsearch.study.sampler import check_installed
from pdsearch.study.settings import FamilySpec, StudyFile, validate
from pdsearch.study.sources import content_of, other_content
from pdsearch.study.storage import (
    optunas_errors_only,
    settle,
    shown_url,
    storage_errors,
    waiting,
)
from pdsearch.study.stored import StoredStudy, open_named, open_study, summary
from pdsearch.study.ties import decide_ties
from pdsearch.study.trainer import Trainer
from pdsearch.study.trust import check_output, of_file, runnable


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
    """Run a study until its total of trials is reached; the same call again resumes it.

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
        threads: CPU threads a trial; kept with the study, because the order of a sum depends on
            them, so another number is refused later. Default: those that the study keeps, else what
            follows from the machine alone, not from `workers`.
        seed: of the sampler and of every training.
        sampler: as in a study file.
        pruner: as in a study file.
        direction: whether `train`'s values are better large or small.
        criteria: your own, in addition to the required ones: functions of a candidate.
        storage_wait: seconds that the storage may be away once trials run.
        progress: show it on stderr.

    Raises:
        InputError: something given is wrong, or the study was begun with other settings.
        StorageError: the storage cannot be used.
        UnsupportedError: a combination that Optuna cannot do.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; everything finished is kept.
    """
    settings = settings_of(
        study,
        name=name,
        trials=trials,
        storage=storage,
        workers=workers,
        seed=seed,
        sampler=sampler,
        pruner=pruner,
        families=families,
        references=references,
    )
    check_call(settings, train=train, criteria=criteria, direction=direction)
    with interrupt.handled(), optunas_errors_only():
        named = resolved(settings)
        check_installed(settings.study)
        # Wrong data or a wrong model must be reported before anything is written.
        check_output(settings.directory / settings.study.output / settings.study.name)
        dataset = None if train is not None else dataset_of(settings)
        if dataset is not None:
            check_first_trial(settings, dataset)
        function = None if train is None else function_trainer(settings, train)
        said = Display(quiet=not progress, total=settings.study.trials)
        where = device_of(device, train)
        share = share_out(settings.study.workers, device=where, threads=threads)
        plan = Plan(
            settings=settings,
            searched=named.searched,
            references=named.references,
            device=where,
            threads=share.threads,
            fixed_threads=threads is not None and train is None,
            train=None if train is None else name_of(train),
            criteria=[name_of(one) for one in criteria] or None,
            direction=direction,
            texts=named.texts,
            content=content_of(settings.trial, dataset, directory=settings.directory),
        )
        stored = begin(
            plan,
            decide=lambda file: decided(file, dataset, device=device, threads=share.threads),
            settle=lambda: settle_families(named.searched, settings.criteria, say=said.say),
        )
        stored = of_file(stored, settings)
        with storage_errors(stored.url):
            kept_threads = StudyAttrs(stored.study).threads
        if kept_threads != share.threads:  # begun on another machine, or with another number
            share = share_out(settings.study.workers, device=where, threads=kept_threads)
        # A function of this process cannot be handed to another one.
        alone = train is not None or bool(criteria)
        _run(
            stored,
            function or image_trainer(stored, dataset, device=device),
            Part(
                device=device,
                where=where,
                progress=progress,
                storage_wait=storage_wait,
                side_by_side=1 if alone else share.workers,
                criteria=(*named.criteria, *criteria),
            ),
        )
        # Read anew: the storage as it was written to is closed, and one plain file again.
        done = of_file(open_named(stored.name, stored.url), settings)
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
    """Join a study that was begun by `pdsearch search`; leave when nothing is left to begin.

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
    with interrupt.handled(), optunas_errors_only():
        found = open_study(study, storage=storage)
        found.trials()  # what is damaged is reported before anything is run or written
        with storage_errors(found.url):
            attrs = StudyAttrs(found.study.user_attrs)
        for key, does in (
            ("train", "trains by a Python function"),
            ("criteria", "has criteria in Python"),
        ):
            if getattr(attrs, key) is not None:
                raise InputError(
                    f"study {found.name!r} {does}, which cannot be handed on: join it by calling "
                    f"pdsearch.search(..., {key}=…) on the same storage"
                )
        if threads is not None and threads != attrs.threads:
            raise InputError(
                f"study {found.name!r} was begun with threads {attrs.threads}, on which the last "
                f"bits of its results depend, got {threads}: leave it out"
            )
        said = Display(quiet=not progress, total=found.settings.study.trials)
        found = runnable(found, trust=trust_study_code, say=said.note)
        check_output(found.output)
        stored = replace(found, study=open_named(found.name, found.url, write=True).study)
        dataset = dataset_of(stored.settings)
        now = content_of(stored.settings.trial, dataset, directory=stored.directory)
        if other := other_content(attrs.content or {}, now):
            raise InputError(
                f"study {stored.name!r} was begun with other content of {', '.join(other)}"
            )
        _run(
            stored,
            image_trainer(stored, dataset, device=device, threads=threads),
            Part(
                device=device,
                where=device_of(device, None),
                progress=progress,
                storage_wait=storage_wait,
                criteria=own_as_begun(stored),
            ),
        )
    return stored


def work(request: dict[str, Any]) -> None:
    """Run trials as one of a search's further processes, until nothing is left to begin.

    The study file comes from the process that started this one, not from the storage.
    """
    worker(
        validate(request["file"], directory=Path(request["directory"])),
        storage=request["storage"],
        device=request["device"],
        storage_wait=request["storage_wait"],
        progress=False,
    )


# -------------------------------------------------------------------------------------- the parts


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process's part in a study.

    It runs `side_by_side` trials at once until the study's total is reached; None stands for a
    worker, which leaves when nothing is left to begin. `where` is what `device` comes to.
    """

    device: str
    where: str
    progress: bool
    storage_wait: float
    side_by_side: int | None = None
    criteria: tuple[Callable[..., Any], ...] = ()


def _run(stored: StoredStudy, trainer: Trainer, part: Part) -> None:
    """Run trials, alone or with further processes."""
    from pdsearch.study.run import Session

    alive = parent_alive()
    settings = stored.settings.study
    helpers: list[subprocess.Popen[str]] = []
    until_total = part.side_by_side is not None
    further = (part.side_by_side or 1) - 1

    def recruit(left: float, trials: int) -> bool:
        """Start the further workers where they gain more than their start takes."""
        if settings.workers == "auto" and left < WORTH:
            return False
        for _ in range(min(further, trials)):
            helpers.append(_start_worker(stored, part))
        if helpers:
            display.say(f"{1 + len(helpers)} trials side by side from now on (--workers)")
        return True

    with (
        storage_errors(stored.url),
        Display(quiet=not part.progress, total=settings.trials) as display,
        waiting(stored.study, seconds=part.storage_wait, say=display.note, wanted=alive),
    ):
        session = Session(
            stored,
            trainer,
            display,
            wanted=alive,
            extra_criteria=part.criteria,
            recruit=recruit if further and settings.workers == "auto" else None,
        )
        display.say(f"study {stored.name}: {shown_url(stored.url)}")
        if not is_helper():
            _remark(stored, display, where=part.where)
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


def _remark(stored: StoredStudy, display: Display, *, where: str) -> None:
    """Say what a user may not expect: no room for a candidate, another version or device."""
    attrs, trials = StudyAttrs(stored.study.user_attrs), stored.settings.study.trials
    fixed = 1 + len(attrs.references or ())
    if trials <= fixed:
        display.note(
            f"study.trials = {trials} leaves no trial to a candidate: ReLU and the references take "
            f"{fixed}"
        )
    if line := other_versions(attrs):
        display.note(line)
    begun_on = attrs.device if "device" in attrs else where
    if str(begun_on).partition(":")[0] != where.partition(":")[0]:
        display.say(
            f"the study was begun on {begun_on} and is resumed on {where}: the same seed no "
            "longer gives the same bits, so pairs are a little less alike (--device)"
        )


def _start_worker(stored: StoredStudy, part: Part) -> "subprocess.Popen[str]":
    request = {
        "file": stored.settings.model_dump(mode="json"),
        "directory": str(stored.directory),
        "storage": stored.url,
        "device": part.device,
        "storage_wait": part.storage_wait,
    }
    return start("pdsearch.study.api", request)
