"""convert and relu_sites: names, patterns, what is refused and rolled back, what stays."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import relu_net
import torch
import torch.nn.functional as F
from relu_models import CASES, BaseMethod, layer
from relu_net import ELU, GIVEN, NAMES, Net, converted, plain
from relu_oracle import LEAKY, bits, compare, gradients, relu_nodes
from torch import nn
from torch.utils.checkpoint import checkpoint

from pdsearch import InputError, PDReLU, convert, load_family, relu_sites, set_progress
from pdsearch.autograd import replace_relus
from pdsearch.errors import UnsupportedError

# ------------------------------------------------------------------------------------------- sites


def test_sites_before_and_after() -> None:
    model = plain()
    modules = list(model.named_modules())
    for example in (None, GIVEN):
        sites = relu_sites(model, example)
        assert [site.name for site in sites] == NAMES
        calls = ["torch.relu", "F.relu", "nn.ReLU(inplace=True)", "F.relu", "nn.ReLU(inplace=True)"]
        assert [site.call for site in sites] == calls
        assert not any(site.converted for site in sites)
        assert sites[0].where.startswith(f"{relu_net.__file__}:")
    assert list(model.named_modules()) == modules
    sites = relu_sites(convert(model, ELU, example=GIVEN))
    assert [site.name for site in sites] == NAMES
    assert [site.call for site in sites] == calls
    assert all(site.converted and site.note.startswith("elu(alpha=0.7)") for site in sites)
    assert all(isinstance(model.get_submodule(name), PDReLU) for name in NAMES)


def test_where_names_the_very_line() -> None:
    (site,) = relu_sites(CASES["BaseMethod"](), torch.randn(2, 4))
    line = BaseMethod.forward.__code__.co_firstlineno + 1
    assert site.where.endswith(f"relu_models.py:{line}")


def test_what_the_example_does_not_reach_is_said() -> None:
    sites = relu_sites(CASES["LocalName"](), torch.randn(2, 4))
    assert {s.name: s.note for s in sites} == {
        "relu": "not called by the example",
        "act": "not converted",
    }
    model = convert(CASES["LocalName"](), LEAKY, example=torch.randn(2, 4))
    assert relu_nodes([model.loss(torch.randn(2, 4))]) == 0


def test_a_branch_taken_later_is_converted_too() -> None:
    model = convert(CASES["BranchNotTaken"](), LEAKY, example=torch.randn(2, 4))
    assert relu_nodes([model(torch.randn(1001, 4, requires_grad=True))]) == 0


def test_relu_sites_refuses() -> None:
    with pytest.raises(InputError, match=r"needs a torch.nn.Module, got str"):
        relu_sites("resnet18")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Net fails on the example: RuntimeError: Expected 3D"):
        relu_sites(plain(), torch.randn(2, 2))


# ---------------------------------------------------------------------------------------- patterns


def names_of(model: nn.Module, example: Any = None) -> dict[str, str]:
    return {s.name: s.note.partition("(")[0] for s in relu_sites(model, example)}


def test_patterns_choose_candidates() -> None:
    model = converted({"blocks.0.*": ELU, "blocks.?.act": LEAKY})
    assert names_of(model) == dict(
        zip(NAMES, ["not converted", "elu", "elu", "not converted", "leaky"], strict=True)
    )
    assert relu_nodes([model(GIVEN)]) == 2


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"skip": "blocks.0.*"}, [1, 2]),
        ({"skip": ["*.act", "relu"]}, [0, 2, 4]),
        ({"only": "blocks.1.relu"}, [0, 1, 2, 4]),
        ({"only": ("blocks.*",), "skip": ("*.1.*",)}, [0, 3, 4]),
        ({"only": "*.act"}, [0, 1, 3]),
    ],
    ids=str,
)
def test_only_and_skip(options: Any, left: list[int]) -> None:
    model = converted(**options)
    notes = names_of(model, GIVEN)
    assert [name for name, note in notes.items() if note != "elu"] == [NAMES[i] for i in left]
    assert relu_nodes([model(GIVEN)]) == len(left)
    convert(model, LEAKY, only=[NAMES[i] for i in left], example=GIVEN)
    now = names_of(model)
    assert [name for name, note in now.items() if note == "leaky"] == [NAMES[i] for i in left]
    assert relu_nodes([model(GIVEN)]) == 0


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(F.relu(x) - 0.1) + torch.relu(x).relu()


@pytest.mark.parametrize("left", ["relu", "relu_1", "relu_2", "relu_3"])
def test_of_several_calls_in_one_module_any_may_stay(left: str) -> None:
    given = torch.randn(6, 4).requires_grad_()
    model = convert(Twice(), ELU, skip=left, example=given)
    assert {name for name, note in names_of(model).items() if note != "elu"} == {left}
    assert relu_nodes([model(given)]) == 1
    model = convert(Twice(), ELU, only=left, example=given)
    assert {name for name, note in names_of(model).items() if note == "elu"} == {left}
    assert relu_nodes([model(given)]) == 3


@pytest.mark.parametrize(
    ("candidate", "options", "message"),
    [
        (
            ELU,
            {"skip": "block.*"},
            r"no ReLU's name matches 'block\.\*'; there are relu, blocks\.0",
        ),
        (ELU, {"only": ["relu", "x"]}, r"no ReLU's name matches 'x'"),
        ({"a": ELU}, {}, r"no ReLU's name matches 'a'"),
        ({}, {}, r"a Candidate or a dict from name patterns to them"),
        ({"*": load_family("elu")}, {}, r"to Candidates, got Family \(bind a family first\)"),
        (load_family("elu"), {}, r"got Family \(bind a family first\)"),
        (ELU, {"skip": [3]}, r"skip must be patterns of names, got int"),
        (ELU, {"save": "half"}, r"save must be one of auto, input, uint8, got 'half'"),
        (ELU, {"example": torch.ones(2)}, r"Net fails on the example"),
    ],
    ids=str,
)
def test_wrong_arguments(candidate: Any, options: Any, message: str) -> None:
    model = plain()
    with pytest.raises(InputError, match=message):
        convert(model, candidate, **{"example": GIVEN, **options})
    assert names_of(model) == dict.fromkeys(NAMES, "not converted")


@pytest.mark.parametrize("example", [(GIVEN,), {"x": GIVEN}], ids=["tuple", "dict"])
def test_examples_of_arguments(example: Any) -> None:
    assert all(site.converted for site in relu_sites(convert(plain(), ELU, example=example)))


class Clamps(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.clamp_min(self.first(x).clamp(min=0) - 0.1, 0).clamp_(0, 5))


def test_clamp_on_request() -> None:
    given = torch.randn(4, 4)
    with pytest.raises(
        UnsupportedError, match=r"Clamps holds no nn\.ReLU to convert, and calls none"
    ):
        convert(Clamps(), LEAKY, example=given)
    model = convert(Clamps(), LEAKY, example=given, clamp=True)
    assert [site.call for site in relu_sites(model)] == ["torch.clamp_min", "Tensor.clamp"]


# ----------------------------------------------------------------------------- refused, rolled back


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.act = nn.RNN(4, 4, nonlinearity="relu"), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.rnn(x)[0])


class CheckpointedLambda(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda y: F.relu(self.first(y)), x, use_reentrant=False)


class CheckpointedLambdaReentrant(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda y: F.relu(self.first(y)), x, use_reentrant=True)


class Operator(BaseMethod):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(torch.ops.aten.relu(self.first(x)))


class Observer(BaseMethod):
    """Computes something else where its ReLU is not nn.ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.first(F.relu(x))) + isinstance(self.act, PDReLU)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Recurrent, r"cannot reach: rnn \(nn.RNN\(nonlinearity='relu'\)\).*skip=\['rnn'\]"),
        (CheckpointedLambda, r"local function that torch.utils.checkpoint runs a second time"),
        (
            CheckpointedLambdaReentrant,
            r"own gradient at 1 place, .*F.relu in 'the model' \(.*py:\d+",
        ),
        (Operator, r"keeps ReLU's own gradient at 1 place, .*relu in 'the model' \(.*py:\d+\)"),
        (Observer, r"computes something else on the example when converted \(output 1\)"),
    ],
)
def test_what_cannot_be_converted_is_left_as_it_was(
    make: Callable[[], nn.Module], message: str
) -> None:
    torch.manual_seed(0)
    model, given = make(), torch.randn(5, 4, requires_grad=True)
    types = [(name, type(m), id(m)) for name, m in model.named_modules()]
    output = model(given)
    with pytest.raises(UnsupportedError, match=message):
        convert(model, LEAKY, example=given)
    assert [(name, type(m), id(m)) for name, m in model.named_modules()] == types
    assert torch.equal(bits(model(given)), bits(output))
    assert not any(site.converted for site in relu_sites(model))


def test_skip_leaves_what_cannot_be_reached() -> None:
    model = convert(Recurrent(), LEAKY, skip="rnn", example=torch.randn(5, 4))
    assert names_of(model) == {"rnn": "its ReLU is inside a kernel", "act": "leaky"}


def test_scripted_code_is_named() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(
            layer(), torch.jit.script(nn.Sequential(layer(), nn.ReLU())), nn.ReLU()
        )
    given = torch.randn(2, 4)
    with pytest.raises(UnsupportedError, match=r"cannot reach: 1 \(TorchScript Sequential\)"):
        convert(model, LEAKY, example=given)
    assert names_of(convert(model, LEAKY, skip="1", example=given))["2"] == "leaky"


def test_rollback_of_an_fx_graph() -> None:
    model = torch.fx.symbolic_trace(plain())
    code, output = model.code, model(GIVEN)
    model.register_forward_hook(
        lambda module, inputs, out: out + (len(list(module.modules())) > 14)
    )
    with pytest.raises(UnsupportedError, match=r"something else on the example"):
        convert(model, ELU, example=GIVEN)
    assert model.code == code and not any(isinstance(m, PDReLU) for m in model.modules())
    model._forward_hooks.clear()
    assert torch.equal(model(GIVEN), output)


# ------------------------------------------------------------------------------------ nothing moves


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn, self.drop, self.calls, self.log = nn.BatchNorm1d(4), nn.Dropout(), 0, [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.log.append(self.calls)
        self.last = x
        return self.drop(F.relu(self.bn(x)))


def test_state_is_put_back() -> None:
    model = Stateful()
    model.drop.eval()
    model.bn.weight.grad = torch.ones(4)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    convert(model, ELU, example=torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), random)
    assert (model.calls, model.log, hasattr(model, "last")) == (0, [0], False)
    assert model.training and not model.drop.training
    assert torch.equal(model.bn.weight.grad, torch.ones(4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_negative_zeros_stay() -> None:
    for make, want in ((nn.ReLU, -0.0), (lambda: nn.Threshold(0, 0), 0.0)):
        for inplace in (False, True):
            act = convert(nn.Sequential(make()), ELU)[0]
            act.inplace = inplace
            found = act(torch.tensor([-0.0, -0.0], requires_grad=True) * 1)
            assert torch.equal(bits(found), bits(torch.tensor([want, want])))


def test_hooks_stay() -> None:
    model, calls = plain(), []
    hook = model.blocks[0].act.register_forward_hook(lambda m, i, o: calls.append(type(m).__name__))
    convert(model, ELU)(GIVEN)
    hook.remove()
    model(GIVEN)
    assert calls == ["PDReLU"]


def test_other_instances_of_the_class_stay() -> None:
    one, other = plain(), plain()
    convert(one, ELU, example=GIVEN)
    assert type(other) is Net and relu_nodes([other(GIVEN)]) == 5
    assert isinstance(one, Net) and type(one).__name__ == "Net"


def test_replace_relus_reaches_the_same_sites() -> None:
    model = replace_relus(plain(), nn.Softplus, example=GIVEN)
    assert all(isinstance(model.get_submodule(name), nn.Softplus) for name in NAMES)
    assert relu_nodes([model(GIVEN)]) == 0


def test_progress_reaches_calls() -> None:
    model = converted(load_family("annealed_exp_tail").default)
    set_progress(model, 1.0)
    step = converted(load_family("relu").default)
    compare(gradients(model, GIVEN), gradients(step, GIVEN))


def test_second_derivatives_through_calls_in_place() -> None:
    given = torch.randn(5, 4)
    found: list[Any] = []
    for name in ("BaseMethod", "Partial"):  # the same network, the second one in place
        torch.manual_seed(0)
        model = convert(CASES[name](), ELU, example=given)
        leaf = given.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf, create_graph=True)
        found += torch.autograd.grad(gradient.square().sum(), leaf)
    assert torch.equal(*found) and found[0].abs().max() > 0.01


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.act = inner, nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.act(self.inner(x)))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"skip": ["relu", "act"]}, 2),
        ({"skip": "inner.*"}, 1),
        ({"only": "relu"}, 2),
        ({"only": "inner.relu"}, 2),
    ],
    ids=str,
)
def test_what_stays_is_not_taken_by_the_module_around(graph: bool, options: Any, left: int) -> None:
    inner: nn.Module = BaseMethod()
    model = Around(torch.fx.symbolic_trace(inner) if graph else inner)
    given = torch.randn(5, 4)
    convert(model, LEAKY, example=given, **options)
    for twin in (model, copy.deepcopy(model)):
        assert relu_nodes([twin(given)]) == left
    convert(model, LEAKY, example=given)
    assert relu_nodes([model(given)]) == 0


def test_a_model_that_never_repeats_itself_is_converted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator = torch.Generator()

    class Noisy(BaseMethod):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.rand(4, generator=generator)

    model = convert(Noisy(), LEAKY, example=torch.randn(2, 4))
    assert relu_nodes([model(torch.randn(2, 4))]) == 0
    assert "Noisy does not repeat itself on the example" in caplog.text


def test_methods_called_from_outside() -> None:
    class Features(BaseMethod):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.first(x))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.features(x))

    given = torch.randn(5, 4)
    model = convert(Features(), LEAKY, example=given)
    assert relu_nodes([model.features(given)]) == 0


def test_lazy_layers() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    with pytest.raises(InputError, match="has lazy layers that hold no weights yet"):
        convert(model, LEAKY, example=torch.randn(2, 4))
    assert isinstance(convert(model, LEAKY)[1], PDReLU)


@pytest.mark.parametrize(
    "make", [nn.ReLU, lambda: nn.ReLU(inplace=True), lambda: nn.Threshold(0, 0)]
)
def test_a_model_that_is_itself_a_relu(make: Any) -> None:
    candidate = load_family("leaky").bind(alpha=0.25)
    example = torch.linspace(-2, 2, 7)
    for given in (None, example):
        found = convert(make(), candidate, example=given)
        assert isinstance(found, PDReLU)
        again = convert(found, candidate, example=given)  # its own buffers do not count
        leaf = example.clone().requires_grad_()
        again(leaf * 1).sum().backward()
        torch.testing.assert_close(leaf.grad, candidate(example))
