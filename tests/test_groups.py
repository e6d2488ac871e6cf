"""Groups of layers, each with candidates of its own: in `convert`, in a trial, in a study.

The oracle is a network whose layers are converted one by one by hand, each with its candidate, and
trained on the same batches: every number is equal bit for bit.

What is public: `Grouped(parts, layers)`; `convert(model, grouped, example=…)`; `[study.groups]` in
a study file, whose Optuna parameters are `<group>:family` and `<group>:<family>.<parameter>`; a
trial's `candidate` is a `Grouped`, those of ReLU and the references stay candidates, which serve
the layers of all groups; `pdsearch export --group`.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from pages import blocks_of
from test_layers import OWN, HandLeaky, dataset
from torch import nn

from pdsearch import Candidate, Grouped, PDReLU, convert, fade, load_family, open_study, plot
from pdsearch.cli import main
from pdsearch.confirm import confirm
from pdsearch.errors import InputError
from pdsearch.export import export_all
from pdsearch.insight import learned_criteria
from pdsearch.report import study_report
from pdsearch.study import StoredStudy, load_study_file, search, worker
from pdsearch.study.families import resolve_families
from pdsearch.study.file import validate
from pdsearch.study.notes import Notes, Pictures
from pdsearch.study.rows import of_group
from pdsearch.study.twins import curves_of, same
from pdsearch.trial import TrialSettings, run_trial

LEAKY = load_family("leaky").bind(alpha=0.25)
STEEP = load_family("leaky").bind(alpha=0.5, direction="up")
ELU = load_family("elu").bind(alpha=0.5)
BOTH = Grouped({"first": LEAKY, "last": ELU}, {"first": ("[:1]",), "last": ("5",)})


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip


GIVEN = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))


# --- the record -----------------------------------------------------------------------------------


def test_it_is_data() -> None:
    given = Grouped({"first": STEEP, "last": ELU}, {"first": ("[:1]", "a.*"), "last": ("5",)})
    data = json.loads(given.to_json())
    assert data["schema"] == 3 and list(data["groups"]) == ["first", "last"]
    for again in (
        Grouped.from_json(given.to_json()),
        pickle.loads(pickle.dumps(given)),
        copy.deepcopy(given),
    ):
        assert again == given and hash(again) == hash(given) and again.name == given.name
    assert given.name == "first: leaky(alpha=0.5, direction=up) + last: elu(alpha=0.5)"
    assert given.parameters == {"first:alpha": 0.5, "last:alpha": 0.5}
    assert given.formula == f"first ([:1], a.*): {STEEP.formula}; last (5): {ELU.formula}"
    assert given.identity != given.formula and "direction up" in given.identity
    others = {"layers": {"first": ("[:2]",), "last": ("5",)}}
    assert given != Grouped(dict(given.parts), others["layers"])
    assert not given.annealed
    faded = fade(load_family("elu"), "linear", end=0.5).default
    assert Grouped({"a": faded, "b": ELU}, {"a": ("1",), "b": ("3",)}).annealed


@pytest.mark.parametrize(
    ("parts", "layers", "message"),
    [
        ({}, {}, "a candidate and layers each, got candidates for none and layers of none"),
        ({"a": ELU}, {"b": ("1",)}, "candidates for a and layers of b"),
        ({"a b": ELU}, {"a b": ("1",)}, "group name 'a b' is not valid: use an ASCII identifier"),
        ({"a": ELU}, {"a": ()}, r"group 'a': layers must be one or more patterns of ReLUs"),
        ({"a": ELU}, {"a": "1"}, "group 'a': layers must be one or more"),
        ({"a": ELU}, {"a": (1,)}, "group 'a': layers must be one or more"),
        ({"a": load_family("elu")}, {"a": ("1",)}, "group 'a' needs a Candidate, got Family"),
        ([ELU], {"a": ("1",)}, "a dictionary of candidates and one of layers"),
    ],
)
def test_wrong_groups(parts: Any, layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Grouped(parts, layers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a candidate of groups's JSON must be an object"),
        ("{", "not JSON"),
        ('{"schema": 4}', "written by a newer pdsearch"),
        ('{"schema": 3}', "JSON of groups needs"),
        ('{"schema": 3, "groups": {"a": {}}}', "JSON of groups needs"),
        ('{"schema": 3, "groups": {"a": {"layers": "1", "candidate": {}}}}', "needs the objects"),
        ('{"schema": 3, "groups": {"a": {"layers": ["1"], "candidate": {}}}}', "lacks its schema"),
    ],
)
def test_wrong_json(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Grouped.from_json(text)


def test_a_candidate_is_not_read_from_groups() -> None:
    with pytest.raises(InputError, match=r"for each of several groups: read it with Grouped\."):
        Candidate.from_json(BOTH.to_json())


def test_it_shows_itself() -> None:
    shown = BOTH._repr_html_()
    assert "first ([:1]): leaky" in shown and "last (5): elu" in shown and shown.count("<svg") == 2
    for figure in (BOTH.plot(), plot(BOTH)):
        names = [trace.name for trace in figure.data]
        assert names == ["first: leaky(alpha=0.25)", "last: elu(alpha=0.5)", "step (ReLU)"]


def test_twins_compare_layer_by_layer() -> None:
    alike = Grouped({"first": LEAKY, "last": LEAKY}, dict(BOTH.layers))
    assert same(curves_of(BOTH), curves_of(BOTH))
    assert not same(curves_of(BOTH), curves_of(alike))
    assert same(curves_of(alike), curves_of(LEAKY)) and same(curves_of(LEAKY), curves_of(alike))
    assert not same(curves_of(BOTH), curves_of(LEAKY))


# --- convert --------------------------------------------------------------------------------------


def trained(model: nn.Module) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for step in range(20):
        batch = GIVEN[step % 4 :: 4]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), batch.abs().argmax(1) % 3).backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("last", [ELU, STEEP, LEAKY])
def test_each_layer_converted_by_hand(last: Candidate) -> None:
    grouped = Grouped({"first": LEAKY, "last": last}, {"first": ("[:1]",), "last": ("5",)})
    model = convert(net(), grouped, example=GIVEN)
    hand = net()
    hand[1], hand[5] = PDReLU(LEAKY), PDReLU(last)
    assert type(model[3]) is nn.ReLU and model(GIVEN).equal(net()(GIVEN))
    for mine, theirs in zip(trained(model), trained(hand), strict=True):
        assert mine.equal(theirs)
    assert not trained(net())[0].equal(trained(hand)[0])


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (("[:1]", "5"), "ReLU '5' is in the groups 'first' and 'last': their layers must not"),
        (("[1:]",), "ReLU '5' is in the groups 'first' and 'last'"),
        (("[3:]",), r"group 'first': no ReLU is in \[3:\]: a forward pass reaches 3 of them"),
        (("1", "x.*"), r"group 'first': no ReLU's name matches 'x\.\*'; there are 1, 3, 5"),
    ],
)
def test_layers_that_do_not_fit(first: tuple[str, ...], message: str) -> None:
    grouped = Grouped(dict(BOTH.parts), {"first": first, "last": ("5",)})
    model = net()
    with pytest.raises(InputError, match=message):
        convert(model, grouped, example=GIVEN)
    assert type(model[1]) is nn.ReLU


def test_a_shared_module_is_one_relu() -> None:
    model = net()
    model[3] = model[1]
    layers = {"first": ("1",), "last": ("3",)}
    with pytest.raises(InputError, match="ReLU '1' is in the groups 'first' and 'last'"):
        convert(model, Grouped(dict(BOTH.parts), layers), example=GIVEN)


# --- a trial --------------------------------------------------------------------------------------

HAND = """
import torch
from test_layers import HandLeaky

class Hand(torch.nn.Module):
    def forward(self, x):
        return HandLeaky.apply(x)

def half(classes):
    # The quarter below zero of the hand-written layer, then a ReLU.
    return net(classes, torch.nn.ReLU(), Hand())

def three(classes):
    return net(classes, torch.nn.ReLU(), torch.nn.ReLU())
"""
THREE = (
    OWN.split("class Hidden")[0]
    + """
def net(classes, second, third):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 12), nn.ReLU(), nn.Linear(12, 12), second, nn.Linear(12, 12),
        third, nn.Linear(12, classes),
    )
"""
)


def losses(folder: Path, candidate: Any, model: str, **changed: Any) -> list[Any]:
    given: dict[str, Any] = {"model": f"own.py:{model}", "epochs": 2, "batch_size": 16}
    given |= {"precision": "float32", "memory_format": "contiguous", "learning_rate": 0.05}
    result = run_trial(
        candidate, TrialSettings(**given, **changed), dataset(), seed=1, threads=1, device="cpu",
        directory=folder,
    )  # fmt: skip
    return [(e.loss, e.accuracy, e.evaluation_loss) for e in result.epochs]


def test_a_trial_is_that_of_layers_written_by_hand(tmp_path: Path) -> None:
    """The third layer's derivative is a `torch.autograd.Function` of the test's."""
    assert HandLeaky.apply(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]
    (tmp_path / "own.py").write_text(THREE + HAND)
    wanted = losses(tmp_path, ELU, "half", only=["2"])
    grouped = Grouped({"first": ELU, "last": LEAKY}, {"first": ("2",), "last": ("[-1:]",)})
    assert losses(tmp_path, grouped, "three") == wanted
    assert losses(tmp_path, grouped, "three", only=["2", "[-1:]"]) == wanted  # as a study has it
    swapped = Grouped({"first": LEAKY, "last": ELU}, dict(grouped.layers))
    assert losses(tmp_path, swapped, "three") != wanted
    alike = Grouped({"first": ELU, "last": ELU}, dict(grouped.layers))
    assert losses(tmp_path, alike, "three") == losses(tmp_path, ELU, "three", only=["2", "6"])


# --- a study file ---------------------------------------------------------------------------------

STUDY = """
[study]
name = "grouped"
families = ["exp_tail", {{ family = "leaky", direction = ["both", "up"] }}]
references = ["b_silu"]
trials = {trials}
workers = 1
pruner = "none"
{more}
[study.groups]
first = {{ layers = ["[:2]"] }}
last = {{ layers = {last}, families = ["gaussian_tail", "relu"] }}
[trial]
model = "mlp"
width = 16
depth = 3
dataset = "digits"
epochs = 1
batch_size = 64
learning_rate = 0.1
precision = "float32"
memory_format = "contiguous"
{trial}
[confirm]
seeds = 2
epochs = 1
"""


def write(
    folder: Path, *, trials: int = 9, last: str = '["6"]', more: str = "", trial: str = ""
) -> Path:
    file = folder / "s.toml"
    file.write_text(STUDY.format(trials=trials, last=last, more=more, trial=trial))
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last": '["[1:]"]'}, "ReLU '4' is in the groups 'first' and 'last'"),
        ({"last": '["[:2]"]'}, "ReLU '2' is in the groups 'first' and 'last'"),
        ({"last": '["features.*"]'}, r"group 'last': no ReLU's name matches 'features\.\*'; there"),
        ({"last": '["[3:]"]'}, r"group 'last': no ReLU is in \[3:\]: a forward pass reaches 3"),
        ({"last": "[]"}, r"study\.groups\.last\.layers: needs at least 1 entry"),
        ({"last": '"6"'}, r"study\.groups\.last\.layers: must be a list, got '6'"),
        ({"last": "[6]"}, r"study\.groups\.last\.layers\.0: must be text, got 6"),
        ({"last": '[""]'}, r"study\.groups: group 'last': layers must be one or more patterns"),
        ({"last": '["6"], famlies = ["elu"]'}, r"groups\.last\.famlies: unknown key; did you mean"),
        ({"trial": 'only = ["2"]'}, r"trial\.only: conflicts with study\.groups, whose layers"),
        ({"trial": 'skip = ["2"]'}, r"trial\.skip: conflicts with study\.groups, whose layers"),
        ({"more": 'sampler = "grid"'}, "sampler 'grid' searches one family for all layers, not"),
        ({"more": 'sampler = "gp"'}, "sampler 'gp' searches one family for all layers"),
    ],
)
def test_what_is_wrong_is_told_before_any_trial(
    workdir: Path, change: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(workdir, **change)
    with pytest.raises(InputError, match=message):
        search(file, device="cpu", progress=False)
    assert main(["search", str(file), "--device", "cpu"]) == 2
    assert "pdsearch: error: " in capsys.readouterr().err
    assert not (workdir / "pdsearch.db").exists()


def section(**study: Any) -> dict[str, Any]:
    return {"study": {"name": "s", **study}}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, r"study\.groups: needs at least 1 entry"),
        ([], r"study\.groups: must be a table, got \[\]"),
        ({"a": 3}, r"study\.groups\.a: must be a table, got 3"),
        ({"a": {}}, r"study\.groups\.a\.layers: is missing"),
        ({"a-b": {"layers": ["1"]}}, r"study\.groups: group name 'a-b' is not valid: use an ASCII"),
        ({"a": {"layers": ["1"], "families": []}}, r"groups\.a\.families: needs at least 1 entry"),
    ],
)
def test_wrong_tables(groups: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(section(families=["elu"], groups=groups))


def test_families_are_a_default() -> None:
    groups = {"a": {"layers": ["1"], "families": ["elu"]}, "b": {"layers": ["2"]}}
    with pytest.raises(InputError, match=r"study\.families: is missing"):
        validate(section(groups=groups))
    groups["b"]["families"] = ["leaky", "elu"]
    file = validate(section(groups=groups))
    assert file.study.families == ["elu", "leaky"] and file.trial.only == ("1", "2")
    assert validate(file.model_dump(mode="json")) == file  # as a worker gets it
    found, _ = resolve_families(file.study, directory=Path())
    assert {name: list(own) for name, own in found.items()} == {"a": ["elu"], "b": ["leaky", "elu"]}


def test_formulas_of_groups_have_names_of_their_own() -> None:
    typed = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.01, 0.5]}}
    other = {**typed, "formula": "Piecewise((1, x > 0), (a/2, True))"}
    groups = {
        "one": {"layers": ["1"], "families": [typed]},
        "two": {"layers": ["2"], "families": [other]},
    }
    found, _ = resolve_families(validate(section(groups=groups)).study, directory=Path())
    assert [list(own) for own in found.values()] == [["formula_one_1"], ["formula_two_1"]]
    for one in (typed, other):
        one["name"] = "mine"
    with pytest.raises(InputError, match="'mine' names different families in two groups: give"):
        resolve_families(validate(section(groups=groups)).study, directory=Path())
    groups["one"]["families"] = ["elu", "nothing"]
    with pytest.raises(InputError, match=r"study\.groups\.one\.families\.1: no family 'nothing'"):
        resolve_families(validate(section(groups=groups)).study, directory=Path())


def test_a_study_without_groups_keeps_no_trace_of_them() -> None:
    file = validate(section(families=["elu"]))
    assert "groups" not in file.model_dump(mode="json")["study"]
    assert "only" not in file.model_dump(mode="json")["trial"]


def test_a_train_function_has_no_groups(workdir: Path) -> None:
    with pytest.raises(InputError, match=r"study\.groups is for pdsearch's own training"):
        search(write(workdir), train=lambda candidate: 0.5, progress=False)


# --- a study --------------------------------------------------------------------------------------


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
        wanted = {}
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
    from pdsearch.data import load_dataset

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
    assert main(["criteria", "s.toml"]) == 2
    told = capsys.readouterr()
    assert "has groups of layers: a trial has a verdict on a criterion for each group" in told.err
    with pytest.raises(InputError, match="has groups of layers"):
        learned_criteria(stored)


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
        (["leaky", "--group", "last"], "--group last: leaky(alpha=0.01) is one candidate"),
        (["results/grouped/best.json"], "holds a candidate for each of several groups"),
    ],
)
def test_exports_that_are_refused(
    stored: StoredStudy, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    export_all(stored.best().candidate, Path("best.json"), force=True)
    words = ["best.json" if word.endswith("best.json") else word for word in words]
    assert main(["export", *words, "-o", "refused.py"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("refused.py").exists()


def test_no_file_is_written_unless_all_can_be(workdir: Path) -> None:
    (workdir / "g_last.py").write_text("")
    with pytest.raises(InputError, match=r"g_last\.py exists already"):
        export_all(BOTH, workdir / "g.py")
    assert not (workdir / "g_first.py").exists()
    with pytest.raises(InputError, match="has no suffix that says what to write"):
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
    assert 'id="learned"' not in page


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
    assert outcome.protocol == "mlp ([:2], 6) on digits, test set, 1 epochs"
    # One run of it outside: the same accuracy to the bit.
    from pdsearch.data import load_dataset

    found = run_trial(
        stored.best().candidate,
        stored.settings.trial.model_copy(update={"epochs": 1, "only": ()}),
        load_dataset("digits"), seed=1000, split="test", device="cpu", threads=1,
    )  # fmt: skip
    assert found.value == outcome.pick.accuracy[0]
    again = confirm(stored, top=2, candidates=[ELU], device="cpu", workers=1)
    assert again.to_dict()["rows"] == outcome.to_dict()["rows"]
    for flag in ("--controls", "--forward-control"):
        assert main(["confirm", "s.toml", flag, "--device", "cpu"]) == 2
        assert "has groups of layers: no one activation has the shapes" in capsys.readouterr().err
    with pytest.raises(InputError, match="candidates must be Candidates, got Grouped"):
        confirm(stored, candidates=[BOTH], device="cpu", workers=1)  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"group 'last': no ReLU's name matches '6'"):
        confirm(stored, transfer=["resnet18@digits"], device="cpu", workers=1)
    assert "mlp ([:2], 6) on digits" in study_report(open_study("s.toml"))


def test_it_is_resumed_and_joined(workdir: Path) -> None:
    whole = search(write(workdir, trials=6), device="cpu", threads=1, progress=False).stored
    wanted = [(row.candidate, row.value) for row in whole.trials()]
    storage = "sqlite:///other.db"
    for trials in (3, 5):
        file = write(workdir, trials=trials)
        search(file, device="cpu", threads=1, progress=False, storage=storage)
    search(write(workdir, trials=6), device="cpu", threads=1, progress=False, storage=storage)
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
