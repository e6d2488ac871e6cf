"""convert and relu_sites: names, patterns, what is refused and rolled back, what composes."""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from relu_models import CASES, BaseMethod, CifarNet, PreActBlock, layer
from relu_oracle import LEAKY, bits, compare, gradients, relu_nodes
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

from pdsearch import Candidate, InputError, PDReLU, convert, load_family, relu_sites, set_progress
from pdsearch.autograd import replace_relus
from pdsearch.errors import UnsupportedError

ELU = load_family("elu").bind(alpha=0.7)
GIVEN = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(F.relu(self.bn(self.conv(x)), inplace=True) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3), nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def plain() -> Net:
    torch.manual_seed(0)
    return Net()


def converted(candidate: Any = ELU, **options: Any) -> Net:
    return convert(plain(), candidate, example=GIVEN, **options)


@pytest.fixture(scope="module")
def wanted() -> list[torch.Tensor | None]:
    return gradients(converted(), GIVEN)


NAMES = ["relu", "blocks.0.relu", "blocks.0.act", "blocks.1.relu", "blocks.1.act"]

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
        assert sites[0].where.startswith(f"{__file__}:")
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
        (ELU, {"example": torch.randn(2)}, r"Net fails on the example"),
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
    assert names_of(model) == {"rnn": "its ReLU is inside of a kernel", "act": "leaky"}


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


# -------------------------------------------------------------------------------------- composition


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_sparse(layout: torch.layout) -> None:
    values = torch.tensor([-1.0, 2.0, -3.0, 0.5], requires_grad=True)
    places = torch.tensor([[0, 1, 1, 1], [2, 0, 2, 2]])
    given = torch.sparse_coo_tensor(places, values, (2, 3))
    if layout is not torch.sparse_coo:
        given = given.to_sparse(layout=layout)
    output = PDReLU(LEAKY)(given)
    expected = torch.relu(given)
    assert output.layout == layout and torch.equal(output.to_dense(), expected.to_dense())
    output.to_dense().sum().backward()
    assert values.grad.tolist() == [0.25, 1.0, 0.25, 0.25]


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize("fullgraph", [True, False])
def test_compiled(fullgraph: bool, wanted: list[torch.Tensor | None]) -> None:
    torch._dynamo.reset()
    model = converted()
    fast = torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
    fast(GIVEN).square().sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(GIVEN).square().sum().backward()
    compare(found, [p.grad for p in model.parameters()])


@pytest.mark.filterwarnings("ignore")
def test_compiled_with_calls_of_one_module_converted_differently() -> None:
    torch._dynamo.reset()
    model = CifarNet(PreActBlock)
    given = torch.randn(2, 3, 32, 32)
    convert(model, {"layers.0.relu": ELU, "*": LEAKY}, example=given)
    with pytest.raises(Exception, match="cannot tell the ReLU calls of one module apart"):
        torch.compile(model, backend="aot_eager", fullgraph=True)(given)


def test_fx(wanted: list[torch.Tensor | None]) -> None:
    traced = torch.fx.symbolic_trace(converted())
    targets = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert [target for target in targets if target in NAMES] == NAMES
    compare(gradients(traced, GIVEN), wanted)
    compare(gradients(copy.deepcopy(traced), GIVEN), wanted)
    model = converted()
    found = create_feature_extractor(model, ["blocks.0.relu", "fc"])(GIVEN)
    assert torch.equal(found["fc"], model(GIVEN)) and found["blocks.0.relu"].shape[1] == 4


def test_exports_are_plain() -> None:
    model = converted().eval()
    program = torch.export.export(model, (GIVEN,))
    kinds = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert sum("relu" in kind for kind in kinds) == 5
    assert torch.equal(program.module()(GIVEN), model(GIVEN))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (GIVEN,), file, dynamo=False)
    nodes = [n.op_type for n in onnx.load_from_string(file.getvalue()).graph.node]
    assert nodes.count("Relu") == 5 and "Shape" not in nodes


@pytest.mark.filterwarnings("ignore")
def test_scripting_is_refused() -> None:
    for model in (converted(), convert(nn.Sequential(nn.ReLU()), ELU)):
        with pytest.raises(
            UnsupportedError, match=r"torch\.jit\.script cannot hold a pseudo-deriv"
        ):
            torch.jit.script(model)


def test_averaged_and_saved(wanted: list[torch.Tensor | None]) -> None:
    model = converted()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    compare(gradients(average.module, GIVEN), wanted)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    compare(gradients(torch.load(file, weights_only=False), GIVEN), wanted)
    compare(gradients(copy.copy(model), GIVEN), wanted)


@pytest.mark.parametrize("built_on_meta", [False, True])
def test_meta_device(built_on_meta: bool, wanted: list[torch.Tensor | None]) -> None:
    state = plain().state_dict()
    with torch.device("meta"):
        model = Net()
        if built_on_meta:
            convert(model, ELU, example=GIVEN.to("meta"))
    if not built_on_meta:
        convert(model, ELU)
    if built_on_meta:
        model.to_empty(device="cpu").load_state_dict(state)
    else:
        model.load_state_dict(state, assign=True)
    compare(gradients(model, GIVEN), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "candidate",
    [  # parameters that no other test has: nothing made before may serve
        load_family("sigmoid").bind(alpha=3.171),
        load_family("gaussian_tail").bind(alpha=0.3171),
        load_family("leaky").bind(alpha=0.3171),
    ],
    ids=str,
)
def test_ambient_device(candidate: Candidate, dtype: torch.dtype) -> None:
    given = torch.linspace(-3, 3, 40_000, dtype=dtype).requires_grad_()
    with torch.device("meta"):
        convert(nn.Sequential(nn.ReLU()), candidate)(given).sum().backward()
    exact = candidate(given.detach().double())
    assert (given.grad.double() - exact).abs().max() < (1e-5 if dtype.itemsize > 2 else 5e-3)


def _stacked(candidates: list[Candidate]) -> None:
    models = [converted(candidate).eval() for candidate in candidates]
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def loss(parameters: Any, buffers: Any, given: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, (parameters, buffers), (given,)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (0, 0, None))(parameters, buffers, GIVEN)
    for number, model in enumerate(models):
        model(GIVEN).square().sum().backward()
        names = [name for name, _ in model.named_parameters()]
        compare([found[n][number] for n in names], [p.grad for p in model.parameters()])


def test_stacked_models() -> None:
    family = load_family("elu")
    _stacked([family.bind(alpha=alpha) for alpha in (0.2, 0.9, 0.5)])
    with pytest.raises(UnsupportedError, match=r"of different families: vmap runs one formula"):
        _stacked([family.bind(alpha=0.2), LEAKY])


def test_integers_pass_through_calls() -> None:
    class Integers(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x)

    assert convert(Integers(), LEAKY)(torch.tensor([-1, 2])).tolist() == [0, 2]


class CallsAroundAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.attention = nn.TransformerEncoder(layer, 2), nn.MultiheadAttention(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(F.relu(x))
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fused_inference_stays(mode: Any) -> None:
    torch.manual_seed(0)
    model, given = CallsAroundAttention().eval(), torch.randn(2, 5, 8)
    with mode():
        output = model(given)
    names = [site.name for site in relu_sites(convert(model, ELU, example=given))]
    assert names == ["relu", "encoder.layers.0.activation", "encoder.layers.1.activation"]
    for _ in range(2):
        with mode():
            assert torch.equal(bits(model(given)), bits(output))
        convert(model, LEAKY, example=given)
