"""Workers on a Ray cluster, each an actor."""

import importlib
import os
import signal
import threading
from typing import Any

from pdsearch.errors import InputError, PdsearchError, one_line
from pdsearch.launchers.job import Ended, Job, Seen
from pdsearch.launchers.remote import RemoteWorker

_NONE = (
    "no Ray cluster was found: set RAY_ADDRESS=HOST:PORT, run this on a machine of the cluster, or "
    "start one there (`ray start --head`). RAY_ADDRESS=local starts Ray on this machine. A cluster "
    "with token authentication also needs RAY_AUTH_MODE=token and its token"
)


class RayCluster:
    """The cluster that RAY_ADDRESS names, or that this machine belongs to."""

    def __init__(self) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._workers: dict[Any, Any] = {}  # the actor of each result to come
        self._hosts: dict[Any, Any] = {}  # the name of each actor's machine to come
        self._needs = ""
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(os.environ.get("RAY_ADDRESS") or "auto")

    def _connect(self, address: str) -> None:
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        try:
            # Workers' errors are reported when they end; the rest is in Ray's logs.
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            found = "" if address == "auto" else f" at RAY_ADDRESS={address} ({one_line(error)})"
            raise InputError(_NONE.replace(" was found", f" was found{found}", 1)) from None
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            raise PdsearchError(f"Ray cannot be used: {one_line(error)[:300]}") from error
        finally:
            if main:  # Ray's own handler would end this process without stopping its workers
                signal.signal(signal.SIGTERM, before)

    def start(self, job: Job) -> None:
        """Start the workers, or queue them."""
        actor = self._ray.remote(
            num_cpus=job.cpus,
            num_gpus=job.gpus,
            max_concurrency=2,  # `stop` comes while `work` runs
        )(RemoteWorker)
        self._needs = f"a worker needs {job.cpus} CPU(s) and {job.gpus} GPU(s)"
        for _ in range(job.count):
            worker = actor.remote()
            self._hosts[worker] = worker.host.remote()
            # Arguments, unlike a runtime environment, are neither logged nor shown.
            result = worker.work.remote(job.module, dict(job.request), dict(job.environment))
            self._workers[result] = worker

    def look(self) -> Seen:
        """Return the workers as they are now."""
        ended = []
        for result in self._ready(list(self._workers)):
            worker = self._workers.pop(result)
            ended.append(self._outcome(result, self._hosts.pop(worker)))
            self._ray.kill(worker)  # gives its CPUs and GPUs back
        running = len(self._ready(list(self._hosts.values())))
        waiting = len(self._workers) - running
        return Seen(running, {"waiting": waiting} if waiting else {}, tuple(ended))

    def _ready(self, refs: list[Any]) -> list[Any]:
        if not refs:
            return []
        ready: list[Any] = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        return ready

    def _outcome(self, result: Any, host: Any) -> Ended:
        errors = self._ray.exceptions
        where = "a machine of Ray"
        try:
            where = self._ray.get(host, timeout=1)
            ended: Ended = self._ray.get(result)
            return ended
        except errors.RayActorError as error:
            if "creation task" in str(error):  # pdsearch is missing there, for example
                return Ended(where, _last_line(error))
            return Ended(where, "its machine or its Ray process is gone")
        except errors.RayError as error:
            return Ended(where, _last_line(error))

    def why_waiting(self) -> str:
        """Return what the workers need and what the cluster has."""
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        amounts = " and ".join(
            f"{free.get(kind, 0):g} of {has.get(kind, 0):g} {kind}(s) free"
            for kind in ("CPU", "GPU")
        )
        return f"{self._needs}; Ray has {amounts}"

    def stop(self, seconds: float) -> None:
        """End all workers in order, and wait for that at most so long."""
        started = set(self._ready(list(self._hosts.values())))
        stops = [worker.stop.remote() for worker, host in self._hosts.items() if host in started]
        if stops:
            self._ray.wait(stops, num_returns=len(stops), timeout=seconds)
        for worker in self._workers.values():
            self._ray.kill(worker)
        self._workers, self._hosts = {}, {}

    def close(self) -> None:
        """Disconnect."""
        if self._ours:
            self._ray.shutdown()


def _last_line(error: Exception) -> str:
    """Return the last line of an error that contains the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
