"""Some ReLUs of a network alone, by name and by depth: in `convert`, in a trial, in a study."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pdsearch import convert, load_family, relu_sites
from pdsearch.autograd import replace_relus
from pdsearch.autograd.patterns import slice_of
from pdsearch.confirm import confirm
from pdsearch.data import Dataset
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.report import study_report
from pdsearch.study import open_study, search
from pdsearch.trial import TrialSettings, run_trial, where_in

LEAKY = load_family("leaky").bind(alpha=0.25)
ELU = load_family("elu").bind(alpha=0.5)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("[:3]", slice(None, 3)),
        ("[3:]", slice(3, None)),
        ("[-2:]", slice(-2, None)),
        ("[1:-1]", slice(1, -1)),
        ("[:]", slice(None, None)),
        ("[3]", None),  # a character of a name, as in fnmatch
        ("[a:b]", None),
        ("[:3].relu", None),
        ("features.[:3]", None),
        ("[-:]", None),
        ("[1:2:3]", None),
    ],
)
def test_slices(pattern: str, wanted: slice | None) -> None:
    assert slice_of(pattern) == wanted


class Late(nn.Module):
    """Its children are registered in another order than they run, and it calls ReLU itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True))
        self.never = nn.ReLU()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.last(F.relu(x))
        return F.relu(x - 0.1)


GIVEN = torch.randn(7, 4, generator=torch.Generator().manual_seed(3))
IN_ORDER = ["first.1", "relu", "last.1", "relu_1"]


def late() -> Late:
    torch.manual_seed(0)
    return Late()


def converted_to(model: nn.Module) -> dict[str, str]:
    return {site.name: site.note.partition("(")[0] for site in relu_sites(model)}


@pytest.mark.parametrize("first", range(-5, 6))
@pytest.mark.parametrize("end", [None, -1, 2, 9])
def test_depth_is_the_order_of_the_forward_pass(first: int, end: int | None) -> None:
    wanted = IN_ORDER[first:end]
    pattern = f"[{first}:{'' if end is None else end}]"
    if not wanted:
        with pytest.raises(InputError, match=r"no ReLU is in \[.*: a forward pass reaches 4 of"):
            convert(late(), LEAKY, only=pattern, example=GIVEN)
        return
    model = convert(late(), LEAKY, only=pattern, example=GIVEN)
    assert [name for name in IN_ORDER if converted_to(model)[name] == "leaky"] == wanted
    assert converted_to(model)["never"] == "not converted"  # no forward pass reaches it
    assert model(GIVEN).equal(late()(GIVEN))


def test_depth_in_each_argument() -> None:
    model = convert(late(), {"[:1]": ELU, "relu": ELU, "[1:]": LEAKY}, skip="[-1:]", example=GIVEN)
    assert converted_to(model) == {
        "first.1": "elu", "relu": "elu", "last.1": "leaky", "relu_1": "not converted",
        "never": "not converted",
    }  # fmt: skip
    again = convert(model, LEAKY, only="[:2]", example=GIVEN)  # of a converted model
    assert [converted_to(again)[name] for name in IN_ORDER[:2]] == ["leaky", "leaky"]
    other = replace_relus(late(), nn.Tanh, only="[2:3]", example=GIVEN)
    assert isinstance(other.last[1], nn.Tanh) and isinstance(other.first[1], nn.ReLU)


def test_depth_needs_an_example() -> None:
    with pytest.raises(InputError, match=r"a pattern by depth .a slice. needs an example"):
        convert(late(), {"[:1]": ELU})


def test_what_cannot_be_converted_has_no_depth() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(4, 3, nonlinearity="relu")
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.rnn(x)[0])

    model = convert(Recurrent(), LEAKY, only="[:1]", example=GIVEN)
    assert converted_to(model)["act"] == "leaky"
    with pytest.raises(UnsupportedError, match="cannot reach: rnn"):
        convert(Recurrent(), {"[:1]": LEAKY, "rnn": LEAKY}, example=GIVEN)


class HandLeaky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, 0.25 * grad)


class HandElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grad, 0.5 * x.exp() * grad)


def test_two_shapes_by_depth_are_two_functions_by_hand() -> None:
    given = GIVEN.double()
    model = convert(late().double(), {"[:2]": ELU, "[2:]": LEAKY}, example=given)
    weights = torch.linspace(-1, 1, 5, dtype=torch.float64)
    (model(given) * weights).sum().backward()
    hand = late().double()
    x = HandElu.apply(hand.first[2](HandElu.apply(hand.first[0](given))))
    x = HandLeaky.apply(HandLeaky.apply(hand.last[0](x)) - 0.1)
    (x * weights).sum().backward()
    for (name, own), theirs in zip(model.named_parameters(), hand.parameters(), strict=True):
        assert own.grad is not None and theirs.grad is not None
        assert torch.allclose(own.grad, theirs.grad, rtol=1e-12, atol=1e-14), name


# --- a trial --------------------------------------------------------------------------------------

OWN = """
import torch
from torch import nn

class Hidden(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x, torch.zeros_like(x))  # ReLU, but nothing that convert finds

def net(classes, second):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.ReLU(), nn.Linear(12, 12), second,
                         nn.Linear(12, classes))

def two(classes):
    return net(classes, nn.ReLU())

def one(classes):
    return net(classes, Hidden())
"""


def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randint(0, 156, (120, 3, 8, 8), generator=generator)
    images += 50 * labels.view(-1, 1, 1, 1)
    images = images.to(torch.uint8)
    return Dataset("tiny", images[:90], labels[:90], images[90:], labels[90:], ("a", "b", "c"))


def losses(directory: Path, model: str, module: Any = None, **changed: Any) -> list[Any]:
    given: dict[str, Any] = {"model": f"own.py:{model}", "epochs": 2, "batch_size": 16}
    given |= {"precision": "float32", "memory_format": "contiguous", "learning_rate": 0.05}
    result = run_trial(
        LEAKY, TrialSettings(**given, **changed), dataset(), seed=1, threads=1, device="cpu",
        directory=directory, module=module,
    )  # fmt: skip
    return [(e.loss, e.accuracy, e.evaluation_loss) for e in result.epochs]


@pytest.mark.parametrize("module", [None, nn.LeakyReLU])
def test_a_trial_changes_the_chosen_relus_alone(tmp_path: Path, module: Any) -> None:
    (tmp_path / "own.py").write_text(OWN)
    wanted = losses(tmp_path, "one", module)
    for sites in ({"only": ["[:1]"]}, {"only": ["2"]}, {"skip": ["4"]}, {"skip": ["[1:]"]}):
        assert losses(tmp_path, "two", module, **sites) == wanted, sites
    assert losses(tmp_path, "two", module) != wanted
    assert losses(tmp_path, "two", module, only=["4"]) != wanted


def test_settings_without_them_are_as_before() -> None:
    assert not {"only", "skip"} & TrialSettings().model_dump().keys()
    some = TrialSettings(model="mlp", dataset="digits", only=["[:2]", "a.*"], skip=["a.1"])
    kept = json.loads(json.dumps(some.model_dump(mode="json")))
    assert where_in(kept) == "mlp ([:2], a.* without a.1) on digits"
    assert where_in({"model": "mlp", "dataset": "digits"}) == "mlp on digits"
    assert TrialSettings.model_validate(kept) == some


# --- a study --------------------------------------------------------------------------------------

STUDY = """
[study]
name = "layers"
families = ["leaky"]
references = []
trials = {trials}
workers = 1
[trial]
model = "mlp"
width = 8
depth = 2
dataset = "digits"
epochs = 1
batch_size = 128
precision = "float32"
memory_format = "contiguous"
{only}
[confirm]
seeds = 1
epochs = 1
"""


def write(folder: Path, *, trials: int = 3, only: str = 'only = ["[:1]"]') -> Path:
    file = folder / "s.toml"
    file.write_text(STUDY.format(trials=trials, only=only))
    return file


def test_a_study_of_the_first_layer(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pdsearch.trial import run

    trained: list[list[str]] = []
    made = run._converted

    def spy(*given: Any, **options: Any) -> Any:
        model, names = made(*given, **options)
        kinds = [type(model.get_submodule(name)).__name__ for name in names]
        trained.append(kinds)
        return model, names

    monkeypatch.setattr(run, "_converted", spy)
    for trials in (2, 3):
        done = search(write(workdir, trials=trials), device="cpu", progress=False)
        assert done.to_dict()["trials"]["complete"] == trials
    assert trained == [["PDReLU", "ReLU"]] * 3
    trained.clear()
    outcome = confirm(done.stored, top=1, controls=True, device="cpu", workers=1)
    kinds = [row.kind for row in outcome.rows]
    assert {"baseline", "candidate", "forward_control", "activation"} <= set(kinds)
    # Controls take the same place: another activation, in the first layer alone.
    assert len(trained) == len(kinds) and {second for _, second in trained} == {"ReLU"}
    firsts = [first for first, _ in trained]
    assert {"PDReLU", "LeakyReLU", "GELU", "SiLU"} <= set(firsts) and "ReLU" not in firsts
    assert outcome.protocol == "mlp ([:1]) on digits, test set, 1 epoch"
    assert json.loads(json.dumps(outcome.to_dict()))["only"] == ["[:1]"]
    assert "mlp ([:1]) on digits" in study_report(open_study("s.toml"))
    with pytest.raises(InputError, match=r"trial\.only \['\[:1\]'\] → \['\[1:\]'\]"):
        search(write(workdir, only='only = ["[1:]"]'), device="cpu", progress=False)
    with pytest.raises(InputError, match=r"trial\.only \['\[:1\]'\] → None"):
        search(write(workdir, only=""), device="cpu", progress=False)


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ('only = ["features.*"]', r"no ReLU's name matches 'features\.\*'; there are 2, 4"),
        ('skip = ["[7:]"]', r"no ReLU is in \[7:\]: a forward pass reaches 2 of them"),
        ('only = "2"', r"trial\.only: must be a list, got '2'"),
        ("skip = [2]", r"trial\.skip\.0: must be text, got 2"),
    ],
)
def test_wrong_patterns_are_told_before_anything_runs(
    workdir: Path, only: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(write(workdir, only=only), device="cpu", progress=False)
    assert not (workdir / "pdsearch.db").exists()
