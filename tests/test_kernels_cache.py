"""The compiled kernels in the cache: what is not whole is compiled anew, never mapped."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pdsearch.doctor import examine
from pdsearch.kernels import available, build
from pdsearch.study import machine

BACKWARD = """
import torch
from pdsearch import library, pd_relu
leaf = torch.linspace(-3, 3, 64, requires_grad=True)
pd_relu(leaf, library()["exp_tail"].default).sum().backward()
want = library()["exp_tail"].default(leaf.detach())
assert (leaf.grad - want).abs().max() < 1e-5
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a library would be, in a cache of the test's own, whole."""
    monkeypatch.setenv("PDSEARCH_CACHE", str(tmp_path))
    path = build._library()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x7fELF" + bytes(range(256)) * 64)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    path.with_suffix(".sum").write_text(f"{len(content)} {digest}\n")
    assert build.state() == "there"
    return path


@pytest.mark.parametrize("length", [0, 1, 4, 4096, 16_000, 16_387])
def test_a_library_that_is_cut_off(library: Path, length: int) -> None:
    library.write_bytes(library.read_bytes()[:length])
    assert build.state() == "damaged"


@pytest.mark.parametrize("place", [0, 5, 8_000, 16_387])
def test_a_library_with_another_byte(library: Path, place: int) -> None:
    content = bytearray(library.read_bytes())
    content[place] ^= 1
    library.write_bytes(content)
    assert build.state() == "damaged"


@pytest.mark.parametrize("text", ["", "0\n", "1 x\n", "\0", "é", "16388 " + "0" * 64 + "\n"])
def test_a_sum_that_fits_no_library(library: Path, text: str) -> None:
    library.with_suffix(".sum").write_text(text)
    assert build.state() == "damaged"


def test_a_library_of_an_earlier_version_has_no_sum(library: Path) -> None:
    library.with_suffix(".sum").unlink()
    assert build.state() == "damaged"
    library.unlink()
    assert build.state() == "absent"


@pytest.mark.parametrize("length", [0, 5000])
def test_what_is_damaged_is_compiled_anew(
    library: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.write_bytes(library.read_bytes()[:length])
    compiled = []

    def compile(folder: Path) -> None:
        path = folder / library.name
        compiled.append(path)
        path.write_bytes(b"whole")
        path.with_suffix(".sum").write_text(build._sum(b"whole"))

    monkeypatch.setattr(build, "compile_into", compile)
    monkeypatch.setattr(build.torch.ops, "load_library", lambda path: None)
    assert build._load() is None and build._load() is None
    assert compiled == [library]


@pytest.mark.parametrize(
    "change", ["nothing", "torch", "sources", "damaged", "unloadable", "other flags"]
)
def test_a_prebuilt_library_is_used_only_if_it_fits(
    change: str, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the kernels are compiled into the cache, here by a stand-in."""
    content = library.read_bytes()
    library.unlink()
    carried = tmp_path / "prebuilt" / library.name
    carried.parent.mkdir()
    carried.write_bytes(content)
    library.with_suffix(".sum").rename(carried.with_suffix(".sum"))
    monkeypatch.setattr(build, "PREBUILT", carried.parent)
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99.0+cpu")
    elif change == "sources":
        (tmp_path / "fused.h").write_text("// another")
        monkeypatch.setattr(build, "SOURCES", (*build.SOURCES, tmp_path / "fused.h"))
    elif change == "other flags":
        monkeypatch.setattr(build, "CODE_FLAGS", ("-O0",))
    elif change == "damaged":
        carried.write_bytes(content[:-1])
    loaded: list[Path] = []

    def load(path: str) -> None:
        if change == "unloadable" and Path(path) == carried:
            raise OSError("version `GLIBC_2.99' not found")
        loaded.append(Path(path))

    def compile(folder: Path) -> None:
        (folder / build._name()).write_bytes(b"compiled")

    monkeypatch.setattr(build, "compile_into", compile)
    monkeypatch.setattr(torch.ops, "load_library", load)
    assert build._load() is None
    (found,) = loaded
    assert build.carries_library() and build.uses_prebuilt() is False  # nothing was really loaded
    if change == "nothing":
        assert found == carried and not library.exists()
    else:
        assert found.parent == library.parent and found.read_bytes() == b"compiled"
        assert (found == library) == (change in ("damaged", "unloadable"))


@pytest.mark.skipif(available() is not None, reason="needs the compiled kernels")
@pytest.mark.parametrize(
    "share",
    [pytest.param(0.0, marks=pytest.mark.slow), 0.5, pytest.param(0.9, marks=pytest.mark.slow)],
)
def test_a_process_survives_a_library_that_is_cut_off(tmp_path: Path, share: float) -> None:
    real = build._library()
    folder = tmp_path / "kernels"
    folder.mkdir()
    for path in (real, real.with_suffix(".sum")):
        shutil.copy(path, folder / path.name)
    copy = folder / real.name
    os.truncate(copy, int(share * copy.stat().st_size))
    done = subprocess.run(
        [sys.executable, "-c", BACKWARD], capture_output=True, text=True,
        env={**os.environ, "PDSEARCH_CACHE": str(tmp_path), "CXX": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "false failed" in done.stderr and "run unfused" in done.stderr


# ------------------------------------------------------------------------------- what doctor says


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/compiler", "/no/such/compiler does not exist"),
        ("no-such-compiler -O2", "no-such-compiler does not exist"),
        ("false", "false compiles no C"),
        ("/etc/passwd", "/etc/passwd does not exist or cannot be run"),
        ("c++ --no-such-flag", "compiles no C"),
        ("c++ 'unclosed", "CXX cannot be read"),
        ("c++ -std=c++98 -include nothing.h", "compiles no C"),
    ],
)
def test_doctor_asks_the_compiler_that_the_kernels_ask(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, workdir: Path
) -> None:
    monkeypatch.setenv("CXX", command)
    (found,) = [f for f in examine() if f.name == "compiler"]
    assert found.level == "attention" and said in found.text and found.remedy
    assert "\n" not in found.text


def test_doctor_finds_backward_passes_that_run_unfused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pdsearch", "doctor"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PDSEARCH_CACHE": str(tmp_path), "CXX": "false"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "run unfused: false failed" in done.stdout


# --------------------------------------------------------------------------- a container's quota


@pytest.mark.parametrize(
    ("files", "groups", "cores"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1),
        ({"cpu.max": "400000 100000"}, "0::/", 4),
        ({"cpu.max": "max 100000"}, "0::/", 8),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "max 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b", 3),
        ({"a/cpu.max": "200000 100000"}, "0::/other", 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 8),
        (
            {"cpu/d/cpu.cfs_quota_us": "50000", "cpu/d/cpu.cfs_period_us": "100000"},
            "2:cpu,cpuacct:/d", 1,
        ),
        # A container's own root, of which /proc tells the path outside.
        (
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            "2:cpu,cpuacct:/docker/0123", 2,
        ),
        ({"unified/cpu.max": "200000 100000"}, "0::/", 2),
        ({"cpu.max": "rubbish"}, "rubbish", 8),
        ({"cpu.max": "100000 0"}, "0::/../..", 8),
        ({}, "", 8),
    ],
)  # fmt: skip
def test_cores_that_a_quota_pays(
    files: dict[str, str], groups: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "self").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert machine.available_cores() == cores
    (threads,) = [f for f in examine() if f.name == "threads"]
    assert f"{cores} core(s)" in threads.text


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_of_a_container(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "self")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("123456\n")
    assert machine.available_memory() == 123456
