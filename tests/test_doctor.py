"""The doctor finds what is broken and names what helps; it never shows a password."""

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
import torch

from pdsearch.cli import main
from pdsearch.doctor import Finding, examine
from pdsearch.kernels import build, gpu
from pdsearch.study.machine import Owner
from pdsearch.study.storage import GRACE


def _of(findings: tuple[Finding, ...], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.name == name]


def _storage(url: str) -> list[Finding]:
    return [f for f in examine(storage=url) if f.name.startswith(("storage", "study"))]


def _study(path: Path, name: str = "s") -> optuna.Study:
    return optuna.create_study(study_name=name, storage=f"sqlite:///{path}")


def _execute(statement: str) -> None:
    with contextlib.closing(sqlite3.connect("x.db")) as database, database:
        database.execute(statement)


def test_this_installation_is_well(workdir: Path) -> None:
    findings = examine()
    assert not [f for f in findings if f.level == "attention"]
    assert {"python", "pdsearch", "packages", "library", "compiler", "threads"} <= {
        f.name for f in findings
    }


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        (None, "ok"),
        ("Triton is not installed: No module named 'triton'", "attention"),
        ("Triton cannot run a kernel on cuda:1: Failed to find C compiler", "attention"),
        ("switched off by PDSEARCH_FUSED=0", "info"),
    ],
)
def test_whether_the_gpu_kernel_runs(
    reason: str | None, level: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _of(examine(), "GPU kernel") or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(gpu, "load", lambda device: reason if device.index == 1 else None)
    (finding,) = _of(examine(), "GPU kernel")
    assert finding.level == level
    assert level == "ok" or (reason is not None and reason in finding.text and finding.remedy)


def test_what_needs_attention_comes_with_a_remedy(workdir: Path) -> None:
    (workdir / "broken.db").write_bytes(b"no database, " * 100)
    findings = examine(storage="sqlite:///broken.db")
    assert [f for f in findings if f.level == "attention"]
    assert all(f.remedy for f in findings if f.level == "attention")


def test_without_a_storage_nothing_is_created(workdir: Path) -> None:
    (finding,) = _of(examine(), "storage")
    assert finding.level == "info"
    assert not list(workdir.iterdir())


def test_a_storage_that_was_named_must_be_there(workdir: Path) -> None:
    (finding,) = _storage("sqlite:///missing.db")
    assert finding.level == "attention" and "no such file" in finding.text
    assert not list(workdir.iterdir())


def test_a_file_that_is_no_database(workdir: Path) -> None:
    (workdir / "x.db").write_bytes(b"\x00garbage" * 1000)
    (finding,) = _storage("sqlite:///x.db")
    assert finding.level == "attention" and "not a database" in finding.text


def test_a_damaged_database(workdir: Path) -> None:
    study = _study(workdir / "x.db")
    for value in range(200):
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"filler": "x" * 500}))
    data = bytearray((workdir / "x.db").read_bytes())
    data[8192:60000] = b"\xff" * (60000 - 8192)
    (workdir / "x.db").write_bytes(data)
    assert _storage("sqlite:///x.db")[0].level == "attention"


def test_an_empty_database_is_fine(workdir: Path) -> None:
    (workdir / "x.db").touch()
    (finding,) = _storage("sqlite:///x.db")
    assert finding.level == "ok" and "no study" in finding.text


def test_a_dead_trial_is_found_by_its_heartbeat(workdir: Path) -> None:
    """Of a process that cannot be looked at; trials 0, 2 are dead, 1 beats, 3 has just begun."""
    study = _study(workdir / "x.db")
    for _ in range(4):
        study.ask()
    _execute(
        "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES "
        f"(1, datetime('now', '-{GRACE + 60} seconds')), (2, datetime('now'))"
    )
    _execute("UPDATE trials SET datetime_start = '2020-01-01 00:00:00' WHERE trial_id = 3")
    _, found = _storage("sqlite:///x.db")
    assert found.level == "attention" and "trial(s) 0, 2 " in found.text and "gone" in found.text
    assert "pdsearch search" in found.remedy


def test_a_dead_trial_is_found_by_its_process(workdir: Path) -> None:
    study = _study(workdir / "x.db")
    here = Owner.here()
    study.ask().set_user_attr("pdsearch:owner", here.to_dict())
    assert _storage("sqlite:///x.db")[1].level == "ok"
    gone = {**here.to_dict(), "started": "1"}  # the number is used again by a younger process
    study.ask().set_user_attr("pdsearch:owner", gone)
    assert "trial(s) 1 " in _storage("sqlite:///x.db")[1].text


def test_a_study_of_a_newer_version(workdir: Path) -> None:
    _study(workdir / "x.db").set_user_attr("pdsearch:schema", 99)
    _, found = _storage("sqlite:///x.db")
    assert found.level == "attention" and found.remedy == "update pdsearch"


def test_a_study_in_good_order(workdir: Path) -> None:
    _study(workdir / "x.db")
    storage, study = _storage("sqlite:///x.db")
    assert storage.level == study.level == "ok"
    assert "1 study" in storage.text and study.name == "study 's'"


def test_tables_of_another_optuna(workdir: Path) -> None:
    _study(workdir / "x.db")
    _execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    (finding,) = _storage("sqlite:///x.db")
    assert finding.level == "attention" and "optuna storage upgrade" in finding.remedy


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:s3cret{%25}@127.0.0.1:1/db",
        "postgresql+psycopg://user:s3cret@[::1:1/db",
        "mysql+nosuchdriver://user:s3cret@127.0.0.1:1/db",
    ],
)
def test_an_unreachable_server_shows_no_password(url: str, workdir: Path) -> None:
    (finding,) = _storage(url)
    assert finding.level == "attention"
    assert "s3cret" not in finding.text + finding.remedy


def test_no_compiler(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (finding,) = _of(examine(), "compiler")
    assert finding.level == "attention" and "g++" in finding.remedy


def test_prebuilt_kernels_that_do_not_fit(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = _of(examine(), "kernels")
    assert finding.level == "ok" and "prebuilt" not in finding.text
    (workdir / "fused-1.0-0123456789abcdef.so").write_bytes(b"of another torch")
    monkeypatch.setattr(build, "PREBUILT", workdir)
    (finding,) = _of(examine(), "kernels")
    assert finding.level == "ok" and "do not fit this torch" in finding.text


def test_more_threads_than_cores(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    (finding,) = _of(examine(), "threads")
    assert finding.level == "attention" and "--threads 2" in finding.remedy


def test_little_disk_space(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(workdir)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert {f.level for f in _of(examine(), "working folder")} == {"attention"}


def test_a_cache_folder_that_cannot_be_written(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    (finding,) = _of(examine(), "cache folder")
    assert finding.level == "attention" and "PDSEARCH_CACHE" in finding.remedy


def test_exit_status_and_json(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert main(["doctor", "--storage", "sqlite:///missing.db"]) == 1
    shown = capsys.readouterr().out
    assert "!!  storage" in shown and "→ " in shown and "1 thing(s)" in shown
