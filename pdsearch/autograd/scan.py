"""Reads a module's bytecode for calls of ReLU: what can be known without running it.

Bytecode rather than source text: names are resolved to what they are bound to, so that
`from torch.nn.functional import relu as r` is found and a constructor's argument called relu is
not; and classes typed at a prompt have no source.
"""

import dis
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from pdsearch.autograd.calls import CLAMP, RELU, THRESHOLD, Place, make_place, original_class

__all__ = ["Scan", "reachable_methods", "scan"]

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
DEPTH = 8  # calls of helper functions followed
_NAMES = {name.rpartition(".")[2] for name in (*RELU.values(), *THRESHOLD.values())}
_CLAMPS = {name.rpartition(".")[2] for name in CLAMP.values()}
_CHILDREN = {"children", "named_children", "_modules"}
_MISSING = object()


@dataclass
class Scan:
    """What the code of a module says.

    Attributes:
        sites: Places where a function that is ReLU is named, with its kind and file:line.
        maybe: Likewise, where something unknown has an attribute called relu: a tensor, or not.
        possible: Whether there may be others: an nn.ReLU made while running, functions kept in
            attributes, and what `maybe` holds.
        in_hooks: Whether a hook of the module may call ReLU.
        methods: Names of the methods that hold any of this.
        walks: Whether the code looks through the module's children.
    """

    sites: dict[Place, tuple[str, str]] = field(default_factory=dict)
    maybe: dict[Place, tuple[str, str]] = field(default_factory=dict)
    possible: bool = False
    in_hooks: bool = False
    methods: set[str] = field(default_factory=set)
    walks: bool = False


def scan(module: nn.Module, *, clamp: bool) -> Scan:
    """Look through the methods of a module and what they call, torch's own left out.

    Args:
        module: Any module, not its children.
        clamp: Whether `clamp(min=0)` counts as ReLU.
    """
    found = Scan()
    kind = original_class(module)
    # Of torch's own modules those that compute may keep a function; wrappers keep the module.
    wrapper = _is_torch(kind.__module__) and not kind.__module__.startswith("torch.nn.modules.")
    for name, value in vars(module).items():
        if name in HOOKS:
            found.in_hooks |= _holds_relu(value, 0)
        elif name != "_modules" and not wrapper:
            found.possible |= _holds_relu(value, 0)
    # One that convert did not replace: a subclass whose forward adds something to ReLU's.
    found.possible |= isinstance(module, nn.ReLU | nn.Threshold)
    reached = reachable_methods(kind)
    for name, function in _methods(kind):
        if name.startswith("__") and name != "__call__":
            continue
        reader = _Reader(module, clamp=clamp, running=name in reached)
        reader.read(function, 0)
        plain = isinstance(inspect.getattr_static(kind, name), FunctionType)
        if plain and (reader.sites or reader.possible):
            found.methods.add(name)
        found.sites.update(reader.sites)
        found.maybe.update(reader.maybe)
        found.possible |= reader.possible
        found.walks |= reader.walks
    return found


def _is_torch(name: str | None) -> bool:
    return name is not None and (name == "torch" or name.startswith("torch."))


def _methods(kind: type[nn.Module]) -> Iterator[tuple[str, FunctionType]]:
    """The methods that a class's own code and its bases' give it, as Python finds them."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found.update(vars(base))
    for name, value in found.items():
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, FunctionType) and not _is_torch(value.__module__):
            yield name, value


def reachable_methods(kind: type[nn.Module]) -> frozenset[str]:
    """Names of the methods that `forward` and `__call__` may call on self, themselves included."""
    methods = dict(_methods(kind))
    todo, reached = ["forward", "__call__"], set[str]()
    while todo:
        name = todo.pop()
        if name in reached or name not in methods:
            continue
        reached.add(name)
        for code in _codes(inspect.unwrap(methods[name]).__code__):
            todo += [n for n in code.co_names if n in methods]
    return frozenset(reached)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _holds_relu(value: Any, depth: int) -> bool:
    """Whether a value is, or holds in containers, partials or code, a ReLU."""
    if depth > 4:
        return False
    if isinstance(value, nn.Module):
        return isinstance(value, nn.ReLU | nn.Threshold)  # in a plain list, say: not a child
    if _is_relu(value):
        return True
    if isinstance(value, functools.partial):
        return any(_holds_relu(v, depth + 1) for v in (value.func, *value.args))
    if isinstance(value, Mapping):
        return any(_holds_relu(v, depth + 1) for v in list(value.values())[:64])
    if isinstance(value, list | tuple | set | frozenset):
        return any(_holds_relu(v, depth + 1) for v in list(value)[:64])
    if isinstance(value, MethodType):
        value = value.__func__
    elif callable(value) and not isinstance(value, type | FunctionType):
        value = inspect.getattr_static(type(value), "__call__", None)  # an object that is called
    if isinstance(value, FunctionType) and not _is_torch(value.__module__):
        reader = _Reader(None, clamp=False, running=True)
        reader.read(value, depth + 1)
        return bool(reader.sites) or reader.possible
    return False


def _is_relu(value: Any) -> bool:
    try:
        return value in RELU or value in THRESHOLD
    except (TypeError, RuntimeError):  # unhashable, or a tensor
        return False


class _Reader:
    """Follows names through one function and those that it calls."""

    def __init__(self, owner: nn.Module | None, *, clamp: bool, running: bool) -> None:
        self.owner, self.clamp, self.running = owner, clamp, running
        self.sites: dict[Place, tuple[str, str]] = {}
        self.maybe: dict[Place, tuple[str, str]] = {}
        self.possible = self.walks = False
        self.seen: set[CodeType] = set()

    def read(self, function: FunctionType, depth: int) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            self.read(wrapped, depth)
        if depth > DEPTH or _is_torch(function.__module__) or function.__code__ in self.seen:
            return
        names = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        cells = {}
        for name, cell in names.items():
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.possible |= not isinstance(default, nn.Module) and _holds_relu(default, depth)
        first = function.__code__.co_varnames[:1]
        if self.owner is not None and first:
            cells[first[0]] = self.owner
        self.read_code(function.__code__, function.__globals__, cells, depth)

    def read_code(
        self, code: CodeType, names: Mapping[str, Any], known: Mapping[str, Any], depth: int
    ) -> None:
        self.seen.add(code)
        self.walks |= self.running and bool(_CHILDREN & set(code.co_names))
        uses_super = "super" in code.co_names
        value: Any = _MISSING
        for step in dis.get_instructions(code):
            op, name = step.opname, step.argval
            if op in ("CACHE", "RESUME", "PUSH_NULL", "NOT_TAKEN"):
                continue
            if op in ("LOAD_GLOBAL", "LOAD_NAME"):
                value = names.get(name, _MISSING)
            elif op.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
                value = known.get(name[-1] if isinstance(name, tuple) else name, _MISSING)
            elif op in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                if uses_super and self.owner is not None:
                    self.read_bases(name, depth)
                if value is _MISSING and self.is_relu_name(name):
                    self.possible |= self.running
                    place, where = _place(code, names, step, f"Tensor.{name}")
                    self.maybe[place] = (place.how, where)
                value = self.attribute(value, name)
            else:
                value = _MISSING
                continue
            self.note(value, code, names, step, depth)
        for inner in code.co_consts:
            if isinstance(inner, CodeType) and inner not in self.seen:
                self.read_code(inner, names, known, depth)

    def attribute(self, owner: Any, name: str) -> Any:
        """The attribute as it stands: no property is run."""
        if isinstance(owner, ModuleType):
            return vars(owner).get(name, _MISSING)
        if isinstance(owner, nn.Module):
            for place in (owner._modules, vars(owner)):
                if name in place:
                    return place[name]
            return inspect.getattr_static(type(owner), name, _MISSING)
        if isinstance(owner, type):
            return inspect.getattr_static(owner, name, _MISSING)
        return _MISSING

    def is_relu_name(self, name: str) -> bool:
        return name in _NAMES or (self.clamp and name in _CLAMPS)

    def read_bases(self, name: str, depth: int) -> None:
        """The versions of a method that `super()` may mean."""
        for base in type(self.owner).__mro__[1:]:
            function = vars(base).get(name)
            if isinstance(function, FunctionType):
                self.read(function, depth + 1)

    def note(
        self, value: Any, code: CodeType, names: Mapping[str, Any], step: Any, depth: int
    ) -> None:
        if value is _MISSING or isinstance(value, nn.Module | ModuleType):
            return
        if isinstance(value, type):
            if self.running and issubclass(value, nn.ReLU | nn.Threshold):
                self.possible = True
            return
        if _is_relu(value):
            if value in THRESHOLD:
                self.possible = True  # perhaps of other numbers
                return
            place, where = _place(code, names, step, RELU[value])
            self.sites[place] = (place.how, where)
        elif isinstance(value, FunctionType):
            self.read(value, depth + 1)
        elif isinstance(value, staticmethod | classmethod):
            if isinstance(value.__func__, FunctionType):
                self.read(value.__func__, depth + 1)
        elif _holds_relu(value, depth):
            self.possible = True


def _place(
    code: CodeType, names: Mapping[str, Any], step: dis.Instruction, how: str
) -> tuple[Place, str]:
    at = step.positions
    line = (at and at.lineno) or code.co_firstlineno
    place = make_place(names.get("__name__", ""), code, line, (at and at.col_offset) or 0, how)
    return place, f"{code.co_filename}:{line}"
