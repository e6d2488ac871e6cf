"""What every test shares: an own folder to write to, few threads, repeatable Hypothesis runs."""

import os
import signal
from collections.abc import Iterator
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


@pytest.fixture(params=["avx512", "avx2", "portable"])
def build_kind(request: pytest.FixtureRequest, fresh_plans: None) -> Iterator[str]:
    """What the kernels may use of the processor: each level that it has."""
    import torch

    from pdsearch import kernels

    assert kernels.available() is None, "these tests need a C++ compiler"
    if torch.ops.pdsearch.limit(request.param) != request.param:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    torch.ops.pdsearch.limit("avx512")


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, which processes started here would inherit.

    One that is handled is back at its default in a new program.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
