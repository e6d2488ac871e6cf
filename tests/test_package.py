"""The wheel, built and installed elsewhere, has everything it needs from us."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip unpacks it; its dependencies are this venv's."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.fail("these tests run in a checkout")
    folder = tmp_path_factory.mktemp("wheel")
    # The backend itself, which is one of the test requirements: no network is needed.
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("pdsearch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(installed: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
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
