"""Who runs a trial: a process of this machine that is gone is seen at once, by number and start."""

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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
        """Whether the process lives; None where that cannot be told from here."""
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
