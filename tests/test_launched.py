"""Whole studies on a cluster: a real local Ray, and submitit's local jobs.

All of them use a real PostgreSQL, whose URL has a password that must not show up anywhere.
"""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import write_tiny

from pdsearch.cli import main
from pdsearch.launchers import on_slurm
from pdsearch.study import StoredStudy, TrialRow, open_study, search

pytestmark = pytest.mark.slow

PASSWORD = "hunter2"
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}  # as on a cluster of several users
STUDY = """
    [study]
    name = "tiny"
    families = ["leaky"]
    references = []
    trials = 5
    sampler = "random"
    pruner = "none"
    [trial]
    model = "tiny.py:build"
    dataset = "digits"
    epochs = 2
    batch_size = 64
    precision = "float32"
    memory_format = "contiguous"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server; its address without a database."""
    pgserver = pytest.importorskip("pgserver")
    psycopg = pytest.importorskip("psycopg")
    # Not in pytest's folder, which the server's user cannot enter.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        found = pgserver.get_server(folder)
        with psycopg.connect(found.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE me SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
        yield folder
        found.cleanup()


@pytest.fixture
def url(server: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database of this test's own, which is also in the environment."""
    import psycopg

    name = f"db{time.monotonic_ns()}"
    with psycopg.connect(f"postgresql://me@/postgres?host={server}", autocommit=True) as made:
        made.execute(f"CREATE DATABASE {name}")
    found = f"postgresql+psycopg://me:{PASSWORD}@/{name}?host={server}"
    monkeypatch.setenv("PDSEARCH_STORAGE", found)
    return found


@pytest.fixture
def tiny(workdir: Path) -> Path:
    return write_tiny(workdir / "study", STUDY)


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray cluster of two CPUs that exists; its logs are in a folder of its own."""
    pytest.importorskip("ray")
    script = """
        import sys, ray
        found = ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=40)
        print(found.address_info["gcs_address"], found.address_info["session_dir"], flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **RAY, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate()


def begun(url: str, words: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pdsearch", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PDSEARCH_STORAGE": url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(url: str, holds: Callable[[StoredStudy], Any], *, seconds: float = 240.0) -> Any:
    """Look at the study until the condition holds; return its result."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := holds(open_study("tiny", storage=url)):
                return found
        except ValueError:  # it has not begun
            pass
        assert PASSWORD not in _command_lines()
        time.sleep(0.3)
    raise AssertionError("it never came to that")


def _command_lines() -> str:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return "\n".join(line for line in lines.stdout.splitlines() if "pdsearch" in line)


def training(count: int) -> Callable[[StoredStudy], list[TrialRow]]:
    """Whether so many trials have finished an epoch and are still running."""

    def rows(stored: StoredStudy) -> list[TrialRow]:
        found = [row for row in stored.trials() if row.status == "running" and row.epochs]
        return found if len(found) >= count else []

    return rows


def without_password(folder: Path) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return not any(PASSWORD.encode() in path.read_bytes() for path in files)


def values(stored: StoredStudy) -> list[tuple[str, float | None]]:
    return sorted(
        (row.candidate.name, row.value)
        for row in stored.trials()
        if row.candidate and row.status == "complete"
    )


def test_a_study_on_ray(tiny: Path, url: str, ray_address: str) -> None:
    address, session = ray_address.split()
    words = ["search", str(tiny), "--launcher", "ray", "--workers", "2"]
    process = begun(url, words, RAY_ADDRESS=address, **RAY)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert "workers: 2 running" in output and "[5/5]" in output
    stored = open_study("tiny", storage=url)
    pids = {(row.owner or {})["pid"] for row in stored.trials()}
    assert len(pids) == 2 and process.pid not in pids
    assert without_password(Path(session)) and without_password(tiny.parent)
    # To the bit, the same candidates as on this machine alone.
    alone = search(tiny, workers=1, storage="sqlite:///alone.db", threads=1, progress=False)
    assert values(stored) == values(alone.stored)


def test_ray_loses_a_worker_and_is_interrupted(tiny: Path, url: str, ray_address: str) -> None:
    address, session = ray_address.split()
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 2000"))
    words = ["search", str(tiny), "--launcher", "ray", "--workers", "2"]
    process = begun(url, words, RAY_ADDRESS=address, **RAY)
    first, second = until(url, training(2))
    os.kill(first.owner["pid"], signal.SIGKILL)
    until(
        url,
        lambda stored: any(
            trial.system_attrs.get("retry_history") == [first.number]
            for trial in stored.study.get_trials()
        ),
    )
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert time.monotonic() - began < 10
    assert "ended: signal 9 killed it" in output
    rows = until(url, lambda stored: not training(1)(stored) and stored.trials())
    reasons = {row.number: row.reason for row in rows}
    assert reasons[first.number] == "its process was killed"
    assert reasons[second.number] == "interrupted"
    assert [row.status for row in rows].count("waiting") >= 2
    assert without_password(Path(session))


def test_a_ray_that_is_not_there(tiny: Path, url: str) -> None:
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory() as empty:
        process = begun(
            url,
            ["search", str(tiny), "--launcher", "ray", "--workers", "2"],
            RAY_ADDRESS="127.0.0.1:1",
            RAY_TMPDIR=empty,
        )
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 2, output
    assert "pdsearch: error:" in output and "Traceback" not in output


def test_a_study_in_jobs_of_submitit(
    tiny: Path, url: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(on_slurm, "CLUSTER", "local")
    assert main(["search", str(tiny), "--launcher", "slurm", "--workers", "2"]) == 0
    stored = open_study("tiny", storage=url)
    assert [row.status for row in stored.trials()] == ["complete"] * 5
    assert os.getpid() not in {(row.owner or {})["pid"] for row in stored.trials()}
    assert without_password(tiny.parent)
    alone = search(tiny, workers=1, storage="sqlite:///alone.db", threads=1, progress=False)
    assert values(stored) == values(alone.stored)
