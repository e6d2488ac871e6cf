"""Puts modules where a model computes ReLU, and takes them out again."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import fx, nn

from pdsearch.autograd.calls import (
    ANYWHERE,
    ATTRIBUTE,
    Calls,
    original_class,
    unwrap,
    wrap,
    wrapped_methods,
)
from pdsearch.autograd.module import PDReLU
from pdsearch.autograd.patterns import Choice
from pdsearch.autograd.sites import Caller, Entry, Survey

__all__ = ["Installer", "Make", "in_place"]

Make = Callable[[Entry, str], nn.Module]

# What hooks on a module are kept in; read in torch 2.14. Shared, so that their handles still work.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)

_FUSED = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)


def in_place(entry: Entry) -> bool:
    """Whether a module or node of an fx graph overwrites its input."""
    if entry.kind == "module":
        return bool(getattr(entry.owner, "inplace", False))
    return entry.kind == "node" and (
        "inplace=True" in entry.how or entry.how.endswith(("_", "_.default"))
    )


class Installer:
    """Changes a model, and keeps on `undo` how to change it back."""

    def __init__(
        self,
        model: nn.Module,
        make: Make,
        choose: Choice,
        undo: ExitStack,
        *,
        clamp: bool,
        tried: bool,
    ) -> None:
        self.model, self.make, self.choose, self.undo = model, make, choose, undo
        self.clamp, self.tried = clamp, tried
        self.new: set[nn.Module] = set()
        self.parents: dict[nn.Module | None, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            # Not named_children, which names a module once where two attributes hold it.
            for name, child in module._modules.items():
                self.parents.setdefault(child, []).append((module, name))
        tensors = (*model.parameters(), *model.buffers())
        self.device = next((t.device for t in tensors if not t.is_meta), torch.device("cpu"))

    def install(self, found: Survey) -> nn.Module:
        """The model, or what stands for it if it is a ReLU itself."""
        result = self.model
        for entry in found.entries:
            pattern = self.choose(entry.names)
            if pattern is None or entry.kind in ("call", "fused"):
                continue
            new = self._made(entry, pattern)
            if entry.kind == "module":
                _keep_hooks(entry.owner, new)
                if entry.owner is self.model:
                    result = new
                self._in_parents(entry.owner, new)
            elif entry.kind == "attribute":
                value = vars(entry.owner).pop(entry.key)
                self.undo.callback(vars(entry.owner).__setitem__, entry.key, value)
                self._put(entry.owner, entry.key, new)
            else:
                self._in_graph(entry, new)
        for caller in found.callers:
            self._redirect(caller, [e for e in found.entries if e.owner is caller.module])
        if found.callers:
            self._shield(found)
        self._renew()
        return result

    def _made(self, entry: Entry, pattern: str) -> nn.Module:
        new = self.make(entry, pattern)
        self.new.add(new)
        return new.train(entry.owner.training).to(self.device)

    def _in_parents(self, old: nn.Module, new: nn.Module) -> None:
        for module, name in self.parents.get(old, ()):
            self._put(module, name, new)

    def _put(self, module: nn.Module, name: str, new: nn.Module) -> None:
        children = module._modules
        if name in children:
            self.undo.callback(children.__setitem__, name, children[name])
        else:
            self.undo.callback(children.pop, name)
        children[name] = new

    def _in_graph(self, entry: Entry, new: nn.Module) -> None:
        module, node = entry.owner, entry.key
        assert isinstance(module, fx.GraphModule)
        name = entry.names[0].rpartition(".")[2]
        self._put(module, name, new)
        graph = module.graph
        given = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_before(node):
            call = graph.call_module(name, (given,))
        call.meta = dict(node.meta)

        def back() -> None:
            input = call.args[0]
            kwargs = {k: v for k, v in node.kwargs.items() if k != "input"}
            with graph.inserting_before(call):
                old = graph.create_node(
                    node.op, node.target, (input, *rest), kwargs, node.name, node.type
                )
            old.name, old.meta = node.name, dict(node.meta)
            call.replace_all_uses_with(old)
            graph.erase_node(call)
            module.recompile()

        rest = node.args[1:]
        node.replace_all_uses_with(call)
        graph.erase_node(node)
        module.recompile()
        self.undo.callback(back)

    def _hide(self, entry: Entry) -> None:
        """Have a node of an fx graph stay ReLU, by the operator that no mode takes for a call."""
        node, module = entry.key, entry.owner
        assert isinstance(module, fx.GraphModule)
        before = (node.op, node.target, node.args, node.kwargs)

        def become(op: str, target: Any, args: Any, kwargs: Any) -> None:
            node.op, node.target, node.args, node.kwargs = op, target, args, kwargs
            module.recompile()

        input = node.args[0] if node.args else node.kwargs["input"]
        aten = torch.ops.aten
        target = aten.relu_.default if in_place(entry) else aten.relu.default
        become("call_function", target, (input,), {})
        self.undo.callback(become, *before)

    def _redirect(self, caller: Caller, entries: list[Entry]) -> None:
        """Children for a module's calls, and its class exchanged for one that hands them on."""
        module, holder = caller.module, caller.holder
        known: Calls | None = vars(module).get(ATTRIBUTE)
        calls = Calls(clamp=self.clamp or (known is not None and known.clamp))
        calls.holder = None if holder is module else holder
        chosen: set[str | None] = set()
        for entry in entries:
            pattern = self.choose(entry.names)
            name: str | None = entry.names[0].removeprefix(caller.prefix)
            if pattern is not None:
                self._put(holder, str(name), self._made(entry, pattern))
            elif entry.current is None:
                name = None
            chosen.add(pattern)
            calls.sites[entry.key] = name
            calls.how[entry.key] = (entry.how, entry.where)
        calls.default = next((name for name in calls.sites.values() if name), None)
        if not entries:
            pattern = self.choose([caller.default])
            name = caller.default.removeprefix(caller.prefix)
            if pattern is not None:
                stands = Entry("call", (caller.default,), module, None, "F.relu")
                self._put(holder, name, self._made(stands, pattern))
                calls.default = name
                if not self.tried:
                    calls.sites[ANYWHERE] = name
                    calls.how[ANYWHERE] = ("functions", "")
            elif known is not None:
                calls.default = known.default
        calls.uniform = len(chosen) < 2
        methods = caller.methods
        if known is not None:
            self.undo.callback(wrap, module, known, wrapped_methods(module))
        else:
            self.undo.callback(unwrap, module)
        wrap(module, calls, methods)

    def _renew(self) -> None:
        """Have what `torch.compile(module)` returned call the module as it is now.

        It keeps the module's bound `__call__`, which may be another module's or class's by now.
        """
        for module in self.model.modules():
            kind = original_class(module)
            # Private, as is the method; read in torch 2.14. To import it takes a second.
            if (kind.__module__, kind.__name__) == ("torch._dynamo.eval_frame", "OptimizedModule"):
                attributes = vars(module)
                self.undo.callback(attributes.__setitem__, "forward", attributes["forward"])
                cast(Any, module)._initialize()

    def _shield(self, found: Survey) -> None:
        """Keep what must not change from seeing the function mode of a module around it.

        ReLU modules that stay would be taken for calls; torch's fused inference would end.
        """
        for entry in found.entries:
            left = entry.kind == "module" and self.choose(entry.names) is None
            if left and not isinstance(entry.owner, PDReLU) and ATTRIBUTE not in vars(entry.owner):
                self.undo.callback(unwrap, entry.owner)
                wrap(entry.owner, Calls(), ["forward"])
            if entry.kind == "node" and self.choose(entry.names) is None:
                self._hide(entry)
        for module in self.model.modules():
            if isinstance(module, _FUSED) and ATTRIBUTE not in vars(module):
                self.undo.callback(unwrap, module)
                wrap(module, Calls(suspends=True), ["forward"])


def _keep_hooks(old: nn.Module, new: nn.Module) -> None:
    for name in _HOOKS:
        if name in vars(old):
            vars(new)[name] = vars(old)[name]
