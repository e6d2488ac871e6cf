"""What a study and its trials keep in the storage: each key, its type, its reader and writer.

`StudyAttrs(study).threads` reads an attribute, None where it is missing, and assigning to it writes
it. A storage may be damaged, or written to by others: `check_study` and `check_trial` check the
types before anything works with the values.

Everything of the study file is kept except the storage's URL, which may hold a password.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_type_hints,
    overload,
)

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pdsearch.criteria import FamilyGate
from pdsearch.errors import StorageError, first_line, short
from pdsearch.family import Candidate, Family
from pdsearch.study.settings import StudyFile
from pdsearch.study.storage import damaged
from pdsearch.study.url import shown_url

SCHEMA = 1
"""The version of all that is kept."""

_PREFIX = "pdsearch:"
RUNS = f"{_PREFIX}confirm/"
"""What the key of a confirmation's run begins with."""

Kind = Literal["baseline", "reference", "candidate"]
FIXED = ("baseline", "reference")
"""The kinds of trials that always run, at parameters that are not drawn."""

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """One attribute, whose stored type is `_T`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.key = name, _PREFIX + name

    @overload
    def __get__(self, attrs: None, owner: type) -> "Kept[_T]": ...
    @overload
    def __get__(self, attrs: "_Attrs", owner: type) -> _T | None: ...
    def __get__(self, attrs: "_Attrs | None", owner: type) -> "Kept[_T] | _T | None":
        return self if attrs is None else attrs.all.get(self.key)

    def __set__(self, attrs: "_Attrs", value: _T) -> None:
        attrs.of.set_user_attr(self.key, value)


class _Attrs:
    """The attributes of a study or a trial: an object of Optuna's, or its `user_attrs` as read."""

    def __init__(self, of: Any) -> None:
        self.of = of

    @property
    def all(self) -> dict[str, Any]:
        """Every attribute by its whole key."""
        return self.of if isinstance(self.of, dict) else self.of.user_attrs

    def __contains__(self, name: str) -> bool:
        return _PREFIX + name in self.all

    def only(self, *names: str) -> dict[str, Any]:
        """Those of these attributes that are there, by their whole keys."""
        every = self.all
        return {_PREFIX + name: every[_PREFIX + name] for name in names if _PREFIX + name in every}

    def write(self, **values: Any) -> None:
        """Write attributes by their names."""
        for key, value in type(self).named(**values).items():
            self.of.set_user_attr(key, value)

    @classmethod
    def named(cls, **values: Any) -> dict[str, Any]:
        """Return attributes by their whole keys; each must be one of the class's."""
        return {getattr(cls, name).key: value for name, value in values.items()}

    @classmethod
    @functools.cache
    def types(cls) -> "dict[str, TypeAdapter[Any]]":
        """Return how each attribute is checked, by its whole key."""
        found = {}
        for name, kept in get_type_hints(cls, include_extras=True).items():
            (kind,) = get_args(kept)
            checked = [entry.type for entry in get_args(kind)[1:] if isinstance(entry, _As)]
            found[_PREFIX + name] = TypeAdapter(checked[0] if checked else kind)
        return found


# -------------------------------------------------------------------------------------- the types

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
_Digits = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
_Threads = Annotated[int, Field(ge=1, le=100_000)]
_Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Entry(_Record):
    """What was found of a criterion."""

    name: str
    statement: str = ""
    verdict: str = ""
    passed: bool
    required: bool = False
    value: float | bool | list[float | None] | None = None


class _Report(_Record):
    criteria: list[_Entry]


class _Look(_Record):
    value: Number
    accuracy: Number | None = None
    loss: Number | None = None


class _Diagnosis(_Record):
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


class _Gate(_Record):
    proved: list[str]
    ranges: dict[str, tuple[Number, Number]]
    hopeless: str | None


class _Stream(_Record):
    tasks: Count
    last: Count
    change: str


class _Trial(_Record):
    model: str
    dataset: str
    epochs: Count
    learning_rate: Number
    learning_rates: list[Number] | None = None
    stream: _Stream | None = None


class _Setting(_Record):
    trial: _Trial
    device: str
    versions: dict[str, str]


class _RunEpoch(_Record):
    epoch: Count
    accuracy: Number | None
    final_accuracy: Number | None = None
    dead: dict[str, Number] | None = None
    weight_norms: dict[str, Number | None] | None = None
    diagnostics: _Diagnosis | None = None


RunKind = Literal[
    "baseline", "reference", "candidate", "given", "forward_control", "activation", "remedy"
]
"""What a row of a confirmation is, in the order of its rows."""


class _Run(_Record):
    """A run of a confirmation."""

    schema_: Annotated[int, Field(alias="schema")]
    setting: _Setting
    name: str
    kind: RunKind
    place: Count = 0
    how: str
    formula: str
    candidate: dict[str, Any] | None
    seed: Count
    split: Literal["test", "validation"]
    learning_rate: Number
    accuracy: Number
    chance: Number
    diverged: str | None
    finished: str
    seconds: Number
    epochs: list[_RunEpoch] = []
    changes: dict[str, Any] = {}


class _As(NamedTuple):
    """The type by which plain data is checked."""

    type: Any


_Data = dict[str, Any]


class StudyAttrs(_Attrs):
    """What a study keeps, besides the runs of its confirmations (see `runs_of`).

    Attributes:
        schema: `SCHEMA` of the version that wrote it; written last, when the study is whole.
        settings: the study file, without its storage.
        families: every family by name, as `Family.to_dict()`.
        searched: the names of those that candidates are drawn from.
        references: the names of those that are run at their defaults.
        directory: what relative paths in the settings are relative to.
        versions: of what decides a trial's numbers.
        device: on which it was begun.
        threads: of each trial.
        train: the name of the Python function that trains; None where pdsearch does.
        criteria: the names of criteria given in Python.
        direction: of the first objective.
        own_criteria: the text of each criterion's file, by `path.py:function`.
        content: a digest of what each file that a setting names holds, by the setting.
        gates: what was decided for whole families, by name.
        seeds: values over further seeds, by trial and seed; None where training diverged.
        insight: the values of criteria that were decided for a report, by formula.
    """

    schema: Kept[Any] = Kept()
    settings: Kept[dict[str, Any]] = Kept()
    families: Kept[dict[str, dict[str, Any]]] = Kept()
    searched: Kept[list[str]] = Kept()
    references: Kept[list[str]] = Kept()
    directory: Kept[str] = Kept()
    versions: Kept[dict[str, str]] = Kept()
    device: Kept[str | None] = Kept()
    threads: Kept[_Threads | None] = Kept()
    train: Kept[str | None] = Kept()
    criteria: Kept[list[str] | None] = Kept()
    direction: Kept[Literal["maximize", "minimize"]] = Kept()
    own_criteria: Kept[dict[str, str]] = Kept()
    content: Kept[dict[str, str]] = Kept()
    gates: Kept[Annotated[dict[str, _Data], _As(dict[str, _Gate])]] = Kept()
    seeds: Kept[dict[_Digits, dict[_Digits, Number | None]]] = Kept()
    insight: Kept[Annotated[dict[str, list[_Data]], _As(dict[str, list[_Entry]])]] = Kept()

    def family_gates(self) -> dict[str, FamilyGate]:
        """What was decided for whole families; nothing in a study of an earlier version."""
        return {name: FamilyGate.from_dict(data) for name, data in (self.gates or {}).items()}

    def ours(self) -> bool:
        """Whether every attribute is pdsearch's."""
        return all(key.startswith(_PREFIX) for key in self.all)


class TrialAttrs(_Attrs):
    """What a trial keeps.

    Attributes:
        kind: what it runs for.
        candidate: as `Candidate.to_dict()`.
        epochs: an entry an epoch, with the value there.
        looks: the same for the looks within the first epoch.
        criteria: what the gate found, as `Report.to_dict()`.
        reason: why it was ruled out, stopped or failed.
        seconds: that it took.
        status: how it ended, finer than Optuna's states.
        duplicate_of: the number of the earlier trial of the same g.
        learning_rate: the one that counts, of several.
        owner: the process that runs it, as `Owner.to_dict()`.
        past: the step that a continued trial continues past.
        stopped: the step at which it was stopped by halving.
        continues: the number of the trial that it continues.
    """

    kind: Kept[Kind] = Kept()
    candidate: Kept[dict[str, Any]] = Kept()
    epochs: Kept[Annotated[list[_Data], _As(list[_Epoch])]] = Kept()
    looks: Kept[Annotated[list[_Data], _As(list[_Look])]] = Kept()
    criteria: Kept[Annotated[_Data | None, _As(_Report | None)]] = Kept()
    reason: Kept[str | None] = Kept()
    seconds: Kept[_Seconds | None] = Kept()
    status: Kept[str] = Kept()
    duplicate_of: Kept[Count | None] = Kept()
    learning_rate: Kept[Number | None] = Kept()
    owner: Kept[dict[str, Any] | None] = Kept()
    past: Kept[Count] = Kept()
    stopped: Kept[Count] = Kept()
    continues: Kept[Count] = Kept()

    @property
    def fixed(self) -> bool:
        """Whether it is the baseline's or a reference's."""
        return self.kind in FIXED

    def drawn(self) -> Candidate | None:
        """The candidate; None until one was drawn."""
        data = self.candidate
        return None if data is None else candidate_from(data)


def candidate_from(data: Mapping[str, Any]) -> Candidate:
    """Return a candidate from plain data; a family's formula is parsed once, not once a trial."""
    return Candidate.from_dict(
        data, read=lambda family: _family(json.dumps(family, sort_keys=True))
    )


@functools.lru_cache(maxsize=256)
def _family(text: str) -> Family:
    return Family.from_dict(json.loads(text))


def runs_of(attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the runs of confirmations among a study's attributes, of a schema that is known."""
    return {
        key: record
        for key, record in attributes.items()
        if key.startswith(RUNS) and record.get("schema") == SCHEMA
    }


# ------------------------------------------------------------------------------------- the checks

_NEEDED = ("settings", "families", "searched", "references")
_NEEDING_CANDIDATE = ("continues", "past", "stopped", "criteria", "epochs")
_RUN = TypeAdapter(_Run)


def check_study(name: str, url: str, attributes: dict[str, Any], *, whole: bool = True) -> None:
    """Check what a study keeps of itself; all of it where `whole`.

    Raises:
        StorageError: a value is missing or of another kind than it must be.
    """
    attrs = StudyAttrs(attributes)
    for key in _NEEDED if whole else ():
        if key not in attrs:
            raise damaged(name, url, f"it lacks {_PREFIX + key!r}")
    for key, value in attributes.items():
        known = StudyAttrs.types().get(key)
        if key.startswith(RUNS):
            # One of a newer schema is passed over by whoever reads them.
            if isinstance(value, Mapping) and value.get("schema") != SCHEMA:
                continue
            known = _RUN
        if known is not None:
            _check(known, value, functools.partial(_about, name, url, f"its {key!r}"))
    families = attrs.families or {}
    for key in ("searched", "references") if whole else ():
        for family in attributes[_PREFIX + key]:
            if family not in families:
                raise damaged(name, url, f"its {_PREFIX + key!r} names {family!r}, no family of it")


def check_trial(name: str, url: str, number: int, attributes: dict[str, Any]) -> None:
    """Check all that a trial keeps of itself.

    Raises:
        StorageError: a value is of another kind than it must be.
    """
    attrs = TrialAttrs(attributes)
    if "candidate" not in attrs:
        for key in _NEEDING_CANDIDATE:
            if key in attrs:
                said = f"trial {number} keeps {_PREFIX + key!r} and no {_PREFIX + 'candidate'!r}"
                raise damaged(name, url, said)
        if attrs.fixed:
            raise damaged(name, url, f"trial {number} lacks {_PREFIX + 'candidate'!r}")
    types = TrialAttrs.types()
    for key, value in attributes.items():
        if key in types:
            about = functools.partial(_about, name, url, f"trial {number}'s {key!r}")
            _check(types[key], value, about)


def _about(name: str, url: str, value: str, what: str) -> StorageError:
    return damaged(name, url, f"{value} {what}")


def _check(known: "TypeAdapter[Any]", value: Any, error_of: Callable[[str], StorageError]) -> None:
    try:
        # In JSON's terms: a list is as good as a tuple.
        known.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        place = f" at {where}" if where else ""
        said = first_line(first["msg"])[:100]
        said = said[:1].lower() + said[1:]
        got = short(first.get("input"), 40)
        raise error_of(f"is damaged{place}: {said}, got {got}") from None
    except (ValueError, RecursionError, TypeError) as error:
        raise error_of(f"is damaged: {first_line(error)[:80]}") from None


# --------------------------------------------------------------------- settings without their URL


def kept_settings(settings: StudyFile) -> dict[str, Any]:
    """Return the settings as they are stored."""
    return _without_storage(settings.model_dump(mode="json"))


def clean(study: Any) -> None:
    """Remove the URL from settings that an earlier version has stored."""
    attrs = StudyAttrs(study)
    kept = attrs.settings
    section = kept.get("study") if isinstance(kept, Mapping) else None
    if kept is not None and isinstance(section, Mapping) and "storage" in section:
        attrs.settings = _without_storage(kept)


def with_storage(data: Any, url: str) -> Any:
    """Return stored settings with the URL that the study was opened by, as it may be shown."""
    section = data.get("study") if isinstance(data, Mapping) else None
    if not isinstance(section, Mapping):
        return data
    return {**data, "study": {**section, "storage": shown_url(url)}}


def _without_storage(data: dict[str, Any]) -> dict[str, Any]:
    section = {key: value for key, value in data["study"].items() if key != "storage"}
    return {**data, "study": section}
