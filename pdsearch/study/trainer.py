"""What trains a trial's candidate: the interface, and the trainer around a user's function.

`pdsearch.study.image_trainer` is the other one. A function's values are checked here: which are
numbers, and what is refused and why.
"""

import decimal
import hashlib
import inspect
import json
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pdsearch.errors import InputError, one_line, shortened
from pdsearch.family import Candidate


@dataclass(frozen=True)
class Reached:
    """How far the training of a candidate has come.

    Attributes:
        step: what a pruner counts: `looks` an epoch, of which the first alone has them all.
        value: of the study's objective; where several learning rates are tried, the best so far.
        standing: what a pruner compares at this step, in the direction of the study.
        record: of the epoch that has just ended, or of a look within the first one; None where
            nothing was trained at this step, for the rate diverged whose step it was.
        whole: whether it is an epoch's end.
        most: what the candidate's value may come to, two standard errors above what is predicted
            from the lengths that were trained; None but after such a length.
    """

    step: int
    value: float
    standing: float
    record: dict[str, Any] | None
    whole: bool = True
    most: float | None = None


OnStep = Callable[[Reached], None]
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What came of training one candidate.

    Attributes:
        values: one an objective, in the order of the study's.
        diverged: why training was stopped as hopeless; None if it was not.
        learning_rate: the one that counts, where several were tried.
    """

    values: tuple[float, ...]
    diverged: str | None = None
    learning_rate: float | None = None


class Trainer(Protocol):
    """Trains a candidate: ours, or one around the user's function."""

    epochs: int | None
    """That a whole trial reports; None where only a first trial can tell."""

    looks: int
    """Steps of an epoch."""

    unit: str
    """What an epoch is called: `task` where a stream is trained on."""

    def __call__(
        self,
        candidate: Candidate,
        *,
        seed: int,
        on_step: OnStep,
        on_batch: OnBatch,
        checkpoint: Path | None,
    ) -> Outcome:
        """Trains, calling `on_step` after each epoch and each look, which may stop it."""

    def tie_margin(self, best: float) -> float:
        """How much below the best a value may be and still count as nearly tied."""


class FunctionTrainer:
    """Trains by a Python function: `train(candidate)` or `train(candidate, seed=…)`.

    It yields a value an epoch, the last one counting, or returns one value: see `values_of` for
    what is a number.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise InputError(f"train must be callable, got {function!r}")
        self._function = function
        self.epochs: int | None = None
        self.looks, self.unit = 1, "epoch"
        self.takes_seed = _takes(function, "seed")

    def __call__(
        self,
        candidate: Candidate,
        *,
        seed: int,
        on_step: OnStep,
        on_batch: OnBatch,
        checkpoint: Path | None,
    ) -> Outcome:
        """Run the function to its end, or until `on_step` raises."""
        keys = {"seed": seed} if self.takes_seed else {}
        result = self._function(candidate, **keys)
        value = math.nan
        for step, value in enumerate(values_of(result), start=1):
            if not math.isfinite(value):
                return Outcome((value,), diverged=f"train gave {value} at epoch {step}")
            on_step(Reached(step, value, value, {"epoch": step, "accuracy": value}))
        return Outcome((value,))

    def tie_margin(self, best: float) -> float:
        """One hundredth: nothing is known of the noise of another's values."""
        return abs(best) / 100


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


# ------------------------------------------------------------------------------ a function's values

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


# ---------------------------------------------------------------------------------- its checkpoints


def checkpoint_path(folder: Path, candidate: Candidate, *, seed: int) -> Path:
    """Where a candidate's training over a seed is kept until it is finished."""
    text = json.dumps(candidate.to_dict(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return folder / f"{candidate.family.name}-{digest}-{seed}.safetensors"


def drop_checkpoints(checkpoint: Path) -> None:
    """Remove a finished trial's checkpoints."""
    for path in checkpoint.parent.glob(f"{checkpoint.stem}-*{checkpoint.suffix}*"):
        path.unlink(missing_ok=True)
