"""Servers: one that goes away while trials run is waited for; at the start a wrong one is told."""

import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError

from pdsearch import interrupt, search
from pdsearch.cli import main
from pdsearch.errors import InputError, StorageError
from pdsearch.study import open_study
from pdsearch.study.patience import Patience, is_passing
from pdsearch.study.storage import EmptyStorageError, connect

pgserver = pytest.importorskip("pgserver")
MILD = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}, "name": "mild"}


@pytest.fixture(autouse=True)
def _here(workdir: Path) -> None:
    """Results land in a folder of the test's own."""


class Server:
    """A PostgreSQL server that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = pgserver.get_server(folder)
        uri = self._server.get_uri()
        self.url = uri.replace("postgresql://", "postgresql+psycopg://")

    def _control(self, word: str, *options: str) -> None:
        program = Path(pgserver.__file__).parent / "pginstall" / "bin" / "pg_ctl"
        command = [str(program), "-w", "-D", str(self.folder), *options, word]
        # It refuses to run as root; pgserver has given the folder to a user of its own.
        owner = self.folder.stat().st_uid
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=owner, cwd="/")

    def stop(self, mode: str) -> None:
        self._control("stop", "-m", mode)

    def start(self) -> None:
        self._control("start", "-o", f"-h '' -k {self.folder}", "-l", str(self.folder / "log"))

    def cleanup(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not in pytest's folder, which the server's user cannot enter.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        found = Server(Path(folder))
        yield found
        found.cleanup()


def find(url: str, **keys: Any) -> Any:
    return search(
        families=[MILD], references=[], storage=url, trials=3, **{"progress": False, **keys}
    )


@pytest.mark.parametrize("mode", ["fast", pytest.param("immediate", marks=pytest.mark.slow)])
def test_a_server_that_restarts_is_waited_for(
    server: Server, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def train(candidate: Any) -> Iterator[float]:
        trained.append(candidate.name)
        yield 0.5
        if len(trained) == 2:
            server.stop(mode)
            threading.Timer(2, server.start).start()
        yield 0.6

    result = find(server.url, train=train, name=f"restarted-{mode}")
    assert result.to_dict()["trials"]["complete"] == 3
    assert len(trained) == 3  # nothing twice
    said = capfd.readouterr().err
    assert said.count("the storage is away") == 1 and said.count("the storage is back") == 1
    assert "--storage-wait" in said and "Traceback" not in said


def test_a_server_that_stays_away_ends_the_study(server: Server) -> None:
    def train(candidate: Any) -> Iterator[float]:
        yield 0.5
        server.stop("fast")
        yield 0.6

    began = time.monotonic()
    try:
        with pytest.raises(StorageError, match=r"storage postgresql\+psycopg://"):
            find(server.url, train=train, name="gone", storage_wait=1.0)
        took = time.monotonic() - began
    finally:
        server.start()
    assert took < 60
    result = find(server.url, train=lambda candidate: 0.5, name="again")
    assert result.to_dict()["trials"]["total"] == 3


def test_an_interruption_ends_the_wait(server: Server) -> None:
    def train(candidate: Any) -> Iterator[float]:
        yield 0.5
        server.stop("fast")
        threading.Timer(1.0, interrupt.signal.raise_signal, (interrupt.signal.SIGINT,)).start()
        yield 0.6

    try:
        with pytest.raises(KeyboardInterrupt):
            find(server.url, train=train, name="interrupted")
    finally:
        server.start()


def test_an_empty_database_says_what_it_is(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server.url.replace("/postgres?", "/empty?")
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    with pytest.raises(EmptyStorageError, match="holds no study: the database has no tables"):
        open_study("s", storage=url)
    for words in (["status", "s"], ["worker", "s"], ["confirm", "s"], ["criteria", "s"]):
        assert main([*words, "--storage", url]) == 2
    assert main(["doctor", "--storage", url]) in (0, 1)
    seen = capfd.readouterr()
    assert "reachable, no study in it yet" in seen.out and "Traceback" not in seen.err
    Path("empty.db").touch()
    with pytest.raises(EmptyStorageError, match="no tables"):
        open_study("s", storage="sqlite:///empty.db")


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A server that accepts and never answers: its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_wrong_servers_are_told_within_five_seconds(server: Server) -> None:
    with silent() as port:
        urls = {
            "timeout": f"postgresql+psycopg://me:sec{{ret@127.0.0.1:{port}/db",
            "refused": "postgresql+psycopg://me:sec{ret@127.0.0.1:9/db",
            "resolve|known": "postgresql+psycopg://me:sec{ret@no-such-host.invalid/db",
            "does not exist": server.url.replace("/postgres?", "/nothing?"),
        }
        for said, url in urls.items():
            began = time.monotonic()
            with pytest.raises(StorageError, match=said) as caught:
                find(url, train=lambda candidate: 0.5)
            assert time.monotonic() - began < 30  # 5, on a machine that does nothing else
            assert "sec{ret" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_connections_timeout_may_be_another() -> None:
    with silent() as port:
        began = time.monotonic()
        with pytest.raises(StorageError, match="timeout"):
            connect(f"postgresql+psycopg://me@127.0.0.1:{port}/db?connect_timeout=2")
    assert time.monotonic() - began < 30


# -------------------------------------------------------------------------- what is worth waiting


class Refused(psycopg.OperationalError):
    """As psycopg tells what a server refuses, by SQLSTATE."""

    def __init__(self, text: str, state: str | None = None) -> None:
        self._state = state
        super().__init__(text)

    @property
    def sqlstate(self) -> str | None:  # type: ignore[override]
        return self._state


def wrapped(cause: Exception) -> StorageInternalError:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = sqlalchemy.exc.OperationalError("SELECT 1", {}, cause)
    return error


@pytest.mark.parametrize(
    ("cause", "passing"),
    [
        (Refused("terminating connection due to administrator command", "57P01"), True),
        (Refused("the database system is starting up", "57P03"), True),
        (Refused("server closed the connection unexpectedly"), True),
        (Refused("connection failed: Connection refused"), True),
        (Refused("sorry, too many clients already", "53300"), True),
        (Refused("deadlock detected", "40P01"), True),
        (Refused("no space left on device", "53100"), False),
        (Refused("password authentication failed for user"), False),
        (Refused('database "x" does not exist'), False),
        (Refused("permission denied for table studies", "42501"), False),
    ],
)
def test_what_is_worth_waiting_for(cause: Exception, passing: bool) -> None:
    assert is_passing(wrapped(cause)) == passing


def test_a_lost_transaction_that_optuna_goes_on_with() -> None:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid …")
    assert is_passing(error)
    assert not is_passing(InputError("no"))


def test_it_waits_with_growing_pauses_says_so_once_and_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now: list[float] = [0.0]
    pauses: list[float] = []
    said: list[str] = []
    patience = Patience()
    patience.seconds, patience.say = 600.0, said.append

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(interrupt, "pause", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def away() -> int:
        if now[0] < 100:
            raise wrapped(Refused("server closed the connection"))
        return 7

    assert patience(away) == 7
    assert pauses == sorted(pauses) and pauses[0] < 1 and pauses[-1] == 10
    assert len(said) == 2 and "away" in said[0] and "back after 10" in said[1]
    assert patience.away_within(60) and not patience.away_within(0)

    def gone() -> None:
        raise wrapped(Refused("server closed the connection"))

    began = now[0]
    for _ in range(3):  # what cleans up after it does not wait again
        with pytest.raises(StorageInternalError):
            patience(gone)
    assert 600 <= now[0] - began < 620
