"""What every test shares: an own folder to write to, few threads, repeatable Hypothesis runs."""

import functools
import http.server
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from processor import LEVELS

# Two processes of a study on two cores otherwise fight over the threads of both: the README's
# commands took 143 s with two threads each, and 105 with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Times on shared machines vary too much for a deadline; a fixed seed makes a red run repeatable.
hypothesis.settings.register_profile("pdsearch", deadline=None, derandomize=True)
hypothesis.settings.load_profile("pdsearch")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory: a study's default storage and results land here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def families_are_settled_once() -> Iterator[None]:
    """Decide a family for its whole range once a process instead of once a study.

    That is a third of the time of a small study, and the same decision each time.
    """
    families = sys.modules.get("pdsearch.study.families")  # imported where a test may search
    if families is None:
        yield
        return
    settle = families.settle
    settled: dict[Any, Any] = {}

    def once(family: Any, **options: Any) -> Any:
        key = family, repr(options)
        if key not in settled:
            settled[key] = settle(family, **options)
        return settled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "settle", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def migrations_are_read_once() -> Iterator[None]:
    """Read Optuna's migration scripts once a process instead of twice for each new storage.

    alembic compiles them anew each time: 30 ms, half of what a new storage takes.
    """
    storage = sys.modules.get("optuna.storages._rdb.storage")  # imported where a test may search
    if storage is None:
        yield
        return
    manager = storage._VersionManager
    made: list[Any] = []
    read = manager._create_alembic_script

    def once(self: Any) -> Any:
        if not made:
            made.append(read(self))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "_create_alembic_script", once)
        yield


@pytest.fixture
def fresh_plans() -> Iterator[None]:
    """Forget how each candidate's backward pass runs, before and after.

    Every test that switches kernels needs it: the op plans once for a candidate, so a later test
    in the same process would otherwise run what an earlier one had chosen.
    """
    from pdsearch.autograd.op import rule  # after the environment above is set

    rule.cache_clear()
    yield
    rule.cache_clear()


@pytest.fixture(params=reversed(LEVELS))
def build_kind(request: pytest.FixtureRequest, fresh_plans: None) -> Iterator[str]:
    """What the kernels may use of the processor: each level that it has."""
    import torch

    from pdsearch import kernels

    assert kernels.available() is None, "these tests need a C++ compiler"
    if torch.ops.pdsearch.limit(request.param) != request.param:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    torch.ops.pdsearch.limit("avx512")


IN_MEMORY = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Put the tests' folders in memory, and handle SIGINT.

    SQLite waits for the disk at each of the thousands of commits: 19 ms on a slow one. Shells start
    background jobs with SIGINT ignored, which processes started here would inherit. One that is
    handled is back at its default in a new program.
    """
    if not config.option.basetemp and IN_MEMORY.is_dir():
        of = os.statvfs(IN_MEMORY)
        if of.f_bavail * of.f_frsize > 2**31 and not of.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on this machine, over HTTP; gives its address."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    def start(root: Path) -> str:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))
        )
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
