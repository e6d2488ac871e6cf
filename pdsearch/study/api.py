"""`search` and `worker`: running a study from its file, or from Python around your own training."""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pdsearch import interrupt
from pdsearch.criteria import functions_of
from pdsearch.errors import InputError
from pdsearch.family import Family
from pdsearch.launchers import connected
from pdsearch.processes import end_all, is_helper, parent_alive, start
from pdsearch.study.attempt import Context
from pdsearch.study.begin import begin, other_versions
from pdsearch.study.families import settle_families
from pdsearch.study.file import validate
from pdsearch.study.groups import FamilySpec
from pdsearch.study.launched import run_launched
from pdsearch.study.machine import WORTH, share_out
from pdsearch.study.patience import STORAGE_WAIT
from pdsearch.study.prepare import (
    Call,
    dataset_of,
    device_of,
    image_trainer,
    own_as_begun,
    prepare,
    settings_of,
    warn,
)
from pdsearch.study.progress import Display
from pdsearch.study.queue import fail_dead_trials, tally
from pdsearch.study.rows import TrialRow
from pdsearch.study.run import Session
from pdsearch.study.settings import StudyFile
from pdsearch.study.sources import content_of, other_content
from pdsearch.study.storage import close, optunas_errors_only, storage_errors, waiting
from pdsearch.study.stored import StoredStudy, open_named, open_study, summary
from pdsearch.study.ties import decide_ties
from pdsearch.study.trainer import Trainer
from pdsearch.study.trust import check_output, of_file, runnable

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class SearchResult:
    """A study that has reached its total.

    Attributes:
        study: its name.
        stored: the study itself.
    """

    study: str
    stored: StoredStudy

    @property
    def best(self) -> TrialRow | None:
        """The best complete candidate, with its `candidate` and `value`; None if there is none."""
        return self.stored.best()

    def plot(self) -> "go.Figure":
        """Draw the shapes of the best candidates, and the references dashed.

        Raises:
            InputError: No candidate is complete.
        """
        return self.stored.plot()

    def _repr_html_(self) -> str:
        return self.stored._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Return what `pdsearch search --json` prints: counts, best, baseline, references."""
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
    launcher: Literal["local", "ray", "slurm"] = "local",
    gpus_per_worker: int = 0,
    sampler: str | None = None,
    pruner: str | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    criteria: Sequence[Callable[..., Any]] = (),
    storage_wait: float = STORAGE_WAIT,
    progress: bool = True,
) -> SearchResult:
    """Run a study until it reaches its total of trials; the same call resumes it.

    With `train`, your function trains the candidates, not pdsearch on images. It is called as
    `train(candidate)`, or `train(candidate, seed=…)` if it takes a seed. It yields a value per
    epoch, of which the last one counts, or returns one value. A value is a real number of Python or
    NumPy, or a 0-d tensor or array; a tuple such as (accuracy, loss) is refused. The baseline and
    the references run first. Values that are not finite count as divergence.

    Args:
        study: A study file or its path; None to give `families` and the rest here.
        families: `Family` objects, or specifications as in a study file.
        references: As `families`; default: those of the study file, else `leaky` and `b_silu`.
        train: Your own training.
        name: Of the study.
        trials: The study's total.
        storage: An SQLAlchemy URL.
        workers: Processes side by side on this machine, or `auto`; with a function only one.
        device: `auto` (a CUDA device if there is one, else the CPU), `cpu`, `cuda`, `cuda:1` or
            `mps`.
        threads: CPU threads per trial. They are stored with the study, and a later call with
            another number is refused, because the order of a sum depends on them. Default: those of
            the study, else a number that depends on the machine, but not on `workers`.
        seed: Of the sampler and of every training.
        launcher: Where workers run: as further processes on this machine, or on an existing
            cluster of Ray or Slurm. On a cluster, this process trains nothing.
        gpus_per_worker: GPUs of each worker on a cluster, 0 or 1. Each also gets as many CPUs as
            the study has threads.
        sampler: As in a study file.
        pruner: As in a study file.
        direction: Whether to maximize or minimize the values of `train`.
        criteria: Custom criteria, in addition to the required ones: functions of a candidate.
        storage_wait: Seconds that the storage may be unreachable once trials run.
        progress: Show the progress on stderr.

    Raises:
        InputError: An argument is wrong, or the study was begun with other settings.
        StorageError: The storage cannot be used.
        UnsupportedError: Optuna does not support the combination.
        KeyboardInterrupt: On Ctrl-C or SIGTERM; everything finished is kept.
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
    call = Call(
        train=train,
        criteria=functions_of(criteria, "criteria"),
        direction=direction,
        device=device,
        threads=threads,
        launcher=launcher,
        gpus=gpus_per_worker,
    )
    call.check(settings.study)
    return _search(settings, call, storage_wait=storage_wait, progress=progress)


def _search(
    settings: StudyFile, call: Call, *, storage_wait: float, progress: bool
) -> SearchResult:
    """Run a study: load and check everything, begin or resume it, run trials, read it back."""
    with interrupt.handled(), optunas_errors_only(), connected(call.launcher) as cluster:
        ready = prepare(settings, call)
        plan, said = ready.plan, Display(quiet=not progress, total=settings.study.trials)
        stored = begin(
            plan,
            decide=ready.decided,
            settle=lambda: settle_families(plan.named.searched, settings.criteria, say=said.say),
        )
        stored = of_file(stored, settings)
        # The study may have been begun on another machine, or with another number of threads.
        threads = stored.attrs.threads
        options: dict[str, Any] = {"progress": progress, "storage_wait": storage_wait}
        if cluster is not None:
            run_launched(stored, cluster, gpus=call.gpus, device=plan.device, **options)
        else:
            share = share_out(settings.study.workers, device=plan.device, threads=threads)
            _run(
                stored,
                ready.trainer(stored),
                device=call.device,
                criteria=(*plan.named.criteria, *call.criteria),
                side_by_side=1 if call.alone else share.workers,
                until_total=True,
                **options,
            )
        # Open it again, because the storage it was written to is closed.
        done = of_file(open_named(stored.name, stored.url), settings)
        warn(done, ready.dataset, say=said.note)
    return SearchResult(done.name, done)


def worker(
    study: StudyFile | str | Path,
    *,
    storage: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    trust_study_code: bool = False,
    until_total: bool = False,
    storage_wait: float = STORAGE_WAIT,
    progress: bool = True,
) -> StoredStudy:
    """Join a study that `pdsearch search` has begun; leave when nothing is left to begin.

    Args:
        study: Its file or its name.
        storage: An SQLAlchemy URL.
        device: As for `search`.
        threads: The study's number of threads, or nothing.
        trust_study_code: With a name instead of a file, run the Python files that the storage
            names, and write where it says.
        until_total: Stay until the study reaches its total, and retry the trials of workers that
            have died.
        storage_wait: As for `search`.
        progress: Show the progress on stderr.

    Raises:
        InputError: There is no such study; it needs a Python function or criteria from Python; it
            was begun with other settings, threads, images or files; or only its storage names a
            Python file to run.
        StorageError: The storage cannot be used.
        KeyboardInterrupt: On Ctrl-C or SIGTERM.
    """
    with interrupt.handled(), optunas_errors_only():
        found = open_study(study, storage=storage)
        found.trials()  # report damage before anything is run or written
        attrs = found.attrs
        for key, does in (
            ("train", "trains by a Python function"),
            ("criteria", "has criteria in Python"),
        ):
            if getattr(attrs, key) is not None:
                raise InputError(
                    f"study {found.name!r} {does}, which a worker cannot run: join it by calling "
                    f"pdsearch.search(..., {key}=…) on the same storage"
                )
        if threads is not None and threads != attrs.threads:
            raise InputError(
                f"study {found.name!r} was begun with threads {attrs.threads}, on which the last "
                f"bits of its results depend, got {threads}: omit it"
            )
        said = Display(quiet=not progress, total=found.settings.study.trials)
        found = runnable(found, trust=trust_study_code, say=said.say)
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
            image_trainer(stored, dataset, device=device),
            device=device,
            progress=progress,
            storage_wait=storage_wait,
            criteria=own_as_begun(stored),
            until_total=until_total,
        )
    return stored


def work(request: dict[str, Any]) -> None:
    """Run trials as a worker that a search has started, until nothing is left to begin.

    The settings come from the process that started this one, not from the storage. On a cluster the
    storage's URL comes in the environment, and the study's folder may be missing.
    """
    directory = Path(request["directory"])
    url = request.get("storage") or os.environ.get("PDSEARCH_STORAGE")
    if url is None:
        raise InputError(
            "PDSEARCH_STORAGE is not set on this machine: the cluster does not pass on the "
            "environment of the process that started the workers (Slurm: SBATCH_EXPORT)"
        )
    worker(
        validate(request["file"], directory=directory if directory.is_dir() else Path.cwd()),
        storage=url,
        device=request["device"],
        until_total=request.get("until_total", False),
        storage_wait=request["storage_wait"],
        progress=False,
    )


def _run(
    stored: StoredStudy,
    trainer: Trainer,
    *,
    device: str,
    progress: bool,
    storage_wait: float,
    criteria: tuple[Callable[..., Any], ...],
    until_total: bool,
    side_by_side: int | None = None,
) -> None:
    """Run one process's part in a study.

    With `side_by_side` it starts workers so that this many trials run at once, and decides ties.
    Without, it is a worker. With `until_total` it stays until the study reaches its total.
    """
    alive = parent_alive()
    settings = stored.settings.study
    helpers: list[subprocess.Popen[str]] = []
    further = (side_by_side or 1) - 1

    def recruit(trials: int) -> None:
        """Start the workers, no more than there are trials left."""
        nonlocal further
        for _ in range(min(further, trials)):
            helpers.append(_start_worker(stored, device=device, storage_wait=storage_wait))
        further = 0
        if helpers:
            display.say(f"{1 + len(helpers)} trials side by side from now on (--workers)")

    def progressed(seconds: float, step: int, last: int) -> None:
        """Start the workers once the rest of the study is known to be worth it."""
        if further:
            counted, running, _ = tally(stored.study.get_trials(deepcopy=False))
            trials = settings.trials - counted - running
            if trials > 0 and seconds * (last - step + trials * last) >= WORTH:
                recruit(trials)

    with (
        storage_errors(stored.url),
        Display(quiet=not progress, total=settings.trials) as display,
        waiting(stored.study, seconds=storage_wait, say=display.note, wanted=alive),
    ):
        context = Context(
            stored=stored,
            trainer=trainer,
            display=display,
            wanted=alive,
            progressed=progressed,
            extra_criteria=criteria,
        )
        session = Session(context, follows=side_by_side is not None)
        display.say(f"study {stored.name}: {stored.storage}")
        if not is_helper():
            _remark(stored, display, device=device)
        try:
            if settings.workers != "auto":
                recruit(settings.trials)
            session.run(until_total=until_total)
            if side_by_side is not None:
                decide_ties(context)
        finally:
            if killed := end_all(helpers):
                fail_dead_trials(stored.study, ended=killed)
            close(stored.study)


def _remark(stored: StoredStudy, display: Display, *, device: str) -> None:
    """Report what may be unexpected: no room for a candidate, other versions, another device."""
    attrs, trials = stored.attrs, stored.settings.study.trials
    fixed = 1 + len(attrs.references or ())
    if trials <= fixed:
        display.note(
            f"study.trials = {trials} leaves no trial to a candidate: ReLU and the references take "
            f"{fixed}"
        )
    if line := other_versions(attrs):
        display.note(line)
    where = device_of(device, attrs.train)
    begun_on = attrs.device if "device" in attrs else where
    if str(begun_on).partition(":")[0] != where.partition(":")[0]:
        display.say(
            f"the study was begun on {begun_on} and is resumed on {where}: the same seed no longer "
            "gives the same bits, so pairs are a little less alike (--device)"
        )


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
    return start("pdsearch.study.api", request)
