"""Formulas as people write them: finite wherever they are, and near to what Arb says they are."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import mpmath
import pytest
import sympy
import torch
from optuna.distributions import FloatDistribution
from scripts import load_script

from pdsearch import Candidate, Family, PDReLU, check, pd_relu, x
from pdsearch.codegen import derivative, evaluate, torch_function
from pdsearch.errors import FormulaError
from pdsearch.export import export
from pdsearch.expression import parse, sigmoid, softplus
from pdsearch.family import load_target
from pdsearch.kernels import table
from pdsearch.saturating import pd_erfc, saturating
from pdsearch.scaled import (
    finite_form,
    pd_arccot,
    pd_erfc_ratio,
    pd_expm1,
    pd_largest,
    pd_negative,
    pd_positive,
    pd_softplus_ratio,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(BENCHMARKS))  # as where a script is run
    fuzz = load_script(BENCHMARKS / "fuzz_numerics.py")


def candidate_of(text: str) -> Candidate:
    _, candidate = load_target(text)
    assert isinstance(candidate, Candidate)
    return candidate


def everywhere(dtype: torch.dtype) -> torch.Tensor:
    """Numbers of every size, both signs, the ends and infinities."""
    info = torch.finfo(dtype)
    sizes = torch.logspace(-6, math.log10(info.max) - 0.01, 160, dtype=torch.float64)
    near = torch.linspace(-40, 40, 161, dtype=torch.float64)
    ends = torch.tensor([0.0, info.max, -info.max, math.inf, -math.inf, 800.0, -800.0, 1000.0])
    return torch.cat([sizes, -sizes, near, ends.double()]).to(dtype)


WRITTEN = [
    str(sympy.diff(x / (1 + sympy.exp(-x)), x)),
    str(sympy.diff(x / (1 + sympy.exp(-25 * x)), x)),
    "exp(x)/(1 + exp(x))",
    "Heaviside(x) + (1 - Heaviside(x))*exp(x)",
    "Min(1, exp(x))",
    "clamp(exp(x) - exp(-x), -1, 1)",
    "Abs(tanh(exp(x)))*sign(exp(x))",
    "Max(x, 0)*exp(-x)",
    "(1 + sign(x))/2*exp(-x) + (1 - sign(x))/2*exp(x)",
    "(x + abs(x))*exp(-x)/2 + 0.1",
    "sinh(x)/cosh(x)",
    "cosh(2*x)/cosh(x)**2",
    str(sympy.diff(x * sympy.exp(x) / (sympy.exp(x) + sympy.exp(-x)), x)),
    "exp(3*x)*exp(-x)/(exp(2*x) + 2 + exp(-x))",
    "exp(-x**2)/(exp(-x**2) + exp(-2*x**2))",
    "(exp(x) - exp(-x))**2/(exp(x) + exp(-x))**2",
    "exp(-x**2/2)/erfc(-x/sqrt(2))*exp(-abs(x))",
    "softplus(x)*exp(-x)*sigmoid(x)",
    "exp(exp(x))/(1 + exp(exp(x)))",
    "exp(x - exp(x))",
    "x**64/(1 + x**64)",
    "x**63/(1 + x**64)",
    "Piecewise((1, x > 0), (Piecewise((exp(x)/(1 + exp(x)), x > -5), (Piecewise((exp(-x)/(1 + "
    "exp(-x)), x > -9), (x*exp(x)/(exp(-x) + 1), True)), True)), True))",
    "exp(1000 - x)/(1 + exp(1000 - x))",
    "1/2 - atan(exp(x))/pi",
    "1 - exp(-exp(x))",
    "1 + tanh(x)",
    "(exp(x)*(x + 1) + 1)*exp(x)/(exp(x) + 1)**2",
    "1/(1 + exp(-3.7*x))**0.01",
    "softplus(x)**0.05*sigmoid(-x)",
    "erfc(x)**0.02",
    "sqrt(sigmoid(5*x))*(1 - tanh(x))**0.1",
    "1/cosh(x)**0.01",
    "(1 + exp(x))**0.3/(1 + exp(x))",
    "softplus(x)/(1 + softplus(x))*(x/(1 + exp(-25*(x + 20))))",
    "Piecewise((1, x > 0), ((1 + x**2)**(-0.01), x > -9), ((2 + x**4)**(-0.005), True))",
    "2**x/(1 + 2**x)",
    "(1 + x**2)**(-1 - sigmoid(x))",
    "Piecewise((1, x > 0), ((1 + x**2)**x, True))",
    "sigmoid(x)**(1 + x**2)",
    "(2**x - 2**(-x))/(2**x + 2**(-x))",
    "exp(-abs(x)**abs(x))",  # 0⁰ is 1
    "Piecewise((1, 2**x > 1), (2**(2**x) - 1, True))",
]


@pytest.mark.parametrize("root", [0.01, 0.03])
@pytest.mark.parametrize("inner", ["atan(exp(x))", "tanh(exp(x))", "erf(exp(2*x))"])
def test_a_root_of_what_underflows_is_refused_with_the_place(inner: str, root: float) -> None:
    """Its text comes to zero where g is exp(root·x): nothing rewrites it."""
    candidate = candidate_of(f"{inner}**{root}")
    with pytest.raises(
        FormulaError, match=r"cannot be evaluated in floating point at x = -[37]\d\d"
    ):
        evaluate(candidate, torch.tensor([-1.0]))


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_finite_is_evaluated_finitely(text: str) -> None:
    """g, g′ and g″ in every dtype; g against Arb, straight from the tree."""
    candidate = candidate_of(text)
    module = PDReLU(candidate, exact=True)
    orders = [candidate.expression]
    for _ in range(2):
        orders.append(fuzz.slope(orders[-1]))
    for dtype in DTYPES:
        points = everywhere(dtype)
        for order, expression in enumerate(orders):
            found = evaluate(candidate, points, order=order)
            for at in torch.flatten((~torch.isfinite(found)).nonzero()).tolist():
                place = points[at].clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).item()
                assert fuzz.exactly(expression, place) is None, (order, dtype, place)
        for point, got in zip(points[::7].tolist(), candidate(points[::7]).tolist(), strict=True):
            want = None if math.isinf(point) else fuzz.exactly(candidate.expression, point)
            if want is not None and not fuzz.at_a_break(candidate.expression, point):
                limit = fuzz.allowed(want, dtype, module.error_bound(dtype))
                assert abs(got - want) <= limit, (dtype, point, got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", [WRITTEN[0], WRITTEN[3], WRITTEN[4], "x**2 + exp(x)/(1 + exp(x))"])
def test_the_backward_pass_is_finite(text: str, dtype: torch.dtype) -> None:
    points = everywhere(dtype).repeat(80).requires_grad_()
    (first,) = torch.autograd.grad(
        pd_relu(points, candidate_of(text)).sum(), points, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), points)
    (plain,) = torch.autograd.grad(pd_relu(points, candidate_of(text)).sum(), points)
    for found in (first, second, plain):
        assert torch.isfinite(found).all()


def plain(expression: sympy.Expr) -> sympy.Expr:
    """Our own nodes in terms of sympy's, for the oracle."""
    zero = sympy.S.Zero
    for node, meaning in (
        (pd_expm1, lambda u: sympy.exp(u) - 1),
        (pd_arccot, lambda z: sympy.pi / 2 - sympy.atan(z)),
        (pd_softplus_ratio, lambda z: softplus(z) * sympy.exp(-pd_negative(z))),
        (pd_erfc_ratio, lambda z: sympy.erfc(z) * sympy.exp(pd_positive(z) ** 2)),
        (pd_erfc, sympy.erfc),
        (pd_positive, lambda u: sympy.Max(u, zero, evaluate=False)),
        (pd_negative, lambda u: sympy.Min(u, zero, evaluate=False)),
        (pd_largest, lambda *u: sympy.Max(*u, evaluate=False)),
    ):
        expression = expression.replace(node, meaning)
    return expression


@pytest.mark.parametrize("text", [t for t in WRITTEN if "x**6" not in t])
def test_the_forms_that_are_evaluated_are_the_same_functions(text: str) -> None:
    """By Arb, to sixty bits, at points where no exponential is beyond what it can take."""
    expression = parse(text, parameters=[])
    written = plain(finite_form(saturating(expression)))
    for point in (-30.25, -7.5, -2.0, -0.3, 1e-5, 0.7, 3.0, 6.5):
        want, got = fuzz.exactly(expression, point), fuzz.exactly(written, point)
        assert want is not None
        assert got == pytest.approx(want, rel=1e-15, abs=0.0), (point, written)


@pytest.mark.parametrize(
    "text",
    [
        "1 + tanh(x)",
        "1 - tanh(x)",
        "1 - tanh(3*x)**2",
        "1 - sigmoid(x)",
        "1/2 - tanh(x)/2",
        "1/2 + atan(x)/pi",
        "sigmoid(x)**2 - sigmoid(x)",
        "1 + erf(x)",
        "exp(x) - 1",
        "1/(1 + exp(-x)) - 1",
        "(exp(x) - exp(-x))/(exp(x) + exp(-x)) + 1",
        "x + x*tanh(2*x)",
        "0.25 - 0.25*tanh(x/2)**2",
        "1 - exp(-exp(x))",
    ],
)
def test_complements_keep_their_digits(text: str) -> None:
    candidate = candidate_of(text)
    points = [s * 2.0**k for s in (-1, 1) for k in range(-20, 6)]
    found = candidate(torch.tensor(points, dtype=torch.float64)).tolist()
    for point, got in zip(points, found, strict=True):
        want = fuzz.exactly(candidate.expression, point)
        assert want is not None
        assert abs(got - want) <= 1e-13 * abs(want) + 1e-300, (point, got, want)


def test_sixteen_bits_are_rounded_once() -> None:
    """The sigmoid at 0.000732421875 lies above the middle of two float16 by less than float32."""
    candidate = candidate_of("sigmoid(x)")
    for dtype in (torch.float16, torch.bfloat16):
        inputs = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
        finite = inputs[torch.isfinite(inputs)]
        by_table = table.every_value(candidate, dtype)[torch.isfinite(inputs)]
        got = candidate(finite)
        assert torch.equal(got, by_table)
        near = torch.nextafter(got, torch.full_like(got, 2.0)), torch.nextafter(got, -got - 1)
        # Among neighbours the nearest, by mpmath.
        for at in [*range(0, len(finite), 997), int((finite == 0.000732421875).nonzero())]:
            with mpmath.workdps(60):
                want = 1 / (1 + mpmath.exp(-mpmath.mpf(finite[at].item())))
                off = abs(mpmath.mpf(got[at].item()) - want)
                assert all(off <= abs(mpmath.mpf(n[at].item()) - want) for n in near)


@pytest.mark.parametrize(
    ("text", "at", "want"),
    [
        ("Piecewise((1, x > 0), (1e39, True))", -1.0, 1e39),
        ("Piecewise((1, x > 0), (-1e5, True))", -1.0, -1e5),
        ("x**5", -1e30, -1e150),
        ("1 + x**2", 1e30, 1e60),
        ("exp(x)", 1000.0, math.inf),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_g_beyond_a_dtype_is_its_largest_number(
    text: str, at: float, want: float, dtype: torch.dtype
) -> None:
    largest = torch.finfo(dtype).max
    point = max(min(at, largest), -largest)
    if abs(point) < abs(at) or (dtype is torch.float64 and text != "exp(x)"):
        point = math.copysign(largest, at) if abs(at) > 1 else at  # its square is beyond it, too
        want = math.copysign(math.inf, want) if abs(at) > 1 else want
    want = max(min(want, largest), -largest)
    leaf = torch.full((40_000,), point, dtype=dtype, requires_grad=True)
    pd_relu(leaf, candidate_of(text)).sum().backward()
    assert leaf.grad is not None
    rounded = torch.tensor(want, dtype=torch.float64).to(dtype)
    assert torch.equal(leaf.grad, rounded.expand(40_000))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ["1e39", "-1e39", "10**309", "-10**309", "1e30", "1e-320"])
def test_breakpoints_of_any_size(place: str, dtype: torch.dtype) -> None:
    candidate = candidate_of(f"Piecewise((1, x > {place}), (exp(x)/(1 + exp(x))/2, True))")
    points = everywhere(dtype).repeat(80).requires_grad_()
    pd_relu(points, candidate).sum().backward()
    limit = float(sympy.sympify(place))
    above = points.detach().double().clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max) > limit
    assert points.grad is not None
    assert torch.equal(points.grad == 1, above)
    assert torch.isfinite(points.grad).all()


def test_what_cannot_be_evaluated_is_refused_with_its_place() -> None:
    """(1 - exp(-exp(x)))·exp(-x) → 1 far left, as 0·inf; what it multiplies goes on changing."""
    text = "(1 - exp(-exp(x)))*exp(-x)*x/(1 + x**2)"
    with pytest.raises(FormulaError, match=r"cannot be evaluated in floating point at x = -") as it:
        candidate_of(text)(torch.zeros(1))
    assert "\n" not in str(it.value)
    # Where the limit is reached, it stands for what the text cannot give.
    settled = candidate_of("(1 - exp(-exp(x)))*exp(-x)")
    assert settled(torch.tensor([-800.0, -1e30, -3.0])).tolist() == pytest.approx(
        [1.0, 1.0, (1 - math.exp(-math.exp(-3))) * math.exp(3)], rel=1e-6
    )


def test_half_precision_is_alive_where_g_is() -> None:
    for written, same in (("exp(x)/(1 + exp(x))", "sigmoid(x)"), (WRITTEN[0], "sigmoid(x) + x*"
                          "sigmoid(x)*sigmoid(-x)")):  # fmt: skip
        first, second = (check(candidate_of(text))["alive_in_half"] for text in (written, same))
        assert first.value == second.value and first.value < -15


def test_powers_that_meet_in_an_exponent_are_finite_at_zero() -> None:
    """Their logarithms are not infinite there: the difference of two would be NaN."""
    step = "Piecewise((1, x > 0), ({}, True))"
    arm = step.format("(exp(4*x)/(1 + exp(4*x)))*(exp(-1*x**2))")
    shape = step.format(f"({arm})*(x**4/(1 + x**4))")
    candidate = candidate_of(f"({shape})*(log(1 + exp(25*(x - 0.05)))/(1 + abs(x)))")
    points = torch.tensor([0.0, -0.0, 5e-324, -5e-324, 1e-200, -1e-200], dtype=torch.float64)
    for order in (0, 1, 2):
        found = evaluate(candidate, points, order=order)
        assert bool(found.isfinite().all())
        assert found[[0, 1, 3, 5]].tolist() == [0.0] * 4


def test_the_stated_error_is_true() -> None:
    """(x + 1)² - x² - 2x is 1, and its text is far from it where x is large."""
    candidate = candidate_of("(x + 1)**2 - x**2 - 2*x")
    bound = PDReLU(candidate).error_bound(torch.float64)
    found = candidate(torch.tensor([1e12, -3e9, 7e28, 0.3]).double())
    assert 0 < (found - 1).abs().max().item() <= bound
    assert PDReLU(candidate).error_bound(torch.bfloat16) == 0.0
    leaf = torch.tensor([1e12, -3e9, 7e28, 0.3]).bfloat16().requires_grad_()
    pd_relu(leaf, candidate).sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [1.0] * 4
    assert PDReLU(candidate_of("1 + tanh(x)"), exact=True).error_bound(torch.float64) == 0.0


@pytest.mark.parametrize("text", [WRITTEN[1], WRITTEN[3], WRITTEN[8]])
def test_the_exported_file_is_as_close_as_it_says(text: str, tmp_path: Path) -> None:
    """In float64 the op's bits; in other dtypes float32's arithmetic, rounded once."""
    candidate = candidate_of(text)
    namespace: dict[str, Any] = {"__name__": "exported"}
    exec(export(candidate, tmp_path / "g.py").read_text(encoding="utf-8"), namespace)
    points = everywhere(torch.float64)
    assert torch.equal(namespace["g"](points), candidate(points))
    for dtype in DTYPES:
        points = everywhere(dtype)
        got, exact = namespace["g"](points).double(), candidate(points.double())
        largest = torch.finfo(dtype).max
        exact = exact.clamp(-largest, largest)
        unit = torch.finfo(dtype).eps * exact.abs() / 2 + torch.finfo(dtype).tiny
        error = 2e-6 * exact.abs().clamp(min=1.0)
        assert bool(((got - exact).abs() <= error + unit).all())
        assert bool(((got.sign() == exact.sign()) | (exact.abs() <= 1e-6)).all())


@pytest.mark.parametrize("text", [WRITTEN[1], WRITTEN[3]])
def test_compiled_it_is_the_same(text: str) -> None:
    module = PDReLU(candidate_of(text))
    points = everywhere(torch.bfloat16).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own code
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        compiled(points).sum().backward()
    assert points.grad is not None
    assert torch.equal(points.grad, module.candidate(points.detach()))


def test_the_derivative_of_a_saturating_form_saturates() -> None:
    assert derivative(1 / (1 + sympy.exp(-x))) == sigmoid(x) * sigmoid(-x)
    assert "sigmoid" in torch_source_of("exp(x)/(1 + exp(x))")
    far = torch.tensor([-1e300, 1e300]).double()
    assert torch_function(parse("1/cosh(x)", parameters=[]))(far, 0.0).tolist() == [0.0, 0.0]


def torch_source_of(text: str) -> str:
    from pdsearch.codegen import torch_source

    return torch_source(parse(text, parameters=[]))


# One of each kind that once went wrong although it had been accepted.
ACCEPTED = [
    "a**x/(1 + a**x)",
    "(1 + x**2)**(-1 - sigmoid(b*x))",
    "erf(Min(1/3, Piecewise((x, x < 1), (10, True))))",  # sympy compares with a Piecewise by ITE
    "exp(-Min(1, Piecewise((b, a < 2), (x**2, True))))",
    "atan(a)*Piecewise((1, x > 0), (Piecewise((0.5, a == 1), (0.1, True)), x > -1), (0, True))",
    "Piecewise((1, x > 0), (Min(1e40, exp(x)), True))",  # a breakpoint beyond float32
    "tanh((a + x)/Max(x, 0.5, 1e300))",
    "sinh((a + x)/Max(x, 0.5, 1e300))",  # numbers alone are compared
    "erfc(-x)*Heaviside(erfc(x) - 0.5)",
    "Piecewise((1 - 0**x, x > 0), (exp(x), True))",  # log(0) is no number
    "Piecewise((1, x > 0), (1e400*exp(x)/(1e400 + x**2), True))",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_is_accepted_goes_through_every_route(text: str) -> None:
    """Values, derivatives, backward pass and exported file, compared with Arb."""
    outcome = fuzz.Outcome()
    fuzz.check(text, random.Random(0), outcome, count=16, orders=3, routes=True)
    assert not outcome.failures and not outcome.counts["refused"]
    assert outcome.counts["values"] > 100_000


@pytest.mark.parametrize("text", ["tanh(1e320*x)", "exp(-x**2/1e-330)", "sigmoid(1e310*(x + 1))"])
def test_a_factor_beyond_float64_is_refused_although_g_saturates(text: str) -> None:
    """Infinity times 0 would be NaN at one point only."""
    with pytest.raises(FormulaError, match="cannot be evaluated in floating point at x = 0"):
        evaluate(candidate_of(text), torch.tensor([-1.0]))


def test_what_is_beyond_float64_at_zero_is_its_largest_number() -> None:
    top = torch.finfo(torch.float64).max
    assert evaluate(candidate_of("sinh(Max(x, 7e22))"), torch.zeros(1).double()).item() == top


def test_a_number_that_overflows_is_refused_for_its_order() -> None:
    g = parse("cosh(max(b/0.123, 1e300*x, b*x, sqrt(b)))", parameters=["b"])
    overflows = Family("overflows", g, space={"b": FloatDistribution(0.1, 1.0)})
    assert evaluate(overflows.default, torch.zeros(1)).isfinite().all()
    with pytest.raises(FormulaError, match="a number in it overflows float64"):
        evaluate(overflows.default, torch.ones(1), order=2)


def test_a_slice_of_the_fuzz_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = fuzz.run(40, 3, count=8, slopes=8, routes=0, grammar=0.3)
    assert not outcome.failures
    assert outcome.counts["values"] > 1_500
