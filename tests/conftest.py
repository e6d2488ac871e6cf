"""What every test shares: an own folder to write to, few threads, repeatable Hypothesis runs."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

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


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, which processes started here would inherit.

    One that is handled is back at its default in a new program.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
