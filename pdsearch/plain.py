"""Values as JSON can hold them."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["finite", "plain"]


def finite(value: float | None) -> float | None:
    """Return the value; None if it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Return the value as plain data, at any depth.

    Numbers that are not finite become None, because PostgreSQL's JSON and browsers know no NaN.
    Keys and paths become text, NumPy's numbers Python's, and whatever else can be iterated over a
    list.

    Raises:
        TypeError: it holds something else.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return finite(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
