"""The float32 text of g, against mpmath, for the library's families and for what is awkward."""

import math
from collections.abc import Callable

import oracle
import pytest
import torch

from pdsearch import Candidate, fade, library, load_family
from pdsearch.family import load_target
from pdsearch.float32_source import float32_text
from pdsearch.torch_source import SCALAR_HELPER

FAMILIES = tuple(library())
FRACTIONS = (0.07, 0.37, 0.93)

AWKWARD = (
    # Breakpoints that no float32 is: the jump lies between two of them.
    "Piecewise((0, x < 1/3), (1, True))",
    "Piecewise((0, x <= 1/10), (1, True))",
    "Piecewise((1, x > -1/7), (exp(x)/3, True))",
    "Piecewise((2, x >= 16777217), (1, True))",
    # A value of its own at a point, and arms that count on one side only.
    "Heaviside(x, 1/4)",
    "sign(x) + 1",
    "Piecewise((1/x, x > 1), (log(2 + x), x > -1), (0, True))",
    "Piecewise((sqrt(-x), x < -4), (exp(x), x < 0), (1, True))",
    # Powers that overflow in float32, and tails that vanish there.
    "1/(1 + x**8)",
    "x**4/(1 + x**4)",
    "exp(-x**2)",
    "sigmoid(30*x)",
    "(1 + tanh(x))/2",
    "Max(0, Min(1, x + 1/3))",
    "clamp(1 + x, 0, 1)",
    "Abs(x)/(1 + Abs(x))",
)


def float32_source(candidate: Candidate) -> str | None:
    text = float32_text(candidate)
    return None if text is None else text.source


def compiled(source: str) -> Callable[[torch.Tensor], torch.Tensor]:
    namespace: dict[str, object] = {"torch": torch}
    exec(SCALAR_HELPER + source, namespace)
    return namespace["g"]  # type: ignore[return-value]


def candidate_of(text: str) -> Candidate:
    return load_target(text)[1]


def is_close(candidate: Candidate, points: torch.Tensor) -> None:
    source = float32_source(candidate)
    assert source is not None, candidate.name
    got = compiled(source)(points)
    assert got.dtype == torch.float32
    wanted = torch.tensor(oracle.values(candidate, points.tolist()), dtype=torch.float64)
    error = (got.double() - wanted).abs() / wanted.abs().clamp(min=1.0)
    worst = int(error.argmax())
    assert error[worst] <= 2e-6, (candidate.name, points[worst].item(), got[worst].item())
    shown = wanted.abs() > 1e-6
    assert torch.equal(got[shown].sign().double(), wanted[shown].sign())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_digits_over_its_ranges(name: str) -> None:
    family = load_family(name)
    points = oracle.float32_inputs(0.0, -1.0, 1.0, -2.0, 2.0, -0.5, 0.5)
    for fraction in FRACTIONS:
        is_close(oracle.at_random(family, fraction), points)


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_formulas_keep_their_digits(text: str) -> None:
    points = oracle.float32_inputs(
        0.0, 1 / 3, -1 / 3, 0.1, -1 / 7, 16777217.0, 1.0, -1.0, -4.0, 2 / 3
    )
    is_close(candidate_of(text), points)


def test_the_step_is_exact_in_float64_too() -> None:
    g = compiled(float32_source(candidate_of("Piecewise((0, x < 1/3), (1, True))")) or "")
    third = torch.tensor([1 / 3], dtype=torch.float64)
    below = torch.nextafter(third, torch.zeros(1, dtype=torch.float64))
    assert g(third).item() == 1.0 and g(below).item() == 0.0


def test_above_zero_a_gradient_passes_as_it_is() -> None:
    """Exactly 1 where the formula says 1, not 1 within rounding."""
    x = torch.cat([torch.rand(1000), torch.logspace(-44, 38, 1000)])
    for name in ("exp_tail", "leaky", "rational_tail", "elu", "power_tail"):
        source = float32_source(load_family(name).default)
        assert source is not None and bool((compiled(source)(x[x > 0]) == 1.0).all())


@pytest.mark.parametrize("text", [*AWKWARD, "1/2", "x"])
def test_nan_stays_nan_and_infinity_is_the_largest_number(text: str) -> None:
    source = float32_source(candidate_of(text))
    assert source is not None
    g = compiled(source)
    assert g(torch.tensor([math.nan])).isnan().all()
    largest = torch.finfo(torch.float32).max
    ends = torch.tensor([math.inf, -math.inf])
    torch.testing.assert_close(g(ends), g(ends.clamp(-largest, largest)), rtol=2e-6, atol=2e-6)


def test_a_fade_is_the_text_before_it_fades() -> None:
    family = load_family("exp_tail")
    assert float32_source(fade(family, "linear").default) == float32_source(family.default)


def test_a_sum_with_a_product_is_one_operator() -> None:
    """And the numbers of a product are one number."""
    source = float32_source(load_family("gelu").default)
    assert source is not None
    (line,) = [line for line in source.splitlines() if "addcmul_" in line]
    assert line.endswith(
        ".addcmul_(_v1, torch.square(_v1).mul_(-0.5).exp_(), value=0.3989422804014327)"
    )
    assert "torch.addcmul(_v2, " in (float32_source(load_family("b_silu").default) or "")


def test_no_text_of_the_library_makes_a_tensor_of_a_number() -> None:
    """`full_like` stands for an arm that is constant; `_s` would be a number among operators."""
    texts = [float32_source(family.default) for family in library().values() if not family.annealed]
    assert all(text is None or "_s(" not in text for text in texts)


@pytest.mark.parametrize(
    "text",
    [
        "(x + 1)**2 - x**2 - 2*x",  # float32 loses every digit of it
        "sin(1000*x)",  # the argument's rounding shows
        "Piecewise((1, x > 0), ((1 - 20*x)**(-1/10)/2, True))",  # 20*x overflows, and g is not 0
        "1e39/(1e39 + x**2)",  # the number is no float32
        "exp(-x**2*(1 + t))",  # depends on t, and does not fade
    ],
)
def test_what_float32_cannot_hold_has_no_text(text: str) -> None:
    assert float32_source(candidate_of(text)) is None
