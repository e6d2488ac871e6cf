"""The backward pass by torch's own operators in float32, on any device.

An exported file holds the same steps in its template, because it stands alone.
"""

from collections.abc import Callable

import torch

__all__ = ["by_operators"]

PART = 1 << 16
"""Elements that a CPU thread computes at a time, so that the steps between stay in its cache."""


def by_operators(
    g: Callable[[torch.Tensor], torch.Tensor], *, up: bool
) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """Return a function of grad_output, the input and the weight of g, which gives grad_input.

    Args:
        g: Of a float32 tensor, in float32.
        up: Whether gradients that would push an inactive unit down are dropped.
    """

    def part(grad_output: torch.Tensor, x: torch.Tensor, weight: float) -> torch.Tensor:
        wide = x.float()
        slope = g(wide)
        if weight != 1.0:
            slope = torch.relu(wide).sign_().lerp_(slope, weight)
        if x.dtype == torch.float16:
            largest = torch.finfo(x.dtype).max
            slope = slope.clamp_(-largest, largest)
        if up:  # both terms are exact, and one of them is 0
            risen = torch.ops.aten.threshold_backward(grad_output.clamp(min=0.0), x, 0)
            grad_output = grad_output.clamp(max=0.0) + risen
        return grad_output * slope.to(x.dtype)

    def whole(grad_output: torch.Tensor, x: torch.Tensor, weight: float) -> torch.Tensor:
        flat = _flat(grad_output, x)
        if flat is None:
            return part(grad_output, x, weight)
        result = torch.empty_like(flat[1])
        size = PART * torch.get_num_threads()
        for grad, piece, to in zip(*(v.split(size) for v in (*flat, result)), strict=True):
            to.copy_(part(grad, piece, weight))
        return result.as_strided(x.shape, x.stride())

    return whole


def _flat(grad_output: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return both as vectors in the order of memory; None where that has no use."""
    both = (grad_output, x)
    if x.device.type != "cpu" or x.numel() <= PART or type(x) is not torch.Tensor:
        return None
    if all(v.is_contiguous() for v in both):
        return grad_output.view(-1), x.view(-1)
    if all(v.dim() == 4 and v.is_contiguous(memory_format=torch.channels_last) for v in both):
        first, second = (v.permute(0, 2, 3, 1).view(-1) for v in both)
        return first, second
    return None
