"""Workers in a Slurm cluster, the tasks of one job array, through submitit."""

import contextlib
import importlib
import logging
import math
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pdsearch.errors import InputError, PdsearchError, one_line
from pdsearch.launchers.job import Ended, Job, Seen
from pdsearch.launchers.remote import RemoteWorker
from pdsearch.masking import mask

CLUSTER = "slurm"
"""submitit's name of the cluster; `local` runs the jobs on this machine."""

MINUTES = 240
"""Time limit of a job, after which it is queued again; SBATCH_TIMELIMIT overrides it."""

_ASK = 15.0  # seconds between two questions about all jobs
_LATE = 5.0  # seconds until a finished job's result is visible in a shared folder
_WAITING = ("pending", "requeued", "requeue_hold", "suspended", "preempted")


class SlurmWorker:
    """The function of a job, which submitit pickles."""

    def __init__(self) -> None:
        self._worker = RemoteWorker()

    def __call__(self, module: str, request: Mapping[str, Any]) -> Ended:
        """Run the worker."""
        # submitit ignores the signal by which Slurm ends or preempts a job.
        signal.signal(signal.SIGTERM, _interrupted)
        return self._worker.work(module, request, {})

    def checkpoint(self, module: str, request: Mapping[str, Any]) -> Any:
        """Stop the worker before the time limit; submitit then queues the job again."""
        self._worker.stop()
        submitit = importlib.import_module("submitit")
        return submitit.helpers.DelayedSubmission(SlurmWorker(), module, request)


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class SlurmCluster:
    """The Slurm cluster that this machine submits to."""

    def __init__(self) -> None:
        self._submitit: Any = importlib.import_module("submitit")
        if CLUSTER == "slurm" and shutil.which("sbatch") is None:
            raise InputError(
                "--launcher slurm: this machine has no sbatch; run the command on a login node of "
                "the cluster"
            )
        self._jobs: list[Any] = []
        self._known: dict[str, tuple[str, str]] = {}  # what Slurm answered last
        self._asked = -math.inf
        self._reasons: dict[str, str] = {}  # why a job waits
        self._over: dict[str, float] = {}  # since when a job without a result has been over

    def start(self, job: Job) -> None:
        """Submit the workers as one job array."""
        logging.getLogger("submitit").setLevel(logging.ERROR)
        executor = self._submitit.AutoExecutor(
            folder=job.folder / "%j", cluster=CLUSTER, slurm_max_num_timeout=10_000
        )
        executor.update_parameters(
            name=job.name,
            timeout_min=MINUTES,
            cpus_per_task=job.cpus,
            slurm_srun_args=["--cpus-per-task", str(job.cpus)],  # since 22.05 srun inherits none
            slurm_additional_parameters={"requeue": True},
            **({"gpus_per_node": job.gpus} if job.gpus else {}),
        )
        try:
            # sbatch hands the environment on; the script and the pickled request hold no secret.
            with _environment(job.environment), executor.batch():
                jobs = [
                    executor.submit(SlurmWorker(), job.module, dict(job.request))
                    for _ in range(job.count)
                ]
        except (self._submitit.core.utils.FailedJobError, OSError) as error:
            text = mask(one_line(error))[-300:]
            raise PdsearchError(f"sbatch did not accept the workers: {text}") from error
        self._jobs = jobs
        self._known = {job.job_id: ("PENDING", "not known yet") for job in self._jobs}

    def look(self) -> Seen:
        """Return the workers as they are now."""
        states = self._states()
        ended, running, waiting = [], 0, Counter[str]()
        self._reasons = {}
        for job in list(self._jobs):
            state, reason = states.get(job.job_id, ("", ""))
            if not state or job.paths.result_pickle.exists():
                outcome = self._outcome(job)
                if outcome is not None:
                    self._jobs.remove(job)
                    ended.append(outcome)
                    continue
            else:
                self._over.pop(job.job_id, None)  # it was queued again
            if state.lower() in _WAITING:
                waiting[state.lower()] += 1
                self._reasons[job.job_id] = reason
            else:
                running += 1
        return Seen(running, waiting, tuple(ended))

    def _states(self) -> dict[str, tuple[str, str]]:
        """Return the state of each job that is not over, and why it waits."""
        if CLUSTER != "slurm":
            return {job.job_id: ("running", "") for job in self._jobs if not job.done()}
        if time.monotonic() - self._asked > _ASK:
            self._asked = time.monotonic()
            # Not submitit's states: they need Slurm's accounting, and have no reason.
            command = ["squeue", "--noheader", "--array", "--user", str(os.getuid())]
            done = subprocess.run(
                [*command, "--format", "%i|%T|%r"], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:  # else Slurm does not answer, and nothing is known
                fields = [line.strip().split("|", 2) for line in done.stdout.splitlines()]
                self._known = {name: (state, reason) for name, state, reason in fields}
        return self._known

    def _outcome(self, job: Any) -> Ended | None:
        """Return how a job ended that is over; None if its result may still come."""
        if not job.paths.result_pickle.exists():
            since = self._over.setdefault(job.job_id, time.monotonic())
            if time.monotonic() - since < _LATE:
                return None
            return Ended(f"Slurm's job {job.job_id}", f"it is gone{_last_line(job.paths.stderr)}")
        error = job.exception()
        if error is None:
            ended: Ended = job.result()
            return ended
        lines = [line for line in str(error).splitlines() if line and not line.startswith("-")]
        # After the traceback, the message says where the logs are.
        end = next((n for n, line in enumerate(lines) if line.startswith("You can check")), None)
        reason = lines[:end][-1].strip() if lines[:end] else type(error).__name__
        return Ended(f"Slurm's job {job.job_id}", mask(reason)[:300])

    def why_waiting(self) -> str:
        """Return Slurm's reasons."""
        counts = Counter(self._reasons.values())
        shown = ", ".join(f"{count} × {reason}" for reason, count in counts.items())
        return f"Slurm's reason: {shown}"

    def stop(self, seconds: float) -> None:
        """End all jobs, and wait for that at most so long."""
        if CLUSTER == "slurm" and self._jobs:  # one call for all, because each takes a moment
            subprocess.run(["scancel", *(job.job_id for job in self._jobs)], check=False)
            self._jobs = []  # Slurm ends them in order, with or without this process
        for job in self._jobs:
            job.cancel()
        until = time.monotonic() + seconds
        while self._jobs and time.monotonic() < until:
            self._jobs = [job for job in self._jobs if not job.done()]
            time.sleep(0.1)
        self._jobs = []

    def close(self) -> None:
        """Nothing is kept open."""


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process during the block, which the jobs inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _last_line(log: Path) -> str:
    """Return the last line of a job's log, and where the log is, to follow a state."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return f", without a log ({log})"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {mask(last)[:200]} ({log})" if last else f" ({log})"
