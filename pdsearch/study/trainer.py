"""Training a trial's candidate: the interface, and the trainer around a user's function.

The other trainer is `pdsearch.study.image_trainer`. This module also checks the function's values:
which ones are numbers, and why others are refused.
"""

import decimal
import inspect
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pdsearch.errors import InputError, one_line, shortened
from pdsearch.family import Drawn


@dataclass(frozen=True)
class Reached:
    """How far the training of a candidate has come."""

    step: int  # the pruner's unit: `looks` steps per epoch, of which only the first epoch has all
    value: float  # of the study's objective; with several learning rates, the best so far
    standing: float  # what a pruner compares at this step, in the direction of the study
    # Of the epoch that has just ended, or of a look within the first one; None if nothing was
    # trained at this step because its learning rate diverged.
    record: dict[str, Any] | None
    whole: bool = True  # whether it is an epoch's end
    # After one of several lengths, the highest plausible final value: two standard errors above the
    # prediction from the lengths so far.
    most: float | None = None


OnStep = Callable[[Reached], None]
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """The result of training a candidate."""

    values: tuple[float, ...]  # one per objective, in the study's order
    diverged: str | None = None  # why training was stopped as hopeless
    learning_rate: float | None = None  # the one that counts, if several were tried


class Trainer(Protocol):
    """Trains a candidate: on images, or by a user's function."""

    epochs: int | None
    """Epochs that a whole trial reports; None if only a first trial can tell."""

    looks: int
    """Steps per epoch."""

    unit: str
    """What an epoch is called: `task` for a stream of tasks."""

    def __call__(
        self,
        candidate: Drawn,
        *,
        seed: int,
        on_step: OnStep,
        on_batch: OnBatch,
        checkpoint: Path | None,
    ) -> Outcome:
        """Train; call `on_step`, which may end it, after each epoch and each look."""

    def tie_margin(self, best: float) -> float:
        """Return how far below the best a value may be to count as nearly tied."""


class FunctionTrainer:
    """Trains by a Python function: `train(candidate)` or `train(candidate, seed=…)`.

    The function yields a value per epoch, of which the last one counts, or returns one value; see
    `values_of`.
    """

    epochs: int | None = None
    looks = 1
    unit = "epoch"

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise InputError(f"train must be callable, got {function!r}")
        self._function = function
        self.takes_seed = _takes(function, "seed")
        _check_call(function, seed=self.takes_seed)

    def __call__(
        self,
        candidate: Drawn,
        *,
        seed: int,
        on_step: OnStep,
        on_batch: OnBatch,
        checkpoint: Path | None,
    ) -> Outcome:
        """Run the function to its end, or until `on_step` raises."""
        keys = {"seed": seed} if self.takes_seed else {}
        value = math.nan
        for step, value in enumerate(values_of(self._function(candidate, **keys)), start=1):
            if not math.isfinite(value):
                return Outcome((value,), diverged=f"train gave {value} at epoch {step}")
            on_step(Reached(step, value, value, {"epoch": step, "accuracy": value}))
        return Outcome((value,))

    def tie_margin(self, best: float) -> float:
        """Return one hundredth: nothing is known of the noise of a function's values."""
        return abs(best) / 100


def _check_call(function: Callable[..., Any], *, seed: bool) -> None:
    """Refuse a function that cannot be called as it will be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    try:
        signature.bind(None, **({"seed": 0} if seed else {}))
    except TypeError as error:
        raise InputError(
            f"train is called as train(candidate), or train(candidate, seed=…) if it takes a seed, "
            f"but its parameters are {signature} ({error})"
        ) from None


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


# ------------------------------------------------------------------------------ a function's values

HOW = "return one number, or yield one per epoch (return the accuracy alone, or the negated loss)"


def as_number(value: Any, where: str = "") -> float:
    """Return a value of a train function as a float; NaN and infinities are allowed.

    Numbers are real numbers of Python and NumPy, decimals, fractions, and 0-d arrays and tensors on
    any device, also with a gradient.

    Args:
        value: what was returned or yielded.
        where: " at epoch 3", for the message.

    Raises:
        InputError: it is not a real number; booleans and text are not.
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
                f"train must yield numbers, got {_kind(value)} that contains none{where} ({said})"
            ) from None
    number = isinstance(plain, numbers.Real | decimal.Decimal) and not isinstance(plain, bool)
    if not number:
        raise InputError(f"train must yield numbers, got {_shown(value)}{where}: {HOW}")
    try:
        return float(plain)
    except OverflowError:  # an integer or a fraction beyond the range of a float
        return math.inf if plain > 0 else -math.inf
    except ValueError:  # a decimal's signalling NaN
        return math.nan


def values_of(result: Any) -> Iterator[float]:
    """Yield the values that a train function returned or yields.

    Tuples, lists and mappings are refused: of `return accuracy, loss` the loss would count.

    Raises:
        InputError: a value is not a number, or there is none.
    """
    if not isinstance(result, Iterator):
        if isinstance(result, tuple | list | dict | set | frozenset):
            raise InputError(
                f"train must yield one number per epoch, or return one, got a "
                f"{type(result).__name__} of {len(result)}: {HOW}"
            )
        if result is None or not (hasattr(result, "__float__") or isinstance(result, str | bytes)):
            got = "None (is a return missing?)" if result is None else _kind(result)
            raise InputError(f"train must yield one number per epoch, or return one, got {got}")
        yield as_number(result)
        return
    step = 0
    for step, given in enumerate(_yielded(result), start=1):
        yield as_number(given, f" at epoch {step}")
    if step == 0:
        raise InputError("train yielded no value")


def _yielded(result: Any) -> Iterator[Any]:
    returned = yield from result
    if returned is not None:
        raise InputError(
            f"train yields values and returns {_shown(returned)} as well, which is ignored: yield "
            "it as the last one"
        )


def _kind(value: Any) -> str:
    kind = type(value)
    home = (kind.__module__ or "").partition(".")[0]
    name = kind.__name__ if home in ("builtins", "__main__", "") else f"{home}.{kind.__name__}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _shown(value: Any) -> str:
    return shortened(" ".join(repr(value).split()), 60)


def drop_checkpoints(checkpoint: Path) -> None:
    """Remove a finished trial's checkpoints."""
    for path in checkpoint.parent.glob(f"{checkpoint.stem}-*{checkpoint.suffix}*"):
        path.unlink(missing_ok=True)
