"""What convert must do to a model, found without any of its code.

The gradient: torch's own backward pass of the plain model, under a dispatch mode that exchanges
the one operator that ReLU's backward is, `threshold_backward(grad, output, 0)`, for the slope of a
leaky ReLU, which the sign of the output tells. It sees every ReLU, whatever called it.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pdsearch import Candidate, convert, load_family

ALPHA = 0.25
LEAKY: Candidate = load_family("leaky").bind(alpha=ALPHA)


class _LeakyBackward(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.threshold_backward.default and args[2] == 0:
            return args[0] * torch.where(args[1] > 0, 1.0, ALPHA).to(args[0].dtype)
        return func(*args, **(kwargs or {}))


def tensors(output: Any) -> list[torch.Tensor]:
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def call(model: nn.Module, example: Any) -> list[torch.Tensor]:
    torch.manual_seed(1)
    if isinstance(example, dict):
        return tensors(model(**example))
    return tensors(model(*example) if isinstance(example, tuple) else model(example))


def gradient_of(leaf: torch.Tensor) -> torch.Tensor:
    """What backward passes have left with a tensor."""
    assert leaf.grad is not None
    return leaf.grad


def gradients(model: nn.Module, example: Any) -> list[torch.Tensor | None]:
    model.zero_grad()
    floats = [o for o in call(model, example) if o.requires_grad]
    sum(o.double().square().sum() + o.double().sum() for o in floats).backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def leaky_gradients(model: nn.Module, example: Any) -> list[torch.Tensor | None]:
    """What the gradients of a model of plain ReLUs become with LEAKY in their place."""
    with _LeakyBackward():
        return gradients(model, example)


def relu_nodes(outputs: list[torch.Tensor]) -> int:
    """ReLU nodes on an autograd graph."""
    seen, todo, count = set(), [o.grad_fn for o in outputs], 0
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        zero = getattr(node, "_saved_threshold", 0) == 0
        count += node.name().startswith(("ReluBackward", "ThresholdBackward")) and zero
        todo += [parent for parent, _ in node.next_functions]
    return count


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def check_converts(model: nn.Module, example: Any, *, verify: bool = True) -> nn.Module:
    """Convert a model and compare it with itself: outputs, gradients, state, graph."""
    state = copy.deepcopy(model.state_dict())
    wanted = leaky_gradients(model, example)
    model.load_state_dict(state)
    plain = call(model, example)
    model.load_state_dict(state)
    flags = {name: module.training for name, module in model.named_modules()}
    random = torch.get_rng_state()
    model = convert(model, LEAKY, example=example if verify else None)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(bits(value), bits(state[name])), name
    now = {name: module.training for name, module in model.named_modules()}
    assert {name: now[name] for name in flags} == flags
    outputs = call(model, example)
    assert relu_nodes(outputs) == 0
    for one, other in zip(outputs, plain, strict=True):
        assert torch.equal(bits(one), bits(other))
    model.load_state_dict(state)
    compare(gradients(model, example), wanted)
    return model


def compare(found: list[torch.Tensor | None], wanted: list[torch.Tensor | None]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            scale = other.abs().max().clamp(min=1e-6)
            assert ((one - other).abs().max() / scale) < 1e-4
