"""Reads a module's bytecode for calls of ReLU: what can be known without running it.

Bytecode rather than source text: names are resolved to what they are bound to, so that
`from torch.nn.functional import relu as r` is found and a constructor's argument called relu is
not; and classes typed at a prompt have no source.
"""

import dis
import functools
import inspect
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from pdsearch.autograd.calls import CLAMP, RELU, THRESHOLD, Place, make_place, original_class

__all__ = ["Scan", "reachable_methods", "scan"]

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
DEPTH = 8  # calls of helper functions followed
HELD_DEPTH = 4  # likewise, where the values that a function names are looked into
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
    reader = _Reader(module, clamp=clamp)
    # Of torch's own modules those that compute may keep a function; wrappers keep the module.
    wrapper = _is_torch(kind.__module__) and not kind.__module__.startswith("torch.nn.modules.")
    for name, value in vars(module).items():
        if name in HOOKS:
            found.in_hooks |= reader.holds(value)
        elif name != "_modules" and not wrapper:
            found.possible |= reader.holds(value)
    # One that convert did not replace: a subclass whose forward adds something to ReLU's.
    found.possible |= isinstance(module, nn.ReLU | nn.Threshold)
    reached = reachable_methods(kind)
    for name, function in _methods(kind):
        if name.startswith("__") and name != "__call__":
            continue
        read = reader.follow([(function, False)])
        if name in reached:
            read.possible |= read.if_run
            found.walks |= read.walks
        plain = isinstance(inspect.getattr_static(kind, name), FunctionType)
        if plain and (read.sites or read.possible):
            found.methods.add(name)
        found.sites.update(read.sites)
        found.maybe.update(read.maybe)
        found.possible |= read.possible
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


def _held(value: Any, depth: int = 0) -> tuple[bool, list[FunctionType]]:
    """Whether a value is ReLU or has one in containers and partials, and the functions there."""
    if depth > 4:
        return False, []
    if isinstance(value, nn.Module):
        return isinstance(value, nn.ReLU | nn.Threshold), []  # in a plain list, say: not a child
    if _is_relu(value):
        return True, []
    parts: list[Any] = []
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args]
    elif isinstance(value, Mapping):
        parts = list(value.values())[:64]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)[:64]
    elif isinstance(value, MethodType):
        value = value.__func__
    elif callable(value) and not isinstance(value, type | FunctionType):
        value = inspect.getattr_static(type(value), "__call__", None)  # an object that is called
    if isinstance(value, FunctionType):
        return False, [value]
    inner = [_held(part, depth + 1) for part in parts]
    return any(relu for relu, _ in inner), [f for _, functions in inner for f in functions]


def _is_relu(value: Any) -> bool:
    try:
        return value in RELU or value in THRESHOLD
    except (TypeError, RuntimeError):  # unhashable, or a tensor
        return False


@dataclass
class _Read:
    """What the code of one function says, or that of several.

    Attributes:
        sites: As in `Scan`.
        maybe: Likewise.
        possible: Likewise.
        if_run: Whether there may be others if a forward pass comes here.
        walks: As in `Scan`.
        calls: The functions that it names.
        held: The functions in values that it names: lists, partials, objects.
    """

    sites: dict[Place, tuple[str, str]] = field(default_factory=dict)
    maybe: dict[Place, tuple[str, str]] = field(default_factory=dict)
    possible: bool = False
    if_run: bool = False
    walks: bool = False
    calls: list[FunctionType] = field(default_factory=list)
    held: list[FunctionType] = field(default_factory=list)


class _Step(NamedTuple):
    """An instruction that may name something; "" as its kind for one that does not."""

    kind: str
    name: str
    line: int
    column: int


@functools.lru_cache(maxsize=16_384)
def _steps(code: CodeType) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    for step in dis.get_instructions(code):
        op, name = step.opname, step.argval
        if op in ("CACHE", "RESUME", "PUSH_NULL", "NOT_TAKEN"):
            continue
        kind = ""
        if op in ("LOAD_GLOBAL", "LOAD_NAME"):
            kind = "global"
        elif op.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
            kind, name = "local", name[-1] if isinstance(name, tuple) else name
        elif op in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            kind = "attribute"
        if kind or (steps and steps[-1].kind):
            at = step.positions
            line = (at and at.lineno) or code.co_firstlineno
            steps.append(_Step(kind, str(name), line, (at and at.col_offset) or 0))
    return tuple(steps)


class _Reader:
    """Follows names through functions and those that they call; each function is read once.

    Args:
        owner: The module whose methods they are, if any: what their first argument is.
        clamp: Whether `clamp(min=0)` counts.
    """

    def __init__(self, owner: nn.Module | None, *, clamp: bool) -> None:
        self.owner, self.clamp = owner, clamp
        self.known: dict[FunctionType, _Read] = {}
        self.values: dict[int, tuple[Any, bool, list[FunctionType]]] = {}  # by id, with the value
        self.apart = self if owner is None else _Reader(None, clamp=False)

    def holds(self, value: Any) -> bool:
        """Whether a value is, or holds in containers, partials or code, a ReLU."""
        relu, functions = _held(value)
        return relu or self.follow([(function, True) for function in functions]).possible

    def follow(self, start: list[tuple[FunctionType, bool]]) -> _Read:
        """What functions say and those that they call; True with those that a value holds."""
        total = _Read()
        todo = deque((function, held, int(held)) for function, held in start)
        seen: set[tuple[FunctionType, bool]] = set()
        while todo:
            function, held, depth = todo.popleft()
            if depth > DEPTH or (function, held) in seen:
                continue
            seen.add((function, held))
            wrapped = getattr(function, "__wrapped__", None)
            if isinstance(wrapped, FunctionType):
                todo.appendleft((wrapped, held, depth))
            if _is_torch(function.__module__):
                continue
            one = (self.apart if held else self).read(function)
            if held:
                total.possible |= bool(one.sites) or one.possible or one.if_run
            else:
                total.sites.update(one.sites)
                total.maybe.update(one.maybe)
                total.possible |= one.possible
                total.if_run |= one.if_run
                total.walks |= one.walks
            todo += ((called, held, depth + 1) for called in one.calls)
            if depth <= HELD_DEPTH:
                todo += ((inner, True, depth + 1) for inner in one.held)
        return total

    def read(self, function: FunctionType) -> _Read:
        """What one function says."""
        if function in self.known:
            return self.known[function]
        one = self.known[function] = _Read()
        code = function.__code__
        names = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        cells = {}
        for name, cell in names.items():
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # not bound yet
                continue
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if not isinstance(default, nn.Module):
                self.note_held(default, one)
        if self.owner is not None and code.co_varnames:
            cells[code.co_varnames[0]] = self.owner
        todo = [code]
        while todo:
            code = todo.pop()
            self.read_code(code, function.__globals__, cells, one)
            todo += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        return one

    def read_code(
        self, code: CodeType, names: Mapping[str, Any], known: Mapping[str, Any], one: _Read
    ) -> None:
        one.walks |= bool(_CHILDREN & set(code.co_names))
        uses_super = "super" in code.co_names
        value: Any = _MISSING
        for step in _steps(code):
            if step.kind == "global":
                value = names.get(step.name, _MISSING)
            elif step.kind == "local":
                value = known.get(step.name, _MISSING)
            elif step.kind == "attribute":
                if uses_super and self.owner is not None:
                    one.calls += self.in_bases(step.name)
                if value is _MISSING and self.is_relu_name(step.name):
                    one.if_run = True
                    place, where = _place(code, names, step, f"Tensor.{step.name}")
                    one.maybe[place] = (place.how, where)
                value = self.attribute(value, step.name)
            else:
                value = _MISSING
                continue
            self.note(value, code, names, step, one)

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

    def in_bases(self, name: str) -> list[FunctionType]:
        """The versions of a method that `super()` may mean."""
        found = (vars(base).get(name) for base in type(self.owner).__mro__[1:])
        return [function for function in found if isinstance(function, FunctionType)]

    def note(
        self, value: Any, code: CodeType, names: Mapping[str, Any], step: _Step, one: _Read
    ) -> None:
        if value is _MISSING or isinstance(value, nn.Module | ModuleType):
            return
        if isinstance(value, type):
            one.if_run |= issubclass(value, nn.ReLU | nn.Threshold)
        elif _is_relu(value):
            if value in THRESHOLD:
                one.possible = True  # perhaps of other numbers
                return
            place, where = _place(code, names, step, RELU[value])
            one.sites[place] = (place.how, where)
        elif isinstance(value, FunctionType):
            one.calls.append(value)
        elif isinstance(value, staticmethod | classmethod):
            if isinstance(value.__func__, FunctionType):
                one.calls.append(value.__func__)
        else:
            self.note_held(value, one)

    def note_held(self, value: Any, one: _Read) -> None:
        if id(value) not in self.values:
            self.values[id(value)] = (value, *_held(value))
        _, relu, functions = self.values[id(value)]
        one.possible |= relu
        one.held += functions


def _place(code: CodeType, names: Mapping[str, Any], step: _Step, how: str) -> tuple[Place, str]:
    place = make_place(names.get("__name__", ""), code, step.line, step.column, how)
    return place, f"{code.co_filename}:{step.line}"
