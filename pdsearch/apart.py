"""`apart`: compute what is kept for later as if nothing surrounded the first call."""

import contextlib
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["apart"]


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Leave transforms, inference mode and modes such as FakeTensorMode while the block runs.

    Tables and numbers are made at the first call that needs them, and serve every later one. The
    first call may be inside vmap, whose tensors have no storage, or inside
    `torch.inference_mode`, whose tensors no backward pass takes. The ambient default device does
    not count either.
    """
    if not _is_surrounded():
        yield
        return
    with (
        torch._C._DisableFuncTorch(),
        _disable_current_modes(),
        torch._C.DisableTorchFunction(),
        torch.inference_mode(False),
    ):
        yield


def _is_surrounded() -> bool:
    """Whether there is anything to leave: entering all of it takes longer than most numbers."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch.is_inference_mode_enabled()
    )
