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

import pytest
import torch
from test_layers import OWN, HandLeaky, dataset
from torch import nn

from pdsearch import Candidate, Grouped, PDReLU, convert, fade, load_family, plot
from pdsearch.cli import main
from pdsearch.errors import InputError
from pdsearch.study import search
from pdsearch.study.families import resolve_families
from pdsearch.study.file import validate
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


@pytest.mark.parametrize("first", [ELU, STEEP, fade(load_family("elu"), "linear", end=0.5).default])
def test_a_trial_is_that_of_layers_written_by_hand(tmp_path: Path, first: Candidate) -> None:
    """The third layer's derivative is a `torch.autograd.Function` of the test's."""
    assert HandLeaky.apply(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]
    (tmp_path / "own.py").write_text(THREE + HAND)
    wanted = losses(tmp_path, first, "half", only=["2"])
    grouped = Grouped({"first": first, "last": LEAKY}, {"first": ("2",), "last": ("[-1:]",)})
    assert losses(tmp_path, grouped, "three") == wanted
    assert losses(tmp_path, grouped, "three", only=["2", "[-1:]"]) == wanted  # as a study has it
    swapped = Grouped({"first": LEAKY, "last": first}, dict(grouped.layers))
    assert losses(tmp_path, swapped, "three") != wanted
    alike = Grouped({"first": first, "last": first}, dict(grouped.layers))
    assert losses(tmp_path, alike, "three") == losses(tmp_path, first, "three", only=["2", "6"])


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
    workdir: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
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
