"""The Triton kernel of exported files: interpreted on the CPU, and compiled for GPUs.

The interpreter has no libdevice; NumPy's and SciPy's functions stand in for it, so the formula is
tested here, and not libdevice's last digits.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from scripts import load_script

from pdsearch import Candidate, fade, library, load_family
from pdsearch.export import export
from pdsearch.family import load_target
from pdsearch.triton_source import triton_text

pytest.importorskip("triton", reason="torch's builds for the CPU alone come without Triton")

code = load_script(Path(__file__).parents[1] / "benchmarks" / "gpu_code.py")
USUAL = ("atan", "circle", "exp_tail", "gelu", "leaky", "mish")
NAMES = [n if n in USUAL else pytest.param(n, marks=pytest.mark.slow) for n in sorted(library())]
FUNCTIONS = {
    **{name: getattr(np, name) for name in ("cos", "cosh", "exp", "expm1", "log", "log1p", "sin")},
    **{name: getattr(np, name) for name in ("sinh", "tanh")},
    **{name: getattr(special, name) for name in ("erf", "erfc", "erfcx")},
    **{"atan": np.arctan, "atan2": np.arctan2, "pow": np.power},
}
LOUD = "Piecewise((1, x > 0), (0.3*Max(0, Min(1, 1 + x/3))*log(1 + x**2)*exp(x/3) + 0.1, True))"


def module_of(candidate: Candidate, folder: Path) -> Any:
    return load_script(export(candidate, folder / "pd_relu_of.py", force=True))


def on_cpu(module: Any) -> Any:
    """Let the interpreter run the module's kernel, on tensors of the CPU."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, TensorHandle
    from triton.runtime.jit import JITFunction

    def stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*arguments: Any) -> Any:
            blocks = [getattr(a, "handle", None) for a in arguments]
            given = [a if b is None else b.data for a, b in zip(arguments, blocks, strict=True)]
            with np.errstate(all="ignore"):
                found = function(*given).astype(np.float32)
            shape = tl.block_type(tl.float32, list(found.shape))
            return tl.tensor(TensorHandle(found, tl.float32), shape)

        return computed

    for name, function in vars(module).copy().items():
        if isinstance(function, JITFunction):
            setattr(module, name, InterpretedFunction(function.fn))
    module.libdevice = SimpleNamespace(**{n: stand_in(f) for n, f in FUNCTIONS.items()})
    module._GPU = "cpu"
    return module


def check(candidate: Candidate, folder: Path, t: float = 0.0) -> None:
    module = on_cpu(module_of(candidate, folder))
    generator = torch.Generator().manual_seed(1)
    far = torch.logspace(-38, 38, 60)
    special_ones = torch.tensor([0.0, -0.0, 1e-45, -1e-45, torch.inf, -torch.inf, torch.nan])
    x = torch.cat([torch.randn(1_100, generator=generator) * 3, far, -far, special_ones])
    upstream = torch.randn(len(x), generator=generator)
    options = {"t": t} if candidate.annealed else {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        largest = torch.finfo(dtype).max
        leaf, given = x.to(dtype).requires_grad_(), upstream.to(dtype)
        with np.errstate(all="ignore"):  # NumPy warns of an overflow, a GPU does not
            launched = module._on_gpu(given, leaf.detach(), t)
            (got,) = torch.autograd.grad(module.pd_relu(leaf, **options), leaf, given)
        assert launched is not None and got.dtype == dtype
        torch.testing.assert_close(got, launched, rtol=0, atol=0, equal_nan=True)
        g = candidate(leaf.detach().double().clamp(-largest, largest), t).clamp(-largest, largest)
        wanted = given.double() * g
        if candidate.direction == "up":
            wanted = torch.where((leaf > 0) | (given < 0), wanted, 0.0)
        number = ~torch.isnan(leaf.detach())
        assert torch.equal(torch.isnan(got), ~number)
        room = given.double().abs() * 2e-6 * g.abs().clamp(min=1.0)
        unit = torch.finfo(dtype).eps  # the interpreter cuts bfloat16 off
        room += (wanted.abs() + room) * unit + torch.finfo(dtype).tiny
        off = (got.double() - wanted).abs()[number]
        assert bool((off <= room[number]).all()), (
            leaf[number][(off - room[number]).argmax()],
            dtype,
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str, tmp_path: Path) -> None:
    check(load_family(name).default, tmp_path)


@pytest.mark.parametrize(("shape", "t"), [("cosine", 0.1), ("switch", 0.3)])
def test_fade_and_direction(shape: str, t: float, tmp_path: Path) -> None:
    check(fade(load_family("exp_tail"), shape, end=0.5).bind(direction="up"), tmp_path, t)


def test_formulas_of_many_operators(tmp_path: Path) -> None:
    for text in (
        LOUD,
        "Piecewise((1, x > 1/3), ((1 - x)**(-5/2)/4, x < -1/7), (abs(x)*sin(x)/4, True))",
        "(1 + tanh(x)*erf(x/2))/2 + cosh(x)**(-3)/9",
        "1/2 + atan(2*x)/pi + Heaviside(x - 1)*x/(1 + x**4)",
    ):
        check(load_target(text)[1], tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x.mul_(2.0).add_(torch.square(x))", "x * 2.0 + _square(x)"),
        ("torch.where((x > 0.0) & ~_v1, x, 0.0)", "tl.where((x > 0.0) & ~_v1, x, 0.0)"),
        ("torch.ones_like(x, dtype=torch.bool)", "tl.full(x.shape, 1.0, tl.int1)"),
        ("torch.clamp(x, 0.0, 1.0)", "tl.minimum(tl.maximum(x, 0.0), 1.0)"),
        ("torch.clamp(x, max=0.0)", "tl.minimum(x, 0.0)"),
        ("_s(1.0 / 3.0, x)", "tl.full(x.shape, 1.0 / 3.0, tl.float32)"),
        ("x ** 7", "_square(_square(x) * x) * x"),
        ("torch.pow(x, 1.5)", "libdevice.pow(x, 1.5)"),
        ("torch.special.erfcx(-x)", "libdevice.erfcx(-x)"),
        ("(1.0 - x).lerp_(x.neg_(), _v1)", "tl.where(_v1 > 0.0, -x, 1.0 - x)"),
    ],
)
def test_the_dialect(text: str, wanted: str) -> None:
    made = triton_text(f"def g(x):\n    return {text}\n", name="other")
    assert made.endswith(f"@triton.jit\ndef other(x):\n    return {wanted}")
    assert ("def _square(v)" in made) == ("_square(" in wanted)


def test_an_unknown_operator_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.digamma has no translation to Triton"):
        triton_text("def g(x):\n    return torch.digamma(x)\n", name="g")


def compiled(module: ModuleType, target: str, dtype: torch.dtype) -> Any:
    made: list[Any] = []
    x = torch.zeros(4_096, dtype=dtype)
    with code.compiling(target):
        launch = code.Compiling(module._kernel, made)[(4,)]
        launch(x, x, x, 4_096, 1.0, 0.0, BLOCK=1024)
    return made[0]


def test_it_compiles(tmp_path: Path) -> None:
    made = compiled(module_of(load_family("gelu").default, tmp_path), "sm_90", torch.bfloat16)
    count = code.instructions(made)
    assert count["ld.global.v4.b32"] == 2 and count["st.global.v4.b32"] == 1
    assert sum(n for name, n in count.items() if name.startswith(("ld.global", "st.global"))) == 3
    assert code.spilled(made) == 0


@pytest.mark.slow
@pytest.mark.parametrize("target", code.TARGETS)
@pytest.mark.parametrize("name", sorted(library()))
def test_every_family_compiles(name: str, target: str, tmp_path: Path) -> None:
    module = module_of(load_family(name).default, tmp_path)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert code.spilled(compiled(module, target, dtype)) == 0


def test_where_it_cannot_run_torchs_operators_do(tmp_path: Path) -> None:
    module = module_of(load_family("exp_tail").default, tmp_path)
    x, upstream = torch.randn(6, 4), torch.randn(6, 4)
    assert module._on_gpu(upstream, x, 0.0) is None  # a tensor of the CPU
    module._GPU = "cpu"
    assert module._on_gpu(upstream.t().contiguous().t(), x, 0.0) is None
    assert module._on_gpu(upstream.double(), x.double(), 0.0) is None
    assert module._on_gpu(torch._neg_view(upstream), x, 0.0) is None
    assert module._on_gpu(upstream[:0], x[:0], 0.0) is None
    leaf = x.requires_grad_()
    with pytest.warns(UserWarning, match=r"exp_tail.*: Triton cannot run here, torch's operators"):
        (got,) = torch.autograd.grad(module.pd_relu(leaf), leaf, upstream)
    torch.testing.assert_close(got, upstream * module.g(x.detach()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.autograd.grad(module.pd_relu(leaf), leaf, upstream)
