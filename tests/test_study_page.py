"""docs/study.md lists every key of a study file as the code defines it."""

import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from pdsearch.study.file import validate
from pdsearch.study.settings import StudyFile

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "study.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made() -> ModuleType:
    return load_script(DOCS / "study.py")


def test_the_page_is_current(made: ModuleType) -> None:
    assert made.page() == PAGE, "run: python docs/study.py"


def test_the_defaults_that_the_page_names_are_a_study_file() -> None:
    section, lines = "", []
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section = line.strip("# `[]")
            lines.append(f"[{section}]")
        cells = [cell.strip() for cell in line.split(" | ")]
        default = cells[1].strip("`") if line.startswith("| `") else "–"
        if default not in ("–", "required", "{}"):
            lines.append(f"{cells[0].strip('| `')} = {default}")
    lines.insert(1, 'name = "one"\nfamilies = ["leaky"]')
    bare = validate({"study": {"name": "one", "families": ["leaky"]}})
    told = validate(tomllib.loads("\n".join(lines)))
    assert told == bare
    assert len(lines) > 30


@pytest.mark.parametrize(
    ("section", "key", "expected"),
    [
        ("study", "trials", "whole number ≥ 1"),
        ("study", "workers", "whole number or `auto`"),
        ("study", "families", "list of text or table"),
        ("trial", "validation", "number > 0, < 1"),
        ("trial", "learning_rates", "list of number > 0"),
        ("trial", "dropout", "number ≥ 0, < 1"),
        ("trial", "augment", "`true`, `false`"),
        ("confirm", "rate_epochs", "whole number ≥ 1"),
    ],
)
def test_what_a_key_may_hold(made: ModuleType, section: str, key: str, expected: str) -> None:
    kind = StudyFile.model_fields[section].annotation
    assert kind is not None
    assert made.values(kind.model_fields[key]) == expected
