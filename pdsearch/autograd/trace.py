"""Runs a model on an example, notes its ReLUs, walks the autograd graph, and leaves no trace."""

import random
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree  # private; read in torch 2.14

from pdsearch.autograd.calls import CLAMP, THRESHOLD, Place, place_of, relu_call, user_frame
from pdsearch.autograd.module import PDReLU
from pdsearch.errors import InputError, UnsupportedError, one_line

__all__ = ["Seen", "Trace", "run", "same_bits"]

# Of the nodes that torch's autograd makes for what is or may be ReLU; read in torch 2.14.
_NODES = ("ReluBackward", "ThresholdBackward")
_CLAMP_NODES = ("ClampMinBackward", "ClampBackward")
_FUSED = ("rnn_relu", "rnn_relu_cell", "_addmm_activation")
_FUSED_NODES = ("CudnnRnnBackward", "MiopenRnnBackward")


@dataclass
class Seen:
    """A ReLU that ran.

    Attributes:
        owner: The innermost registered module whose code was running; None outside any.
        place: Where the call is; None where no Python code made it.
        how: The function, such as `F.relu`.
        where: file:line.
        in_call: It ran outside the owner's `forward`, in a hook for one.
    """

    owner: str | None
    place: Place | None
    how: str
    where: str
    in_call: bool = False


@dataclass
class Trace:
    """What one run of a model showed.

    Attributes:
        values: Its outputs, and its inputs and buffers after it.
        seen: The ReLUs that were called as functions.
        ran: Names of the modules that were called.
        left: The ReLUs whose own gradient is on the graph.
    """

    values: dict[str, Any]
    seen: list[Seen]
    ran: set[str]
    left: list[Seen]


def run(model: nn.Module, example: Any, *, clamp: bool) -> Trace:
    """Run a model with gradients on an example: a tensor, a tuple of arguments or a dict of them.

    Buffers, random state, training flags, gradients and plain attributes are as before afterwards.

    Raises:
        InputError: The model does not take the example.
    """
    if any(nn.parameter.is_lazy(p) for p in (*model.parameters(), *model.buffers())):
        raise InputError(
            f"{type(model).__name__} has lazy layers that hold no weights yet: run it once before "
            "it is converted with an example"
        )
    args, kwargs, inputs = _arguments(example)
    recorder = _Recorder(model, clamp=clamp)
    with _unchanged(model), torch.compiler.set_stance("force_eager"), torch.enable_grad():
        try:
            with recorder, recorder.watching():
                output = model(*args, **kwargs)
        except UnsupportedError:  # ours, from a call of ReLU
            raise
        except Exception as error:  # any layer may refuse, each in its own way
            raise InputError(
                f"{type(model).__name__} fails on the example: {type(error).__name__}: "
                f"{one_line(error)[:200]}"
            ) from error
        with recorder:
            left = recorder.left(output)
        # Our own modules have buffers too, the model itself among them.
        ours = {id(b) for m in model.modules() if isinstance(m, PDReLU) for b in m.buffers()}
        others = {n: b for n, b in model.named_buffers() if id(b) not in ours}
        kept = {f"output {i + 1}": value for i, value in enumerate(_leaves(output))}
        kept.update({f"input {i + 1} after it": value for i, value in enumerate(inputs)})
        kept.update({f"buffer {name} after it": value for name, value in others.items()})
        values = {
            k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in kept.items()
        }
    return Trace(values, recorder.seen, recorder.ran, left)


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any], list[torch.Tensor]]:
    """Copies that ask for a gradient: a ReLU that only the input reaches is on the graph too."""

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach().clone()
        if value.is_floating_point() or value.is_complex():
            value = value.requires_grad_().clone()  # not a leaf: ReLU may be in place
        return value

    example = pytree.tree_map(copied, example)
    inputs = [v for v in pytree.tree_leaves(example) if isinstance(v, torch.Tensor)]
    if isinstance(example, Mapping):
        return (), dict(example), inputs
    return (example if isinstance(example, tuple) else (example,)), {}, inputs


def _leaves(output: Any, depth: int = 0) -> list[Any]:
    """Tensors and numbers of an output; of other objects, what their attributes hold."""
    found: list[Any] = []
    for leaf in pytree.tree_leaves(output):
        if leaf is None or isinstance(leaf, torch.Tensor | int | float | str):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and depth < 4 and not isinstance(leaf, type | nn.Module):
            found += _leaves(list(vars(leaf).values()), depth + 1)
    return found


def same_bits(first: Any, second: Any) -> bool:
    """Whether two values are equal, tensors bit for bit: signed zeros and NaN included."""
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return type(first) is type(second) and (first == second or first != first)
    if (first.dtype, first.shape, first.layout) != (second.dtype, second.shape, second.layout):
        return False
    if first.is_meta or first.numel() == 0:
        return True
    if first.layout is not torch.strided:
        first, second = first.to_dense(), second.to_dense()
    if first.is_quantized or first.is_nested:
        return bool(torch.equal(first, second))
    flat = [v.resolve_conj().resolve_neg().reshape(-1).contiguous() for v in (first, second)]
    return bool(torch.equal(*(v.view(torch.uint8) for v in flat)))


class _Recorder(TorchFunctionMode):
    """Notes the calls of ReLU, and which call each ReLU node of the graph came with."""

    def __init__(self, model: nn.Module, *, clamp: bool) -> None:
        super().__init__()
        self.clamp = clamp
        self.names = {id(module): name for name, module in model.named_modules()}
        self.seen: list[Seen] = []
        self.ran: set[str] = set()
        self.visited: set[Any] = set()  # nodes; held, so that no address is used twice
        self.source: dict[Any, Seen | None] = {}  # None: of a threshold that is not ReLU
        self.nodes = (*_NODES, *(_CLAMP_NODES if clamp else ()))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = relu_call(func, args, kwargs, clamp=self.clamp)
        fused = getattr(func, "__name__", "") in _FUSED
        seen = None
        if call is not None or fused:
            seen = self.locate(call.how if call is not None else func.__name__)
            if fused:
                seen.place = None
            self.seen.append(seen)
        result = func(*args, **kwargs)
        for node in self.fresh(result):
            other = func in THRESHOLD or func in CLAMP
            if seen is None and not other:
                self.source[node] = self.locate(getattr(func, "__name__", "a function"))
            else:
                self.source[node] = seen
        return result

    def locate(self, how: str) -> Seen:
        frame = sys._getframe(2)
        user = user_frame(frame)
        owner, in_call = self.owner(frame)
        if user is None:
            return Seen(owner, None, how, "", in_call)
        where = f"{user.f_code.co_filename}:{user.f_lineno}"
        return Seen(owner, place_of(user, how), how, where, in_call)

    def owner(self, frame: FrameType | None) -> tuple[str | None, bool]:
        """The innermost module whose code is running, and whether that is not its forward."""
        while frame is not None:
            code = frame.f_code
            first = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
            if isinstance(first, nn.Module) and id(first) in self.names:
                outside = code.co_name in ("_call_impl", "_wrapped_call_impl", "__call__")
                return self.names[id(first)], outside
            frame = frame.f_back
        return None, False

    def fresh(self, result: Any) -> Iterator[Any]:
        """ReLU's nodes below a result that were not there before."""
        todo = [
            leaf.grad_fn
            for leaf in pytree.tree_leaves(result)
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None
        ]
        while todo:
            node = todo.pop()
            if node in self.visited:
                continue
            self.visited.add(node)
            if node.name().startswith(self.nodes):
                yield node
            todo += [parent for parent, _ in node.next_functions if parent is not None]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes which modules run; what no function mode sees, a scripted module, by its output."""

        def before(module: nn.Module, inputs: Any) -> None:
            if id(module) in self.names:
                self.ran.add(self.names[id(module)])

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            with torch._C.DisableTorchFunction():
                name = self.names.get(id(module))
                for node in self.fresh(output):
                    self.source[node] = Seen(name, None, type(module).__name__, "")

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(before),
            nn.modules.module.register_module_forward_hook(after),
        ]
        try:
            with warnings.catch_warnings():
                # They fire once more for a compiled module, which does no harm here.
                warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there")
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def left(self, output: Any) -> list[Seen]:
        """The ReLU nodes on the output's graph; what a checkpoint runs again in the backward pass.

        Reentrant checkpoints keep no graph but the function that makes it: it is run here.
        """
        found = []
        done: set[Any] = set()
        todo = deque(
            leaf.grad_fn
            for leaf in pytree.tree_leaves(_leaves(output))
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None
        )
        while todo:
            node = todo.popleft()
            if node in done:
                continue
            done.add(node)
            name = node.name()
            if name.startswith(self.nodes):
                zero = getattr(node, "_saved_threshold", 0) == 0
                seen = self.source.get(node, Seen(None, None, name, ""))
                if seen is not None and zero:
                    found.append(seen)
            elif name == "CheckpointFunctionBackward":
                again = _recompute(node)
                todo += [t.grad_fn for t in again if t.grad_fn is not None]
            todo += [parent for parent, _ in node.next_functions if parent is not None]
        return found


def _recompute(node: Any) -> list[torch.Tensor]:
    """What `torch.utils.checkpoint`'s reentrant backward pass does first (torch 2.14)."""
    inputs = list(node.inputs)
    for index, tensor in zip(node.tensor_indices, node.saved_tensors, strict=True):
        inputs[index] = tensor.detach().requires_grad_(tensor.requires_grad)
    with torch.enable_grad():
        output = node.run_function(*inputs)
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


# --------------------------------------------------------------------------------- as it was


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever a forward pass changes in a model, and random state, put back."""
    modules = list(model.modules())
    plain = [(module, _contents(module)) for module in modules]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, contents in plain:
            _put_back(module, contents)
        with torch.no_grad():
            for buffer, value in buffers:
                if not same_bits(buffer, value):
                    buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _contents(module: nn.Module) -> dict[str, tuple[Any, tuple[Any, ...] | None]]:
    """Attributes, and what is in those that may change in place."""
    return {name: (value, _items(value)) for name, value in vars(module).items()}


def _items(value: Any) -> tuple[Any, ...] | None:
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list | set | deque) else None


def _put_back(module: nn.Module, contents: dict[str, tuple[Any, tuple[Any, ...] | None]]) -> None:
    attributes = vars(module)
    for name in [name for name in attributes if name not in contents]:
        del attributes[name]
    for name, (value, before) in contents.items():
        if attributes.get(name) is not value:
            attributes[name] = value
        if before is None or _same(_items(value), before):
            continue
        value.clear()
        (value.update if isinstance(value, dict | set) else value.extend)(before)


def _same(now: Any, before: Any) -> bool:
    """Whether two tuples hold the same objects; of pairs, the same parts."""
    return len(now) == len(before) and all(
        a is b or (type(a) is type(b) is tuple and len(a) == 2 and _same(a, b))
        for a, b in zip(now, before, strict=True)
    )
