"""The study file: what it may hold, with all its problems reported at once."""

import io
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pdsearch.errors import InputError, first_line
from pdsearch.study.horizon import lengths
from pdsearch.study.problems import (
    alternatives,
    close,
    fields_of,
    override,
    problem_of,
    shown_value,
    type_problems,
)
from pdsearch.trial import TrialSettings
from pdsearch.userfile import read_bytes

DEFAULT_STORAGE = "sqlite:///pdsearch.db"
OBJECTIVES: dict[str, Literal["minimize", "maximize"]] = {
    "accuracy": "maximize",
    "dead_units": "minimize",
    "kept_bytes": "minimize",
}
"""What a study can search for, and which way is better."""

ONE_FAMILY = ("cmaes", "gp", "grid")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")
_SIZE_LIMIT = 1_000_000  # bytes; a study file has about 2 000

FamilySpec = str | dict[str, Any]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StudySection(_Section):
    """`[study]`: what is searched, how, and where it is kept."""

    name: str = Field(
        description="of the study in its storage, and of its folder under output: letters, digits, "
        "`.`, `_` and `-`"
    )
    families: list[FamilySpec] = Field(
        min_length=1,
        description="what is searched: library names, `path.py[:name]`, or tables with formula, "
        'space (`{a = [0.01, 1.0]}`, `[low, high, "log"]`) and optionally name, defaults, '
        "reference, or with family (a name or path.py:name); either may add fade (linear, cosine "
        "or switch) with end (a number or range), and direction (up, both, or a list of them, "
        "which is then searched)",
    )
    references: list[FamilySpec] = Field(
        ["leaky", "b_silu"],
        description="families run at their defaults next to ReLU: never ruled out, never the best",
    )
    trials: int = Field(
        60, ge=1, le=1_000_000, description="the study's total, ReLU and references included"
    )
    sampler: Literal["tpe", "random", "cmaes", "gp", "grid", "nsga2"] = Field(
        "tpe",
        description="Optuna's of that name; cmaes, gp and grid search one family only, nsga2 is "
        "for two objectives (cmaes needs the package cmaes, and not halving)",
    )
    pruner: Literal["hyperband", "median", "halving", "none"] = Field(
        "hyperband",
        description="which trials are stopped early; halving tries the most candidates in a given "
        "time; with two objectives it is none",
    )
    prune_by: Literal["accuracy", "loss"] | None = Field(
        None,
        description="what a pruner compares, on the validation images; default: the loss with "
        "halving, for early accuracies say little, else the accuracy",
    )
    looks: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="decisions that a pruner may take within the first epoch, after equal parts of "
        "it; default: up to 4 with halving, of at least 10 batches each, else 1, its end",
    )
    objectives: list[Literal["accuracy", "dead_units", "kept_bytes"]] = Field(
        ["accuracy"],
        description="accuracy, or accuracy and one of the others, which are to be small: the share "
        "of dead units, and the bytes kept for the backward pass; default with nsga2: accuracy "
        "and dead_units",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="of the sampler, and of every candidate's training"
    )
    tie_seeds: int = Field(
        0,
        ge=0,
        le=100,
        description="further seeds over which those of the best three are trained that nearly tie: "
        "within one standard error of the best on the validation images (a train function's value: "
        "within 1 %)",
    )
    horizon: int | None = Field(
        None,
        ge=2,
        le=1_000_000,
        description="compare candidates by the validation accuracy that is predicted for trainings "
        "of so many epochs: a trial trains for a quarter, a half and all of its `epochs`, each "
        "with its whole schedule, and is extrapolated by a + b/epochs; it takes 1.75 times as long",
    )
    workers: int | Literal["auto"] = Field(
        "auto",
        description="processes that run trials side by side on this machine; auto: as many as it "
        "has room for, begun where the study is long enough to gain by it",
    )
    storage: str = Field(
        "",
        description="an SQLAlchemy URL; a relative SQLite path is relative to where you stand; "
        "default: `$PDSEARCH_STORAGE`, else `sqlite:///pdsearch.db`",
    )
    output: str = Field(
        "results",
        description="folder of reports, checkpoints and exports, which go to a folder of the "
        "study's name in it",
    )

    @model_validator(mode="before")
    @classmethod
    def _what_nsga2_implies(cls, data: Any) -> Any:
        """NSGA-II has two objectives and no pruner; who names neither need not spell them out."""
        if isinstance(data, Mapping) and data.get("sampler") == "nsga2":
            data = {"objectives": ["accuracy", "dead_units"], **data}
        if isinstance(data, Mapping) and len(_listed(data.get("objectives"))) > 1:
            data = {"pruner": "none", **data}
        if isinstance(data, Mapping) and not data.get("storage"):
            data = {**data, "storage": default_storage()}
        return data

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        return check_name(name)

    @field_validator("workers", mode="before")
    @classmethod
    def _valid_workers(cls, value: Any) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 256
        if not number and value != "auto":
            raise ValueError(f"must be a whole number from 1 to 256, or auto, got {value!r}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sampler in ONE_FAMILY and len(self.families) > 1:
            raise ValueError(
                f"sampler {self.sampler!r} searches one family only (it cannot handle parameters "
                f"that exist for one family and not for another), got {len(self.families)} "
                "families; use tpe or random"
            )
        if len(self.objectives) > 2 or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives must be one or two different ones of {' | '.join(OBJECTIVES)}, got "
                f"{self.objectives}"
            )
        two = len(self.objectives) == 2
        if self.sampler == "nsga2" and not two:
            raise ValueError("sampler 'nsga2' is for two objectives; for one use tpe")
        if self.sampler == "cmaes" and self.pruner == "halving":
            raise ValueError(
                "sampler 'cmaes' learns from whole trials, and halving ends but a few: for "
                "halving use tpe, or with cmaes hyperband, median or none"
            )
        if two and self.sampler in ("cmaes", "grid"):
            raise ValueError(
                f"sampler {self.sampler!r} has one objective only; for two use nsga2, tpe or random"
            )
        if two and self.pruner != "none":
            raise ValueError(
                f"pruner {self.pruner!r} cannot be used with two objectives (Optuna's pruners "
                "compare one value an epoch); use none"
            )
        if self.objectives[:1] != ["accuracy"]:
            raise ValueError(f"accuracy must be the first objective, got {self.objectives}")
        if self.pruner == "none":
            for name in ("prune_by", "looks"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for a pruner, and pruner is 'none'")
        return self

    @property
    def compares(self) -> Literal["accuracy", "loss"]:
        """What a pruner compares."""
        return self.prune_by or ("loss" if self.pruner == "halving" else "accuracy")


class CriteriaSection(_Section):
    """`[criteria]`: which criteria gate a candidate, and other bounds than their defaults."""

    profile: Literal["paper", "strict"] = Field(
        "paper", description="the criteria that a candidate must meet before it is trained"
    )
    thresholds: dict[str, float | list[float]] = Field(
        {},
        description="other bounds; written as keys of their own: `consistent = 0.3`, "
        "`gain = [0.5, 3.0]`, `alive_radius = 2.0`, `alive_epsilon = 1e-4`",
    )
    own: list[str] = Field(
        [],
        description="criteria of your own, each `path.py:function`, added to those of the profile",
    )

    @model_validator(mode="before")
    @classmethod
    def _criteria_as_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        names = _threshold_names()
        for name in names:
            if isinstance(data.get(name), bool):
                raise ValueError(f"{name} must be a number, got {shown_value(data[name])}")
        given = {key: value for key, value in data.items() if key in names}
        rest = {key: value for key, value in data.items() if key not in names}
        if given:
            rest["thresholds"] = {**dict(rest.get("thresholds") or {}), **given}
        return rest

    @field_validator("thresholds")
    @classmethod
    def _known(cls, value: dict[str, float | list[float]]) -> dict[str, float | list[float]]:
        from pdsearch.criteria import demands

        names = _threshold_names()
        problems = []
        for name, bound in value.items():
            if name not in names:
                problems.append(f"{name!r} is not a criterion; {close(name, names)}")
                continue
            try:  # now, not when the first candidate is gated, hours into the study
                demands(thresholds={name: _bound(bound)})
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        return value

    @field_validator("own")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        problems = []
        names = []
        for spec in value:
            file, _, name = spec.rpartition(":")
            if not file.endswith(".py") or not name.isidentifier():
                problems.append(f"a criterion of your own is named path.py:function, got {spec!r}")
            elif name in _criteria_names():
                problems.append(f"{spec!r} is called as one of ours: rename the function")
            elif name in names:
                problems.append(f"two criteria are called {name!r}: rename one of the functions")
            names.append(name)
        if problems:
            raise ValueError("\n".join(problems))
        return value

    def bounds(self) -> dict[str, float | tuple[float, float]]:
        """The thresholds as `pdsearch.criteria` takes them."""
        return {name: _bound(bound) for name, bound in self.thresholds.items()}


def _bound(bound: float | list[float]) -> Any:
    return tuple(bound) if isinstance(bound, list) else bound


class ConfirmSection(_Section):
    """`[confirm]`: how `pdsearch confirm` retrains."""

    seeds: int = Field(8, ge=1, le=10_000, description="each row is trained over this many")
    epochs: int = Field(30, ge=1, le=1_000_000, description="of each run")
    rate_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="of each run that chooses a row's rate of learning_rates; default: as epochs. "
        "Where it is the trial's own epochs, the runs that the search made decide",
    )


class StudyFile(_Section):
    """A whole study file, checked."""

    study: StudySection
    criteria: CriteriaSection = Field(default_factory=lambda: CriteriaSection.model_validate({}))
    trial: TrialSettings = Field(default_factory=lambda: TrialSettings.model_validate({}))
    confirm: ConfirmSection = Field(default_factory=lambda: ConfirmSection.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _streams_are_confirmed_as_they_are(cls, data: Any) -> Any:
        """A stream's tasks keep their length where `confirm.epochs` is omitted."""
        trial = data.get("trial") if isinstance(data, Mapping) else None
        confirm = data.get("confirm", {}) if isinstance(data, Mapping) else None
        if not isinstance(trial, Mapping) or not isinstance(confirm, Mapping):
            return data
        if trial.get("stream") is None:
            return data
        epochs = trial.get("epochs", TrialSettings.model_fields["epochs"].default)
        return {**data, "confirm": {"epochs": epochs, **confirm}}

    @model_validator(mode="after")
    def _fits_a_stream(self) -> Self:
        if self.trial.stream is not None and self.study.looks is not None:
            raise ValueError(
                "study.looks: is for the first epoch, and the start of a stream's first task says "
                "nothing of its last tasks: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _has_a_horizon(self) -> Self:
        horizon, epochs = self.study.horizon, self.trial.epochs
        if horizon is None:
            return self
        if self.trial.stream is not None:
            raise ValueError("study.horizon: a stream of tasks has none: leave it out")
        if horizon <= epochs:
            raise ValueError(
                f"study.horizon: must be more than trial.epochs, {epochs}, got {horizon}"
            )
        if len(lengths(epochs)) < 2:
            raise ValueError(
                f"study.horizon: needs trial.epochs of at least 2, to train for two lengths, got "
                f"{epochs}"
            )
        return self

    @property
    def legs(self) -> tuple[int, ...]:
        """Epochs of each of a trial's runs, one after the other: one run without a horizon."""
        epochs = self.trial.epochs
        return (self.trial.rounds,) if self.study.horizon is None else lengths(epochs)

    @property
    def measure(self) -> str:
        """What a trial's value is, in words."""
        if self.study.horizon is None:
            return self.trial.measure
        return f"{self.trial.measure} predicted at {self.study.horizon} epochs"

    # Where it was read from: what its relative paths are relative to. Not a key of the file.
    _directory: Path | None = None

    @property
    def directory(self) -> Path:
        """What relative paths in it are relative to."""
        return self._directory or Path.cwd()

    def with_study(self, **changes: Any) -> "StudyFile":
        """A copy with other values in `[study]`, checked anew.

        Raises:
            InputError: a value is wrong.
        """
        data = self.model_dump(mode="json")
        data["study"].update(changes)
        return validate(data, directory=self._directory)


def default_storage() -> str:
    """The storage where none is named: `PDSEARCH_STORAGE`, else a SQLite file where you stand."""
    return os.environ.get("PDSEARCH_STORAGE") or DEFAULT_STORAGE


def check_name(name: str) -> str:
    """A study's name, if it can be one: it is a folder's name too.

    Raises:
        InputError: it cannot.
    """
    if name.endswith(".toml"):
        raise InputError(
            f"a study's name does not end in .toml, which marks a study file, got {name!r}"
        )
    if not _NAME.match(name):
        shown = ascii(name) if len(name) <= 60 else f"{name[:57]!a}... ({len(name)} long)"
        raise InputError(
            "a study's name is 1 to 100 of the characters A-Z a-z 0-9 . _ - and does not begin "
            f"with . or -, got {shown}"
        )
    return name


def is_file_spec(study: str | Path) -> bool:
    """Whether STUDY names a study file rather than a study."""
    text = str(study)
    return isinstance(study, Path) or text.endswith(".toml") or "/" in text or os.sep in text


def load_study_file(path: str | Path, *, overrides: Mapping[str, str] | None = None) -> StudyFile:
    """Read and check a study file.

    Args:
        path: of the TOML file.
        overrides: `{"section.key": "value"}`, the value written as in TOML (text may go without
            its quotes); they win over the file.

    Raises:
        InputError: no such file, no TOML, or not a study's; all problems are listed, one a line.
    """
    path = Path(path)
    data = _read(path)
    problems: list[str] = []
    for key, text in (overrides or {}).items():
        override(data, key, text, problems=problems, sections=list(StudyFile.model_fields))
    return validate(data, directory=path.resolve().parent, where=f"{path}: ", problems=problems)


def validate(
    data: Mapping[str, Any],
    *,
    directory: Path | None = None,
    where: str = "",
    problems: Iterable[str] = (),
) -> StudyFile:
    """Check the content of a study file.

    Raises:
        InputError: every problem, one a line.
    """
    found = [*problems, *type_problems(StudyFile, data)]
    places = {problem.split(":")[0] for problem in found}
    others: list[str] = []
    settings = None
    try:
        settings = StudyFile.model_validate(data)
    except ValidationError as error:
        for entry in error.errors():
            place, _, said = problem_of(entry, keys=_keys).partition(": ")
            if place not in places:
                others += [f"{place}: {line}" for line in said.splitlines()]
    found += alternatives(others)
    if settings is None or found:
        raise InputError("\n".join(where + problem for problem in dict.fromkeys(found)))
    settings._directory = directory
    return settings


def _read(path: Path) -> dict[str, Any]:
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory: give a study file (TOML)")
    content = read_bytes(path, limit=_SIZE_LIMIT, what="study file")
    try:
        # As `open` reads text: tomllib takes no carriage return alone.
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise InputError(f"{path} is empty: a study file needs a [study] section")
    try:
        return tomllib.loads(text)
    except ValueError as error:  # tomllib's own, or Python's of a number of thousands of digits
        raise InputError(f"{path} is not TOML: {first_line(error)}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply") from None


def _keys(location: list[Any]) -> list[str]:
    """The keys that are valid at a place of the study file."""
    if location == ["criteria"]:
        return ["profile", "own", *_threshold_names()]
    return list(fields_of(StudyFile, location))


def _criteria_names() -> tuple[str, ...]:
    from pdsearch.criteria import CRITERIA

    return tuple(CRITERIA)


def _threshold_names() -> tuple[str, ...]:
    from pdsearch.criteria import SETTINGS

    return (*_criteria_names(), *SETTINGS)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
