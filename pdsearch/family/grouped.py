"""A candidate for each of several groups of a network's ReLUs."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pdsearch.errors import InputError, short
from pdsearch.family.definition import FAMILY_NAME, Candidate, Family
from pdsearch.family.documents import GROUPED_SCHEMA, check_schema, read_object
from pdsearch.family.notebook import ShownGrouped


@dataclass(frozen=True)
class Grouped(ShownGrouped):
    """Several pseudo-derivatives at once: a candidate for each group of a network's ReLUs.

    `convert(model, grouped, example=batch)` gives each group its own. ReLUs in no group keep their
    derivative.

    Args:
        parts: the candidate of each group, by the group's name.
        layers: the patterns of each group's ReLUs, as in `convert`.

    Raises:
        InputError: a name is no identifier, the groups of the two differ, or one has no layers.
    """

    parts: Mapping[str, Candidate]
    layers: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, Mapping) or not isinstance(self.layers, Mapping):
            raise InputError("groups are made of a dictionary of candidates and one of layers")
        if not self.parts or set(self.parts) != set(self.layers):
            raise InputError(
                "groups need a candidate and layers each, got candidates for "
                f"{', '.join(map(str, self.parts)) or 'none'} and layers of "
                f"{', '.join(map(str, self.layers)) or 'none'}"
            )
        for name, part in self.parts.items():
            check_group(name, self.layers[name])
            if not isinstance(part, Candidate):
                raise InputError(f"group {name!r} needs a Candidate, got {type(part).__name__}")
        layers = {name: tuple(self.layers[name]) for name in self.parts}
        object.__setattr__(self, "parts", MappingProxyType(dict(self.parts)))
        object.__setattr__(self, "layers", MappingProxyType(layers))

    @property
    def name(self) -> str:
        """Each group with its candidate: `first: elu(alpha=1) + classifier: relu`."""
        return " + ".join(f"{group}: {part.name}" for group, part in self.parts.items())

    @property
    def formula(self) -> str:
        """Each group with its layers and its formula, as text."""
        return self._each(lambda part: part.formula)

    @property
    def identity(self) -> str:
        """Everything that determines the backward pass: layers, formulas and directions."""
        return self._each(lambda part: part.identity)

    def _each(self, text: Callable[[Candidate], str]) -> str:
        return "; ".join(
            f"{group} ({', '.join(self.layers[group])}): {text(part)}"
            for group, part in self.parts.items()
        )

    @property
    def parameters(self) -> dict[str, float]:
        """Every parameter, as `group:name`."""
        return {
            f"{group}:{name}": value
            for group, part in self.parts.items()
            for name, value in part.parameters.items()
        }

    @property
    def annealed(self) -> bool:
        """Whether some g changes with training progress t."""
        return any(part.annealed for part in self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the groups as plain data; `from_dict` reads it back."""
        return {
            "schema": GROUPED_SCHEMA,
            "groups": {
                group: {"layers": list(self.layers[group]), "candidate": part.to_dict()}
                for group, part in self.parts.items()
            },
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, read: Callable[[Mapping[str, Any]], Family] | None = None
    ) -> "Grouped":
        """Read what `to_dict` wrote; `read` as for `Candidate.from_dict`.

        Raises:
            InputError: a field is missing, of the wrong type, or of a newer schema.
        """
        check_schema(data, "candidate of groups", newest=GROUPED_SCHEMA)
        groups = data.get("groups")
        if not isinstance(groups, Mapping) or not all(
            isinstance(entry, Mapping)
            and isinstance(entry.get("candidate"), Mapping)
            and isinstance(entry.get("layers"), list)
            for entry in groups.values()
        ):
            raise InputError("JSON of groups needs the objects 'candidate' and 'layers' of each")
        return cls(
            {
                name: Candidate.from_dict(one["candidate"], read=read)
                for name, one in groups.items()
            },
            {name: tuple(one["layers"]) for name, one in groups.items()},
        )

    def to_json(self) -> str:
        """Return the groups as one JSON document, with a schema version."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Grouped":
        """Read what `to_json` wrote.

        Raises:
            InputError: the text is not JSON, or not of groups.
        """
        return cls.from_dict(read_object(text, "candidate of groups"))

    def __hash__(self) -> int:
        return hash((frozenset(self.parts.items()), frozenset(self.layers.items())))

    def __repr__(self) -> str:
        return f"Grouped({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Grouped, (dict(self.parts), dict(self.layers)))

    def __deepcopy__(self, memo: Any) -> "Grouped":
        return self


Drawn = Candidate | Grouped
"""What a study draws for a trial: one candidate, or one for each group of layers."""


def check_group(name: str, layers: Iterable[str]) -> None:
    """Check a group's name and its patterns.

    Raises:
        InputError: one is not valid.
    """
    if not isinstance(name, str) or not FAMILY_NAME.match(name):
        raise InputError(
            f"group name {short(name)} is not valid: use an ASCII identifier of at most 64 "
            "characters, such as first"
        )
    given = [] if isinstance(layers, str) else list(layers)
    if not given or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise InputError(
            f"group {name!r}: layers must be one or more patterns of ReLUs, such as "
            f"['features.*'] or ['[:2]'], got {short(layers)}"
        )


def parts_of(drawn: Drawn) -> Mapping[str, Candidate]:
    """Return the candidate of each group; a candidate for all layers has the group ""."""
    return drawn.parts if isinstance(drawn, Grouped) else {"": drawn}


def drawn_from(
    data: Mapping[str, Any], *, read: Callable[[Mapping[str, Any]], Family] | None = None
) -> Drawn:
    """Read what `to_dict` of a candidate or of groups wrote.

    Raises:
        InputError: as `Candidate.from_dict`.
    """
    kind: type[Drawn] = Grouped if "groups" in data else Candidate
    return kind.from_dict(data, read=read)
