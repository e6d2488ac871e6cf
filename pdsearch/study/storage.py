"""Storages: reaching them, telling their troubles in one line, and who runs a trial.

A killed process leaves its trials marked as running. Optuna's heartbeats expire them after a grace
period; a process of this machine that is gone is seen at once, by its number and start time.
"""

import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import time
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pdsearch.errors import InputError, StorageError
from pdsearch.study.settings import default_storage

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from sqlalchemy import URL

__all__ = ["connect", "default_storage", "fail_dead_trials", "shown_url", "storage_errors"]

HEARTBEAT = 30  # seconds between signs of life
GRACE = 120  # seconds without one until a trial counts as abandoned
ORPHAN = 30  # seconds until a trial that nobody signed counts as abandoned; signing takes ms
BUSY = 60  # seconds that a SQLite writer waits for another one
ATTEMPTS = 3  # how often a trial is tried before it is given up

_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z0-9+_.-]+)://(?P<user>[^:/@]*):(?P<password>.*)@")


# ------------------------------------------------------------------------------------------- URLs


def parse_url(url: str) -> "URL":
    """An SQLAlchemy URL from its text.

    A password may hold `@ / : { }` and `%` as they are: the last `@` ends it.

    Raises:
        InputError: it is no such URL; the text is not repeated, for it may hold a password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    text = url
    if found := _CREDENTIALS.match(url):
        password = found["password"]
        # Percent signs that begin no escape are meant as they are.
        plain = unquote(password) if re.search(r"%[0-9A-Fa-f]{2}", password) else password
        start, end = found.span("password")
        text = url[:start] + quote(plain, safe="") + url[end:]
    try:
        parsed = make_url(text)
        parsed.get_dialect()
    except (ArgumentError, ValueError):
        raise InputError(
            "the storage must be an SQLAlchemy URL such as sqlite:///pdsearch.db or "
            f"postgresql+psycopg://user:password@host/database, got {_masked(url)}"
        ) from None
    except ImportError as error:
        raise _missing_driver(url, error) from None
    return parsed


def shown_url(url: str) -> str:
    """The URL with its password left out."""
    try:
        parsed = parse_url(url)
    except (InputError, StorageError):
        return _masked(url)
    return parsed.render_as_string(hide_password=True)


def _masked(url: str) -> str:
    found = _CREDENTIALS.match(url)
    if found:
        return f"{found['scheme']}://{found['user']}:***@{url[found.end() :]}"
    return repr(url) if "@" not in url else "(not shown: it may hold a password)"


def _missing_driver(url: str, error: ImportError) -> StorageError:
    scheme = url.split(":", 1)[0]
    install = (
        "pip install 'psycopg[binary]' and write postgresql+psycopg://…"
        if scheme.startswith("postgres")
        else "install the driver of that database"
    )
    # Optuna wraps the error that knows the module's name.
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    missing = cause.name or str(cause).splitlines()[0]
    return StorageError(f"storage {_masked(url)}: Python module {missing} is missing; {install}")


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns every trouble with a storage into one line that holds no password."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise StorageError(f"storage {shown_url(url)}: {_reason(error, url)}") from error


def _reason(error: BaseException, url: str) -> str:
    """The innermost message's first line, the password struck out of it."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if found := _CREDENTIALS.match(url):
        for secret in {found["password"], quote(found["password"], safe="")} - {""}:
            text = text.replace(secret, "***")
    hints = {
        "database is locked": "another process holds it; on many workers use PostgreSQL",
        "not a database": "the file is damaged or no SQLite file: restore it, or name another one",
        "malformed": "the file is damaged: restore it, or name another one",
        "readonly": "it cannot be written to",
        "unable to open": "its folder does not exist, or the file may not be opened",
        "disk is full": "free some space, then run the same command again",
    }
    hint = next((said for word, said in hints.items() if word in text), None)
    return f"{text} ({hint})" if hint else text


def connect(url: str, *, create: bool = False, write: bool = False) -> "optuna.storages.RDBStorage":
    """Opens a storage, with heartbeats and safe against several writers on one machine.

    Args:
        url: SQLAlchemy's.
        create: make the SQLite file and the tables where they are missing.
        write: trials will be run.

    Raises:
        InputError: no such URL, or without `create` no such file.
        StorageError: it cannot be reached, or is not one.
    """
    from sqlalchemy.exc import SAWarning

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
            raise _missing_driver(url, error) from None
        except (TypeError, ValueError, SAWarning) as error:  # ?timeout=abc, ?no_such_option=1
            said = " ".join(str(error).split())[:120]
            raise InputError(
                f"storage {shown_url(url)}: an option after the ? of the URL is wrong ({said})"
            ) from None
        except RuntimeError as error:  # the tables are another Optuna's
            first = str(error).splitlines()[0]
            raise StorageError(f"storage {shown_url(url)}: {first}") from error


def _open(
    parsed: "URL", *, is_file: bool, create: bool, write: bool
) -> "optuna.storages.RDBStorage":
    import sqlalchemy
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    class Storage(RDBStorage):
        """Optuna's, whose heartbeat outlives a storage that is away for a moment."""

        def record_heartbeat(self, trial_id: int) -> None:
            # In Optuna's thread an exception would print a traceback and end the heartbeats for
            # good. A storage that stays away ends the trial at its next epoch, in the main thread.
            with contextlib.suppress(optuna_error, sqlalchemy.exc.SQLAlchemyError):
                super().record_heartbeat(trial_id)

    import optuna

    optuna_error = optuna.exceptions.StorageInternalError
    text = parsed.render_as_string(hide_password=False)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_file:
        options = {"connect_args": {"timeout": BUSY}}
    if not write:  # a reader's connections are closed as soon as they have read
        options = {**options, "poolclass": sqlalchemy.pool.NullPool}

    def make() -> RDBStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return Storage(
                text.replace("{", "{{").replace("}", "}}"),  # Optuna formats the URL
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=_stale,
                skip_table_creation=not create,
            )

    storage = _made(make) if create else make()
    if is_file and write:
        # Optuna reads a row and then writes it. In SQLite's default mode two processes can both
        # read before either writes, and so claim the same trial: take the write lock first.
        @event.listens_for(storage.engine, "connect")
        def _prepare(connection: Any, record: Any) -> None:
            connection.isolation_level = None
            with contextlib.suppress(sqlite3.OperationalError):
                # A trial writes some fifty times. Each waits for the disk (22 ms on a busy machine)
                # in the default mode, and none does in this one, in which a killed process loses
                # nothing either, and a power cut the last seconds at most. Where another process
                # holds the file in the default mode, that mode stays.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")

        @event.listens_for(storage.engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        storage.engine.dispose()  # connections made so far lack the listeners
    return storage


def _made(make: "Callable[[], optuna.storages.RDBStorage]") -> "optuna.storages.RDBStorage":
    """The storage with its tables, whoever creates them.

    Optuna looks for each table, and for its version's row, before it creates them. Of processes
    that begin at once each may lose that race at any table and again at the row, and each time the
    winner has got further: try again until nothing is left to lose.
    """
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    end = time.monotonic() + BUSY
    while True:
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            lost = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not lost or time.monotonic() > end:
                raise
        time.sleep(0.05)


def settle(study: "optuna.Study") -> None:
    """Closes a storage, and leaves a SQLite one as one plain file if no other process is at it."""
    backend: Any = getattr(study._storage, "_backend", None)
    engine = getattr(backend, "engine", None)
    if engine is None:
        return
    backend.remove_session()
    engine.dispose()
    file = engine.url.database
    if engine.dialect.name == "sqlite" and file and Path(file).exists():
        with (
            contextlib.suppress(sqlite3.Error),  # it is fine as it is
            contextlib.closing(sqlite3.connect(file, timeout=0)) as connection,
        ):
            connection.execute("PRAGMA journal_mode = DELETE")


# ---------------------------------------------------------------------------------- who runs what


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


# ------------------------------------------------------------------------------ trials left behind

KEPT = ("kind", "candidate", "criteria", "continues", "past", "looks")

INTERRUPTED = "interrupted"
"""Why a trial failed that nobody but the user ended."""

CONTINUES = "pdsearch:continues"
"""The number of the trial that a trial goes on with."""


def current(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """The trials of a study, without those that a later one goes on with and surplus ones.

    Nor those that somebody else added, finished, of whose candidate nothing is known.
    """
    found = [
        t
        for t in trials
        if t.user_attrs.get("pdsearch:status") != "surplus"
        and ("pdsearch:candidate" in t.user_attrs or t.state.name not in ("COMPLETE", "PRUNED"))
    ]
    taken_up = {t.user_attrs.get(CONTINUES) for t in found if t.state.name != "FAIL"}
    return [trial for trial in found if trial.number not in taken_up]


def take_up(study: "optuna.Study", trial: "FrozenTrial", *, past: int) -> None:
    """Queues a stopped trial again, to go on past the step at which it was stopped.

    A finished trial cannot be changed in Optuna, so that another one takes its place.
    """
    _queue(study, trial, {CONTINUES: trial.number, "pdsearch:past": past})


def requeue(study: "optuna.Study", trial: "FrozenTrial", *, released: bool = False) -> bool:
    """Queues a failed trial again with what it needs to go on; whether it did.

    Args:
        study: an open study.
        trial: the failed one.
        released: the user ended its process, which is no failure and uses up no attempt.
    """
    history = list(trial.system_attrs.get("retry_history", []))
    if not released:
        history.append(trial.number)
    if len(history) >= ATTEMPTS:
        return False
    further = {"failed_trial": trial.number, **trial.system_attrs, "retry_history": history}
    _queue(study, trial, {}, system=further)
    return True


def given_up(trials: "Iterable[FrozenTrial]", *, kinds: Container[str]) -> "FrozenTrial | None":
    """A trial of these kinds that failed at every attempt and was not begun again since."""
    latest: dict[str, FrozenTrial] = {}
    for trial in current(trials):  # in the order of their numbers
        if trial.user_attrs.get("pdsearch:kind") in kinds:
            latest[json.dumps(trial.user_attrs["pdsearch:candidate"], sort_keys=True)] = trial
    return next((trial for trial in latest.values() if _is_over(trial)), None)


def never_to_go_on(trials: "Iterable[FrozenTrial]") -> set[int]:
    """The numbers of stopped trials whose continuation failed at every attempt."""
    return {
        trial.user_attrs[CONTINUES]
        for trial in trials
        if CONTINUES in trial.user_attrs and _is_over(trial)
    }


def _is_over(trial: "FrozenTrial") -> bool:
    """Whether it failed and is not to be tried again."""
    attempts = 1 + len(trial.system_attrs.get("retry_history", []))
    over = attempts >= ATTEMPTS and trial.user_attrs.get("pdsearch:reason") != INTERRUPTED
    return trial.state.name == "FAIL" and over


def _queue(
    study: "optuna.Study",
    trial: "FrozenTrial",
    further: Mapping[str, Any],
    *,
    system: Mapping[str, Any] | None = None,
) -> None:
    """Queues a trial with the parameters of another, and what is kept of it."""
    import optuna

    kept = {f"pdsearch:{key}" for key in KEPT}
    attributes = {key: value for key, value in trial.user_attrs.items() if key in kept}
    attributes.update(further)
    going_on = CONTINUES in attributes
    study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes,
            system_attrs=dict(system or {}),
            # What it reached before is compared with others' meanwhile.
            intermediate_values=trial.intermediate_values if going_on else {},
        )
    )


def _stale(study: "optuna.Study", trial: "FrozenTrial") -> None:
    """What Optuna calls for a trial whose heartbeats have stopped."""
    requeue(study, trial)


def fail_dead_trials(
    study: "optuna.Study", *, note: Callable[[str], None] | None = None, mine: bool = False
) -> list[int]:
    """Fails and requeues the running trials whose process is gone; returns their numbers.

    Args:
        study: an open study.
        note: told of each.
        mine: release this process's own trials instead, which it no longer runs.
    """
    import optuna

    here = Owner.here()
    found = []
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        owner = owner_of(trial.user_attrs.get("pdsearch:owner"))
        if mine:
            gone = owner == here
        elif owner is None:
            age = datetime.now() - (trial.datetime_start or datetime.now())
            gone = age > timedelta(seconds=ORPHAN)
        elif owner == here:
            gone = True  # called between trials only: this process runs none
        else:
            alive = owner.alive()
            gone = alive is False or (alive is None and _never_beat(study, trial))
        if not gone or (queued := _fail(study, trial, released=mine)) is None:
            continue
        found.append(trial.number)
        if note is not None and not mine:
            where = f"process {owner.pid}" if owner else "process"
            then = "it will be tried again" if queued else f"given up after {ATTEMPTS} attempts"
            note(f"trial {trial.number}: its {where} is gone; {then}")
    return found


def _never_beat(study: "optuna.Study", trial: "FrozenTrial") -> bool:
    """Whether another machine's trial was begun long ago without ever a heartbeat.

    Optuna expires only trials that had one; a worker killed within its first milliseconds had none.
    """
    import sqlalchemy

    age = datetime.now() - (trial.datetime_start or datetime.now())
    backend = getattr(study._storage, "_backend", study._storage)
    if age < timedelta(seconds=GRACE) or not hasattr(backend, "engine"):
        return False
    query = sqlalchemy.text("SELECT COUNT(*) FROM trial_heartbeats WHERE trial_id = :trial")
    with backend.engine.connect() as connection:
        return connection.execute(query, {"trial": trial._trial_id}).scalar() == 0


def _fail(study: "optuna.Study", trial: "FrozenTrial", *, released: bool) -> bool | None:
    """Whether a trial is tried again after this; None where somebody else has ended it."""
    import optuna

    storage, number = study._storage, trial._trial_id
    reason = INTERRUPTED if released else "its process was killed"
    try:
        storage.set_trial_user_attr(number, "pdsearch:reason", reason)
        if not storage.set_trial_state_values(number, state=optuna.trial.TrialState.FAIL):
            return None
    except optuna.exceptions.UpdateFinishedTrialError:
        return None  # somebody else was faster
    return requeue(study, storage.get_trial(number), released=released)
