"""Patterns of sites, by name or by depth: which candidate a site gets, and which sites stay.

A pattern is a shell pattern of names (`features.*`), or a slice `[first:end]` of the sites in the
order in which a forward pass first reaches them, with Python's meaning of its ends: `[:3]` are the
first three, `[-2:]` the last two.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pdsearch.errors import InputError

__all__ = ["Choice", "Patterns", "slice_of"]

Patterns = str | Iterable[str] | None

_SLICE = re.compile(r"\[(-?[0-9]{1,9})?:(-?[0-9]{1,9})?\]")


def slice_of(pattern: str) -> slice | None:
    """Return the slice that a pattern by depth stands for; None for a pattern of names."""
    found = _SLICE.fullmatch(pattern)
    if found is None:
        return None
    first, end = (None if text is None else int(text) for text in found.groups())
    return slice(first, end)


class Choice:
    """Which of several alternatives serves a site, after `only` and `skip`.

    An alternative is a pattern of `convert`'s dict, or a group of patterns.

    Attributes:
        order: the names of the sites as a forward pass reaches them; set before a site is chosen if
            `by_depth`.
    """

    def __init__(
        self,
        alternatives: Mapping[str, Sequence[str]],
        only: Patterns,
        skip: Patterns,
        *,
        groups: bool = False,
    ) -> None:
        """Keep the patterns of each alternative; with `groups`, a site may match only one."""
        self.alternatives, self.groups = alternatives, groups
        self.only = None if only is None else _listed(only, "only")
        self.skip = _listed(skip, "skip")
        self.order: Sequence[str] = ()

    @property
    def by_depth(self) -> bool:
        """Whether a pattern is a slice."""
        return any(slice_of(pattern) is not None for _, pattern in self._every())

    def _every(self) -> Iterator[tuple[str, str]]:
        """Every pattern, after the beginning of a message: of a group, its name."""
        for name, patterns in self.alternatives.items():
            yield from ((f"group {name!r}: " if self.groups else "", one) for one in patterns)
        yield from (("", one) for one in (*(self.only or ()), *self.skip))

    def __call__(self, names: Iterable[str]) -> str | None:
        """The alternative for a site of these names; None: it stays as it is."""
        names = list(names)
        if self.only is not None and not self._any(self.only, names):
            return None
        if self._any(self.skip, names):
            return None
        found = self.alternatives.items()
        return next((name for name, some in found if self._any(some, names)), None)

    def check(self, sites: Sequence[Sequence[str]]) -> None:
        """Refuse patterns that match nothing, and groups that share a site.

        A name mistyped would leave a ReLU behind. Each site is given by its names.
        """
        names = [name for site in sites for name in site]
        for begin, pattern in self._every():
            if slice_of(pattern) is not None and not self._any([pattern], self.order):
                raise InputError(
                    f"{begin}no ReLU is in {pattern}: a forward pass reaches {len(self.order)} of "
                    "them"
                )
            if pattern != "*" and names and not self._any([pattern], names):
                shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                raise InputError(f"{begin}no ReLU's name matches {pattern!r}; there are {shown}")
        for site in sites if self.groups else ():
            both = [name for name, some in self.alternatives.items() if self._any(some, site)]
            if len(both) > 1:
                raise InputError(
                    f"ReLU {site[0]!r} is in the groups {' and '.join(map(repr, both))}: their "
                    "layers must not overlap"
                )

    def _any(self, patterns: Iterable[str], names: Iterable[str]) -> bool:
        names = list(names)
        return any(self._matches(pattern, name) for pattern in patterns for name in names)

    def _matches(self, pattern: str, name: str) -> bool:
        span = slice_of(pattern)
        if span is not None:
            return name in self.order[span]
        return fnmatch.fnmatchcase(name, pattern)


def _listed(patterns: Patterns, what: str) -> list[str]:
    listed = [patterns] if isinstance(patterns, str) else patterns or ()
    for pattern in listed if isinstance(listed, Iterable) else (listed,):
        if not isinstance(pattern, str):
            raise InputError(f"{what} must be patterns of names, got {type(pattern).__name__}")
    return list(listed)
