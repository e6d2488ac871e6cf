"""What every test shares: an own folder to write to, few threads, repeatable Hypothesis runs."""

import os
from pathlib import Path

import hypothesis
import pytest

# Two test processes on two cores otherwise fight over four OpenMP threads each.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# Times on shared machines vary too much for a deadline; a fixed seed makes a red run repeatable.
hypothesis.settings.register_profile("pdsearch", deadline=None, derandomize=True)
hypothesis.settings.load_profile("pdsearch")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory: a study's default storage and results land here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
