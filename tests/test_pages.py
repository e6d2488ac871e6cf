"""The pages of the documentation: their examples run as printed, their links lead somewhere."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from pages import ROOT, blocks_of, run_page, text_of

import pdsearch
from pdsearch import compose
from pdsearch.study import load_study_file

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text_of(page)):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)#/]+\.md)\)", text_of("docs/index.md")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} == linked


# ---------------------------------------------------------------------------------- the tutorial


def test_the_tutorial_runs(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(workdir)  # as for a script in this folder
    run_page("docs/tutorial.md", capsys)
    for name in ("report.html", "best.py", "best.json"):
        assert (workdir / "results" / "tutorial" / name).is_file()
    assert "hill" in (workdir / "my_family.py").read_text(encoding="utf-8")
    sys.modules.pop("pd_relu")


def test_the_page_on_your_own_training_runs(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page("docs/your_training.md", capsys)
    *winners, luck = capsys.readouterr().out.splitlines()
    assert len(winners) == 3 and all(line.startswith("Candidate(") for line in winners)
    assert re.fullmatch(r"[+-]\d\.\d{3} ± \d\.\d{3} against ReLU; below zero is better", luck)


# ------------------------------------------------------------------------------------- families


def test_the_families_page_runs(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page("docs/families.md", capsys)
    assert "PDReLU" in (workdir / "pd_relu.py").read_text(encoding="utf-8")
    (families,) = re.findall(r"`(families = \[.*?\])`", text_of("docs/families.md"))
    (workdir / "study.toml").write_text(f'[study]\nname = "one"\n{families}\n', encoding="utf-8")
    study = load_study_file(workdir / "study.toml")
    assert study.study.families[1].endswith("my_families.py:some_tail")


def test_every_composition_is_in_the_table() -> None:
    named = set(re.findall(r"compose\.(\w+)", text_of("docs/families.md")))
    assert named == set(compose.__all__)
    assert pdsearch.compose is compose


# ----------------------------------------------------------------------------------- study files


def test_the_study_file_is_valid(workdir: Path) -> None:
    for block, name in zip(
        blocks_of("docs/study.md", "toml"), ("example", "digits-groups"), strict=True
    ):
        (workdir / "example.toml").write_text(block)
        study = load_study_file(workdir / "example.toml")
        assert study.study.name == tomllib.loads(block)["study"]["name"] == name


# ------------------------------------------------------------------------------------ the site


def test_every_public_name_is_in_the_reference() -> None:
    described = set(re.findall(r"^::: pdsearch\.(\w+)", text_of("docs/reference.md"), re.MULTILINE))
    assert set(pdsearch.__all__) - {"x", "t", "InputError", "PdsearchError"} <= described
