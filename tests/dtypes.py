"""Refuses float64: in eager mode by a dispatch mode, in compiled graphs by their nodes."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd  # private; read in torch 2.14
from torch._functorch.aot_autograd import make_boxed_func  # likewise
from torch.utils import _pytree as torch_pytree
from torch.utils._python_dispatch import TorchDispatchMode


class NoFloat64(TorchDispatchMode):
    """Refuses float64 tensors, or those on one device."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in torch_pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self.device in (None, leaf.device.type):
                assert leaf.dtype != torch.float64, func
        return result


def without_float64(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
    """A compiler that runs the graph as it is, and fails where a node of it is float64."""
    for node in graph.graph.nodes:
        for leaf in torch_pytree.tree_leaves(node.meta.get("val")):
            wide = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64
            assert not wide, f"a float64 node: {node.format_node()}"
    return make_boxed_func(graph.forward)


no_float64_backend = aot_autograd(fw_compiler=without_float64, bw_compiler=without_float64)
"""For `torch.compile`."""
