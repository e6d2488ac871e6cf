"""What a study and its trials keep in the storage: each key, its type, its reader and writer.

Reading `StudyAttrs(study).threads` returns an attribute, or None if it is missing; assigning to it
writes the attribute. A storage may be damaged, or others may write to it: `check_study` and
`check_trial` check the types before anything uses the values.

All of the study file is stored except the storage's URL, which may contain a password.
"""

import functools
import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pdsearch.criteria import FamilyGate
from pdsearch.errors import first_line, short
from pdsearch.family import Drawn, Family, drawn_from
from pdsearch.study.settings import StudyFile
from pdsearch.study.storage import damaged
from pdsearch.study.url import shown_url

SCHEMA = 1
"""The version of everything that is stored."""

_PREFIX = "pdsearch:"
RUNS = f"{_PREFIX}confirm/"
"""Prefix of the keys of a confirmation's runs."""

Kind = Literal["baseline", "reference", "candidate"]
FIXED = ("baseline", "reference")
"""The kinds of trials that always run, at parameters that are not drawn."""

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """One attribute, which is stored as `_T`; `check` is a narrower type for damaged storages."""

    def __init__(self, check: Any = None) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.key = _PREFIX + name

    @overload
    def __get__(self, attrs: None, owner: type) -> "Kept[_T]": ...
    @overload
    def __get__(self, attrs: "_Attrs", owner: type) -> _T | None: ...
    def __get__(self, attrs: "_Attrs | None", owner: type) -> "Kept[_T] | _T | None":
        return self if attrs is None else attrs.all.get(self.key)

    def __set__(self, attrs: "_Attrs", value: _T) -> None:
        attrs.of.set_user_attr(self.key, value)


class _Attrs:
    """The attributes of a study or a trial: an Optuna object, or its `user_attrs` as read."""

    def __init__(self, of: Any) -> None:
        self.of = of

    @property
    def all(self) -> dict[str, Any]:
        """Every attribute by its full key."""
        return self.of if isinstance(self.of, dict) else self.of.user_attrs

    def __contains__(self, name: str) -> bool:
        return _PREFIX + name in self.all

    def only(self, *names: str) -> dict[str, Any]:
        """Return those of these attributes that are present, by their full keys."""
        every = self.all
        return {_PREFIX + name: every[_PREFIX + name] for name in names if _PREFIX + name in every}

    def write(self, **values: Any) -> None:
        """Write attributes by their names."""
        for key, value in type(self).named(**values).items():
            self.of.set_user_attr(key, value)

    @classmethod
    def named(cls, **values: Any) -> dict[str, Any]:
        """Return attributes by their full keys; each must belong to the class."""
        return {getattr(cls, name).key: value for name, value in values.items()}

    @classmethod
    @functools.cache
    def types(cls) -> "dict[str, TypeAdapter[Any]]":
        """Return the check of each attribute, by its full key."""
        found = {}
        for name, hint in get_type_hints(cls, include_extras=True).items():
            kept = getattr(cls, name)
            found[kept.key] = TypeAdapter(kept.check or get_args(hint)[0])
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
    only: list[str] | None = None
    skip: list[str] | None = None


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


_Data = dict[str, Any]


class StudyAttrs(_Attrs):
    """What a study keeps, apart from the runs of its confirmations (see `runs_of`)."""

    # `SCHEMA` of the writing version; written last, when everything is there.
    schema: Kept[Annotated[int, Field(ge=1)]] = Kept()
    settings: Kept[_Data] = Kept()  # the study file without its storage
    families: Kept[dict[str, _Data]] = Kept()  # every family by name, as `Family.to_dict()`
    searched: Kept[list[str]] = Kept()  # names of the families that candidates are drawn from
    groups: Kept[dict[str, list[str]]] = Kept()  # the same by group of layers, if there are groups
    references: Kept[list[str]] = Kept()  # names of the families that run at their defaults
    directory: Kept[str] = Kept()  # the base of relative paths in the settings
    versions: Kept[dict[str, str]] = Kept()  # of the packages that affect a trial's numbers
    device: Kept[str | None] = Kept()  # on which the study was begun
    threads: Kept[_Threads | None] = Kept()  # CPU threads of each trial
    train: Kept[str | None] = Kept()  # name of the Python function that trains; None: pdsearch
    criteria: Kept[list[str] | None] = Kept()  # names of criteria given in Python
    direction: Kept[Literal["maximize", "minimize"]] = Kept()  # of the first objective
    own_criteria: Kept[dict[str, str]] = Kept()  # text of each criterion's file, by its spec
    content: Kept[dict[str, str]] = Kept()  # digest of each file or data set that a setting names
    gates: Kept[dict[str, _Data]] = Kept(dict[str, _Gate])  # decisions for whole families
    # Values over further seeds, by trial and seed; None where training diverged.
    seeds: Kept[dict[_Digits, dict[_Digits, Number | None]]] = Kept()
    # Values of criteria that were decided for a report, by formula.
    insight: Kept[dict[str, list[_Data]]] = Kept(dict[str, list[_Entry]])

    def family_gates(self) -> dict[str, FamilyGate]:
        """Return the decisions for whole families; empty for a study of an earlier version."""
        return {name: FamilyGate.from_dict(data) for name, data in (self.gates or {}).items()}

    def ours(self) -> bool:
        """Whether every attribute is pdsearch's."""
        return all(key.startswith(_PREFIX) for key in self.all)


class TrialAttrs(_Attrs):
    """What a trial keeps."""

    kind: Kept[Kind] = Kept()
    candidate: Kept[_Data] = Kept()  # as `to_dict()` of a candidate or of groups
    epochs: Kept[list[_Data]] = Kept(list[_Epoch])  # an entry per epoch, with its value
    looks: Kept[list[_Data]] = Kept(list[_Look])  # the same for the looks within the first epoch
    criteria: Kept[_Data | None] = Kept(_Report | None)  # the gate's `Report.to_dict()`
    reason: Kept[str | None] = Kept()  # why it was ruled out, stopped or failed
    seconds: Kept[_Seconds | None] = Kept()  # its duration
    status: Kept[str] = Kept()  # how it ended, in more detail than Optuna's states
    duplicate_of: Kept[Count | None] = Kept()  # number of the earlier trial of the same g
    learning_rate: Kept[Number | None] = Kept()  # the one that counts, of several
    owner: Kept[_Data | None] = Kept()  # the process that runs it, as `Owner.to_dict()`
    continues: Kept[Count] = Kept()  # number of the stopped trial that this one continues
    past: Kept[Count] = Kept()  # the step after which a continued trial may stop again
    stopped: Kept[Count] = Kept()  # the step at which halving stopped it

    @property
    def fixed(self) -> bool:
        """Whether it is the baseline or a reference."""
        return self.kind in FIXED

    def drawn(self) -> Drawn | None:
        """Return the candidate, or that of each group; None until it was drawn."""
        if (data := self.candidate) is None:
            return None
        # Each family's formula is parsed once, not once per trial.
        return drawn_from(data, read=lambda family: _family(json.dumps(family, sort_keys=True)))


@functools.lru_cache(maxsize=256)
def _family(text: str) -> Family:
    return Family.from_dict(json.loads(text))


def runs_of(attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the confirmation runs among a study's attributes, those of a known schema."""
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
    """Check the attributes of a study; with `whole`, also that none is missing.

    Raises:
        StorageError: a value is missing or has a wrong type.
    """
    attrs, types = StudyAttrs(attributes), StudyAttrs.types()
    for key in _NEEDED if whole else ():
        if key not in attrs:
            raise damaged(name, url, f"it lacks {_PREFIX + key!r}")
    for key, value in attributes.items():
        known = types.get(key)
        if key.startswith(RUNS):
            # Readers skip runs of a newer schema.
            newer = isinstance(value, dict) and value.get("schema") != SCHEMA
            known = None if newer else _RUN
        if known is not None and (wrong := _problem(known, value)):
            raise damaged(name, url, f"its {key!r} {wrong}")
    for key in ("searched", "references", "groups") if whole else ():
        kept = attributes.get(_PREFIX + key) or ()
        for family in itertools.chain(*kept.values()) if isinstance(kept, dict) else kept:
            if family not in (attrs.families or {}):
                said = f"its {_PREFIX + key!r} names {family!r}, which is not one of its families"
                raise damaged(name, url, said)


def check_trial(name: str, url: str, number: int, attributes: dict[str, Any]) -> None:
    """Check the attributes of a trial.

    Raises:
        StorageError: a value is missing or has a wrong type.
    """
    attrs, types = TrialAttrs(attributes), TrialAttrs.types()
    if "candidate" not in attrs:
        for key in _NEEDING_CANDIDATE:
            if key in attrs:
                said = f"trial {number} keeps {_PREFIX + key!r} and no {_PREFIX + 'candidate'!r}"
                raise damaged(name, url, said)
        if attrs.fixed:
            raise damaged(name, url, f"trial {number} lacks {_PREFIX + 'candidate'!r}")
    for key, value in attributes.items():
        if key in types and (wrong := _problem(types[key], value)):
            raise damaged(name, url, f"trial {number}'s {key!r} {wrong}")


def _problem(known: "TypeAdapter[Any]", value: Any) -> str | None:
    """Return what is wrong with a value; None if nothing is."""
    try:
        # As JSON, in which a list may stand for a tuple.
        known.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        place = f" at {where}" if where else ""
        said = first_line(first["msg"])[:100]
        return f"is damaged{place}: {said[:1].lower()}{said[1:]}, got {short(first['input'], 40)}"
    except (ValueError, RecursionError, TypeError) as error:
        return f"is damaged: {first_line(error)[:80]}"
    return None


# --------------------------------------------------------------------- settings without their URL


def kept_settings(settings: StudyFile) -> dict[str, Any]:
    """Return the settings as they are stored."""
    return _without_storage(settings.model_dump(mode="json"))


def clean(study: Any) -> None:
    """Remove the URL from settings that an earlier version stored."""
    attrs = StudyAttrs(study)
    kept = attrs.settings
    if kept is not None and "storage" in kept["study"]:
        attrs.settings = _without_storage(kept)


def with_storage(data: dict[str, Any], url: str) -> dict[str, Any]:
    """Return stored settings with the URL that the study was opened by, without its password."""
    if not isinstance(section := data.get("study"), dict):
        return data
    return {**data, "study": {**section, "storage": shown_url(url)}}


def _without_storage(data: dict[str, Any]) -> dict[str, Any]:
    section = {key: value for key, value in data["study"].items() if key != "storage"}
    return {**data, "study": section}
