"""The op against mpmath: every library family, every dtype, at its defaults.

The oracle is sympy's evaluation of the exact expression in 30 digits (mpmath), which shares
nothing with the torch text or the tables but the expression itself.
"""

import functools

import pytest
import sympy
import torch
from torch import nn

from pdsearch.autograd import PDReLU, convert, pd_relu, set_progress
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.expression import t, x
from pdsearch.family import library, load_family

POINTS = torch.cat(
    [
        torch.linspace(-6, 6, 25, dtype=torch.float64),
        torch.tensor([0.0, -0.0, 1e-6, -1e-6, -9.9, -20.3, -80.0, 40.0, 1e3, -1e3, 1e15, -1e15]),
    ]
)
# (dtype, largest relative error, smallest normal number)
PRECISIONS = [
    (torch.float64, 1e-12, 2.3e-308),
    (torch.float32, 4e-6, 1.2e-38),
    (torch.bfloat16, 2.0**-8, 1.2e-38),
    (torch.float16, 2.0**-11, 6.2e-5),
]


@pytest.mark.parametrize("name", sorted(library()))
def test_gradient_is_g(name: str) -> None:
    candidate = load_family(name).default
    expression = candidate.expression.xreplace({t: sympy.Integer(0)})

    @functools.cache  # most points are the same in every dtype
    def wanted(at: float) -> float:
        return float(sympy.N(expression.xreplace({x: sympy.Rational(at)}), 30, maxn=5_000))

    for dtype, relative, tiny in PRECISIONS:
        points = POINTS.to(dtype)
        points = points[points.isfinite()].requires_grad_()
        # float32 is enough by default; only float64 arithmetic keeps the digits of far tails.
        narrow = dtype == torch.float32
        (grad,) = torch.autograd.grad(
            pd_relu(points, candidate, exact=narrow), points, torch.full_like(points, 2.0)
        )
        default = grad
        if narrow:
            (default,) = torch.autograd.grad(
                pd_relu(points, candidate), points, torch.full_like(points, 2.0)
            )
        compared = 0
        found = zip(points.tolist(), grad.double() / 2, default.double() / 2, strict=True)
        for at, got, usual in found:
            want = wanted(at)
            if tiny <= abs(want) <= torch.finfo(dtype).max:
                # Half an ulp of rounding is allowed on top in half precision: 1 ulp in all.
                assert abs(got - want) <= relative * abs(want) * 1.001, (dtype, at, got, want)
                compared += 1
            if narrow:
                assert abs(usual - want) <= 2e-6 * max(1.0, abs(want)), (at, usual, want)
        assert compared >= len(points) // 4  # ReLU's own g is 1 at half of them


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_forward_is_relu_for_every_half_precision_value(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    ours = pd_relu(every, load_family("exp_tail").default)
    assert torch.equal(ours.view(torch.int16), torch.relu(every).view(torch.int16))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(3, 4, 5, 6),
        lambda: torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
        lambda: torch.randn(6, 5).t(),
        lambda: torch.randn(8, 8)[::2, 1::3],
        lambda: torch.randn(()),
        lambda: torch.randn(0, 3),
        lambda: torch.randn(1, 4).expand(3, 4),
        lambda: torch.randn(40, 40, 40),  # large enough for the table
        lambda: torch.randn(9, 40, 20, 20).to(memory_format=torch.channels_last),
    ],
)
def test_any_shape_and_stride(make: object) -> None:
    candidate = load_family("exp_tail").default
    base = make()
    points = base.detach().requires_grad_()
    out = pd_relu(points, candidate)
    assert torch.equal(out, torch.relu(points))
    upstream = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, points, upstream)
    g = torch.where(points > 0, 1.0, 0.3 * torch.exp(points.double())).float()
    torch.testing.assert_close(grad, (upstream * g).detach(), rtol=0, atol=5e-5)


def test_double_backward_is_the_symbolic_derivative() -> None:
    candidate = load_family("exp_tail").bind(alpha=0.5, beta=2.0)
    points = torch.tensor([-2.0, -0.5, 0.5], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(pd_relu(points, candidate).sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), points)
    want = torch.where(points > 0, 0.0, torch.exp(2 * points))
    torch.testing.assert_close(second, want.detach(), rtol=1e-12, atol=0)


def test_vmap_of_grad_is_right() -> None:
    candidate = load_family("b_silu").default
    points = torch.randn(4, 3, dtype=torch.float64)
    per_sample = torch.func.vmap(torch.func.grad(lambda z: pd_relu(z, candidate).sum()))(points)
    torch.testing.assert_close(per_sample, candidate(points), rtol=1e-12, atol=0)


def test_annealed_family_ends_at_the_step() -> None:
    layer = PDReLU(load_family("annealed_exp_tail").default)
    points = torch.tensor([-1.0, 1.0], requires_grad=True)
    gradients = []
    for progress in (0.0, 0.5, 1.0):
        set_progress(layer, progress)
        (grad,) = torch.autograd.grad(layer(points).sum(), points)
        gradients.append(grad.tolist())
    below = [g[0] for g in gradients]
    assert below[0] == pytest.approx(0.3 * 0.36787944, rel=1e-5)
    assert below[1] == pytest.approx(below[0] / 2, rel=1e-5)
    assert below[2] == 0.0
    assert [g[1] for g in gradients] == [1.0, 1.0, 1.0]


def test_convert_replaces_every_relu_in_place() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(shared, nn.ReLU(inplace=True)))
    candidate = load_family("leaky").default
    assert convert(model, candidate) is model
    kinds = [type(m).__name__ for m in model.modules()]
    assert "ReLU" not in kinds
    assert model[1] is model[2][0]
    assert isinstance(convert(nn.ReLU(), candidate), PDReLU)


def test_convert_refuses_what_it_cannot_do() -> None:
    with pytest.raises((InputError, UnsupportedError), match=r"no nn\.ReLU"):
        convert(nn.Linear(2, 2), load_family("leaky").default)


def test_integers_are_refused() -> None:
    with pytest.raises(InputError, match="floating-point"):
        pd_relu(torch.arange(3), load_family("leaky").default)


@pytest.mark.parametrize("name", ["relu", "leaky"])
def test_double_backward_through_a_shape_that_depends_on_the_sign_alone(name: str) -> None:
    """d/dx of 2·relu(x)·g(x) is 2·g(x)² with the pseudo-derivative; g′ itself is 0."""
    candidate = load_family(name).default
    points = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    out = pd_relu(points, candidate)
    (first,) = torch.autograd.grad((out**2).sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), points)
    slope = candidate.parameters.get("alpha", 0.0)
    assert second.tolist() == pytest.approx([2 * slope**2, 2.0], rel=1e-12)


def test_forward_control_of_the_logistic_step() -> None:
    """∫₀ˣ σ(4s) ds = (softplus(4x) - ln 2)/4, in mpmath."""
    import mpmath

    from pdsearch.autograd import forward_control

    points = torch.linspace(-8, 8, 33, dtype=torch.float64)
    got = forward_control(load_family("sigmoid").default)(points)
    want = [float((mpmath.log1p(mpmath.exp(4 * p)) - mpmath.log(2)) / 4) for p in points.tolist()]
    assert got.tolist() == pytest.approx(want, abs=1e-12)
