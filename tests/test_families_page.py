"""The examples of docs/families.md run as printed, and its table names every function."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import pdsearch
from pdsearch import compose
from pdsearch.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "families.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the blocks in order in one namespace; write their files, which the commands use."""
    namespace: dict[str, Any] = {}
    for language, file, text in BLOCKS:
        if file:
            (workdir / file).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, "docs/families.md", "exec"), namespace)
    commands = [text for language, _, text in BLOCKS if language == "console"]
    for line in "".join(commands).splitlines():
        program, *words = shlex.split(line.removeprefix("$ "))
        assert program == "pdsearch" and main(words) == 0, capsys.readouterr()
    assert "PDReLU" in (workdir / "pd_relu.py").read_text(encoding="utf-8")


def test_a_study_takes_the_file(workdir: Path) -> None:
    from pdsearch.study import load_study_file

    (families,) = re.findall(r"`(families = \[.*?\])`", PAGE)
    for _, file, text in BLOCKS:
        if file:
            (workdir / file).write_text(text, encoding="utf-8")
    (workdir / "study.toml").write_text(f'[study]\nname = "one"\n{families}\n', encoding="utf-8")
    study = load_study_file(workdir / "study.toml")
    assert study.study.families[1].endswith("my_families.py:some_tail")


def test_every_function_is_in_the_table() -> None:
    named = set(re.findall(r"compose\.(\w+)", PAGE))
    assert named == set(compose.__all__)
    assert pdsearch.compose is compose
