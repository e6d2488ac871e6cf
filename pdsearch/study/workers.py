"""How many trials run side by side on this machine, on how many threads each; their processes.

What a process is to do goes in by its standard input: arguments and environments can be listed.

The threads come first, and do not depend on how many trials run at once: the order of a sum does
depend on them, so a candidate's result is the same bits whatever `workers` says.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pdsearch import interrupt
from pdsearch.errors import PdsearchError

MOST = 8
"""Trials side by side at most: a sampler and a pruner learn from those that are finished."""

MEMORY = 1_500_000_000
"""Bytes of memory that each is given: more than a trial of AlexNet on CIFAR-10 takes."""

WORTH = 15.0
"""Seconds of training left from which on further processes are started, which takes each some 5."""

PARENT = "PDSEARCH_PARENT"
"""In a worker's environment: the process whose end is its end too."""

LEISURE, HASTE = 20.0, 1.2
"""Seconds that a process has to end: at the end of a study, and where the user waits for it."""

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
    """Shares out a machine.

    One trial on one thread for each core: at the sizes of CIFAR, two trials on a thread each train
    more images a second than one on two. No more than eight, whose threads are then more than one,
    and no more than the memory holds. On a GPU one trial at a time: what a second one would gain
    there was not measured.

    Args:
        workers: how many side by side, or `auto`.
        device: what they train on.
        threads: of each; left out, what OMP_NUM_THREADS says, else what is said above.
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


def parent_alive() -> Callable[[], bool]:
    """Tells whether the process that started this one is there still; always, where none did."""
    parent = os.environ.get(PARENT)
    if not parent:
        return lambda: True
    number = int(parent)
    return lambda: os.getppid() == number


def is_helper() -> bool:
    """Whether another process of pdsearch has started this one, which says what is to be said."""
    return bool(os.environ.get(PARENT))


def start(module: str, request: Mapping[str, Any]) -> "subprocess.Popen[str]":
    """Starts `python -m module`, which reads a JSON document from its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        env={**os.environ, PARENT: str(os.getpid())},
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the process that started it, which then ends it
    )
    interrupt.adopt(process.pid)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended; what it would have done is done here
        process.stdin.write(json.dumps(request))
        process.stdin.close()
    return process


def end_all(processes: Sequence["subprocess.Popen[str]"]) -> set[int]:
    """Ends processes: those still at it are told to, and killed if they do not.

    Returns:
        The numbers of those that were killed.
    """
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + (HASTE if interrupt.came() else LEISURE)
    killed = set()
    for process in processes:
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
            if interrupt.came():
                until = min(until, time.monotonic() + HASTE)
        if process.poll() is None:
            process.kill()
            process.wait()
            killed.add(process.pid)
        interrupt.disown(process.pid)
    return killed


def take_part(work: Callable[[dict[str, Any]], None]) -> int:
    """What a process that `start` has started does, until nothing is left to do.

    Args:
        work: called with the request.

    Returns:
        The exit status, as of a command.
    """
    try:
        with interrupt.handled(leave=True):
            work(json.load(sys.stdin))
    except KeyboardInterrupt:
        return 130
    except PdsearchError as error:
        print(f"pdsearch: error: a process beside: {error}", file=sys.stderr)
        return 2
    return 0
