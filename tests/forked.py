"""Processes of a test's own, forked: a new interpreter would import torch and Optuna for seconds.

What runs in them must not train a network: where torch sees a GPU, its backward pass does not
survive a fork.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FORK = multiprocessing.get_context("fork")


def _run(errors: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # As in a new program, whatever the test runner has set up.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with errors.open("w", buffering=1) as stream:
        os.dup2(stream.fileno(), 2)
        sys.stderr = stream
        try:
            function(*arguments)
        except KeyboardInterrupt:
            sys.exit(130)


class Forked:
    """A process that calls a function.

    It exits with 130 if interrupted; what it writes on standard error is kept in a file.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, errors: Path) -> None:
        self._errors = errors
        self._process = _FORK.Process(target=_run, args=(errors, function, arguments))
        with warnings.catch_warnings():
            # Python 3.12 and later warn of any other thread, the test runner's own included.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def check_running(self) -> None:
        """Fail with its messages if it has ended."""
        assert self._process.is_alive(), self._errors.read_text()

    def end(self, timeout: float = 120) -> tuple[int, str]:
        """Wait for its end; return its exit code, -N after signal N, and its messages."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        assert code is not None, f"still running after {timeout} s: {self._errors.read_text()}"
        return code, self._errors.read_text()
