"""`convert`: a pseudo-derivative for every ReLU of a model, in place, outputs unchanged."""

import copy
import glob
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from pdsearch import kernels
from pdsearch.autograd.install import Installer, Make, in_place
from pdsearch.autograd.module import PDReLU
from pdsearch.autograd.patterns import Choice, Patterns
from pdsearch.autograd.sites import Entry, Survey, survey
from pdsearch.autograd.trace import Seen, Trace, run, same_bits
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate, Grouped, load_family

__all__ = ["convert", "replace_relus"]

_log = logging.getLogger("pdsearch")


def convert(
    model: nn.Module,
    candidate: Candidate | Grouped | Mapping[str, Candidate],
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
        candidate: The pseudo-derivative, or one for each pattern
            (`{"features.*": a, "*": b}`): the first that matches counts. Sites that none
            matches stay ReLU. A pattern is one of names, or a slice `[first:end]` of the sites in
            the order in which a forward pass on the example first reaches them
            (`{"[:3]": a, "[3:]": b}`). Of a `Grouped`, each group's candidate goes to its layers;
            a site in two groups is an error.
        save: As for `pd_relu`.
        exact: As for `pd_relu`.
        only: A pattern, or several: other sites stay as they are.
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
    grouped = isinstance(candidate, Grouped)
    chosen: Mapping[str, Candidate]
    if isinstance(candidate, Grouped):
        chosen, alternatives = candidate.parts, dict(candidate.layers)
    else:
        chosen = candidate if isinstance(candidate, Mapping) else {"*": candidate}
        alternatives = {pattern: (pattern,) for pattern in chosen}
    for pattern, one in chosen.items():
        if not isinstance(one, Candidate) or not isinstance(pattern, str):
            raise InputError(
                "convert needs a Candidate, a Grouped, or a dict from name patterns to Candidates, "
                f"got {type(one).__name__} (bind a family first)"
            )
    if not chosen:
        raise InputError("convert needs a Candidate or a dict from name patterns to them, got {}")
    kernels.check_save(save, exact=exact)

    def make(entry: Entry, alternative: str) -> nn.Module:
        zero = "threshold" in entry.how.lower() and entry.kind != "call"
        inplace = in_place(entry)
        return PDReLU(chosen[alternative], save=save, exact=exact, inplace=inplace, zero=zero)

    choose = Choice(alternatives, only, skip, groups=grouped)
    return _replace(model, make, choose, example, clamp=clamp)


def replace_relus(
    model: nn.Module,
    make: Callable[[], nn.Module],
    *,
    only: Patterns = None,
    skip: Patterns = None,
    example: Any = None,
) -> nn.Module:
    """Put another activation where each ReLU is: the same sites as `convert` reaches.

    Args:
        model: Any module.
        make: Makes the activation, anew for each site.
        only: As for `convert`.
        skip: As for `convert`.
        example: As for `convert`; outputs may differ here.
    """

    def made(entry: Entry, alternative: str) -> nn.Module:
        return make()

    choose = Choice({"*": ("*",)}, only, skip)
    return _replace(model, made, choose, example, clamp=False, same=False)


def _replace(
    model: nn.Module,
    make: Make,
    choose: Choice,
    example: Any,
    *,
    clamp: bool,
    same: bool = True,
) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InputError(f"convert needs a torch.nn.Module, got {type(model).__name__}")
    before = None if example is None else run(model, example, clamp=clamp)
    found = survey(model, before, clamp=clamp)
    if not found.entries and (before is not None or not found.callers):
        told = [f"; {_told(seen)} cannot be reached" for seen in before.left] if before else []
        raise UnsupportedError(
            f"{type(model).__name__} holds no nn.ReLU to convert, and calls none{''.join(told)}"
        )
    if choose.by_depth:
        choose.order = _forward_order(model, found, example, clamp=clamp)
    choose.check([entry.names for entry in found.entries])
    _check_reach(model, found, choose)
    with ExitStack() as undo:
        installer = Installer(model, make, choose, undo, clamp=clamp, tried=before is not None)
        result = installer.install(found)
        if before is not None:
            after = run(result, example, clamp=clamp)
            _check_graph(result, after, found, choose, set() if same else installer.new)
            if same:
                differs = _difference(before, after)
                if differs is not None:
                    undo.close()
                    _explain_difference(model, example, before, differs, clamp=clamp)
                    return _replace(model, make, choose, example, clamp=clamp, same=False)
        undo.pop_all()
    return result


def _forward_order(model: nn.Module, found: Survey, example: Any, *, clamp: bool) -> list[str]:
    """The names of the sites in the order in which a forward pass first reaches them.

    A copy of the model is converted for this, in which each site is a module of its own.
    """
    if example is None:
        raise InputError("a pattern by depth (a slice) needs an example, on which the model is run")
    beyond = [glob.escape(e.names[0]) for e in found.entries if e.kind == "fused"]
    twin = convert(
        copy.deepcopy(model), load_family("relu").default, skip=beyond, example=example, clamp=clamp
    )
    order: list[str] = []
    names: dict[nn.Module, str] = {
        module: name for name, module in twin.named_modules() if isinstance(module, PDReLU)
    }

    def note(module: nn.Module, inputs: Any) -> None:
        order.append(names[module])

    for module in names:
        module.register_forward_pre_hook(note)
    run(twin, example, clamp=clamp)
    return list(dict.fromkeys(order))


# --------------------------------------------------------------------------------------- checks


def _check_reach(model: nn.Module, found: Survey, choose: Choice) -> None:
    beyond = [e for e in found.entries if e.kind == "fused" and choose(e.names) is not None]
    if beyond:
        told = "; ".join(f"{e.names[0] or 'the model itself'} ({e.how}): {e.note}" for e in beyond)
        names = ", ".join(repr(e.names[0]) for e in beyond)
        raise UnsupportedError(
            f"{type(model).__name__} has ReLUs that convert cannot reach: {told}; "
            f"skip=[{names}] leaves them as they are"
        )


def _check_graph(
    model: nn.Module, after: Trace, found: Survey, choose: Choice, new: set[nn.Module]
) -> None:
    """Refuse ReLU's own gradient, except of skipped sites and of an activation that is ReLU."""
    # A call that stays runs another operator, so its place is known by line and column alone.
    places: dict[Any, list[tuple[str, ...]]] = {}
    for e in found.entries:
        if e.kind == "call":
            places.setdefault((e.owner, e.key._replace(how="")), []).append(e.names)
    owners = dict(model.named_modules())

    def is_left_on_purpose(seen: Seen) -> bool:
        if seen.owner is None:
            return False
        if owners[seen.owner] in new:
            return True
        place = None if seen.place is None else seen.place._replace(how="")
        default = (seen.owner, f"{seen.owner}.relu" if seen.owner else "relu")
        called = places.get((owners[seen.owner], place), [default])
        return any(choose(names) is None for names in called)

    left = [seen for seen in after.left if not is_left_on_purpose(seen)]
    if left:
        told = "; ".join(dict.fromkeys(_told(seen) for seen in left))
        raise UnsupportedError(
            f"{type(model).__name__} keeps ReLU's own gradient at {len(left)} "
            f"place{'s' * (len(left) > 1)}, which convert cannot reach: {told}"
        )


def _told(seen: Seen) -> str:
    owner = "outside any module" if seen.owner is None else f"in {seen.owner or 'the model'!r}"
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
