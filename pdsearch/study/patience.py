"""Waiting for a storage that is unreachable for a while: reported once, nothing lost."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from pdsearch import interrupt
from pdsearch.errors import first_line

_T = TypeVar("_T")

STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)

STORAGE_WAIT = 600.0  # seconds that a storage may be unreachable while trials run
BUSY = 60.0  # seconds that a SQLite writer waits for another one
PAUSES = (0.25, 10.0)  # seconds between two attempts: the first pause, and the longest

# SQLSTATE prefixes of PostgreSQL: connection lost, operator intervention, transaction rolled back,
# too many connections, lock not available.
_PASSING = ("08", "57", "40", "53300", "55P03")
# Messages of failed connections that waiting does not mend.
_FINAL = (
    *("authentication failed", "does not exist", "pg_hba.conf", "no password supplied"),
    *("Access denied", "Unknown database"),
)


def cause_of(error: BaseException) -> BaseException:
    """Return the driver's own error, which SQLAlchemy and Optuna wrap."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return error


class Patience:
    """How long a process waits for its storage; not at all until `seconds` is set.

    It always waits for a SQLite file that another process is writing to.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        # Called once when the storage becomes unreachable, and once when it is back.
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        self.wanted: Callable[[], bool] = lambda: True  # whether the result is still needed
        self._away = False
        self._spent = False
        self._back = -math.inf

    def missed(self) -> None:
        """Note that the storage was unreachable, for a call that does not wait."""
        self._away = True

    def away_within(self, seconds: float) -> bool:
        """Whether it was unreachable within the last so many seconds."""
        return self._away or time.monotonic() - self._back < seconds

    def __call__(self, call: Callable[[], _T]) -> _T:
        """Return the call's result, repeating the call as long as waiting may help."""
        began: float | None = None  # when the first attempt failed
        pause, longest = PAUSES
        reported = False
        while True:
            try:
                with interrupt.deferred():
                    result = call()
            except STORAGE_ERRORS as error:
                busy = is_busy(error)
                most = max(BUSY, self.seconds) if busy else self.seconds
                now = time.monotonic()
                began = now if began is None else began
                # Once is enough: the clean-up that follows need not wait again.
                self._spent = self._spent or now - began >= most
                passing = busy or is_passing(error)
                if self._spent or not passing or interrupt.came() or not self.wanted():
                    raise
                if not busy and not reported:
                    reported = True
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
                if reported and began is not None:
                    self.say(f"the storage is back after {time.monotonic() - began:.0f} s")
                return result


def first_line_of(error: BaseException) -> str:
    """Return the first line of the innermost message, or the error's type."""
    cause = cause_of(error)
    return first_line(str(cause).strip()).strip() or type(cause).__name__


def is_busy(error: BaseException) -> bool:
    """Whether another process was writing to a SQLite file."""
    text = str(cause_of(error))
    return "database is locked" in text or "database table is locked" in text


def is_passing(error: BaseException) -> bool:
    """Whether a server may come back, rather than refuse the next attempt too."""
    if isinstance(error.__cause__ or error, PendingRollbackError):
        # Optuna calls the storage again within a lost transaction. The next attempt decides.
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
