"""Design, check and search pseudo-derivatives (surrogate gradients) for ReLU.

The forward pass stays ``max(x, 0)``; only the derivative used in the backward pass is replaced by
``g(x)``. Names are imported on first use, so that ``import pdsearch`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pdsearch import compose
    from pdsearch.autograd import (
        PDReLU,
        convert,
        forward_control,
        pd_relu,
        relu_sites,
        set_progress,
    )
    from pdsearch.criteria import check
    from pdsearch.errors import InputError, PdsearchError
    from pdsearch.expression import t, x
    from pdsearch.family import Candidate, Family, Grouped, fade, library, load_family, plot
    from pdsearch.study import open_study, search

_NAMES = {
    "autograd": ("PDReLU", "convert", "forward_control", "pd_relu", "relu_sites", "set_progress"),
    "compose": ("compose",),
    "criteria": ("check",),
    "errors": ("InputError", "PdsearchError"),
    "expression": ("t", "x"),
    "family": ("Candidate", "Family", "Grouped", "fade", "library", "load_family", "plot"),
    "study": ("open_study", "search"),
}
_OWNERS = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Candidate",
    "Family",
    "Grouped",
    "InputError",
    "PDReLU",
    "PdsearchError",
    "check",
    "compose",
    "convert",
    "fade",
    "forward_control",
    "library",
    "load_family",
    "open_study",
    "pd_relu",
    "plot",
    "relu_sites",
    "search",
    "set_progress",
    "t",
    "x",
]


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module 'pdsearch' has no attribute {name!r}")
    module = import_module(f"pdsearch.{_OWNERS[name]}")
    value = module if _OWNERS[name] == name else getattr(module, name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
