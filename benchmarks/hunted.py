"""The process that `faults.py` attacks: a search of a tiny study that may interrupt itself."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

TOTAL = 8  # trials per study


def hunted(url: str, at: int, line: int, notify: int) -> NoReturn:
    """Search a tiny study, and end as the command line would.

    Args:
        url: The URL of its storage.
        at: The number of the write in which it interrupts itself; 0 for none.
        line: The line of that write.
        notify: A file descriptor on which it announces the interrupt.
    """
    from pdsearch import interrupt, search
    from pdsearch.errors import PdsearchError

    def train(candidate: Any, seed: int) -> Iterator[float]:
        for epoch in range(3):
            time.sleep(0.05)
            yield 0.5 + 0.01 * epoch + 0.1 * candidate.parameters.get("a", 0.0)

    mild = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}}
    if at:
        _interrupt_itself(at, line, notify)
    try:
        with interrupt.handled(leave=True):
            search(
                families=[{**mild, "name": "mild"}],
                references=[],
                train=train,
                name="hunted",
                trials=TOTAL,
                sampler="random",
                pruner="none",
                storage=url,
                progress=False,
            )
    except KeyboardInterrupt:
        os._exit(130)  # like the command
    except PdsearchError as error:
        print(f"pdsearch: error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _interrupt_itself(at: int, line: int, notify: int) -> None:
    """Send a signal at a line (of Optuna, SQLAlchemy or pdsearch) within the given write."""
    from pdsearch.study import innards

    inner, calls = innards.PatientStorage.__dict__["set_trial_user_attr"], 0
    number = signal.SIGINT if line % 2 else signal.SIGTERM

    def write(self: Any, *args: Any, **keys: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != at:
            return inner(self, *args, **keys)
        seen = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal seen
            seen += event == "line"
            if seen == line and event == "line":
                os.write(notify, b"!")
                os.kill(os.getpid(), number)
            return trace

        sys.settrace(trace)
        try:
            return inner(self, *args, **keys)
        finally:
            sys.settrace(None)

    innards.PatientStorage.set_trial_user_attr = write


class Forked:
    """A fork of this process, with everything already imported; used like a `Popen`."""

    def __init__(self, url: str, *, at: int, line: int, errors: Path) -> None:
        self._reader, writer = os.pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=self._run, args=(url, at, line, writer, errors)
        )
        self._process.start()
        os.close(writer)
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.returncode: int | None = None

    def _run(self, url: str, at: int, line: int, writer: int, errors: Path) -> None:
        os.close(self._reader)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            hunted(url, at, line, writer)
        except KeyboardInterrupt:  # before the search begins
            os._exit(130)

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        with contextlib.suppress(OSError):
            os.close(self._reader)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def interrupts_itself(self) -> bool:
        """Wait until it interrupts itself or ends; return whether it did."""
        return os.read(self._reader, 1) != b""
