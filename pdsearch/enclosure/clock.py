"""The time limit of a decision, which also applies to steps without a budget.

Compiling, differentiating and rewriting are quick for most formulas and endless for some. Each such
step checks the clock, so that a decision ends in time, and refuses expressions that are too large,
so that no single step takes long.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class OutOfReachError(ArithmeticError):
    """A decision would take more time or memory than it may. The message says why."""


_ends: ContextVar[float] = ContextVar("ends", default=float("inf"))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Make `check` raise once the seconds are over; a limit around it that ends sooner applies."""
    token = _ends.set(min(_ends.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _ends.reset(token)


def time_is_up() -> bool:
    """Whether the time limit has passed."""
    return time.monotonic() > _ends.get()


def check() -> None:
    """Stop here if the time limit has passed.

    Raises:
        OutOfReachError: The time is up.
    """
    if time_is_up():
        raise OutOfReachError("the time ran out")
