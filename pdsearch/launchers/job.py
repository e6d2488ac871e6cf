"""What every launcher is given, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Job:
    """Workers to start, all alike.

    Attributes:
        count: of workers.
        module: whose `work(request)` each of them calls.
        request: plain data for JSON, without secrets: it may be written to files.
        environment: variables of the workers, which may hold secrets.
        cpus: of each worker.
        gpus: of each worker.
        name: of the job, where the cluster shows one.
        folder: that all machines share, for a launcher that needs one.
    """

    count: int
    module: str
    request: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)
    cpus: int
    gpus: int
    name: str
    folder: Path


@dataclass(frozen=True)
class Ended:
    """A worker that has ended, where it ran, and why; without a reason it was done."""

    where: str
    reason: str = ""


@dataclass(frozen=True)
class Seen:
    """The workers as they are now.

    Attributes:
        running: how many have started.
        waiting: how many have not, by the cluster's word for their state.
        ended: those that have ended since the last look.
    """

    running: int
    waiting: Mapping[str, int]
    ended: tuple[Ended, ...]

    @property
    def live(self) -> int:
        """How many may still run a trial."""
        return self.running + sum(self.waiting.values())


class Cluster(Protocol):
    """A cluster that this process is connected to."""

    def start(self, job: Job) -> None:
        """Start the workers, or queue them."""

    def look(self) -> Seen:
        """Return the workers as they are now."""

    def why_waiting(self) -> str:
        """Return what the user can look at if workers do not start."""

    def stop(self, seconds: float) -> None:
        """End all workers in order, and wait for that at most so long."""

    def close(self) -> None:
        """Disconnect."""
