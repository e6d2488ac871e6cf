"""Functions within functions: whatever is made of such a formula ends soon, or is refused."""

import functools
import importlib.util
import time
from pathlib import Path
from typing import Any

import mpmath
import pytest
import sympy
import torch
from optuna.distributions import FloatDistribution

from pdsearch import Candidate, Family, pd_relu, x
from pdsearch.cli import main
from pdsearch.codegen import derivative, evaluate, kernel, torch_source
from pdsearch.compose import family_of
from pdsearch.errors import FormulaError, UnsupportedError
from pdsearch.expression import parse
from pdsearch.family import load_target
from pdsearch.kernels import table


def nested(shapes: str, depth: int) -> str:
    """The shapes around one another in turn, from x on."""
    each = shapes.split("; ")
    return functools.reduce(lambda inner, n: each[n % len(each)].format(inner), range(depth), "x")


def candidate_of(text: str) -> Candidate:
    _, candidate = load_target(text)
    return candidate


# What to write in turn, and the same by mpmath.
SHAPES: dict[str, Any] = {
    "sinh({})": [mpmath.sinh],
    "tanh({})": [mpmath.tanh],
    "softplus({})": [lambda z: mpmath.log1p(mpmath.exp(z))],
    "x*sinh({})": [lambda z, at: at * mpmath.sinh(z)],
    "cosh({}/5 + 1/9)": [lambda z: mpmath.cosh(z / 5 + mpmath.mpf(1) / 9)],
    "1 - exp({})": [lambda z: 1 - mpmath.exp(z)],
    "sinh({}); exp(-{}); cosh({}/9); tanh({})": [
        mpmath.sinh, lambda z: mpmath.exp(-z), lambda z: mpmath.cosh(z / 9), mpmath.tanh,
    ],
}  # fmt: skip


def by_mpmath(shapes: str, depth: int, at: Any) -> Any:
    value, rules = at, SHAPES[shapes]
    for n in range(depth):
        if abs(value) > 700:
            raise OverflowError  # mpmath would compute exp(exp(…)) for ever
        value = rules[0](value, at) if "x*" in shapes else rules[n % len(rules)](value)
    return value


@pytest.mark.parametrize(
    ("shapes", "depth"),
    [*((shapes, depth) for shapes in SHAPES for depth in (6, 39)), ("tanh({})", 20)],
)
def test_g_and_its_derivatives(shapes: str, depth: int) -> None:
    """Made in time, where it took half a minute or no end; right, or a derivative refused."""
    begun = time.process_time()
    candidate = candidate_of(nested(shapes, depth))
    kernel(candidate.family)
    assert time.process_time() - begun < 15.0
    points = torch.tensor([-0.7, -0.05, 0.02], dtype=torch.float64)
    for order in range(3):
        try:
            found = evaluate(candidate, points, order=order).tolist()
        except FormulaError as error:
            told = str(error)
            grows = order > 0 and shapes not in ("tanh({})", "softplus({})", "1 - exp({})")
            assert grows or (order == 2 and depth > 6), told
            assert "order 2 grows too large" in told or "in floating point at x" in told
            assert len(told) < 300 and "\n" not in told
            continue
        for at, got in zip(points.tolist(), found, strict=True):
            with mpmath.workdps(60):
                try:
                    want = mpmath.diff(lambda z: by_mpmath(shapes, depth, z), at, order)
                except OverflowError:
                    continue
            if abs(want) < 1e300:
                assert got == pytest.approx(float(want), rel=1e-8, abs=1e-300), (order, at)


def test_the_second_derivative_alone_is_refused() -> None:
    text = nested("tanh({})", 39)
    candidate = candidate_of(text)
    given = torch.tensor([-0.5, 0.5], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(pd_relu(given, candidate).sum(), given, create_graph=True)
    torch.testing.assert_close(first, candidate(given.detach()))
    (second,) = torch.autograd.grad(first.sum(), given, create_graph=True)
    with pytest.raises(FormulaError, match=r"the derivative of order 2 grows too large: nest fe"):
        torch.autograd.grad(second.sum(), given)
    with pytest.raises(UnsupportedError, match=r"the derivative of order 2 grows too large"):
        derivative(parse(text), 2)


def test_what_cannot_be_differentiated_is_exported(tmp_path: Path) -> None:
    """Training needs g alone; a product of forty sums is too large to differentiate."""
    candidate = candidate_of("*".join(f"(1 + exp(-(x - {k}/10)**2))" for k in range(60)))
    assert "order 1" in kernel(candidate.family).part(1).trouble
    assert main(["export", candidate.formula, "-o", str(tmp_path / "g.py")]) == 0
    spec = importlib.util.spec_from_file_location("exported", tmp_path / "g.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = torch.linspace(-3, 8, 50, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(pd_relu(given, candidate, exact=True).sum(), given)
    (theirs,) = torch.autograd.grad(module.pd_relu(given).sum(), given, create_graph=True)
    assert torch.equal(ours, theirs)
    with pytest.raises(RuntimeError, match="no second derivative in this exported file"):
        torch.autograd.grad(theirs.sum(), given)


def test_a_text_is_as_long_as_its_formula() -> None:
    """What a function prints twice once doubled with every level."""
    texts = [len(torch_source(parse(nested("softplus({})", n)))) for n in (10, 30)]
    assert texts[1] < 4 * texts[0]


ARMS = "Piecewise({}, (1/3, True))".format(", ".join(f"({n}/9, x > {9 - n})" for n in range(15)))


def test_arms_in_products_stay_few() -> None:
    """Four choices of fifteen are fifty thousand, as the arms of one."""
    product = "*".join(ARMS.replace("9 -", f"{k}/7 + 9 -") for k in range(4))
    begun = time.process_time()
    expression = parse(f"{product}*exp(x)/(1 + exp(x))")
    assert len(torch_source(expression)) < 100_000
    assert time.process_time() - begun < 15.0


def test_a_constant_of_t_is_not_computed_without_end() -> None:
    tower = nested("cosh({})", 12).replace("x", "t")
    with pytest.raises(FormulaError, match=r"is too large to compute at the ends of t"):
        Family("tower", parse(f"Piecewise((1, x > 0), (exp(x)/(1 + {tower}), True))"))
    Family("fine", parse("Piecewise((1, x > 0), (exp(x)*(1 - t)**2*exp(-t), True))"))


def test_an_activation_is_differentiated_within_bounds() -> None:
    product = sympy.Mul(*(1 + sympy.exp(-((x - k) ** 2)) for k in range(60)))
    with pytest.raises(FormulaError, match=r"'big' cannot be differentiated: .* too large"):
        family_of(product, name="big")


def test_no_table_is_made_of_what_is_nested_deeply() -> None:
    begun = time.process_time()
    assert table.segments(candidate_of(nested("1 - exp({})", 39))) is None
    assert time.process_time() - begun < 10.0


@pytest.mark.parametrize(
    ("shapes", "depth", "status"),
    [
        ("cosh({})", 12, 1),  # sympy computed cosh(cosh(…(0))), and overflowed
        ("sinh({})", 39, 1),
        pytest.param("tanh({})", 39, 1, marks=pytest.mark.slow),
        pytest.param("1 - exp({})", 39, 1, marks=pytest.mark.slow),
        pytest.param("sinh({}); exp({}); cosh({}); tanh({})", 36, 1, marks=pytest.mark.slow),
        ("sinh({})", 60, 2),
        ("tanh({})", 60, 2),
    ],
)
def test_a_check_ends_soon(shapes: str, depth: int, status: int, capsys: Any) -> None:
    begun = time.process_time()
    assert main(["check", nested(shapes, depth), "--profile", "strict"]) == status
    assert time.process_time() - begun < 15.0
    error = capsys.readouterr().err
    assert error == "" if status == 1 else error.count("\n") == 1 and "40 deep" in error


def test_with_parameters_too(capsys: Any) -> None:
    text = nested("tanh(a*{})", 39)
    space = {"a": FloatDistribution(0.5, 1.0)}
    candidate = Family("deep", parse(text, parameters=space), space=space).bind(a=0.9)
    given = torch.tensor([-0.4], dtype=torch.float64)
    with mpmath.workdps(40):
        want = mpmath.mpf(-0.4)
        for _ in range(39):
            want = mpmath.tanh(mpmath.mpf(0.9) * want)
    assert candidate(given).item() == pytest.approx(float(want), rel=1e-12)
