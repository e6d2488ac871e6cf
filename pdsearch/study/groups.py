"""`[study.groups]` of a study file: groups of a network's ReLUs, each with its own candidates."""

import itertools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pdsearch.family import check_group
from pdsearch.study.problems import Problems

FamilySpec = str | dict[str, Any]


class Section(BaseModel):
    """A section or a table of a study file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GroupSettings(Section):
    """`[study.groups]`: each group is a table by its name, and has these keys."""

    layers: list[str] = Field(
        min_length=1,
        description="patterns of the group's ReLUs, of names (`classifier.*`) or slices by depth "
        "(`[:2]`), as for `convert` ([op.md](op.md)); no ReLU may be in two groups",
    )
    families: list[FamilySpec] | None = Field(
        None, min_length=1, description="families to search for this group instead of `families`"
    )


def check_groups(groups: Mapping[str, GroupSettings]) -> None:
    """Check the names and patterns of groups.

    Raises:
        InputError: some are not valid: all problems, one per line.
    """
    problems = Problems()
    for name, group in groups.items():
        with problems.at():
            check_group(name, group.layers)
    problems.check()


def families_of(groups: Any) -> list[Any]:
    """Return the families that groups name, each once; none unless every group names some.

    The groups are those of a study file, unchecked.
    """
    named: list[Any] = []
    for families in _each(groups, "families"):
        if not isinstance(families, list):
            return []
        named += [spec for spec in families if spec not in named]  # a table cannot be in a set
    return named


def layers_of(groups: Any) -> list[Any]:
    """Return the patterns of all groups of a study file, unchecked; none if some are no list.

    They are in the order of the groups' names: the order in the file decides nothing.
    """
    layers = _each(groups, "layers")
    return [*itertools.chain(*layers)] if all(isinstance(one, list) for one in layers) else []


def _each(groups: Any, key: str) -> list[Any]:
    if not isinstance(groups, Mapping):
        return []
    ordered = [groups[name] for name in sorted(groups, key=str)]
    return [one.get(key) if isinstance(one, Mapping) else None for one in ordered]
