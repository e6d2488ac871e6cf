"""What a study keeps, key by key, and what each value must be: read as such, or told of in a line.

A storage may be damaged, or written to by others: whatever is read from it is looked at here before
anything works with it.

Of the study file everything is kept but the storage's URL, which may hold a password.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import sqlalchemy
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pdsearch.errors import PdsearchError, StorageError
from pdsearch.study.innards import database_of
from pdsearch.study.settings import StudyFile
from pdsearch.study.storage import storage_errors
from pdsearch.study.url import shown_url
from pdsearch.text import first_line, one_line, short

if TYPE_CHECKING:
    import optuna

__all__ = [
    "PREFIX",
    "RUN",
    "check_study",
    "check_trial",
    "clean",
    "kept_settings",
    "reading",
    "with_storage",
]

PREFIX = "pdsearch:"
RUN = "confirm/"
"""What the keys of a confirmation's runs begin with, after `PREFIX`."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
_Digits = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]


class _Kept(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Entry(_Kept):
    """What was found of a criterion."""

    name: str
    statement: str = ""
    verdict: str = ""
    passed: bool
    required: bool = False
    value: float | bool | list[float | None] | None = None


class _Report(_Kept):
    criteria: list[_Entry]


class _Look(_Kept):
    value: Number
    accuracy: Number | None = None
    loss: Number | None = None


class _Diagnosis(_Kept):
    cosine: Number | None
    norm_ratio: Number | None
    layers: dict[str, tuple[Number | None, Number | None]]
    revived: dict[str, Number]
    died: dict[str, Number]


class _Epoch(_Look):
    epoch: Count
    dead: dict[str, Number] | None = None
    seconds: Number | None = None
    learning_rate: Number | None = None
    evaluation_loss: Number | None = None
    diagnostics: _Diagnosis | None = None


class _Gate(_Kept):
    proved: list[str]
    ranges: dict[str, tuple[Number, Number]]
    hopeless: str | None


class _Trial(_Kept):
    model: str
    dataset: str
    epochs: Count


class _Setting(_Kept):
    trial: _Trial


class _Run(_Kept):
    """A run of a confirmation."""

    schema_: Annotated[int, Field(alias="schema")]
    setting: _Setting
    name: str
    kind: str
    place: Any
    how: str
    formula: str
    candidate: dict[str, Any] | None
    seed: Count
    split: Literal["test", "validation"]
    learning_rate: Number
    accuracy: Number
    chance: Number | None = None
    diverged: str | None
    finished: str


_STUDY: Mapping[str, Any] = {
    "settings": dict[str, Any],
    "families": dict[str, dict[str, Any]],
    "searched": list[str],
    "references": list[str],
    "directory": str,
    "versions": dict[str, str],
    "device": str | None,
    "threads": Annotated[int, Field(ge=1, le=100_000)] | None,
    "train": str | None,
    "criteria": list[str] | None,
    "direction": Literal["maximize", "minimize"],
    "own_criteria": dict[str, str],
    "content": dict[str, str],
    "gates": dict[str, _Gate],
    "seeds": dict[_Digits, dict[_Digits, Number | None]],
    "insight": dict[str, list[_Entry]],
}
_NEEDED = ("settings", "families", "searched", "references")
_TRIAL: Mapping[str, Any] = {
    "kind": Literal["baseline", "reference", "candidate"],
    "candidate": dict[str, Any],
    "epochs": list[_Epoch],
    "looks": list[_Look],
    "criteria": _Report | None,
    "reason": str | None,
    "seconds": Annotated[float, Field(allow_inf_nan=False, ge=0)] | None,
    "status": str,
    "duplicate_of": Count | None,
    "learning_rate": Number | None,
    "owner": dict[str, Any] | None,
    "past": Count,
    "stopped": Count,
    "continues": Count,
}
_STUDY_TYPES = {key: TypeAdapter(kind) for key, kind in _STUDY.items()}
_TRIAL_TYPES = {key: TypeAdapter(kind) for key, kind in _TRIAL.items()}
_RUN_TYPE = TypeAdapter(_Run)


def check_study(name: str, url: str, attributes: Mapping[str, Any], *, whole: bool = True) -> None:
    """Looks at what a study keeps of itself; all of it where `whole`.

    Raises:
        StorageError: a value is missing or of another kind than it must be.
    """
    for key in _NEEDED if whole else ():
        if PREFIX + key not in attributes:
            raise _damaged(name, url, f"it lacks {PREFIX + key!r}")
    for key, value in attributes.items():
        plain = key.removeprefix(PREFIX)
        known = _STUDY_TYPES.get(plain) if key.startswith(PREFIX) else None
        if plain.startswith(RUN) and key.startswith(PREFIX):
            # One of a newer schema is passed over by who reads them.
            if isinstance(value, Mapping) and value.get("schema") != 1:
                continue
            known = _RUN_TYPE
        if known is not None:
            _check(known, value, lambda what, key=key: _damaged(name, url, f"its {key!r} {what}"))
    for key in ("searched", "references") if whole else ():
        families = attributes[PREFIX + "families"]
        for family in attributes[PREFIX + key]:
            if family not in families:
                raise _damaged(name, url, f"its {PREFIX + key!r} names {family!r}, no family of it")


def check_trial(name: str, url: str, number: int, attributes: Mapping[str, Any]) -> None:
    """Looks at all that a trial keeps of itself.

    Raises:
        StorageError: a value is of another kind than it must be.
    """
    needing = ("continues", "past", "stopped", "criteria", "epochs")
    for key in needing if PREFIX + "candidate" not in attributes else ():
        if PREFIX + key in attributes:
            said = f"trial {number} keeps {PREFIX + key!r} and no {PREFIX + 'candidate'!r}"
            raise _damaged(name, url, said)
    fixed = attributes.get(PREFIX + "kind") in ("baseline", "reference")
    if fixed and PREFIX + "candidate" not in attributes:
        raise _damaged(name, url, f"trial {number} lacks {PREFIX + 'candidate'!r}")
    for key, value in attributes.items():
        known = _TRIAL_TYPES.get(key.removeprefix(PREFIX)) if key.startswith(PREFIX) else None
        if known is not None:
            _check(
                known,
                value,
                lambda what, key=key: _damaged(name, url, f"trial {number}'s {key!r} {what}"),
            )


def _check(known: "TypeAdapter[Any]", value: Any, damaged: Any) -> None:
    try:
        # In JSON's terms: a list is as good as a tuple.
        known.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        shown = short(first.get("input"), 40)
        place = f" at {where}" if where else ""
        raise damaged(f"is damaged{place}: {first_line_of(first['msg'])}, got {shown}") from None
    except (ValueError, RecursionError, TypeError) as error:
        raise damaged(f"is damaged: {first_line(error)[:80]}") from None


def first_line_of(text: str) -> str:
    """A message's first line, begun small."""
    line = first_line(text)[:100]
    return line[:1].lower() + line[1:]


def _damaged(name: str, url: str, what: str) -> StorageError:
    return StorageError(
        f"study {name!r} in {shown_url(url)} is damaged: {what} (restore a copy of the storage)"
    )


# --------------------------------------------------------------------- settings without their URL


def kept_settings(settings: StudyFile) -> dict[str, Any]:
    """The settings as they are stored."""
    data = settings.model_dump(mode="json")
    del data["study"]["storage"]
    return data


def clean(study: "optuna.Study") -> None:
    """Takes the URL out of what an earlier version has stored."""
    kept = study.user_attrs.get(PREFIX + "settings")
    if not isinstance(kept, Mapping):
        return
    section = kept.get("study")
    if isinstance(section, Mapping) and "storage" in section:
        section = {key: value for key, value in section.items() if key != "storage"}
        study.set_user_attr(PREFIX + "settings", {**kept, "study": section})


def with_storage(data: Any, url: str) -> Any:
    """Stored settings with the URL that the study was opened by, as it may be shown."""
    section = data.get("study") if isinstance(data, Mapping) else None
    if not isinstance(section, Mapping):
        return data
    return {**data, "study": {**section, "storage": shown_url(url)}}


# ------------------------------------------------------------------------- what Optuna cannot read


@contextlib.contextmanager
def reading(name: str, url: str, backend: "optuna.storages.BaseStorage") -> Iterator[None]:
    """Tells in a line what Optuna cannot read: no JSON, no such state, no time.

    Only around calls that read: whatever they raise comes from the storage.

    Args:
        name: the study's.
        url: the storage's.
        backend: the open storage, in which the damage is looked for.
    """
    try:
        with storage_errors(url):
            yield
    except PdsearchError:
        raise
    except Exception as error:  # of a dozen kinds, by what was hit
        found = _search_for_damage(name, backend)
        said = found or f"{type(error).__name__}: {one_line(error)[:120]}"
        raise _damaged(name, url, said) from error


_QUERIES = {
    "its {key!r}": "SELECT a.key, a.value_json, 0 FROM study_{kind}_attributes a "
    "JOIN studies s ON s.study_id = a.study_id WHERE s.study_name = :name",
    "trial {number}'s {key!r}": "SELECT a.key, a.value_json, t.number FROM trial_{kind}_attributes "
    "a JOIN trials t ON t.trial_id = a.trial_id JOIN studies s ON s.study_id = t.study_id "
    "WHERE s.study_name = :name",
}
_PARAMETERS = (
    "SELECT p.param_name, p.distribution_json, t.number FROM trial_params p "
    "JOIN trials t ON t.trial_id = p.trial_id JOIN studies s ON s.study_id = t.study_id "
    "WHERE s.study_name = :name"
)


def _search_for_damage(name: str, backend: "optuna.storages.BaseStorage") -> str | None:
    """The first value that is no JSON, or a trial in no known state; None if nothing is found."""
    database = database_of(backend)
    if database is None:
        return None
    queries = [
        (said, text.format(kind=kind))
        for said, text in _QUERIES.items()
        for kind in ("user", "system")
    ]
    queries.append(("trial {number}'s parameter {key!r}", _PARAMETERS))
    try:
        with database.engine.connect() as connection:
            for said, text in queries:
                for key, value, number in connection.execute(sqlalchemy.text(text), {"name": name}):
                    try:
                        json.loads(value)
                    except (ValueError, TypeError, RecursionError):
                        return said.format(key=key, number=number) + " is no JSON"
    except Exception:  # too damaged to look into: what was raised first is told
        return None
    return None
