"""A study that an earlier version made is read, resumed, reported and confirmed as it was then.

`data/before` holds two studies made by version 0.1.0 (commit 15f8918), and what that version read
in them. `halving` has references, rungs, a continued trial, two rates, a criterion from a file,
learned criteria and a confirmation; `tied` has further seeds for its best three.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import pdsearch
from pdsearch.confirm import confirm, load_confirmation
from pdsearch.insight import learned_criteria
from pdsearch.plain import plain
from pdsearch.report import study_report
from pdsearch.study import StoredStudy, load_study_file, open_study, search, status

BEFORE = Path(__file__).parent / "data" / "before"
STORAGE = "sqlite:///study.sqlite"


@pytest.fixture
def folder(workdir: Path) -> Path:
    for path in BEFORE.iterdir():
        shutil.copy(path, workdir)
    return workdir


def read(stored: StoredStudy) -> dict[str, Any]:
    """All that a reader sees of a study, as plain data."""
    found = load_confirmation(stored)
    rows = [
        {**vars(row), "candidate": row.candidate.name, "started": row.started.isoformat()}
        for row in stored.trials()
    ]
    everything = {
        "settings": stored.settings.model_dump(mode="json"),
        "families": {name: family.to_dict() for name, family in stored.families.items()},
        "own": stored.own_criteria,
        "status": status(stored),
        "rows": rows,
        "ranked": [row.number for row in stored.ranked()],
        "confirmation": None if found is None else found.to_dict(),
    }
    return json.loads(json.dumps(plain(everything)))


@pytest.mark.parametrize("name", ["halving", "tied"])
def test_it_reads_as_it_did(folder: Path, name: str) -> None:
    expected = json.loads((folder / f"{name}.json").read_text())
    assert read(open_study(f"{name}.toml")) == expected
    assert read(open_study(f"{name}-before", storage=STORAGE)) == expected


def test_it_is_resumed(folder: Path) -> None:
    before = read(open_study("halving.toml"))["rows"]
    result = search(load_study_file("halving.toml"), trials=12, device="cpu", progress=False)
    after = read(result.stored)["rows"]
    assert result.to_dict()["trials"]["total"] == 12
    kept = {row["number"]: row for row in after}
    # A stopped trial may have been continued, under a number of its own.
    assert all(kept.get(row["number"], row) == row for row in before)
    assert len(after) == 12 and max(kept) >= 12


def test_a_change_is_refused(folder: Path) -> None:
    text = (folder / "halving.toml").read_text().replace("depth = 1", "depth = 2")
    (folder / "halving.toml").write_text(text)
    with pytest.raises(pdsearch.InputError, match=r"other settings: trial\.depth 1 → 2\. Restore"):
        search("halving.toml", device="cpu", progress=False)


def test_it_is_reported(folder: Path) -> None:
    stored = open_study("halving.toml")
    page = study_report(stored)
    assert "leaky(alpha=0.478013)" in page and "stopped after epoch 0.5" in page
    assert "below_six_tenths" in page
    kept = stored.study.user_attrs["pdsearch:insight"]
    learned_criteria(stored)
    assert open_study("halving.toml").study.user_attrs["pdsearch:insight"] == kept


def test_its_confirmation_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = open_study("halving.toml")
    kept = [v for k, v in stored.study.user_attrs.items() if k.startswith("pdsearch:confirm/")]
    made_with = kept[0]["setting"]["versions"]
    monkeypatch.setattr(pdsearch, "__version__", made_with["pdsearch"])
    monkeypatch.setattr(torch, "__version__", made_with["torch"])
    lines: list[str] = []
    again = confirm(stored, top=1, device="cpu", workers=1, progress=lines.append)
    assert lines == []
    assert (
        plain(again.to_dict()) == json.loads((folder / "halving.json").read_text())["confirmation"]
    )
    further = confirm(stored, top=1, seeds=3, device="cpu", workers=1, progress=lines.append)
    assert len(lines) == 3 and [row.seeds for row in further.rows] == [3, 3, 3]
    assert [row.accuracy[:2] for row in further.rows] == [row.accuracy for row in again.rows]


def test_a_copy_is_another_study(folder: Path) -> None:
    optuna.copy_study(
        from_study_name="tied-before",
        from_storage=STORAGE,
        to_storage=STORAGE,
        to_study_name="copy",
    )
    assert read(open_study("copy", storage=STORAGE))["ranked"] == [4, 1, 7, 5, 6, 3, 2]
