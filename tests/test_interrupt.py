"""Ctrl-C and SIGTERM at any moment: 130 within five seconds, and a storage that is whole."""

import contextlib
import gc
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import pytest

from pdsearch import interrupt, search
from pdsearch.study import open_study
from pdsearch.study.storage import connect, storage_errors

MILD = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}, "name": "mild"}
TOTAL = 3
LINES = 1_500_000  # of the two million of `INSIDE` that such a search runs
INSIDE = ("/optuna/", "/sqlalchemy/", "/sqlite3/", "/pdsearch/study/")


@contextlib.contextmanager
def signal_at(
    line: int, *, number: int = signal.SIGINT, inside: tuple[str, ...] = INSIDE
) -> Iterator[Callable[[], int]]:
    """Sends a signal at the so-manieth line that runs in Optuna, SQLAlchemy or our storage code.

    Gives a function that tells how many lines there were.
    """
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if not any(part in frame.f_code.co_filename for part in inside):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                sys.settrace(None)
                os.kill(os.getpid(), number)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: seen
    finally:
        sys.settrace(before)


def stored_value(file: Path) -> Any:
    """Read, and a write begun, by a connection of its own that waits for nobody."""
    with contextlib.closing(sqlite3.connect(file, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        (found,) = other.execute("SELECT value_json FROM study_user_attributes").fetchone()
        other.rollback()
    return json.loads(found)


def every_line(tmp_path: Path, *, step: int) -> int:
    file = tmp_path / "study.db"
    url = f"sqlite:///{file}"
    study = optuna.create_study(storage=connect(url, create=True), study_name="s")
    for value in range(3):  # until SQLAlchemy has its statements
        with signal_at(0) as lines:
            study.set_user_attr("key", value)
    total = lines()
    assert total > 300
    for line in range(1, total - 10, step):
        # As a search writes, and as whoever does without its precautions would.
        outer = storage_errors(url) if line % 2 else contextlib.nullcontext()
        with pytest.raises(KeyboardInterrupt), interrupt.handled(), outer, signal_at(line):
            study.set_user_attr("key", line)
        # Where nothing but the storage itself defers, it may come before the write has begun.
        assert stored_value(file) == line or (line % 2 == 0 and line < 10)
    return total


def test_at_the_lines_of_an_attributes_write(tmp_path: Path) -> None:
    every_line(tmp_path, step=41)


@pytest.mark.slow
def test_at_every_line_of_an_attributes_write(tmp_path: Path) -> None:
    every_line(tmp_path, step=1)


def train(candidate: Any) -> Iterator[float]:
    yield 0.5
    yield 0.6


def searched(url: str) -> Any:
    keys: dict[str, Any] = {
        "families": [MILD],
        "references": [],
        "sampler": "random",
        "pruner": "none",
    }
    return search(train=train, trials=TOTAL, storage=url, progress=False, **keys)


def at_random_lines(url: str, *, interruptions: int) -> None:
    """A search that is interrupted again and again comes to its total, with nothing left over."""
    draw = random.Random(0)
    total, came = LINES, 0
    for _ in range(interruptions):
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        with (
            contextlib.suppress(KeyboardInterrupt),
            signal_at(draw.randrange(total), number=number),
        ):
            searched(url)
            continue
        came += 1
    assert came
    result = searched(url).to_dict()
    assert result["trials"]["total"] == result["trials"]["complete"] == TOTAL
    frozen = open_study("pdsearch", storage=url).study.get_trials(deepcopy=False)
    states = [trial.state.name for trial in frozen]
    assert states.count("COMPLETE") == TOTAL and set(states) <= {"COMPLETE", "FAIL"}
    reasons = {t.user_attrs.get("pdsearch:reason") for t in frozen if t.state.name == "FAIL"}
    assert reasons <= {"interrupted"}


def test_a_search_at_random_lines(workdir: Path) -> None:
    at_random_lines("sqlite:///study.db", interruptions=2)


@pytest.mark.slow
def test_a_search_at_many_random_lines(workdir: Path) -> None:
    at_random_lines("sqlite:///study.db", interruptions=150)


# ---------------------------------------------------------------------------------- the rules alone


def test_deferred_and_exposed_nest() -> None:
    order = []
    with pytest.raises(KeyboardInterrupt), interrupt.handled():
        with interrupt.deferred():
            with interrupt.deferred():
                signal.raise_signal(signal.SIGINT)
                order.append("inner")
            assert interrupt.came()
            order.append("outer")
            with interrupt.exposed():
                order.append("never")
        order.append("never")
    assert order == ["inner", "outer"]
    assert not interrupt.came()


def test_exposed_acts_at_once_and_what_cleans_up_is_left_in_peace() -> None:
    order = []
    with pytest.raises(KeyboardInterrupt), interrupt.handled(), interrupt.deferred():
        try:
            with interrupt.exposed():
                signal.raise_signal(signal.SIGTERM)
                order.append("never")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                with interrupt.deferred():
                    signal.raise_signal(number)
                signal.raise_signal(number)
            order.append("cleaned up")
    assert order == ["cleaned up"]


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        sum(range(10))  # where an exception would come up, to be dropped


def in_a_finalizer() -> None:
    Finalized()


def in_a_weak_references_callback() -> None:
    kept: Any = weakref.WeakValueDictionary()
    kept["key"] = here = type("Here", (), {})()
    with signal_at(1, inside=("weakref.py",)):
        del here
        gc.collect()


def in_a_callback_of_a_garbage_collection() -> None:
    def told(phase: str, info: object) -> None:
        signal.raise_signal(signal.SIGINT)
        sum(range(10))

    gc.callbacks.append(told)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(told)


@pytest.mark.parametrize(
    "how",
    [in_a_finalizer, in_a_weak_references_callback, in_a_callback_of_a_garbage_collection],
)
def test_where_python_drops_exceptions_it_comes_a_little_later(how: Callable[[], None]) -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupt.handled():
        how()
        while time.monotonic() < began + 60:
            pass
    assert time.monotonic() < began + 30


def test_what_fails_after_a_signal_fails_for_it() -> None:
    with pytest.raises(KeyboardInterrupt), interrupt.handled(), interrupt.deferred():
        signal.raise_signal(signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt):
            interrupt.check()
        raise OSError("the storage is away, and nobody waits for it")


def test_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupt.handled(), interrupt.handled():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_whoever_handles_ctrl_c_otherwise_goes_on_doing_so() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupt.handled():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_a_thread_is_not_concerned() -> None:
    order = []

    def work() -> None:
        with interrupt.handled(), interrupt.deferred():
            interrupt.check()
            order.append("done")

    with pytest.raises(KeyboardInterrupt), interrupt.handled(), interrupt.deferred():
        signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert order == ["done"]


def test_a_pause_ends_with_a_signal() -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupt.handled(), interrupt.deferred():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        interrupt.pause(60)
    assert time.monotonic() - began < 30


def test_what_hangs_is_left_in_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "LEAVE", 0.3)
    with pytest.raises(KeyboardInterrupt), interrupt.handled(), interrupt.deferred():
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)  # a driver that waits for its server


HANGS = {
    "in Python": "while True: pass",
    "in a driver": (
        "import sqlite3; one = sqlite3.connect('x.db'); one.execute('BEGIN EXCLUSIVE'); "
        "sqlite3.connect('x.db', timeout=60).execute('BEGIN EXCLUSIVE')"
    ),
    "while it cleans up": "\ntry: time.sleep(60)\nfinally: time.sleep(60)",
}


def hanging(how: str, folder: Path) -> subprocess.Popen[str]:
    held = "contextlib.nullcontext()" if how == "while it cleans up" else "interrupt.deferred()"
    code = "import contextlib, sys, time; from pdsearch import interrupt\n"
    code += f"with interrupt.handled(leave=True), {held}:\n    print('ready', flush=True)\n"
    code += textwrap.indent(HANGS[how], "    ")
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_what_hangs_is_left_within_five_seconds(workdir: Path) -> None:
    """All at once, because each takes most of the five seconds."""
    cases = [(how, number) for how in HANGS for number in (signal.SIGINT, signal.SIGTERM)]
    processes = [hanging(how, workdir / str(place)) for place, (how, _) in enumerate(cases)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    began = time.monotonic()
    for process, (_, number) in zip(processes, cases, strict=True):
        process.send_signal(number)
        process.send_signal(number)
    for process, case in zip(processes, cases, strict=True):
        _, error = process.communicate(timeout=30)
        assert process.returncode == 130, (case, error)
        assert time.monotonic() - began < 5, case
        assert error.startswith("pdsearch: interrupted"), case
