"""An exported file against the usual hand-written `autograd.Function` of the same shape.

    python benchmarks/exported.py [--compiled | --native | --operators] [--seconds 2] [--threads 2]
        [--device cuda]

Eager: a forward and a backward pass of `pd_relu` from the exported file, divided by that of a
`torch.autograd.Function` that saves its input and multiplies by the formula, as people write it.
With --compiled: a training step of a small convolutional network under `torch.compile`, with the
exported module in the place of each ReLU, divided by that of the same network with `nn.ReLU`; the
first line has the eager network with `nn.ReLU`. With --native: a forward and a backward pass of
the package that `pdsearch export --native` writes, divided by that of pdsearch's own op. With
--operators: what one element costs single operators that such formulas are made of.
Every ratio is one of medians over rounds in which the passes follow each other.
"""

import argparse
import functools
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from backward import DTYPES, medians
from torch import Tensor, nn

from pdsearch import load_family, pd_relu
from pdsearch.export import export
from pdsearch.native import export_native

SIZES = {"64Ki": 1 << 16, "512Ki": 1 << 19, "4Mi": 1 << 22}

# As in the READMEs of the field: comparisons, torch.where and arithmetic in the input's dtype.
BY_HAND: dict[str, tuple[dict[str, float], Callable[[Tensor], Tensor]]] = {
    "leaky": ({"alpha": 0.1}, lambda x: torch.where(x > 0, 1.0, 0.1)),
    "exp_tail": (
        {"alpha": 0.3, "beta": 1.0},
        lambda x: torch.where(x > 0, 1.0, 0.3 * torch.exp(x)),
    ),
    "rational_tail": (
        {"alpha": 0.3, "beta": 1.0},
        lambda x: torch.where(x > 0, 1.0, 0.3 / (1 + x * x)),
    ),
    "b_silu": (
        {"alpha": 1.67},
        lambda x: torch.sigmoid(x) + (x + 1.67) * torch.sigmoid(x) * (1 - torch.sigmoid(x)),
    ),
    "two_sided_exp": (
        {"alpha": 0.3, "beta": 1.0, "gamma": 0.2, "delta": 2.0},
        lambda x: torch.where(x > 0, 1 - 0.2 * torch.exp(-2 * x), 0.3 * torch.exp(x)),
    ),
    "gelu": (
        {},
        lambda x: (
            0.5 * (1 + torch.erf(x / math.sqrt(2)))
            + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        ),
    ),
}


def by_hand(g: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    class Written(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.relu(x)

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return grad_output * g(x)

    return Written.apply  # type: ignore[no-any-return]


def passes(op: Callable[[Tensor], Tensor], leaf: Tensor) -> Callable[[], object]:
    upstream = torch.randn_like(leaf)
    return lambda: torch.autograd.grad(op(leaf), leaf, upstream)


def exported(name: str, parameters: dict[str, float], folder: Path) -> ModuleType:
    path = export(load_family(name).bind(**parameters), folder / f"exported_{name}.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def eager(folder: Path, arguments: argparse.Namespace) -> None:
    print("time of a forward and backward pass / the hand-written Function's (/ torch.relu's)")
    print(f"{'':16}" + "".join(f"{d + ' ' + s:>22}" for d in DTYPES for s in SIZES))
    columns: dict[tuple[str, str], list[float]] = {}
    for name, (parameters, g) in BY_HAND.items():
        cells = []
        ours = exported(name, parameters, folder).pd_relu
        theirs = by_hand(g)
        for dtype_name, dtype in DTYPES.items():
            for size_name, size in SIZES.items():
                leaf = torch.randn(size, device=arguments.device).to(dtype).requires_grad_()
                taken = medians(
                    [passes(op, leaf) for op in (ours, theirs, torch.relu)],
                    device=arguments.device,
                    seconds=arguments.seconds,
                )
                columns.setdefault((dtype_name, size_name), []).append(taken[0] / taken[1])
                cells.append(f"{taken[0] / taken[1]:.2f} ({taken[0] / taken[2]:.1f})")
        print(f"{name:16}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    means = [math.exp(sum(map(math.log, c)) / len(c)) for c in columns.values()]
    print(f"{'geometric mean':16}" + "".join(f"{mean:>22.2f}" for mean in means))


def native(folder: Path, arguments: argparse.Namespace) -> None:
    print("time of a forward and backward pass / that of pdsearch's own op (/ torch.relu's)")
    print(f"{'':16}" + "".join(f"{d + ' ' + s:>22}" for d in DTYPES for s in SIZES))
    sys.path.insert(0, str(folder))
    for name, (parameters, _) in BY_HAND.items():
        candidate = load_family(name).bind(**parameters)
        package = export_native(candidate, folder / f"native_{name}")
        theirs = importlib.import_module(package.name).pd_relu
        cells = []
        for dtype in DTYPES.values():
            for size in SIZES.values():
                leaf = torch.randn(size).to(dtype).requires_grad_()
                ops = (theirs, functools.partial(pd_relu, candidate=candidate), torch.relu)
                taken = medians(
                    [passes(op, leaf) for op in ops], device="cpu", seconds=arguments.seconds
                )
                cells.append(f"{taken[0] / taken[1]:.2f} ({taken[0] / taken[2]:.1f})")
        print(f"{name:16}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), make(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), make(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), make(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def compiled(folder: Path, arguments: argparse.Namespace) -> None:
    print("time of a compiled training step / that of the network with nn.ReLU")
    x = torch.randn(64, 3, 32, 32, device=arguments.device)
    labels = torch.randint(0, 10, (64,), device=arguments.device)

    def step(make: Callable[[], nn.Module], *, eager: bool = False) -> Callable[[], object]:
        plain = network(make).to(arguments.device)
        model = plain if eager else torch.compile(plain)

        def run() -> None:
            model.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()

        return run

    modules = {n: exported(n, parameters, folder) for n, (parameters, _) in BY_HAND.items()}
    steps = [
        step(nn.ReLU, eager=True),
        step(nn.ReLU),
        *(step(module.PDReLU) for module in modules.values()),
    ]
    eagerly, relu, *taken = medians(steps, device=arguments.device, seconds=10 * arguments.seconds)
    print(f"{'nn.ReLU, eager':16}{eagerly / relu:8.3f}")
    for name, time in zip(modules, taken, strict=True):
        print(f"{name:16}{time / relu:8.3f}")
    mean = math.exp(sum(math.log(time / relu) for time in taken) / len(taken))
    print(f"{'geometric mean':16}{mean:8.3f}")


def operators(arguments: argparse.Namespace) -> None:
    size = SIZES["64Ki"]
    x, other = torch.randn(2, size, device=arguments.device)
    mask, weight, out = x > 0, torch.relu(x).sign(), torch.empty_like(x)
    calls: dict[str, Callable[[], object]] = {
        "exp": lambda: torch.exp(x, out=out),
        "mul": lambda: torch.mul(x, other, out=out),
        "where": lambda: torch.where(mask, x, other, out=out),
        "gt": lambda: torch.gt(x, 0),
        "lerp": lambda: torch.lerp(x, other, weight, out=out),
        "relu": lambda: torch.relu(x),
        "sign": lambda: torch.sign(x, out=out),
    }
    taken = medians(list(calls.values()), device=arguments.device, seconds=arguments.seconds)
    for name, time in zip(calls, taken, strict=True):
        print(f"{name:8}{1e9 * time / size:8.2f} ns an element")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each cell")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.operators:
        operators(arguments)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        run = compiled if arguments.compiled else native if arguments.native else eager
        run(Path(folder), arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
