"""Read the compiled code of the GPU's kernels: no GPU is needed, Triton compiles for any target.

    python benchmarks/gpu_code.py [--targets sm_80,sm_90,gfx942]

Registers, spills and instructions per element of a program of 1 024 elements, next to two other
ways to g: the formula in Triton with libdevice's functions, and a look-up of all 65 536 values of a
16-bit dtype. On NVIDIA, the instructions are those of the final machine code.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.language.extra import libdevice
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from pdsearch import load_family
from pdsearch.kernels import gpu, triton_kernels
from pdsearch.kernels.table import codes, segments

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Driver:
    """What Triton asks a driver for before it compiles."""

    target: GPUTarget

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)  # the key of a kernel's compiled forms

    def get_current_stream(self, device: str) -> int:
        return 0


@dataclass(frozen=True)
class Compiling:
    """Stands in for a kernel: a launch compiles it as a real one would, and keeps the result."""

    kernel: JITFunction
    made: list[Any]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self.made.append(self.kernel.warmup(*arguments, grid=grid, **options))

        return launch


@contextmanager
def compiling(target: str) -> Iterator[list[Any]]:
    """Within, launches compile for a target and do not run; yields the list of what they made."""
    made: list[Any] = []
    kernels = {name: getattr(triton_kernels, name) for name in triton_kernels.__all__}
    stand_ins = {name: Compiling(kernel, made) for name, kernel in kernels.items()}
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict("os.environ", TRITON_CACHE_DIR=cache),
        mock.patch.object(driver, "_active", Driver(TARGETS[target])),
        mock.patch.multiple(triton_kernels, **stand_ins),
    ):
        yield made


def instructions(made: Any) -> Counter[str]:
    """Return how often each instruction stands in the PTX or AMDGCN of a kernel."""
    if "ptx" in made.asm:
        return Counter(re.findall(r"^\s*(?:@%\w+ )?([a-z][\w.:]*) ", made.asm["ptx"], re.M))
    return Counter(re.findall(r"^\t([a-z]\w*)", made.asm["amdgcn"], re.M))


def spilled(made: Any) -> int:
    """Return the bytes (NVIDIA) or registers (AMD) that a compiled kernel keeps in memory."""
    if "amdgcn" in made.asm:
        found = re.findall(r"(?:ScratchSize|[sv]gpr_spill_count): +(\d+)", made.asm["amdgcn"])
    else:
        found = re.findall(r"(?:STACK|LOCAL):(\d+)", cuobjdump(made, "--dump-resource-usage"))
    assert len(found) >= 2
    return sum(map(int, found))


def cuobjdump(made: Any, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ------------------------------------------------------------------------------- other ways to g


@triton.jit
def by_look_up(grad_output, input, grad_input, n, every, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(input + at, at < n, 0.0)
    g = tl.load(every + x.to(tl.uint16, bitcast=True).to(tl.int32)).to(tl.float32)
    product = tl.load(grad_output + at, at < n, 0.0).to(tl.float32) * g
    tl.store(grad_input + at, product.to(grad_input.dtype.element_ty), at < n)


@triton.jit
def exp_tail(grad_output, input, grad_input, n, alpha, beta, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(input + at, at < n, 0.0).to(tl.float32)
    g = tl.where(x > 0, 1.0, alpha * libdevice.exp(beta * tl.minimum(x, 0.0)))
    product = tl.load(grad_output + at, at < n, 0.0).to(tl.float32) * g
    tl.store(grad_input + at, product.to(grad_input.dtype.element_ty), at < n)


@triton.jit
def gelu(grad_output, input, grad_input, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(input + at, at < n, 0.0).to(tl.float32)
    g = 0.5 * libdevice.erfc(-0.7071067811865476 * x)
    g += 0.3989422804014327 * x * libdevice.exp(-0.5 * x * x)
    product = tl.load(grad_output + at, at < n, 0.0).to(tl.float32) * g
    tl.store(grad_input + at, product.to(grad_input.dtype.element_ty), at < n)


# ------------------------------------------------------------------------------------- figures


def per_element(made: Any) -> float:
    """Return the instructions of a thread for each of its elements."""
    if "amdgcn" in made.asm:
        skipped = re.compile(r"[sv]_(?:nop|endpgm|waitcnt)")
        count = sum(n for name, n in instructions(made).items() if not skipped.match(name))
        return count / (gpu.BLOCK / (4 * 64))
    text = cuobjdump(made, "--dump-sass")
    found = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z]\w*)", text)
    return sum(name not in ("NOP", "BRA") for name in found) / (gpu.BLOCK / (4 * 32))


def registers(made: Any) -> int:
    if "amdgcn" in made.asm:
        return int(re.findall(r"NumVgprs: (\d+)", made.asm["amdgcn"])[0])
    return int(re.findall(r"REG:(\d+)", cuobjdump(made, "--dump-resource-usage"))[0])


def launches(dtype: torch.dtype, made: list[Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    x = torch.zeros(4_096, dtype=dtype)
    code = torch.zeros(4_096, dtype=torch.uint8)
    yield "two numbers", lambda: gpu.by_sides(0.1, 1.0, dtype, up=False)(x, x, 1.0)
    for name in ("hardswish", "exp_tail", "two_sided_power", "softsign"):
        found = segments(load_family(name).default, gpu=True)
        assert found is not None
        size, degree = int(found.values[1]), int(found.values[2])
        kernel = gpu.by_table(found.values, up=False)
        yield f"table, {size} stretches, degree {degree}", lambda k=kernel: k(x, x, 1.0)
    kept = codes(load_family("exp_tail").default, signed=False, gpu=True)
    yield "codes", lambda: gpu.by_codes(kept.values, up=False)(x, code, 1.0)
    yield "encode, 16 stretches", lambda: gpu.encode(kept.table)(x)
    options = {"BLOCK": gpu.BLOCK, "num_warps": 4}
    launch = Compiling(exp_tail, made)[(4,)]
    yield "formula: exp_tail", lambda: launch(x, x, x, 4_096, 0.3, 1.0, **options)
    other = Compiling(gelu, made)[(4,)]
    yield "formula: gelu", lambda: other(x, x, x, 4_096, **options)
    if dtype.itemsize == 2:
        every = torch.zeros(65_536, dtype=dtype)
        third = Compiling(by_look_up, made)[(4,)]
        yield "look-up of all values", lambda: third(x, x, x, 4_096, every, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS))
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, triton {triton.__version__}")
    print(f"{'':36} {'instructions/element':>20} {'registers':>10} {'spilled':>8}")
    for target in arguments.targets.split(","):
        for dtype in (torch.float32, torch.bfloat16):
            print(f"{target}, {str(dtype).removeprefix('torch.')}")
            with compiling(target) as made:
                for label, launch in launches(dtype, made):
                    launch()
                    row = f"{per_element(made[-1]):20.1f} {registers(made[-1]):10} "
                    print(f"  {label:34} {row}{spilled(made[-1]):8}")


if __name__ == "__main__":
    main()
