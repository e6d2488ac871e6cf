"""The kernels at every level that the processor has: chords, short lengths, one result for all."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from oracle import at_random
from processor import LEVELS

from pdsearch import Candidate, library
from pdsearch.codegen import evaluate
from pdsearch.family import load_target
from pdsearch.kernels import Plan, available, certify, plan, plans
from pdsearch.kernels.chords import chords
from pdsearch.kernels.table import segments

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def restored(fresh_plans: None) -> Iterator[None]:
    assert available() is None, "these tests need a C++ compiler"
    yield
    torch.ops.pdsearch.limit("avx512")


def levels() -> list[str]:
    """Return the levels of this processor, the lowest first."""
    return [name for name in LEVELS if torch.ops.pdsearch.limit(name) == name]


def make(candidate: Candidate, dtype: torch.dtype = torch.float32, *, save: str = "auto") -> Plan:
    return plan(candidate, dtype=dtype, device=torch.device("cpu"), save=save, exact=False)


def kept(chosen: Plan, x: torch.Tensor) -> torch.Tensor:
    if chosen.keeps == "code":
        return chosen.encode(x)
    return torch.relu(x) if chosen.keeps == "output" else x


def with_direction(name: str, direction: str) -> Candidate:
    family = library()[name]
    return family.default if direction == "both" else family.bind(direction=direction)


def within_chords() -> torch.Tensor:
    """Ends of chords of all sizes of x, and places within each chord and each quarter of one."""
    upper = np.arange(0x7F80, dtype=np.uint32)[::3] << 16
    lower = np.array([0, 0x2000, 0x3000, 0x6000, 0x8000, 0xC123, 0xE000, 0xFFFF], dtype=np.uint32)
    bits = (upper[:, None] | lower).ravel()
    return torch.from_numpy(np.concatenate([bits, bits | 0x80000000]).view(np.float32).copy())


@pytest.mark.parametrize("level", LEVELS[:2])
@pytest.mark.parametrize(
    "name", ["b_silu", "gelu", "log_tailed", "selu", "softsign", "two_sided_exp"]
)
def test_chords_keep_their_proved_error(name: str, level: str) -> None:
    if torch.ops.pdsearch.limit(level) != level:
        pytest.skip(f"this processor has no {level}")
    family = library()[name]
    for candidate in [family.default] + ([at_random(family, 0.37)] if family.parameters else []):
        chosen, x = make(candidate), within_chords()
        got = chosen.scale(torch.ones_like(x), x).double()
        wanted = evaluate(candidate, x.double())
        assert 0 < chosen.error <= certify.LIMIT
        assert (got - wanted).abs().max().item() <= chosen.error + 1e-12
        # Proved only away from sign changes; next to these, where abs(g) > 1e-5.
        assert torch.equal(
            torch.sign(got), torch.sign(wanted).where(wanted.abs() > 1e-6, got.sign())
        )


def test_chords_serve_smooth_shapes_only() -> None:
    """A jump or a sharp bend within a chord needs a table that knows where it is."""
    sizes = {"exp_tail": 16, "gelu": 16, "silu": 16, "knots_cubic": 16, "log_tailed": 18}
    for name, bits in sizes.items():
        found = chords(library()[name].default)
        assert found is not None and len(found.values) == 2**bits + 2
    for text in (
        "Piecewise((1, x > 1/3), (0, True))",
        "max(0, 1 - abs(x - 0.1)*300)",
        "sin(1000*x)*exp(-x**2)",
    ):
        _, candidate = load_target(text)
        assert chords(candidate) is None
    jump = load_target("Piecewise((1, x > 0), (exp(x)/4, True))")[1]
    found = chords(jump)
    assert found is not None
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf])
    for level in levels():
        torch.ops.pdsearch.limit(level)
        got = torch.ops.pdsearch.scale_chords(torch.ones_like(x), x, found.values)
        assert torch.allclose(got, torch.tensor([0.25, 0.25, 1, 0.25, 1, 0]), atol=found.error)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("save", ["auto", "uint8"])
@pytest.mark.parametrize("direction", ["both", "up"])
def test_levels_agree_at_every_short_length(
    dtype: torch.dtype, save: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level within rounding of the lowest, whole vectors and the rest of one alike."""
    monkeypatch.setattr(plans, "TABLE_FROM", 0)  # the kernels, not the formula of small tensors
    generator = torch.Generator().manual_seed(7)
    x = (torch.randn(83, generator=generator) * 3).to(dtype)
    x[::9] = torch.tensor([0, -0.0, math.nan, math.inf, -math.inf, 1e-30, -1e-30, 3, -3, 1]).to(
        dtype
    )
    upstream = torch.randn(83, generator=generator).to(dtype)
    upstream[3::17] = math.nan
    for name in ("exp_tail", "hardswish", "knots_linear", "b_silu", "log_tailed", "leaky"):
        results = []
        for level in levels():
            torch.ops.pdsearch.limit(level)
            chosen = make(with_direction(name, direction), dtype, save=save)
            results.append(chosen.scale(upstream, kept(chosen, x)))
            for count in range(41):
                part = kept(chosen, x[:count])
                short = chosen.scale(upstream[:count], part)
                assert torch.equal(short.nan_to_num(7), results[-1][:count].nan_to_num(7))
        for result in results[1:]:
            error = 2e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
            assert torch.allclose(result, results[0], atol=error, rtol=error, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_codes_are_the_same_at_every_level(dtype: torch.dtype) -> None:
    """A forward pass may run on one machine and the backward pass of its checkpoint on another."""
    x = (torch.randn(40_001, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    for name in ("exp_tail", "gelu", "window"):
        codes = []
        for level in levels():
            torch.ops.pdsearch.limit(level)
            codes.append(make(library()[name].default, dtype, save="uint8").encode(x))
        for other in codes[1:]:
            # Between two steps, the last digit of g decides.
            assert (other.int() - codes[0].int()).abs().max() <= 1
            assert (other != codes[0]).float().mean() < 1e-3


def test_a_level_that_does_not_exist() -> None:
    with pytest.raises(RuntimeError, match="must be portable, neon, avx2 or avx512, got sse"):
        torch.ops.pdsearch.limit("sse")


def test_chords_are_used_wherever_they_are_faster() -> None:
    """With AVX-512 too, for log_tailed: the search among 32 ends takes longer than look-ups."""
    lines = chords(library()["log_tailed"].default)
    assert lines is not None
    for level in levels():
        torch.ops.pdsearch.limit(level)
        assert make(library()["log_tailed"].default).error == lines.error


def test_error_of_chords_is_stated() -> None:
    candidate = library()["gelu"].default
    found = segments(candidate)
    assert found is not None
    stated = {}
    for level in levels():
        torch.ops.pdsearch.limit(level)
        stated[level] = make(candidate).error
    for level, error in stated.items():
        assert (error == found.proof.error) == (level == "avx512")
