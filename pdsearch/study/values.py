"""What a train function gives: which values are numbers, and what is refused and why."""

import decimal
import math
import numbers
from collections.abc import Iterator
from typing import Any

from pdsearch.errors import InputError
from pdsearch.text import one_line, shortened

HOW = "return one number, or yield one an epoch (return the accuracy alone, or the negated loss)"


def as_number(value: Any, where: str = "") -> float:
    """A value of a train function as a float; NaN and infinities are numbers.

    Python's and NumPy's real numbers, decimals and fractions count, and whatever holds one number
    in no dimension: tensors on any device and with a gradient, arrays.

    Args:
        value: what was returned or yielded.
        where: " at epoch 3", for the message.

    Raises:
        InputError: it is no real number: true/false and text among them.
    """
    plain = value
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "item"):
        if tuple(shape) != ():
            raise InputError(
                f"train must yield numbers, got {_kind(value)} of shape {tuple(shape)}{where}: "
                f"{HOW}"
            )
        try:
            plain = value.item()
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            said = one_line(error)[:100]
            raise InputError(
                f"train must yield numbers, got {_kind(value)} that holds none{where} ({said})"
            ) from None
    number = isinstance(plain, numbers.Real | decimal.Decimal) and not isinstance(plain, bool)
    if not number:
        raise InputError(f"train must yield numbers, got {_shown(value)}{where}: {HOW}")
    try:
        return float(plain)
    except OverflowError:  # a whole number or a fraction beyond every float
        return math.inf if plain > 0 else -math.inf
    except ValueError:  # a decimal's signalling NaN
        return math.nan


def values_of(result: Any) -> Iterator[float]:
    """The values that a train function returned or yields, as they come.

    A tuple, a list or a mapping is refused: of `return accuracy, loss` the last would count.

    Raises:
        InputError: something else than numbers, or none.
    """
    if not isinstance(result, Iterator):
        if isinstance(result, tuple | list | dict | set | frozenset):
            raise InputError(
                f"train must yield a number an epoch or return one, got a {type(result).__name__} "
                f"of {len(result)}: {HOW}"
            )
        if result is None or not (hasattr(result, "__float__") or isinstance(result, str | bytes)):
            got = "None (is a return missing?)" if result is None else _kind(result)
            raise InputError(f"train must yield a number an epoch or return one, got {got}")
        yield as_number(result)
        return
    step = 0
    while True:
        try:
            given = next(result)
        except StopIteration as end:
            if end.value is not None:
                raise InputError(
                    f"train yields values and returns {_shown(end.value)} as well, which nobody "
                    "sees: yield it as the last one"
                ) from None
            break
        step += 1
        yield as_number(given, f" at epoch {step}")
    if step == 0:
        raise InputError("train yielded no value")


def _kind(value: Any) -> str:
    kind = type(value)
    home = (kind.__module__ or "").partition(".")[0]
    name = kind.__name__ if home in ("builtins", "__main__", "") else f"{home}.{kind.__name__}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _shown(value: Any) -> str:
    return shortened(" ".join(repr(value).split()), 60)
