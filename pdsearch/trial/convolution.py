"""Convolutions on small maps on a CPU, where torch's own leave half the time unused.

On the 2×2 and 4×4 maps at the end of a network for 32×32 images, oneDNN's convolutions take several
times as long as the equivalent matrix products. Milliseconds in AlexNet's layers at batch 256, the
best of 15 on one core of an EPYC with AVX-512 (torch 2.14), in bfloat16, oneDNN → here:

================= =========== =========== ===========
layer             output      input       weights
================= =========== =========== ===========
conv2, 5×5 on 4×4 3.6 (kept)  5.6 (kept)  13.6 → 9.0
conv3, 3×3 on 2×2 9.8 → 1.5   9.8 → 1.3   17.4 → 1.6
conv4, 3×3 on 2×2 11.6 → 1.9  11.9 → 1.8  25.8 → 2.1
conv5, 3×3 on 2×2 6.6 → 1.4   3.8 → 1.2   14.9 → 1.5
================= =========== =========== ===========

A training step of the whole network went from 268 to 122 ms; in float32, on one core of a Xeon with
AVX-512 but no matrix unit, from 243 to 136. The gradients' distance from float64's is unchanged. On
8×8 maps both take the same time.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

LARGEST = 16  # positions of a map up to which matrix products compute the weights' gradient
DENSE = 4  # positions up to which the whole layer is one matrix


def hasten(model: nn.Module) -> None:
    """Speed up a model's convolutions of stride 1 and same padding, in place.

    Names, weights and `state_dict` stay; results differ in rounding alone.
    """
    for module in model.modules():
        # A subclass may compute something else.
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = _Convolution


def _fits(module: nn.Conv2d) -> bool:
    return (
        module.stride == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.kernel_size != (1, 1)
        and not isinstance(module.padding, str)
        and all(2 * p == k - 1 for p, k in zip(module.padding, module.kernel_size, strict=True))
    )


class _Convolution(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        small = input.dim() == 4 and input.shape[2] * input.shape[3] <= LARGEST
        if not small or input.device.type != "cpu":
            return super().forward(input)
        half = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if half else input.dtype
        bias = self.bias.to(dtype) if self.bias is not None else None
        made: torch.Tensor = _SmallMap.apply(input.to(dtype), self.weight.to(dtype), bias)
        return made


class _SmallMap(torch.autograd.Function):
    """A convolution of stride 1 and same padding, by matrix products over pairs of positions.

    With p an output and q an input position, y[p] = Σ_q W[q − p] x[q]: a tap of the kernel is a
    matrix from input to output channels, used by all pairs of positions at its offset.
    """

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        n, _, height, width = input.shape
        x = input.contiguous(memory_format=torch.channels_last)
        positions = height * width
        if positions <= DENSE:
            matrix = _dense(weight, height, width)
            # Not a view of the product: autograd refuses to let a ReLU in place overwrite one.
            made = torch.empty(
                (n, len(weight), height, width),
                dtype=x.dtype,
                device=x.device,
                memory_format=torch.channels_last,
            )
            if bias is not None:
                torch.addmm(bias.repeat(positions), _rows(x), matrix.t(), out=_rows(made))
            else:
                torch.mm(_rows(x), matrix.t(), out=_rows(made))
            ctx.save_for_backward(x, weight, matrix)
            return made
        ctx.save_for_backward(x, weight, None)
        return F.conv2d(x, weight, bias, padding=_padding(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, matrix = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        for_input = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            if matrix is not None:
                flat = _rows(grad) @ matrix
                for_input = flat.view(n, height, width, channels).permute(0, 3, 1, 2)
            else:
                for_input = torch.ops.aten.convolution_backward(
                    grad, x, weight, None, [1, 1], _padding(weight), [1, 1], False, [0, 0], 1,
                    [True, False, False],
                )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            for_weight = _weight_gradient(x, grad, weight)
        if ctx.needs_input_grad[2]:
            exact = torch.promote_types(grad.dtype, torch.float32)
            for_bias = grad.sum((0, 2, 3), dtype=exact).to(grad.dtype)
        return for_input, for_weight, for_bias


def _rows(images: torch.Tensor) -> torch.Tensor:
    """``(n, c, h, w)``, channels last, as ``(n, h·w·c)`` without a copy."""
    return images.permute(0, 2, 3, 1).reshape(len(images), -1)


def _padding(weight: torch.Tensor) -> list[int]:
    return [weight.shape[2] // 2, weight.shape[3] // 2]


def _span(offset: int, size: int) -> tuple[slice, slice]:
    """Output and input positions along an axis that are ``offset`` apart."""
    first, last = max(0, -offset), min(size, size - offset)
    return slice(first, last), slice(first + offset, last + offset)


def _dense(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The convolution as a matrix ``(h·w·out, h·w·in)``, positions before channels."""
    out, channels, tall, wide = weight.shape
    taps = weight.permute(2, 3, 0, 1)
    # Filling 15 MB with zeros first would take AlexNet 2 % of its time.
    covers = tall // 2 >= height - 1 and wide // 2 >= width - 1  # a tap for every two positions
    make = weight.new_empty if covers else weight.new_zeros
    matrix = make(height, width, out, height, width, channels)
    for row, column, down, across in product(range(height), range(width), repeat=2):
        tap = down - row + tall // 2, across - column + wide // 2
        if 0 <= tap[0] < tall and 0 <= tap[1] < wide:
            matrix[row, column, :, down, across] = taps[tap]
    return matrix.view(height * width * out, height * width * channels)


def _weight_gradient(x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    out, channels, tall, wide = weight.shape
    height, width = x.shape[2:]
    inputs, outputs = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    # Channels last, like the weight: autograd would copy a gradient of another layout.
    used = tall // 2 < height and wide // 2 < width  # every tap has two positions
    made = (weight.new_empty if used else weight.new_zeros)(out, tall, wide, channels)
    for row, column in product(range(tall), range(wide)):
        down, below = _span(row - tall // 2, height)
        across, beside = _span(column - wide // 2, width)
        if down.start < down.stop and across.start < across.stop:
            left = outputs[:, down, across].reshape(-1, out)
            right = inputs[:, below, beside].reshape(-1, channels)
            torch.mm(left.t(), right, out=made[:, row, column])
    return made.permute(0, 3, 1, 2)
