"""What surrounds the first call with a candidate leaves no trace in later ones.

The first call makes tables and numbers that are kept. Each test makes a new candidate, calls the op
or builds the module in unusual surroundings, and trains as usual afterwards.
"""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import grad, jvp, vmap

from pdsearch import Candidate, PDReLU, load_family, pd_relu

# torch.func.jvp loads a module of torch's that still uses torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")

COUNT = itertools.count(1)
POINTS = torch.linspace(-3, 3, 5_000)  # enough for the table


def new() -> Candidate:
    return load_family("b_silu").bind(alpha=1 + next(COUNT) / 97)


def wanted(candidate: Candidate) -> Tensor:
    x, alpha = POINTS.double(), candidate.parameters["alpha"]
    up = 1 / (1 + torch.exp(-x))
    return up + (x + alpha) * up * (1 - up)


def train(candidate: Candidate, act: Callable[[Tensor], Tensor], *, within: float) -> None:
    leaf = POINTS.clone().requires_grad_()
    act(leaf).sum().backward()
    assert (leaf.grad.double() - wanted(candidate)).abs().max() <= within


def batched(act: Any) -> None:
    leaf = POINTS.clone().requires_grad_()
    torch.autograd.grad(act(leaf), leaf, torch.ones(2, len(POINTS)), is_grads_batched=True)


def within(surroundings: Callable[[], Any]) -> Callable[[Any], None]:
    def first(act: Any) -> None:
        with surroundings():
            y = act(torch.ones(3, dtype=torch.float32, device="cpu", requires_grad=True))
            if y.requires_grad:
                y.sum().backward()

    return first


@contextlib.contextmanager
def in_float64() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "fake tensors": lambda: FakeTensorMode(allow_non_fake_inputs=True),
    "meta device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": in_float64,
}
FIRST: dict[str, Callable[[Any], Any]] = {
    "vmap of grad": lambda act: vmap(grad(act))(POINTS),
    "grad of vmap": lambda act: grad(lambda x: vmap(act)(x).sum())(POINTS),
    "jvp": lambda act: jvp(act, (POINTS,), (POINTS,)),
    "batched gradients": batched,
    **{name: within(one) for name, one in SURROUNDINGS.items()},
}


@pytest.mark.parametrize("save", ["auto", "uint8"])
@pytest.mark.parametrize("first", FIRST)
def test_the_first_call_may_be_anywhere(first: str, save: str) -> None:
    candidate = new()

    def act(x: Tensor) -> Tensor:
        return pd_relu(x, candidate, save=save)

    FIRST[first](act)
    train(candidate, act, within=0.006 if save == "uint8" else 1e-5)


@pytest.mark.parametrize("where", SURROUNDINGS)
def test_a_module_may_be_built_anywhere(where: str) -> None:
    candidate = new()
    with SURROUNDINGS[where]():
        module = PDReLU(candidate)
    train(candidate, module, within=1e-5)
    train(candidate, torch.compile(module, backend="aot_eager"), within=2e-6)
    slopes = vmap(grad(module))(POINTS)
    assert (slopes.double() - wanted(candidate)).abs().max() <= 2e-6 * 1.1
    leaf = POINTS.clone().requires_grad_()
    (first,) = torch.autograd.grad(module(leaf).sum(), leaf, create_graph=True)
    first.sum().backward()
    bent = torch.func.vmap(grad(lambda x: torch.sigmoid(x) + (x + candidate.parameters["alpha"])
        * torch.sigmoid(x) * torch.sigmoid(-x)))(POINTS.double())  # fmt: skip
    assert (leaf.grad.double() - bent).abs().max() <= 1e-5
