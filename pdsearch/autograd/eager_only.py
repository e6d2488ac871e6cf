"""`call`, which calls a function that torch.compile must not trace into.

`torch.compiler.disable` imports torch._dynamo, which takes 2.5 s of 7 s of importing this package
(CPU time, torch 2.14). Therefore it wraps `call` when Dynamo first looks it up here.
"""

from collections.abc import Callable
from typing import Any

import torch

EAGER_ONLY = (
    "pd_relu inside torch.func transforms and forward-mode AD runs in eager mode only: "
    "torch.compile would differentiate ReLU itself there. Leave fullgraph=True out"
)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def __getattr__(name: str) -> Any:
    if name != "call":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    wrapped = globals()[name] = torch.compiler.disable(_call, reason=EAGER_ONLY)
    return wrapped
