"""A storage that is away for a while: waited for, said once, nothing lost."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from pdsearch import interrupt

_T = TypeVar("_T")

STORAGE_WAIT = 600.0  # seconds that a storage may be away while trials run
BUSY = 60.0  # seconds that a SQLite writer waits for another one
PAUSES = (0.25, 10.0)  # seconds between two tries: of the first, and of those much later

# PostgreSQL's: connection lost, operator's intervention, rolled back for another's sake, too many
# connections, a lock that was not available.
_PASSING = ("08", "57", "40", "53300", "55P03")
# What no waiting mends, of those who say no more than that no connection came about.
_FINAL = (
    *("authentication failed", "does not exist", "pg_hba.conf", "no password supplied"),
    *("Access denied", "Unknown database"),
)


def cause_of(error: BaseException) -> BaseException:
    """What a driver said, out of what SQLAlchemy and Optuna made of it."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return error


class Patience:
    """How long a process waits for its storage; until it is set, not at all.

    A SQLite file that another process is just writing to is waited for in any case.

    Attributes:
        seconds: that it may be away.
        say: called once when it is away, and once when it is back.
        wanted: whether there is still somebody to wait for.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        self.wanted: Callable[[], bool] = lambda: True
        self._away = False
        self._spent = False
        self._back = -math.inf

    def missed(self) -> None:
        """Note that the storage was not there, where nobody waits for it."""
        self._away = True

    def away_within(self, seconds: float) -> bool:
        """Whether it was away in the last so many seconds."""
        return self._away or time.monotonic() - self._back < seconds

    def __call__(self, call: Callable[[], _T]) -> _T:
        """What the call gives, however often it has to be made."""
        since: float | None = None
        pause, longest = PAUSES
        told = False
        while True:
            try:
                with interrupt.deferred():
                    result = call()
            except (StorageInternalError, SQLAlchemyError) as error:
                busy = is_busy(error)
                most = max(BUSY, self.seconds) if busy else self.seconds
                now = time.monotonic()
                since = now if since is None else since
                # Once is enough: what is cleaned up after it need not wait again.
                self._spent = self._spent or now - since >= most
                passing = busy or is_passing(error)
                if self._spent or not passing or interrupt.came() or not self.wanted():
                    raise
                if not busy and not told:
                    told = True
                    self.say(
                        f"the storage is away ({first_line_of(error)}): waiting for it, at most "
                        f"{self.seconds:.0f} s (--storage-wait)"
                    )
                self._away = self._away or not busy
                interrupt.pause(min(pause if not busy else 0.05, most))
                pause = min(1.5 * pause, longest)
            else:
                self._spent = False
                if self._away:
                    self._away, self._back = False, time.monotonic()
                if told:
                    assert since is not None
                    self.say(f"the storage is back after {time.monotonic() - since:.0f} s")
                return result


def first_line_of(error: BaseException) -> str:
    """The innermost message's first line."""
    cause = cause_of(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def is_busy(error: BaseException) -> bool:
    """Whether another process was just writing to a SQLite file."""
    text = str(cause_of(error))
    return "database is locked" in text or "database table is locked" in text


def is_passing(error: BaseException) -> bool:
    """Whether a server may be back, as against what it would refuse the next time too."""
    if isinstance(error.__cause__ or error, PendingRollbackError):
        # Optuna asks the storage once more within a transaction that was lost. The next one tells.
        return True
    outer: BaseException | None = error
    while outer is not None and not isinstance(outer, DBAPIError):
        outer = outer.__cause__
    if outer is None:
        return False
    cause: Any = cause_of(error)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state:
        return str(state).startswith(_PASSING)
    lost = type(outer).__name__ in ("OperationalError", "InterfaceError")
    server = type(cause).__module__.partition(".")[0] != "sqlite3"
    return (outer.connection_invalidated or (lost and server)) and not any(
        text in str(cause) for text in _FINAL
    )
