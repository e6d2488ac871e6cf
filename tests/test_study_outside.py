"""What others do to a study through Optuna itself, and going on under other versions."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from made_up import made_up_study, made_up_training
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import pdsearch.confirm.retrain
from pdsearch import InputError, load_family, search
from pdsearch.cli import main
from pdsearch.study import open_study
from pdsearch.study.begin import versions

URL = "sqlite:///study.db"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study of images, its training made up."""
    folder = tmp_path_factory.mktemp("made")
    made_up_study(folder, trials=5, confirmed=False)
    return folder


def copied(made: Path, folder: Path) -> None:
    shutil.copy(made / "study.db", folder)
    text = (made / "study.toml").read_text(encoding="utf-8").replace(str(made), str(folder))
    (folder / "study.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def folder(made: Path, workdir: Path) -> Iterator[Path]:
    """A copy of it where the test stands."""
    copied(made, workdir)
    with made_up_training():
        yield workdir


@pytest.fixture(scope="module")
def wanted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command prints for the study before anything is added."""
    folder = tmp_path_factory.mktemp("wanted")
    copied(made, folder)
    with pytest.MonkeyPatch.context() as patch, made_up_training():
        patch.chdir(folder)
        return told("made-up")


def told(study: str) -> dict[str, Any]:
    """What each command says of a study, without what names the study itself."""
    words = {
        "status": ["status", study, "--json"],
        "criteria": ["criteria", study, "--json"],
        "confirm": ["confirm", study, "--seeds", "2", "--top", "2", "--json", "-q"],
        "export": ["export", study, "-o", "g.json", "--force"],
        "report": ["report", study, "-o", "report.html"],
    }
    found: dict[str, Any] = {}
    for command, given in words.items():
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main([*given, "--storage", URL]) == 0
        found[command] = json.loads(out.getvalue()) if "--json" in given else None
    found["export"] = json.loads(Path("g.json").read_text(encoding="utf-8"))
    del found["export"]["provenance"]["study"]
    for command in ("status", "criteria", "confirm"):
        del found[command]["study"]
    page = Path("report.html").read_text(encoding="utf-8")
    found["report"] = [page.count(f"{family}(") for family in ("exp_tail", "rational_tail")]
    best = open_study(study, storage=URL).best()
    found["best"] = None if best is None else (best.number, best.value)
    return found


def foreign(state: TrialState, **keys: Any) -> optuna.trial.FrozenTrial:
    """A finished trial as another program would add it, better than all of the study's."""
    value = 0.99 if state == TrialState.COMPLETE else None
    steps = {step: 0.99 for step in range(1, 7)}
    return optuna.create_trial(state=state, value=value, intermediate_values=steps, **keys)


STRANGERS = [
    foreign(TrialState.COMPLETE),
    foreign(TrialState.COMPLETE, user_attrs={"note": "by hand"}),
    foreign(
        TrialState.COMPLETE,
        params={"lr": 0.1},
        distributions={"lr": FloatDistribution(0.0, 1.0)},
    ),
    foreign(TrialState.PRUNED),
]


def test_trials_added_by_hand_are_no_part_of_the_study(
    folder: Path, wanted: dict[str, Any], capsys: Any
) -> None:
    assert wanted["best"] is not None and wanted["status"]["trials"]["total"] == 5
    study = optuna.load_study(study_name="made-up", storage=URL)
    study.add_trials(STRANGERS)
    assert told("made-up") == wanted
    # Another candidate, whose number comes after theirs.
    assert main(["search", "study.toml", "--trials", "6", "-q", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"]["total"] == 6 and found["best"]["value"] < 0.99
    assert main(["worker", "study.toml", "-q"]) == 0


@pytest.mark.parametrize(
    ("name", "value", "distribution"),
    [
        ("family", "elu", CategoricalDistribution(["leaky", "elu"])),
        ("leaky.alpha", "a", CategoricalDistribution(["a"])),
        ("leaky.alpha", 1, IntDistribution(0, 1)),
    ],
)
def test_a_parameter_of_another_type_is_refused(
    workdir: Path, name: str, value: Any, distribution: Any
) -> None:
    """Optuna would refuse the study's own parameter of that name, in the middle of the search."""
    keys: dict[str, Any] = {
        "families": ["leaky"], "references": [], "train": lambda candidate: 0.5, "storage": URL,
        "progress": False,
    }  # fmt: skip
    search(**keys, trials=1)
    study = optuna.load_study(study_name="pdsearch", storage=URL)
    study.add_trial(
        optuna.create_trial(value=0.9, params={name: value}, distributions={name: distribution})
    )
    with pytest.raises(InputError, match=f"parameter '{name}' as .*one type of parameter per name"):
        search(**keys, trials=3)


def test_a_copy_under_another_name_is_a_study(
    folder: Path, wanted: dict[str, Any], capsys: Any
) -> None:
    optuna.copy_study(
        from_study_name="made-up", from_storage=URL, to_storage=URL, to_study_name="twin"
    )
    assert told("twin") == wanted
    capsys.readouterr()
    file = Path("study.toml")
    text = file.read_text(encoding="utf-8").replace('"made-up"', '"twin"')
    file.write_text(text, encoding="utf-8")
    assert main(["search", "study.toml", "--trials", "6", "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["total"] == 6
    rows = {name: open_study(name, storage=URL).trials() for name in ("made-up", "twin")}
    assert [row.value for row in rows["twin"][:5]] == [row.value for row in rows["made-up"]]
    assert len(rows["made-up"]) == 5


# ---------------------------------------------------------------------------------- enqueued trials

ALPHA: Any = load_family("leaky").space["alpha"]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"family": "nope"}, "family 'nope': valid are leaky"),
    ({"family": 3}, "family 3: valid are leaky"),
    ({"family": "leaky", "leaky.alpha": 50.0}, f"leaky.alpha = 50.0, none of [{ALPHA.low}"),
    ({"family": "leaky", "leaky.alpha": -1}, f"leaky.alpha = -1, none of [{ALPHA.low}"),
    ({"family": "leaky", "leaky.alpha": "much"}, "leaky.alpha = 'much', none of"),
    ({"family": "leaky", "leaky.alpha": True}, "leaky.alpha = True, none of"),
    ({"family": "leaky", "leaky.alpha": None}, "leaky.alpha = None, none of"),
    ({"leaky.beta": 1.0}, "'leaky.beta', no parameter of the study"),
    ({"alpha": 0.2}, "'alpha', no parameter of the study"),
]  # fmt: skip


def test_enqueued_trials_that_cannot_be(workdir: Path, capsys: Any) -> None:
    seen: list[Any] = []

    def train(candidate: Any) -> float:
        seen.append((candidate.family.name, dict(candidate.parameters)))
        return 0.5

    keys: dict[str, Any] = {
        "families": ["leaky"], "references": [], "train": train, "storage": URL,
        "progress": False,
    }  # fmt: skip
    search(**keys, trials=1)
    study = optuna.load_study(study_name="pdsearch", storage=URL)
    for fixed, _ in REFUSED:
        study.enqueue_trial(fixed)
    study.enqueue_trial({"family": "leaky", "leaky.alpha": 0.25})
    study.enqueue_trial({"family": "leaky"})  # the rest is drawn
    seen.clear()
    stored = search(**keys, trials=3).stored
    assert seen[0] == ("leaky", {"alpha": 0.25}) and len(seen) == 2
    reasons = [row.reason or "" for row in stored.trials() if row.status == "failed"]
    for reason, (_, said) in zip(reasons, REFUSED, strict=True):
        assert reason.startswith("enqueued with ") and said in reason and "\n" not in reason
    assert stored.counts()["total"] == 3 and stored.best() is not None
    capsys.readouterr()
    for words in (
        ["status"], ["criteria"], ["report", "-o", "r.html"], ["export", "-o", "g.py"]
    ):  # fmt: skip
        assert main([words[0], "pdsearch", "--storage", URL, *words[1:]]) == 0


def test_what_others_added_stops_no_candidate(workdir: Path) -> None:
    """A pruner leaves the best candidate be, however good a stranger was on its way."""

    def train(candidate: Any) -> Iterator[float]:
        for epoch in range(4):
            yield 0.1 + 0.1 * epoch

    keys: dict[str, Any] = {
        "families": ["leaky"], "references": [], "train": train, "storage": URL,
        "progress": False, "pruner": "median",
    }  # fmt: skip
    search(**keys, trials=1)
    study = optuna.load_study(study_name="pdsearch", storage=URL)
    study.add_trials([foreign(TrialState.COMPLETE) for _ in range(9)])
    assert search(**keys, trials=4).best is not None


# ----------------------------------------------------------------------------------- other versions


def begun_with(**other: str) -> None:
    """Has the study begun under other versions."""
    study = optuna.load_study(study_name="made-up", storage=URL)
    study.set_user_attr("pdsearch:versions", {**versions(), **other})


def test_a_study_of_other_versions_says_so_in_one_line(folder: Path, capsys: Any) -> None:
    search_on = ["search", "study.toml", "--trials", "6", "-q", "--json"]
    confirm_on = ["confirm", "study.toml", "--seeds", "2", "--top", "1", "-q"]
    now = versions()
    for given, other, said in (
        (search_on, {}, []),
        (search_on, {"torch": "0.0.1"}, [f"torch 0.0.1, now {now['torch']}"]),
        (["worker", "study.toml", "-q"], {"pdsearch": "9.0"}, ["pdsearch 9.0, now"]),
        (confirm_on, {"pdsearch": "9.0", "torch": "3"}, ["pdsearch 9.0, now", "torch 3, now"]),
    ):
        begun_with(**other)
        capsys.readouterr()
        assert main(given) == 0
        out, err = capsys.readouterr()
        lines = [line for line in (out + err).splitlines() if "was begun with" in line]
        assert len(lines) == bool(said) and all(text in lines[0] for text in said), (out, err)


def test_runs_that_other_versions_made_are_told_of(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["confirm", "made-up", "--storage", URL, "--seeds", "2", "--top", "1", "--json", "-q"]
    found = []
    for torch in ("0.0.1", "0.0.2"):
        made_with = {"pdsearch": "0", "torch": torch}
        monkeypatch.setattr(pdsearch.confirm.retrain, "versions", lambda made=made_with: made)
        assert main(given) == 0
        found.append(json.loads(capsys.readouterr().out))
    before, after = found
    count = sum(row["seeds"] for row in before["rows"])
    note = f"{count} finished runs are left out: other versions made them."
    assert count == 6 and after["notes"] == [*before["notes"], note]
    assert [row["accuracy"] for row in after["rows"]] == [r["accuracy"] for r in before["rows"]]
