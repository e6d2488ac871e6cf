"""Patterns of site names: which candidate a site gets, and which sites stay."""

import fnmatch
from collections.abc import Iterable

from pdsearch.errors import InputError

__all__ = ["Choice", "Patterns"]

Patterns = str | Iterable[str] | None


class Choice:
    """Which pattern of `candidate` serves a site, after `only` and `skip`."""

    def __init__(self, patterns: list[str], only: Patterns, skip: Patterns) -> None:
        self.patterns = patterns
        self.only = None if only is None else _listed(only, "only")
        self.skip = _listed(skip, "skip")

    def __call__(self, names: Iterable[str]) -> str | None:
        """The pattern for a site of these names; None: it stays as it is."""
        names = list(names)
        if self.only is not None and not _any(self.only, names):
            return None
        if _any(self.skip, names):
            return None
        return next((p for p in self.patterns if _any([p], names)), None)

    def check(self, names: list[str]) -> None:
        """Refuse patterns that match nothing: a name mistyped would leave a ReLU behind."""
        for pattern in (*self.patterns, *(self.only or ()), *self.skip):
            if pattern != "*" and names and not _any([pattern], names):
                shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                raise InputError(f"no ReLU's name matches {pattern!r}; there are {shown}")


def _listed(patterns: Patterns, what: str) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns or ())
    for pattern in listed:
        if not isinstance(pattern, str):
            raise InputError(f"{what} must be patterns of names, got {type(pattern).__name__}")
    return listed


def _any(patterns: list[str], names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
