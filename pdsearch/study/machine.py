"""This machine: how many trials run side by side on it, and which process runs a trial.

The threads of a trial do not depend on how many trials run at once. The order of a sum depends on
the threads, so a candidate's result is the same bits whatever `workers` is.
"""

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

MOST = 8
"""Most trials side by side: a sampler and a pruner learn only from finished ones."""

MEMORY = 1_500_000_000
"""Bytes of memory for each of them: more than a trial of AlexNet on CIFAR-10 takes."""

WORTH = 15.0
"""Seconds of training left that make it worth starting further processes; each takes about 5."""

_CGROUP = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Share:
    """How many trials run side by side on this machine, each with how many CPU threads."""

    workers: int
    threads: int


def share_out(workers: int | Literal["auto"], *, device: str, threads: int | None = None) -> Share:
    """Divide this machine among the trials of a study.

    By default one trial per core, each on one thread: at the sizes of CIFAR, two trials on one
    thread each train more images per second than one trial on two. At most eight trials, which
    then get several threads each, and no more than fit into memory. On a GPU one trial at a time:
    the gain of a second one was not measured.

    Args:
        workers: trials side by side, or `auto`.
        device: what they train on.
        threads: of each trial; default: OMP_NUM_THREADS, else as above.
    """
    cores = available_cores()
    on_cpu = device == "cpu"
    room = max(1, min(MOST, cores, available_memory() // MEMORY)) if on_cpu else 1
    threads = threads or threads_wanted() or max(1, cores // room)
    several = max(1, min(room, cores // threads)) if workers == "auto" else workers
    return Share(several, threads)


def threads_wanted() -> int:
    """Return the number of threads in OMP_NUM_THREADS; 0 without one."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() else 0


def available_cores() -> int:
    """Return the cores this process may run on, at most as many as its container's quota pays."""
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
    """Return the bytes of memory of the machine or the container, used ones included.

    With only the free memory, the threads, and so the bits of a result, would vary by the hour.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not available on this system
        return MOST * MEMORY
    limits = [*_cgroup("memory.max"), *_cgroup("memory.limit_in_bytes", "memory")]
    return min(memory, *(int(limit) for limit in limits if limit.isdigit() and int(limit)), memory)


def _cgroup(name: str, controller: str = "") -> list[str]:
    """Return the limits in a file of this process's control group and of the groups above it.

    In cgroup v1 each `controller` has its own hierarchy; in v2 there is only one.
    """
    found = []
    for root in (_CGROUP / controller, *([] if controller else [_CGROUP / "unified"])):
        # Seen from outside its container a group has a path; from inside it may be the root.
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
    """Return this process's group from `/proc/self/cgroup`, lines of `number:controllers:path`."""
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


# ------------------------------------------------------------------- the process that runs a trial


@dataclass(frozen=True)
class Owner:
    """The process that runs a trial."""

    host: str
    scope: str  # the boot and the container, each of which numbers its processes anew
    pid: int
    started: str | None  # by the kernel's clock, because process numbers are reused

    @classmethod
    def here(cls) -> "Owner":
        """Return the owner that stands for this process."""
        return cls(socket.gethostname(), _scope(), os.getpid(), process_started(os.getpid()))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def alive(self) -> bool | None:
        """Whether the process is alive; None if this machine cannot tell."""
        if (self.host, self.scope) != (socket.gethostname(), _scope()):
            return None
        now = process_started(self.pid)
        return now is not None and self.started in (None, now)


def owner_of(data: Any) -> Owner | None:
    """Return the owner that a trial keeps; None if that is missing or broken."""
    if not isinstance(data, Mapping) or set(data) != {"host", "scope", "pid", "started"}:
        return None
    return Owner(**data)


def owner_alive(data: Any) -> bool | None:
    """Whether the owner that a trial keeps is alive; None if that is unknown."""
    owner = owner_of(data)
    return None if owner is None else owner.alive()


def _scope() -> str:
    proc = Path("/proc")
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(proc / 'self/ns/pid')}"
    except OSError:  # not Linux: one machine has one set of process numbers
        return "machine"


def process_started(pid: int) -> str | None:
    """Return when a process began, as text to compare; None if it has ended or is a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()  # the name before it may contain spaces
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None
