"""The op in combination: transforms, compilers, processes, formats. docs/op.md is its table.

Every oracle is a closed form written down here. For f(z) = Σ relu(z)², with g in place of ReLU's
derivative each time that one is taken:

    f′ = 2 relu g        f″ = 2 g² + 2 relu g′        f‴ = 6 g g′ + 2 relu g″
"""

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import values
from torch import Tensor, nn
from torch.autograd import forward_ad, functional
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

from pdsearch import Candidate, PDReLU, convert, library, pd_relu, set_progress
from pdsearch.codegen import torch_source
from pdsearch.errors import UnsupportedError

pytestmark = [
    # Torch's own: its forward-mode rules are TorchScript, and Dynamo looks at .grad of any tensor.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@dataclass(frozen=True)
class Shape:
    """A candidate's g, g′ and g″ as closed forms."""

    name: str
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

    @property
    def candidate(self) -> Candidate:
        return library()[self.name].default


def leaky(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.where(z > 0, 1.0, 0.01 + 0 * z), torch.zeros_like(z), torch.zeros_like(z)


def exp_tail(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tail = 0.3 * torch.exp(z)
    flat = torch.where(z > 0, 0.0, tail)
    return torch.where(z > 0, 1.0, tail), flat, flat


def b_silu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = 1 / (1 + torch.exp(-z))
    s1 = s * (1 - s)
    s2 = s1 * (1 - 2 * s)
    s3 = s1 * (1 - 6 * s1)
    return s + (z + 1.67) * s1, 2 * s1 + (z + 1.67) * s2, 3 * s2 + (z + 1.67) * s3


def softsign(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u = 1 + 2 * z.abs()
    return torch.where(z > 0, 1 - 0.5 / u, 0.5 / u), 1 / u**2, -4 * torch.sign(z) / u**3


SHAPES = {
    shape.__name__: Shape(shape.__name__, shape) for shape in (leaky, exp_tail, b_silu, softsign)
}


class Setting:
    """Points, a direction, the functions under test and what their derivatives are."""

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float64) -> None:
        self.candidate = candidate = shape.candidate
        self.x = torch.linspace(-3, 3, 12, dtype=torch.float64).view(3, 4)
        self.v = torch.linspace(-1, 2, 12, dtype=torch.float64).view(3, 4)
        self.relu = torch.clamp(self.x, min=0)
        g, g1, g2 = shape.derivatives(self.x)
        self.g, self.g1 = g, g1
        self.f1 = 2 * self.relu * g
        self.f2 = 2 * g**2 + 2 * self.relu * g1
        self.f3 = 6 * g * g1 + 2 * self.relu * g2

        def act(z: Tensor) -> Tensor:
            return pd_relu(z, candidate)

        def f(z: Tensor) -> Tensor:
            return (act(z) ** 2).sum()

        self.act, self.f = act, f
        act(self.x)  # torch.compile finds the candidate's kernel afterwards

    def leaf(self) -> Tensor:
        return self.x.clone().requires_grad_()

    def gradient(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = self.leaf()
        return torch.autograd.grad(function(leaf), leaf)[0]

    def second(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = self.leaf()
        (first,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
        return torch.autograd.grad(first.sum(), leaf)[0]


def pushed(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative in the direction of ones."""
    return lambda z: jvp(function, (z,), (torch.ones_like(z),))[1]


def summed(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda z: function(z).sum()


def dual(s: Setting) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(s.act(forward_ad.make_dual(s.x, s.v))).tangent


def reverse_over_dual(s: Setting) -> Tensor:
    leaf = s.leaf()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(s.act(forward_ad.make_dual(leaf, s.v))).tangent
        return torch.autograd.grad(tangent.sum(), leaf)[0]


def dual_over_reverse(s: Setting) -> Tensor:
    with forward_ad.dual_level():
        point = forward_ad.make_dual(s.leaf(), s.v)
        (gradient,) = torch.autograd.grad(s.f(point), point)
        return forward_ad.unpack_dual(gradient).tangent


def batched(s: Setting, *, create_graph: bool) -> Tensor:
    leaf = s.leaf()
    both = torch.stack([s.v, 2 * s.v])
    (found,) = torch.autograd.grad(
        s.act(leaf), leaf, both, is_grads_batched=True, create_graph=create_graph
    )
    return torch.autograd.grad(found.sum(), leaf)[0] if create_graph else found


def reentrant(s: Setting) -> Tensor:
    leaf = s.leaf()
    checkpoint(s.f, leaf, use_reentrant=True).backward()
    assert leaf.grad is not None
    return leaf.grad


def diagonal(entries: Tensor) -> Tensor:
    return torch.diag(entries.flatten())


# What is computed, and what it has to be.
TRANSFORMS: dict[str, tuple[Callable[[Setting], Tensor], Callable[[Setting], Tensor]]] = {
    "backward": (lambda s: s.gradient(s.f), lambda s: s.f1),
    "double backward": (lambda s: s.second(s.f), lambda s: s.f2),
    "vmap": (lambda s: vmap(s.act)(s.x), lambda s: s.relu),
    "grad": (lambda s: grad(s.f)(s.x), lambda s: s.f1),
    "vjp": (lambda s: vjp(s.act, s.x)[1](s.v)[0], lambda s: s.v * s.g),
    "vmap(grad)": (lambda s: vmap(grad(s.f))(s.x), lambda s: s.f1),
    "vmap(vmap(grad))": (lambda s: vmap(vmap(grad(s.f)))(s.x), lambda s: s.f1),
    "grad(grad)": (lambda s: grad(summed(grad(s.f)))(s.x), lambda s: s.f2),
    "vmap(grad(grad))": (lambda s: vmap(grad(summed(grad(s.f))))(s.x), lambda s: s.f2),
    "grad(grad(grad))": (
        lambda s: grad(summed(grad(summed(grad(s.f)))))(s.x),
        lambda s: s.f3,
    ),
    "jacrev": (lambda s: jacrev(s.act)(s.x.flatten()), lambda s: diagonal(s.g)),
    "jacfwd": (lambda s: jacfwd(s.act)(s.x.flatten()), lambda s: diagonal(s.g)),
    "hessian": (lambda s: hessian(s.f)(s.x.flatten()), lambda s: diagonal(s.f2)),
    "jacrev(jacrev)": (lambda s: jacrev(jacrev(s.f))(s.x.flatten()), lambda s: diagonal(s.f2)),
    "jacrev(jacfwd)": (lambda s: jacrev(jacfwd(s.f))(s.x.flatten()), lambda s: diagonal(s.f2)),
    "jacfwd(jacfwd)": (lambda s: jacfwd(jacfwd(s.f))(s.x.flatten()), lambda s: diagonal(s.f2)),
    "vmap(hessian)": (lambda s: vmap(hessian(s.f))(s.x), lambda s: torch.diag_embed(s.f2)),
    "jvp": (lambda s: jvp(s.act, (s.x,), (s.v,))[1], lambda s: s.g * s.v),
    "vmap(jvp)": (
        lambda s: vmap(lambda z, u: jvp(s.act, (z,), (u,))[1])(s.x, s.v),
        lambda s: s.g * s.v,
    ),
    "jvp(grad)": (lambda s: jvp(grad(s.f), (s.x,), (s.v,))[1], lambda s: s.f2 * s.v),
    "grad(jvp)": (
        lambda s: grad(lambda z: jvp(s.f, (z,), (s.v,))[1])(s.x),
        lambda s: s.f2 * s.v,
    ),
    "jvp(jvp(jvp))": (
        lambda s: pushed(pushed(pushed(lambda z: s.act(z) ** 2)))(s.x),
        lambda s: s.f3,
    ),
    "vmap(jvp(jvp(jvp)))": (
        lambda s: vmap(pushed(pushed(pushed(lambda z: s.act(z) ** 2))))(s.x),
        lambda s: s.f3,
    ),
    "jvp(grad(grad))": (lambda s: pushed(grad(summed(grad(s.f))))(s.x), lambda s: s.f3),
    "jvp(grad(jvp))": (
        lambda s: pushed(grad(summed(pushed(lambda z: s.act(z) ** 2))))(s.x),
        lambda s: s.f3,
    ),
    "grad(jvp(jvp))": (
        lambda s: grad(summed(pushed(pushed(lambda z: s.act(z) ** 2))))(s.x),
        lambda s: s.f3,
    ),
    "dual numbers": (dual, lambda s: s.g * s.v),
    "backward of dual numbers": (reverse_over_dual, lambda s: s.g1 * s.v),
    "dual numbers through backward": (dual_over_reverse, lambda s: s.f2 * s.v),
    "batched backward": (
        lambda s: batched(s, create_graph=False),
        lambda s: torch.stack([s.v * s.g, 2 * s.v * s.g]),
    ),
    "double backward of a batched one": (
        lambda s: batched(s, create_graph=True),
        lambda s: 3 * s.v * s.g1,
    ),
    "functional.jacobian": (
        lambda s: functional.jacobian(s.act, s.x.flatten()),
        lambda s: diagonal(s.g),
    ),
    "functional.jacobian, vectorized": (
        lambda s: functional.jacobian(s.act, s.x.flatten(), vectorize=True),
        lambda s: diagonal(s.g),
    ),
    "functional.jacobian, forward mode": (
        lambda s: functional.jacobian(
            s.act, s.x.flatten(), vectorize=True, strategy="forward-mode"
        ),
        lambda s: diagonal(s.g),
    ),
    "functional.hessian": (
        lambda s: functional.hessian(s.f, s.x.flatten()),
        lambda s: diagonal(s.f2),
    ),
    "functional.hessian, vectorized": (
        lambda s: functional.hessian(s.f, s.x.flatten(), vectorize=True),
        lambda s: diagonal(s.f2),
    ),
    "functional.hessian, forward over reverse": (
        lambda s: functional.hessian(
            s.f, s.x.flatten(), vectorize=True, outer_jacobian_strategy="forward-mode"
        ),
        lambda s: diagonal(s.f2),
    ),
    "functional.jvp": (lambda s: functional.jvp(s.act, s.x, s.v)[1], lambda s: s.g * s.v),
    "functional.vjp": (lambda s: functional.vjp(s.act, s.x, s.v)[1], lambda s: s.g * s.v),
    "functional.hvp": (lambda s: functional.hvp(s.f, s.x, s.v)[1], lambda s: s.f2 * s.v),
    "functional.vhp": (lambda s: functional.vhp(s.f, s.x, s.v)[1], lambda s: s.f2 * s.v),
    "checkpoint": (
        lambda s: s.gradient(lambda z: checkpoint(s.f, z, use_reentrant=False)),
        lambda s: s.f1,
    ),
    "checkpoint, reentrant": (reentrant, lambda s: s.f1),
    "double backward of a checkpoint": (
        lambda s: s.second(lambda z: checkpoint(s.f, z, use_reentrant=False)),
        lambda s: s.f2,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str, shape: str) -> None:
    setting = Setting(SHAPES[shape])
    compute, wanted = TRANSFORMS[name]
    torch.testing.assert_close(compute(setting), wanted(setting), rtol=1e-11, atol=1e-14)


def test_derivatives_beyond_those_kept_are_refused() -> None:
    s = Setting(SHAPES["b_silu"])
    with pytest.raises(UnsupportedError, match="kept up to order 2"):
        grad(summed(grad(summed(grad(summed(grad(s.f)))))))(s.x)


def test_gradients_of_every_sample() -> None:
    """vmap(grad) over a model's parameters, as for differential privacy."""
    shape = SHAPES["exp_tail"]
    model = nn.Sequential(nn.Linear(3, 5), PDReLU(shape.candidate), nn.Linear(5, 1)).double()
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    given = torch.randn(7, 3, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample,)).sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, given)
    hidden = given @ model[0].weight.detach().T + model[0].bias.detach()
    wanted = model[2].weight.detach() * shape.derivatives(hidden)[0]
    torch.testing.assert_close(found["0.bias"], wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found["0.weight"], wanted[:, :, None] * given[:, None, :], rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("save", ["auto", "input", "uint8"])
def test_what_is_kept_in_combination(save: str) -> None:
    """Under transforms `save` has no effect; elsewhere one byte an element is within its bound."""
    shape = SHAPES["b_silu"]
    points = torch.linspace(-3, 3, 12)
    wanted = shape.derivatives(points.double())[0].float()

    def act(z: Tensor) -> Tensor:
        return pd_relu(z, shape.candidate, save=save)

    transformed = vmap(grad(act))(points)
    torch.testing.assert_close(transformed, wanted, rtol=1e-6, atol=1e-7)
    leaf = points.clone().requires_grad_()
    (kept,) = torch.autograd.grad(checkpoint(act, leaf, use_reentrant=False).sum(), leaf)
    ones = torch.ones(2, 12)
    (many,) = torch.autograd.grad(act(leaf), leaf, ones, is_grads_batched=True)
    bound = 0.006 if save == "uint8" else 1e-6
    assert (kept - wanted).abs().max() <= bound
    assert (many - wanted).abs().max() <= bound


# -------------------------------------------------------------------------------- torch.compile


@pytest.fixture
def fresh() -> None:
    """Nothing compiled, no counts: what is compiled elsewhere would count as a recompilation."""
    torch._dynamo.reset()


def compiled(function: Callable[..., Tensor], *, fullgraph: bool = True) -> Callable[..., Tensor]:
    # AOTAutograd without code generation: what Inductor is given, in a tenth of the time.
    return torch.compile(function, fullgraph=fullgraph, backend="aot_eager")


class AllFamilies(nn.Module):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.acts = nn.ModuleList([PDReLU(library()[name].default) for name in names])

    def forward(self, given: Tensor) -> Tensor:
        return torch.stack([act(given) for act in self.acts])


def check_families(names: list[str], backend: str) -> None:
    """One compiled model that holds them all: values of g by mpmath."""
    points = [-30.0, -3.5, -1.25, -0.125, 0.0, 0.375, 2.5, 700.0]
    leaf = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    output = torch.compile(AllFamilies(names), fullgraph=True, backend=backend)(leaf)
    assert torch.equal(output, torch.relu(leaf).expand_as(output))
    # One backward pass for all: each family's share is told by its weight.
    for chosen in (slice(0, None, 2), slice(1, None, 2)):
        weights = torch.zeros(len(names), 1, dtype=torch.float64)
        weights[chosen] = torch.arange(1.0, len(names) + 1, dtype=torch.float64)[chosen, None]
        (found,) = torch.autograd.grad(output, leaf, weights.expand_as(output), retain_graph=True)
        wanted = sum(
            weight * torch.tensor(values(library()[name].default, points), dtype=torch.float64)
            for name, weight in zip(names, weights, strict=True)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def of_every_function() -> list[str]:
    """Families whose text calls, one after another, every torch function that any of them calls."""
    chosen: list[str] = []
    seen: set[str] = set()
    for name, family in sorted(library().items()):
        called = set(re.findall(r"torch\.(\w+)", torch_source(family.default.expression)))
        if not called <= seen:
            chosen.append(name)
            seen |= called
    return chosen


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(of_every_function, id="every function"),
        pytest.param(lambda: sorted(library()), id="every family", marks=pytest.mark.slow),
    ],
)
def test_every_family_compiles_into_one_graph(names: Callable[[], list[str]], fresh: None) -> None:
    check_families(names(), "aot_eager")


STRUCTURES = ["leaky", "exp_tail", "b_silu", "rect", "erf"]


def test_inductor(fresh: None) -> None:
    check_families(STRUCTURES, "inductor")


@pytest.mark.slow
def test_inductor_for_every_family(fresh: None) -> None:
    check_families(sorted(library()), "inductor")


def test_a_hundred_candidates_compile_once(fresh: None) -> None:
    """The search's case: one model, converted for candidate after candidate of a family."""
    family = library()["exp_tail"]
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)).double()
    given = torch.randn(4, 6, dtype=torch.float64)
    step = compiled(model)
    stats = torch._dynamo.utils.counters["stats"]
    stats.clear()
    for i in range(100):
        alpha, beta = 0.01 + 0.0099 * i, 0.1 + 0.099 * i
        convert(model, family.bind(alpha=alpha, beta=beta))
        model.zero_grad()
        step(given).sum().backward()
        with torch.no_grad():
            hidden = model[0](given)
            g = torch.where(hidden > 0, 1.0, alpha * torch.exp(beta * hidden))
            wanted = (model[2].weight * g).sum(0)
        torch.testing.assert_close(model[0].bias.grad, wanted, rtol=1e-11, atol=1e-14)
    assert stats["unique_graphs"] == 1


def test_a_hundred_candidates_as_arguments_compile_once(fresh: None) -> None:
    family = library()["exp_tail"]
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)
    step = compiled(lambda z, candidate: pd_relu(z, candidate).sum())
    stats = torch._dynamo.utils.counters["stats"]
    stats.clear()
    for i in range(100):
        candidate = family.bind(alpha=0.01 + 0.0099 * i)
        pd_relu(points, candidate)
        leaf = points.clone().requires_grad_()
        step(leaf, candidate).backward()
        wanted = torch.where(points > 0, 1.0, (0.01 + 0.0099 * i) * torch.exp(points))
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-12, atol=0)
    assert stats["unique_graphs"] == 1


def test_training_progress_compiles_once(fresh: None) -> None:
    layer = PDReLU(library()["annealed_exp_tail"].default)
    step = compiled(layer)
    stats = torch._dynamo.utils.counters["stats"]
    stats.clear()
    for i in range(20):
        set_progress(layer, i / 20)
        leaf = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
        step(leaf).sum().backward()
        below = (1 - i / 20) * 0.3 * 0.36787944117144233
        assert leaf.grad.tolist() == pytest.approx([below, 1.0], rel=1e-12)
    assert stats["unique_graphs"] == 1


def test_a_candidate_that_was_not_called_before_is_refused(fresh: None) -> None:
    candidate = library()["exp_tail"].bind(alpha=0.123)
    with pytest.raises(Exception, match="cannot make a candidate's kernel while it traces"):
        compiled(lambda z: pd_relu(z, candidate))(torch.ones(3))


def compiled_dual(s: Setting, fullgraph: bool) -> Tensor:
    def inside(z: Tensor, u: Tensor) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(s.act(forward_ad.make_dual(z, u))).tangent

    return compiled(inside, fullgraph=fullgraph)(s.x, s.v)


def dual_of_compiled(s: Setting, fullgraph: bool) -> Tensor:
    step = compiled(s.act, fullgraph=fullgraph)
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(step(forward_ad.make_dual(s.x, s.v))).tangent


def inner_gradient(s: Setting) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.autograd.grad(s.f(z), z, create_graph=True)[0]


@dataclass(frozen=True)
class Compiled:
    """A combination with torch.compile: what it gives, and the message where it cannot be done."""

    compute: Callable[[Setting, bool], Tensor]
    wanted: Callable[[Setting], Tensor]
    whole: str | None = None  # with fullgraph=True
    broken: str | None = None  # without


OURS = "runs in eager mode only"
TORCHS = "Unsupported functorch tracing attempt"
AOT = "does not currently support double backward"

COMPILED = {
    "compiled backward": Compiled(
        lambda s, full: s.gradient(compiled(s.f, fullgraph=full)), lambda s: s.f1
    ),
    "double backward of compiled": Compiled(
        lambda s, full: s.second(compiled(s.f, fullgraph=full)), lambda s: s.f2, AOT, AOT
    ),
    "compiled(autograd.grad)": Compiled(
        lambda s, full: compiled(inner_gradient(s), fullgraph=full)(s.leaf()),
        lambda s: s.f1,
        "torch.autograd.grad",
    ),
    "backward of compiled(autograd.grad)": Compiled(
        lambda s, full: s.gradient(summed(compiled(inner_gradient(s), fullgraph=full))),
        lambda s: s.f2,
        "torch.autograd.grad",
        AOT,
    ),
    "compiled(vmap)": Compiled(
        lambda s, full: compiled(vmap(s.act), fullgraph=full)(s.x), lambda s: s.relu, OURS
    ),
    "backward of compiled(vmap)": Compiled(
        lambda s, full: s.gradient(compiled(lambda z: (vmap(s.act)(z) ** 2).sum(), fullgraph=full)),
        lambda s: s.f1,
        OURS,
    ),
    "vmap(compiled)": Compiled(
        lambda s, full: vmap(compiled(s.act, fullgraph=full))(s.x), lambda s: s.relu, TORCHS
    ),
    "compiled(grad)": Compiled(
        lambda s, full: compiled(grad(s.f), fullgraph=full)(s.x), lambda s: s.f1, OURS
    ),
    "grad(compiled)": Compiled(
        lambda s, full: grad(compiled(s.f, fullgraph=full))(s.x), lambda s: s.f1, TORCHS
    ),
    "compiled(vmap(grad))": Compiled(
        lambda s, full: compiled(vmap(grad(s.f)), fullgraph=full)(s.x), lambda s: s.f1, OURS
    ),
    "compiled(grad(grad))": Compiled(
        lambda s, full: compiled(grad(summed(grad(s.f))), fullgraph=full)(s.x),
        lambda s: s.f2,
        OURS,
    ),
    "compiled(jvp)": Compiled(
        lambda s, full: compiled(lambda z, u: jvp(s.act, (z,), (u,))[1], fullgraph=full)(s.x, s.v),
        lambda s: s.g * s.v,
        OURS,
    ),
    "jvp(compiled)": Compiled(
        lambda s, full: jvp(compiled(s.act, fullgraph=full), (s.x,), (s.v,))[1],
        lambda s: s.g * s.v,
        TORCHS,
    ),
    "compiled(jacrev)": Compiled(
        lambda s, full: compiled(jacrev(s.act), fullgraph=full)(s.x.flatten()),
        lambda s: diagonal(s.g),
        OURS,
    ),
    "compiled(jacfwd)": Compiled(
        lambda s, full: compiled(jacfwd(s.act), fullgraph=full)(s.x.flatten()),
        lambda s: diagonal(s.g),
        OURS,
    ),
    "compiled(hessian)": Compiled(
        lambda s, full: compiled(hessian(s.f), fullgraph=full)(s.x.flatten()),
        lambda s: diagonal(s.f2),
        OURS,
    ),
    "compiled(dual numbers)": Compiled(compiled_dual, lambda s: s.g * s.v, OURS),
    "dual numbers of compiled": Compiled(
        dual_of_compiled, lambda s: s.g * s.v, "Attempted to wrap a dual tensor input"
    ),
    "compiled(checkpoint)": Compiled(
        lambda s, full: s.gradient(
            compiled(lambda z: checkpoint(s.f, z, use_reentrant=False), fullgraph=full)
        ),
        lambda s: s.f1,
    ),
    "checkpoint(compiled)": Compiled(
        lambda s, full: s.gradient(
            lambda z: checkpoint(compiled(s.f, fullgraph=full), z, use_reentrant=False)
        ),
        lambda s: s.f1,
    ),
}


def check_compiled(name: str, shape: str, fullgraph: bool) -> None:
    setting, case = Setting(SHAPES[shape]), COMPILED[name]
    message = case.whole if fullgraph else case.broken
    if message is not None:
        with pytest.raises(Exception, match=message):  # torch's own kinds, several private
            case.compute(setting, fullgraph)
        return
    found = case.compute(setting, fullgraph)
    torch.testing.assert_close(found.detach(), case.wanted(setting), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("fullgraph", [True, False], ids=["fullgraph", "with breaks"])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name: str, fullgraph: bool, fresh: None) -> None:
    check_compiled(name, "b_silu", fullgraph)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["leaky", "exp_tail", "softsign"])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_for_other_shapes(name: str, shape: str, fresh: None) -> None:
    for fullgraph in (True, False):
        torch._dynamo.reset()
        check_compiled(name, shape, fullgraph)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_compiled_autocast(dtype: torch.dtype, fresh: None) -> None:
    """A product that autocast makes 16 bits wide; g is the nearest number to the closed form."""
    shape = SHAPES["b_silu"]
    layer = PDReLU(shape.candidate)
    given, weight = torch.randn(5, 4), torch.randn(4, 4, requires_grad=True)

    def step(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=dtype):
            hidden = z @ w
            return hidden, layer(hidden)

    hidden, output = torch.compile(step, fullgraph=True, backend="aot_eager")(given, weight)
    assert hidden.dtype == output.dtype == dtype
    assert torch.equal(output, torch.relu(hidden))
    (found,) = torch.autograd.grad(output, weight, torch.ones_like(output))
    g = shape.derivatives(hidden.detach().double())[0].to(dtype)
    wanted = given.to(dtype).double().T @ g.double()
    torch.testing.assert_close(found.double(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=0.03)


# ---------------------------------------------------------------------------- export, processes


def exported() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))
    return convert(model, library()["b_silu"].default).eval(), torch.randn(3, 6)


def test_torch_export_holds_one_plain_relu() -> None:
    model, given = exported()
    program = torch.export.export(model, (given,))
    called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert called == ["aten.linear.default", "aten.relu.default", "aten.linear.default"]
    assert torch.equal(program.module()(given), model(given))


def test_onnx_export_holds_one_plain_relu() -> None:
    model, given = exported()
    program = torch.onnx.export(model, (given,), dynamo=True, verbose=False)
    nodes = [node.op_type for node in program.model_proto.graph.node]
    assert nodes.count("Relu") == 1
    assert set(nodes) <= {"Gemm", "MatMul", "Add", "Transpose", "Relu"}
    assert {node.domain for node in program.model_proto.graph.node} <= {"", "ai.onnx"}


@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
def test_torchscript_onnx_export_holds_one_plain_relu(tmp_path: Path) -> None:
    import onnx

    model, given = exported()
    with pytest.warns(DeprecationWarning, match="TorchScript-based ONNX export"):
        torch.onnx.export(model, (given,), str(tmp_path / "model.onnx"), dynamo=False)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_torch_jit_trace_is_refused_where_it_would_train() -> None:
    model, given = exported()
    with pytest.raises(UnsupportedError, match=r"torch\.jit\.trace records ReLU's own gradient"):
        torch.jit.trace(model, (given,))
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(model, (given,))(given), model(given))


def test_deep_copies_of_compiled_and_exported_stay_right(fresh: None) -> None:
    """A copy of a model whose original was compiled has its own values."""
    model = convert(nn.Sequential(nn.ReLU()), library()["exp_tail"].default)
    compiled(model)(torch.ones(3))
    twin = convert(copy.deepcopy(model), library()["exp_tail"].bind(alpha=0.9))
    for one, alpha in ((model, 0.3), (twin, 0.9)):
        leaf = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
        compiled(one)(leaf).sum().backward()
        assert leaf.grad.item() == pytest.approx(alpha * 0.36787944117144233, rel=1e-12)


WORKER = """
import datetime, os, sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from pdsearch import PDReLU, library
rank, meeting, out, way = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2,
                        timeout=datetime.timedelta(minutes=5))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 5), PDReLU(library()["exp_tail"].default), nn.Linear(5, 1))
model = model.double()
given = torch.randn(8, 3, dtype=torch.float64)
run = DistributedDataParallel(model)
if way == "compiled":
    run = torch.compile(run, backend="aot_eager")
run(given[4 * rank : 4 * rank + 4]).mean().backward()
found = [p.grad for p in model.parameters()]
torch.save({"given": given, "state": model.state_dict(), "found": found}, f"{out}/{rank}.pt")
dist.barrier()  # else the first to leave may cut off what the other still reads
dist.destroy_process_group()
"""


@pytest.mark.parametrize("way", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_ddp_on_two_processes(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two gloo processes, this one and another, ends with the mean over all samples."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    arguments = [str(tmp_path / "meeting"), str(tmp_path), way]
    other = subprocess.Popen(
        [sys.executable, "-c", WORKER, "1", *arguments], stderr=subprocess.PIPE, text=True
    )
    monkeypatch.setattr(sys, "argv", ["-c", "0", *arguments])
    exec(WORKER, {})
    message = other.communicate(timeout=300)[1]
    assert other.returncode == 0, message
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        given, state = saved["given"], saved["state"]
        hidden = given @ state["0.weight"].T + state["0.bias"]
        g = torch.where(hidden > 0, 1.0, 0.3 * torch.exp(hidden))
        bias = state["2.weight"] * g / 8
        wanted = [bias.T @ given, bias.sum(0)]
        wanted += [torch.relu(hidden).mean(0)[None], torch.ones(1, dtype=torch.float64)]
        for one, want in zip(saved["found"], wanted, strict=True):
            torch.testing.assert_close(one, want, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------- the docs' table

TESTS = Path(__file__).parent


def test_every_test_that_the_docs_name_exists_and_every_row_is_there() -> None:
    text = (TESTS.parent / "docs" / "op.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)(?:\[(.+?)\])?`", text)
    assert len(named) > 80
    functions = {
        file: {
            node.name
            for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        }
        for file in {file for file, _, _ in named}
    }
    for file, function, _ in named:
        assert function in functions[file], f"{file}::{function}"
    cases: dict[str, Any] = {"test_transforms": TRANSFORMS, "test_compiled": COMPILED}
    for function, table in cases.items():
        assert [case for _, name, case in named if name == function] == list(table)


def test_the_docs_say_what_the_compiled_cases_do() -> None:
    text = (TESTS.parent / "docs" / "op.md").read_text(encoding="utf-8")
    for name, case in COMPILED.items():
        whole, broken = ("right" if m is None else "clear error" for m in (case.whole, case.broken))
        assert f"| {name} | {whole} | {broken} | `test_combinations.py::test_compiled[" in text
