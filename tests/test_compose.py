"""Families made from activations and from other families, against their parts' own values."""

from typing import Any

import pytest
import sympy
import torch
from optuna.distributions import FloatDistribution
from torch.nn import functional

from pdsearch.compose import below, family_of, mixture, scale, shift
from pdsearch.errors import FormulaError, InputError
from pdsearch.expression import parse, t, x
from pdsearch.family import Candidate, Family, library, load_family

POINTS = torch.tensor(
    [-40.0, -3.3, -2.0, -1.0, -0.4, -1e-9, 0.0, 1e-9, 0.3, 1.0, 1.7, 3.0, 25.0],
    dtype=torch.float64,
)
EXP, STEP = load_family("exp_tail"), load_family("relu")


def same(family: Family, expected: torch.Tensor, **values: float) -> None:
    torch.testing.assert_close(family.bind(**values)(POINTS), expected, rtol=1e-13, atol=1e-15)
    again = Family.from_dict(family.to_dict())
    assert again == family
    candidate = family.bind(**values)
    assert Candidate.from_json(candidate.to_json()) == candidate


# ------------------------------------------------------------------------------ of activations


def test_family_of_an_activation() -> None:
    family = family_of(
        "x*sigmoid(beta*x)", name="swish", space={"beta": FloatDistribution(0.5, 2.0)}
    )
    assert family.name == "swish" and family.parameters == ("beta",)
    points = POINTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((points * torch.sigmoid(1.5 * points)).sum(), points)
    torch.testing.assert_close(family.bind(beta=1.5)(POINTS), gradient)
    assert family_of(x * sympy.erfc(-x / sympy.sqrt(2)) / 2).expression == (
        load_family("gelu").expression
    )


def test_family_of_takes_defaults_and_reference() -> None:
    space = {"a": FloatDistribution(0.1, 2.0)}
    family = family_of("a*tanh(x)", space=space, defaults={"a": 1.5}, reference="mine")
    assert family.defaults["a"] == 1.5 and family.reference == "mine"
    assert family_of("tanh(x)").reference == "derivative of an activation"


@pytest.mark.parametrize(
    ("activation", "derivative"),
    [
        ("Max(x, 0)", "Heaviside(x)"),
        ("abs(x)", "sign(x)"),
        ("Piecewise((x, x > 0), (0, True))", "Piecewise((1, x > 0), (0, True))"),
        ("x*Heaviside(x, 0)", "Heaviside(x, 0)"),
        ("x**3*Heaviside(x)", "3*x**2*Heaviside(x)"),
        ("3", "0"),
        ("softplus(x)", "sigmoid(x)"),
    ],
)
def test_family_of_corners(activation: str, derivative: str) -> None:
    assert family_of(activation).expression == parse(derivative)


def test_a_parameter_that_is_not_in_the_derivative_is_dropped() -> None:
    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    assert family_of("a*tanh(x) + b", space=space, defaults={"b": 0.1}).parameters == ("a",)


@pytest.mark.parametrize(
    ("activation", "space", "message"),
    [
        ("a*x", {}, "parameter 'a' is not declared"),
        (sympy.Symbol("a") * x, {}, "parameter.s. a of the formula have no range"),
        ("tanh(x)", {"a": FloatDistribution(0, 1)}, "a are declared but not in the formula"),
        ("sqrt(x)", {}, "family 'activation': .*sqrt.*at x ="),
        ("x.real", {}, "an attribute"),
        (sympy.gamma(x), {}, "holds gamma, which pdsearch cannot compile"),
    ],
)
def test_family_of_refuses(activation: object, space: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        family_of(activation, space=space)  # type: ignore[arg-type]  # what is tested


# --------------------------------------------------------------------------------- of families


def test_below_takes_a_side_of_each() -> None:
    family = below(EXP, load_family("sigmoid"))
    assert family.name == "exp_tail_below_sigmoid"
    assert family.parameters == ("alpha", "beta", "alpha_2")
    assert dict(family.defaults) == {"alpha": 0.3, "beta": 1.0, "alpha_2": 4.0}
    expected = torch.where(
        POINTS > 0, load_family("sigmoid").bind(alpha=3)(POINTS), EXP.bind(alpha=0.5)(POINTS)
    )
    same(family, expected, alpha=0.5, alpha_2=3)


def test_below_drops_what_the_other_side_would_have_needed() -> None:
    assert below(EXP, EXP).expression == EXP.expression
    assert below(STEP, EXP).parameters == () and below(STEP, EXP).expression == STEP.expression
    assert below(load_family("sigmoid"), load_family("elu")).parameters == ("alpha",)
    cut = below(load_family("window"), load_family("piecewise_quadratic"), name="mine")
    assert cut.name == "mine" and cut.parameters == ("alpha", "width", "alpha_2")
    assert "x > -width" not in str(cut.formula.partition("x > 0")[0])


@pytest.mark.parametrize("name", sorted(library()))
def test_below_of_every_family(name: str) -> None:
    family = library()[name]
    expected = torch.where(POINTS > 0, family.default(POINTS), EXP.default(POINTS))
    same(below(EXP, family), expected)
    expected = torch.where(POINTS > 0, 1.0, family.default(POINTS))
    same(below(family, STEP), expected)


@pytest.mark.parametrize("name", sorted(library()))
def test_mixture_with_every_family(name: str) -> None:
    family = library()[name]
    mixed = mixture(EXP, family)
    first, second = EXP.default(POINTS), family.default(POINTS)
    for weight in (0.0, 0.25, 1.0):
        same(mixed, (1 - weight) * first + weight * second, weight=weight)
    assert set(mixed.parameters) == {"weight", "alpha", "beta"} | {
        f"{p}_2" if p in ("alpha", "beta") else p for p in family.parameters
    }


def test_mixture_with_a_fixed_weight() -> None:
    mixed = mixture(EXP, STEP, weight=0.25)
    assert mixed.formula == "Piecewise((1, x > 0), (3*alpha*exp(beta*x)/4, True))"
    assert mixed.parameters == ("alpha", "beta")
    ranged = mixture(EXP, STEP, weight=FloatDistribution(0.6, 0.9))
    assert ranged.defaults["weight"] == 0.75
    for weight in (-0.1, 1.5, FloatDistribution(0.5, 2.0)):
        with pytest.raises(InputError, match=r"weight of a mixture must be in \[0, 1\]"):
            mixture(EXP, STEP, weight=weight)


def test_names_that_clash_twice() -> None:
    twice = mixture(mixture(EXP, EXP), EXP)
    assert twice.parameters == (
        *("alpha", "beta", "alpha_2", "beta_2", "weight", "alpha_3", "beta_3", "weight_2"),
    )
    a2 = Family("f", sympy.Symbol("alpha_2") * STEP.expression + 0 * x,
                space={"alpha_2": FloatDistribution(0, 1)})  # fmt: skip
    both = mixture(EXP, below(EXP, load_family("sigmoid")))
    assert len(set(both.parameters)) == len(both.parameters) == 6
    assert set(mixture(a2, EXP).parameters) == {"alpha_2", "alpha", "beta", "weight"}
    long = "a" * 40
    family = Family("f", sympy.Symbol(long) + x * 0, space={long: FloatDistribution(0, 1)})
    assert mixture(family, family).parameters[:2] == (long, "a" * 36 + "_2")


@pytest.mark.parametrize("name", sorted(library()))
def test_scale_and_shift_of_every_family(name: str) -> None:
    family = library()[name]
    wide = scale(family, width=2, height=0.5)
    torch.testing.assert_close(wide.default(POINTS), 0.5 * family.default(POINTS / 2))
    moved = shift(family, by=0.5)
    torch.testing.assert_close(moved.default(POINTS), family.default(POINTS + 0.5))
    assert wide.parameters == moved.parameters == family.parameters


def test_scale_and_shift_with_ranges() -> None:
    wide = scale(load_family("b_silu"), width=FloatDistribution(0.1, 4.0, log=True))
    assert wide.parameters == ("alpha", "width") and wide.defaults["width"] == 1.0
    same(wide, load_family("b_silu").default(POINTS / 3), width=3)
    window = scale(load_family("window"), width=FloatDistribution(0.5, 2))
    assert window.parameters == ("alpha", "width", "width_2")
    moved = shift(EXP)
    assert moved.space["shift"] == FloatDistribution(-1.0, 1.0) and moved.defaults["shift"] == 0
    same(moved, EXP.default(POINTS - 0.25), shift=-0.25)
    tall = scale(EXP, height=FloatDistribution(0.5, 2.0))
    assert tall.formula == "Piecewise((height, x > 0), (alpha*height*exp(beta*x), True))"


def test_scale_refuses() -> None:
    with pytest.raises(InputError, match="scale needs a width or a height"):
        scale(EXP)
    for width in (0, -1.0, FloatDistribution(-1, 1)):
        with pytest.raises(InputError, match="the width must be positive"):
            scale(EXP, width=width)
    with pytest.raises(
        FormulaError, match="the formula holds nan: a pseudo-derivative must be a finite"
    ):
        shift(EXP, by=float("nan"))


def test_annealed_families_compose() -> None:
    family = below(load_family("annealed_exp_tail"), load_family("sigmoid"))
    assert family.annealed and t in family.expression.free_symbols
    at_end = family.default(POINTS, t=1.0)
    assert torch.equal(at_end[POINTS <= 0], torch.zeros_like(at_end[POINTS <= 0]))


def test_composing_is_composable() -> None:
    family = shift(scale(mixture(below(EXP, load_family("gelu")), STEP), width=2.0), by=0.1)
    inner = torch.where(
        (POINTS + 0.1) / 2 > 0,
        (load_family("gelu").default((POINTS + 0.1) / 2) + 1) / 2,
        EXP.default((POINTS + 0.1) / 2) / 2,
    )
    same(family, inner, weight=0.5)
    assert len(family.name) <= 64


def test_names_are_cut() -> None:
    long = Family("f" * 60, STEP.expression)
    mixed = mixture(long, long)
    assert len(mixed.name) == 64
    assert mixed.parameters == () and mixed.expression == STEP.expression  # the weight cancels


def test_relu_is_a_family_of() -> None:
    """The derivative of torch's relu, as text."""
    points = POINTS[POINTS != 0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.relu(points).sum(), points)
    torch.testing.assert_close(family_of("Max(x, 0)").default(points.detach()), gradient)


OTHER_TYPES: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (below, ("relu", EXP), {}, "compose.below needs a Family"),
    (below, (EXP, EXP.default), {}, "compose.below needs a Family.*exp_tail"),
    (mixture, (STEP, None), {}, "compose.mixture needs a Family"),
    (mixture, (STEP, EXP), {"weight": (0, 1)}, "weight must be a number or"),
    (scale, ("exp_tail",), {"width": 2.0}, "compose.scale needs a Family"),
    (scale, (EXP,), {"width": "2"}, "width must be a number or"),
    (scale, (EXP,), {"height": True}, "height must be a number or"),
    (shift, (EXP,), {"by": "a"}, "by must be a number or"),
]


@pytest.mark.parametrize(("function", "given", "named", "said"), OTHER_TYPES)
def test_other_types_are_refused(function: Any, given: Any, named: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        function(*given, **named)
