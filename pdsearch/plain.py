"""Values as JSON holds them everywhere."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Return the value with None for each number that is not finite, and lists for sequences.

    PostgreSQL knows no NaN in JSON, nor do browsers. Paths become text, numpy's numbers Python's.

    Raises:
        TypeError: JSON cannot hold such a value.
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
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
