"""What runs on a machine of the cluster: a process of pdsearch, watched until it ends.

The process is a child of the cluster's own, so that it can be ended in order while it trains, and
ends by itself if the cluster's process is killed.
"""

import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pdsearch.interrupt import INTERRUPTED
from pdsearch.launchers.job import Ended
from pdsearch.masking import mask
from pdsearch.processes import ERROR, end_all, start

_KEPT = 50  # lines of stderr in which the reason of a failure is looked for


class RemoteWorker:
    """One worker; `stop` may be called from another thread or a signal handler."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def host(self) -> str:
        """Return the name of this machine."""
        return socket.gethostname()

    def work(
        self, module: str, request: Mapping[str, Any], environment: Mapping[str, str]
    ) -> Ended:
        """Run a module's `work(request)` in a process until it ends.

        What it prints is printed here too, where the cluster keeps its logs.
        """
        # As the command line sets it before torch is imported; see `pdsearch.cli`.
        given = {"OMP_WAIT_POLICY": "PASSIVE", **environment}
        process = start(module, request, environment=given, stderr=subprocess.PIPE)
        self._process = process
        last: deque[str] = deque(maxlen=_KEPT)
        try:
            if self._stopped:
                process.terminate()
            assert process.stderr is not None
            with process.stderr as lines:
                for line in lines:
                    last.append(line.rstrip())
                    print(mask(line), end="", file=sys.stderr, flush=True)
            # Not `wait`, which holds a lock that `stop` needs in a signal handler.
            while process.poll() is None:
                time.sleep(0.02)
        finally:
            end_all([process])
        return Ended(self.host(), reason_of(process.returncode, list(last)))

    def stop(self) -> None:
        """End the process in order: its trial is queued again."""
        self._stopped = True
        if self._process is not None:
            end_all([self._process])


def reason_of(status: int, lines: Sequence[str]) -> str:
    """Return in one line why a process ended; "" if its work was done.

    Args:
        status: its exit status; negative if a signal killed it.
        lines: the last ones of its stderr.
    """
    if status == 0:
        return ""
    if status == INTERRUPTED:
        return "it was interrupted"
    if status < 0:
        memory = ", most likely by the system, which was out of memory" * (
            -status == getattr(signal, "SIGKILL", None)
        )
        return f"signal {-status} killed it{memory}"
    begins = [number for number, line in enumerate(lines) if line.startswith(ERROR)]
    said = lines[begins[-1] :] if begins else lines[-1:]
    text = "; ".join(line.strip() for line in said if line.strip()).removeprefix(ERROR)
    return mask(text) or f"its exit status was {status}"
