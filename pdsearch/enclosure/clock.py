"""The clock that a decision runs against, also through steps that have no budget of their own.

Compiling, differentiating and rewriting are quick for what people write and may take for ever for
what they may write. Each such step asks the clock, so that a decision ends in time whatever its
formula; and refuses what is too large, so that no single step is long.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class OutOfReachError(ArithmeticError):
    """A decision would cost more time or memory than it may. The message says what."""


_ends: ContextVar[float] = ContextVar("ends", default=float("inf"))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, `check` raises once the seconds are over; an outer limit that ends sooner holds."""
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
        OutOfReachError: It has.
    """
    if time.monotonic() > _ends.get():
        raise OutOfReachError("the time ran out")
