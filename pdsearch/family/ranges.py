"""Ranges of parameters: Optuna's distributions from plain data, and values inside them."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from pdsearch.errors import InputError, short

Range = FloatDistribution | IntDistribution


def checked_distribution(name: str, distribution: BaseDistribution) -> Range:
    """Return a copy of a distribution that parameters may have.

    Raises:
        InputError: it is of another kind, or not finite.
    """
    if not isinstance(distribution, Range):
        raise InputError(
            f"parameter {name!r} needs an optuna FloatDistribution or IntDistribution, got "
            f"{short(distribution)}"
        )
    if not (math.isfinite(distribution.low) and math.isfinite(distribution.high)):
        raise InputError(f"the range of {name!r} must be finite, got {distribution}")
    return copy.copy(distribution)


def distribution_from(entry: Any, name: str) -> Range:
    """Return a distribution from `[low, high]`, `[low, high, "log"]` or an object of `to_dict`.

    Raises:
        InputError: with the parameter's name.
    """
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        if len(entry) not in (2, 3) or (len(entry) == 3 and entry[2] != "log"):
            raise InputError(
                f'the range of {name!r} must be [low, high] or [low, high, "log"], '
                f"got {short(entry)}"
            )
        entry = {"low": entry[0], "high": entry[1], "log": len(entry) == 3}
    if not isinstance(entry, Mapping):
        raise InputError(f"the range of {name!r} must be [low, high], got {short(entry)}")
    if unknown := sorted(map(str, set(entry) - {"type", "low", "high", "log", "step"})):
        raise InputError(f"the range of {name!r} has unknown keys: {', '.join(unknown)}")
    kind, log = entry.get("type", "float"), entry.get("log", False)
    if kind not in ("float", "int"):
        raise InputError(f"'type' of the range of {name!r} must be float or int, got {short(kind)}")
    if not isinstance(log, bool):
        raise InputError(f"'log' of the range of {name!r} must be true or false, got {short(log)}")
    for key in ("low", "high"):
        if key not in entry:
            raise InputError(f"the range of {name!r} lacks {key!r}")
    low, high = (_finite(entry[key], name) for key in ("low", "high"))
    step = None if entry.get("step") is None else _finite(entry["step"], name)
    if low > high:
        raise InputError(f"the range of {name!r} is empty: low {low} is above high {high}")
    if log and low <= 0:
        raise InputError(f"the range of {name!r} is logarithmic and must start above 0, got {low}")
    try:
        if kind == "float":
            return FloatDistribution(float(low), float(high), log=log, step=step)
        if any(number != int(number) for number in (low, high, step or 1)):
            raise InputError(f"the range of {name!r} is of whole numbers, got [{low}, {high}]")
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    except InputError:
        raise
    except (ValueError, ArithmeticError) as error:  # a step of 1e-300
        raise InputError(f"the range of {name!r}: {' '.join(str(error).split())}") from None


def _finite(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"the range of {name!r} needs numbers, got {short(value)}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond every float
        finite = False
    if not finite:
        raise InputError(f"the range of {name!r} must be finite, got {short(value)}")
    return value


def parameters_in(
    expression: sympy.Expr,
    space: Mapping[str, BaseDistribution],
    defaults: Mapping[str, float],
) -> dict[str, Any]:
    """Return `space` and `defaults` with the parameters that an expression contains, by name."""
    held = {s.name for s in expression.free_symbols}
    return {
        "space": {n: d for n, d in space.items() if n in held},
        "defaults": {n: v for n, v in defaults.items() if n in held},
    }


def at_share(low: float, high: float, share: float, *, log: bool = False) -> float:
    """Return the value at a share of a range, in the range's scale."""
    if log and low > 0:
        ratio = high / low
        if math.isinf(ratio):  # both are finite
            return float(low ** (1 - share) * high**share)
        return float(low * ratio**share)
    width = high - low
    return low * (1 - share) + high * share if math.isinf(width) else low + width * share


def in_range(value: float, d: Range) -> float:
    """Return the value of a range nearest to a number; whole if the range is."""
    near = round(value) if isinstance(d, IntDistribution) else value
    return min(max(near, d.low), d.high)


def middle(d: Range) -> float:
    """Return the default value of a parameter: the middle, geometric where log."""
    value = at_share(d.low, d.high, 0.5, log=d.log)
    if isinstance(d, IntDistribution):
        return in_range(d.low + round((value - d.low) / d.step) * d.step, d)
    rounded = float(f"{value:.6g}")
    return rounded if d.low <= rounded <= d.high else in_range(value, d)


def checked(value: Any, name: str, d: Range, where: str) -> float:
    """Return a parameter's value as a plain number of its range.

    Raises:
        InputError: it is not a number, or outside the range.
    """
    try:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise TypeError
        number = float(value)
    except (OverflowError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} for {where} must be a number, got {short(value)}") from None
    if not d.low <= number <= d.high:  # NaN fails too
        raise InputError(f"{name} must be in [{d.low!r}, {d.high!r}] for {where}, got {number!r}")
    if isinstance(d, IntDistribution):
        if number != int(number):
            raise InputError(f"{name} must be a whole number for {where}, got {number!r}")
        return int(number)
    return number
