"""Fading into the step: closed forms, one table for every t, and ReLU itself once it has ended."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from optuna.distributions import FloatDistribution

from pdsearch import (
    Candidate,
    Family,
    InputError,
    PDReLU,
    fade,
    kernels,
    library,
    load_family,
    pd_relu,
    t,
    x,
)
from pdsearch.expression import parse
from pdsearch.family import FADES, fading
from pdsearch.kernels import table
from pdsearch.kernels.chords import chords

END = 0.4
PROGRESS = [0.0, 0.01, 0.1, 0.2, 0.3999, 0.4, 0.400001, 0.7, 1.0]

# By hand, from the definition.
WEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda at: 1 - at / END if at < END else 0.0,
    "cosine": lambda at: (1 + math.cos(math.pi * at / END)) / 2 if at < END else 0.0,
    "switch": lambda at: 1.0 if at < END else 0.0,
}
SHAPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp_tail": lambda z: torch.where(z > 0, 1.0, 0.3 * torch.exp(z)),
    "leaky": lambda z: torch.where(z > 0, torch.ones_like(z), torch.full_like(z, 0.01)),
    "sigmoid": lambda z: torch.sigmoid(4 * z),
    "softsign": lambda z: (1 + 2 * z / (1 + 2 * z.abs())) / 2,
    "ramp": lambda z: torch.where(z > 0, 1.0, torch.clamp(0.3 * (1 + z / 4), min=0.0)),
}


def faded(name: str, shape: str) -> Candidate:
    return fade(load_family(name), shape, end=FloatDistribution(0.02, 1.0, log=True)).bind(end=END)


def wanted(name: str, shape: str, at: float, points: torch.Tensor) -> torch.Tensor:
    """1[x > 0] + w(t)·(g − 1[x > 0]) in float64."""
    wide = points.double()
    step = (wide > 0).double()
    return step + WEIGHTS[shape](at) * (SHAPES[name](wide) - step)


def gradient(candidate: Candidate, points: torch.Tensor, at: float, **options: Any) -> torch.Tensor:
    leaf = points.clone().requires_grad_()
    (found,) = torch.autograd.grad(pd_relu(leaf, candidate, t=at, **options).sum(), leaf)
    return found


@pytest.mark.parametrize("shape", FADES)
@pytest.mark.parametrize("name", SHAPES)
def test_values_are_those_of_the_definition(name: str, shape: str) -> None:
    candidate = faded(name, shape)
    points = torch.linspace(-6, 6, 241, dtype=torch.float64)
    for at in PROGRESS:
        torch.testing.assert_close(
            candidate(points, t=at), wanted(name, shape, at, points), rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize("direction", ["both", "up"])
@pytest.mark.parametrize(
    ("dtype", "count", "slack"),
    [
        (torch.float64, 501, 1e-13),
        (torch.float32, 501, 3e-7),
        (torch.float32, 40_001, 2e-5),
        (torch.bfloat16, 4_001, 8e-3),
        (torch.float16, 4_001, 1e-3),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", FADES)
@pytest.mark.parametrize("name", SHAPES)
def test_every_route_multiplies_by_it(
    name: str, shape: str, dtype: torch.dtype, count: int, slack: float, direction: str
) -> None:
    plain = faded(name, shape)
    candidate = plain.family.bind(**plain.parameters, direction=direction)
    points = torch.linspace(-6, 6, count).to(dtype)
    for at in (0.0, 0.1, 0.3999, 0.4):
        expected = wanted(name, shape, at, points)
        if direction == "up":
            expected = torch.where(points > 0, expected, torch.zeros(()).double())
        torch.testing.assert_close(
            gradient(candidate, points, at).double(), expected, rtol=slack, atol=slack
        )


@pytest.mark.parametrize("shape", FADES)
def test_one_byte_an_element_fades_too(shape: str, build_kind: str) -> None:
    candidate = faded("sigmoid", shape)
    points = torch.linspace(-6, 6, 2_001)
    for at in (0.0, 0.1, 0.3):
        plan = kernels.plan(
            candidate, dtype=points.dtype, device=points.device, save="uint8", exact=False
        )
        assert plan.keeps == "code" and plan.error < 0.01
        got = gradient(candidate, points, at, save="uint8").double()
        assert (got - wanted("sigmoid", shape, at, points)).abs().max() <= plan.error + 1e-6


@pytest.mark.parametrize("shape", FADES)
def test_from_the_end_on_it_is_relu_itself(shape: str) -> None:
    leaf = torch.randn(64, requires_grad=True)
    ours, native = pd_relu(leaf, faded("exp_tail", shape), t=END), torch.relu(leaf)
    assert type(ours.grad_fn) is type(native.grad_fn)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = pd_relu(leaf, faded("exp_tail", shape), t=0.9)
    assert len(kept) == 1 and kept[0].data_ptr() == output.data_ptr()
    module = PDReLU(faded("exp_tail", shape))
    module.set_progress(END)
    assert type(module(leaf).grad_fn) is type(native.grad_fn)


def test_progress_at_the_forward_pass_decides() -> None:
    module = PDReLU(faded("exp_tail", "linear"))
    leaf = torch.full((40_000,), -1.0, requires_grad=True)
    output = module(leaf)
    module.set_progress(0.9)  # before the backward pass of an earlier forward pass
    output.sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad[0].item(), 0.3 * math.exp(-1), rtol=1e-4, atol=1e-6)


def test_a_hundred_values_of_t_make_one_table() -> None:
    candidate = fade(load_family("exp_tail"), "cosine", end=0.9).bind(alpha=0.123)
    points = torch.linspace(-3, 3, 40_000)
    module = PDReLU(candidate)
    caches = table.segments, chords  # with and without AVX-512
    for cache in caches:
        cache.cache_clear()
    for step in range(100):
        module.set_progress(step / 100)
        leaf = points.clone().requires_grad_()
        module(leaf).sum().backward()
    assert sum(cache.cache_info().misses for cache in caches) == 1


def test_a_hundred_values_of_t_compile_once() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    module = PDReLU(faded("exp_tail", "linear"))
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    points = torch.tensor([-1.0, -0.5, 2.0])
    for step in range(100):
        module.set_progress(step / 99)
        leaf = points.clone().requires_grad_()
        (got,) = torch.autograd.grad(compiled(leaf).sum(), leaf)
        torch.testing.assert_close(
            got.double(), wanted("exp_tail", "linear", step / 99, points), rtol=1e-6, atol=1e-6
        )
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["exp_tail", "sigmoid", "b_silu", "ramp", "knots_linear", "helu"])
@pytest.mark.parametrize("end", [None, 1.0, 0.1])
@pytest.mark.parametrize("shape", FADES)
def test_a_faded_family_is_a_family(name: str, shape: str, end: float | None) -> None:
    base = load_family(name)
    family = fade(base, shape, end=end)
    assert family.annealed and set(family.space) - set(base.space) == (set() if end else {"end"})
    assert Family.from_dict(family.to_dict()) == family
    assert parse(family.formula, parameters=family.space) == family.expression
    assert Candidate.from_json(family.default.to_json()) == family.default
    found = fading(family)
    assert found is not None and found.shape == shape and found.end == (end or "end")
    # At t = 0 it is the family that was faded, which the criteria then judge.
    points = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(family.default(points), base.default(points), rtol=0, atol=1e-15)
    assert torch.equal(family.default(points, t=1.0), (points > 0).double())


def test_the_library_s_annealed_families_fade() -> None:
    names = [name for name, family in library().items() if family.annealed]
    assert names
    for name in names:
        found = fading(library()[name])
        assert found is not None and found.shape == "linear" and found.end == 1.0


def test_a_typed_formula_is_recognised() -> None:
    text = "Piecewise((1, x > 0), (Max(0, 1 - t/0.25)*0.3*exp(x), True))"
    found = fading(Family("typed", parse(text, parameters=[])))
    assert found is not None and (found.shape, found.end) == ("linear", 0.25)


@pytest.mark.parametrize(
    "text",
    [
        "Piecewise((1, x > 0), ((1 - t)**2*exp(x), True))",  # another weight
        "Piecewise((1 - t/2, x > 0), ((1 - t)*exp(x), True))",  # does not end in the step
        "exp(-x**2*(1 + t))",
        "Piecewise((1, x > 0), ((1 - t)*exp(x*(1 + t)), True))",
    ],
)
def test_what_changes_otherwise_is_evaluated_as_written(text: str) -> None:
    family = Family("typed", parse(text, parameters=[]))
    assert fading(family) is None
    points = torch.linspace(-3, 3, 50_001)
    f = sympy.lambdify((x, t), family.expression, "math")
    for at in (0.0, 0.3, 1.0):
        got = gradient(family.default, points, at)
        for index in (0, 20_000, 25_001, 50_000):
            assert math.isclose(got[index], f(points[index].item(), at), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "sudden"}, "fade must be one of linear, cosine, switch, got 'sudden'"),
        ({"end": 0.0}, r"end must be in \(0, 1\], got 0.0"),
        ({"end": 1.5}, r"end must be in \(0, 1\], got 1.5"),
        ({"end": "soon"}, r"end must be a number in \(0, 1\] or a range"),
        ({"end": FloatDistribution(0.5, 2.0)}, r"end must be in \(0, 1\], got \[0.5, 2\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fade(load_family("exp_tail"), **arguments)  # type: ignore[arg-type]


def test_what_cannot_fade_is_refused() -> None:
    with pytest.raises(InputError, match="changes with t already"):
        fade(fade(load_family("exp_tail"), "linear"), "switch")
    with pytest.raises(InputError, match="is the step itself: there is nothing to fade"):
        fade(load_family("relu"), "linear")
    ends = Family(
        "ends",
        parse("Piecewise((1, x > 0), (end*exp(x), True))", parameters=["end"]),
        space={"end": FloatDistribution(0.1, 1.0)},
    )
    with pytest.raises(InputError, match="has a parameter 'end' already"):
        fade(ends, "linear")
    assert fade(ends, "linear", end=0.5).parameters == ("end",)
