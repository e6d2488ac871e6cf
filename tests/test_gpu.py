"""The Triton kernels, run by Triton's interpreter and compiled for GPUs that are not there.

The interpreter multiplies and adds with two roundings where a GPU fuses them; the tables' proofs
hold for both. It cuts bfloat16 off where a GPU rounds.
"""

import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import at_random, values
from scripts import load_script

from pdsearch import Candidate, fade, library, load_family, pd_relu
from pdsearch.errors import UnsupportedError
from pdsearch.family import load_target
from pdsearch.kernels import Plan, gpu, plan
from pdsearch.kernels.fit import FINE_LIMIT
from pdsearch.kernels.table import codes, segments

pytest.importorskip("triton", reason="torch's builds for the CPU alone come without Triton")

code = load_script(Path(__file__).parents[1] / "benchmarks" / "gpu_code.py")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, math.inf, -math.inf]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter runs the kernels, on tensors of the CPU.

    TRITON_INTERPRET=1 does the same, but only if it is set before Triton is first imported, and for
    every kernel of the process: other tests of the session compile theirs. The kernels call
    built-in functions of the language alone; its library (tl.zeros, tl.sum) would stay compiled.
    """
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    from pdsearch.kernels import triton_kernels

    for name, function in vars(triton_kernels).copy().items():
        if isinstance(function, JITFunction):
            monkeypatch.setattr(triton_kernels, name, InterpretedFunction(function.fn))
    monkeypatch.setattr(gpu, "load", lambda device: None)


def make(candidate: Candidate, dtype: torch.dtype = torch.float32, **options: Any) -> Plan:
    options = {"save": "input", "exact": False, **options}
    return plan(candidate, dtype=dtype, device=torch.device("cuda", 0), **options)


def exact(candidate: Candidate, x: torch.Tensor, t: float = 0.0) -> torch.Tensor:
    """Return g in float64; at and beyond the dtype's largest number, g there."""
    largest = torch.finfo(x.dtype).max
    return candidate(x.double().clamp(-largest, largest), t).clamp(-largest, largest)


def unit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / (1 if dtype == torch.bfloat16 else 2)


def check(candidate: Candidate, x: torch.Tensor, upstream: torch.Tensor, t: float = 0.0) -> None:
    made = make(candidate, x.dtype)
    assert made.route in ("table", "sides") and made.error <= FINE_LIMIT
    got = made.scale(upstream, x, t)
    assert got.dtype == x.dtype and got.shape == x.shape
    g = exact(candidate, x, t)
    wanted = upstream.double() * g
    if candidate.direction == "up":
        wanted = torch.where((x > 0) | (upstream < 0), wanted, 0.0)
    # The bound on g, then float32's own rounding and the result's.
    room = upstream.double().abs() * (made.error + 2e-7 * g.abs())
    room += (wanted.abs() + room) * unit(x.dtype) + torch.finfo(x.dtype).tiny
    off = (got.double() - wanted).abs()
    assert bool((off <= room).all()), (candidate, x[(off - room).argmax()], off.max())
    loud = (g.abs() > 1e-6) & (wanted.abs() > torch.finfo(x.dtype).tiny)
    assert torch.equal(got.double().sign()[loud], wanted.sign()[loud])


def inputs(count: int = 1_500) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pre-activations near zero, far out, and at breakpoints, and gradients of any sign."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, generator=generator) * 3
    marks = torch.tensor([-4.0, -3, -2, -1, -0.5, 0, 0.5, 1, 3])
    around = torch.cat([torch.nextafter(marks, marks + s) for s in (-1, 0, 1)])
    far = torch.logspace(-38, 38, 100)
    x = torch.cat([x, around, far, -far, torch.tensor(SPECIAL)])
    return x, torch.randn(len(x), generator=generator)


# The kernel is one; what differs is the tables, whose proofs take the time.
USUAL = {"b_silu", "exp_tail", "hardswish", "helu", "leaky", "log_tailed", "relu", "window"}


@pytest.mark.parametrize(
    "name",
    [n if n in USUAL else pytest.param(n, marks=pytest.mark.slow) for n in sorted(library())],
)
def test_every_family(name: str, on_cpu: None) -> None:
    """Float32 as it is; the 16-bit dtypes, which differ in the loads, in direction "up" as well."""
    x, upstream = inputs()
    default = library()[name].default
    check(default, x, upstream)
    risen = library()[name].bind(direction="up")
    for dtype in (torch.bfloat16, torch.float16):
        check(risen, x.to(dtype), upstream.to(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.13, 0.37, 0.71])
@pytest.mark.parametrize("name", sorted(library()))
def test_candidates_at_random(name: str, fraction: float, on_cpu: None) -> None:
    family = library()[name]
    if family.parameters:
        candidate = at_random(family, fraction)
        if make(candidate).route == "float32":
            assert "no table" in make(candidate).why
            return
        for dtype in DTYPES:
            x, upstream = inputs()
            check(candidate, x.to(dtype), upstream.to(dtype))


@pytest.mark.parametrize("name", ["exp_tail", "log_tailed"])
def test_against_mpmath(name: str, on_cpu: None) -> None:
    candidate = library()[name].default
    points = torch.cat([torch.linspace(-9, 6, 31), torch.tensor([0.0, -200.0, 1e3, 1e6])])
    got = make(candidate).scale(torch.ones_like(points), points).tolist()
    for one, want in zip(got, values(candidate, points.tolist()), strict=True):
        assert abs(one - want) <= FINE_LIMIT * max(1.0, abs(want))


@pytest.mark.parametrize(
    "text",
    [
        "Piecewise((1, x >= 0), (1/4, True))",
        "Piecewise((1, x > 0), (1/2, x == 0), (0, True))",
        "Piecewise((1, x > 1/3), (x**2, x > -1/7), (0, True))",
        "Piecewise((1, x > 0), (1e-30*exp(x), True))",
        "max(0, 1 - abs(x - 0.1)*3)",
        "Piecewise((0.75, x > 0), (-0.3, True))",
        "1/(1 + exp(-100*x))",
    ],
)
def test_jumps_land_on_the_right_float(text: str, on_cpu: None) -> None:
    marks = torch.tensor([0.0, 1 / 3, -1 / 7, 0.1, -0.23333333, 0.43333334])
    around = torch.cat([torch.nextafter(marks, marks + s) for s in (-1, 0, 1)])
    x = torch.cat([around, torch.tensor(SPECIAL)])
    _, candidate = load_target(text)
    got = make(candidate).scale(torch.ones_like(x), x).double()
    wanted = exact(candidate, x.double())
    assert (got - wanted).abs().max().item() <= FINE_LIMIT


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("direction", ["both", "up"])
def test_nan_stays_nan(dtype: torch.dtype, direction: str, on_cpu: None) -> None:
    x = torch.tensor([math.nan, -1.0, -1.0, 2.0, math.nan], dtype=dtype)
    upstream = torch.tensor([1.0, math.nan, 1.0, 1.0, -1.0], dtype=dtype)
    for name in ("exp_tail", "leaky", "window"):
        for save in ("auto", "uint8"):
            made = make(library()[name].bind(direction=direction), dtype, save=save)
            kept = {"input": x, "output": torch.relu(x)}.get(made.keeps)
            got = made.scale(upstream, made.encode(x) if kept is None else kept)
            assert got.isnan().tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("t", [0.0, 0.2])
@pytest.mark.parametrize("shape", ["linear", "switch"])
def test_a_fade_weighs_it_against_the_step(shape: str, t: float, on_cpu: None) -> None:
    x, upstream = inputs(300)
    for direction in ("both", "up"):
        for name in ("exp_tail", "leaky"):
            check(fade(load_family(name), shape, end=0.5).bind(direction=direction), x, upstream, t)


def laid_out() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    base = torch.randn(2, 3, 6, 8)
    last = base.to(memory_format=torch.channels_last)
    slanted = torch.randn(8, 6, 3, 2).permute(3, 2, 1, 0)
    five = torch.randn(2, 3, 4, 5, 6)
    for x in (base, last, slanted, base[:, :, ::2], base[..., 1:5], five[:, :, :, ::2, ::3]):
        yield x, torch.randn(x.shape)
        yield x, torch.randn(1).expand(x.shape)
    yield last, torch.randn_like(last)
    six = torch.randn(2, 3, 2, 5, 2, 4)[:, ::2, :, ::2, :, ::2]
    yield six, torch.randn(six.shape).permute(5, 4, 3, 2, 1, 0).reshape(six.shape)
    yield torch.randn(1, 4, 1), torch.randn(4).as_strided((1, 4, 1), (9, 1, 7))
    yield torch.randn(()), torch.randn(())
    yield torch.randn(1).expand(3, 4), torch.randn(3, 4)
    yield torch.randn(5, 4), torch._neg_view(torch.randn(5, 4))


@pytest.mark.parametrize("largest", [gpu.LARGEST, 40])
def test_every_layout(largest: int, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor too large for 32-bit indices is launched in parts; here 40 elements are too many."""
    monkeypatch.setattr(gpu, "LARGEST", largest)
    candidate = load_family("exp_tail").default
    scale = make(candidate).scale
    cases = list(laid_out())
    if largest == 40:
        cases = cases[6:7] + cases[-5:]
    for x, upstream in cases:
        got = scale(upstream, x)
        torch.testing.assert_close(got.double(), upstream * exact(candidate, x), atol=1e-5, rtol=0)
        assert got.stride() == torch.empty_like(x).stride()
    empty = torch.empty(0, 3)
    assert scale(empty, empty).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "dtype"), [*zip(["exp_tail", "b_silu", "hardswish"], DTYPES, strict=True)]
)
def test_uint8(name: str, dtype: torch.dtype, on_cpu: None) -> None:
    x, upstream = inputs(300)
    x, upstream = x.to(dtype), upstream.to(dtype)
    faded = fade(load_family(name), "linear", end=0.5).bind(direction="up")
    for candidate, t in ((load_family(name).default, 0.0), (faded, 0.2)):
        made = make(candidate, dtype, save="uint8")
        assert made.route == "codes" and made.error <= 0.02
        kept = made.encode(x)
        assert kept.dtype == torch.uint8
        got = made.scale(upstream, kept, t).double()
        g = candidate(x.double().clamp(-3.4e38, 3.4e38), t)
        wanted = upstream.double() * g
        if candidate.direction == "up":
            wanted = torch.where((x > 0) | (upstream < 0), wanted, 0.0)
        room = upstream.double().abs() * made.error
        room += (wanted.abs() + room) * 2 * unit(dtype) + torch.finfo(dtype).tiny
        assert bool(((got - wanted).abs() <= room).all())
        rows = x[:40].view(8, 5).t()
        assert torch.equal(made.encode(rows), kept[:40].view(8, 5).t())


# ------------------------------------------------------------------------------------- routes


def test_routes(on_cpu: None) -> None:
    tail = load_family("exp_tail").default
    for dtype in DTYPES:
        assert make(tail, dtype).route == "table"
        assert make(load_family("leaky").default, dtype).route == "sides"
        assert make(tail, dtype, save="uint8").route == "codes"
    assert make(load_family("leaky").default, save="auto").keeps == "output"
    assert make(tail, exact=True).route == make(tail, torch.float64).route == "formula"
    _, wild = load_target("1 + x**2")
    assert make(wild).route != "table" and "no table is provably within 2e-06" in make(wild).why
    with pytest.raises(UnsupportedError, match="no table is provably within 2e-06"):
        make(wild, save="uint8")


def test_where_the_kernel_cannot_run_operators_do_and_say_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = torch.device("cpu")  # which Triton cannot run on
    gpu.load.cache_clear()
    with caplog.at_level(logging.WARNING, logger="pdsearch"):
        reason, again = gpu.load(here), gpu.load(here)
    assert reason is not None and reason.startswith("Triton cannot run a kernel on cpu: ")
    assert again == reason and len(caplog.records) == 1
    assert "compiler" in gpu.remedy(reason)
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    gpu.load.cache_clear()
    missing = gpu.load(here)
    assert (
        missing is not None and "not installed" in missing and "comes with" in gpu.remedy(missing)
    )
    monkeypatch.setenv("PDSEARCH_FUSED", "0")
    gpu.load.cache_clear()
    assert gpu.load(here) == "switched off by PDSEARCH_FUSED=0"
    gpu.load.cache_clear()
    monkeypatch.setattr(gpu, "load", lambda device: "a reason")
    made = make(load_family("exp_tail").default)
    assert made.route == "float32" and made.why == "a reason"
    with pytest.raises(UnsupportedError, match="needs the fused kernels: a reason"):
        make(load_family("exp_tail").default, save="uint8")


# ------------------------------------------------------------------------------------- compiled


def scaled(
    dtype: torch.dtype, *, weight: float = 0.5, up: bool = True, name: str = "exp_tail"
) -> None:
    found = segments(load_family(name).default, gpu=True)
    assert found is not None
    x = torch.zeros(4_096, dtype=dtype)
    gpu.by_table(found.values, up=up)(x, x, weight)


def check_made(made: Any, *, streams: int, dtype: torch.dtype) -> None:
    """Each tensor is read or written once, 8 elements or 4 a thread; nothing is flushed."""
    count = code.instructions(made)
    assert code.spilled(made) == 0
    if "ptx" in made.asm:
        loads = 8 * dtype.itemsize // 16  # 16 bytes at a time
        assert count["ld.global.v4.b32"] == streams * loads
        assert count["st.global.v4.b32"] == loads
        assert not [name for name in count if name.startswith("st.") and "v4" not in name]
        assert "ftz" not in made.asm["ptx"] and not [n for n in count if ".approx" in n]
        if dtype != torch.float32:  # to the nearest
            assert any(name.startswith("cvt.rn.") and "f16" in name for name in count)
    else:
        wide = "x4" if dtype == torch.float32 else "x2"  # 4 elements a thread of 64
        assert count[f"buffer_load_dword{wide}"] == streams
        assert count[f"buffer_store_dword{wide}"] == 1
        assert sum(n for name, n in count.items() if "_store_" in name) == 1
        assert ".amdhsa_float_denorm_mode_32 3" in made.asm["amdgcn"]


def test_the_table_kernel_compiles_for_amd() -> None:
    with code.compiling("gfx942") as made:
        scaled(torch.bfloat16)
    (kernel,) = made
    check_made(kernel, streams=2, dtype=torch.bfloat16)
    # Horner's rule, two of a thread's four elements at a time.
    assert code.instructions(kernel)["v_pk_fma_f32"] >= 5 * 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", code.TARGETS)
def test_every_kernel_compiles(target: str, dtype: torch.dtype) -> None:
    found = codes(load_family("exp_tail").default, signed=True, gpu=True)
    x, kept = torch.zeros(4_096, dtype=dtype), torch.zeros(4_096, dtype=torch.uint8)
    with code.compiling(target) as made:
        for name in ("hardswish", "exp_tail", "two_sided_power", "softsign"):
            scaled(dtype, name=name)
        gpu.by_sides(0.1, 1.0, dtype, up=True)(x, x, 1.0)
        gpu.by_codes(found.values, up=True)(x, kept, 0.5)
        gpu.encode(found.table)(x)
        for rows in (x.view(64, 64).t(), x.view(4, 8, 8, 16)[:, :4, ::2, 2:]):
            gpu.by_codes(found.values, up=True)(rows.contiguous(), rows.to(torch.uint8), 0.5)
            gpu.by_table(found.table, up=True)(rows.contiguous(), rows, 0.5)
            gpu.encode(found.table)(rows)
    for kernel in made[:5]:
        check_made(kernel, streams=2, dtype=dtype)
    assert len(made) == 13 and all(code.spilled(kernel) == 0 for kernel in made)


def test_every_weight_direction_and_candidate_is_one_compilation() -> None:
    with code.compiling("sm_90") as made:
        for step in range(100):
            scaled(torch.float32, weight=1.0 - step / 100, up=step % 2 == 0)
        scaled(torch.float32, name="rational_tail")  # a table of the same size
    (kernel,) = {id(kernel): kernel for kernel in made}.values()
    check_made(kernel, streams=2, dtype=torch.float32)
    assert code.instructions(kernel)["fma.rn.f32"] >= 5 * 8  # Horner's rule, a thread's elements


# ------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_family_on_a_gpu(dtype: torch.dtype) -> None:
    assert gpu.load(torch.device("cuda", 0)) is None
    x, upstream = (v.to("cuda", dtype) for v in inputs())
    for family in library().values():
        for candidate in (family.default, family.bind(direction="up")):
            check(candidate, x, upstream)
    for rows, grad in laid_out():
        check(load_family("b_silu").default, rows.to("cuda", dtype), grad.to("cuda", dtype))


@pytest.mark.gpu
def test_one_launch_that_waits_for_nothing_and_can_be_captured() -> None:
    candidate = load_family("exp_tail").default
    x = torch.randn(1 << 16, device="cuda", requires_grad=True)
    upstream = torch.randn(1 << 16, device="cuda")

    def backward() -> torch.Tensor:
        return torch.autograd.grad(pd_relu(x, candidate), x, upstream)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        wanted = backward()
    torch.cuda.current_stream().wait_stream(side)
    try:
        torch.cuda.set_sync_debug_mode("error")
        again = backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, wanted)
    output = pd_relu(x, candidate)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(output, x, upstream)
        torch.cuda.synchronize()
    kernels = [e.name for e in profile.events() if e.device_type.name == "CUDA"]
    assert kernels == ["scale_table"]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = backward()
    upstream.neg_()
    graph.replay()
    assert torch.equal(captured, -wanted)
