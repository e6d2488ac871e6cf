"""Exported files stand on their own, agree with the op, and no name breaks out of them."""

import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import tokenize
import warnings
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from dtypes import NoFloat64
from optuna.distributions import FloatDistribution

from pdsearch.autograd import pd_relu
from pdsearch.errors import InputError
from pdsearch.export import export
from pdsearch.expression import parse
from pdsearch.family import Candidate, Family, fade, load_family, load_target

HOSTILE = (
    'a"""\nimport os\nos.system("id")\n"""',
    "b'''\r\nraise SystemExit(3)",
    "c\n\\end{equation}\\input{/etc/passwd}",
    "d\x0craise\x0bSystemExit\x85x\u2028y\u2029z\0",
    "# -*- coding: utf-7 -*- coding=latin-1",
    "\\",
    "@G0@ @FACTS@ {0} %s ${x}",
    "</script><img onerror=alert(1)>",
    "é ‮ 🙂 \udcff".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
)


def family(
    name: str, formula: str, *, reference: str = "", **space: tuple[float, float, float]
) -> Family:
    return Family(
        name,
        parse(formula, parameters=space),
        space={key: FloatDistribution(low, high) for key, (low, high, _) in space.items()},
        defaults={key: default for key, (_, _, default) in space.items()},
        reference=reference,
    )


EXP_TAIL = family(
    "exp_tail",
    "Piecewise((1, x > 0), (alpha*exp(beta*x), True))",
    reference="derivative of ELU, Clevert et al. 2016, arXiv:1511.07289",
    alpha=(0.01, 1.0, 0.3),
    beta=(0.1, 10.0, 1.0),
)
B_SILU = family(
    "b_silu", "sigmoid(x) + (x + alpha)*sigmoid(x)*(1 - sigmoid(x))", alpha=(0.5, 3.0, 1.67)
)
ATAN = family("arcus", "1/2 + atan(pi*alpha*x/2)/pi", alpha=(0.5, 4.0, 2.0))
KNOTS = family(
    "knots",
    "Piecewise((0, x < -2), (a*(x + 2)**3, x < -1), (clamp(a + (1 - a)*(x + 1), 0, 1), True))",
    a=(0.1, 0.5, 0.25),
)
ANNEALED = family("annealed", "Piecewise((1, x > 0), (a*(1 - t)*exp(x), True))", a=(0.1, 1.0, 0.5))
RELU = family("relu", "Piecewise((1, x > 0), (0, True))")
CUBIC = family("cubic", "sigmoid(x**3) + x**3*sigmoid(x**3)*sigmoid(-x**3)")
ALIKE = [f.default for f in (EXP_TAIL, B_SILU, ATAN, KNOTS, RELU)]
CANDIDATES = [f.default for f in (EXP_TAIL, B_SILU, ATAN, KNOTS, ANNEALED, RELU, CUBIC)]

ids = pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda c: c.family.name)


def run_alone(file: Path, script: str, folder: Path) -> str:
    """The script beside the exported file, in an interpreter that cannot import pdsearch."""
    hide = f"import sys; sys.path.insert(0, {str(file.parent)!r}); sys.modules['pdsearch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", hide + script],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exported_modules_run_without_pdsearch_and_agree_with_the_op(tmp_path: Path) -> None:
    """Every candidate and dtype in one other process; the op's formula route is the oracle.

    The same bits in float64. In float32 g is within 2e-6·max(1, |g|), and 16-bit values are those
    of float32 arithmetic, rounded once.
    """
    dtypes = ("float16", "bfloat16", "float32", "float64")
    generator = torch.Generator().manual_seed(1)
    values = torch.cat(
        [
            torch.randn(500, generator=generator, dtype=torch.float64) * 4,
            torch.tensor([0.0, -0.0, 1e-30, -1e-30, 700.0, -700.0, -1.0, -2.0, 60000.0, -60000.0]),
            # Where powers of x overflow, and what is no number.
            torch.tensor([1e60, -1e60, 1e300, -1e300, math.inf, -math.inf, math.nan]).double(),
        ]
    )
    torch.save(values, tmp_path / "values.pt")
    for candidate in CANDIDATES:
        export(candidate, tmp_path / f"exported_{candidate.family.name}.py")
    names = [c.family.name for c in CANDIDATES]
    script = f"""
import importlib, torch
values, out = torch.load({str(tmp_path / "values.pt")!r}), {{}}
for name in {names!r}:
    module = importlib.import_module("exported_" + name)
    progress = {{"t": 0.25}} if name == "annealed" else {{}}
    for dtype in {dtypes!r}:
        x = values.to(getattr(torch, dtype)).requires_grad_()
        y = module.pd_relu(x, **progress)
        (once,) = torch.autograd.grad(y, x, torch.ones_like(y) * 3, create_graph=True)
        (twice,) = torch.autograd.grad(once.sum(), x)
        g = module.g(x.detach(), **progress)
        out[name + " " + dtype] = (y.detach(), once.detach(), twice, g)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), module.PDReLU())
    layer(torch.ones(2, 3)).sum().backward()
    assert not layer[1].state_dict() and module.NAME in repr(layer)
torch.save(out, "out.pt")
"""
    run_alone(tmp_path / "exported_relu.py", script, tmp_path)
    out = torch.load(tmp_path / "out.pt")
    for candidate in CANDIDATES:
        t = 0.25 if candidate.annealed else 0.0
        for name in dtypes:
            x = values.to(getattr(torch, name)).requires_grad_()
            y = pd_relu(x, candidate, t=t, exact=True)
            (once,) = torch.autograd.grad(y, x, torch.ones_like(y) * 3, create_graph=True)
            (twice,) = torch.autograd.grad(once.sum(), x)
            expected = (y.detach(), once.detach(), twice, candidate(x.detach(), t))
            got = out[f"{candidate.family.name} {name}"]
            for number, (left, right) in enumerate(zip(got, expected, strict=True)):
                assert left.dtype == right.dtype
                room = 0.0 if name == "float64" else 3 * (2e-6 + torch.finfo(left.dtype).eps / 2)
                left, right = left.double(), right.double()
                torch.testing.assert_close(left, right, rtol=room, atol=room, equal_nan=True)
                assert torch.equal(left.isfinite(), ~x.isnan()) or number == 0
            own = torch.relu(x.detach())
            torch.testing.assert_close(got[0], own, rtol=0, atol=0, equal_nan=True)


def test_the_exported_derivative_agrees_with_sympy(tmp_path: Path) -> None:
    """An oracle apart from the printer: sympy's own arithmetic at 30 digits."""
    namespace = _run(export(B_SILU.default, tmp_path / "b.py"))
    points = [-20.0, -3.765, -2.7349, -0.1, 0.0, 0.3, 1.4915, 15.0]
    got = namespace["g"](torch.tensor(points, dtype=torch.float64)).tolist()
    z = sympy.Symbol("z")
    s = 1 / (1 + sympy.exp(-z))
    formula = s + (z + sympy.Rational("1.67")) * s * (1 - s)
    for point, value in zip(points, got, strict=True):
        exact = float(formula.subs(z, sympy.Rational(point)).evalf(30))
        assert math.isclose(value, exact, rel_tol=1e-12, abs_tol=1e-16), point


def _run(path: Path) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "exported"}
    exec(compile(path.read_bytes(), str(path), "exec"), namespace)
    return namespace


# torch's own, on the first use of forward mode in a process.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_exported_op_works_under_vmap_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    namespace = _run(export(EXP_TAIL.default, tmp_path / "e.py"))
    op = namespace["pd_relu"]
    x = torch.randn(4, 3, dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(lambda row: op(row).sum()))(x)
    assert torch.equal(got, EXP_TAIL.default(x))
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(op, (x,), (torch.ones_like(x),))
    z = x.clone().requires_grad_()
    (one,) = torch.autograd.grad(op(z).sum(), z, create_graph=True)
    (two,) = torch.autograd.grad(one.sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(two.sum(), z)
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        op(torch.arange(3))


def test_a_float32_input_makes_no_float64_tensor(tmp_path: Path) -> None:
    """Apple's GPUs have none: neither g, nor a step, nor a second derivative, nor a fade."""

    seconds = 0
    for number, candidate in enumerate((*ALIKE, fade(EXP_TAIL, "cosine").default)):
        namespace = _run(export(candidate, tmp_path / f"{number}.py"))
        # Of the knots' clamp, g' in float64 takes numbers near the bend for the bend.
        twice = namespace["_FAST"][1] is not None
        seconds += twice
        progress = {"t": 0.1} if candidate.annealed else {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.linspace(-3, 3, 101).to(dtype).requires_grad_()
            with NoFloat64():
                y = namespace["pd_relu"](x, **progress)
                (once,) = torch.autograd.grad(y.sum(), x, create_graph=True)
                if twice:
                    torch.autograd.grad(once.square().sum(), x)
    assert seconds == len(ALIKE)


def test_every_layout_gives_the_same_gradient(tmp_path: Path) -> None:
    """Large tensors are computed in parts, in the order of memory; the oracle is the product."""
    candidate = EXP_TAIL.bind(alpha=0.5, beta=1.0, direction="up")
    namespace = _run(export(candidate, tmp_path / "e.py"))
    base = torch.randn(3, 5, 70, 90)
    slanted = torch.randn(90, 70, 5, 3).permute(3, 2, 1, 0)
    last = base.to(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for x in (base, last, slanted, base[:, :, ::2], base[0], base[:0], base.flatten()):
            for upstream in (
                torch.randn(x.shape),
                torch.randn_like(x),
                torch.randn(1).expand(x.shape),
            ):
                leaf = x.detach().to(dtype).requires_grad_()
                given = upstream.to(dtype)
                (got,) = torch.autograd.grad(namespace["pd_relu"](leaf), leaf, given)
                passes = (leaf > 0) | (given < 0)
                wanted = torch.where(passes, given * namespace["g"](leaf.detach()), 0.0)
                assert got.shape == wanted.shape and torch.equal(got, wanted)


def test_batched_gradients_are_those_of_each_row(tmp_path: Path) -> None:
    namespace = _run(export(EXP_TAIL.default, tmp_path / "e.py"))
    op, g = namespace["pd_relu"], namespace["g"]
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(4, 6, dtype=torch.float64)
    (got,) = torch.autograd.grad(op(x), x, rows, is_grads_batched=True)
    torch.testing.assert_close(got, rows * g(x.detach()))
    torch.testing.assert_close(torch.func.jacrev(op)(x.detach()), torch.diag(g(x.detach())))
    (rows,) = torch.autograd.grad(
        op(x).square(), x, torch.eye(6).double(), is_grads_batched=True, create_graph=True
    )
    (got,) = torch.autograd.grad(rows.sum(), x)
    torch.testing.assert_close(got, 2 * g(x.detach()).square())  # of 2·relu·g, where relu·g′ = 0
    hessian = torch.func.hessian
    with pytest.raises(RuntimeError, match="jvp"):
        hessian(lambda v: op(v).square().sum())(x.detach())


def test_traced_without_gradients_it_is_a_plain_relu(tmp_path: Path) -> None:
    namespace = _run(export(EXP_TAIL.default, tmp_path / "e.py"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(namespace["PDReLU"](), torch.randn(3))
        torch.jit.save(traced, str(tmp_path / "traced.pt"))
    assert "aten::relu" in str(traced.graph) and "PythonOp" not in str(traced.graph)


def test_compiled_it_is_one_graph(tmp_path: Path) -> None:
    candidate = fade(EXP_TAIL, "linear").bind(alpha=0.5, beta=1.0, end=0.5, direction="up")
    namespace = _run(export(candidate, tmp_path / "e.py"))
    module = namespace["PDReLU"]()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for t in (0.0, 0.125, 0.25, 0.75):
        module.t = t
        x = torch.linspace(-2, 2, 41, requires_grad=True)
        (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
        (wanted,) = torch.autograd.grad(namespace["pd_relu"](x, t=t).square().sum(), x)
        torch.testing.assert_close(got, wanted)


def test_the_file_checks_and_times_itself(tmp_path: Path) -> None:
    path = export(EXP_TAIL.default, tmp_path / "e.py")
    script = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    told = run_alone(path, script, tmp_path)
    assert re.search(r"g is right at 29 points", told) and "torch.relu" in told
    path.write_text(path.read_text().replace("return _v4", "return _v4 + 1e-3"))
    with pytest.raises(SystemExit, match=r"g is wrong by 0\.001"):
        runpy.run_path(str(path), run_name="__main__")


def test_an_older_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(EXP_TAIL.default, tmp_path / "e.py")
    monkeypatch.setattr(torch, "__version__", "1.13.1+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2\.0 or later, found 1\.13\.1"):
        _run(path)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_provenance_breaks_out_of_the_python_file(text: str, tmp_path: Path) -> None:
    hostile = family("f", "Piecewise((1, x > 0), (a*exp(x), True))", reference=text, a=(0.1, 1, 1))
    provenance = {"study": text, text: 1, "value": float("nan"), "path": Path("p")}
    path = export(hostile.default, tmp_path / "f.py", provenance=provenance)
    namespace = _run(path)
    assert namespace["PROVENANCE"]["study"] == text
    assert namespace["PROVENANCE"][text] == 1
    assert namespace["PROVENANCE"]["value"] is None
    lines = path.read_text(encoding="utf-8").split("\n")
    head = lines[: lines.index("import time")]
    assert all(line.startswith("#") or line == "" for line in head)
    # What Python sees is the same program as without the hostile text.
    plain = export(
        family("f", "Piecewise((1, x > 0), (a*exp(x), True))", a=(0.1, 1, 1)).default,
        tmp_path / "plain.py",
    )
    assert _code(path) == _code(plain)


def test_no_name_is_taken_for_an_encoding(tmp_path: Path) -> None:
    """PEP 263: `coding=NAME` in a comment of the first two lines, wherever it comes from."""
    modules, names = [], ("coding", "encoding", "fileencoding", "vim", "mode")
    for name in names:
        formula = f"Piecewise((1, x > 0), ({name}*exp(x), True))"
        for title in ("f", name):
            text = f"{name}: latin-1 {name}=utf-7"
            shape = family(title, formula, reference=text, **{name: (0.1, 1.0, 0.3)})
            path = tmp_path / f"{title}_{name}.py"
            export(shape.default, path, provenance={"study": text, name: "utf-16"})
            with path.open("rb") as file:
                assert tokenize.detect_encoding(file.readline)[0] == "utf-8"
            head = path.read_text(encoding="utf-8").splitlines()[:2]
            assert not any(name in line for line in head)
            modules.append(path.stem)
    script = f"""
import importlib, torch
for stem in {modules!r}:
    m = importlib.import_module(stem)
    print(m.PARAMETERS, round(m.g(torch.zeros(1)).item(), 6))
"""
    lines = run_alone(path, script, tmp_path).splitlines()
    assert lines == [f"{{'{name}': 0.3}} 0.3" for name in names for _ in range(2)]


def _code(path: Path) -> str:
    text = re.sub(r"(?m)^PROVENANCE = .*$", "", path.read_text(encoding="utf-8"))
    return re.sub(r"(?m)^#.*\n", "", text)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_provenance_breaks_out_of_the_latex(text: str, tmp_path: Path) -> None:
    hostile = family(
        "f_g", "Piecewise((1, x > 0), (a*exp(x), True))", reference=text, a=(0.1, 1, 1)
    )
    path = export(hostile.default, tmp_path / "f.tex", provenance={"study": text})
    content = "\n".join(
        line for line in path.read_text(encoding="utf-8").split("\n") if not line.startswith("%")
    )
    assert content.count("\\begin{equation}") == content.count("\\end{equation}") == 1
    assert "\\input" not in content
    assert _balanced(content)


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


@ids
def test_latex_holds_equation_parameters_and_reference(
    candidate: Candidate, tmp_path: Path
) -> None:
    text = export(candidate, tmp_path / "c.tex").read_text(encoding="utf-8")
    assert f"= {candidate.family.latex}\n\\end{{equation}}" in text
    assert _balanced(text)
    for name, value in candidate.parameters.items():
        assert f"${sympy.latex(sympy.Symbol(name))} = {value:g}$" in text
    if candidate.family is EXP_TAIL:
        assert "Clevert" in text.split("\\end{equation}")[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is some hundred megabytes")
def test_latex_compiles(tmp_path: Path) -> None:
    body = []
    for i, candidate in enumerate(CANDIDATES):
        path = export(candidate, tmp_path / f"c{i}.tex", provenance={"study": HOSTILE[0]})
        body.append(f"\\input{{{path.name}}}")
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage{amsmath}\\begin{document}\n"
        + "\n".join(body)
        + "\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@ids
def test_json_comes_back_as_the_candidate(candidate: Candidate, tmp_path: Path) -> None:
    path = export(candidate, tmp_path / "c.json", provenance={"study": "s", "value": math.inf})
    assert Candidate.from_json(path.read_text()) == candidate
    assert load_target(str(path))[1] == candidate
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert document["provenance"]["study"] == "s"
    assert document["provenance"]["value"] is None
    assert document["provenance"]["pdsearch"]


@pytest.mark.parametrize("name", ["c", "c.txt", "c.py.bak", "c.PYC", ".py"])
def test_a_suffix_that_says_nothing_names_the_valid_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use \.py, \.json, \.tex"):
        export(EXP_TAIL.default, tmp_path / name)


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"c\.json exists already.*--force"):
        export(EXP_TAIL.default, path)
    assert path.read_text() == "mine"
    export(B_SILU.default, path, force=True)
    assert load_target(str(path))[1] == B_SILU.default


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = EXP_TAIL.default
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=r"folder\.py is a directory"):
        export(candidate, tmp_path / "folder.py", force=True)
    with pytest.raises(InputError, match="there is no folder"):
        export(candidate, tmp_path / "missing" / "c.py")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no folder"):
        export(candidate, tmp_path / "file" / "c.py")
    target = tmp_path / "target.py"
    target.write_text("keep")
    for name, to in (("link.py", target), ("dangling.py", tmp_path / "nowhere.py")):
        (tmp_path / name).symlink_to(to)
        with pytest.raises(InputError, match="symbolic link"):
            export(candidate, tmp_path / name, force=True)
    assert target.read_text() == "keep"
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(InputError, match="device or a pipe"):
        export(candidate, tmp_path / "pipe.py", force=True)
    with pytest.raises(InputError, match=r"cannot be written: File name too long"):
        export(candidate, tmp_path / ("n" * 300 + ".py"))
    with pytest.raises(InputError, match="NUL"):
        export(candidate, tmp_path / "a\0b.py")


def test_a_folder_that_refuses_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may write anywhere, so the refusal is made by the call itself."""

    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(InputError, match=r"c\.py cannot be written: Permission denied"):
            export(EXP_TAIL.default, tmp_path / "c.py")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.py"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            export(EXP_TAIL.default, path, force=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["c.py"]


def test_the_file_has_the_users_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    path = export(EXP_TAIL.default, tmp_path / "c.py")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_exported_module_fades_and_keeps_its_direction(tmp_path: Path) -> None:
    """Against the rule and the fade by hand, in another process that knows only torch."""
    base = load_family("exp_tail")
    candidates = {
        "up": base.bind(alpha=0.3, beta=1.0, direction="up"),
        "switch": fade(base, "switch").bind(alpha=0.3, beta=1.0, end=0.25, direction="up"),
        "cosine": fade(base, "cosine", end=0.5).bind(alpha=0.3, beta=1.0),
    }
    for name, candidate in candidates.items():
        export(candidate, tmp_path / f"{name}.py")
    script = """
import importlib, math, torch
x = torch.tensor([-2.0, -1.0, 0.0, 0.5, -2.0, -1.0, 0.0, 0.5], requires_grad=True)
upstream = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
step = (x.detach() > 0).float()
g = torch.where(x.detach() > 0, torch.ones(8), 0.3 * x.detach().exp())
def weight(name, t):
    if name == "up":
        return 1.0
    if name == "switch":
        return 1.0 if t < 0.25 else 0.0
    return (1 + math.cos(math.pi * t / 0.5)) / 2 if t < 0.5 else 0.0
for name in ("up", "switch", "cosine"):
    module = importlib.import_module(name)
    for t in (0.0, 0.2, 0.25, 0.3, 0.9):
        arguments = {} if name == "up" else {"t": t}
        y = module.pd_relu(x, **arguments)
        (got,) = torch.autograd.grad(y, x, upstream)
        wanted = upstream * (step + weight(name, t) * (g - step))
        if name != "cosine":
            wanted = torch.where((x.detach() > 0) | (upstream < 0), wanted, torch.zeros(8))
        torch.testing.assert_close(got, wanted)
        if weight(name, t) == 0.0:
            assert type(y.grad_fn) is type(torch.relu(x).grad_fn)
    layer = module.PDReLU()
    torch.testing.assert_close(layer(x), torch.relu(x))
"""
    run_alone(tmp_path / "up.py", script, tmp_path)
    tex = export(candidates["up"], tmp_path / "up.tex").read_text()
    assert r"\partial L/\partial y < 0" in tex
    read = Candidate.from_json(export(candidates["switch"], tmp_path / "s.json").read_text())
    assert read == candidates["switch"]
