"""Proofs about float32 tables, against mpmath, exact fractions, and tables that are wrong."""

import dataclasses
import functools
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy
import torch

from pdsearch.expression import parse, x
from pdsearch.family import load_family
from pdsearch.kernels import available, table
from pdsearch.kernels.certify import LIMIT, SIGN_FLOOR, Certificate, Prover, _same_sign
from pdsearch.kernels.fit import fit
from pdsearch.kernels.layout import TOP, Cells, Stretch, Tree
from pdsearch.kernels.pieces import breakpoints, function

# One of each layout: Side, Side from above, Sides, and Trees of several sizes.
NAMES = ["exp_tail", "log_tailed", "sigmoid", "b_silu", "hardswish", "two_sided_exp", "leaky"]


@functools.cache
def fitted(name: str) -> tuple[Cells | Tree, Certificate]:
    candidate = load_family(name).default
    prover = Prover(candidate.expression)
    found = fit(function(candidate), breakpoints(prover.pieces), prover.prove)
    assert found is not None
    return found


def prove_about(
    layout: Cells | Tree, expression: sympy.Expr, *, aim: float = 1e-6
) -> Certificate | None:
    return Prover(expression).prove(layout, aim)


def points(seed: int, count: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    parts: list[Any] = [
        random.normal(0, 3, count),
        random.uniform(-30, 30, count),
        random.choice([-1, 1], count) * 10 ** random.uniform(-30, 38, count),
        [0.0, -0.0, TOP, -TOP, 1e-45, -1e-45],
    ]
    return np.concatenate(parts).astype(np.float32)


def exact(expression: sympy.Expr, at: float) -> mpmath.mpf:
    """G in 30 digits, by sympy and mpmath; the ends of the float range by their limits."""
    value = sympy.N(expression.xreplace({x: sympy.Rational(at)}), 30, maxn=5_000)
    return mpmath.mpf(str(value))


@pytest.mark.parametrize("name", NAMES)
def test_no_point_is_further_off_than_proved(name: str) -> None:
    candidate = load_family(name).default
    layout, proof = fitted(name)
    places = points(7, 50)
    got = layout.evaluate(places).astype(np.float64)
    with mpmath.workdps(30):
        wanted = [exact(candidate.expression, float(p)) for p in places]
        worst = max(abs(mpmath.mpf(g) - w) for g, w in zip(got.tolist(), wanted, strict=True))
        assert worst <= proof.error <= LIMIT
        assert proof.low <= min(wanted) and max(wanted) <= proof.high
        for value, true in zip(got, wanted, strict=True):
            assert abs(true) <= SIGN_FLOOR or value * true > 0
    # A bound that says nothing would pass all of this.
    dense = np.linspace(-30, 30, 60_001).astype(np.float32)
    found = np.abs(layout.evaluate(dense) - function(candidate)(dense.astype(float))).max()
    assert proof.error <= 4 * found + 1.5e-6


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_adds_no_more_than_its_bound(name: str) -> None:
    """Float32 evaluation against the same polynomial in fractions."""
    layout, _ = fitted(name)
    places = points(3, 300)
    got = layout.evaluate(places)
    stretches = list(layout.stretches())
    for place, value in zip(places.tolist(), got.tolist(), strict=True):
        around = [s for s in stretches if s.first <= place <= s.last]
        # Where stretches overlap by rounding, the point is in either.
        assert 1 <= len(around) <= 4
        gaps = []
        for stretch in around:
            u = stretch.slope * Fraction(place) + stretch.shift
            p = sum(c * u**k for k, c in enumerate(stretch.coefficients))
            gaps.append(float(abs(p - Fraction(value))) - stretch.noise)
        assert min(gaps) <= 0.0, place


def test_either_side_of_a_table_has_its_own_noise() -> None:
    """Whichever side has the polynomials, and whichever is yielded first."""
    layout, _ = fitted("exp_tail")
    assert isinstance(layout, Cells) and not layout.inverted and layout.slope == 0
    turned = dataclasses.replace(layout, inverted=True)
    noises = {
        (kind, side): [s.noise for s in one.stretches() if (s.last > 0) == (side > 0)]
        for kind, one in (("plain", layout), ("turned", turned))
        for side in (-1, 1)
    }
    assert noises["turned", 1] == noises["plain", -1]
    assert noises["turned", -1] == noises["plain", 1]
    assert noises["plain", 1] != noises["plain", -1]


def test_stretches_cover_the_line() -> None:
    for name in NAMES:
        layout, _ = fitted(name)
        ends = sorted((s.first, s.last) for s in layout.stretches())
        assert ends[0][0] == -TOP and max(last for _, last in ends) == TOP
        reached = ends[0][1]
        for first, last in ends[1:]:
            # A tree's stretches begin at the float32 number after the last one's end.
            assert first <= np.nextafter(np.float32(reached), np.float32(np.inf))
            reached = max(reached, last)


@pytest.mark.parametrize("row", [0, 3, 17, 31])
@pytest.mark.parametrize("power", [0, 1, 3])
def test_a_wrong_coefficient_is_noticed(row: int, power: int) -> None:
    candidate = load_family("b_silu").default
    layout, _ = fitted("b_silu")
    assert isinstance(layout, Cells)
    coefficients = layout.coefficients.copy()
    # At the end of a stretch, |u| = half its width, it is off by 2e-5.
    coefficients[row, power] += 2e-5 / (0.5 ** (layout.mantissa + 1)) ** power
    wrong = dataclasses.replace(layout, coefficients=coefficients)
    assert prove_about(layout, candidate.expression) is not None
    assert prove_about(wrong, candidate.expression) is None


def test_a_bump_between_all_samples_is_noticed() -> None:
    """A spike 2e-5 wide and 0.3 high far from any sample: only the proof can see it."""
    calm = load_family("exp_tail").default
    layout, _ = fitted("exp_tail")
    bump = parse("3*exp(-(100000*(x + 701234567/100000000))**2)/10", parameters=())
    spiked = calm.expression + bump
    sampled = np.linspace(-24, 24, 9_601).astype(np.float32)
    with np.errstate(under="ignore"):
        seen = 0.3 * np.exp(-((1e5 * (sampled.astype(float) + 7.01234567)) ** 2))
    assert seen.max() < 1e-12
    assert prove_about(layout, calm.expression) is not None
    assert prove_about(layout, spiked) is None


def test_a_lost_sign_is_noticed() -> None:
    """A table within the limit that is 0 where g is 5e-6."""
    shape = parse("Piecewise((1, x > 0), (1/200000, True))", parameters=())
    ends = np.array([0.0], dtype=np.float32)
    centres = np.zeros(2, dtype=np.float32)

    def tree(below: float) -> Tree:
        return Tree(ends, centres, np.array([[below, 0.0], [1.0, 0.0]], dtype=np.float32))

    assert prove_about(tree(5e-6), shape) is not None
    assert prove_about(tree(4e-6), shape) is not None
    assert prove_about(tree(0.0), shape) is None
    assert prove_about(tree(-1e-6), shape) is None


def test_the_value_at_a_breakpoint_counts() -> None:
    """At 0 itself the shape is 1/2, and a table that has 0 there is refused."""
    shape = parse("Heaviside(x)", parameters=())
    assert shape.xreplace({x: sympy.S.Zero}) == sympy.S.Half
    table_ = Tree(
        np.array([0.0], dtype=np.float32),
        np.zeros(2, dtype=np.float32),
        np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32),
    )
    assert prove_about(table_, shape) is None


def test_a_proof_has_a_budget() -> None:
    layout, proof = fitted("gelu")
    expression = load_family("gelu").default.expression
    for left, proved in ((10_000, True), (100, False)):
        found = Prover(expression, work=left).prove(layout, proof.error)
        assert (found is not None) is proved


def test_what_cannot_be_proved_takes_the_formula() -> None:
    spike = load_family("q_pseudo_spike").bind(alpha=1.1)
    assert table.segments(spike) is None


def test_a_constant_tail_is_kept_by_its_sign_not_by_its_error() -> None:
    """Beyond its cells a power's tail is one number, farther from g than g is from zero."""
    assert available() is None
    candidate = load_family("two_sided_power").default
    found = table.segments(candidate)
    assert found is not None and found.values[0] == 1
    assert found.proof.error <= LIMIT
    far = torch.tensor([-1e5, -2e5, -2.9e5])  # 0.3/(1 − x) is above 1e-6 up to 3e5
    got = torch.ops.pdsearch.scale(torch.ones(3), far, found.values)
    assert bool((got > 0).all())
    assert bool(((got - 0.3 / (1 - far)).abs() <= LIMIT).all())


@pytest.mark.parametrize(
    ("value", "least", "most", "kept"),
    [(4e-6, 0.0, 9e-6, True), (-4e-6, 0.0, 9e-6, False), (-4e-6, -9e-6, 0.0, True),
     (1e-40, 0.0, 9e-6, False), (0.0, 0.0, 9e-6, False), (4e-6, -1e-9, 9e-6, False)],
)  # fmt: skip
def test_signs_of_constants(value: float, least: float, most: float, kept: bool) -> None:
    flat = Stretch(0.0, 1.0, Fraction(0), Fraction(0), (Fraction(value),), 1e-37)
    assert _same_sign(flat, least, most) is kept
    bent = Stretch(0.0, 1.0, Fraction(1), Fraction(0), (Fraction(value), Fraction(1)), 1e-37)
    assert not _same_sign(bent, least, most)
