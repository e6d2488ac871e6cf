"""Exported folders: the op's own bits with torch alone, and an error where they cannot be had."""

import functools
import importlib
import math
import os
import runpy
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import mpmath
import numpy as np
import pytest
import torch
from optuna.distributions import FloatDistribution

from pdsearch.autograd import pd_relu
from pdsearch.cli import main
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.expression import parse
from pdsearch.family import Candidate, Family, fade, library, load_target
from pdsearch.kernels import available, build
from pdsearch.native import export_native

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EXP_TAIL = library()["exp_tail"]
CANDIDATES = {
    "exp_tail": EXP_TAIL.default,
    "up": EXP_TAIL.bind(alpha=0.3, direction="up"),
    "b_silu": library()["b_silu"].default,
    "leaky": library()["leaky"].default,
    "knots_linear": library()["knots_linear"].default,
    "log_tailed": library()["log_tailed"].default,
    "switch": fade(EXP_TAIL, "switch").bind(alpha=0.3, beta=1.0, end=0.5, direction="up"),
    "cosine": fade(EXP_TAIL, "cosine").bind(alpha=0.3, beta=1.0, end=0.5),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all exported folders, made with all that this processor has."""
    assert available() is None, "these tests need a C++ compiler"
    place = tmp_path_factory.mktemp("exported")
    for name, candidate in CANDIDATES.items():
        export_native(candidate, place / f"pd_{name}")
    return place


@pytest.fixture
def load(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Imports an exported folder without its library: the same source is compiled already.

    The slow test compiles it.
    """
    before = set(sys.modules)

    def imported(name: str, place: Path = exported) -> ModuleType:
        stub = types.ModuleType(f"{name}.library")
        stub.operators = lambda: torch.ops.pdsearch  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
        monkeypatch.syspath_prepend(str(place))
        return importlib.import_module(name)

    yield imported
    for name in set(sys.modules) - before:
        if name.startswith("pd_"):
            del sys.modules[name]


def gradient(
    op: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, upstream: torch.Tensor
) -> torch.Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(op(leaf), leaf, upstream)[0]


def inputs(size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    x, upstream = torch.randn(2, size, generator=generator, dtype=torch.float64) * 3
    x[:8] = torch.tensor([0, -0.0, math.nan, math.inf, -math.inf, 1e-30, -1e-30, 6e4]).double()
    return x.to(dtype), upstream.to(dtype)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.nan_to_num(7), right.nan_to_num(7)) and torch.equal(
        left.isnan(), right.isnan()
    )


# ------------------------------------------------------------------------------------ the values


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_op_s_own_bits_at_every_level(
    name: str, build_kind: str, load: Callable[..., ModuleType]
) -> None:
    module, candidate = load(f"pd_{name}"), CANDIDATES[name]
    for dtype in (*DTYPES, torch.float64):
        for size in (40, 5_000):
            x, upstream = inputs(size, dtype)
            for t in (0.0, 0.125, 0.75) if candidate.annealed else (0.0,):
                arguments = {"t": t} if candidate.annealed else {}
                got = gradient(functools.partial(module.pd_relu, **arguments), x, upstream)
                wanted = gradient(functools.partial(pd_relu, candidate=candidate, t=t), x, upstream)
                if dtype == torch.float32 and size == 40 and module.op.BOUND > 0:
                    # The op evaluates the formula for few elements.
                    room = (module.op.BOUND + 4e-6) * upstream.abs().clamp(min=1.0)
                    assert bool(((got - wanted).abs() <= room)[~wanted.isnan()].all())
                    assert torch.equal(got.isnan(), wanted.isnan())
                elif candidate.annealed and dtype == torch.float64 and size == 40:
                    # The formula with its fade, whose terms are summed in another order.
                    torch.testing.assert_close(got, wanted, equal_nan=True)
                else:
                    assert same(got, wanted), (dtype, size, t)
                assert same(module.pd_relu(x, **arguments), torch.relu(x))


def test_the_kernel_agrees_with_numpy_and_mpmath(load: Callable[..., ModuleType]) -> None:
    x = torch.linspace(-30, 30, 60_001)
    wide = x.double().numpy()
    module = load("pd_exp_tail")
    got = gradient(module.pd_relu, x, torch.ones_like(x)).double().numpy()
    parameters = CANDIDATES["exp_tail"].parameters
    tail = parameters["alpha"] * np.exp(parameters["beta"] * np.minimum(wide, 0))
    assert np.abs(got - np.where(wide > 0, 1, tail)).max() <= module.op.BOUND + 2**-24
    assert 0 < module.op.BOUND <= 1e-5
    module = load("pd_b_silu")
    got = gradient(module.pd_relu, x, torch.ones_like(x)).double().numpy()
    with mpmath.workdps(30):
        alpha = mpmath.mpf(CANDIDATES["b_silu"].parameters["alpha"])
        for place in range(0, len(x), 997):
            z = mpmath.mpf(wide[place])
            s = 1 / (1 + mpmath.exp(-z))
            exact = float(s + (z + alpha) * s * (1 - s))
            assert abs(got[place] - exact) <= module.op.BOUND + 2e-7 * abs(exact), z


def test_an_export_without_avx512_looks_bfloat16_up(
    tmp_path: Path, fresh_plans: None, load: Callable[..., ModuleType]
) -> None:
    """There the kernel cannot check the polynomials at all inputs: the bits are those of AVX2."""
    x, upstream = inputs(5_000, torch.bfloat16)
    try:
        torch.ops.pdsearch.limit("avx2")
        folder = export_native(EXP_TAIL.default, tmp_path / "pd_narrow")
        wanted = gradient(functools.partial(pd_relu, candidate=EXP_TAIL.default), x, upstream)
    finally:
        torch.ops.pdsearch.limit("avx512")
    assert "rounded" not in torch.load(folder / "tables.pt")
    assert same(gradient(load("pd_narrow", tmp_path).pd_relu, x, upstream), wanted)


def test_layouts_and_what_is_kept(load: Callable[..., ModuleType]) -> None:
    module = load("pd_up")
    base = torch.randn(3, 8, 40, 20)
    for x in (base, base.to(memory_format=torch.channels_last), base[:, ::2], base.mT, base[:0]):
        upstream = torch.randn(1).expand(x.shape)
        wanted = gradient(lambda v: pd_relu(v, CANDIDATES["up"]), x, upstream)
        assert torch.equal(gradient(module.pd_relu, x, upstream), wanted)
    x = torch.randn(5, requires_grad=True)
    output = load("pd_leaky").pd_relu(x)
    assert torch.equal(output.grad_fn.saved_tensors[0], output)  # as ReLU: nothing beyond it


# ------------------------------------------------------------- what the formula's file computes


def test_differentiated_again(load: Callable[..., ModuleType]) -> None:
    """The closed form is the oracle: g′ = g below zero, and 2·relu·g has the derivative 2·g²."""
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    for name in ("pd_exp_tail", "pd_up"):
        op = load(name).pd_relu
        low = 0.3 * x.detach().exp() * (x.detach() <= 0)
        (one,) = torch.autograd.grad(-op(x).sum(), x, create_graph=True)
        (two,) = torch.autograd.grad(one.sum(), x, create_graph=True)
        torch.testing.assert_close(two, -low)
        with pytest.raises(RuntimeError, match="no third derivative"):
            torch.autograd.grad(two.sum(), x)
    op, g = load("pd_exp_tail").pd_relu, torch.where(x > 0, 1.0, 0.3 * x.exp()).detach()
    for batched in (False, True):
        if batched:
            rows = torch.autograd.grad(
                op(x).square(), x, torch.eye(9), is_grads_batched=True, create_graph=True
            )[0].sum(0)
        else:
            (rows,) = torch.autograd.grad(op(x).square().sum(), x, create_graph=True)
        (got,) = torch.autograd.grad(rows.sum(), x)
        torch.testing.assert_close(got, 2 * g * g)


# torch's own, on the first use of forward mode in a process.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_transforms_and_compilers(load: Callable[..., ModuleType]) -> None:
    module = load("pd_exp_tail")
    op, x = module.pd_relu, torch.linspace(-2, 2, 40)
    wanted = torch.where(x > 0, 1.0, 0.3 * x.exp())
    rows = torch.func.vmap(torch.func.grad(lambda row: op(row).sum()))(x.view(8, 5))
    torch.testing.assert_close(rows, wanted.view(8, 5))
    torch.testing.assert_close(torch.func.jacrev(op)(x), torch.diag(wanted))
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(op, (x,), (torch.ones_like(x),))
    compiled = torch.compile(module.PDReLU(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradient(compiled, x, torch.ones_like(x)), wanted)
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        op(torch.arange(3))
    faded = load("pd_cosine").PDReLU()
    faded.t = 0.25
    torch.testing.assert_close(
        gradient(faded, x, torch.ones_like(x)), (wanted + (x > 0)) / 2, rtol=1e-6, atol=1e-6
    )
    assert not faded.state_dict() and "exp_tail" in repr(faded)


# ------------------------------------------------------------------------------------ self-check


def test_the_folder_checks_itself(
    tmp_path: Path, load: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_native(EXP_TAIL.default, tmp_path / "pd_check")
    load("pd_check", tmp_path)
    runpy.run_module("pd_check", run_name="__main__")
    said = capsys.readouterr().out
    assert "is right at every number of 16 bits" in said and "torch.relu" in said
    tables = torch.load(folder / "tables.pt")
    tables["float16"][0xB800] += 1e-3  # at -0.5
    torch.save(tables, folder / "tables.pt")
    for name in [name for name in sys.modules if name.startswith("pd_check")]:
        if name != "pd_check.library":
            del sys.modules[name]
    with pytest.raises(SystemExit, match=r"g is wrong at -0\.5 in torch\.float16"):
        runpy.run_module("pd_check", run_name="__main__")


# ---------------------------------------------------------------------------- without a compiler


def run_alone(place: Path, script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A script in an interpreter that finds the exported folders and cannot import pdsearch."""
    hide = f"import sys; sys.path.insert(0, {str(place)!r}); sys.modules['pdsearch'] = None\n"
    return subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", hide + script],
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, **environment},
    )


def test_no_compiler_is_an_error(exported: Path) -> None:
    script = """
sys.path.insert(0, "pd_exp_tail")
import formula
formula.PDReLU()
import pd_exp_tail
"""
    done = run_alone(exported, script, PATH="/nowhere", CXX="")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: pd_exp_tail: the kernel cannot")
    assert "no C++ compiler was found (c++): install g++ or set CXX" in last
    assert last.endswith("formula.py is slower and needs no compiler")


def test_what_else_keeps_the_library_from_loading(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = runpy.run_path(str(exported / "pd_leaky" / "library.py"))["operators"]
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "no-such-compiler -O2")
        with pytest.raises(ImportError, match=r"was found \(no-such-compiler\)"):
            operators()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        with pytest.raises(ImportError, match="no build for Windows"):
            operators()
    for version in ("2.9.1+cpu", "1.13.1"):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "__version__", version)
            with pytest.raises(
                ImportError, match=f"needs torch 2.10 or later, found {version[:5]}"
            ):
                operators()
    assert not list(tmp_path.iterdir())
    # Compiled already, but not to be loaded here.
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    with pytest.raises(ImportError, match=r"pdsearch_[0-9a-f]{16}\.so: cannot open shared object"):
        operators()


@pytest.mark.slow
def test_compiled_without_pdsearch(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that the folder compiles gives pdsearch's bits; a failed build leaves none."""
    done = run_alone(exported, "import pd_leaky", CXX="c++ --no-such-flag")
    assert done.returncode == 1 and "--no-such-flag" in done.stderr.strip().splitlines()[-1]
    assert not list((exported / "pd_leaky" / "build").iterdir())
    script = f"""
import importlib, torch
saved = torch.load({str(tmp_path / "in.pt")!r})
out = {{}}
for name in ("pd_exp_tail", "pd_b_silu"):
    module = importlib.import_module(name)
    for dtype, (x, upstream) in saved.items():
        leaf = x.requires_grad_()
        module.pd_relu(leaf).backward(upstream)
        out[name, dtype], leaf.grad = leaf.grad, None
torch.save(out, {str(tmp_path / "out.pt")!r})
"""
    torch.save({str(dtype): inputs(70_000, dtype) for dtype in DTYPES}, tmp_path / "in.pt")
    shared = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "built")}
    for environment in ({}, {"PATH": "/nowhere"}):  # the second one finds what the first compiled
        done = run_alone(exported, script, **shared, **environment)
        assert done.returncode == 0, done.stderr
        found = torch.load(tmp_path / "out.pt")
        for (name, kind), got in found.items():
            x, upstream = next(inputs(70_000, dtype) for dtype in DTYPES if str(dtype) == kind)
            own = functools.partial(pd_relu, candidate=CANDIDATES[name.removeprefix("pd_")])
            assert same(got, gradient(own, x, upstream))
        (tmp_path / "out.pt").unlink()
    assert len(list((tmp_path / "built").iterdir())) == 1  # both folders share one library
    # Next to pdsearch's own in one process.
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", shared["TORCH_EXTENSIONS_DIR"])
    loaded = runpy.run_path(str(exported / "pd_leaky" / "library.py"))["operators"]()
    assert loaded.level() == torch.ops.pdsearch.level() and loaded is not torch.ops.pdsearch


# ----------------------------------------------------------------------------- what is refused


def test_the_sources_are_the_shipped_ones(exported: Path) -> None:
    for source in build.SOURCES:
        assert (exported / "pd_exp_tail" / source.name).read_bytes() == source.read_bytes()


def test_no_certified_table_is_refused(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formula = "sin(1000*x)*exp(-x**2)"
    with pytest.raises(UnsupportedError, match="no table is provably within 1e-05"):
        export_native(load_target(formula)[1], workdir / "wavy")
    assert main(["export", formula, "--native", "-o", "wavy"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    annealed = Family(
        "annealed",
        parse("Piecewise((1, x > 0), (a*(1 - t)**2*exp(x), True))", parameters=("a",)),
        space={"a": FloatDistribution(0.1, 1.0)},
    )
    with pytest.raises(UnsupportedError, match="changes with t in another way"):
        export_native(annealed.default, workdir / "annealed")
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("name", ["pd.py", "pd-relu", "class", "1st", "..", "a b"])
def test_a_name_that_cannot_be_imported(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be imported"):
        export_native(EXP_TAIL.default, tmp_path / name)


def test_what_is_there_is_kept(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "leaky", "--native", "-o", "pd_leaky"]
    assert main(command) == 0
    folder = workdir / "pd_leaky"
    (folder / "build").mkdir()
    (folder / "build" / "library.so").write_text("compiled")
    before = {path.name for path in folder.iterdir()}
    assert main(command) == 2 and "exists already" in capsys.readouterr().err
    assert main([*command, "--set", "alpha=0.2", "--force"]) == 0
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "build" / "library.so").read_text() == "compiled"
    assert "alpha=0.2" in (folder / "README.md").read_text()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(InputError, match="pd_leaky cannot be written: No space left"):
            export_native(library()["leaky"].default, folder, force=True)
    assert "alpha=0.2" in (folder / "README.md").read_text()
    assert [path.name for path in workdir.iterdir()] == ["pd_leaky"]
    (folder / "notes.txt").write_text("mine")
    assert main([*command, "--force"]) == 2 and "notes.txt" in capsys.readouterr().err
    (workdir / "link").symlink_to(folder)
    with pytest.raises(InputError, match="symbolic link"):
        export_native(EXP_TAIL.default, workdir / "link", force=True)
    with pytest.raises(InputError, match="there is no folder"):
        export_native(EXP_TAIL.default, workdir / "missing" / "pd_relu")


def test_no_name_breaks_out_of_the_files(tmp_path: Path, load: Callable[..., ModuleType]) -> None:
    hostile = 'a"""\nraise SystemExit(3)\n# {{ x }}'
    shape = Family(
        "f",
        parse("Piecewise((1, x > 0), (a*exp(x), True))", parameters=("a",)),
        space={"a": FloatDistribution(0.1, 1.0)},
        reference=hostile,
    )
    candidate: Candidate = shape.default
    export_native(candidate, tmp_path / "pd_hostile", provenance={"study": hostile})
    module = load("pd_hostile", tmp_path)
    assert module.formula.PROVENANCE["study"] == hostile
