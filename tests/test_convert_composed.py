"""Converted models with compilers, transforms, formats and devices."""

import copy
import io
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from relu_models import CifarNet, PreActBlock
from relu_net import ELU, GIVEN, NAMES, Net, converted, plain
from relu_oracle import LEAKY, bits, compare, gradients
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from pdsearch import Candidate, PDReLU, convert, load_family, relu_sites
from pdsearch.errors import UnsupportedError


@pytest.fixture(scope="module")
def wanted() -> list[torch.Tensor | None]:
    return gradients(converted(), GIVEN)


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
@pytest.mark.parametrize("fullgraph", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_torch_compile(fullgraph: bool, wanted: list[torch.Tensor | None]) -> None:
    torch._dynamo.reset()
    model = converted()
    fast = torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
    fast(GIVEN).square().sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(GIVEN).square().sum().backward()
    compare(found, [p.grad for p in model.parameters()])


def test_ddp(tmp_path: Path, wanted: list[torch.Tensor | None]) -> None:
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(converted())
        compare(gradients(model, GIVEN), wanted)
        inner = nn.parallel.DistributedDataParallel(plain())
        compare(gradients(convert(inner, ELU, example=GIVEN), GIVEN), wanted)
    finally:
        group.destroy_process_group()


def compiled(model: nn.Module) -> Any:
    """As a user has it: compiled, and run once."""
    fast: Any = torch.compile(model, backend="eager")  # a graph of Dynamo's, no code made of it
    gradients(fast, GIVEN)
    fast.zero_grad()
    return fast


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize(
    ("wrapped", "example"),
    [
        (compiled, GIVEN),
        (compiled_in_place, None),
        (nn.DataParallel, GIVEN),
        (nn.DataParallel, None),
    ],
    ids=["compiled", "compiled in place", "parallel", "parallel, no example"],
)
def test_wrapped_before_it_is_converted(
    wrapped: Any, example: Any, wanted: list[torch.Tensor | None]
) -> None:
    torch._dynamo.reset()
    model = wrapped(plain())
    for candidate in (LEAKY, ELU):
        assert convert(model, candidate, example=example) is model
        found = gradients(model, GIVEN)
    compare(found, wanted)


class Hooked(nn.Module):
    """A ReLU in a hook, which runs outside `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda module, given, output: F.relu(output))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("example", [torch.ones(2), None], ids=["example", "none"])
@pytest.mark.parametrize(("root", "factor"), [(nn.ReLU, 1.0), (Hooked, 2.0)])
def test_a_compiled_root_is_called_as_it_is_now(root: Any, factor: float, example: Any) -> None:
    """What torch.compile returns keeps the `__call__` of the module that it was given."""
    torch._dynamo.reset()
    fast: Any = torch.compile(root(), backend="eager")
    model = convert(fast, ELU, example=example)
    given = torch.tensor([-0.5, 0.5], requires_grad=True)
    model(given).sum().backward()
    slope = 0.7 * math.exp(-0.5 * factor)  # ELU's, by hand
    assert given.grad.tolist() == pytest.approx([factor * slope, factor], rel=1e-6)


class OutOfReach(nn.ReLU):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.relu(super().__call__(x))


@pytest.mark.filterwarnings("ignore")
def test_a_refused_conversion_leaves_what_was_compiled() -> None:
    torch._dynamo.reset()
    model: Any = torch.compile(nn.Sequential(nn.ReLU(), OutOfReach()), backend="eager")
    forward = model.forward
    with pytest.raises(UnsupportedError, match="keeps ReLU's own gradient"):
        convert(model, ELU, example=torch.ones(2))
    assert model.forward is forward and type(model.get_submodule("_orig_mod.0")) is nn.ReLU


def test_replicas_of_data_parallel() -> None:
    """As on several devices: copies of all modules, each run by a thread of its own."""
    model: Any = convert(nn.DataParallel(plain()), ELU, example=GIVEN).module
    copies = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in copies.items():
        for name, child in module._modules.items():
            replica._modules[name] = copies[child]
        vars(replica).update(module._parameters)
        replica._buffers.update(module._buffers)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(copies[model], [GIVEN, GIVEN]))
    sum(output.square().sum() for output in outputs).backward()
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    (2 * model(GIVEN).square().sum()).backward()
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
        torch.onnx.export(model, (GIVEN,), file, dynamo=False)  # type: ignore[arg-type]
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
