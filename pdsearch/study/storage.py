"""Opening storages, and reporting their errors in one line without a password."""

import contextlib
import functools
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from alembic.util.exc import CommandError
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SAWarning

from pdsearch import interrupt
from pdsearch.errors import InputError, PdsearchError, StorageError, first_line, one_line
from pdsearch.study.innards import NOT_FOUND, PatientStorage, backend_of, find_damage
from pdsearch.study.patience import BUSY, STORAGE_ERRORS, Patience, cause_of, first_line_of
from pdsearch.study.url import missing_driver, parse_url, shown_url, struck

HEARTBEAT = 30  # seconds between two heartbeats of a trial
GRACE = 120  # seconds without one until a trial counts as abandoned

ANSWER = 4  # seconds that a server has to accept a connection
SILENCE = 60  # seconds without an answer until a connection counts as lost

_HINTS = {
    "database is locked": "another process holds it; on many workers use PostgreSQL",
    "not a database": "the file is damaged or not a SQLite file: restore it, or name another one",
    "malformed": "the file is damaged: restore it, or name another one",
    "readonly": "it cannot be written to",
    "unable to open": "its folder does not exist, or access is denied",
    "disk is full": "free some space, then run the same command again",
}

# Each driver's option for the seconds to connect within; with libpq, also those that end a
# connection whose other end has vanished.
_TCP = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_LIBPQ = {"connect_timeout": ANSWER, **_TCP, "tcp_user_timeout": 1000 * SILENCE}
_CONNECT_ARGUMENTS: dict[str, dict[str, int]] = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pymysql": {"connect_timeout": ANSWER},
    "mysqldb": {"connect_timeout": ANSWER},
    "mysqlconnector": {"connection_timeout": ANSWER},
}


class EmptyStorageError(InputError):
    """A database that can be reached, but has no tables of studies."""


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Raise every storage error as a `StorageError` of one line without a password.

    A signal takes effect at the end of the block: see `interrupt`.
    """
    with interrupt.deferred():
        try:
            yield
        except (*STORAGE_ERRORS, CommandError) as error:
            text = struck(first_line_of(error), url)
            hint = next((said for word, said in _HINTS.items() if word in text), None)
            reason = f"{text} ({hint})" if hint else text
            raise StorageError(f"storage {shown_url(url)}: {reason}") from error
        except KeyError as error:
            if error.args != (NOT_FOUND,):
                raise
            raise StorageError(f"storage {shown_url(url)}: the study has been deleted") from error


def connect(url: str, *, create: bool = False, write: bool = False) -> PatientStorage:
    """Open a storage, with heartbeats and safe against several writers on one machine.

    Args:
        url: SQLAlchemy's.
        create: make the SQLite file and the tables if they are missing.
        write: trials will be run.

    Raises:
        InputError: the URL is wrong; or, without `create`, the file is missing or empty.
        StorageError: the storage cannot be reached, or is not one.
    """
    parsed = parse_url(url)
    is_file = parsed.get_backend_name() == "sqlite"
    if is_file and parsed.database in (None, "", ":memory:"):
        raise InputError(
            "the storage must be a file or a server, because a study is kept: a SQLite database in "
            "memory is lost with its process; write sqlite:///pdsearch.db"
        )
    if is_file and not create and not Path(str(parsed.database)).exists():
        raise InputError(
            f"{shown_url(url)}: no such file, so no study was begun there (relative paths are "
            "relative to the working directory; --storage names another one)"
        )
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("error", SAWarning)  # an option that would be ignored
        try:
            return _open(parsed, create=create, write=write or create)
        except ImportError as error:
            raise missing_driver(url, error) from None
        except (TypeError, ValueError, SAWarning) as error:  # ?timeout=abc, ?no_such_option=1
            said = one_line(error)[:120]
            raise InputError(
                f"storage {shown_url(url)}: an option after the ? of the URL is wrong ({said})"
            ) from None
        except RuntimeError as error:  # another version of Optuna made the tables
            raise StorageError(f"storage {shown_url(url)}: {first_line(error)}") from error
        except (*STORAGE_ERRORS, CommandError) as error:
            if create or not _lacks_table(error):
                raise
            raise EmptyStorageError(
                f"{shown_url(url)} holds no study: the database has no tables of pdsearch's. A "
                "search creates them; --storage names another database"
            ) from None


def _lacks_table(error: BaseException) -> bool:
    cause: Any = cause_of(error)
    undefined = getattr(cause, "sqlstate", None) == "42P01" or cause.args[:1] == (1146,)
    return undefined or "no such table: version_info" in str(cause)


def _open(parsed: sqlalchemy.URL, *, create: bool, write: bool) -> PatientStorage:
    text = parsed.render_as_string(hide_password=False)
    is_file = parsed.get_backend_name() == "sqlite"
    arguments = _CONNECT_ARGUMENTS.get(parsed.get_driver_name(), {})
    options: dict[str, Any] = {
        "pool_pre_ping": True,
        "connect_args": {k: v for k, v in arguments.items() if k not in parsed.query},
    }
    if is_file:
        # `Patience` waits instead: during SQLite's own wait no signal is handled.
        options = {"connect_args": {"timeout": 1}}
    if not write:  # a reader closes its connections at once
        options["poolclass"] = sqlalchemy.pool.NullPool
    patience = Patience()

    def make() -> PatientStorage:
        return PatientStorage(
            text.replace("{", "{{").replace("}", "}}"),  # Optuna formats the URL
            patience=patience,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            skip_table_creation=not create,
        )

    storage = patience(functools.partial(_made, make) if create else make)
    if is_file and write:
        # Optuna reads a row and then writes it. In SQLite's default mode two processes can both
        # read before either writes, and claim the same trial. So take the write lock first.
        @sqlalchemy.event.listens_for(storage.engine, "connect")
        def _prepare(connection: Any, record: Any) -> None:
            connection.isolation_level = None
            with contextlib.suppress(sqlite3.OperationalError):
                # A trial writes some fifty times. In the default mode each write waits for the disk
                # (22 ms on a busy machine), in this one none does. A killed process loses nothing
                # either way; a power cut may lose the last seconds. While another process holds
                # the file in the default mode, that mode stays.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")

        @sqlalchemy.event.listens_for(storage.engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        storage.engine.dispose()  # connections made so far lack the listeners
    return storage


def _made(make: Callable[[], PatientStorage]) -> PatientStorage:
    """Return the storage with its tables, whichever process creates them.

    Optuna checks for each table, and for the row with its version, before it creates them.
    Processes that begin at once may each lose that race at any table and at the row. Each time the
    winner has got further, so repeat until everything exists.
    """
    end = time.monotonic() + BUSY
    while True:
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            lost = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not lost or time.monotonic() > end or interrupt.came():
                raise
        time.sleep(0.05)


@contextlib.contextmanager
def waiting(
    study: optuna.Study,
    *,
    seconds: float,
    say: Callable[[str], None],
    wanted: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Let a study's storage be unreachable for so many seconds: see `Patience`."""
    backend = backend_of(study)
    if not isinstance(backend, PatientStorage):
        yield
        return
    patience = backend.patience
    patience.seconds, patience.say, patience.wanted = seconds, say, wanted
    try:
        yield
    finally:
        patience.seconds = 0.0


def close(study: optuna.Study) -> None:
    """Close a storage; leave SQLite's as a single file unless another process uses it."""
    backend = backend_of(study)
    backend.remove_session()
    backend.engine.dispose()
    file = backend.engine.url.database
    if backend.engine.dialect.name == "sqlite" and file and Path(file).exists():
        with (
            contextlib.suppress(sqlite3.Error),  # the file is complete anyway
            contextlib.closing(sqlite3.connect(file, timeout=0)) as connection,
        ):
            connection.execute("PRAGMA journal_mode = DELETE")


# ------------------------------------------------------------------------- what Optuna cannot read


def damaged(name: str, url: str, what: str) -> StorageError:
    """Return the error for a study with something unreadable in it."""
    return StorageError(
        f"study {name!r} in {shown_url(url)} is damaged: {what} (restore a copy of the storage)"
    )


@contextlib.contextmanager
def optunas_errors_only() -> Iterator[None]:
    """Keep Optuna's log to its errors.

    At WARNING it prints a traceback for every trial that is interrupted or retried, and all of
    SQLAlchemy's text for an unreadable value, which this package reports in one line.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def reading(name: str, url: str, backend: optuna.storages.BaseStorage) -> Iterator[None]:
    """Report in one line what Optuna cannot read: invalid JSON, an unknown state, a wrong time.

    Use it only around calls that read: whatever they raise comes from the storage, which is
    searched for the damage.
    """
    try:
        with optunas_errors_only(), storage_errors(url):
            yield
    except Exception as error:  # of a dozen types, depending on what is damaged
        ours = isinstance(error, PdsearchError)
        # The database reports bytes that are not text, but not where they are.
        found = None if ours and "decode" not in str(error) else find_damage(name, backend)
        if found is None and ours:
            raise
        said = found or f"{type(error).__name__}: {one_line(error)[:120]}"
        raise damaged(name, url, said) from error
