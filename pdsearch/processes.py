"""Further processes of a search or a confirmation: `python -m pdsearch.processes MODULE`.

A process receives its task on standard input, because arguments and environments can be listed. It
imports next to nothing before it watches whether its parent is still alive.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from pdsearch import interrupt
from pdsearch.errors import PdsearchError

__all__ = ["end_all", "is_helper", "parent_alive", "start"]

PARENT = "PDSEARCH_PARENT"
"""Environment variable with the number of the process that started this one."""

ERROR = "pdsearch: error: in a further process: "
"""What the line of an error begins with on a process's stderr."""

LOOK, LEFT_ALONE = 0.2, 2.0
"""Seconds between two checks of the parent, and to end in without it."""

LEISURE, HASTE = 20.0, 1.2
"""Seconds that a process has to end: at the end of a study, and while the user waits."""


def parent_alive() -> Callable[[], bool]:
    """Return a check whether the parent is alive; always true for a process that has none."""
    parent = os.environ.get(PARENT)
    return lambda: not parent or os.getppid() == int(parent)


def is_helper() -> bool:
    """Return whether another process of pdsearch started this one, and reports to the user."""
    return bool(os.environ.get(PARENT))


def start(
    module: str,
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> "subprocess.Popen[str]":
    """Start a process that calls a module's `work(request)` and ends with this one.

    Args:
        module: its name.
        request: plain data for JSON.
        environment: further variables.
        stderr: as for `Popen`.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pdsearch.processes", module],
        env={**os.environ, **(environment or {}), PARENT: str(os.getpid())},
        stdin=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,  # Ctrl-C goes to the parent alone, which ends this process
    )
    interrupt.adopt(process.pid)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended; its work is done here
        process.stdin.write(json.dumps(request))
        process.stdin.close()
    return process


def end_all(processes: Sequence["subprocess.Popen[str]"]) -> set[int]:
    """End processes, and return the numbers of those that had to be killed."""
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


def _end_with_parent() -> None:
    """End this process if its parent is gone, whatever it is doing.

    The work itself checks between two batches and ends in order, but not while it imports torch or
    decodes a data set.
    """
    alive = parent_alive()
    while alive():
        time.sleep(LOOK)
    time.sleep(LEFT_ALONE)
    os._exit(interrupt.INTERRUPTED)  # its trial is retried, like that of any killed process


def main(module: str) -> int:
    """Run a module's `work`, and return the exit status of a command."""
    if hasattr(signal, "SIGUSR2"):
        # Slurm's warning before a time limit. It may go to every process of a job, and would kill
        # this one before its parent ends it in order.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with interrupt.handled(leave=True):
            import_module(module).work(json.load(sys.stdin))
    except KeyboardInterrupt:
        return interrupt.INTERRUPTED
    except PdsearchError as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
