"""g in float32 with its numbers at run time: digits by mpmath, and no float64 on the way."""

import math
from collections.abc import Callable
from typing import cast

import oracle
import pytest
import torch
from dtypes import NoFloat64, no_float64_backend
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from pdsearch import Candidate, PDReLU, codegen, fade, library, load_family, pd_relu
from pdsearch.data import load_dataset
from pdsearch.errors import UnsupportedError
from pdsearch.family import load_target
from pdsearch.float32_family import formula
from pdsearch.trial import TrialSettings, run_trial
from pdsearch.trial.loop import Loop

NARROW = (torch.float32, torch.bfloat16, torch.float16)
CANCELLING = "(x + 1)**2 - x**2 - 2*x"


def g_of(candidate: Candidate, points: Tensor, *, order: int = 0, t: float = 0.0) -> Tensor:
    one = formula(candidate, False)
    return one(points, one.numbers(t, wide=one.in_float64(points.dtype)), order)


@pytest.mark.parametrize("name", sorted(library()))
def test_every_family_keeps_its_digits(name: str) -> None:
    family = load_family(name)
    points = oracle.float32_inputs(0.0, -1.0, 1.0, -2.0, 2.0, -0.5, 0.5)
    for candidate in (family.default, oracle.at_random(family, 0.37)):
        for t in (0.0, 0.3) if candidate.annealed else (0.0,):
            got = g_of(candidate, points, t=t)
            wanted = torch.tensor(
                oracle.values(candidate, points.tolist(), progress=t), dtype=torch.float64
            )
            error = (got.double() - wanted).abs() / wanted.abs().clamp(min=1.0)
            assert got.dtype == torch.float32 and bool((error <= 2e-6).all()), (candidate, t)
            shown = wanted.abs() > 1e-6
            assert torch.equal(got[shown].sign().double(), wanted[shown].sign())


@pytest.mark.parametrize("alpha", [0.6, 0.7, 1.1, 1.3, 5 / 3])
@pytest.mark.parametrize("name", ["helu", "window"])
def test_a_breakpoint_is_between_the_same_two_numbers(name: str, alpha: float) -> None:
    """Not where the nearest float32 to the parameter is."""
    candidate = load_family(name).bind(**{"width" if name == "window" else "alpha": alpha})
    near = torch.tensor(-alpha, dtype=torch.float32)
    points = torch.stack([near.nextafter(near - 1), near, near.nextafter(near + 1)])
    wanted = oracle.values(candidate, points.tolist())
    assert g_of(candidate, points).tolist() == pytest.approx(wanted, rel=1e-6)


def test_candidates_share_what_is_compiled() -> None:
    for name in ("exp_tail", "knots_cubic", "helu", "power_tail"):
        family = load_family(name)
        found = {
            formula(oracle.at_random(family, k / 9), False).traceable(of_output=False)
            for k in range(9)
        }
        assert len(found) == 1, name


@pytest.mark.parametrize("text", [CANCELLING, "sin(1000*x)"])
def test_what_float32_cannot_hold_stays_in_float64(text: str) -> None:
    _, candidate = load_target(text)
    points = torch.linspace(-3, 3, 41)
    wanted = torch.tensor(oracle.values(candidate, points.tolist()))
    torch.testing.assert_close(g_of(candidate, points), wanted, rtol=1e-6, atol=1e-6)
    assert formula(candidate, False).in_float64(torch.float32)
    assert formula(load_family("exp_tail").default, True).in_float64(torch.float32)


def test_the_progress_of_any_formula_needs_no_float64() -> None:
    """One that changes with t, but not by fading."""
    _, candidate = load_target("Piecewise((1, x > 0), (exp(x*(1 + 3*t))/3, True))")
    points = torch.linspace(-5, 2, 101)
    for t in (0.0, 0.4, 1.0):
        wanted = torch.tensor(oracle.values(candidate, points.tolist(), progress=t))
        torch.testing.assert_close(g_of(candidate, points, t=t), wanted, rtol=0, atol=2e-6)
    assert not formula(candidate, False).in_float64(torch.float32)


@pytest.mark.parametrize("name", ["gelu_tanh", "rect"])
def test_a_derivative_that_float32_cannot_hold(name: str) -> None:
    """In float64, from parameters that are sums of two float32 numbers."""
    candidate = load_family(name).default
    assert formula(candidate, False).part(1) is None
    points = torch.linspace(-3.03, 3, 57)
    got = g_of(candidate, points, order=1)
    exact = formula(candidate, True)
    wanted = exact(points.double(), exact.numbers(0.0, wide=True), 1)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-7, atol=1e-12)


# ------------------------------------------------------------------------------- no float64 tensor

SHAPES = ("leaky", "exp_tail", "b_silu", "knots_cubic", "nelu")


def made(name: str) -> list[Candidate]:
    family = load_family(name)
    return [
        family.default,
        family.bind(direction="up"),
        fade(family, "cosine", end=0.5).default,
    ]


def closed(candidate: Candidate, x: Tensor, t: float) -> Tensor:
    return candidate(x.detach().double(), t)


@pytest.mark.parametrize("name", SHAPES)
def test_the_op_and_the_module(name: str) -> None:
    """Small and large tensors, batched gradients and a second derivative."""
    for candidate in made(name):
        t = 0.2 if candidate.annealed else 0.0
        module = PDReLU(candidate)
        module.set_progress(t)
        for size, dtype in ((100, torch.float32), (5_000, torch.float32), (100, torch.bfloat16)):
            x = torch.linspace(-4, 3, size).to(dtype).requires_grad_()
            for act in (module, lambda z, c=candidate, t=t: pd_relu(z, c, t=t)):
                act(x).sum().backward()  # what is made once is compared with float64
                rows = torch.ones(2, size, dtype=dtype)
                with NoFloat64():
                    (once,) = torch.autograd.grad(act(x), x, rows[0])
                    (many,) = torch.autograd.grad(act(x), x, rows, is_grads_batched=True)
                unit = 2 * torch.finfo(dtype).eps
                if candidate.direction == "both":
                    wanted = closed(candidate, x, t)
                    room = 1e-5 + unit * wanted.abs()
                    for got in (once, many[1]):
                        assert bool(((got.double() - wanted).abs() <= room).all())


def twice(act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad((act(leaf) ** 2).sum(), leaf, create_graph=True)
    return torch.autograd.grad(first.sum(), leaf)[0]


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "vmap(grad)": lambda act, x: vmap(grad(lambda z: act(z).sum()))(x),
    "grad": lambda act, x: grad(lambda z: act(z).sum())(x),
    "double backward": twice,
    "jvp": lambda act, x: jvp(act, (x,), (torch.ones_like(x),))[1],
    "grad(grad)": lambda act, x: grad(lambda z: grad(lambda y: (act(y) ** 2).sum())(z).sum())(x),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str, dtype: torch.dtype) -> None:
    """The oracle is the same transform of float64 inputs."""
    transform = TRANSFORMS[name]
    x = torch.linspace(-3, 3, 24).view(4, 6).to(dtype)
    for shape in SHAPES:
        candidate = load_family(shape).default
        for act in (PDReLU(candidate), lambda z, c=candidate: pd_relu(z, c)):
            transform(act, x)
            with NoFloat64():
                got = transform(act, x)
            wanted = transform(act, x.double())
            room = 4e-6 + 4 * torch.finfo(dtype).eps * wanted.abs().clamp(min=1.0)
            assert got.dtype == dtype and bool(((got.double() - wanted).abs() <= room).all()), shape


def check_graph(names: tuple[str, ...], dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    acts = nn.ModuleList([PDReLU(c) for name in names for c in made(name)])
    for act in acts:
        act.set_progress(0.2)
    apart = library()["exp_tail"].bind(alpha=0.77)
    pd_relu(torch.ones(1), apart)

    def step(z: Tensor) -> Tensor:
        return torch.stack([*(act(z) for act in acts), pd_relu(z, apart)])

    x = torch.linspace(-4, 3, 50).to(dtype).requires_grad_()
    output = torch.compile(step, fullgraph=True, backend=no_float64_backend)(x)
    candidates = [*(cast(Candidate, act.candidate) for act in acts), apart]
    weights = torch.randn(len(candidates), 1).abs().to(dtype)
    (got,) = torch.autograd.grad(output, x, weights.expand_as(output))
    wanted = torch.zeros(50, dtype=torch.float64)
    for weight, candidate in zip(weights.double(), candidates, strict=True):
        slope = closed(candidate, x, 0.2 if candidate.annealed else 0.0)
        wanted += weight * (slope * (x > 0) if candidate.direction == "up" else slope)
    room = len(candidates) * (4e-6 + 2 * torch.finfo(dtype).eps)
    assert bool(((got.double() - wanted).abs() <= room).all())


def test_compiled_graphs() -> None:
    check_graph(("leaky", "b_silu"), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_compiled_graphs_of_all_shapes(dtype: torch.dtype) -> None:
    check_graph(SHAPES, dtype)


def test_a_graph_with_float64_is_noticed() -> None:
    """What the test above would see: an exact module asks for it."""
    torch._dynamo.reset()
    exact = PDReLU(load_family("exp_tail").default, exact=True)
    with pytest.raises(Exception, match="a float64 node"):
        x = torch.ones(3, requires_grad=True)
        torch.compile(exact, fullgraph=True, backend=no_float64_backend)(x).sum().backward()


def test_stacked_models() -> None:
    family = load_family("exp_tail")
    models = [nn.Sequential(PDReLU(family.bind(alpha=0.1 * k))) for k in (1, 2, 3)]
    x = torch.linspace(-2, 2, 9)

    def gradient(state: dict[str, Tensor], z: Tensor) -> Tensor:
        return grad(lambda y: functional_call(models[0], state, (y,)).sum())(z)

    state = stack_module_state(models)[1]
    vmap(gradient, in_dims=(0, None))(state, x)
    with NoFloat64():
        got = vmap(gradient, in_dims=(0, None))(state, x)
    wanted = torch.stack([torch.where(x > 0, 1.0, 0.1 * k * torch.exp(x)) for k in (1, 2, 3)])
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
def test_another_device() -> None:
    """The meta device stands for one without float64: nothing is computed, every tensor is seen."""
    for name in SHAPES:
        for candidate in made(name):
            module = nn.Sequential(PDReLU(candidate)).to("meta")
            with NoFloat64("meta"):
                module[0].set_progress(0.3)
                x = torch.empty(3, 5, device="meta", requires_grad=True)
                (first,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
                torch.autograd.grad((first**2).sum(), x)
                vmap(grad(lambda z, c=candidate: pd_relu(z, c, t=0.3).sum()))(x.detach())


def test_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training and its evaluation; the data set is normalised before."""
    for name in ("train", "evaluate"):
        whole = getattr(Loop, name)

        def watched(*args: object, whole: Callable[..., object] = whole, **given: object) -> object:
            with NoFloat64():
                return whole(*args, **given)

        monkeypatch.setattr(Loop, name, watched)
    settings = TrialSettings(
        model="mlp", dataset="digits", epochs=1, batch_size=64,
        precision="float32", memory_format="contiguous",
    )  # fmt: skip
    result = run_trial(
        load_family("b_silu").default, settings, load_dataset("digits"), seed=0, device="cpu"
    )
    assert result.diverged is None and math.isfinite(result.epochs[0].loss)


def test_a_device_without_float64_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen, "WITHOUT_FLOAT64", ("meta",))
    x = torch.empty(5, device="meta", requires_grad=True)
    pd_relu(x, load_family("gelu").default).sum().backward()
    with pytest.raises(UnsupportedError, match="needs float64, which meta does not have"):
        pd_relu(x, load_target(CANCELLING)[1]).sum().backward()
