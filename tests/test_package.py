"""The wheel, built and installed elsewhere, has everything it needs from us."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pdsearch.kernels import available, build

ROOT = Path(__file__).parent.parent


def _wheel(folder: Path, **environment: str) -> Path:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.fail("these tests run in a checkout")
    # The backend itself, which is one of the test requirements: no network is needed.
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(
        build, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("pdsearch-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip unpacks it; its dependencies are this venv's."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = _wheel(folder)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(
    installed: Path, *words: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed), **environment},
    )


def test_the_wheel_finds_the_library(installed: Path, tmp_path: Path) -> None:
    script = (
        "import pdsearch; from pdsearch.family import library_directory; "
        "print(pdsearch.__file__); print(library_directory()); print(len(pdsearch.library()))"
    )
    done = _run(installed, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package, families, count = done.stdout.splitlines()
    assert Path(package).is_relative_to(installed)
    assert Path(families) == installed / "pdsearch" / "search_spaces"
    assert int(count) == len(list(_library_names()))


def _library_names() -> list[str]:
    from pdsearch import library

    return list(library())


def test_the_wheel_holds_the_data_files(installed: Path) -> None:
    package = installed / "pdsearch"
    for name in ("py.typed", "starter/my_family.py", "starter/study.toml"):
        assert (package / name).is_file(), name
    sources = [
        path for path in (ROOT / "pdsearch").rglob("*") if path.suffix not in (".py", ".pyc")
    ]
    for path in sources:
        if path.is_file() and "__pycache__" not in path.parts:
            assert (package / path.relative_to(ROOT / "pdsearch")).is_file(), path
    assert not (installed / "tests").exists()


def test_the_wheel_s_command_runs(installed: Path, tmp_path: Path) -> None:
    done = _run(installed, "-m", "pdsearch", "init", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "study.toml").is_file()


# ------------------------------------------------------------------------------ prebuilt kernels

BITS = """
import torch
from pdsearch import library, pd_relu
out = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for name in ("exp_tail", "gelu", "leaky"):
        leaf = torch.linspace(-9, 9, 9_001, dtype=dtype, requires_grad=True)
        pd_relu(leaf, library()[name].default).backward(torch.linspace(-2, 2, 9_001, dtype=dtype))
        out[name, dtype] = leaf.grad
"""
DOCTOR = """
from pdsearch.cli import main
torch.save(out, "prebuilt.pt")
assert main(["doctor", "--json"]) in (0, 1)
"""


def _runs_prebuilt(installed: Path, tmp_path: Path) -> None:
    """Without a compiler, and with an empty cache: the kernels' bits, and doctor names them."""
    alone = {"PATH": "/nowhere", "CXX": "", "PDSEARCH_CACHE": str(tmp_path / "cache")}
    done = _run(installed, "-c", BITS + DOCTOR, cwd=tmp_path, **alone)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache").exists()
    said = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    place = installed / "pdsearch" / "kernels" / "prebuilt"
    assert said["kernels"]["text"] == f"prebuilt kernels of the wheel: {place}"
    assert said["compiler"]["level"] == "info"
    # The oracle: the kernels that were compiled here.
    compiled: dict[str, Any] = {}
    exec(BITS, compiled)
    assert not build.uses_prebuilt()
    found, wanted = torch.load(tmp_path / "prebuilt.pt"), compiled["out"]
    assert len(found) == 9 and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.skipif(available() is not None, reason="needs the compiled kernels")
def test_a_library_in_the_wheel_is_used_without_a_compiler(installed: Path, tmp_path: Path) -> None:
    """That of this machine's cache stands for the one that the wheel's build compiles."""
    site = tmp_path / "site"
    shutil.copytree(installed, site)
    (site / "pdsearch" / "kernels" / "prebuilt").mkdir()
    for path in (build._library(), build._library().with_suffix(".sum")):
        shutil.copy(path, site / "pdsearch" / "kernels" / "prebuilt")
    _runs_prebuilt(site, tmp_path)


@pytest.mark.slow
def test_the_wheel_with_compiled_kernels(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, HATCH_BUILD_HOOK_ENABLE_CUSTOM="true")
    assert not wheel.name.endswith("-any.whl") and "-py3-none-" in wheel.name
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(wheel)], check=True)
    _runs_prebuilt(tmp_path / "site", tmp_path)
