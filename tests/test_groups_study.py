"""A study of groups of layers: each trial, what shows it, what is exported, retrained and refused.

The oracle is a run outside the study, with each layer named by hand: values are equal bit for
bit. The record, `convert` and study files are in `test_groups.py`.
"""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from pages import blocks_of
from test_groups import BOTH, ELU, write

from pdsearch import Candidate, Grouped, library, open_study
from pdsearch.cli import main
from pdsearch.confirm import confirm
from pdsearch.criteria import gate
from pdsearch.data import load_dataset
from pdsearch.errors import InputError, StorageError
from pdsearch.export import export_all
from pdsearch.family import parts_of
from pdsearch.insight import learned_criteria
from pdsearch.report import study_report
from pdsearch.study import StoredStudy, load_study_file, search, worker
from pdsearch.study.notes import Notes, Pictures
from pdsearch.study.rows import of_group
from pdsearch.trial import run_trial


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine trials: ReLU, a reference and candidates, of which some are ruled out."""
    folder = tmp_path_factory.mktemp("grouped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        search(write(folder), device="cpu", threads=1, progress=False)
    return folder


@pytest.fixture
def stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StoredStudy:
    monkeypatch.chdir(folder)
    return open_study("s.toml")


def test_each_trial_draws_a_candidate_for_each_group(stored: StoredStudy) -> None:
    rows = {row.number: row for row in stored.trials()}
    assert [rows[0].candidate.name, rows[1].candidate.name] == ["relu", "b_silu(alpha=1.67)"]
    drawn = [row for row in rows.values() if row.kind == "candidate"]
    assert len(drawn) == 7 and {row.status for row in drawn} == {"complete", "ruled_out"}
    trials = {trial.number: trial for trial in stored.study.get_trials()}
    for row in drawn:
        assert isinstance(row.candidate, Grouped)
        assert dict(row.candidate.layers) == {"first": ("[:2]",), "last": ("6",)}
        wanted: dict[str, Any] = {}
        for group, part in row.candidate.parts.items():
            wanted[f"{group}:family"] = part.family.name
            name = f"{group}:{part.family.name}"
            wanted |= {f"{name}.{key}": value for key, value in part.parameters.items()}
            if len(part.family.directions) > 1:
                wanted[f"{name}.direction"] = part.direction
        assert trials[row.number].params == wanted
    firsts = {row.candidate.parts["first"].family.name for row in drawn}
    lasts = {row.candidate.parts["last"].family.name for row in drawn}
    assert firsts == {"exp_tail", "leaky"} and lasts <= {"gaussian_tail", "relu"}
    assert stored.attrs.groups == {
        "first": ["exp_tail", "leaky"],
        "last": ["gaussian_tail", "relu"],
    }


def test_values_are_those_of_runs_outside(stored: StoredStudy, folder: Path) -> None:
    """ReLU, the reference and the best, each layer by layer; only the grouped layers differ."""

    plain = load_study_file(folder / "s.toml").trial.model_copy(update={"only": ()})
    for row in (*stored.trials()[:2], stored.best()):
        candidate = row.candidate
        if isinstance(candidate, Candidate):
            candidate = Grouped({"a": candidate, "b": candidate}, {"a": ("2", "4"), "b": ("6",)})
        else:
            layers = {"first": ("2", "4"), "last": ("6",)}
            candidate = Grouped(dict(candidate.parts), layers)
        found = run_trial(candidate, plain, load_dataset("digits"), seed=0, device="cpu", threads=1)
        assert found.value == row.value, row.candidate.name


def test_a_trial_is_gated_by_each_group(stored: StoredStudy) -> None:
    rows = [row for row in stored.trials() if row.status == "ruled_out"]
    relu = [row for row in rows if row.candidate.parts["last"].family.name == "relu"]
    assert relu and all("last:alive_below_zero" in row.reason for row in relu)
    for row in rows:
        failed = [e["name"] for e in row.criteria["criteria"] if e["required"] and not e["passed"]]
        assert row.reason == f"does not hold: {', '.join(failed)}" and failed
        assert row.criteria["passed"] is False
        part = of_group(row, "last")
        assert part.candidate == row.candidate.parts["last"]
        names = [e["name"] for e in part.criteria["criteria"]]
        assert names and [f"last:{n}" for n in names] == [
            e["name"] for e in row.criteria["criteria"] if e["name"].startswith("last:")
        ]


def test_the_command_line_shows_them(
    stored: StoredStudy, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = stored.best()
    assert main(["search", "s.toml", "--device", "cpu", "--threads", "1"]) == 0
    told = capsys.readouterr()
    assert "first ([:2]): " in told.out and "last (6): gaussian_tail with " in told.out
    assert "best_first.py (and best_last.py, best.json)" in told.err
    assert main(["status", "s.toml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["best"]
    assert list(shown) == ["trial", "groups", "value"] and shown["trial"] == best.number
    part = best.candidate.parts["last"]
    assert shown["groups"]["last"] == {
        "layers": ["6"], "family": part.family.name, "parameters": dict(part.parameters),
        "formula": part.formula,
    }  # fmt: skip
    assert main(["status", "s.toml"]) == 0
    assert main(["criteria", "s.toml"]) == 0
    told = capsys.readouterr()
    assert "first:consistent" in told.out and "last:consistent" in told.out


def test_learned_criteria_of_each_group(stored: StoredStudy) -> None:
    """Each group's values by hand: the gate of that group's candidate, ReLU's for both groups."""
    insight = learned_criteria(stored)
    rows = {row.number: row for row in stored.trials()}
    assert {one.name.partition(":")[0] for one in insight.criteria} >= {"first", "last"}
    values = {one.name: one.values for one in insight.criteria}
    for place, point in enumerate(insight.points):
        drawn = rows[point.trial].candidate
        assert drawn is not None
        for group, part in parts_of(drawn).items():
            for one in gate(part, profile="strict").to_dict()["criteria"]:
                if one["name"] == "consistent":
                    for name in (
                        [f"{group}:consistent"]
                        if group
                        else ["first:consistent", "last:consistent"]
                    ):
                        middle = sum(one["value"]) / 2
                        assert values[name][place] == pytest.approx(middle, abs=1e-5)
    means = [one for one in insight.criteria if one.name.endswith(":consistent")]
    assert len(means) == 2 and means[0].measure == means[1].measure != "value"


def test_a_progress_line_names_each_group(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(write(workdir, trials=3), device="cpu", threads=1)
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("[3/3] trial 2 first: ")]
    assert " + last: " in line


def test_exports(stored: StoredStudy, workdir: Path, folder: Path) -> None:
    best = stored.best()
    source = ["export", str(folder / "s.toml"), "--storage", f"sqlite:///{folder}/pdsearch.db"]
    assert main([*source, "-o", "g.py"]) == 0
    points = torch.linspace(-3, 3, 301, dtype=torch.float64)
    for group, layers in (("first", "[:2]"), ("last", "6")):
        text = (workdir / f"g_{group}.py").read_text()
        assert f"#   group: {group}" in text and f"#   layers: {layers}" in text
        names: dict[str, Any] = {}
        exec(text, names)
        assert names["g"](points).equal(best.candidate.parts[group](points))
        assert names["PROVENANCE"]["layers"] == layers and "only" not in names["PROVENANCE"]
    assert not (workdir / "g.py").exists()
    assert main([*source, "-o", "g.json"]) == 0
    assert Grouped.from_json((workdir / "g.json").read_text()) == best.candidate
    assert main([*source, "-o", "g.tex"]) == 0
    assert (workdir / "g.tex").read_text().count(r"\begin{equation}") == 2
    assert main([*source, "--group", "last", "-o", "last.json"]) == 0
    read = Candidate.from_json((workdir / "last.json").read_text())
    assert read == best.candidate.parts["last"]
    assert json.loads((workdir / "last.json").read_text())["provenance"]["group"] == "last"
    assert main([*source, "--group", "first", "--direction", "up", "-o", "up.json"]) == 0
    assert Candidate.from_json((workdir / "up.json").read_text()).direction == "up"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s.toml", "--group", "middle"], "--group: no group 'middle'; valid are: first, last"),
        (
            ["s.toml", "--trial", "0", "--group", "last"],
            "--group last: relu is one candidate, with",
        ),
        (["s.toml", "--set", "alpha=0.1"], "the study has several: choose --group first | last"),
        (["s.toml", "--direction", "up"], "choose --group first | last"),
        (["s.toml", "--native"], "--native writes one candidate, and the study has several"),
        (["leaky", "--group", "last"], "--group last: leaky(alpha=0.01) is one candidate"),
        (["results/grouped/best.json"], "holds a candidate for each of several groups"),
    ],
)
def test_exports_that_are_refused(
    stored: StoredStudy, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    best: Any = stored.best().candidate
    export_all(best, Path("best.json"), force=True)
    words = ["best.json" if word.endswith("best.json") else word for word in words]
    assert main(["export", *words, "-o", "refused.py"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("refused.py").exists()


def test_no_file_is_written_unless_all_can_be(workdir: Path) -> None:
    (workdir / "g_last.py").write_text("")
    with pytest.raises(InputError, match=r"g_last\.py exists already"):
        export_all(BOTH, workdir / "g.py")
    assert not (workdir / "g_first.py").exists()
    with pytest.raises(InputError, match="the suffix chooses the format"):
        export_all(BOTH, workdir / "g.txt")


def test_the_report(stored: StoredStudy) -> None:
    page = study_report(stored)
    best = stored.best().candidate
    for group, layers in (("first", "[:2]"), ("last", "6")):
        part = best.parts[group]
        assert f"<h3>The best in {group} ({layers}): <code>{part.name}</code></h3>" in page
        assert f"The best candidate in {group}, <code>{part.name}</code>" in page
        assert f"<h3>Families in {group}</h3>" in page
        assert f'"name":"{group}: {part.name}"' in page  # a curve in the figure
    assert "mlp ([:2], 6) on digits" in page
    assert "last:alive_below_zero" in page  # of what ruled trials out
    assert "<code>first:consistent</code>" in page and "<code>last:consistent</code>" in page


def test_a_notebook_and_a_dashboard(stored: StoredStudy) -> None:
    best = stored.best()
    assert best.candidate.name in stored._repr_html_()
    names = [trace.name for trace in stored.plot().data]
    parts = best.candidate.parts
    assert names[:2] == [f"{group}: {part.name}" for group, part in parts.items()]
    assert names[2:] == ["b_silu(alpha=1.67)", "step (ReLU)"]
    trials = stored.study.get_trials(deepcopy=False)
    attributes = Notes(stored).attributes(trials, {})
    notes = " ".join(str(value) for key, value in attributes.items() if "note_str" in key)
    assert (
        f"last: `g(x) = {parts['last'].formula}`" in notes and r"last:alive\_below\_zero" in notes
    )
    keys = [key for key in attributes if "artifacts" in key]
    identifier = keys[best.number].rpartition(":")[2]
    picture = Pictures(stored).open_reader(identifier).read().decode()
    assert picture.count('stroke-width="0.9"') == 2


def test_confirm(stored: StoredStudy, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = confirm(stored, top=2, candidates=[ELU], device="cpu", workers=1)
    kinds = [row.kind for row in outcome.rows]
    assert kinds == ["baseline", "reference", "candidate", "candidate", "given"]
    assert outcome.pick.name == stored.best().candidate.name
    assert outcome.protocol == "mlp ([:2], 6) on digits, test set, 1 epoch"
    # One run of it outside: the same accuracy to the bit.

    best: Any = stored.best().candidate
    found = run_trial(
        best,
        stored.settings.trial.model_copy(update={"epochs": 1, "only": ()}),
        load_dataset("digits"), seed=1000, split="test", device="cpu", threads=1,
    )  # fmt: skip
    assert found.value == outcome.pick.accuracy[0]
    again = confirm(stored, top=2, candidates=[ELU], device="cpu", workers=1)
    assert again.to_dict()["rows"] == outcome.to_dict()["rows"]
    assert main(["confirm", "s.toml", "--forward-control", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "has groups of layers: no one activation has the shapes" in said and "--controls" in said
    with pytest.raises(InputError, match="candidates must be Candidates, got Grouped"):
        confirm(stored, candidates=[BOTH], device="cpu", workers=1)  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"group 'last': no ReLU's name matches '6'"):
        confirm(stored, transfer=["resnet18@digits"], device="cpu", workers=1)
    assert "mlp ([:2], 6) on digits" in study_report(open_study("s.toml"))


def test_controls(stored: StoredStudy) -> None:
    """Ordinary activations everywhere, and ReLU at the rate that all groups together ask for."""
    outcome = confirm(stored, top=1, controls=True, device="cpu", workers=1)
    names = {row.name: row for row in outcome.rows if row.kind in ("activation", "remedy")}
    assert list(names)[:3] == ["LeakyReLU", "GELU", "SiLU"]
    (raised,) = (name for name in names if name.startswith("ReLU at "))
    ratios = [epoch["diagnostics"]["norm_ratio"] for epoch in outcome.pick.runs[0]]
    assert raised == f"ReLU at {float(f'{ratios[0]:.3g}'):g}× its rate"
    assert any(note.startswith("No forward control of") for note in outcome.notes)
    # LeakyReLU at the same sites, by hand.
    settings = stored.settings.trial.model_copy(update={"epochs": 1})
    relu = library()["relu"].default
    found = run_trial(
        relu, settings, load_dataset("digits"), seed=1000, split="test", device="cpu", threads=1,
        module=torch.nn.LeakyReLU,
    )  # fmt: skip
    assert found.value == names["LeakyReLU"].accuracy[0]


def test_it_is_resumed_and_joined(workdir: Path) -> None:
    whole = search(write(workdir, trials=6), device="cpu", threads=1, progress=False).stored
    wanted = [(row.candidate, row.value) for row in whole.trials()]
    storage = "sqlite:///other.db"
    for trials in (3, 5):
        file = write(workdir, trials=trials)
        search(file, device="cpu", threads=1, progress=False, storage=storage)
    # The order of the groups in the file decides nothing.
    head, groups = file.read_text().replace("trials = 5", "trials = 6").split("[study.groups]")
    first, last, rest = groups.strip().split("\n", 2)
    file.write_text("\n".join([head, "[study.groups]", last, first, rest]))
    search(file, device="cpu", threads=1, progress=False, storage=storage)
    joined = worker(workdir / "s.toml", storage=storage, device="cpu", progress=False)
    assert [(row.candidate, row.value) for row in joined.trials()] == wanted
    with pytest.raises(
        InputError, match=r"study\.groups \{.*\['6'\].*\} → \{.*\['\[2:\]'\]"
    ) as told:
        search(write(workdir, last='["[2:]"]'), device="cpu", progress=False)
    assert "trial.only" not in str(told.value)
    bare = write(workdir).read_text().split("[study.groups]")
    (workdir / "s.toml").write_text(bare[0] + "[trial]" + bare[1].split("[trial]")[1])
    with pytest.raises(InputError, match=r"study\.groups \{.*\} → None"):
        search("s.toml", device="cpu", progress=False)


@pytest.mark.parametrize(
    "more",
    [
        'sampler = "nsga2"',
        'sampler = "random"\ntie_seeds = 1',
        "looks = 2",
    ],
)
def test_other_settings(workdir: Path, more: str) -> None:
    file = write(workdir, trials=5, more=more)
    if "looks" in more:
        file.write_text(file.read_text().replace('pruner = "none"', 'pruner = "halving"'))
    done = search(file, device="cpu", threads=1, progress=False)
    assert done.to_dict()["trials"]["total"] == 5
    study_report(done.stored)


def test_enqueued_parameters(workdir: Path) -> None:
    stored = search(write(workdir, trials=3), device="cpu", threads=1, progress=False).stored
    study = optuna.load_study(study_name="grouped", storage="sqlite:///pdsearch.db")
    fixed = {"first:family": "leaky", "first:leaky.alpha": 0.125, "last:gaussian_tail.beta": 0.5}
    study.enqueue_trial({**fixed, "last:family": "gaussian_tail"})
    study.enqueue_trial({"family": "leaky"})
    search(write(workdir, trials=4), device="cpu", threads=1, progress=False)
    rows = stored.trials()
    (given,) = [row for row in rows if row.parameters.get("first:alpha") == 0.125]
    assert given.candidate.parts["last"].parameters["beta"] == 0.5
    search(write(workdir, trials=5), device="cpu", threads=1, progress=False)
    reasons = " ".join(row.reason or "" for row in stored.trials())
    assert "enqueued with 'family', no parameter of the study (it has: first:family," in reasons


def test_the_example_of_the_page_runs(workdir: Path) -> None:
    _, block = blocks_of("docs/study.md", "toml")
    (workdir / "groups.toml").write_text(block)
    done = search("groups.toml", trials=4, device="cpu", progress=False)
    assert all(isinstance(r.candidate, Grouped) for r in done.stored.trials()[3:])


@pytest.mark.parametrize(
    ("key", "before", "after", "message"),
    [
        (
            "candidate",
            '"first": {',
            '"other": {',
            r"trial \d's 'pdsearch:candidate': a candi",
        ),
        ("kind", '"candidate"', '"reference"', "a reference for the groups first, last"),
        (
            "groups",
            '"relu"',
            '"nothing"',
            "its 'pdsearch:groups' names 'nothing', which",
        ),
        ("groups", '"first"', '"other"', "its groups are not those of its settings"),
        ("groups", "[", "{", "is damaged"),
    ],
)
def test_a_damaged_storage_is_told(
    folder: Path, workdir: Path, key: str, before: str, after: str, message: str
) -> None:
    shutil.copy(folder / "pdsearch.db", workdir)
    table = "study" if key == "groups" else "trial"
    with sqlite3.connect(workdir / "pdsearch.db") as database:
        found = database.execute(
            f"SELECT {table}_user_attribute_id, value_json FROM {table}_user_attributes "
            f"WHERE key = 'pdsearch:{key}' AND value_json LIKE '%' || ? || '%'", (before,)
        ).fetchone()  # fmt: skip
        changed = found[1].replace(before, after)
        if after == "{":
            changed = '{"first": 3}'
        database.execute(
            f"UPDATE {table}_user_attributes SET value_json = ? "
            f"WHERE {table}_user_attribute_id = ?", (changed, found[0])
        )  # fmt: skip
    with pytest.raises(StorageError, match=message):
        open_study("grouped").trials()
