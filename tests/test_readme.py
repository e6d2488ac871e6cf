"""Every example of the README runs as printed."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pdsearch.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# Installing is tested by test_package.py; `make test` is what runs this.
ELSEWHERE = ("pip install", "make ")


def _blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def _commands() -> list[str]:
    lines = "".join(_blocks("console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def test_only_languages_that_are_run() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "console", "toml"}


def test_python_blocks(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run them in order in one namespace, as a reader would paste them."""
    namespace: dict[str, Any] = {}
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    out = capsys.readouterr().out
    assert "True proved" in out


def test_the_first_example_is_about_ten_lines() -> None:
    lines = [line for line in _blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    assert README.index("```python") < README.index("hero.png") < README.index("## ")


def test_the_picture_is_there() -> None:
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https://)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_index_of_the_docs_has_every_page() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((?!https://)([^)#]+)", index))
    assert all((docs / target).exists() for target in linked)
    assert {path.name for path in docs.glob("*.md")} - {"index.md"} <= linked


def test_the_study_file_is_valid(workdir: Path) -> None:
    from pdsearch.study import load_study_file

    (block,) = _blocks("toml")
    (workdir / "example.toml").write_text(block)
    study = load_study_file(workdir / "example.toml")
    assert study.study.name == tomllib.loads(block)["study"]["name"] == "example"


@pytest.mark.parametrize("model", ["mlp", pytest.param("alexnet", marks=pytest.mark.slow)])
def test_console_blocks(workdir: Path, capsys: pytest.CaptureFixture[str], model: str) -> None:
    """Run them in order, as a reader would type them, in a copy of the files they need.

    They run in this process, because importing torch for each command would take most of the time.
    A small network in place of the study's own takes a tenth of its time; the rest is as shipped.
    """
    shutil.copytree(ROOT / "studies", workdir / "studies", ignore=shutil.ignore_patterns("results"))
    study = workdir / "studies" / "digits.toml"
    text = study.read_text(encoding="utf-8")
    assert 'model = "alexnet"' in text
    study.write_text(text.replace('model = "alexnet"', f'model = "{model}"'), encoding="utf-8")
    for command in _commands():
        if command.startswith(ELSEWHERE):
            continue
        typed, otherwise, _ = command.partition(" || echo ")
        program, *arguments = shlex.split(typed)
        assert program == "pdsearch"
        status = main(arguments)
        told = capsys.readouterr()
        assert status in ((0, 1) if otherwise else (0,)), f"{command}\n{told.out}\n{told.err}"
    for name in ("report.html", "best.py", "best.json"):
        assert (workdir / "studies" / "results" / "digits" / name).is_file()
    assert (workdir / "report.html").is_file() and (workdir / "pd_relu.py").is_file()


def test_make_knows_the_targets_that_are_named() -> None:
    targets = {
        word for line in _commands() if line.startswith("make ") for word in line.split()[1:]
    }
    targets |= set(re.findall(r"`make (\w+)`", README))
    assert {"search", "test"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
