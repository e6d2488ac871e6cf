"""Every family of the library against its paper's formula, typed here again by hand.

The oracle is mpmath with 400 digits, where the textbook forms cancel as much as they like. What
the library's symbolic form equals, and what the compiled candidate computes in float64, are
checked against it, far tails included.
"""

import itertools
import random
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import sympy
import torch
from mpmath import mpf
from torch.nn import functional

from pdsearch.expression import format_formula, parse, x
from pdsearch.family import Family, library, load_family

FAMILIES = library()
DIGITS = 400  # the textbook forms lose all that lie between 1 and 10^-308


def sig(z: Any) -> Any:
    return 1 / (1 + mpmath.exp(-z))


def step(z: Any, below: Callable[[Any], Any]) -> Any:
    return mpf(1) if z > 0 else below(z)


def b_silu(z: Any, alpha: Any) -> Any:
    return sig(z) + (z + alpha) * sig(z) * (1 - sig(z))


def mish(z: Any) -> Any:
    # tanh(softplus) as Misra gives the derivative: e^x·ω/δ²
    e = mpmath.exp(z)
    omega = 4 * (z + 1) + 4 * e**2 + e**3 + e * (4 * z + 6)
    delta = 2 * e + e**2 + 2
    return e * omega / delta**2


def gelu_tanh(z: Any) -> Any:
    c = mpmath.sqrt(2 / mpmath.pi)
    u = c * (z + mpf("0.044715") * z**3)
    return (1 + mpmath.tanh(u)) / 2 + z / 2 * (1 - mpmath.tanh(u) ** 2) * c * (
        1 + 3 * mpf("0.044715") * z**2
    )


def piecewise_quadratic(z: Any, alpha: Any) -> Any:
    if abs(z) > 1 / alpha:
        return mpf(z > 0)
    return mpf(1) / 2 + alpha * z - alpha**2 * z * abs(z) / 2


def q_pseudo_spike(z: Any, alpha: Any) -> Any:
    tail = (1 + 2 * abs(z) / (alpha - 1)) ** (1 - alpha) / 2
    return tail if z < 0 else 1 - tail


def knot_values(r: list[Any]) -> list[Any]:
    return [*itertools.accumulate(r, lambda a, b: a * b), mpf(0)]


def knots_linear(z: Any, *r: Any) -> Any:
    values = knot_values(list(r))
    if z > 0:
        return mpf(1)
    if z < -len(r):
        return mpf(0)
    i = min(int(mpmath.floor(-z)), len(r) - 1)
    return values[i] + (values[i + 1] - values[i]) * (-z - i)


def knots_cubic(z: Any, *r: Any) -> Any:
    """Cubic Hermite interpolation, from the left knot of the segment."""
    values = knot_values(list(r))
    if z > 0:
        return mpf(1)
    if z < -len(r):
        return mpf(0)
    secants = [a - b for a, b in itertools.pairwise(values)]
    slopes = [secants[0], *(min(a, b) for a, b in itertools.pairwise(secants)), mpf(0)]
    i = min(int(mpmath.floor(-z)), len(r) - 1)
    s = z + i + 1
    return (
        (1 + 2 * s) * (1 - s) ** 2 * values[i + 1]
        + s * (1 - s) ** 2 * slopes[i + 1]
        + s**2 * (3 - 2 * s) * values[i]
        + s**2 * (s - 1) * slopes[i]
    )


def two_sided(shape: Callable[[Any], Any]) -> Callable[..., Any]:
    def g(z: Any, alpha: Any, beta: Any, gamma: Any, delta: Any) -> Any:
        return 1 - gamma * shape(delta * z) if z > 0 else alpha * shape(beta * -z)

    return g


def fading(shape: Callable[..., Any]) -> Callable[..., Any]:
    """(1 - t)·shape + t·step, as annealing is documented."""

    def g(z: Any, *parameters: Any, t: Any) -> Any:
        return (1 - t) * shape(z, *parameters) + t * (z > 0)

    return g


def exp_tail(z: Any, a: Any, b: Any) -> Any:
    return step(z, lambda z: a * mpmath.exp(b * z))


def rational_tail(z: Any, a: Any, b: Any) -> Any:
    return step(z, lambda z: a / (1 + (b * z) ** 2))


def sigmoid(z: Any, a: Any) -> Any:
    return sig(a * z)


SELU = ("1.0507009873554805", "1.6732632423543772")

# name: g(x, parameters in the order of the space), from facts about the papers
ORACLES: dict[str, Callable[..., Any]] = {
    "relu": lambda z: mpf(z > 0),
    "leaky": lambda z, a: step(z, lambda _: a),
    "helu": lambda z, a: mpf(z > -a),
    "b_silu": b_silu,
    "nelu": lambda z, a: step(z, lambda z: 2 * a * z / (1 + z**2) ** 2),
    "elu": lambda z, a: step(z, lambda z: a * mpmath.exp(z)),
    "selu": lambda z: mpf(SELU[0]) * step(z, lambda z: mpf(SELU[1]) * mpmath.exp(z)),
    "celu": lambda z, a: step(z, lambda z: mpmath.exp(z / a)),
    "silu": lambda z: sig(z) + z * sig(z) * (1 - sig(z)),
    "gelu": lambda z: mpmath.ncdf(z) + z * mpmath.npdf(z),
    "gelu_tanh": gelu_tanh,
    "mish": mish,
    "hardswish": lambda z: mpf(0) if z < -3 else mpf(1) if z > 3 else (2 * z + 3) / 6,
    "sigmoid": sigmoid,
    "atan": lambda z, a: mpf(1) / 2 + mpmath.atan(mpmath.pi * a * z / 2) / mpmath.pi,
    "softsign": lambda z, a: (1 + a * z / (1 + a * abs(z))) / 2,
    "erf": lambda z, a: mpmath.erfc(-a * z) / 2,
    "piecewise_exp": lambda z, a: mpmath.exp(a * z) / 2 if z <= 0 else 1 - mpmath.exp(-a * z) / 2,
    "piecewise_quadratic": piecewise_quadratic,
    "rect": lambda z, a: min(max(a * z + mpf(1) / 2, mpf(0)), mpf(1)),
    "q_pseudo_spike": q_pseudo_spike,
    "circle": lambda z, a: mpf(1) / 2 + z / (2 * mpmath.sqrt(z**2 + a**2)),
    "log_tailed": lambda z, a: a if z <= 0 else mpf(1) if z <= 1 else 1 / z,
    "exp_tail": exp_tail,
    "rational_tail": rational_tail,
    "power_tail": lambda z, a, b, p: step(z, lambda z: a / (1 - b * z) ** p),
    "gaussian_tail": lambda z, a, b: step(z, lambda z: a * mpmath.exp(-((b * z) ** 2))),
    "ramp": lambda z, a, w: step(z, lambda z: a * max(1 + z / w, mpf(0))),
    "window": lambda z, a, w: step(z, lambda z: a if z >= -w else mpf(0)),
    "annealed_exp_tail": fading(exp_tail),
    "annealed_rational_tail": fading(rational_tail),
    "annealed_sigmoid": fading(sigmoid),
    "annealed_b_silu": fading(b_silu),
    "knots_linear": knots_linear,
    "knots_cubic": knots_cubic,
    "two_sided_exp": two_sided(lambda z: mpmath.exp(-z)),
    "two_sided_rational": two_sided(lambda z: 1 / (1 + z**2)),
    "two_sided_power": two_sided(lambda z: 1 / (1 + z)),
}

POINTS = [
    0.0,
    *(s * m * 10.0**e for e in (-300, -30, -8, -3) for m in (1, 6.1) for s in (1, -1)),
    *(s * m for m in (0.25, 0.5, 0.9, 1, 1.5, 2, 2.7, 3, 3.5, 4, 5, 7.3) for s in (1, -1)),
    *(s * m for m in (11.7, 18.9, 26.1, 37.3, 90, 650, 1e3, 1e5, 1e9, 1e15) for s in (1, -1)),
]


def draws(family: Family) -> list[dict[str, float]]:
    """Defaults, both ends of the ranges, and three random candidates."""
    rng = random.Random(family.name)
    ranges: dict[str, Any] = dict(family.space)
    values = [
        dict(family.defaults),
        {name: d.low for name, d in ranges.items()},
        {name: d.high for name, d in ranges.items()},
        *({name: rng.uniform(d.low, d.high) for name, d in ranges.items()} for _ in range(3)),
    ]
    return values if ranges else values[:1]


def oracle(family: Family, values: dict[str, float], t: float) -> Callable[[Any], Any]:
    """The hand-typed formula with the decimal values of the parameters."""
    numbers = [mpf(repr(value)) for value in values.values()]
    extra = {"t": mpf(t)} if family.annealed else {}
    return lambda z: ORACLES[family.name](mpf(z), *numbers, **extra)


def test_every_family_has_its_oracle() -> None:
    assert set(ORACLES) == set(FAMILIES) and len(FAMILIES) >= 30


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_expression_is_the_papers_formula(name: str) -> None:
    family = FAMILIES[name]
    functions = {"sigmoid": sig, "softplus": lambda z: mpmath.log1p(mpmath.exp(z))}
    with mpmath.workdps(DIGITS):
        for values, t in itertools.product(draws(family), (0.0, 0.375, 1.0)):
            if t and not family.annealed:
                continue
            expected = oracle(family, values, t)
            expression = family.bind(**values).expression.subs("t", sympy.Rational(t))
            expression = expression.subs(sympy.Symbol("t", real=True), sympy.Rational(t))
            own = sympy.lambdify(x, expression, modules=[functions, "mpmath"])
            for point in POINTS:
                want, got = expected(point), mpf(own(mpf(point)))
                assert abs(got - want) <= mpf("1e-60") * abs(want) + mpf("1e-370"), (values, point)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_float64_values(name: str) -> None:
    """Relative error at most 1e-12, and what rounding x and the parameters once may cost."""
    family = FAMILIES[name]
    tensor = torch.tensor(POINTS, dtype=torch.float64)
    for values in draws(family):
        got = family.bind(**values)(tensor).tolist()
        with mpmath.workdps(DIGITS):
            expected = oracle(family, values, 0.0)
            for point, value in zip(POINTS, got, strict=True):
                want = expected(point)
                near = [expected(mpf(point) * (1 + s * mpf(2) ** -52)) for s in (1, -1)]
                slack = 4 * max(abs(n - want) for n in near) if max(near) - min(near) < 0.01 else 0
                error = abs(mpf(value) - want)
                assert error <= mpf("1e-12") * abs(want) + slack or error < 1e-307, (values, point)


# What torch differentiates by itself, away from the kinks.
ACTIVATIONS: list[tuple[str, dict[str, float], Callable[[torch.Tensor], torch.Tensor]]] = [
    ("relu", {}, functional.relu),
    ("leaky", {"alpha": 0.1}, lambda z: functional.leaky_relu(z, 0.1)),
    ("elu", {"alpha": 0.7}, lambda z: functional.elu(z, 0.7)),
    ("selu", {}, functional.selu),
    ("celu", {"alpha": 0.5}, lambda z: functional.celu(z, 0.5)),
    ("silu", {}, functional.silu),
    ("b_silu", {}, lambda z: (z + 1.67) * torch.sigmoid(z) - 1.67 / 2),
    ("gelu", {}, functional.gelu),
    ("gelu_tanh", {}, lambda z: functional.gelu(z, approximate="tanh")),
    ("mish", {}, functional.mish),
    ("hardswish", {}, functional.hardswish),
    ("sigmoid", {"alpha": 3.0}, lambda z: functional.softplus(z, beta=3.0)),
    ("sigmoid", {"alpha": 3.0}, lambda z: z / 2 + torch.log(torch.cosh(1.5 * z)) / 3),  # tanh
    ("circle", {"alpha": 1.5}, lambda z: (z + torch.sqrt(z * z + 1.5**2)) / 2),  # squareplus
    ("nelu", {}, lambda z: torch.where(z > 0, z, -0.05 / (1 + z * z))),
    ("log_tailed", {}, lambda z: torch.where(z > 1, 1 + torch.log(z.clamp(1)), functional.relu(z))),
]


@pytest.mark.parametrize(("name", "values", "activation"), ACTIVATIONS)
def test_derivatives_of_torchs_own_activations(
    name: str, values: dict[str, float], activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    points = torch.linspace(-6.05, 6.05, 400, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(activation(points).sum(), points)
    got = load_family(name).bind(**values)(points.detach())
    torch.testing.assert_close(got, gradient, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------- what is known about shapes


def value(name: str, point: float, **parameters: float) -> float:
    tensor = torch.tensor(point, dtype=torch.float64)
    return float(load_family(name).bind(**parameters)(tensor))


# (family, parameters, x, g): digits as in the sources
KNOWN: list[tuple[str, dict[str, float], float, float]] = [
    ("b_silu", {}, 0.0, 0.9175),
    ("b_silu", {}, -3.765, -0.02372),
    ("b_silu", {}, 1.4915, 1.29038),
    ("nelu", {}, -(3**-0.5), -0.6495 * 0.05),
    ("hardswish", {}, 3.0, 1.5),
    ("hardswish", {}, -3.0, -0.5),
    ("silu", {}, 0.0, 0.5),
    ("gelu", {}, 0.0, 0.5),
    ("sigmoid", {}, 0.0, 0.5),
    ("atan", {}, 0.0, 0.5),
    ("relu", {}, 0.0, 0.0),
    ("leaky", {}, 0.0, 0.01),
    ("elu", {}, 0.0, 1.0),
    ("window", {}, -4.0, 0.3),
    ("window", {}, -4.0001, 0.0),
    ("ramp", {}, -4.0, 0.0),
    ("rect", {}, -0.5, 0.0),
    ("piecewise_quadratic", {}, -1.0, 0.0),
    ("helu", {}, -0.5, 0.0),
    ("helu", {}, -0.4999, 1.0),
    ("log_tailed", {}, 1.0, 1.0),
    ("log_tailed", {}, 4.0, 0.25),
    ("power_tail", {}, -1.0, 0.15),
    ("knots_linear", {}, -1.0, 0.18),
    ("knots_linear", {}, -1.5, 0.144),
    ("knots_cubic", {}, -2.0, 0.108),
    ("knots_cubic", {}, -4.0, 0.0),
]


@pytest.mark.parametrize(("name", "parameters", "point", "expected"), KNOWN)
def test_known_values(
    name: str, parameters: dict[str, float], point: float, expected: float
) -> None:
    assert value(name, point, **parameters) == pytest.approx(expected, abs=6e-6)


def test_extremes_of_b_silu() -> None:
    """SUGAR's shape: negative below -2.7349, smallest at -3.765, largest at 1.4915."""
    points = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    g = load_family("b_silu").default(points)
    assert float(g.min()) == pytest.approx(-0.02372, abs=5e-6)
    assert float(points[g.argmin()]) == pytest.approx(-3.765, abs=5e-4)
    assert float(g.max()) == pytest.approx(1.29038, abs=5e-6)
    assert float(points[g.argmax()]) == pytest.approx(1.4915, abs=5e-4)
    assert float(points[g < 0].max()) == pytest.approx(-2.7349, abs=2e-4)


def test_families_that_coincide() -> None:
    """Aliases stand for equal functions; two families meet at their defaults."""
    assert load_family("softplus") is load_family("tanh") is load_family("sigmoid")
    assert load_family("squareplus") is load_family("circle")
    points = torch.linspace(-9, 9, 501, dtype=torch.float64)
    torch.testing.assert_close(
        load_family("q_pseudo_spike").default(points), load_family("softsign").default(points)
    )
    torch.testing.assert_close(
        load_family("exp_tail").bind(alpha=1)(points), load_family("elu").default(points)
    )


@pytest.mark.parametrize("name", sorted(n for n, f in FAMILIES.items() if f.annealed))
def test_annealed_families_end_as_the_exact_step(name: str) -> None:
    family = FAMILIES[name]
    at_end = family.expression.subs(sympy.Symbol("t", real=True), 1)
    assert at_end == FAMILIES["relu"].expression
    points = torch.tensor(POINTS, dtype=torch.float32)
    for values in draws(family):
        assert torch.equal(family.bind(**values)(points, t=1.0), (points > 0).float())
    plain = name.removeprefix("annealed_")
    torch.testing.assert_close(family.default(points, t=0.0), FAMILIES[plain].default(points))


@pytest.mark.parametrize("name", ["knots_linear", "knots_cubic"])
def test_knots_are_monotone_whatever_the_parameters(name: str) -> None:
    family, rng = FAMILIES[name], random.Random(1)
    points = torch.linspace(-5, 1, 6_001, dtype=torch.float64)
    for number in range(60):
        values = {p: rng.choice((0.0, 1.0, rng.random())) for p in family.parameters}
        if number == 0:
            values = dict.fromkeys(family.parameters, 1.0)
        g = family.bind(**values)(points)
        assert bool((g.diff() >= -1e-15).all()), values
        assert float(g.min()) == 0 and 1 <= float(g.max()) <= 1 + 1e-15
        inside = g[(points < 0) & (points > -4)]
        if name == "knots_cubic" and values["r0"] < 1:  # no jump but the one at zero
            assert float(inside.diff().abs().max()) < 0.003


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"log_tailed", "selu"}))
def test_limits_are_the_steps(name: str) -> None:
    family = FAMILIES[name]
    for values in draws(family):
        tensor = torch.tensor([-1e30, 1e30], dtype=torch.float64)
        low, high = family.bind(**values)(tensor).tolist()
        assert high == pytest.approx(1, abs=1e-3)
        if name != "leaky":
            assert low == pytest.approx(0, abs=1e-3 if name in ("power_tail", "q_pseudo_spike")
                                        else 1e-9)  # fmt: skip


# --------------------------------------------------------------------------- text and loading


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_text_is_a_fixed_point(name: str) -> None:
    family = FAMILIES[name]
    assert parse(family.formula, parameters=family.parameters) == family.expression
    assert format_formula(parse(family.formula)) == family.formula
    for values in draws(family):
        candidate = family.bind(**values)
        again = parse(candidate.formula)
        assert format_formula(again) == format_formula(parse(format_formula(again)))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_latex_is_sane(name: str) -> None:
    for latex in (FAMILIES[name].latex, FAMILIES[name].default.latex):
        assert latex.count("{") == latex.count("}")
        assert latex.count(r"\left") == latex.count(r"\right")
        assert latex.count(r"\begin{cases}") == latex.count(r"\end{cases}")
        assert "Piecewise" not in latex and "*" not in latex and "Symbol" not in latex
        bare = re.sub(r"\\[a-zA-Z]+|\\mathit\{[a-z]+\}", " ", latex)
        assert "alpha" not in bare and "beta" not in bare


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_says_where_it_comes_from(name: str) -> None:
    family = FAMILIES[name]
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|ours|baseline|Norse|ICML", family.reference)
    assert family.origin == f"search_spaces/{family.origin.partition('/')[2]}"
    assert all(not re.search(r"\d\.\d{3,}e|nan", f"{d}") for d in family.defaults.values())


# The defaults of the facts' table.
DEFAULTS = {
    **{"leaky": 0.01, "helu": 0.5, "b_silu": 1.67, "nelu": 0.05, "elu": 1, "sigmoid": 4},
    **{"atan": 2, "softsign": 2, "erf": 2, "piecewise_exp": 1, "piecewise_quadratic": 1},
    **{"rect": 1, "q_pseudo_spike": 2, "circle": 1, "log_tailed": 0},
}


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_defaults(name: str) -> None:
    assert dict(FAMILIES[name].defaults) == {"alpha": DEFAULTS[name]}


def test_exp_tail_is_the_designs() -> None:
    family = FAMILIES["exp_tail"]
    assert family.formula == "Piecewise((1, x > 0), (alpha*exp(beta*x), True))"
    assert dict(family.defaults) == {"alpha": 0.3, "beta": 1.0}
    space: Any = family.space
    ranges = {n: (d.low, d.high, d.log) for n, d in space.items()}
    assert ranges == {"alpha": (0.01, 1.0, False), "beta": (0.1, 10.0, True)}


def test_loading_is_fast() -> None:
    """In processor time, it takes about as long as importing optuna and sympy does."""
    script = (
        "import sys, time; begin = time.process_time(); import optuna, sympy; "
        "start = time.process_time(); from pdsearch import library; library(); "
        "print((time.process_time() - start) / (start - begin)); "
        "assert 'plotly.basedatatypes' not in sys.modules"
    )
    ratios = [
        float(subprocess.check_output([sys.executable, "-c", script], text=True)) for _ in range(3)
    ]
    assert min(ratios) < 1.2, ratios
