"""The sections and keys of a study file."""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pdsearch.criteria import CRITERIA, SETTINGS, demands
from pdsearch.errors import InputError
from pdsearch.family import Candidate, Drawn, Grouped
from pdsearch.study.groups import (
    FamilySpec,
    GroupSettings,
    Section,
    check_groups,
    families_of,
    layers_of,
)
from pdsearch.study.horizon import lengths
from pdsearch.study.problems import Problems, close, shown_value
from pdsearch.trial import TrialSettings

DEFAULT_STORAGE = "sqlite:///pdsearch.db"
OBJECTIVES: dict[str, Literal["minimize", "maximize"]] = {
    "accuracy": "maximize",
    "dead_units": "minimize",
    "kept_bytes": "minimize",
}
"""The objectives of a study and their directions."""

ONE_FAMILY = ("cmaes", "gp", "grid")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")

THRESHOLDS = (*CRITERIA, *SETTINGS)
"""The keys of bounds in `[criteria]`."""


def check_name(name: str) -> str:
    """Return a study's name, which is also the name of a folder.

    Raises:
        InputError: it cannot be one.
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


class StudySection(Section):
    """`[study]`: what is searched, how, and where it is stored."""

    name: Annotated[str, AfterValidator(check_name)] = Field(
        description="name of the study in its storage, and of its folder under output: letters, "
        "digits, `.`, `_` and `-`"
    )
    families: list[FamilySpec] = Field(
        min_length=1,
        description="families to search: library names, `path.py[:name]`, or tables. A table has "
        'formula and space (`{a = [0.01, 1.0]}`, `[low, high, "log"]`), optionally name, defaults '
        "and reference; or family (a name or path.py:name). Either may add fade (linear, cosine or "
        "switch) with end (a number or range), and direction (up, both, or a list to search)",
    )
    groups: dict[str, GroupSettings] = Field(
        {},
        min_length=1,
        description="groups of the network's ReLUs by name; each trial draws a candidate for each "
        "of them (Groups, above)",
    )
    references: list[FamilySpec] = Field(
        ["leaky", "b_silu"],
        description="families that run at their defaults next to ReLU: never ruled out, never best",
    )
    trials: int = Field(
        60, ge=1, le=1_000_000, description="total of trials, including ReLU and the references"
    )
    sampler: Literal["tpe", "random", "cmaes", "gp", "grid", "nsga2"] = Field(
        "tpe",
        description="Optuna's sampler of that name; cmaes, gp and grid search one family only, "
        "nsga2 needs two objectives, cmaes needs the package cmaes and excludes halving",
    )
    pruner: Literal["hyperband", "median", "halving", "none"] = Field(
        "hyperband",
        description="how trials are stopped early; halving tries the most candidates in a given "
        "time; none with two objectives",
    )
    prune_by: Literal["accuracy", "loss"] | None = Field(
        None,
        description="what a pruner compares, on the validation images; default: the loss with "
        "halving, because early accuracies say little, else the accuracy",
    )
    looks: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="times that a pruner may decide within the first epoch, after equal parts of "
        "it; default: up to 4 with halving, at least 10 batches apart, else 1, at its end",
    )
    objectives: list[Literal["accuracy", "dead_units", "kept_bytes"]] = Field(
        ["accuracy"],
        description="accuracy, or accuracy and one of the others, which are minimized: the share "
        "of dead units, or the bytes kept for the backward pass; default with nsga2: accuracy "
        "and dead_units",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="seed of the sampler and of every candidate's training"
    )
    tie_seeds: int = Field(
        0,
        ge=0,
        le=100,
        description="further seeds for those of the best three candidates that nearly tie: within "
        "one standard error of the best on the validation images, or within 1 % with a train "
        "function",
    )
    horizon: int | None = Field(
        None,
        ge=2,
        le=1_000_000,
        description="compare candidates by the validation accuracy predicted for this many epochs: "
        "a trial trains for a quarter, a half and all of its `epochs`, each with its whole "
        "schedule, and extrapolates by a + b/epochs; it takes 1.75 times as long",
    )
    workers: int | Literal["auto"] = Field(
        "auto",
        description="processes that run trials side by side on this machine, or on the cluster "
        "that --launcher names (scale.md); auto, on this machine only: as many as it "
        "has room for, started if the study is long enough to gain from them",
    )
    storage: str = Field(
        "",
        description="an SQLAlchemy URL; a relative SQLite path starts at the working folder; "
        "default: `$PDSEARCH_STORAGE`, else `sqlite:///pdsearch.db`",
    )
    output: str = Field(
        "results",
        description="folder of reports, checkpoints and exports, in a subfolder with the study's "
        "name",
    )

    @model_validator(mode="before")
    @classmethod
    def _dependent_defaults(cls, data: Any) -> Any:
        """Set the defaults that depend on other keys: NSGA-II has two objectives and no pruner."""
        if not isinstance(data, Mapping):
            return data
        if data.get("sampler") == "nsga2":
            data = {"objectives": ["accuracy", "dead_units"], **data}
        objectives = data.get("objectives")
        if isinstance(objectives, list) and len(objectives) > 1:
            data = {"pruner": "none", **data}
        if "families" not in data and (named := families_of(data.get("groups"))):
            data = {**data, "families": named}
        return data if data.get("storage") else {**data, "storage": default_storage()}

    @field_validator("workers", mode="before")
    @classmethod
    def _valid_workers(cls, value: Any) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 256
        if not number and value != "auto":
            raise ValueError(f"must be a whole number from 1 to 256, or auto, got {value!r}")
        return value

    @field_validator("groups")
    @classmethod
    def _valid_groups(cls, value: dict[str, GroupSettings]) -> dict[str, GroupSettings]:
        check_groups(value)
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out groups where there are none, as in studies of earlier versions."""
        return {key: value for key, value in dump(self).items() if key != "groups" or value}

    @property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """The patterns of each group's ReLUs; empty without groups."""
        return {name: tuple(group.layers) for name, group in self.groups.items()}

    def everywhere(self, candidate: Candidate) -> Drawn:
        """Return a candidate for every ReLU that the study's candidates serve."""
        layers = self.layers
        return Grouped(dict.fromkeys(layers, candidate), layers) if layers else candidate

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sampler in ONE_FAMILY and self.groups:
            raise ValueError(
                f"sampler {self.sampler!r} searches one family for all layers, not study.groups; "
                "use tpe, random or nsga2"
            )
        if self.sampler in ONE_FAMILY and len(self.families) > 1:
            raise ValueError(
                f"sampler {self.sampler!r} searches one family only (it cannot handle parameters "
                f"that exist for one family but not for another), got {len(self.families)} "
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
                "sampler 'cmaes' learns from whole trials, but halving finishes only a few: use "
                "tpe with halving; or hyperband, median or none with cmaes"
            )
        if two and self.sampler in ("cmaes", "grid"):
            raise ValueError(
                f"sampler {self.sampler!r} has one objective only; for two use nsga2, tpe or random"
            )
        if two and self.pruner != "none":
            raise ValueError(
                f"pruner {self.pruner!r} cannot be used with two objectives (Optuna's pruners "
                "compare one value per epoch); use none"
            )
        if self.objectives[:1] != ["accuracy"]:
            raise ValueError(f"accuracy must be the first objective, got {self.objectives}")
        if self.pruner == "none":
            for name in ("prune_by", "looks"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for a pruner, but pruner is 'none'")
        return self

    @property
    def compares(self) -> Literal["accuracy", "loss"]:
        """What a pruner compares."""
        return self.prune_by or ("loss" if self.pruner == "halving" else "accuracy")


class CriteriaSection(Section):
    """`[criteria]`: the criteria that a candidate must meet, and their bounds."""

    profile: Literal["paper", "strict"] = Field(
        "paper", description="criteria that a candidate must meet before it is trained"
    )
    thresholds: dict[str, float | list[float]] = Field(
        {},
        description="other bounds, each written as its own key: `consistent = 0.3`, "
        "`gain = [0.5, 3.0]`, `alive_radius = 2.0`, `alive_epsilon = 1e-4`",
    )
    own: list[str] = Field(
        [],
        description="custom criteria, each `path.py:function`, in addition to the profile's",
    )

    @model_validator(mode="before")
    @classmethod
    def _criteria_as_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for name in THRESHOLDS:
            if isinstance(data.get(name), bool):
                raise ValueError(f"{name} must be a number, got {shown_value(data[name])}")
        given = {key: value for key, value in data.items() if key in THRESHOLDS}
        rest = {key: value for key, value in data.items() if key not in THRESHOLDS}
        if given:
            rest["thresholds"] = {**dict(rest.get("thresholds") or {}), **given}
        return rest

    @field_validator("thresholds")
    @classmethod
    def _known(cls, value: dict[str, float | list[float]]) -> dict[str, float | list[float]]:
        problems = Problems()
        for name, bound in value.items():
            with problems.at():
                if name not in THRESHOLDS:
                    raise InputError(f"{name!r} is not a criterion; {close(name, THRESHOLDS)}")
                demands(thresholds={name: _bound(bound)})
        problems.check()
        return value

    @field_validator("own")
    @classmethod
    def _named(cls, value: list[str]) -> list[str]:
        problems, names = Problems(), []
        for spec in value:
            file, _, name = spec.rpartition(":")
            if not file.endswith(".py") or not name.isidentifier():
                problems.append(f"a custom criterion is named path.py:function, got {spec!r}")
            elif name in CRITERIA:
                problems.append(f"{spec!r} has the name of a built-in one: rename the function")
            elif name in names:
                problems.append(f"two criteria are called {name!r}: rename one of the functions")
            names.append(name)
        problems.check()
        return value

    def bounds(self) -> dict[str, float | tuple[float, float]]:
        """The thresholds as `pdsearch.criteria` takes them."""
        return {name: _bound(bound) for name, bound in self.thresholds.items()}


def _bound(bound: float | list[float]) -> Any:
    return tuple(bound) if isinstance(bound, list) else bound


class ConfirmSection(Section):
    """`[confirm]`: how `pdsearch confirm` retrains."""

    seeds: int = Field(8, ge=1, le=10_000, description="seeds over which each row is trained")
    epochs: int = Field(30, ge=1, le=1_000_000, description="epochs of each run")
    rate_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="epochs of each run that chooses a row's rate from learning_rates; default: as "
        "epochs. If equal to the trial's own epochs, the search's runs decide",
    )


class StudyFile(Section):
    """A whole, valid study file."""

    study: StudySection
    criteria: CriteriaSection = Field(default_factory=lambda: CriteriaSection.model_validate({}))
    trial: TrialSettings = Field(default_factory=lambda: TrialSettings.model_validate({}))
    confirm: ConfirmSection = Field(default_factory=lambda: ConfirmSection.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _streams_keep_their_length(cls, data: Any) -> Any:
        """Confirm a stream with its own epochs per task unless `confirm.epochs` is given."""
        trial, confirm = data.get("trial"), data.get("confirm", {})
        if not isinstance(trial, Mapping) or not isinstance(confirm, Mapping):
            return data
        if trial.get("stream") is None:
            return data
        epochs = trial.get("epochs", TrialSettings.model_fields["epochs"].default)
        return {**data, "confirm": {"epochs": epochs, **confirm}}

    @model_validator(mode="before")
    @classmethod
    def _groups_choose_the_layers(cls, data: Any) -> Any:
        """Let `trial.only` name the layers of all groups, for ReLU, references and controls."""
        study, trial = data.get("study"), data.get("trial", {})
        if not isinstance(study, Mapping) or not isinstance(trial, Mapping):
            return data
        layers = layers_of(study.get("groups"))
        if not layers or trial.get("only") or trial.get("skip"):
            return data
        return {**data, "trial": {**trial, "only": layers}}

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        horizon, epochs = self.study.horizon, self.trial.epochs
        if self.study.groups:
            # The settings of a study that has begun hold `only` as it was set above.
            layers = self.study.layers
            every = tuple(itertools.chain(*(layers[name] for name in sorted(layers))))
            for key, ours in (("skip", ()), ("only", every)):
                if getattr(self.trial, key) != ours:
                    raise ValueError(
                        f"trial.{key}: conflicts with study.groups, whose layers choose the ReLUs "
                        "that get a candidate: omit one of the two"
                    )
        if self.trial.stream is not None:
            if self.study.looks is not None:
                raise ValueError(
                    "study.looks: is for the first epoch, but the start of a stream's first task "
                    "says nothing about its last tasks: omit it"
                )
            if horizon is not None:
                raise ValueError("study.horizon: a stream of tasks has none: omit it")
        if horizon is None:
            return self
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
        """Epochs of each of a trial's runs, in their order; one run without a horizon."""
        epochs = self.trial.epochs
        return (self.trial.rounds,) if self.study.horizon is None else lengths(epochs)

    @property
    def measure(self) -> str:
        """The meaning of a trial's value, in words."""
        if self.study.horizon is None:
            return self.trial.measure
        return f"{self.trial.measure} predicted at {self.study.horizon} epochs"

    _directory: Path | None = None  # not a key of the file

    @property
    def directory(self) -> Path:
        """The base of its relative paths: the folder that it was read from."""
        return self._directory or Path.cwd()

    def at(self, directory: Path | None) -> Self:
        """Return a copy whose relative paths start at a directory."""
        copy = self.model_copy()
        copy._directory = directory
        return copy


def default_storage() -> str:
    """Return the default storage: `PDSEARCH_STORAGE`, else a SQLite file in the working folder."""
    return os.environ.get("PDSEARCH_STORAGE") or DEFAULT_STORAGE


def is_file_spec(study: str | Path) -> bool:
    """Whether the argument STUDY is a study file rather than the name of a study."""
    text = str(study)
    return isinstance(study, Path) or text.endswith(".toml") or "/" in text or os.sep in text
