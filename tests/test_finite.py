"""Gradients are finite wherever the input is: every family, anywhere in its box, every dtype."""

from typing import cast

import hypothesis.strategies as st
import pytest
import sympy
import torch
from hypothesis import HealthCheck, given, settings
from optuna.distributions import FloatDistribution
from oracle import value

from pdsearch import Candidate, Family, library, pd_relu, x
from pdsearch.codegen import FAR, derivative, evaluate, kernel
from pdsearch.family import load_target
from pdsearch.kernels import TABLE_FROM

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@st.composite
def anywhere(draw: st.DrawFn, family: Family) -> Candidate:
    """A candidate anywhere in the family's box, its faces and corners included."""
    chosen, space = {}, cast("dict[str, FloatDistribution]", family.space)
    for name, d in space.items():
        # Not drawn by its bounds alone: a range over decades would hardly ever be small.
        share = draw(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0)))
        inside = d.low * (d.high / d.low) ** share if d.log else d.low + share * (d.high - d.low)
        chosen[name] = min(max(inside, d.low), d.high)
    return family.bind(**chosen)


def finite(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Finite numbers of a dtype: Hypothesis' own, which love the ends, and some of every decade."""
    info = torch.finfo(dtype)
    by_exponent = st.builds(
        lambda mantissa, exponent, sign: sign * mantissa * 2.0**exponent,
        st.floats(1.0, 2.0, exclude_max=True),
        st.integers(-1022 if dtype == torch.float64 else -126, 1023),
        st.sampled_from([-1.0, 1.0]),
    )
    both = st.one_of(
        st.floats(-info.max, info.max), by_exponent, st.sampled_from([info.max, -info.max, 0.0])
    )
    return both.map(lambda number: max(min(number, info.max), -info.max))


def check_finite(candidate: Candidate, numbers: list[float], dtype: torch.dtype, t: float) -> None:
    points = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    points = points.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max).requires_grad_()
    (first,) = torch.autograd.grad(pd_relu(points, candidate, t=t).sum(), points, create_graph=True)
    assert torch.isfinite(first).all(), (candidate, dtype, numbers)
    (second,) = torch.autograd.grad(first.sum(), points, create_graph=True)
    assert torch.isfinite(second).all(), (candidate, dtype, numbers)
    (third,) = torch.autograd.grad(second.sum(), points)
    assert torch.isfinite(third).all(), (candidate, dtype, numbers)
    # Without create_graph the fused tables serve the 16-bit dtypes.
    (plain,) = torch.autograd.grad(pd_relu(points, candidate, t=t).sum(), points)
    assert torch.isfinite(plain).all(), (candidate, dtype, numbers)


@pytest.mark.parametrize(
    "examples", [pytest.param(2, id="few"), pytest.param(80, id="many", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", sorted(library()))
def test_gradients_are_finite(name: str, examples: int) -> None:
    family = library()[name]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        candidate = data.draw(anywhere(family))
        progress = data.draw(st.sampled_from([0.0, 0.5, 1.0])) if family.annealed else 0.0
        # The tables of a 16-bit dtype take most of the time: both only where it is slow.
        some = DTYPES if examples > 3 else [*DTYPES[:2], data.draw(st.sampled_from(DTYPES[2:]))]
        for dtype in some:
            numbers = data.draw(st.lists(finite(dtype), min_size=8, max_size=32))
            check_finite(candidate, numbers, dtype, progress)

    check()


@pytest.mark.parametrize("name", sorted(library()))
def test_every_decade_is_finite_at_the_corners(name: str) -> None:
    """The whole range of float64, both signs, at both ends of every parameter."""
    family = library()[name]
    decades = torch.logspace(-320, 308, 1_257, dtype=torch.float64)
    largest = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    points = torch.cat([decades, largest, -decades, -largest])
    for end in ("low", "high"):
        candidate = family.bind(**{n: getattr(d, end) for n, d in family.space.items()})
        for order in range(3):
            assert torch.isfinite(evaluate(candidate, points, order=order)).all()


@pytest.mark.parametrize("name", ["gelu_tanh", "nelu", "circle", "rational_tail", "power_tail"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_far_derivatives_are_those_of_the_formula(name: str, order: int) -> None:
    """Up to where the text is taken as it is: mpmath's value; beyond it: the value there."""
    candidate = library()[name].default
    reach = kernel(candidate.family).reach[order]
    assert reach >= FAR
    expression = derivative(candidate.expression, order)
    far = [s * 10.0**e for e in (3, 12, 25, 40) for s in (-1, 1)]
    got = evaluate(candidate, torch.tensor(far, dtype=torch.float64), order=order).tolist()
    for point, one in zip(far, got, strict=True):
        want = value(expression, point)
        # A term whose denominator overflows is missing: nothing that any dtype could add to g.
        assert one == pytest.approx(want, rel=1e-11, abs=1e-150), (point, want)
    beyond = torch.tensor([reach, torch.finfo(torch.float64).max], dtype=torch.float64)
    for side in (beyond, -beyond):
        near, last = evaluate(candidate, side, order=order).tolist()
        assert near == last or reach > 1e300


def test_float32_tables_are_finite_for_any_bits() -> None:
    """Tensors large enough for the table, of random bit patterns: every exponent comes by."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1 << 16,), generator=generator).to(torch.int32)
    every = bits.view(torch.float32)
    points = every[torch.isfinite(every)].requires_grad_()
    assert points.numel() >= TABLE_FROM
    for name in ("exp_tail", "gelu_tanh", "nelu", "log_tailed", "knots_cubic", "circle"):
        (found,) = torch.autograd.grad(pd_relu(points, library()[name].default).sum(), points)
        assert torch.isfinite(found).all(), name


def test_a_growing_power_is_no_reason_to_look_nearer() -> None:
    """x⁵ ends in the largest number; x⁴/(1 + x²)³ would be inf/inf and sees a nearer point."""
    grows = Family("grows", sympy.Piecewise((1, x > 0), (x**5, True)))
    assert kernel(grows).reach[0] == torch.finfo(torch.float64).max
    assert (
        evaluate(grows.default, torch.tensor([-1e80]).double()).item()
        == torch.finfo(torch.float64).min
    )
    falls = Family("falls", x**4 / (1 + x**2) ** 3)
    assert FAR <= kernel(falls).reach[0] < 1e80
    assert evaluate(falls.default, torch.tensor([1e300]).double()).item() < 1e-60


@pytest.mark.parametrize(
    "text",
    [
        "Piecewise((1, x > 0), (exp(x), True))",
        "Piecewise((exp(-x), x > 0), (exp(x), True))",
        "Piecewise((1/x, x > 1), (1, True))",
        "Piecewise((log(x), x > 1), (0, x > -1), (log(-x), True))",
        "Piecewise((sqrt(x), x > 1), (sqrt(-x), x < -1), (0, True))",
        "Piecewise((1, x > 0), (Piecewise((exp(x), x > -1), (1/x**2, True)), True))",
        "Piecewise((1/(x - 1), x > 2), (1/(x + 1), x < -2), (x/4, True))",
        "Piecewise((tanh(exp(-x)), x > 0), (cosh(x)*exp(x), x > -1), (1/2, True))",
    ],
)
def test_an_arm_that_is_not_taken_lets_nothing_through(text: str) -> None:
    _, candidate = load_target(text)

    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        for dtype in DTYPES:
            numbers = data.draw(st.lists(finite(dtype), min_size=4, max_size=16))
            check_finite(candidate, numbers, dtype, 0.0)

    check()
