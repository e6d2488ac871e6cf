"""The backward pass on CUDA and ROCm devices: launches of the Triton kernels in eager mode.

A launch needs no wrapper as a custom op: it runs inside `autograd.Function.backward`, and under
torch.compile the op is traced as its formula. Nothing here reads a value from the device, so
streams and CUDA graphs work. Only the first backward pass of a candidate on a device copies its
table there, and Triton compiles a kernel at its first launch: run one before a capture.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from pdsearch.errors import first_line
from pdsearch.kernels import build

__all__ = ["Scale", "by_codes", "by_sides", "by_table", "encode", "load", "remedy"]

_log = logging.getLogger("pdsearch")

BLOCK = 1024  # elements of a program: eight a thread, 16 bytes of a 16-bit dtype
STRIDED_BLOCK = 512  # places in three tensors take registers: with 1024, ptxas spilled some
MOST_DIMS = 4  # of a strided launch
LARGEST = 1 << 30  # elements, and elements between the first and the last: 32-bit indices hold them

Scale = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""From grad_output, what was kept and the weight of g to grad_input."""


@functools.cache
def load(device: torch.device) -> str | None:
    """Find out whether the kernels run on a device, by launching one.

    Returns:
        None if they do, else the reason in one line, which is logged once. The op then runs on
        torch's own operators.
    """
    if build.is_switched_off():
        return build.SWITCHED_OFF
    reason = _trouble(torch.ones(4, device=device))
    if reason is not None:
        _log.warning("the GPU kernel is not available, backward passes run unfused: %s", reason)
    return reason


def remedy(reason: str) -> str:
    """Return what to do about a reason that `load` gave."""
    if "PDSEARCH_FUSED" in reason:
        return "unset PDSEARCH_FUSED"
    if "not installed" in reason:
        return "install torch's build for CUDA or ROCm, which comes with Triton"
    return "install a C compiler (Debian, Ubuntu: apt install gcc), or update the driver and torch"


def _trouble(probe: torch.Tensor) -> str | None:
    try:
        import triton  # noqa: F401 - torch's builds for the CPU and for macOS come without it
    except ImportError as error:
        return f"Triton is not installed: {error}"
    try:
        by_sides(0.5, 1.0, torch.float32, up=False)(probe, probe, 1.0)
    except Exception as error:  # no C compiler, an old driver, an old GPU: each has its own type
        said = first_line(str(error).strip()) or type(error).__name__
        return f"Triton cannot run a kernel on {probe.device}: {said[:300]}"
    return None


def by_table(table: torch.Tensor, *, up: bool) -> Scale:
    """Return the kernel for a table of the layout Tree.

    Args:
        table: as `Tree.table` returns it, on the CPU.
        up: whether gradients that would push an inactive unit down are dropped.
    """
    placed = functools.cache(lambda device: table.to(device))
    shape = _shape(table)

    def scale(grad_output: torch.Tensor, input: torch.Tensor, weight: float) -> torch.Tensor:
        from pdsearch.kernels.triton_kernels import scale_table

        grad_input = torch.empty_like(input)
        _launch(
            scale_table, (grad_output, input, grad_input),
            placed(input.device), weight, 1.0 - weight, int(up),
            **shape, TOP=torch.finfo(input.dtype).max,
        )  # fmt: skip
        return grad_input

    return scale


def by_sides(below: float, above: float, dtype: torch.dtype, *, up: bool) -> Scale:
    """Return the kernel for a g of two numbers; it needs the input or ReLU's output.

    Args:
        below: g where x <= 0.
        above: g where x > 0.
        dtype: beyond its largest number, g is that number.
        up: see `by_table`.
    """
    largest = torch.finfo(dtype).max
    below, above = (min(max(value, -largest), largest) for value in (below, above))

    def scale(grad_output: torch.Tensor, kept: torch.Tensor, weight: float) -> torch.Tensor:
        from pdsearch.kernels.triton_kernels import scale_sides

        grad_input = torch.empty_like(kept)
        weighted = weight * below, 1.0 + weight * (above - 1.0)
        _launch(scale_sides, (grad_output, kept, grad_input), *weighted, int(up))
        return grad_input

    return scale


def by_codes(values: torch.Tensor, *, up: bool) -> Scale:
    """Return the kernel for codes.

    Args:
        values: float32 (256,), on the CPU.
        up: see `by_table`.
    """
    placed = functools.cache(lambda device: values.to(device))

    def scale(grad_output: torch.Tensor, code: torch.Tensor, weight: float) -> torch.Tensor:
        from pdsearch.kernels.triton_kernels import scale_codes

        grad_input = torch.empty_like(code, dtype=grad_output.dtype)
        _launch(
            scale_codes, (grad_output, code, grad_input),
            placed(code.device), weight, 1.0 - weight, int(up),
        )  # fmt: skip
        return grad_input

    return scale


def encode(table: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from an input to its codes, uint8, same shape and strides.

    Args:
        table: of the layout Tree with the codes' steps in its header, on the CPU.
    """
    placed = functools.cache(lambda device: table.to(device))
    shape = _shape(table)

    def encoded(input: torch.Tensor) -> torch.Tensor:
        from pdsearch.kernels import triton_kernels

        code = torch.empty_like(input, dtype=torch.uint8)
        top = torch.finfo(torch.float32).max
        _launch(triton_kernels.encode, (input, code), placed(input.device), **shape, TOP=top)
        return code

    return encoded


def _shape(table: torch.Tensor) -> dict[str, int]:
    """Return the numbers of a table that the kernel is compiled for: eight kinds at most."""
    kind, size, degree = (int(value) for value in table[:3])
    assert kind == 2, "not a Tree"
    return {"LEVELS": size.bit_length() - 1, "DEGREE": degree}


def _launch(
    kernel: Any, tensors: tuple[torch.Tensor, ...], *arguments: Any, **constants: Any
) -> None:
    """Run a kernel over tensors of one shape; the last is the result, dense in memory."""
    # A view with the negative bit, such as the imaginary part of a conjugate, holds the opposite.
    tensors = tuple(tensor.resolve_neg() for tensor in tensors)
    with torch.cuda.device_of(tensors[-1]):
        for parts, sizes, strides in _parts(tensors):
            n, block = parts[-1].numel(), STRIDED_BLOCK if sizes else BLOCK
            kernel[(-(-n // block),)](
                *parts, n, sizes, *strides, *arguments,
                DIMS=len(sizes), BLOCK=block, num_warps=4, **constants,
            )  # fmt: skip


def _parts(
    tensors: tuple[torch.Tensor, ...],
) -> Iterator[tuple[Sequence[torch.Tensor], tuple[int, ...], list[tuple[int, ...]]]]:
    """Yield tensors, sizes and strides that a launch can index, none of them if nothing is there.

    No sizes mean that the elements follow one another in memory, in the same order in each tensor.
    """
    n, result = tensors[-1].numel(), tensors[-1]
    if n == 0:
        return
    if n <= LARGEST and all(tensor.stride() == result.stride() for tensor in tensors):
        yield tensors, (), [()] * len(tensors)
        return
    sizes, strides = _merged(tensors)
    if n > LARGEST or max(map(functools.partial(_reach, sizes), strides)) > LARGEST:
        views = _views(tensors, sizes, strides)
        half = sizes[0] // 2
        yield from _parts(tuple(view[:half] for view in views))
        yield from _parts(tuple(view[half:] for view in views))
    elif len(sizes) > MOST_DIMS:
        for row in zip(*_views(tensors, sizes, strides), strict=True):
            yield from _parts(row)
    elif len(sizes) <= 1 and all(stride in ((), (1,)) for stride in strides):
        yield tensors, (), [()] * len(tensors)
    else:
        yield tensors, sizes, strides


def _merged(
    tensors: tuple[torch.Tensor, ...],
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Return sizes and strides in the order of the result's memory, of as few dimensions as do."""
    shape, result = tensors[-1].shape, tensors[-1]
    dims = [d for d in range(result.dim()) if shape[d] != 1]
    order = sorted(dims, key=result.stride().__getitem__, reverse=True)
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in tensors]
    for d in order:
        steps = [tensor.stride(d) for tensor in tensors]
        if sizes and all(
            own[-1] == step * shape[d] for own, step in zip(strides, steps, strict=True)
        ):
            sizes[-1] *= shape[d]
            for own, step in zip(strides, steps, strict=True):
                own[-1] = step
        else:
            sizes.append(shape[d])
            for own, step in zip(strides, steps, strict=True):
                own.append(step)
    return tuple(sizes), [tuple(own) for own in strides]


def _reach(sizes: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements of memory lie between the first element and the last."""
    return sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


def _views(
    tensors: Sequence[torch.Tensor], sizes: Sequence[int], strides: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    return [tensor.as_strided(sizes, own) for tensor, own in zip(tensors, strides, strict=True)]
