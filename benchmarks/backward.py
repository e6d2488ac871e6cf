"""Measure the backward pass of pd_relu relative to ReLU's, for every family of the library.

    python benchmarks/backward.py [--json] [--families exp_tail,b_silu] [--device cuda]
        [--level avx2|portable] [--variants]

Kernel: `Plan.scale` relative to `torch.ops.aten.threshold_backward`. Autograd:
`torch.autograd.grad` of `pd_relu` relative to that of `torch.relu`, both with their forward pass.
The passes alternate round by round within one run, and each ratio divides medians over the rounds.
The CPU uses 2 threads.

With `--variants`: the kernel half-way through a linear fade, with direction "up", and with both,
relative to the kernel of the same shape with neither; and the whole op after it has faded out,
relative to ReLU's.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from pdsearch import Candidate, fade, kernels, library, pd_relu
from pdsearch.kernels import gpu

SIZES = {"64Ki": 1 << 16, "512Ki": 1 << 19, "4Mi": 1 << 22}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tensors of 32 MiB and more cause page faults at every allocation; 4 Mi float32 values take 16 MiB.


def medians(
    functions: Sequence[Callable[[], object]], *, device: str, seconds: float
) -> list[float]:
    """Return the median seconds of each function; they run in turn for about `seconds` in all."""

    def timed(function: Callable[[], object]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for function in functions:
        for _ in range(3):
            function()
    once = sum(timed(function) for function in functions)
    rounds = max(7, min(2_000, int(seconds / max(once, 1e-6))))
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times, strict=True):
            taken.append(timed(function))
    return [statistics.median(taken) for taken in times]


def unavailable(device: str) -> str | None:
    """Return why a device has no fused kernels; None if it has."""
    return (
        kernels.available() if device == "cpu" else gpu.load(torch.zeros(0, device=device).device)
    )


def measure(
    name: str, dtype: torch.dtype, size: int, *, device: str, seconds: float
) -> dict[str, object]:
    candidate = library()[name].default
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).to(device, dtype)
    upstream = torch.randn(size, generator=generator).to(device, dtype)
    where = {"dtype": dtype, "device": x.device}
    plan = kernels.plan(candidate, **where, save="auto", exact=False)
    kept = torch.relu(x) if plan.keeps == "output" else x
    leaf = x.clone().requires_grad_()
    functions: list[Callable[[], object]] = [
        lambda: torch.ops.aten.threshold_backward(upstream, x, 0),
        lambda: plan.scale(upstream, kept),
        lambda: torch.autograd.grad(torch.relu(leaf), leaf, upstream),
        lambda: torch.autograd.grad(pd_relu(leaf, candidate), leaf, upstream),
    ]
    byte = None
    if unavailable(device) is None:
        byte = kernels.plan(candidate, **where, save="uint8", exact=False)
        code = byte.encode(x) if byte.keeps == "code" else kept
        functions.append(lambda: byte.scale(upstream, code))
    taken = medians(functions, device=device, seconds=seconds)
    return {
        "family": name,
        "route": plan.route,
        "error": plan.error,
        "relu_us": taken[0] * 1e6,
        "kernel": taken[1] / taken[0],
        "autograd": taken[3] / taken[2],
        "uint8": taken[4] / taken[0] if byte is not None else None,
        "uint8_error": byte.error if byte is not None else None,
    }


def measure_variants(
    name: str, dtype: torch.dtype, size: int, *, device: str, seconds: float
) -> dict[str, object]:
    family = library()[name]
    fading = fade(family, "linear", end=1.0)
    made = {
        "plain": (family.default, 0.0),
        "fade": (fading.default, 0.5),
        "up": (family.bind(direction="up"), 0.0),
        "both": (fading.bind(direction="up"), 0.5),
    }
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).to(device, dtype)
    upstream = torch.randn(size, generator=generator).to(device, dtype)

    def scaling(candidate: Candidate, progress: float) -> Callable[[], object]:
        plan = kernels.plan(candidate, dtype=dtype, device=x.device, save="auto", exact=False)
        kept = torch.relu(x) if plan.keeps == "output" else x
        return lambda: plan.scale(upstream, kept, progress)

    leaf, faded = x.clone().requires_grad_(), fading.default
    functions = [scaling(candidate, progress) for candidate, progress in made.values()]
    functions += [
        lambda: torch.autograd.grad(torch.relu(leaf), leaf, upstream),
        lambda: torch.autograd.grad(pd_relu(leaf, faded, t=1.0), leaf, upstream),
    ]
    plain, *others, own, ended = medians(functions, device=device, seconds=seconds)
    ratios = {key: taken / plain for key, taken in zip(list(made)[1:], others, strict=True)}
    return {"family": name, **ratios, "ended": ended / own}


def show_variants(names: Sequence[str], arguments: argparse.Namespace) -> None:
    columns = ("fade", "up", "both", "ended")
    print("ratio: geometric mean over the families (worst, family); ended: relative to ReLU")
    print(f"{'':16} " + " ".join(f"{column:>30}" for column in columns))
    for dtype_name in arguments.dtypes.split(","):
        for size_name, size in SIZES.items():
            rows = [
                measure_variants(
                    name, DTYPES[dtype_name], size,
                    device=arguments.device, seconds=arguments.seconds,
                )
                for name in names
            ]  # fmt: skip
            cells = []
            for column in columns:
                worst = max(rows, key=lambda row: row[column])
                found = mean([row[column] for row in rows])
                cells.append(f"{found:.3f} ({worst[column]:.2f} {worst['family']})")
            print(f"{dtype_name:9} {size_name:6} " + " ".join(f"{cell:>30}" for cell in cells))


def mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--families", default="")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="of these and float16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.4, help="per family, dtype and size")
    parser.add_argument(
        "--level",
        choices=["avx512", "avx2", "portable"],
        default="avx512",
        help="use at most this of the processor (default: all it has)",
    )
    parser.add_argument("--variants", action="store_true", help="fade and direction")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    names = arguments.families.split(",") if arguments.families else sorted(library())
    reason = unavailable(arguments.device)
    if arguments.device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        level = torch.ops.pdsearch.limit(arguments.level) if reason is None else "none"
        hardware = f"{platform.machine()}, kernels: {level}, 2 threads"
    if arguments.variants:
        print(f"{hardware}; torch {torch.__version__}; fused kernels: {reason or 'yes'}")
        constant = [name for name in names if not library()[name].annealed and name != "relu"]
        show_variants(constant, arguments)
        return
    report = {
        "hardware": hardware,
        "torch": torch.__version__,
        "fused": reason or "yes",
        "seconds": arguments.seconds,
        "rows": [],
        "summary": [],
    }
    for dtype_name in arguments.dtypes.split(","):
        dtype = DTYPES[dtype_name]
        for size_name, size in SIZES.items():
            rows = []
            for name in names:
                row = measure(name, dtype, size, device=arguments.device, seconds=arguments.seconds)
                rows.append({"dtype": dtype_name, "size": size_name, **row})
                print(f"\r{dtype_name} {size_name} {name:24}", end="", file=sys.stderr)
            report["rows"] += rows
            summary = {"dtype": dtype_name, "size": size_name, "n": len(rows)}
            for column in ("kernel", "uint8", "autograd"):
                values = [row[column] for row in rows if row[column] is not None]
                if values:
                    worst = max(rows, key=lambda row: row[column] or 0)["family"]
                    summary[column] = {"mean": mean(values), "worst": max(values), "family": worst}
            report["summary"].append(summary)
    print(file=sys.stderr)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{hardware}; torch {torch.__version__}; fused kernels: {report['fused']}")
    print("ratio to ReLU's own: geometric mean over the families (worst, family)")
    print(f"{'':16} {'ReLU us':>8} {'kernel':>34} {'uint8':>34} {'through autograd':>34}")
    for summary in report["summary"]:
        rows = [
            r
            for r in report["rows"]
            if (r["dtype"], r["size"]) == (summary["dtype"], summary["size"])
        ]
        cells = [
            f"{s['mean']:.2f} ({s['worst']:.2f} {s['family']})" if (s := summary.get(c)) else "-"
            for c in ("kernel", "uint8", "autograd")
        ]
        own = statistics.median(r["relu_us"] for r in rows)
        print(
            f"{summary['dtype']:9} {summary['size']:6} {own:8.1f} "
            + " ".join(f"{c:>34}" for c in cells)
        )
    print("\nfamily, route, proved bounds on the error of g: float32, uint8")
    for row in report["rows"]:
        if (row["dtype"], row["size"]) == (arguments.dtypes.split(",")[0], "64Ki"):
            print(
                f"{row['family']:24} {row['route']:8} {row['error']:.1e} "
                f"{row['uint8_error'] or 0:.1e}"
            )


if __name__ == "__main__":
    main()
