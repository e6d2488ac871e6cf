"""Further processes of a search or a confirmation: `python -m pdsearch.processes MODULE`.

What one is to do goes in by its standard input: arguments and environments can be listed. It
imports next to nothing before it watches whether the process that started it is still there.
"""

import contextlib
import json
import os
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
"""In a process's environment: the process whose end is its end too."""

LOOK, LEFT_ALONE = 0.2, 2.0
"""Seconds between two looks whether the parent is there, and to end in after it is not."""

LEISURE, HASTE = 20.0, 1.2
"""Seconds that a process has to end: at the end of a study, and where the user waits for it."""


def parent_alive() -> Callable[[], bool]:
    """Tell whether the process that started this one is there still; always, where none did."""
    parent = os.environ.get(PARENT)
    if not parent:
        return lambda: True
    number = int(parent)
    return lambda: os.getppid() == number


def is_helper() -> bool:
    """Whether another process of pdsearch has started this one, which says what is to be said."""
    return bool(os.environ.get(PARENT))


def start(module: str, request: Mapping[str, Any]) -> "subprocess.Popen[str]":
    """Start a process that calls `work(request)` of a module, and that ends with this one.

    Args:
        module: its name.
        request: plain data, as JSON has it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pdsearch.processes", module],
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
    """End processes: those that still run are asked to, and killed if they do not.

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


def _end_with_parent() -> None:
    """End this process where the one that started it is gone, whatever it is at.

    The work looks between two batches, and ends in order; but not while it imports torch or decodes
    a data set.
    """
    alive = parent_alive()
    while alive():
        time.sleep(LOOK)
    time.sleep(LEFT_ALONE)
    os._exit(130)  # its trial is tried again, as that of any process that is gone


def main(module: str) -> int:
    """Have a module's `work` do what is asked for; the exit status is as of a command."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with interrupt.handled(leave=True):
            import_module(module).work(json.load(sys.stdin))
    except KeyboardInterrupt:
        return 130
    except PdsearchError as error:
        print(f"pdsearch: error: a process beside: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
