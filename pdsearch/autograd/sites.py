"""The ReLUs of a model: where each is, how it is called, and whether it was converted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from pdsearch.autograd import scan
from pdsearch.autograd.calls import ATTRIBUTE, RELU, Calls, Place, original_class, wrapped_methods
from pdsearch.autograd.module import PDReLU
from pdsearch.autograd.trace import Seen, Trace, run
from pdsearch.errors import InputError

__all__ = ["Caller", "Entry", "Site", "Survey", "free_name", "relu_sites", "survey"]

_ATEN = {
    torch.ops.aten.relu.default: False,
    torch.ops.aten.relu_.default: True,
}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Site:
    """A place in a model where ReLU is computed.

    Attributes:
        name: What the patterns of `convert` match: the module's name, or for a call of a function
            the name of the module that `convert` puts in for it.
        call: How it is called, such as `nn.ReLU` or `F.relu`.
        where: file:line of the call, where known.
        converted: Whether a pseudo-derivative is in its place.
        note: The pseudo-derivative, or why there is none.
    """

    name: str
    call: str
    where: str
    converted: bool
    note: str


@dataclass(eq=False)
class Entry:
    """A site as `convert` works on it.

    Attributes:
        kind: "module": replaced in its parents. "attribute": a function in an attribute of one of
            torch's own modules. "node": of an fx graph. "call": in Python code. "fused": inside
            a kernel, out of reach.
        names: The site's name; a module's other ones after it.
        owner: The module itself, or the one with the attribute, node or calling code.
        key: The attribute's name, the node or the place.
        how: As `Site.call`.
        where: As `Site.where`.
        current: The module that computes it; None for a function.
        note: Why it cannot be reached, or what is unsure about it.
    """

    kind: str
    names: tuple[str, ...]
    owner: nn.Module
    key: Any
    how: str
    where: str = ""
    current: nn.Module | None = None
    note: str = ""


@dataclass(eq=False)
class Caller:
    """A module whose code calls ReLU, or may.

    Attributes:
        module: The module.
        holder: The module that has, or gets, the children that stand for the calls.
        prefix: The holder's name and a dot, or nothing.
        default: The name of the site for calls at unknown places.
        methods: That have to run redirected.
    """

    module: nn.Module
    holder: nn.Module
    prefix: str
    default: str
    methods: set[str]


@dataclass(eq=False)
class Survey:
    """All of a model's ReLUs."""

    entries: list[Entry] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)


def relu_sites(model: nn.Module, example: Any = None, *, clamp: bool = False) -> list[Site]:
    """List the ReLUs of a model, before `convert` or after it.

        >>> import torch
        >>> from pdsearch import relu_sites
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> [(site.name, site.call) for site in relu_sites(model)]
        [('1', 'nn.ReLU')]

    Args:
        model: Any module. It is not changed.
        example: What the model takes: a tensor, a tuple of arguments, or a dict of keyword
            arguments. The model is run on it once, so that calls which its code does not show are
            found too. Without it, functions are looked for in the bytecode alone.
        clamp: Whether `clamp(min=0)` counts.

    Raises:
        InputError: The model is not a module, or does not take the example.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"relu_sites needs a torch.nn.Module, got {type(model).__name__}")
    trace = None if example is None else run(model, example, clamp=clamp)
    found = survey(model, trace, clamp=clamp)
    return [_site(entry) for entry in found.entries]


def _site(entry: Entry) -> Site:
    converted = isinstance(entry.current, PDReLU)
    if isinstance(entry.current, PDReLU):
        note = f"{entry.current.candidate.name}: {entry.current.candidate.formula}"
    else:
        note = entry.note or "not converted"
    return Site(entry.names[0], entry.how, entry.where, converted, note)


def survey(model: nn.Module, trace: Trace | None, *, clamp: bool) -> Survey:
    """Every ReLU of a model, in the order of its modules.

    Args:
        model: Any module.
        trace: Of a run of it, if there was one.
        clamp: Whether `clamp(min=0)` counts.
    """
    found = Survey()
    aliases: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        aliases.setdefault(module, []).append(name)
    stand_ins = {id(child) for module in aliases for child in _stand_ins(module)}
    taken: dict[nn.Module, set[str]] = {}
    scripted: list[str] = []
    for module, names in aliases.items():
        if id(module) in stand_ins:
            continue
        entry = _of_module(module, names)
        if isinstance(module, torch.jit.ScriptModule):
            if entry is None or any(names[0].startswith(outer) for outer in scripted):
                continue
            scripted.append(f"{names[0]}." if names[0] else "")
        if entry is not None:
            if trace is not None:
                places = [seen.where for seen in trace.seen if seen.owner == names[0]]
                entry.where = places[0] if places else ""
                if names[0] not in trace.ran and not entry.note:
                    entry.note = "not called by the example"
            found.entries.append(entry)
        elif isinstance(module, fx.GraphModule):
            found.entries += _of_graph(module, names, taken)
        else:
            entries = list(_of_attributes(module, names))
            found.entries += entries
            caller, calls = _of_calls(model, module, names, trace, aliases, taken, clamp=clamp)
            if caller is not None and not entries:
                found.callers.append(caller)
                found.entries += calls
    if trace is not None:
        found.entries += _out_of_reach(model, trace, found)
    return found


def _stand_ins(module: nn.Module) -> Iterator[nn.Module]:
    calls: Calls | None = vars(module).get(ATTRIBUTE)
    if calls is not None:
        holder = calls.holder or module
        for name in {*calls.sites.values(), calls.default} - {None}:
            yield getattr(holder, str(name))


def _of_module(module: nn.Module, names: list[str]) -> Entry | None:
    """The entry of a module that is ReLU, or holds one in a kernel."""
    kind = original_class(module)
    paths = tuple(names)
    if isinstance(module, PDReLU):
        how = "nn.Threshold(0, 0)" if module.zero else "nn.ReLU"
        how += "(inplace=True)" if module.inplace and not module.zero else ""
        return Entry("module", paths, module, None, how, current=module)
    own = bool(module._parameters or module._modules or module._buffers) or "forward" in vars(
        module
    )
    if not own and kind.__call__ is nn.Module.__call__:
        if isinstance(module, nn.ReLU) and kind.forward is nn.ReLU.forward:
            how = "nn.ReLU(inplace=True)" if module.inplace else "nn.ReLU"
            return Entry("module", paths, module, None, how, current=module)
        if isinstance(module, nn.Threshold) and kind.forward is nn.Threshold.forward:
            if module.threshold == 0 and module.value == 0:
                return Entry("module", paths, module, None, "nn.Threshold(0, 0)", current=module)
            return None
    if isinstance(module, nn.RNN | nn.RNNCell) and module.nonlinearity == "relu":
        how = f"nn.{kind.__name__}(nonlinearity='relu')"
        return Entry("fused", paths, module, None, how, note="its ReLU is inside a kernel")
    if isinstance(module, torch.jit.ScriptModule):
        graph = str(getattr(module, "inlined_graph", ""))
        if "aten::relu" in graph or "aten::threshold" in graph:
            how = f"TorchScript {getattr(module, 'original_name', kind.__name__)}"
            return Entry("fused", paths, module, None, how, note="its code is compiled")
    return None


def _of_graph(
    module: fx.GraphModule, names: list[str], taken: dict[nn.Module, set[str]]
) -> Iterator[Entry]:
    for node in module.graph.nodes:
        inplace = bool(node.kwargs.get("inplace", len(node.args) > 1 and node.args[1]))
        if node.op == "call_function" and node.target in _ATEN:
            how, inplace = str(node.target), _ATEN[node.target]
        elif node.op == "call_function" and node.target in RELU:
            how = RELU[node.target]
        elif node.op == "call_method" and node.target in ("relu", "relu_"):
            how = f"Tensor.{node.target}"
        else:
            continue
        how += "(inplace=True)" if inplace and not how.endswith(("_", "_.default")) else ""
        name = free_name(module, taken, node.name)
        path = f"{names[0]}.{name}" if names[0] else name
        yield Entry("node", (path,), module, node, how, f"node {node.name} of an fx graph")


def _of_attributes(module: nn.Module, names: list[str]) -> Iterator[Entry]:
    """Functions that torch's own modules keep, as nn.TransformerEncoderLayer does."""
    if not original_class(module).__module__.startswith("torch.nn."):
        return
    prefix = f"{names[0]}." if names[0] else ""
    for key, value in vars(module).items():
        if callable(value) and not isinstance(value, type) and value in RELU:
            how = f"{RELU[value]} in an attribute"
            yield Entry("attribute", (prefix + key,), module, key, how)


def _of_calls(
    model: nn.Module,
    module: nn.Module,
    names: list[str],
    trace: Trace | None,
    aliases: dict[nn.Module, list[str]],
    taken: dict[nn.Module, set[str]],
    *,
    clamp: bool,
) -> tuple[Caller | None, list[Entry]]:
    """What a module's code calls: known from before, seen in the run, or read in its bytecode."""
    known: Calls | None = vars(module).get(ATTRIBUTE)
    known = None if known is not None and known.suspends else known
    clamp = clamp or (known is not None and known.clamp)
    read = scan.scan(module, clamp=clamp)
    seen = [s for s in trace.seen if s.owner == names[0]] if trace is not None else []
    calls: dict[Place, tuple[str, str, str]] = {}
    for place, (how, where) in read.sites.items():
        calls[place] = (how, where, "" if trace is None else "not called by the example")
    if trace is None and known is None:
        for place, (how, where) in read.maybe.items():
            calls[place] = (how, where, "if this is a tensor: an example would show it")
    for one in seen:
        if one.place is not None:
            calls[one.place] = (one.how, one.where, "")
    if known is not None:
        calls.update({place: (how, where, "") for place, (how, where) in known.how.items()})
    if not (calls or read.possible or read.in_hooks or known is not None):
        return None, []
    holder = (known.holder or module) if known is not None else _holder(model, module, aliases)
    path = aliases[holder][0]
    prefix = f"{path}." if path else ""
    methods = {*read.methods, "forward"}
    if read.in_hooks or "forward" in vars(module) or any(s.in_call for s in seen):
        methods.add("__call__")
    if "__call__" in scan.reachable_methods(original_class(module)):
        methods.add("__call__")
    methods |= set(wrapped_methods(module))
    entries, default = [], ""
    for place in sorted(calls, key=lambda place: (_order(calls[place][1]), place)):
        how, where, note = calls[place]
        child = known.sites.get(place) if known is not None else None
        current = getattr(holder, child) if child else None
        name = child or free_name(holder, taken, "relu")
        default = default or name
        entries.append(Entry("call", (prefix + name,), module, place, how, where, current, note))
    if known is not None and known.default:
        default = known.default
    default = default or free_name(holder, taken, "relu")
    return Caller(module, holder, prefix, prefix + default, methods), entries


def _order(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return file, int(line) if line.isdigit() else 0


def free_name(module: nn.Module, taken: dict[nn.Module, set[str]], wanted: str) -> str:
    """A name for a new child that means nothing in a module yet."""
    used = taken.setdefault(module, set())
    used |= {*vars(module), *module._modules, *module._parameters, *module._buffers}
    name, number = wanted, 0
    while name in used or hasattr(type(module), name):
        number += 1
        name = f"{wanted}_{number}"
    used.add(name)
    return name


def _holder(model: nn.Module, module: nn.Module, aliases: dict[nn.Module, list[str]]) -> nn.Module:
    """The nearest module around one that does not look through its own children when it runs."""
    by_name = {name: m for m, names in aliases.items() for name in names}
    path = aliases[module][0]
    while True:
        candidate = by_name[path]
        if not _walks(candidate):
            return candidate
        if not path:
            break
        path = path.rpartition(".")[0]
    for candidate in aliases:
        if not _walks(candidate) and _of_module(candidate, [""]) is None:
            return candidate
    return module


def _walks(module: nn.Module) -> bool:
    return (
        isinstance(module, (*_CONTAINERS, fx.GraphModule)) or scan.scan(module, clamp=False).walks
    )


def _out_of_reach(model: nn.Module, trace: Trace, found: Survey) -> Iterator[Entry]:
    """Of what ran: fused kernels, and calls outside any module's code."""
    fused = {name for entry in found.entries if entry.kind == "fused" for name in entry.names}
    for seen in trace.seen:
        if seen.place is not None and seen.owner is not None:
            continue
        if seen.owner in fused:
            continue
        yield _unreachable(model, seen)


def _unreachable(model: nn.Module, seen: Seen) -> Entry:
    owner = seen.owner or ""
    note = "its ReLU is inside a kernel" if seen.place is None else "outside any module"
    return Entry(
        "fused", (owner,), model.get_submodule(owner), None, seen.how, seen.where, None, note
    )
