"""`convert`: a pseudo-derivative for every ReLU of a model, in place, outputs unchanged."""

import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx, nn

from pdsearch import kernels
from pdsearch.autograd.calls import ANYWHERE, ATTRIBUTE, Calls, unwrap, wrap, wrapped_methods
from pdsearch.autograd.module import PDReLU
from pdsearch.autograd.sites import Caller, Entry, Survey, survey
from pdsearch.autograd.trace import Seen, Trace, run, same_bits
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate

__all__ = ["convert", "replace_relus"]

Patterns = str | Iterable[str] | None
Make = Callable[[Entry, str], nn.Module | None]

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

_log = logging.getLogger("pdsearch")


def convert(
    model: nn.Module,
    candidate: Candidate | Mapping[str, Candidate],
    *,
    save: str = "auto",
    exact: bool = False,
    only: Patterns = None,
    skip: Patterns = None,
    example: Any = None,
    clamp: bool = False,
) -> nn.Module:
    """Give every ReLU of a model a pseudo-derivative, in place.

        >>> import torch
        >>> from pdsearch import convert, load_family
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        >>> model = convert(model, load_family("leaky").default, example=torch.randn(3, 2))
        >>> model[1]
        PDReLU(leaky(alpha=0.01): Piecewise((1, x > 0), (alpha, True)))

    A ReLU may be a module (`nn.ReLU`, `nn.Threshold(0, 0)`) or a call of a function or method
    (`F.relu`, `torch.relu_`, `x.relu()`, `F.threshold(x, 0, 0)`), in the code of a module, in what
    that calls, or in an fx graph. What `inplace=True` overwrites is overwritten. A PDReLU that is
    there already is replaced, so that a model can be converted again. `relu_sites` lists them all.

    With an example, the model is run on it before and after: outputs, the input and buffers must be
    equal bit for bit, and no ReLU's own gradient may be left on the autograd graph. Buffers, random
    state and training flags stay as they were. Without it neither is checked.

    Args:
        model: Any module; itself a ReLU, the replacement is returned.
        candidate: The pseudo-derivative, or one for each pattern of names
            (`{"features.*": a, "*": b}`): the first that matches counts. Sites that none
            matches stay ReLU.
        save: As for `pd_relu`.
        exact: As for `pd_relu`.
        only: A pattern of site names, or several: other sites stay as they are.
        skip: Likewise: these sites stay as they are.
        example: What the model takes: a tensor, a tuple of arguments, or a dict of keyword
            arguments.
        clamp: Whether `clamp(min=0)` and its relatives are ReLU too.

    Returns:
        The model.

    Raises:
        InputError: A wrong argument, a pattern that matches no site, or an example that the model
            does not take.
        UnsupportedError: There is no ReLU, one cannot be reached, or an output changed. The model
            is left as it was.
    """
    chosen = candidate if isinstance(candidate, Mapping) else {"*": candidate}
    for pattern, one in chosen.items():
        if not isinstance(one, Candidate) or not isinstance(pattern, str):
            raise InputError(
                "convert needs a Candidate or a dict from name patterns to Candidates, got "
                f"{type(one).__name__} (bind a family first)"
            )
    if not chosen:
        raise InputError("convert needs a Candidate or a dict from name patterns to them, got {}")
    if save not in kernels.SAVE_MODES:
        raise InputError(f"save must be one of {', '.join(kernels.SAVE_MODES)}, got {save!r}")

    def make(entry: Entry, pattern: str) -> nn.Module:
        zero = "threshold" in entry.how.lower() and entry.kind != "call"
        inplace = _in_place(entry)
        return PDReLU(chosen[pattern], save=save, exact=exact, inplace=inplace, zero=zero)

    return _replace(model, make, list(chosen), only, skip, example, clamp=clamp)


def replace_relus(
    model: nn.Module, make: Callable[[], nn.Module], *, example: Any = None
) -> nn.Module:
    """Put another activation where each ReLU is: the same sites as `convert` reaches.

    Args:
        model: Any module.
        make: Makes the activation, anew for each site.
        example: As for `convert`; outputs may differ here.
    """

    def made(entry: Entry, pattern: str) -> nn.Module:
        return make()

    return _replace(model, made, ["*"], None, None, example, clamp=False, same=False)


def _replace(
    model: nn.Module,
    make: Make,
    patterns: list[str],
    only: Patterns,
    skip: Patterns,
    example: Any,
    *,
    clamp: bool,
    same: bool = True,
) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputError(f"convert needs a torch.nn.Module, got {type(model).__name__}")
    choose = _Choice(patterns, only, skip)
    before = None if example is None else run(model, example, clamp=clamp)
    found = survey(model, before, clamp=clamp)
    if not found.entries and (before is not None or not found.callers):
        told = [f"; {_told(seen)} cannot be reached" for seen in before.left] if before else []
        raise UnsupportedError(
            f"{type(model).__name__} holds no nn.ReLU to convert, and calls none{''.join(told)}"
        )
    choose.check([name for entry in found.entries for name in entry.names])
    _check_reach(model, found, choose)
    with ExitStack() as undo:
        installer = _Installer(model, make, choose, undo, clamp=clamp, tried=before is not None)
        result = installer.install(found)
        if before is not None:
            after = run(result, example, clamp=clamp)
            _check_graph(result, after, found, choose, set() if same else installer.new)
            if same:
                differs = _difference(before, after)
                if differs is not None:
                    undo.close()
                    _explain_difference(model, example, before, differs, clamp=clamp)
                    return _replace(
                        model, make, patterns, only, skip, example, clamp=clamp, same=False
                    )
        undo.pop_all()
    return result


class _Choice:
    """Which pattern of `candidate` serves a site, after `only` and `skip`."""

    def __init__(self, patterns: list[str], only: Patterns, skip: Patterns) -> None:
        self.patterns = patterns
        self.only = None if only is None else _listed(only, "only")
        self.skip = _listed(skip, "skip")

    def __call__(self, names: Iterable[str]) -> str | None:
        names = list(names)
        if self.only is not None and not _any(self.only, names):
            return None
        if _any(self.skip, names):
            return None
        return next((p for p in self.patterns if _any([p], names)), None)

    def check(self, names: list[str]) -> None:
        """Refuse patterns that match nothing: a name mistyped would leave a ReLU behind."""
        for pattern in (*self.patterns, *(self.only or ()), *self.skip):
            if pattern != "*" and names and not _any([pattern], names):
                shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                raise InputError(f"no ReLU's name matches {pattern!r}; there are {shown}")


def _listed(patterns: Patterns, what: str) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns or ())
    for pattern in listed:
        if not isinstance(pattern, str):
            raise InputError(f"{what} must be patterns of names, got {type(pattern).__name__}")
    return listed


def _any(patterns: list[str], names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _in_place(entry: Entry) -> bool:
    if entry.kind == "module":
        return bool(getattr(entry.owner, "inplace", False))
    return entry.kind == "node" and (
        "inplace=True" in entry.how or entry.how.endswith(("_", "_.default"))
    )


# --------------------------------------------------------------------------------- installation


class _Installer:
    """Changes a model, and keeps on `undo` how to change it back."""

    def __init__(
        self,
        model: nn.Module,
        make: Make,
        choose: _Choice,
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
            new = self.made(entry, pattern)
            if entry.kind == "module":
                _keep_hooks(entry.owner, new)
                if entry.owner is self.model:
                    result = new
                self.in_parents(entry.owner, new)
            elif entry.kind == "attribute":
                value = vars(entry.owner).pop(entry.key)
                self.undo.callback(vars(entry.owner).__setitem__, entry.key, value)
                self.put(entry.owner, entry.key, new)
            else:
                self.in_graph(entry, new)
        for caller in found.callers:
            self.redirect(caller, [e for e in found.entries if e.owner is caller.module])
        if found.callers:
            self.shield(found)
        return result

    def made(self, entry: Entry, pattern: str) -> nn.Module:
        new = self.make(entry, pattern)
        assert new is not None
        self.new.add(new)
        return new.train(entry.owner.training).to(self.device)

    def in_parents(self, old: nn.Module, new: nn.Module) -> None:
        for module, name in self.parents.get(old, ()):
            self.put(module, name, new)

    def put(self, module: nn.Module, name: str, new: nn.Module) -> None:
        children = module._modules
        if name in children:
            self.undo.callback(children.__setitem__, name, children[name])
        else:
            self.undo.callback(children.pop, name)
        children[name] = new

    def in_graph(self, entry: Entry, new: nn.Module) -> None:
        module, node = entry.owner, entry.key
        assert isinstance(module, fx.GraphModule)
        name = entry.names[0].rpartition(".")[2]
        self.put(module, name, new)
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

    def hide(self, entry: Entry) -> None:
        """Have a node of an fx graph stay ReLU, by the operator that no mode takes for a call."""
        node, module = entry.key, entry.owner
        assert isinstance(module, fx.GraphModule)
        before = (node.op, node.target, node.args, node.kwargs)

        def become(op: str, target: Any, args: Any, kwargs: Any) -> None:
            node.op, node.target, node.args, node.kwargs = op, target, args, kwargs
            module.recompile()

        input = node.args[0] if node.args else node.kwargs["input"]
        aten = torch.ops.aten
        target = aten.relu_.default if _in_place(entry) else aten.relu.default
        become("call_function", target, (input,), {})
        self.undo.callback(become, *before)

    def redirect(self, caller: Caller, entries: list[Entry]) -> None:
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
                self.put(holder, str(name), self.made(entry, pattern))
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
                self.put(holder, name, self.made(stands, pattern))
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

    def shield(self, found: Survey) -> None:
        """Keep what must not change from seeing the function mode of a module around it.

        ReLU modules that stay would be taken for calls; torch's fused inference would end.
        """
        for entry in found.entries:
            left = entry.kind == "module" and self.choose(entry.names) is None
            if left and not isinstance(entry.owner, PDReLU) and ATTRIBUTE not in vars(entry.owner):
                self.undo.callback(unwrap, entry.owner)
                wrap(entry.owner, Calls(), ["forward"])
            if entry.kind == "node" and self.choose(entry.names) is None:
                self.hide(entry)
        for module in self.model.modules():
            if isinstance(module, _FUSED) and ATTRIBUTE not in vars(module):
                self.undo.callback(unwrap, module)
                wrap(module, Calls(suspends=True), ["forward"])


def _keep_hooks(old: nn.Module, new: nn.Module) -> None:
    for name in _HOOKS:
        if name in vars(old):
            vars(new)[name] = vars(old)[name]


# --------------------------------------------------------------------------------------- checks


def _check_reach(model: nn.Module, found: Survey, choose: _Choice) -> None:
    beyond = [e for e in found.entries if e.kind == "fused" and choose(e.names) is not None]
    if beyond:
        told = "; ".join(f"{e.names[0] or 'the model itself'} ({e.how}): {e.note}" for e in beyond)
        names = ", ".join(repr(e.names[0]) for e in beyond)
        raise UnsupportedError(
            f"{type(model).__name__} has ReLUs that convert cannot reach: {told}; "
            f"skip=[{names}] leaves them as they are"
        )


def _check_graph(
    model: nn.Module, after: Trace, found: Survey, choose: _Choice, new: set[nn.Module]
) -> None:
    """Refuse ReLU's own gradient, except of skipped sites and of an activation that is ReLU."""
    places: dict[Any, tuple[str, ...]] = {
        (e.owner, e.key): e.names for e in found.entries if e.kind == "call"
    }
    owners = dict(model.named_modules())

    def is_left_on_purpose(seen: Seen) -> bool:
        if seen.owner is None:
            return False
        if owners[seen.owner] in new:
            return True
        names = places.get((owners[seen.owner], seen.place))
        if names is None:
            names = (seen.owner, f"{seen.owner}.relu" if seen.owner else "relu")
        return choose(names) is None

    left = [seen for seen in after.left if not is_left_on_purpose(seen)]
    if left:
        told = "; ".join(dict.fromkeys(_told(seen) for seen in left))
        raise UnsupportedError(
            f"{type(model).__name__} keeps ReLU's own gradient at {len(left)} "
            f"place{'s' * (len(left) > 1)}, which convert cannot reach: {told}"
        )


def _told(seen: Seen) -> str:
    owner = "outside of any module" if seen.owner is None else f"in {seen.owner or 'the model'!r}"
    return f"{seen.how} {owner}" + (f" ({seen.where})" if seen.where else "")


def _difference(before: Trace, after: Trace) -> str | None:
    """The first value that is not the same bit for bit."""
    if before.values.keys() != after.values.keys():
        return "the number of its outputs"
    return next((n for n, v in before.values.items() if not same_bits(v, after.values[n])), None)


def _explain_difference(
    model: nn.Module, example: Any, before: Trace, differs: str, *, clamp: bool
) -> None:
    """Refuse a conversion that changes something, unless the model is never twice the same.

    Raises:
        UnsupportedError: The plain model repeats itself, so convert is to blame.
    """
    again = run(model, example, clamp=clamp)
    if _difference(before, again) is None:
        raise UnsupportedError(
            f"{type(model).__name__} computes something else on the example when converted "
            f"({differs}): it is left as it was"
        )
    _log.warning(
        "%s does not repeat itself on the example, so its outputs before and after convert could "
        "not be compared",
        type(model).__name__,
    )
