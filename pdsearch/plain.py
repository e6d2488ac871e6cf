"""Values as JSON holds them everywhere."""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """The value with None for numbers that are not finite, and lists for tuples, at any depth.

    PostgreSQL knows no NaN in JSON, nor do browsers.
    """
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
