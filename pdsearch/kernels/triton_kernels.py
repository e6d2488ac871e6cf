"""The GPU's kernels, in Triton: grad_input = grad_output · g(input), with g as data.

Each reads grad_output and what was kept once, and writes grad_input once. The arithmetic is that
of the tables' proofs: comparisons and sums in float32, and explicit fused multiply-adds in Horner's
rule. No setting flushes subnormal numbers to zero, so a jump of g at 0 lies at 0.

This module is imported only where a GPU asks for it: torch's builds for the CPU and for macOS come
without Triton.
"""

import triton
import triton.language as tl

__all__ = ["encode", "scale_codes", "scale_sides", "scale_table"]


@triton.jit
def _place(at, sizes, strides, DIMS: tl.constexpr):
    """Return where elements lie in memory.

    Args:
        at: their numbers, the last dimension running fastest.
        sizes: DIMS of them.
        strides: in elements.
        DIMS: 0 where the numbers are the places.
    """
    if DIMS == 0:
        place = at
    else:
        place = at * 0
        for back in tl.static_range(DIMS - 1):
            place += (at % sizes[DIMS - 1 - back]) * strides[DIMS - 1 - back]
            at = at // sizes[DIMS - 1 - back]
        place += at * strides[0]
    return place


@triton.jit
def _slope(x, table, LEVELS: tl.constexpr, DEGREE: tl.constexpr, TOP: tl.constexpr):
    """Return g at float32 numbers by a table of the layout Tree (`layout.py`).

    The stretch is found by bisection, its coefficients by gathering.
    """
    size: tl.constexpr = 1 << LEVELS
    # A pointer rather than an index: it saves three of seven instructions a level (sm_90).
    at = table + 16 + tl.full(x.shape, 0, tl.int32)
    for level in tl.static_range(LEVELS):
        half = size >> (level + 1)
        at = tl.where(x > tl.load(at + (half - 1)), at + half, at)
    u = tl.minimum(tl.maximum(x, -TOP), TOP) - tl.load(at + size)
    g = tl.load(at + (DEGREE + 2) * size)
    for k in tl.static_range(DEGREE):
        g = tl.fma(g, u, tl.load(at + (DEGREE + 1 - k) * size))
    return tl.where(x == x, g, x)


@triton.jit
def _product(grad, g, positive, weight, rest, up):
    """Return the rule's product in float32, as `Rule` of fused.h has it; NaN stays NaN."""
    slope = weight * g + tl.where(positive, rest, 0.0)
    dropped = (up != 0) & (positive == 0) & (grad >= 0) & (g == g)
    return tl.where(dropped, 0.0, grad * slope)


@triton.jit(do_not_specialize=["up"])
def scale_table(
    grad_output, kept, grad_input, n, sizes, of_grad, of_kept, of_result,
    table, weight, rest, up,
    DIMS: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr, DEGREE: tl.constexpr,
    TOP: tl.constexpr,
):  # fmt: skip
    """Scale by a table; `kept` is the input."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(kept + _place(at, sizes, of_kept, DIMS), inside, 0.0).to(tl.float32)
    grad = tl.load(grad_output + _place(at, sizes, of_grad, DIMS), inside, 0.0).to(tl.float32)
    g = _slope(x, table, LEVELS, DEGREE, TOP)
    if TOP < 1e38:  # float16: beyond its largest number, g is that number
        g = tl.where(g == g, tl.minimum(tl.maximum(g, -TOP), TOP), g)
    product = _product(grad, g, x > 0, weight, rest, up)
    place = grad_input + _place(at, sizes, of_result, DIMS)
    tl.store(place, product.to(grad_input.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["up"])
def scale_sides(
    grad_output, kept, grad_input, n, sizes, of_grad, of_kept, of_result,
    below, above, up,
    DIMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scale by two numbers; `kept` is the input or ReLU's output."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(kept + _place(at, sizes, of_kept, DIMS), inside, 0.0).to(tl.float32)
    grad = tl.load(grad_output + _place(at, sizes, of_grad, DIMS), inside, 0.0).to(tl.float32)
    g = tl.where(x == x, tl.where(x > 0, above, below), x)
    product = _product(grad, g, x > 0, 1.0, 0.0, up)
    place = grad_input + _place(at, sizes, of_result, DIMS)
    tl.store(place, product.to(grad_input.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["up"])
def scale_codes(
    grad_output, kept, grad_input, n, sizes, of_grad, of_kept, of_result,
    values, weight, rest, up,
    DIMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scale by what `encode` kept; with a fade or a direction, codes from 128 on mean x > 0."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    code = tl.load(kept + _place(at, sizes, of_kept, DIMS), inside, 0).to(tl.int32)
    grad = tl.load(grad_output + _place(at, sizes, of_grad, DIMS), inside, 0.0).to(tl.float32)
    product = _product(grad, tl.load(values + code), code >= 128, weight, rest, up)
    place = grad_input + _place(at, sizes, of_result, DIMS)
    tl.store(place, product.to(grad_input.dtype.element_ty), inside)


@triton.jit
def encode(
    input, code, n, sizes, of_input, of_code,
    table,
    DIMS: tl.constexpr, BLOCK: tl.constexpr, LEVELS: tl.constexpr, DEGREE: tl.constexpr,
    TOP: tl.constexpr,
):  # fmt: skip
    """Write the code of each element; the steps are in the table's header (`Header`, fused.h)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(input + _place(at, sizes, of_input, DIMS), inside, 0.0).to(tl.float32)
    g = _slope(x, table, LEVELS, DEGREE, TOP)
    levels, first = tl.load(table + 10), tl.load(table + 11)
    top, above = tl.load(table + 14), tl.load(table + 15)
    # Cut off to an integer below: the floor of what is not negative.
    level = tl.minimum(tl.maximum(g * levels + first, 0.0), top)
    level = tl.where(g == 0.0, top + 1, tl.where(g == 1.0, top + 2, level))
    level = tl.where(g == g, level, top + 3).to(tl.int32)
    level += tl.where(x > 0, above, 0.0).to(tl.int32)
    tl.store(code + _place(at, sizes, of_code, DIMS), level.to(tl.uint8), inside)
