"""Criteria of one's own that a study file names: loaded by every process, kept, shown."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from made_up import made_up_training

from pdsearch import Candidate, InputError, load_family, search
from pdsearch.cli import main
from pdsearch.insight import learned_criteria
from pdsearch.report import study_report
from pdsearch.study import open_study, worker

MINE = '''
import torch

def at_minus_one(candidate):
    """g(-1) is at most 0.3."""
    value = float(candidate(torch.tensor([-1.0]))[0])
    return value, value <= 0.3
'''
FILE = """
[study]
name = "s"
families = ["leaky"]
references = []
trials = 8
sampler = "random"
pruner = "none"
storage = "sqlite:///{folder}/study.db"
[criteria]
consistent = 0.25
own = ["criteria/mine.py:at_minus_one"]
[trial]
dataset = "digits"
epochs = 2
batch_size = 32
"""


@pytest.fixture
def study(workdir: Path) -> Path:
    (workdir / "criteria").mkdir()
    (workdir / "criteria" / "mine.py").write_text(MINE)
    file = workdir / "s.toml"
    file.write_text(FILE.format(folder=workdir))
    return file


def train(candidate: Candidate) -> Iterator[float]:
    yield float(candidate(torch.tensor([-1.0]))[0])


def test_they_gate_and_are_kept(
    study: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "elsewhere").mkdir()
    monkeypatch.chdir(workdir / "elsewhere")  # paths are relative to the study file
    stored = search(study, train=train, progress=False).stored
    assert stored.own_criteria == {"criteria/mine.py:at_minus_one": MINE}
    rows = stored.trials()
    assert rows[0].criteria is None  # the baseline is never gated
    for row in rows[1:]:
        assert row.criteria is not None and row.candidate is not None
        (own,) = [e for e in row.criteria["criteria"] if e["name"] == "at_minus_one"]
        value = float(row.candidate(torch.tensor([-1.0]))[0])
        assert own["value"] == value and own["passed"] == (value <= 0.3)
        assert own["statement"] == "g(-1) is at most 0.3." and own["verdict"] == "measured"
        assert (row.status == "ruled_out") == (value > 0.3)
    assert {row.status for row in rows[1:]} == {"complete", "ruled_out"}


def test_the_report_and_the_learned_criteria_tell_of_them(study: Path) -> None:
    stored = search(study, train=train, progress=False).stored
    page = study_report(stored)
    assert "criteria/mine.py:at_minus_one" in page and "value &lt;= 0.3" in page
    assert page.count("g(-1) is at most 0.3.") >= 1
    assert "For whole families" in page
    cells = "<td>alive_below_zero, consistent</td>\n<td>forward_is_relu, at_minus_one</td>"
    assert cells in page
    learned = {one.name: one for one in learned_criteria(stored).criteria}
    complete = [row for row in stored.trials()[1:] if row.status == "complete"]
    assert learned["at_minus_one"].n == len(complete)
    assert learned["at_minus_one"].statement == "g(-1) is at most 0.3."


def test_a_report_without_a_best_tells_what_was_decided(study: Path) -> None:
    stored = search(study, train=train, trials=1, progress=False).stored
    assert stored.best() is None
    page = study_report(stored)
    assert "For whole families" in page and "value &lt;= 0.3" in page


def test_everything_that_is_missing_is_told_at_once(study: Path) -> None:
    study.write_text(
        study.read_text()
        .replace('"leaky"', '"leakyy"')
        .replace("at_minus_one", 'at_one", "gone.py:f", "criteria/mine.py:at_minus_one')
    )
    with pytest.raises(InputError, match="families") as caught:
        search(study, train=train, progress=False)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "study.families.0", "criteria.own.0", "criteria.own.1",
    ]  # fmt: skip
    assert "has no function 'at_one' (it has: at_minus_one)" in lines[1]
    assert "gone.py does not exist" in lines[2]
    assert not (study.parent / "study.db").exists()


def test_another_text_is_another_study(study: Path, workdir: Path) -> None:
    search(study, train=train, trials=4, progress=False)
    mine = workdir / "criteria" / "mine.py"
    mine.write_text("# a remark\n" + MINE.replace("<= 0.3\n", "<=  0.3\n"))
    assert search(study, train=train, trials=5, progress=False).to_dict()["trials"]["total"] == 5
    mine.write_text(MINE.replace("value <= 0.3", "value <= 0.1"))
    with pytest.raises(
        InputError, match=r"criteria\.own 'criteria/mine\.py:at_minus_one': the content"
    ):
        search(study, train=train, progress=False)
    study.write_text(study.read_text().replace('own = ["', '# own = ["'))
    with pytest.raises(
        InputError, match=r"criteria\.own \['criteria/mine.py:at_minus_one'\] → \[\]"
    ):
        search(study, train=train, progress=False)


def test_workers_load_them_from_the_same_text(study: Path, workdir: Path) -> None:
    with made_up_training():
        search(study, trials=2, device="cpu", progress=False)
        stored = open_study("s", storage=f"sqlite:///{workdir}/study.db")
        optuna_study = optuna.load_study(study_name="s", storage=f"sqlite:///{workdir}/study.db")
        settings = optuna_study.user_attrs["pdsearch:settings"]
        settings["study"]["trials"] = 6
        optuna_study.set_user_attr("pdsearch:settings", settings)
        worker(
            "s",
            storage=f"sqlite:///{workdir}/study.db",
            device="cpu",
            trust_study_code=True,
            progress=False,
        )
        rows = stored.trials()[1:]
        assert len(rows) == 5
        assert all(row.criteria["criteria"][-1]["name"] == "at_minus_one" for row in rows)
        (workdir / "criteria" / "mine.py").write_text(MINE.replace("0.3", "0.1"))
        with pytest.raises(InputError, match=r"begun with another text of criteria/mine\.py"):
            worker(
                "s",
                storage=f"sqlite:///{workdir}/study.db",
                device="cpu",
                trust_study_code=True,
                progress=False,
            )
        (workdir / "criteria" / "mine.py").unlink()
        with pytest.raises(InputError, match=r"criteria\.own\.0: .* does not exist"):
            worker(
                "s",
                storage=f"sqlite:///{workdir}/study.db",
                device="cpu",
                trust_study_code=True,
                progress=False,
            )


def test_the_command_line_says_it_in_one_line(
    study: Path, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "criteria" / "mine.py").write_text(
        "def at_minus_one(candidate):\n    return {}[1]\n"
    )
    status = main(["search", "s.toml", "--device", "cpu", "-q", "--set", "trial.model=mlp"])
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert "the criterion 'at_minus_one' failed for leaky(alpha=" in err
    assert "KeyError: 1" in err and "Traceback" not in err


def test_status_tells_what_holds_for_whole_families(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study.write_text(study.read_text().replace("consistent = 0.25", "consistent = 0.1"))
    search(study, train=train, trials=2, progress=False)
    assert main(["status", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "proved for the whole family leaky: alive_below_zero" in lines
    # E|g - 1[x>0]| is alpha/2; what cannot pass begins at alpha = 0.2, parts of the range after it
    (drawn,) = [line for line in lines if line.startswith("drawn for leaky: alpha in [")]
    assert drawn.endswith("]; the rest of its range fails the criteria")
    low, high = drawn.split("[")[1].split("]")[0].split(", ")
    whole: Any = load_family("leaky").space["alpha"]
    assert float(low) == whole.low and 0.2 <= float(high) < whole.high
