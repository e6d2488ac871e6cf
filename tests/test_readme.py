"""The README: its examples run as printed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, blocks_of, commands_of, run_command, text_of

from pdsearch.cli.parser import parse

README = text_of("README.md")

# Installing is tested by test_package.py; `make test` is what runs this.
ELSEWHERE = ("pip install", "make ")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_python_blocks(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run them in order in one namespace, as a reader would paste them."""
    namespace: dict[str, Any] = {}
    for block in blocks_of("README.md", "python"):
        exec(compile(block, "README.md", "exec"), namespace)
    out = capsys.readouterr().out
    assert "True proved" in out


def test_the_first_example_is_about_ten_lines() -> None:
    lines = [line for line in blocks_of("README.md", "python")[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    assert README.index("```python") < README.index("hero.png") < README.index("## ")


def test_the_picture_is_there() -> None:
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG")


def _commands() -> list[str]:
    return [line for line in commands_of("README.md") if not line.startswith(ELSEWHERE)]


def test_the_commands_are_known() -> None:
    """The tutorial's test runs the same commands on a smaller study."""
    asked = [parse(shlex.split(line)[1:]) for line in _commands()]
    assert [one.command for one in asked[1:]] == ["check", "search", "report", "confirm", "export"]
    for one in asked:
        if str(getattr(one, "study", "")).endswith(".toml"):
            assert (ROOT / one.study).is_file()


@pytest.mark.slow
def test_the_commands_run(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In order, as a reader would type them, in a copy of the files they need."""
    shutil.copytree(ROOT / "studies", workdir / "studies", ignore=shutil.ignore_patterns("results"))
    for command in _commands():
        run_command(command, capsys)
    for name in ("report.html", "best.py", "best.json"):
        assert (workdir / "studies" / "results" / "digits" / name).is_file()
    assert (workdir / "report.html").is_file() and (workdir / "pd_relu.py").is_file()


def test_make_knows_the_targets_that_are_named() -> None:
    targets = {
        word
        for line in commands_of("README.md")
        if line.startswith("make ")
        for word in line.split()[1:]
    }
    targets |= set(re.findall(r"`make (\w+)`", README))
    assert {"search", "test"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
