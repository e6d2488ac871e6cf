"""Trials side by side: how many, from when on, and that no result depends on it."""

import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pdsearch.study.api
from pdsearch import InputError
from pdsearch.study import StoredStudy, load_study_file, machine, open_study, search, worker
from pdsearch.study.machine import Share, share_out

TINY = """
    import os, time
    from pathlib import Path
    from torch import nn

    here = Path(__file__).parent

    def build(classes):
        # All that are to take part have come before any trains on; the first call is a look only.
        (here / "present").mkdir(exist_ok=True)
        with open(here / "present" / str(os.getpid()), "a") as calls:
            calls.write("1")
            looked = calls.tell() == 1
        until = time.monotonic() + 60
        expected = int((here / "expected").read_text()) if (here / "expected").exists() else 1
        while not looked and len(list((here / "present").iterdir())) < expected:
            assert time.monotonic() < until
            time.sleep(0.05)
        return nn.Sequential(
            nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, classes)
        )
"""
FILE = """
    [study]
    name = "tiny"
    families = ["exp_tail", "leaky"]
    references = []
    trials = 6
    sampler = "random"
    pruner = "none"
    storage = "sqlite:///study.db"
    [trial]
    model = "tiny.py:build"
    dataset = "digits"
    epochs = 2
    batch_size = 64
    learning_rate = 0.1
    precision = "float32"
    memory_format = "contiguous"
"""


@pytest.fixture
def tiny(workdir: Path) -> Path:
    (workdir / "tiny.py").write_text(textwrap.dedent(TINY))
    path = workdir / "study.toml"
    path.write_text(textwrap.dedent(FILE))
    return path


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine of given cores and memory, with nothing said by OMP_NUM_THREADS."""

    def set_up(cores: int, gigabytes: float = 64.0, told: str | None = None) -> None:
        monkeypatch.setattr(machine, "available_cores", lambda: cores)
        monkeypatch.setattr(machine, "available_memory", lambda: int(gigabytes * 1e9))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if told is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", told)

    return set_up


# --------------------------------------------------------------------------------------- the share


@pytest.mark.parametrize(
    ("cores", "gigabytes", "told", "threads", "share"),
    [
        (1, 64, None, None, Share(1, 1)),
        (2, 64, None, None, Share(2, 1)),
        (8, 64, None, None, Share(8, 1)),
        (64, 256, None, None, Share(8, 8)),
        (16, 6, None, None, Share(4, 4)),  # 1.5 GB each
        (4, 1, None, None, Share(1, 4)),
        (8, 64, None, 4, Share(2, 4)),
        (8, 64, None, 16, Share(1, 16)),
        (8, 64, "2", None, Share(4, 2)),
        (8, 64, "2", 8, Share(1, 8)),
        (8, 64, "many", None, Share(8, 1)),
    ],
)
def test_a_core_each(
    computer: Callable[..., None],
    cores: int,
    gigabytes: float,
    told: str | None,
    threads: int | None,
    share: Share,
) -> None:
    computer(cores, gigabytes, told)
    assert share_out("auto", device="cpu", threads=threads) == share


def test_a_gpu_is_for_one_trial(computer: Callable[..., None]) -> None:
    computer(16)
    assert share_out("auto", device="cuda:0") == Share(1, 16)
    assert share_out(3, device="cuda:0") == Share(3, 16)


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_the_threads_of_a_trial_do_not_depend_on_the_workers(
    computer: Callable[..., None], cores: int
) -> None:
    computer(cores)
    shares = [share_out(workers, device="cpu") for workers in ("auto", 1, 2, 5, 200)]
    assert len({share.threads for share in shares}) == 1
    assert [share.workers for share in shares[1:]] == [1, 2, 5, 200]


def test_a_containers_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    cores, memory = machine.available_cores(), machine.available_memory()
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert (machine.available_cores(), machine.available_memory()) == (1, 1_000_000)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.available_cores(), machine.available_memory()) == (cores, memory)


@pytest.mark.parametrize("workers", ['"two"', "0", "257", "2.5", '"2"', "[1]"])
def test_what_is_no_number_of_workers(tiny: Path, workers: str) -> None:
    tiny.write_text(tiny.read_text().replace("[trial]", f"workers = {workers}\n[trial]"))
    with pytest.raises(InputError, match=r"workers: must be a whole number from 1 to 256, or auto"):
        load_study_file(tiny)


def test_a_study_file_may_say_either(tiny: Path) -> None:
    assert load_study_file(tiny).study.workers == "auto"
    for text, value in (("4", 4), ('"auto"', "auto")):
        assert load_study_file(tiny, overrides={"study.workers": text}).study.workers == value


# --------------------------------------------------------------------------------- from when on


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workers that a search starts, which do nothing here."""
    found = []

    def start(stored: StoredStudy, **_: Any) -> subprocess.Popen[bytes]:
        found.append(stored.name)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(pdsearch.study.api, "_start_worker", start)
    return found


@pytest.mark.parametrize(
    ("worth", "trials", "helpers"),
    [
        (0.0, 6, 3),  # four in all
        (0.0, 3, 2),  # no more than there are trials left
        (1e9, 6, 0),  # over before a worker has begun
    ],
)
def test_helpers_come_where_the_study_is_long(
    tiny: Path,
    computer: Callable[..., None],
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    worth: float,
    trials: int,
    helpers: int,
) -> None:
    computer(4)
    monkeypatch.setattr(pdsearch.study.api, "WORTH", worth)
    search(tiny, trials=trials, device="cpu", progress=False)
    assert len(started) == helpers


@pytest.mark.parametrize(("workers", "helpers"), [(1, 0), (3, 2)])
def test_a_number_is_taken_at_its_word(
    tiny: Path, computer: Callable[..., None], started: list[str], workers: int, helpers: int
) -> None:
    computer(4)
    search(tiny, workers=workers, device="cpu", progress=False)
    assert len(started) == helpers


def test_what_cannot_be_handed_on_runs_alone(
    workdir: Path,
    computer: Callable[..., None],
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computer(4)
    monkeypatch.setattr(pdsearch.study.api, "WORTH", 0.0)
    found = search(families=["leaky"], train=lambda candidate: 0.5, trials=4, progress=False)
    assert found.stored.settings.study.workers == "auto"
    assert started == []


# ------------------------------------------------------------------------------------- no matter


def _results(study: Path, url: str, workers: int) -> dict[int, Any]:
    shutil.rmtree(study.parent / "present", ignore_errors=True)
    (study.parent / "expected").write_text(str(workers))
    stored = search(study, storage=url, workers=workers, device="cpu", progress=False).stored
    rows = stored.trials()
    assert len({row.owner["pid"] for row in rows}) == workers
    return {
        row.number: (row.candidate.formula, row.value, [e["loss"] for e in row.epochs])
        for row in rows
    }


def test_a_candidates_result_does_not_depend_on_how_many_run(tiny: Path) -> None:
    alone = _results(tiny, "sqlite:///alone.db", 1)
    together = _results(tiny, "sqlite:///together.db", 2)
    assert alone == together  # to the bit
    assert len(alone) == 6


def test_a_resumed_study_may_have_other_workers(tiny: Path) -> None:
    search(tiny, workers=1, trials=3, device="cpu", progress=False)
    assert search(tiny, workers="auto", device="cpu").stored.counts()["total"] == 6


def test_a_resumed_study_keeps_its_threads(
    tiny: Path, computer: Callable[..., None], started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    computer(4)
    monkeypatch.setattr(pdsearch.study.api, "WORTH", 0.0)
    search(tiny, threads=2, trials=2, workers=1, device="cpu", progress=False)
    stored = search(tiny, workers="auto", device="cpu", progress=False).stored
    assert stored.study.user_attrs["pdsearch:threads"] == 2
    assert len(started) == 1  # two trials of two threads each fill four cores
    before = stored.study.trials
    with pytest.raises(InputError, match=r"begun with other settings: threads 2 → 1"):
        search(tiny, threads=1, trials=8, device="cpu", progress=False)
    with pytest.raises(InputError, match=r"begun with threads 2, .* got 1: omit it"):
        worker(tiny, threads=1, progress=False)
    assert stored.study.trials == before
    assert open_study("tiny", storage="sqlite:///study.db").settings.study.trials == 6
    assert search(tiny, threads=2, trials=7, workers=1).stored.counts()["total"] == 7


def test_a_study_that_goes_on_elsewhere_says_so(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "the study was begun on cuda:0 and is resumed on cpu"
    stored = search(tiny, trials=2, workers=1, device="cpu").stored
    assert "was begun on" not in capsys.readouterr().err
    stored.study.set_user_attr("pdsearch:device", "cuda:0")
    search(tiny, trials=3, workers=1, device="cpu")
    assert capsys.readouterr().err.count(told) == 1
    worker(tiny, device="cpu")
    assert capsys.readouterr().err.count(told) == 1


@pytest.mark.parametrize(("rate", "said"), [("0.1", False), ("1e-9", True)])
def test_a_study_in_which_nothing_learned_says_so(
    tiny: Path, capsys: pytest.CaptureFixture[str], rate: str, said: bool
) -> None:
    tiny.write_text(tiny.read_text().replace("learning_rate = 0.1", f"learning_rate = {rate}"))
    search(tiny, workers=1, trials=2, device="cpu")
    assert ("no trial is above guessing (10." in capsys.readouterr().err) is said
