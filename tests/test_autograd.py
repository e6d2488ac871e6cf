"""pd_relu, PDReLU, convert, forward_control."""

import copy
import pickle
from typing import Any

import pytest
import sympy
import torch
import torchvision
from dtypes import NoFloat64
from relu_oracle import gradient_of
from torch import nn
from torch.nn import functional

from pdsearch import (
    Candidate,
    Family,
    InputError,
    PDReLU,
    convert,
    forward_control,
    library,
    pd_relu,
    set_progress,
    x,
)
from pdsearch.autograd import relu_modules
from pdsearch.codegen import evaluate
from pdsearch.errors import UnsupportedError
from pdsearch.family import load_target

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def candidate() -> Candidate:
    return library()["exp_tail"].bind(alpha=0.5, beta=1.5)


def gradient(given: torch.Tensor, candidate: Candidate, **options: Any) -> torch.Tensor:
    leaf = given.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = pd_relu(leaf, candidate, **options)
    upstream = torch.linspace(-2, 3, output.numel()).to(output.dtype).view(output.shape)
    (found,) = torch.autograd.grad(output, leaf, upstream)
    assert found.dtype == given.dtype and found.shape == given.shape
    return found


# ------------------------------------------------------------------------------------ forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_forward_is_relu_for_every_16_bit_value(dtype: torch.dtype, candidate: Candidate) -> None:
    every = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
    for leaf in (every, every.clone().requires_grad_()):
        ours, own = pd_relu(leaf, candidate).detach(), torch.relu(every)
        assert torch.equal(ours.view(torch.int16), own.view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("save", ["auto", "input"])
def test_forward_is_relu_bit_for_bit(dtype: torch.dtype, save: str, candidate: Candidate) -> None:
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-310, -1e-310, 5e-45]
    given = torch.cat([torch.tensor(special, dtype=dtype), torch.randn(999, dtype=dtype)])
    integers = torch.int32 if dtype == torch.float32 else torch.int64
    ours = pd_relu(given.requires_grad_(), candidate, save=save).detach().view(integers)
    assert torch.equal(ours, torch.relu(given).detach().view(integers))


# ---------------------------------------------------------------------------------- gradients

SHAPES = {
    "0-d": lambda: torch.tensor(-0.7),
    "empty": lambda: torch.empty(0),
    "empty axis": lambda: torch.empty(3, 0, 2),
    "vector": lambda: torch.randn(1_001),
    "matrix, transposed": lambda: torch.randn(17, 33).t(),
    "every third": lambda: torch.randn(300)[::3],
    "images": lambda: torch.randn(4, 3, 9, 7),
    "images, channels last": lambda: torch.randn(4, 3, 9, 7).to(memory_format=torch.channels_last),
    "images, sliced": lambda: torch.randn(4, 6, 9, 7)[:, ::2, 1:],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exact", [False, True])
def test_gradient(shape: str, dtype: torch.dtype, exact: bool, candidate: Candidate) -> None:
    torch.manual_seed(0)
    given = (SHAPES[shape]() * 3).to(dtype)
    found = gradient(given, candidate, exact=exact)
    upstream = torch.linspace(-2, 3, given.numel()).to(dtype).view(given.shape)
    z = given.double()
    g = torch.where(z > 0, 1.0, 0.5 * torch.exp(1.5 * z))
    wanted = upstream.double() * g
    tolerance = {torch.float64: 1e-12, torch.float32: 4e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    allowed = tolerance * wanted.abs() + (0 if exact else 1e-5) + torch.finfo(dtype).tiny
    assert bool(((found.double() - wanted).abs() <= allowed).all())


def test_strides_are_kept(candidate: Candidate) -> None:
    given = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last).requires_grad_()
    output = pd_relu(given, candidate)
    assert output.is_contiguous(memory_format=torch.channels_last)
    output.backward(torch.ones_like(output))
    assert given.grad.is_contiguous(memory_format=torch.channels_last)


def test_expanded_upstream_gradient(candidate: Candidate) -> None:
    leaf = torch.randn(64, 5, requires_grad=True)
    pd_relu(leaf, candidate).sum().backward()
    assert torch.allclose(gradient_of(leaf), candidate(leaf.detach()), atol=1e-5)


def test_infinities_take_the_limit(candidate: Candidate) -> None:
    ends = torch.tensor([float("inf"), -float("inf")])
    for name in library():
        one = library()[name].default
        found = gradient(torch.cat([ends, ends]), one) / torch.linspace(-2, 3, 4)
        assert torch.allclose(found, one(torch.tensor([3e38, -3e38])).repeat(2), atol=1e-5), name


def test_progress_reaches_the_gradient() -> None:
    annealed = library()["annealed_exp_tail"].default
    given = torch.linspace(-3, 3, 50)
    for progress in (0.0, 0.3, 1.0):
        found = gradient(given, annealed, t=progress) / torch.linspace(-2, 3, 50)
        assert torch.allclose(found, annealed(given, t=progress), atol=1e-5)
    assert torch.equal(annealed(given, t=1.0), (given > 0).float())


@pytest.mark.parametrize("order", [1, 2])
def test_double_backward(order: int) -> None:
    for name in ("b_silu", "exp_tail", "circle"):
        one = library()[name].default
        leaf = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
        found = pd_relu(leaf, one).sum()
        for _ in range(order + 1):
            (found,) = torch.autograd.grad(found.sum(), leaf, create_graph=True)
        wanted = evaluate(one, leaf.detach(), order=order)
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_what_the_graph_keeps() -> None:
    def kept(name: str, save: str) -> list[tuple[torch.dtype, bool]]:
        leaf = torch.randn(100, requires_grad=True) * 1.0
        packed: list[torch.Tensor] = []

        def keep(z: torch.Tensor) -> torch.Tensor:
            packed.append(z)
            return z

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda z: z):
            output = pd_relu(leaf, library()[name].default, save=save)
        return [(z.dtype, z.data_ptr() == output.data_ptr()) for z in packed]

    assert kept("leaky", "auto") == [(torch.float32, True)]
    assert kept("leaky", "input") == [(torch.float32, False)]
    assert kept("b_silu", "auto") == [(torch.float32, False)]
    assert kept("b_silu", "uint8") == [(torch.uint8, False)]


def test_uint8_refuses_double_backward() -> None:
    leaf = torch.randn(8, requires_grad=True)
    output = pd_relu(leaf, library()["b_silu"].default, save="uint8")
    with pytest.raises(UnsupportedError, match="keeps too little for double backward"):
        torch.autograd.grad(output.sum(), leaf, create_graph=True)


def test_wrong_arguments(candidate: Candidate) -> None:
    with pytest.raises(InputError, match=r"floating-point tensor, got torch.int64"):
        pd_relu(torch.tensor([1]), candidate)
    with pytest.raises(InputError, match=r"floating-point tensor, got torch.complex64"):
        pd_relu(torch.tensor([1j]), candidate)
    with pytest.raises(InputError, match="floating-point tensor, got list"):
        pd_relu([1.0], candidate)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs a Candidate, got Family"):
        pd_relu(torch.zeros(1), library()["elu"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"t must be in \[0, 1\], got 1.5"):
        pd_relu(torch.zeros(1), candidate, t=1.5)
    with pytest.raises(InputError, match="save must be one of"):
        pd_relu(torch.zeros(1, requires_grad=True), candidate, save="none")
    with pytest.raises(InputError, match="save must be one of"):
        PDReLU(candidate, save="none")
    with pytest.raises(InputError, match=r"PDReLU needs a floating-point tensor, got torch.int64"):
        PDReLU(candidate)(torch.tensor([1]))


# ------------------------------------------------------------------------------------- module


def test_module_copies_pickles_and_has_no_state(candidate: Candidate) -> None:
    module = PDReLU(library()["annealed_exp_tail"].default)
    set_progress(module, 0.5)
    assert not module.state_dict() and not list(module.parameters())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.candidate == module.candidate and twin.progress == 0.5
        leaf = torch.tensor([-1.0], requires_grad=True)
        twin(leaf).sum().backward()
        want = module.candidate(torch.tensor([-1.0]), t=0.5).item()
        assert leaf.grad.item() == pytest.approx(want, abs=1e-5)
    assert "annealed_exp_tail(alpha=0.3, beta=1): Piecewise" in repr(module)


def test_the_module_states_its_error(candidate: Candidate) -> None:
    given = torch.linspace(-9, 9, 40_000)  # enough elements for the table
    exact = evaluate(candidate, given.double())
    for save in ("auto", "uint8"):
        module = PDReLU(candidate, save=save)
        leaf = given.clone().requires_grad_()
        module(leaf).sum().backward()
        error = (leaf.grad.double() - exact).abs().max().item()
        assert error <= module.error_bound() + 1e-7
        assert module.error_bound() < (1e-5 if save == "auto" else 0.02)
    assert PDReLU(candidate).error_bound(torch.bfloat16) == 0.0
    assert PDReLU(candidate, exact=True).error_bound() == 0.0
    with pytest.raises(InputError, match=r"needs a floating-point dtype, got torch.int32"):
        PDReLU(candidate).error_bound(torch.int32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_another_dtype_does_not_round_the_parameters(dtype: torch.dtype) -> None:
    module = PDReLU(library()["exp_tail"].bind(alpha=0.1))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    nn.Sequential(nn.Linear(2, 2), module).to(dtype)
    assert torch.float64 not in {buffer.dtype for buffer in before.values()}
    for name, buffer in module.named_buffers():
        assert buffer.dtype == before[name].dtype and torch.equal(buffer, before[name])
    assert 0.1 in module.exact_numbers.view(torch.float64).tolist()


def test_a_module_pickled_with_float64_buffers_loads() -> None:
    """As versions before float32 numbers wrote it: `values` and `t`, float64."""
    module = PDReLU(library()["annealed_exp_tail"].default)
    set_progress(module, 0.5)
    state = module.__getstate__()
    state["_buffers"] = {
        "values": torch.tensor([0.3, 1.0], dtype=torch.float64),
        "t": torch.tensor(0.5, dtype=torch.float64),
    }
    twin = PDReLU.__new__(PDReLU)
    twin.__setstate__(state)
    own, others = dict(module.named_buffers()), dict(twin.named_buffers())
    assert own.keys() == others.keys() and not twin.state_dict()
    assert all(torch.equal(own[name], others[name]) for name in own)


def test_state_dict_of_the_relu_model_fits(candidate: Candidate) -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    ours = convert(copy.deepcopy(plain), candidate)
    ours.load_state_dict(plain.state_dict())
    assert ours.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, candidate: Candidate) -> None:
    model = convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), candidate)
    given = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=dtype):
        output = model(given)
    output.float().sum().backward()
    hidden = functional.linear(given.to(dtype), model[0].weight.to(dtype), model[0].bias.to(dtype))
    upstream = model[2].weight.detach().to(dtype).sum(0).expand(5, 8).double()
    wanted = (upstream * candidate(hidden.detach()).double()).sum(0)
    assert torch.allclose(model[0].bias.grad.double(), wanted, rtol=0.05, atol=0.05)


# ------------------------------------------------------------------------------------ convert


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.again = self.relu
        self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.ReLU()))
        self.first = nn.ModuleDict({"act": self.relu})

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.relu(self.block(self.again(given * 1.0)))


def test_convert_replaces_nested_and_shared(candidate: Candidate) -> None:
    model = Shared()
    assert convert(model, candidate) is model
    assert model.relu is model.again is model.first["act"]
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert [name for name, _ in relu_modules(model)] == ["relu", "block.1", "block.2.0"]
    assert convert(model, library()["elu"].default).relu.candidate.family.name == "elu"


def test_convert_of_a_relu_itself(candidate: Candidate) -> None:
    assert isinstance(convert(nn.ReLU(inplace=True), candidate), PDReLU)
    assert convert(nn.ReLU().eval(), candidate).training is False


def test_torchvision(candidate: Candidate) -> None:
    model = convert(torchvision.models.resnet18(num_classes=10), candidate, save="input")
    assert all(m.save == "input" for m in model.modules() if isinstance(m, PDReLU))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    with pytest.raises(UnsupportedError, match=r"holds no nn\.ReLU"):
        convert(nn.Sequential(nn.GELU()), candidate)
    with pytest.raises(InputError, match=r"needs a torch.nn.Module, got str"):
        convert("resnet18", candidate)  # type: ignore[arg-type]


def test_set_progress_checks(candidate: Candidate) -> None:
    with pytest.raises(InputError, match=r"t must be in \[0, 1\], got -1"):
        set_progress(nn.Sequential(PDReLU(candidate)), -1)
    for t in ("half", None, [0.5]):
        with pytest.raises(InputError, match=r"t must be in \[0, 1\], got"):
            set_progress(nn.Sequential(PDReLU(candidate)), t)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"t must be in \[0, 1\], got"):
            pd_relu(torch.zeros(1), candidate, t=t)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"set_progress needs a torch\.nn\.Module, got Candidate"):
        set_progress(candidate, 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="error_bound needs a floating-point dtype, got 'float32'"):
        PDReLU(candidate).error_bound("float32")  # type: ignore[arg-type]
    for patterns in (1, [1], 2.5):
        with pytest.raises(InputError, match="skip must be patterns of names, got"):
            convert(nn.ReLU(), candidate, skip=patterns)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- forward control

CLOSED = {
    "elu": lambda z: functional.elu(z),
    "silu": lambda z: functional.silu(z),
    "gelu": lambda z: functional.gelu(z),
    "leaky": lambda z: functional.leaky_relu(z, 0.01),
    "mish": lambda z: functional.mish(z),
    "hardswish": lambda z: functional.hardswish(z),
    "selu": lambda z: functional.selu(z),
    "relu": lambda z: torch.relu(z),
}


@pytest.mark.parametrize("name", CLOSED)
def test_forward_control_is_the_activation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Sympy finds none for mish, whose activation is then tabulated.
    monkeypatch.setattr("pdsearch.autograd.control.TIME_LIMIT", 3.0)
    control = forward_control(library()[name].default)
    given = torch.cat([torch.linspace(-9, 9, 181), torch.tensor([-80.0, 90.0, 700.0])]).double()
    leaf = given.clone().requires_grad_()
    output = control(leaf)
    assert torch.allclose(output, CLOSED[name](given), rtol=1e-6, atol=1e-6)
    output.sum().backward()
    assert torch.allclose(gradient_of(leaf), library()[name].default(given), rtol=1e-12)
    assert control(torch.zeros(1)).item() == 0.0


def test_the_control_of_an_upward_candidate_is_an_ordinary_activation() -> None:
    """Its gradient is its true derivative, whatever the sign of grad_output."""
    control = forward_control(library()["leaky"].bind(alpha=0.1, direction="up"))
    leaf = torch.linspace(-2, 2, 9, requires_grad=True)
    for upstream in (torch.ones(9), -torch.ones(9)):
        output = control(leaf)
        torch.testing.assert_close(output, functional.leaky_relu(leaf, 0.1))
        (got,) = torch.autograd.grad(output, leaf, upstream)
        (wanted,) = torch.autograd.grad(functional.leaky_relu(leaf, 0.1), leaf, upstream)
        torch.testing.assert_close(got, wanted)


def test_forward_control_without_a_closed_form() -> None:
    _, wild = load_target("Piecewise((1, x > 0), (exp(-x**2)/(1 + x**4), True))")
    control = forward_control(wild)
    at = -1.25
    import mpmath

    want = mpmath.quad(lambda s: mpmath.exp(-s * s) / (1 + s**4), [0, at])
    assert control(torch.tensor([at]).double()).item() == pytest.approx(float(want), abs=1e-9)
    assert control(torch.tensor([2.5])).item() == pytest.approx(2.5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_controls_gradient_is_the_pseudo_derivatives_own(dtype: torch.dtype) -> None:
    candidate = library()["exp_tail"].bind(alpha=0.355, beta=2.4)
    control = forward_control(candidate)
    given = torch.randn(4, 64, 16, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = given.clone(memory_format=memory_format).requires_grad_()
        twin = leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        control(leaf).backward(given)
        pd_relu(twin, candidate).backward(given)
        assert torch.equal(gradient_of(leaf), gradient_of(twin))
        assert torch.allclose(gradient_of(leaf), given * candidate(given), rtol=1e-2, atol=2e-5)


@pytest.mark.parametrize("name", ["elu", "gelu", "atan", "q_pseudo_spike"])
def test_a_control_of_float32_needs_no_float64(name: str) -> None:
    """In closed form, from the table, and from the table because float32 loses digits (atan)."""
    control = forward_control(library()[name].default)
    far = torch.logspace(-6, 4, 300)
    given = torch.cat([torch.randn(2_000) * 3, far, -far, torch.zeros(1)])
    control(given)  # the table is made once, in float64
    with NoFloat64():
        got = control(given)
    wanted = control(given.double())
    error = (got.double() - wanted).abs() / wanted.abs().clamp(min=1.0)
    assert got.dtype == torch.float32 and error.max() <= 3e-6


def test_a_control_is_differentiable_twice() -> None:
    control = forward_control(library()["elu"].default)
    given = torch.tensor([-2.0, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(control, (given,))
    far = torch.tensor([200.0], requires_grad=True)  # exp(200) of the arm not taken overflows
    (first,) = torch.autograd.grad(control(far), far, create_graph=True)
    assert torch.autograd.grad(first, far)[0].item() == 0.0


def test_forward_control_moves_copies_and_trains() -> None:
    model = nn.Sequential(nn.Linear(2, 2), forward_control(library()["exp_tail"].default))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    twin(torch.randn(3, 2)).sum().backward()
    assert not model[1].state_dict()
    with pytest.raises(InputError, match="needs a Candidate"):
        forward_control(library()["elu"])  # type: ignore[arg-type]


def test_a_family_of_ones_own() -> None:
    a = sympy.Symbol("a", positive=True)
    import optuna

    family = Family(
        "bent",
        sympy.Piecewise((1, x > 0), (a / (1 + x**2), True)),
        space={"a": optuna.distributions.FloatDistribution(0.1, 1.0)},
    )
    found = gradient(torch.tensor([-1.0, -3.0]), family.bind(a=0.4))
    assert (found / torch.linspace(-2, 3, 2)).tolist() == pytest.approx([0.2, 0.04], abs=1e-5)
