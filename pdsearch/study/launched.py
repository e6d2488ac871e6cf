"""A study whose workers run on a cluster: this process starts them, watches, and trains nothing."""

import math
import time
from collections.abc import Mapping
from typing import Any

from pdsearch import interrupt
from pdsearch.errors import InputError, PdsearchError
from pdsearch.launchers import LAUNCHERS, Cluster, Job, Seen
from pdsearch.study.attributes import kept_settings
from pdsearch.study.innards import expire
from pdsearch.study.progress import Display, Ends
from pdsearch.study.queue import check_fixed, fail_dead_trials, requeue, tally
from pdsearch.study.settings import StudySection
from pdsearch.study.storage import close, storage_errors, waiting
from pdsearch.study.stored import StoredStudy
from pdsearch.study.url import parse_url, shown_url

POLL = 2.0  # seconds between two looks at the workers and the storage
DEAD = 15.0  # seconds between two searches for trials whose process has gone
PATIENT = 60.0  # seconds until it is reported why workers do not start
LEISURE = 20.0  # seconds that workers have to leave a study that has reached its total
HASTE = 1.8  # seconds that they have when the user interrupts: see `interrupt.LEAVE`


def device_of_workers(gpus: int) -> str:
    """Return the device of workers on a cluster with so many GPUs each."""
    return "cuda" if gpus else "cpu"


def check_launched(
    settings: StudySection, *, launcher: str, gpus: int, device: str, alone: bool
) -> None:
    """Check that a study's workers can run on other machines.

    Args:
        settings: of the study.
        launcher: see `launchers`.
        gpus: of each worker.
        device: that the user named.
        alone: whether the study has functions that only this process has.

    Raises:
        InputError: they cannot.
    """
    if launcher not in LAUNCHERS:
        raise InputError(f"launcher must be {' | '.join(LAUNCHERS)}, got {launcher!r}")
    if launcher == "local":
        if gpus:
            raise InputError("--gpus-per-worker is for --launcher ray and slurm")
        return
    flag = f"--launcher {launcher}"
    if alone:
        raise InputError(
            f"{flag} cannot run a function or criteria from Python, which only this process has: "
            "call search in a process on each machine, with one storage"
        )
    if gpus not in (0, 1):
        raise InputError(
            "--gpus-per-worker must be 0 or 1, because a worker trains one trial on one GPU, got "
            f"{gpus}"
        )
    if device not in ("auto", device_of_workers(gpus)):
        raise InputError(
            f"workers with --gpus-per-worker {gpus} train on {device_of_workers(gpus)}, got "
            f"--device {device}: omit it"
        )
    if settings.workers == "auto":
        raise InputError(f"{flag} needs a number of workers: --workers N")
    if settings.tie_seeds:
        raise InputError(
            "study.tie_seeds are trained by the process that starts a search, which trains nothing "
            f"with {flag}: set it to 0, then run the same search without {flag} to decide ties"
        )
    if parse_url(settings.storage).get_backend_name() == "sqlite":
        raise InputError(
            f"{flag} needs a storage that all machines reach, got {shown_url(settings.storage)}, a "
            "file for one machine: set PDSEARCH_STORAGE=postgresql+psycopg://user:password@host/"
            "database (docs/scale.md)"
        )


def run_launched(
    stored: StoredStudy,
    cluster: Cluster,
    *,
    gpus: int,
    device: str,
    progress: bool,
    storage_wait: float,
) -> None:
    """Start a study's workers, and watch it until it reaches its total.

    Raises:
        PdsearchError: no worker is left before that.
    """
    total = stored.settings.study.trials
    with (
        storage_errors(stored.url),
        Display(quiet=not progress, total=total) as display,
        waiting(stored.study, seconds=storage_wait, say=display.note),
    ):
        display.say(f"study {stored.name}: {stored.storage}")
        counted, _, _ = tally(stored.study.get_trials(deepcopy=False))
        try:
            if counted < total:
                cluster.start(_job(stored, gpus=gpus, device=device, storage_wait=storage_wait))
                _Watch(stored, cluster, display).run()
        finally:
            cluster.stop(HASTE if interrupt.came() else LEISURE)
            close(stored.study)


def _job(stored: StoredStudy, *, gpus: int, device: str, storage_wait: float) -> Job:
    study = stored.settings.study
    request: Mapping[str, Any] = {
        "file": kept_settings(stored.settings),  # without the storage's URL
        "directory": str(stored.directory),
        "device": device,
        "storage_wait": storage_wait,
        "until_total": True,  # else nobody retries the last trials of machines that die
    }
    assert isinstance(study.workers, int)
    return Job(
        count=study.workers,
        module="pdsearch.study.api",
        request=request,
        environment={"PDSEARCH_STORAGE": stored.url},
        cpus=stored.attrs.threads or 1,
        gpus=gpus,
        name=f"pdsearch-{stored.name}",
        folder=stored.output / "workers",
    )


class _Watch:
    """Shows a study's trials and workers until it has reached its total."""

    def __init__(self, stored: StoredStudy, cluster: Cluster, display: Display) -> None:
        self._stored, self._cluster, self._display = stored, cluster, display
        self._total = stored.settings.study.trials
        self._halving = stored.settings.study.pruner == "halving"
        self._ends = Ends(stored, display, of_others=True)
        self._reasons: dict[str, int] = {}  # why workers ended, and how many
        self._told = ""  # the last line about workers
        self._waiting_since, self._why = math.inf, ""

    def run(self) -> None:
        study = self._stored.study
        dead = left = time.monotonic()
        while True:
            interrupt.check()
            if time.monotonic() - dead > DEAD:
                dead = time.monotonic()
                fail_dead_trials(study, note=self._display.note)
                expire(study, retry=requeue)
            seen = self._cluster.look()
            self._show_workers(seen)
            trials = check_fixed(study, wait=POLL)
            self._ends.show(trials)
            counted, running, queued = tally(trials)
            # With halving, the last result may let stopped trials continue.
            finished = counted >= self._total and not (self._halving and running + queued)
            if not finished:
                left = time.monotonic()
                if not seen.live:
                    raise self._none_left(counted)
            elif not seen.running or time.monotonic() - left > LEISURE:
                return
            interrupt.pause(POLL)

    def _show_workers(self, seen: Seen) -> None:
        """Show how many workers run, why some have ended, and what keeps others from starting."""
        for worker in seen.ended:
            if worker.reason:
                known = worker.reason in self._reasons
                self._reasons[worker.reason] = self._reasons.get(worker.reason, 0) + 1
                if not known:
                    self._display.note(f"a worker on {worker.where} ended: {worker.reason}")
        counts = {"running": seen.running, **seen.waiting, "ended": sum(self._reasons.values())}
        text = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        if text and text != self._told:
            self._told = text
            self._display.say(f"workers: {text}")
        self._complain(sum(seen.waiting.values()))

    def _complain(self, waiting: int) -> None:
        """Report why workers do not start, or do not start again, as long as that is new."""
        now = time.monotonic()
        self._waiting_since = min(self._waiting_since, now) if waiting else math.inf
        if now - self._waiting_since > PATIENT:
            self._waiting_since = math.inf
            why = self._cluster.why_waiting()
            if why != self._why:
                self._why = why
                self._display.note(f"{waiting} worker(s) have waited for {PATIENT:.0f} s: {why}")

    def _none_left(self, counted: int) -> PdsearchError:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in self._reasons.items())
        return PdsearchError(
            f"no worker is left, with {counted} of {self._total} trials done "
            f"({reasons or 'all ended'}). Finished trials are kept: run the same command again to "
            "resume"
        )
