"""Conversion of values to what JSON can hold."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Return the value with None for non-finite numbers and lists for sequences.

    Neither PostgreSQL nor browsers accept NaN in JSON. Paths become text; numbers of numpy and
    sympy become Python's.

    Raises:
        TypeError: The value has no JSON form.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):
        return plain(value.item())
    if hasattr(value, "__float__"):
        return plain(float(value))
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
