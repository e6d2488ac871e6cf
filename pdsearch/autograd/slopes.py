"""g and its derivatives as functions that autograd can differentiate in every mode."""

import math
from typing import Any, cast

import torch

from pdsearch.float32_family import Formula

__all__ = ["Push", "Slope"]


class Slope(torch.autograd.Function):
    """`g⁽ᵒʳᵈᵉʳ⁾(input)`, differentiable in every mode; the next order is the symbolic derivative.

    Of the input alone: a backward pass multiplies the gradient that comes in by it with torch's own
    operator. A Function of both factors loses its graph where torch batches incoming gradients
    (is_grads_batched with create_graph, torch 2.14), and with it a term of the second derivative.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: torch.Tensor, numbers: torch.Tensor, formula: Formula, order: int
    ) -> torch.Tensor:
        return formula(input, numbers, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.formula, ctx.order = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slope = Slope.apply(*ctx.saved_tensors, ctx.formula, ctx.order + 1)
        return grads[0] * slope, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        found = Push.apply(ctx.formula, ctx.order + 1, *ctx.saved_tensors, tangents[0])
        return cast(torch.Tensor, found)


class Push(torch.autograd.Function):
    """The product of some tangents and g⁽ᵒʳᵈᵉʳ⁾(input): what every `jvp` returns.

    Torch switches forward-mode AD off inside a Function's jvp for all levels of it, so that the
    next outer level silently treats torch's own products and sums as constants (torch 2.14). A
    Function sees all levels, so the product and the sum are Functions.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        formula: Formula,
        order: int,
        input: torch.Tensor,
        numbers: torch.Tensor,
        *tangents: torch.Tensor,
    ) -> torch.Tensor:
        return math.prod(tangents, start=formula(input, numbers, order))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.formula, ctx.order, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, numbers, *tangents = ctx.saved_tensors
        upstream = grads[0]

        def slope(order: int) -> torch.Tensor:
            return cast(torch.Tensor, Slope.apply(input, numbers, ctx.formula, order))

        to_tangents = [
            math.prod(tangents[:i] + tangents[i + 1 :], start=upstream * slope(ctx.order))
            if ctx.needs_input_grad[4 + i]
            else None
            for i in range(len(tangents))
        ]
        to_input = None
        if ctx.needs_input_grad[2]:
            to_input = math.prod(tangents, start=upstream * slope(ctx.order + 1))
        return None, None, to_input, None, *to_tangents

    @staticmethod
    def jvp(ctx: Any, *moved: torch.Tensor | None) -> torch.Tensor:
        input, numbers, *tangents = ctx.saved_tensors
        terms = [
            Push.apply(
                ctx.formula, ctx.order, input, numbers, *tangents[:i], move, *tangents[i + 1 :]
            )
            for i, move in enumerate(moved[4:])
            if move is not None
        ]
        if moved[2] is not None:
            terms.append(
                Push.apply(ctx.formula, ctx.order + 1, input, numbers, *tangents, moved[2])
            )
        return cast(torch.Tensor, Sum.apply(*terms))


class Sum(torch.autograd.Function):
    """The sum of some tensors of one shape, for `Push.jvp`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*terms: torch.Tensor) -> torch.Tensor:
        return torch.stack(terms).sum(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.count = len(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (grads[0],) * ctx.count

    @staticmethod
    def jvp(ctx: Any, *moved: torch.Tensor | None) -> torch.Tensor:
        return cast(torch.Tensor, Sum.apply(*[move for move in moved if move is not None]))
