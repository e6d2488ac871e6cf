"""This machine: how many trials run side by side on it, and which of its processes runs a trial.

The threads of a trial do not depend on how many trials run at once. The order of a sum depends on
the threads, so a candidate's result is the same bits whatever `workers` says.
"""

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

MOST = 8
"""Trials side by side at most: a sampler and a pruner learn from those that are finished."""

MEMORY = 1_500_000_000
"""Bytes of memory that each is given: more than a trial of AlexNet on CIFAR-10 takes."""

WORTH = 15.0
"""Seconds of training left from which on further processes are started, which takes each some 5."""

_CGROUP = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Share:
    """What the trials of a study get of this machine.

    Attributes:
        workers: trials side by side.
        threads: CPU threads of each.
    """

    workers: int
    threads: int


def share_out(workers: int | Literal["auto"], *, device: str, threads: int | None = None) -> Share:
    """Share out a machine.

    One trial on one thread for each core: at the sizes of CIFAR, two trials on a thread each train
    more images a second than one on two. No more than eight, whose threads are then more than one,
    and no more than the memory holds. On a GPU one trial at a time: what a second one would gain
    there was not measured.

    Args:
        workers: how many side by side, or `auto`.
        device: what they train on.
        threads: of each; default: OMP_NUM_THREADS, else as above.
    """
    cores = available_cores()
    on_cpu = device == "cpu"
    room = max(1, min(MOST, cores, available_memory() // MEMORY)) if on_cpu else 1
    threads = threads or _told() or max(1, cores // room)
    several = max(1, min(room, cores // threads)) if workers == "auto" else workers
    return Share(several, threads)


def _told() -> int | None:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else None


def available_cores() -> int:
    """Cores this process may use: of those it may run on, as many as its container's quota pays."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [text.partition(" ")[::2] for text in _cgroup("cpu.max")]
    quotas += zip(
        _cgroup("cpu.cfs_quota_us", "cpu"), _cgroup("cpu.cfs_period_us", "cpu"), strict=False
    )
    for quota, period in quotas:
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores or 1, max(1, int(quota) // int(period)))
    return cores or 1


def available_memory() -> int:
    """Bytes of memory of the machine or the container; not what is free of it now.

    What is free would make the threads, and so the bits of a result, depend on the hour.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        return MOST * MEMORY
    limits = [*_cgroup("memory.max"), *_cgroup("memory.limit_in_bytes", "memory")]
    return min(memory, *(int(limit) for limit in limits if limit.isdigit() and int(limit)), memory)


def _cgroup(name: str, controller: str = "") -> list[str]:
    """A limit of this process's container and of every group above it; empty where none says it.

    Args:
        name: the file's.
        controller: of cgroup v1, whose hierarchy has it; none: cgroup v2, which has one.
    """
    found = []
    for root in (_CGROUP / controller, *([] if controller else [_CGROUP / "unified"])):
        # From outside of a container its group has a path; from inside it may be the root.
        folders = [root]
        for part in Path(_group(controller)).parts[1:]:
            folders.append(folders[-1] / part)
        for folder in folders:
            try:
                found.append((folder / name).read_text().strip())
            except OSError:
                continue
    return found


def _group(controller: str) -> str:
    """This process's group, as `/proc/self/cgroup` tells: a line `number:controllers:path` each."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:
        return "/"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and ".." not in path:
            return path or "/"
    return "/"


# -------------------------------------------------------------------------- who runs a trial


@dataclass(frozen=True)
class Owner:
    """The process that runs a trial.

    Attributes:
        host: the machine's name.
        scope: tells boots and containers apart, in which process numbers mean other processes.
        pid: process number.
        started: when the process began, by the kernel's clock: numbers are used again.
    """

    host: str
    scope: str
    pid: int
    started: str | None

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        return cls(socket.gethostname(), _scope(), os.getpid(), process_started(os.getpid()))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def alive(self) -> bool | None:
        """Whether the process lives; None where that cannot be known here."""
        if (self.host, self.scope) != (socket.gethostname(), _scope()):
            return None
        now = process_started(self.pid)
        return now is not None and self.started in (None, now)


def owner_of(data: Any) -> Owner | None:
    """An owner from what a trial keeps of it; None where that is missing or broken."""
    if not isinstance(data, Mapping) or set(data) != {"host", "scope", "pid", "started"}:
        return None
    return Owner(**data)


def _scope() -> str:
    proc = Path("/proc")
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(proc / 'self/ns/pid')}"
    except OSError:  # not Linux: one machine has one set of process numbers
        return "machine"


def process_started(pid: int) -> str | None:
    """When a process began, as text to compare; None if it does not run (a zombie does not)."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None
