"""The printer: values against mpmath, safety of arms not taken, the text itself."""

import ast
import functools
import math
import random

import pytest
import sympy
import torch
from oracle import at_random, function, value, values

from pdsearch import Candidate, Family, InputError, library, x
from pdsearch.codegen import derivative, evaluate, torch_function, torch_source
from pdsearch.errors import UnsupportedError
from pdsearch.expression import parse, t

FAMILIES = sorted(library())


@functools.cache
def points() -> tuple[float, ...]:
    """Exact in bfloat16 and float16 alike, near zero, in the middle and far out."""
    draw = random.Random(0)
    near = [draw.gauss(0, 3) for _ in range(24)] + [draw.uniform(-60, 60) for _ in range(6)]
    rounded = torch.tensor(near).bfloat16().tolist()
    return (0.0, *rounded, *(s * 2.0**k for s in (-1, 1) for k in (-14, -7, -1, 0, 1, 4, 9, 13)))


def wide_points() -> tuple[float, ...]:
    draw = random.Random(1)
    far = [s * 10 ** draw.uniform(-30, 30) for s in (-1, 1) for _ in range(4)]
    return tuple([draw.gauss(0, 3) for _ in range(10)] + far)


def candidates(name: str) -> list[Candidate]:
    family = library()[name]
    return [family.default] + ([at_random(family, 0.37)] if family.parameters else [])


def ulp(number: float, dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    exponent = math.floor(math.log2(max(abs(number), info.tiny)))
    return 2.0**exponent * info.eps


@pytest.mark.parametrize("name", FAMILIES)
def test_values_against_mpmath(name: str) -> None:
    for candidate in candidates(name):
        progress = 0.25 if candidate.annealed else 0.0
        given_points = points()
        wanted = values(candidate, given_points, progress=progress)
        for dtype, within in ((torch.float64, 1e-12), (torch.float32, 4e-6)):
            got = candidate(torch.tensor(given_points, dtype=dtype), t=progress).tolist()
            compared = 0
            for point, one, want in zip(given_points, got, wanted, strict=True):
                if abs(want) >= torch.finfo(dtype).tiny:
                    assert abs(one - want) <= within * abs(want), (candidate, dtype, point)
                    compared += 1
            assert compared >= len(given_points) // 4
        for dtype in (torch.bfloat16, torch.float16):
            got = candidate(torch.tensor(given_points, dtype=dtype), t=progress).tolist()
            for point, one, want in zip(given_points, got, wanted, strict=True):
                if abs(want) >= torch.finfo(dtype).tiny:
                    assert abs(one - want) <= ulp(want, dtype), (candidate, dtype, point)


@pytest.mark.parametrize("name", FAMILIES)
def test_values_at_any_double(name: str) -> None:
    for candidate in candidates(name):
        given_points = wide_points()
        got = candidate(torch.tensor(given_points, dtype=torch.float64)).tolist()
        compared = 0
        for point, one in zip(given_points, got, strict=True):
            want = value(candidate.expression, point)
            if abs(want) >= torch.finfo(torch.float64).tiny:
                assert abs(one - want) <= 1e-12 * abs(want), (candidate, point)
                compared += 1
        assert compared >= len(given_points) // 4


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["b_silu", "gelu", "two_sided_power", "circle", "knots_cubic"])
def test_derivatives_against_numerical_ones(name: str, order: int) -> None:
    """The oracle is mpmath's own differentiation of g, not sympy's."""
    import mpmath

    candidate = library()[name].default
    with mpmath.workdps(60):
        g = function(candidate.expression, 0.0)
        for point in (-5.25, -2.75, -1.5, -0.3, 0.7, 2.6):
            want = float(mpmath.diff(g, mpmath.mpf(point), order))
            got = evaluate(candidate, torch.tensor([point], dtype=torch.float64), order=order)
            assert got.item() == pytest.approx(want, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_16_bit_input_gives_a_finite_value(name: str) -> None:
    candidate = library()[name].default
    for dtype in (torch.bfloat16, torch.float16):
        inputs = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
        finite = inputs[torch.isfinite(inputs)]
        for order in range(3):
            assert torch.isfinite(evaluate(candidate, finite.double(), order=order)).all()
        assert torch.isnan(candidate(inputs[torch.isnan(inputs)])).all()
        assert torch.isfinite(candidate(inputs[torch.isinf(inputs)])).all()


TRICKY = [
    ("Piecewise((1, x > 0), (exp(x), True))", (1e4, 700.0, -1e4)),
    ("Piecewise((exp(-x), x > 0), (exp(x), True))", (1e4, -1e4, 0.0)),
    ("Piecewise((1/x, x > 1), (1, True))", (0.0, -3.0, 2.0, 1e5)),
    ("Piecewise((log(x), x > 1), (0, x > -1), (log(-x), True))", (0.0, -1.0, 3.0, -7.5)),
    ("Piecewise((sqrt(x), x > 0), (sqrt(-x), True))", (-4.0, 4.0, 0.0)),
    (
        "Piecewise((1, x > 0), (Piecewise((exp(x), x > -1), (1/x**2, True)), True))",
        (0.0, -0.5, -9.0),
    ),
    ("1 + erf(x)", (-8.0, -20.0, 3.0)),
    ("1 - erf(x)", (8.0, 20.0, -3.0)),
    ("2 - erfc(-2*x)", (8.0, 5.0, -3.0)),
    ("1/2 + atan(x)/pi", (-1e8, 1e8, 0.25)),
    ("1/2 - atan(3*x)/pi", (1e8, -1e8, 0.25)),
    ("exp(x) - 1", (1e-9, -1e-12, 3.0)),
    ("log(1 + x**2)", (1e-8, -1e-9, 5.0)),
    ("Heaviside(x)", (-1.0, 0.0, 1.0)),
    ("Heaviside(x, 1)*x + Min(x, 0, -x)", (-1.0, 0.0, 1.0)),
    ("Max(0, x, 2*x - 1)*sign(x) + Abs(x)", (-1.5, 0.0, 0.5, 3.0)),
    ("sqrt(pi)*E", (0.0, 1.0)),
    ("softplus(x) - softplus(-x)", (-30.0, 0.5, 900.0)),
    ("tanh(x)*cosh(x/50)*sin(x)*cos(x)", (-3.0, 0.5, 40.0)),
    (
        "Piecewise((1, (x > 0) & (x < 2)), (2, (x < -1) | (x >= 3)), (3, True))",
        (1.0, 2.0, 3.0, -1.0, -2.0),
    ),
]


@pytest.mark.parametrize(("text", "at"), TRICKY)
def test_forms_that_torch_or_sympys_printer_get_wrong(text: str, at: tuple[float, ...]) -> None:
    expression = parse(text, parameters=[])
    got = torch_function(expression)(torch.tensor(at, dtype=torch.float64), 0.0).tolist()
    for point, one in zip(at, got, strict=True):
        want = value(expression, point)
        assert one == pytest.approx(want, rel=1e-12, abs=1e-300), (text, point)


def test_the_text_needs_only_torch_and_takes_parameters_as_arguments() -> None:
    family = library()["exp_tail"]
    text = torch_source(family.expression, parameters=family.parameters)
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert {n for n in names if not n.startswith(("_v", "p_"))} <= {
        "torch",
        "x",
        "t",
        "value",
        "like",
        "_s",
    }
    namespace = {"torch": torch}
    exec(text, namespace)
    got = namespace["g"](torch.tensor([-1.0, 2.0], dtype=torch.float64), 0.0, 0.5, 2.0)
    assert got.tolist() == pytest.approx([0.5 * math.exp(-2), 1.0], rel=1e-15)


def test_parameters_named_like_torchs_or_our_own_names_do_no_harm() -> None:
    names = ["_s", "like", "value", "g", "int", "p_x", "lambda_"]
    expression = parse(" + ".join(f"{n}*x**{i}" for i, n in enumerate(names)), parameters=names)
    got = torch_function(expression, tuple(names))(torch.tensor([2.0]).double(), 0.0, *[1.0] * 7)
    assert got.item() == 127.0


def test_bad_names_and_inputs() -> None:
    with pytest.raises(InputError, match="identifier"):
        torch_source(x, name="not an identifier")
    candidate = library()["elu"].default
    with pytest.raises(InputError, match=r"floating-point tensor is needed, got torch.int64"):
        candidate(torch.tensor([1]))
    with pytest.raises(InputError, match=r"t must be in \[0, 1\], got 2"):
        candidate(torch.tensor([1.0]), t=2.0)
    with pytest.raises(UnsupportedError, match="up to order 2"):
        evaluate(candidate, torch.tensor([1.0]), order=3)


def test_jumps_are_dropped_from_derivatives() -> None:
    assert derivative(sympy.Heaviside(x) * 2) == 0
    assert derivative(sympy.Abs(x), 2) == 0


def test_progress_is_an_argument() -> None:
    family = Family("fading", sympy.Piecewise((1, x > 0), ((1 - t) * sympy.exp(x), True)))
    given_value = torch.tensor([-1.0], dtype=torch.float64)
    assert family.default(given_value, t=1.0).item() == 0.0
    assert family.default(given_value, t=0.5).item() == pytest.approx(0.5 * math.exp(-1), rel=1e-15)
