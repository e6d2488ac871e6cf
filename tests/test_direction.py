"""Direction "up", against a backward pass by hand: below zero only what raises the unit."""

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import sympy
import torch

from pdsearch import (
    Candidate,
    Family,
    InputError,
    PDReLU,
    check,
    kernels,
    load_family,
    pd_relu,
    x,
)
from pdsearch.errors import UnsupportedError

SHAPES = {
    "exp_tail": {"alpha": 0.3, "beta": 1.0},  # a table on one side
    "leaky": {"alpha": 0.1},  # two numbers
    "sigmoid": {"alpha": 2.0},  # not 1 above zero
    "b_silu": {"alpha": 1.67},  # negative far below
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def by_hand(g: torch.Tensor, input: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
    """The rule as it is stated: above zero everything, elsewhere only where grad_output < 0."""
    passes = (input > 0) | (grad_output < 0)
    return torch.where(passes, grad_output * g, torch.zeros_like(g))


def upward(name: str) -> Candidate:
    return load_family(name).bind(direction="up", **SHAPES[name])


def gradient(
    candidate: Candidate, given: torch.Tensor, upstream: torch.Tensor, **options: Any
) -> torch.Tensor:
    leaf = given.clone().requires_grad_()
    output = pd_relu(leaf, candidate, **options)
    torch.testing.assert_close(output, torch.relu(given), rtol=0, atol=0, equal_nan=True)
    (found,) = torch.autograd.grad(output, leaf, upstream)
    return found


@pytest.mark.parametrize("count", [37, 40_011], ids=["small", "large"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_gradient_is_that_of_the_rule_by_hand(
    name: str, dtype: torch.dtype, count: int, build_kind: str
) -> None:
    generator = torch.Generator().manual_seed(count)
    given = (3 * torch.randn(count, generator=generator)).to(dtype)
    upstream = torch.randn(count, generator=generator).to(dtype)
    given[:3], upstream[:3] = 0.0, torch.tensor([1.0, -1.0, 0.0], dtype=dtype)
    plain = load_family(name).bind(**SHAPES[name])
    wanted = by_hand(plain(given.double()), given.double(), upstream.double())
    got = gradient(upward(name), given, upstream)
    torch.testing.assert_close(got.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    # What is dropped is exactly zero, and everything else is what the op without direction gives.
    dropped = (given <= 0) & (upstream >= 0)
    assert bool((got[dropped] == 0).all())
    assert torch.equal(got[~dropped], gradient(plain, given, upstream)[~dropped])


@pytest.mark.parametrize("name", ["exp_tail", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_byte_an_element_keeps_the_sign(name: str, dtype: torch.dtype, build_kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    given = (3 * torch.randn(1_003, generator=generator)).to(dtype)
    upstream = torch.randn(1_003, generator=generator).to(dtype)
    candidate = upward(name)
    plan = kernels.plan(
        candidate, dtype=dtype, device=torch.device("cpu"), save="uint8", exact=False
    )
    assert plan.keeps == "code" and plan.error < 0.01
    got = gradient(candidate, given, upstream, save="uint8").double()
    g = load_family(name).bind(**SHAPES[name])(given.double())
    wanted = by_hand(g, given.double(), upstream.double())
    slack = (plan.error + 4e-3) * upstream.double().abs() + 1e-6
    assert bool(((got - wanted).abs() <= slack).all())


def test_strides_and_channels_last_follow_the_rule() -> None:
    generator = torch.Generator().manual_seed(2)
    given = torch.randn(8, 16, 24, 24, generator=generator).to(memory_format=torch.channels_last)
    upstream = torch.randn(8, 16, 24, 24, generator=generator)[:, :, ::1]
    plain = load_family("exp_tail").bind(alpha=0.3, beta=1.0)
    wanted = by_hand(plain(given), given, upstream)
    torch.testing.assert_close(
        gradient(upward("exp_tail"), given, upstream), wanted, rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("name", ["exp_tail", "leaky"])
@pytest.mark.parametrize("count", [4, 40_000])
def test_nan_stays_nan(name: str, count: int) -> None:
    given = torch.full((count,), -1.0)
    given[0], upstream = math.nan, torch.ones(count)
    upstream[1] = math.nan
    got = gradient(upward(name), given, upstream)
    assert got[:2].isnan().all() and not got[2:].isnan().any()


def test_double_backward_differentiates_what_passes() -> None:
    given = torch.tensor([-2.0, -1.0, -0.5, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, -1.5, -2.0, 3.0, -1.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(
        pd_relu(given, upward("exp_tail")), given, upstream, create_graph=True
    )
    to_given, to_upstream = torch.autograd.grad(first.sum(), (given, upstream))
    # d/dx of go·0.3·exp(x) below zero where go < 0; g itself towards go.
    tail = 0.3 * given.detach().exp()
    passes = torch.tensor([False, True, True, True, True])
    below = given.detach() <= 0
    wanted_given = torch.where(passes & below, upstream.detach() * tail, torch.zeros(()))
    wanted_upstream = torch.where(passes, torch.where(below, tail, torch.ones(())), torch.zeros(()))
    torch.testing.assert_close(to_given, wanted_given.double())
    torch.testing.assert_close(to_upstream, wanted_upstream.double())


def test_vmap_and_batched_gradients() -> None:
    generator = torch.Generator().manual_seed(3)
    given = torch.randn(5, 7, generator=generator)
    upstream = torch.randn(5, 7, generator=generator)
    candidate = upward("exp_tail")
    g = load_family("exp_tail").bind(alpha=0.3, beta=1.0)(given)
    wanted = by_hand(g, given, upstream)

    def one(row: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (pd_relu(row, candidate) * weights).sum()

    got = torch.func.vmap(torch.func.grad(one))(given, upstream)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    leaf = given.clone().requires_grad_()
    output = pd_relu(leaf, candidate)
    batch = torch.stack([upstream, -upstream])
    (both,) = torch.autograd.grad(output, leaf, batch, is_grads_batched=True)
    torch.testing.assert_close(both[0], wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(both[1], by_hand(g, given, -upstream), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
def test_forward_mode_is_refused() -> None:
    given, tangent = torch.randn(4), torch.randn(4)
    with pytest.raises(UnsupportedError, match=r'direction "up" chooses by the sign'):
        torch.func.jvp(lambda z: pd_relu(z, upward("exp_tail")), (given,), (tangent,))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_module_follows_the_rule(backend: str) -> None:
    generator = torch.Generator().manual_seed(4)
    given = torch.randn(64, generator=generator)
    upstream = torch.randn(64, generator=generator)
    module = PDReLU(upward("exp_tail"))
    leaf = given.clone().requires_grad_()
    output = torch.compile(module, backend=backend, fullgraph=True)(leaf)
    (got,) = torch.autograd.grad(output, leaf, upstream)
    g = load_family("exp_tail").bind(alpha=0.3, beta=1.0)(given)
    torch.testing.assert_close(got, by_hand(g, given, upstream), rtol=1e-5, atol=1e-6)


def test_direction_is_part_of_the_candidate() -> None:
    plain, up = load_family("exp_tail").bind(alpha=0.5), upward("exp_tail")
    up = plain.family.bind(alpha=0.5, direction="up")
    assert plain.direction == "both" and up.direction == "up"
    assert up != plain and hash(up) != hash(plain)
    assert up.name == "exp_tail(alpha=0.5, beta=1, direction=up)"
    assert up.identity != plain.identity and plain.identity == plain.formula
    for again in (
        Candidate.from_json(up.to_json()),
        pickle.loads(pickle.dumps(up)),
        copy.deepcopy(up),
    ):
        assert again == up and again.direction == "up"
    assert plain.to_dict()["schema"] == 1 and "direction" not in plain.to_dict()
    assert up.to_dict()["schema"] == 2


def test_a_family_may_hold_directions() -> None:
    family = Family("bent", x / (1 + x**2) + 1, directions=("up", "both"))
    assert family.default.direction == "up" and family.bind(direction="both").direction == "both"
    assert Family.from_dict(family.to_dict()) == family
    assert Family("bent", x / (1 + x**2) + 1) != family


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (("down",), "direction must be one of both, up, got 'down'"),
        ((), "directions must be a tuple of one or more of both, up"),
        ("up", "directions must be a tuple of one or more of both, up"),
        (("up", "up"), "each once"),
    ],
)
def test_wrong_directions_are_refused(directions: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Family("bent", x / (1 + x**2) + 1, directions=directions)


def test_bind_refuses_an_unknown_direction() -> None:
    with pytest.raises(InputError, match="direction must be one of both, up, got 'sideways'"):
        load_family("exp_tail").bind(direction="sideways")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("exp_tail", "proved"), ("leaky", "proved"), ("sigmoid", "proved"), ("b_silu", "refuted")],
)
def test_never_pushes_down(name: str, verdict: str) -> None:
    report = check(upward(name))
    found = report["never_pushes_down"]
    assert found.verdict == verdict and not found.required and len(report.criteria) == 11
    if verdict == "refuted":  # B-SiLU is negative below −2.7349
        assert found.witness is not None and found.witness["x"] < -2.7349
        point = torch.tensor(found.witness["x"], dtype=torch.float64)
        assert upward(name)(point) < 0
    strict = check(upward(name), profile="strict")
    assert strict["never_pushes_down"].required


def test_never_pushes_down_is_of_g_below_zero_alone() -> None:
    negative_above = Family("odd", sympy.Piecewise((-1, x > 0), (sympy.exp(x), True)))
    report = check(negative_above.bind(direction="up"))
    assert report["never_pushes_down"].verdict == "proved"
    assert report["sign_preserving"].verdict == "refuted"


def test_the_ten_criteria_stay_ten_without_a_direction() -> None:
    assert len(check(load_family("exp_tail").default).criteria) == 10
    up = replace(load_family("exp_tail"), directions=("up",))
    found = check(up)["never_pushes_down"]
    assert found.verdict == "proved"
    with pytest.raises(KeyError):
        check(load_family("exp_tail"))["never_pushes_down"]
