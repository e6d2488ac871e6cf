"""The fused kernels and their tables: every family, against the formula and mpmath."""

import logging
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import at_random, values
from relu_oracle import gradient_of

from pdsearch import Candidate, InputError, codegen, library, pd_relu
from pdsearch.codegen import evaluate
from pdsearch.errors import UnsupportedError
from pdsearch.family import load_target
from pdsearch.kernels import Plan, available, build, certify, layout, pieces, plan, plans, rounded
from pdsearch.kernels.table import every_value

FAMILIES = sorted(library())
needs_kernels = pytest.mark.usefixtures("fused")
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, math.inf, -math.inf]


def make(candidate: Candidate, dtype: torch.dtype = torch.float32, *, save: str = "auto") -> Plan:
    return plan(candidate, dtype=dtype, device=torch.device("cpu"), save=save, exact=False)


def inputs(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Dense and at random, near zero and far out, neighbours of breakpoints among them."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.linspace(-40, 40, 20_001)
    normal = torch.randn(20_000, generator=generator) * 3
    far = torch.logspace(-38, 38, 4_001)
    marks = torch.tensor([b for b in (-4.0, -3, -2, -1, -0.5, 0, 0.5, 1, 3)])
    around = torch.cat([torch.nextafter(marks, marks + s) for s in (-1, 0, 1)])
    return torch.cat([dense, normal, far, -far, around, torch.tensor(SPECIAL)]).to(dtype)


@pytest.fixture
def fused() -> None:
    """Fails where the kernels are missing: a test of them that is skipped tests nothing."""
    assert available() is None, "these tests need a C++ compiler"


@needs_kernels
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_table_keeps_its_stated_error_and_every_sign(name: str, build_kind: str) -> None:
    family = library()[name]
    for candidate in [family.default] + ([at_random(family, 0.37)] if family.parameters else []):
        chosen = make(candidate)
        if chosen.route == "formula":
            assert chosen.why and candidate != family.default  # every default has a table
            continue
        given = inputs()
        kept = torch.relu(given) if chosen.keeps == "output" else given
        got = chosen.scale(torch.ones_like(given), kept).double()
        wanted = evaluate(candidate, given.double())
        # The formula sees infinities at float64's largest number, the table at float32's.
        wanted = torch.where(torch.isinf(given), evaluate(candidate, given).double(), wanted)
        assert chosen.error <= certify.LIMIT
        worst = (got - wanted).abs().max().item()
        assert worst <= chosen.error + 1e-7, (candidate, given[(got - wanted).abs().argmax()])
        large = wanted.abs() > 1e-6
        assert torch.equal(torch.sign(got)[large], torch.sign(wanted)[large])


@needs_kernels
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_table_against_mpmath(name: str) -> None:
    candidate = library()[name].default
    points = torch.cat([torch.linspace(-9, 6, 31), torch.tensor([0.0, -200.0, 1e3])])
    chosen = make(candidate)
    kept = torch.relu(points) if chosen.keeps == "output" else points
    got = chosen.scale(torch.ones_like(points), kept).tolist()
    for one, want in zip(got, values(candidate, points.tolist()), strict=True):
        assert abs(one - want) <= 1e-5


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_tables_are_correctly_rounded(dtype: torch.dtype, build_kind: str) -> None:
    """All 65 536 inputs: the result is one of the two neighbours of g, and the nearer one."""
    every = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
    given = every[~torch.isnan(every)]
    for name in ("b_silu", "exp_tail", "nelu", "softsign", "gelu"):
        candidate = library()[name].default
        got = make(candidate, dtype).scale(torch.ones_like(given), given)
        exact = evaluate(candidate, given.double())
        exact = torch.where(torch.isinf(given), evaluate(candidate, given).double(), exact)
        error = (got.double() - exact).abs()
        for way in (math.inf, -math.inf):
            other = torch.nextafter(got, torch.full_like(got, way)).double()
            assert bool((error <= (other - exact).abs() + 1e-18).all()), name


def every_input(dtype: torch.dtype) -> torch.Tensor:
    every = torch.arange(65_536, dtype=torch.int32).to(torch.uint16).view(dtype)
    return every[~torch.isnan(every)]


Scale = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def scales(candidate: Candidate) -> list[Scale]:
    """The bfloat16 kernel of the plan, and with AVX-512 the polynomials, which not all choose."""
    found: list[Scale] = [make(candidate, torch.bfloat16).scale]
    bent = rounded.rounded(candidate) if torch.ops.pdsearch.level() == "avx512" else None
    if bent is not None:
        tables = bent.values, every_value(candidate, torch.bfloat16)
        found.append(lambda g, x: torch.ops.pdsearch.scale_rounded(g, x, *tables))
    return found


@needs_kernels
@pytest.mark.parametrize("name", FAMILIES)
def test_every_bfloat16_input_is_correctly_rounded(name: str) -> None:
    """The polynomials and the look-ups beside them, by torch's own rounding of the formula.

    With a gradient of one the result is g's rounding; with others it is within a unit in the last
    place of the exact product, of which rounding g first alone may take one.
    """
    family = library()[name]
    given = every_input(torch.bfloat16)
    generator = torch.Generator().manual_seed(5)
    upstream = torch.randn(len(given), generator=generator).bfloat16()
    largest = torch.finfo(torch.bfloat16).max
    for candidate in [family.default] + ([at_random(family, 0.61)] if family.parameters else []):
        chosen = make(candidate, torch.bfloat16)
        if chosen.keeps == "output":
            continue
        exact = evaluate(candidate, given.double().clamp(-largest, largest))
        # float64 to bfloat16 through float32 would round twice: to the odd neighbour first.
        wanted = codegen.rounded(exact, torch.bfloat16)
        product = upstream.double() * exact
        # Below 1e-38 the units no longer shrink.
        unit = torch.finfo(torch.bfloat16).eps * product.abs() + 4e-40
        for scale in scales(candidate):
            assert torch.equal(scale(torch.ones_like(given), given), wanted), candidate
            got = scale(upstream, given).double()
            assert bool(((got - product).abs() <= unit).all()), candidate
        if candidate == family.default and torch.ops.pdsearch.level() == "avx512":
            # Else its backward pass would take three times ReLU's own, right as it would be.
            found = rounded.rounded(candidate)
            assert found is not None and found.share <= rounded.MOST


@needs_kernels
@pytest.mark.parametrize("name", ["nelu", "rational_tail", "window", "leaky"])
def test_bfloat16_of_every_short_length(name: str, build_kind: str) -> None:
    """Lanes beyond the end are zero, and for nelu zero is looked up: nothing is written there."""
    given = torch.linspace(-9, 3, 70).bfloat16()
    given[::7] = 1e-20
    for scale in scales(library()[name].default):
        whole = scale(torch.ones_like(given), given)
        for count in range(1, 70):
            part = scale(torch.ones(count, dtype=torch.bfloat16), given[:count])
            assert torch.equal(part, whole[:count])


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_two_valued_shapes(dtype: torch.dtype, build_kind: str) -> None:
    _, candidate = load_target("Piecewise((0.75, x > 0), (-0.3, True))")
    given = torch.cat([inputs(dtype), torch.tensor([0.0, -0.0], dtype=dtype)])
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(len(given), generator=generator).to(dtype)
    below, above = (torch.tensor(v, dtype=torch.float64).to(dtype) for v in (-0.3, 0.75))
    wanted = upstream * torch.where(given > 0, above, below)
    for save in ("auto", "input", "uint8"):
        chosen = make(candidate, dtype, save=save)
        assert chosen.route == "sides" and chosen.error == 0.0
        kept = torch.relu(given) if chosen.keeps == "output" else given
        assert torch.equal(chosen.scale(upstream, kept), wanted)


@needs_kernels
def test_rounding_once_not_twice() -> None:
    """1 + 2⁻⁸ + 2⁻⁴⁰ lies just above a tie of bfloat16; rounding through float32 falls on it."""
    near = [1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 2.0**-8 - 2.0**-40]
    odd = codegen.rounded(torch.tensor(near, dtype=torch.float64), torch.bfloat16)
    assert odd.tolist() == [1 + 2.0**-7, 1.0, 1.0]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_uint8_keeps_its_bound_and_every_sign(name: str, dtype: torch.dtype) -> None:
    candidate = library()[name].default
    chosen = make(candidate, dtype, save="uint8")
    given = inputs(dtype)
    if chosen.keeps == "output":
        assert pieces.sides(candidate) is not None
        return
    kept = chosen.encode(given)
    assert kept.dtype == torch.uint8 and kept.shape == given.shape
    got = chosen.scale(torch.ones_like(given), kept).double()
    wanted = evaluate(candidate, given.double())
    wanted = torch.where(torch.isinf(given), evaluate(candidate, given).double(), wanted)
    rounding = torch.finfo(dtype).eps * got.abs() / 2 + torch.finfo(dtype).tiny
    assert bool(((got - wanted).abs() <= chosen.error + rounding).all())
    assert chosen.error < 0.02
    large = wanted.abs() > 1e-6
    assert torch.equal(torch.sign(got)[large], torch.sign(wanted)[large])


@needs_kernels
def test_nan_stays_nan(build_kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for name in ("exp_tail", "leaky", "relu", "window"):
            for save in ("auto", "input", "uint8"):
                given = torch.tensor([math.nan, 1.0], dtype=dtype, requires_grad=True)
                pd_relu(given, library()[name].default, save=save).sum().backward()
                assert torch.isnan(gradient_of(given)).tolist() == [True, False]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 511, 513, 40_000])
def test_any_length_and_stride(
    dtype: torch.dtype, count: int, build_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "TABLE_FROM", 0)  # the kernel, not the formula of small tensors
    candidate = library()["b_silu"].default
    chosen = make(candidate, dtype)
    generator = torch.Generator().manual_seed(count)
    given = (torch.randn(2, count, generator=generator) * 3).to(dtype)
    upstream = torch.randn(2, count, generator=generator).to(dtype)
    plain = chosen.scale(upstream, given)
    assert torch.equal(chosen.scale(upstream.t(), given.t()), plain.t())
    assert torch.equal(chosen.scale(upstream[:1].expand(2, count), given)[0], plain[0])
    every_other = chosen.scale(upstream[:, ::2], given[:, ::2])
    assert torch.equal(every_other, plain[:, ::2])
    tolerance = {torch.float32: 1e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    wanted = upstream.double() * evaluate(candidate, given.double())
    assert torch.allclose(plain.double(), wanted, atol=tolerance * 4, rtol=tolerance)


@needs_kernels
def test_a_shape_no_table_can_follow_takes_the_formula() -> None:
    _, wild = load_target("sin(1000*x)*exp(-x**2)")
    chosen = make(wild)
    assert chosen.route == "formula" and "no table is provably within 1e-05" in chosen.why
    given = torch.linspace(-2, 2, 101, requires_grad=True)
    pd_relu(given, wild).sum().backward()
    assert torch.equal(gradient_of(given), wild(given.detach()))


@needs_kernels
@pytest.mark.parametrize(
    "text",
    [
        "Piecewise((1, x >= 0), (1/4, True))",
        "Piecewise((1, x > 0), (1/2, Eq(x, 0)), (0, True))".replace("Eq(x, 0)", "x == 0"),
        "Heaviside(x)",
        "Piecewise((1, x > 1/3), (x**2, x > -1/7), (0, True))",
        "sign(x)*0.5 + 0.5",
        "Piecewise((1, x > 0), (1e-30*exp(x), True))",
        "max(0, 1 - abs(x - 0.1)*3)",
    ],
)
def test_jumps_land_on_the_right_float(text: str) -> None:
    _, candidate = load_target(text)
    for save in ("auto", "uint8"):
        chosen = make(candidate, save=save)
        marks = torch.tensor([0.0, 1 / 3, -1 / 7, 0.1, -0.23333333, 0.43333334])
        around = torch.cat([torch.nextafter(marks, marks + s) for s in (-1, 0, 1)])
        given = torch.cat([around, inputs()])
        kept = {"input": given, "output": torch.relu(given)}.get(chosen.keeps)
        kept = chosen.encode(given) if kept is None else kept
        got = chosen.scale(torch.ones_like(given), kept).double()
        wanted = evaluate(candidate, given).double()
        assert (got - wanted).abs().max().item() <= chosen.error + 1e-7


def test_what_is_kept() -> None:
    assert make(library()["leaky"].default).keeps == "output"
    assert make(library()["leaky"].default, save="input").keeps == "input"
    assert make(library()["exp_tail"].default).keeps == "input"
    _, at_zero = load_target("Piecewise((1, x >= 0), (1/4, True))")
    assert make(at_zero).keeps == "input"  # at 0 the output does not tell which side it was
    with pytest.raises(InputError, match="save must be one of auto, input, uint8, got 'bits'"):
        make(library()["relu"].default, save="bits")


def test_uint8_needs_a_dtype_with_a_kernel_and_not_exact() -> None:
    candidate = library()["exp_tail"].default
    where: dict[str, Any] = {"device": torch.device("cpu"), "save": "uint8"}
    with pytest.raises(InputError, match="not with exact=True"):
        plan(candidate, dtype=torch.float32, exact=True, **where)
    with pytest.raises(UnsupportedError, match=r"no fused kernel for torch.float64"):
        plan(candidate, dtype=torch.float64, exact=False, **where)


def test_exact_takes_the_formula() -> None:
    candidate = library()["b_silu"].default
    given = torch.linspace(-6, 6, 1_001, requires_grad=True)
    pd_relu(given, candidate, exact=True).sum().backward()
    assert torch.equal(gradient_of(given), candidate(given.detach()))


def test_float32_in_order() -> None:
    numbers = np.array([-np.inf, -3e38, -1.5, -1e-45, 0.0, 1e-45, 2.0, np.inf], dtype=np.float32)
    ordinals = layout.ordinal(numbers)
    assert (np.diff(ordinals) > 0).all()
    assert np.array_equal(layout.from_ordinal(ordinals), numbers)
    assert layout.ordinal(np.array([-0.0], dtype=np.float32)) == 0
    assert layout.from_ordinal(np.array([layout.floor_ordinal(0.1)]))[0] <= 0.1


# ------------------------------------------------------------------------------------- building

SCRIPT = """
import logging, sys, torch
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from pdsearch import library, pd_relu
for _ in range(2):
    leaf = torch.linspace(-3, 3, 64, requires_grad=True)
    pd_relu(leaf, library()["exp_tail"].default).sum().backward()
want = library()["exp_tail"].default(leaf.detach())
assert (leaf.grad - want).abs().max() < 1e-5
"""


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_without_a_compiler_it_runs_unfused_and_says_so_once(tmp_path: Path) -> None:
    done = run(PDSEARCH_CACHE=str(tmp_path), PATH=str(tmp_path), CXX="")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no C++ compiler was found") == 1
    assert "run unfused" in done.stderr


def test_a_compiler_that_fails_is_said_once(tmp_path: Path) -> None:
    done = run(PDSEARCH_CACHE=str(tmp_path), CXX="false")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("false failed") == 1
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(PDSEARCH_CACHE=str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be made or loaded") == 1


@pytest.mark.slow
def test_switched_off_it_is_quiet(tmp_path: Path) -> None:
    done = run(PDSEARCH_FUSED="0", PDSEARCH_CACHE=str(tmp_path))
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.slow  # two compilations
def test_two_processes_build_at_once(tmp_path: Path) -> None:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: run(PDSEARCH_CACHE=str(tmp_path)), range(2)))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert sum(d.stderr.count("compiling") for d in done) == 1


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("no C++ compiler was found", "apt-get install g\\+\\+"),
        ("switched off by PDSEARCH_FUSED=0", "unset PDSEARCH_FUSED"),
        ("/x cannot be made or loaded: denied", "PDSEARCH_CACHE"),
    ],
)
def test_every_reason_has_a_remedy(reason: str, advice: str) -> None:
    import re

    assert re.search(advice, build.remedy(reason))


def test_importing_the_kernels_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pdsearch"):
        available()
    assert caplog.text == ""
