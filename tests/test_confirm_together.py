"""Several processes at one confirmation: every run once, whoever makes it, and none lost."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from made_up import SMALL_NET

import pdsearch.trial
from pdsearch.confirm import confirm, load_confirmation
from pdsearch.confirm.session import take_turns
from pdsearch.study import open_study, search

KEYS = [f"pdsearch:confirm/{number:02}" for number in range(12)]


def take_part(folder: Path, pause: float) -> None:
    """Does runs that take a while; what is done is a file."""
    place = folder / "done"

    def run(key: str) -> None:
        time.sleep(pause)
        with (place / key.rpartition("/")[2]).open("a") as file:
            file.write(f"{os.getpid()}\n")

    def done() -> set[str]:
        return {f"pdsearch:confirm/{path.name}" for path in place.iterdir()}

    take_turns(KEYS, run, done=done, folder=folder / "locks")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "done").mkdir()
    return tmp_path


def test_every_run_is_made_once_and_all_take_part(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    all_there = context.Barrier(3)

    def together() -> None:
        all_there.wait(timeout=60)
        take_part(folder, 0.2)

    others = [context.Process(target=together) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(timeout=60)
        assert other.exitcode == 0
    made = [path.read_text().split() for path in sorted((folder / "done").iterdir())]
    assert [len(lines) for lines in made] == [1] * len(KEYS)
    assert len({lines[0] for lines in made}) == 3
    assert not list((folder / "locks").iterdir())


def test_a_killed_process_leaves_its_run_to_the_others(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=take_part, args=(folder, 60.0))
    killed.start()
    deadline = time.monotonic() + 30
    while not list(folder.glob("locks/00.lock")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(timeout=30)
    take_part(folder, 0.0)
    assert len(list((folder / "done").iterdir())) == len(KEYS)


STUDY = """
[study]
name = "together"
families = ["leaky"]
references = ["b_silu"]
trials = 4
sampler = "random"
pruner = "none"
workers = 1
storage = "sqlite:///study.db"
[trial]
model = "small.py:net"
dataset = "digits"
epochs = 1
batch_size = 128
learning_rates = [0.05, 0.1]
precision = "float32"
memory_format = "contiguous"
[confirm]
seeds = 2
epochs = 2
"""


@pytest.fixture
def study(workdir: Path) -> Path:
    (workdir / "study.toml").write_text(STUDY, encoding="utf-8")
    (workdir / "small.py").write_text(SMALL_NET, encoding="utf-8")
    search("study.toml", device="cpu", threads=1, progress=False)
    return workdir / "study.toml"


def runs_made(study: Path) -> int:
    return sum(key.startswith("pdsearch:confirm/") for key in open_study(study).study.user_attrs)


def test_side_by_side_is_bit_for_bit_what_one_process_gets(
    study: Path,
    workdir: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(workdir / "study.db", workdir / "searched.db")
    said: list[str] = []
    train = pdsearch.trial.run_trial

    def waits(*given: Any, **keys: Any) -> Any:
        until = time.monotonic() + 120  # for the other process's first run
        while runs_made(study) <= len(said) and time.monotonic() < until and not others:
            time.sleep(0.5)
        others.append(1)
        return train(*given, **keys)

    others: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(pdsearch.trial, "run_trial", waits)
        result = confirm(
            open_study(study), top=1, controls=True, device="cpu", workers=2, progress=said.append
        )
    # The other process tells its runs itself, on standard error.
    helped = [line for line in capfd.readouterr().err.splitlines() if "accuracy" in line]
    assert helped, "the second process did nothing"
    # Both processes count all finished runs, so the counts only rise, up to the total.
    counts = [int(line.partition("/")[0]) for line in (*said, *helped)]
    assert max(counts) == 8 * 4 and counts[: len(said)] == sorted(counts[: len(said)])
    # (ReLU, B-SiLU, the best, its control, three activations, a raised rate) × (2 rates + 2 seeds)
    assert len(said) + len(helped) == 8 * 4
    assert load_confirmation(open_study(study)) == result
    (workdir / "searched.db").rename(workdir / "study.db")
    alone = confirm(open_study(study), top=1, controls=True, device="cpu", workers=1)
    assert [(row.name, row.accuracy, row.learning_rate) for row in alone.rows] == [
        (row.name, row.accuracy, row.learning_rate) for row in result.rows
    ]


def confirms_for_long(study: Path) -> None:
    """Only its worker makes runs: a forked process must not train."""
    pdsearch.trial.run_trial = lambda *_, **__: time.sleep(600)  # type: ignore[assignment]
    confirm(open_study(study), seeds=400, device="cpu", workers=2)


def test_a_process_that_helps_ends_with_the_one_that_started_it(study: Path) -> None:
    parent = Forked(confirms_for_long, study, errors=study.with_name("errors"))
    deadline = time.monotonic() + 120

    def children() -> list[int]:
        path = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    found: list[int] = []
    while not found and time.monotonic() < deadline:
        parent.check_running()
        found = children()
        time.sleep(0.1)
    (child,) = found
    while not runs_made(study):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    parent.send(signal.SIGKILL)
    assert parent.end()[0] == -signal.SIGKILL
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
