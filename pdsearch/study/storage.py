"""Storages: reaching them, and telling their troubles in one line without a password."""

import contextlib
import functools
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from alembic.util.exc import CommandError
from sqlalchemy.exc import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SAWarning,
    SQLAlchemyError,
)

from pdsearch import interrupt
from pdsearch.errors import InputError, PdsearchError, StorageError, first_line, one_line
from pdsearch.study.innards import NOT_FOUND, PatientStorage, backend_of, find_damage
from pdsearch.study.patience import BUSY, Patience, cause_of, first_line_of
from pdsearch.study.url import missing_driver, parse_url, shown_url, struck

if TYPE_CHECKING:
    from sqlalchemy import URL


HEARTBEAT = 30  # seconds between signs of life of a trial
GRACE = 120  # seconds without one until a trial counts as abandoned

ANSWER = 4  # seconds that a server has to answer when a connection is begun
SILENCE = 60  # seconds without an answer of a server's machine until a connection counts as lost

_HINTS = {
    "database is locked": "another process holds it; on many workers use PostgreSQL",
    "not a database": "the file is damaged or no SQLite file: restore it, or name another one",
    "malformed": "the file is damaged: restore it, or name another one",
    "readonly": "it cannot be written to",
    "unable to open": "its folder does not exist, or the file may not be opened",
    "disk is full": "free some space, then run the same command again",
}

# What each driver calls the seconds within which a connection must come about; and of those above
# libpq, what ends one whose other end has vanished.
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
    """A database that can be reached and has no tables of studies."""


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn every trouble with a storage into one line that holds no password.

    A signal is acted on at its end: see `interrupt`.
    """
    with interrupt.deferred():
        try:
            yield
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, CommandError) as error:
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
        create: make the SQLite file and the tables where they are missing.
        write: trials will be run.

    Raises:
        InputError: no such URL, or without `create` no such file, or an empty one.
        StorageError: it cannot be reached, or is not one.
    """
    parsed = parse_url(url)
    is_file = parsed.get_backend_name() == "sqlite" and bool(parsed.database)
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError(
            "the storage must be a file or a server, for a study is kept: a SQLite database in "
            "memory is lost with its process; write sqlite:///pdsearch.db"
        )
    if is_file and not create and not Path(str(parsed.database)).exists():
        raise InputError(
            f"{shown_url(url)}: no such file, so no study was begun there (relative paths are "
            "relative to where you stand; --storage names another one)"
        )
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("error", SAWarning)  # an option that would be ignored
        try:
            return _open(parsed, is_file=is_file, create=create, write=write or create)
        except ImportError as error:
            raise missing_driver(url, error) from None
        except (TypeError, ValueError, SAWarning) as error:  # ?timeout=abc, ?no_such_option=1
            said = one_line(error)[:120]
            raise InputError(
                f"storage {shown_url(url)}: an option after the ? of the URL is wrong ({said})"
            ) from None
        except RuntimeError as error:  # the tables are another Optuna's
            raise StorageError(f"storage {shown_url(url)}: {first_line(error)}") from error
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, CommandError) as error:
            if create or not _lacks_table(error):
                raise
            raise EmptyStorageError(
                f"{shown_url(url)} holds no study: the database has no tables of pdsearch's. A "
                "search makes them; --storage names another database"
            ) from None


def _lacks_table(error: BaseException) -> bool:
    cause: Any = cause_of(error)
    undefined = getattr(cause, "sqlstate", None) == "42P01" or cause.args[:1] == (1146,)
    return undefined or "no such table: version_info" in str(cause)


def _open(parsed: "URL", *, is_file: bool, create: bool, write: bool) -> PatientStorage:
    text = parsed.render_as_string(hide_password=False)
    arguments = _CONNECT_ARGUMENTS.get(parsed.get_driver_name(), {})
    options: dict[str, Any] = {
        "pool_pre_ping": True,
        "connect_args": {k: v for k, v in arguments.items() if k not in parsed.query},
    }
    if is_file:
        # Waited for in Python, see `Patience`: in SQLite's own wait no signal is seen.
        options = {"connect_args": {"timeout": 1}}
    if not write:  # a reader's connections are closed as soon as they have read
        options = {**options, "poolclass": sqlalchemy.pool.NullPool}
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
        # read before either writes, and so claim the same trial: take the write lock first.
        @sqlalchemy.event.listens_for(storage.engine, "connect")
        def _prepare(connection: Any, record: Any) -> None:
            connection.isolation_level = None
            with contextlib.suppress(sqlite3.OperationalError):
                # A trial writes some fifty times. Each waits for the disk (22 ms on a busy machine)
                # in the default mode, and none does in this one, in which a killed process loses
                # nothing either, and a power cut the last seconds at most. Where another process
                # holds the file in the default mode, that mode stays.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")

        @sqlalchemy.event.listens_for(storage.engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        storage.engine.dispose()  # connections made so far lack the listeners
    return storage


def _made(make: Callable[[], PatientStorage]) -> PatientStorage:
    """The storage with its tables, whoever creates them.

    Optuna looks for each table, and for its version's row, before it creates them. Of processes
    that begin at once each may lose that race at any table and again at the row, and each time the
    winner has got further: try again until nothing is left to lose.
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
    study: "optuna.Study",
    *,
    seconds: float,
    say: Callable[[str], None],
    wanted: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Within, a study's storage may be away for so many seconds: see `Patience`."""
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


def settle(study: "optuna.Study") -> None:
    """Close a storage, and leave a SQLite one as one plain file if no other process is at it."""
    backend = backend_of(study)
    if backend is None:
        return
    backend.remove_session()
    backend.engine.dispose()
    file = backend.engine.url.database
    if backend.engine.dialect.name == "sqlite" and file and Path(file).exists():
        with (
            contextlib.suppress(sqlite3.Error),  # it is fine as it is
            contextlib.closing(sqlite3.connect(file, timeout=0)) as connection,
        ):
            connection.execute("PRAGMA journal_mode = DELETE")


# ------------------------------------------------------------------------- what Optuna cannot read


def damaged(name: str, url: str, what: str) -> StorageError:
    """Return the error of a study of which something cannot be read."""
    return StorageError(
        f"study {name!r} in {shown_url(url)} is damaged: {what} (restore a copy of the storage)"
    )


@contextlib.contextmanager
def optunas_errors_only() -> Iterator[None]:
    """Keep Optuna's log to its errors.

    Not WARNING: it prints a traceback for every interrupted trial and every one tried again, and
    SQLAlchemy's whole text where a value cannot be read, which this package reports in a line.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def reading(name: str, url: str, backend: "optuna.storages.BaseStorage") -> Iterator[None]:
    """Report in a line what Optuna cannot read: no JSON, no such state, no time.

    Only around calls that read: whatever they raise comes from the storage.

    Args:
        name: the study's.
        url: the storage's.
        backend: the open storage, in which the damage is looked for.
    """
    try:
        with optunas_errors_only(), storage_errors(url):
            yield
    except PdsearchError as error:
        # Bytes that are no text are an error of the database, which does not say where they are.
        found = find_damage(name, backend) if "decode" in str(error) else None
        if found is None:
            raise
        raise damaged(name, url, found) from error
    except Exception as error:  # of a dozen kinds, by what was hit
        found = find_damage(name, backend)
        said = found or f"{type(error).__name__}: {one_line(error)[:120]}"
        raise damaged(name, url, said) from error
