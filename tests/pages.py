"""The blocks of a page of the documentation, run in order as a reader would type them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pdsearch.cli import main

ROOT = Path(__file__).parent.parent

BLOCK = re.compile(r'^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, language: str) -> list[str]:
    return [text for kind, _, text in BLOCK.findall(text_of(page)) if kind == language]


def commands_of(page: str) -> list[str]:
    lines = "".join(blocks_of(page, "console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def run_page(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run every block in this process: importing torch for each would take most of the time.

    Blocks with a title are written to that file of the current folder.
    """
    namespace: dict[str, Any] = {}
    for language, title, text in BLOCK.findall(text_of(page)):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, page, "exec"), namespace)
        else:
            assert language == "console", f"{page} has a block of {language}, which is not run"
            for line in text.splitlines():
                run_command(line.removeprefix("$ "), capsys)


def run_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed, otherwise, _ = line.partition(" || echo ")
    program, *words = shlex.split(typed)
    assert program == "pdsearch"
    status = main(words)
    told = capsys.readouterr()
    assert status == (1 if otherwise else 0), f"{line}\n{told.out}\n{told.err}"
