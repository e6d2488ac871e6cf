"""Calls of ReLU as a function: what they look like, where they are, and sending them elsewhere.

A module that calls `F.relu` in its code gets a subclass of its class, made here, whose methods run
under a `TorchFunctionMode`: it sees every call that torch's functions and tensor methods get while
the method runs, whoever makes it and by whatever name, and hands ReLUs to the `PDReLU` that
`convert` put into the model. Of the ways tried, this one alone holds for helper functions, lists of
functions and closures, and composes with torch.compile (whole graphs), DDP, torch.export, fx,
torch.func, deepcopy and pickle: the subclass is the same for all instances, keeps nothing of them,
and is made anew where a model is read back. fx rewriting fails on control flow, and a patched
`forward` attribute is bound to one instance, which copies then share.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from pdsearch.autograd.module import PDReLU
from pdsearch.errors import UnsupportedError

__all__ = [
    "ANYWHERE",
    "Calls",
    "Place",
    "ReluCall",
    "original_class",
    "place_of",
    "relu_call",
    "unwrap",
    "user_frame",
    "wrap",
    "wrapped_methods",
]

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
ATTRIBUTE = "_pdsearch_calls"


class ReluCall(NamedTuple):
    """A call of a function that is ReLU."""

    input: Any
    inplace: bool
    zero: bool  # of threshold: -0 becomes +0
    how: str


RELU: dict[Any, str] = {
    functional.relu: "F.relu",
    torch.relu: "torch.relu",
    torch.relu_: "torch.relu_",
    torch.Tensor.relu: "Tensor.relu",
    torch.Tensor.relu_: "Tensor.relu_",
}
THRESHOLD: dict[Any, str] = {
    functional.threshold: "F.threshold",
    torch.threshold: "torch.threshold",
    torch.threshold_: "torch.threshold_",
}
CLAMP: dict[Any, str] = {
    getattr(owner, name): f"{label}.{name}"
    for owner, label in ((torch, "torch"), (torch.Tensor, "Tensor"))
    for name in ("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_")
}


def relu_call(func: Any, args: Any, kwargs: Any, *, clamp: bool) -> ReluCall | None:
    """What a call of a torch function is, if it is ReLU.

    Args:
        func: As `__torch_function__` gets it.
        args: Likewise.
        kwargs: Likewise.
        clamp: Whether `clamp(min=0)` counts.
    """
    if func in RELU:
        inplace = kwargs.get("inplace", args[1] if len(args) > 1 else False)
        how = RELU[func]
        return ReluCall(_first(args, kwargs), bool(inplace) or how.endswith("_"), False, how)
    if func in THRESHOLD:
        given = dict(zip(("input", "threshold", "value", "inplace"), args, strict=False))
        given.update(kwargs)
        if not (_is_zero(given["threshold"]) and _is_zero(given["value"])):
            return None
        how = THRESHOLD[func]
        inplace = bool(given.get("inplace", False)) or how.endswith("_")
        return ReluCall(given["input"], inplace, True, how)
    if clamp and func in CLAMP:
        least = kwargs.get("min", args[1] if len(args) > 1 else None)
        most = kwargs.get("max", args[2] if len(args) > 2 else None)
        if most is None and _is_zero(least):
            how = CLAMP[func]
            return ReluCall(_first(args, kwargs), how.endswith("_"), False, how)
    return None


def _first(args: Any, kwargs: Any) -> Any:
    return args[0] if args else kwargs["input"]


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


# ---------------------------------------------------------------------------------------- places


class Place(NamedTuple):
    """Where in the code a call is: the same on another machine, if the code is."""

    module: str
    function: str
    line: int  # from the function's first
    column: int
    how: str  # F.relu(x).relu() begins twice at one column


ANYWHERE = Place("", "", 0, 0, "")  # of calls that were not found, where there may be some

_PLACES: dict[tuple[CodeType, int], tuple[int, int]] = {}


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is neither torch's nor this package's."""
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, _HERE)):
        frame = frame.f_back
    return frame


def place_of(frame: FrameType, how: str) -> Place:
    """Where a frame stands, calling a function."""
    key = (frame.f_code, frame.f_lasti)
    if key not in _PLACES:
        positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
        _PLACES[key] = (positions[0] or frame.f_lineno, positions[2] or 0)
    line, column = _PLACES[key]
    return make_place(frame.f_globals.get("__name__", ""), frame.f_code, line, column, how)


def make_place(module: str, code: CodeType, line: int, column: int, how: str) -> Place:
    """The place of a line and column of some code."""
    return Place(module, code.co_qualname, line - code.co_firstlineno, column, how)


# ----------------------------------------------------------------------------------- redirection


@dataclass
class Calls:
    """What becomes of the ReLUs that a module calls as functions: names of the holder's children.

    Attributes:
        sites: The child for each place; None: the call stays a plain ReLU.
        default: The child for any other place, such as a branch that no example took.
        clamp: Whether `clamp(min=0)` is a ReLU.
        holder: The module that has the children; None for the calling module itself.
        how: For each place the kind of call and file:line, for `relu_sites`.
        uniform: Whether all sites became the same.
        suspends: Whether the module is one of torch's whose fused inference looks for function
            modes, and gives way to its other code where there is one: none of ours is on there.
    """

    sites: dict[Place, str | None] = field(default_factory=dict)
    default: str | None = None
    clamp: bool = False
    holder: nn.Module | None = None
    how: dict[Place, tuple[str, str]] = field(default_factory=dict)
    uniform: bool = True
    suspends: bool = False


class _Redirect(TorchFunctionMode):
    """Hands the ReLU calls of a module to the modules that stand for them."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner = owner
        self.calls: Calls = owner.__dict__[ATTRIBUTE]
        self.hooks = None if torch.compiler.is_compiling() else _saving_hooks()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = relu_call(func, args, kwargs, clamp=self.calls.clamp)
        if call is None:
            return func(*args, **kwargs)
        name = self.child(call.how)
        if isinstance(call.input, torch.Tensor) and not call.input.is_floating_point():
            return func(*args, **kwargs)
        if name is None:
            return plain(call)
        holder = self.owner if self.calls.holder is None else self.calls.holder
        return redirect(call, getattr(holder, name))

    def child(self, how: str) -> str | None:
        """The name of the child that stands for the call that is being made."""
        calls = self.calls
        if torch.compiler.is_compiling():
            if not calls.uniform:
                raise UnsupportedError(
                    "torch.compile cannot tell the ReLU calls of one module apart, and they were "
                    "converted differently: convert them alike, or run without torch.compile"
                )
            return calls.default
        if self.hooks != _saving_hooks() and _in_checkpoint():
            raise UnsupportedError(
                f"{type(self.owner).__name__} calls ReLU in a local function that "
                "torch.utils.checkpoint runs a second time, outside the module: make it a "
                "method or a module"
            )
        frame = user_frame(sys._getframe(1))
        if frame is None:
            return calls.default
        return calls.sites.get(place_of(frame, how), calls.default)


def redirect(call: ReluCall, site: nn.Module) -> Any:
    """The call done by a module instead."""
    if isinstance(site, PDReLU):
        options = {"inplace": True} if call.inplace else {}
        return site(call.input, **options, **({"zero": True} if call.zero else {}))
    if call.inplace:
        return call.input.copy_(site(call.input.clone()))
    return site(call.input)


def plain(call: ReluCall) -> Any:
    """The call as it was, by an operator that no other mode further out takes for a call."""
    aten = torch.ops.aten
    if call.zero:
        threshold = aten.threshold_.default if call.inplace else aten.threshold.default
        return threshold(call.input, 0, 0)
    return (aten.relu_.default if call.inplace else aten.relu.default)(call.input)


def _saving_hooks() -> Any:
    # Private; read in torch 2.14. The pair that torch.utils.checkpoint sets is new for each call.
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _in_checkpoint() -> bool:
    hooks = _saving_hooks()
    return hooks is not None and "checkpoint" in hooks[0].__qualname__


# ------------------------------------------------------------------------------------- subclasses


def wrap(owner: nn.Module, calls: Calls, methods: Iterable[str]) -> None:
    """Have a module's calls of ReLU handed on, while any of these methods runs."""
    owner.__dict__[ATTRIBUTE] = calls
    owner.__class__ = _redirecting(original_class(owner), tuple(sorted(set(methods))))


def unwrap(owner: nn.Module) -> None:
    """Undo `wrap`."""
    owner.__dict__.pop(ATTRIBUTE, None)
    owner.__class__ = original_class(owner)


def wrapped_methods(module: nn.Module) -> tuple[str, ...]:
    """The methods that `wrap` named for a module; none if it did not."""
    return cast(tuple[str, ...], type(module).__dict__.get("_pdsearch_methods", ()))


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before `wrap`."""
    return cast(type[nn.Module], type(module).__dict__.get("_pdsearch_original", type(module)))


_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def _redirecting(base: type[nn.Module], methods: tuple[str, ...]) -> type[nn.Module]:
    """The subclass for some methods, one for all instances: torch.compile looks at the class."""
    if (base, methods) not in _CLASSES:
        _CLASSES[base, methods] = _make_class(base, methods)
    return _CLASSES[base, methods]


def _make_class(base: type[nn.Module], methods: tuple[str, ...]) -> type[nn.Module]:
    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        # deepcopy and pickle: a class made here cannot be found by its name.
        reduced: Any = base.__reduce_ex__(self, protocol)
        make, (_, *rest), *state = reduced
        return (_rebuild, (make, base, methods, *rest), *state)

    members: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": __reduce_ex__,
        "__prepare_scriptable__": _refuse_scripting,
        "_pdsearch_original": base,
        "_pdsearch_methods": methods,
    }
    for name in methods:
        members[name] = _under(inspect.getattr_static(base, name))
    metaclass: Any = type(base)
    return cast(type[nn.Module], metaclass(base.__name__, (base,), members))


def _rebuild(make: Any, base: type[nn.Module], methods: tuple[str, ...], *rest: Any) -> Any:
    return make(_redirecting(base, methods), *rest)


def _under(function: Callable[..., Any]) -> FunctionType:
    @functools.wraps(function)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _context(self):
            return function(self, *args, **kwargs)

    return cast(FunctionType, run)


def _context(owner: nn.Module) -> AbstractContextManager[Any]:
    if not owner.__dict__[ATTRIBUTE].suspends:
        return _Redirect(owner)
    modes = () if torch.compiler.is_compiling() else _get_current_function_mode_stack()
    if modes and all(isinstance(mode, _Redirect) for mode in modes):
        return torch._C.DisableTorchFunction()
    return nullcontext()


def _refuse_scripting(self: nn.Module) -> NoReturn:
    raise UnsupportedError(
        f"torch.jit.script cannot hold a pseudo-derivative ({type(self).__name__} was converted): "
        "use torch.compile, or script the model with plain ReLUs (its weights fit)"
    )
