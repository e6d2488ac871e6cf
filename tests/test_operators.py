"""Where no compiled kernel serves, torch's own operators compute the backward pass in float32."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from dtypes import NoFloat64

from pdsearch import Candidate, PDReLU, fade, library, load_family, pd_relu
from pdsearch.family import load_target
from pdsearch.kernels import build, plan

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch, fresh_plans: None) -> Iterator[None]:
    monkeypatch.setattr(build, "load", lambda: "switched off by a test")
    yield


def route_of(candidate: Candidate, dtype: torch.dtype = torch.float32, **options: Any) -> str:
    options = {"save": "input", "exact": False, **options}
    return plan(candidate, dtype=dtype, device=torch.device("cpu"), **options).route


def gradient(candidate: Candidate, x: torch.Tensor, upstream: torch.Tensor, **options: Any) -> Any:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(pd_relu(leaf, candidate, **options), leaf, upstream)[0]


def wanted(candidate: Candidate, x: torch.Tensor, upstream: torch.Tensor, t: float = 0.0) -> Any:
    """The product in float64, and how far from it rounding may lead."""
    g, up = candidate(x.double(), t), upstream.double()
    largest = torch.finfo(x.dtype).max
    product = up * g.clamp(-largest, largest)
    if candidate.direction == "up":
        product = torch.where((x > 0) | (upstream < 0), product, 0.0)
    unit = torch.finfo(x.dtype).eps
    return product, up.abs() * (2e-6 * g.abs().clamp(min=1.0) + 2 * unit * g.abs()) + 1e-7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(library()))
def test_every_family_in_both_directions(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(5_000, generator=generator) * 3).to(dtype)
    x[:4] = torch.tensor([0.0, -0.0, 1e30, -1e30]).to(dtype)
    upstream = torch.randn(5_000, generator=generator).to(dtype)
    for direction in ("both", "up"):
        candidate = load_family(name).bind(direction=direction)
        assert route_of(candidate, dtype) == "float32"
        got = gradient(candidate, x, upstream)
        assert got.dtype == dtype
        product, room = wanted(candidate, x, upstream)
        assert bool(((got.double() - product).abs() <= room).all())


@pytest.mark.parametrize("t", [0.0, 0.2, 0.45, 0.5, 1.0])
def test_a_fade_weighs_it_against_the_step(t: float) -> None:
    for shape in ("linear", "cosine", "switch"):
        candidate = fade(load_family("exp_tail"), shape, end=0.5).bind(direction="up")
        x, upstream = torch.randn(2, 999)
        got = gradient(candidate, x, upstream, t=t)
        product, room = wanted(candidate, x, upstream, t)
        assert bool(((got.double() - product).abs() <= room).all())


def test_every_layout_gives_the_same_gradient() -> None:
    candidate = load_family("exp_tail").default
    base = torch.randn(3, 5, 70, 90)
    last = base.to(memory_format=torch.channels_last)
    slanted = torch.randn(90, 70, 5, 3).permute(3, 2, 1, 0)
    for x in (base, last, slanted, base[:, :, ::2], base[0], base[:0], base.flatten()):
        expanded = torch.randn(1).expand(x.shape)
        for upstream in (torch.randn(x.shape), torch.randn_like(x), expanded):
            got = gradient(candidate, x, upstream)
            assert got.shape == x.shape
            product, room = wanted(candidate, x, upstream)
            assert bool(((got.double() - product).abs() <= room).all())


def test_nan_stays_nan_and_batched_gradients_are_right() -> None:
    candidate = load_family("leaky").default
    x = torch.tensor([math.nan, -1.0, math.inf, -math.inf])
    assert gradient(candidate, x, torch.ones(4)).isnan().tolist() == [True, False, False, False]
    leaf = torch.randn(6, requires_grad=True)
    rows = torch.randn(3, 6)
    (got,) = torch.autograd.grad(pd_relu(leaf, candidate), leaf, rows, is_grads_batched=True)
    torch.testing.assert_close(got, rows * candidate(leaf.detach()))


def test_no_float64_tensor_is_made() -> None:
    faded = fade(load_family("b_silu"), "cosine", end=0.5).bind(direction="up")
    for candidate in (load_family("knots_cubic").default, faded):
        module = PDReLU(candidate)
        module.set_progress(0.3 if candidate.annealed else 0.0)
        for dtype in DTYPES:
            x = torch.randn(100).to(dtype).requires_grad_()
            module(x).sum().backward()  # the text is compared with float64 once
            with NoFloat64():
                module(x).sum().backward()


def test_what_float32_cannot_hold_is_computed_in_float64() -> None:
    _, cancelling = load_target("(x + 1)**2 - x**2 - 2*x")
    made = plan(
        cancelling, dtype=torch.float32, device=torch.device("cpu"), save="input", exact=False
    )
    assert made.route == "formula" and "no float32 text" in made.why
    tail = load_family("exp_tail").default
    assert route_of(tail, exact=True) == "formula"
    assert route_of(tail, torch.float64) == "formula"
