"""Families as one conditional Optuna space, and who samples and prunes in it."""

import contextlib
import copy
import hashlib
import importlib.util
import itertools
import math
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from pdsearch.criteria import FamilyGate, settle
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import (
    FADES,
    Candidate,
    Family,
    at_share,
    distribution_from,
    fade,
    load_family,
)
from pdsearch.study.innards import CmaEsSampler, storage_of
from pdsearch.study.queue import current
from pdsearch.study.settings import ONE_FAMILY, CriteriaSection, FamilySpec, StudySection

if TYPE_CHECKING:
    from optuna.study import Study

BASELINE = "relu"
KIND = "pdsearch:kind"


# --------------------------------------------------------------------------------------- families


def resolve_families(
    settings: StudySection, *, directory: Path
) -> tuple[dict[str, Family], dict[str, Family]]:
    """The families to search and the references of a study, by name.

    Raises:
        InputError: every one that cannot be had, one a line.
    """
    problems: list[str] = []

    def resolve(key: str, specs: Sequence[FamilySpec | Family]) -> dict[str, Family]:
        found: dict[str, Family] = {}
        for index, spec in enumerate(specs):
            place = f"study.{key}.{index}"
            try:
                family = _family(spec, number=index + 1, directory=directory)
            except InputError as error:
                problems.append(f"{place}: {error}")
                continue
            if family.name in found:
                problems.append(f"{place}: family {family.name!r} is there twice")
            found[family.name] = family
        return found

    families = resolve("families", settings.families)
    references = resolve("references", settings.references)
    if BASELINE in references:
        problems.append(f"study.references: {BASELINE!r} is the baseline, which always runs")
    for name in families.keys() & references.keys():
        if replace(families[name], directions=families[name].directions[:1]) != references[name]:
            problems.append(
                f"study.references: {name!r} names another family than in study.families"
            )
    if settings.sampler in ONE_FAMILY and families:
        only = next(iter(families.values()))
        if not any(not d.single() for d in only.space.values()):
            problems.append(
                f"study.sampler: {settings.sampler!r} needs parameters to search, and family "
                f"{only.name!r} has none"
            )
        if settings.sampler == "cmaes" and len(only.directions) > 1:
            problems.append(
                "study.sampler: 'cmaes' draws numbers only, and family "
                f"{only.name!r} has several directions; use tpe, or one direction"
            )
        if settings.sampler == "cmaes" and sum(not d.single() for d in only.space.values()) < 2:
            problems.append(
                "study.sampler: 'cmaes' needs two parameters or more, and family "
                f"{only.name!r} has one; use tpe or gp"
            )
    if problems:
        raise InputError("\n".join(problems))
    return families, references


def _family(spec: FamilySpec | Family, *, number: int, directory: Path) -> Family:
    if isinstance(spec, Family):
        return spec
    if isinstance(spec, str):
        return load_family(spec, directory=directory)
    return _of_table(spec, number=number, directory=directory)


_ANY = ("name", "fade", "end", "direction")
_OF_FORMULA = ("space", "defaults", "reference")


def _of_table(table: Mapping[str, Any], *, number: int, directory: Path) -> Family:
    if ("formula" in table) == ("family" in table):
        raise InputError('a family\'s table needs formula = "…" or family = "…", and not both')
    allowed = (*(("formula", *_OF_FORMULA) if "formula" in table else ("family",)), *_ANY)
    if unknown := sorted(set(table) - set(allowed)):
        raise InputError(f"unknown key {unknown[0]!r}; valid are: {', '.join(allowed)}")
    if "formula" in table:
        family = _of_formula(table, number=number)
    elif isinstance(table["family"], str):
        family = load_family(table["family"], directory=directory)
    else:
        raise InputError(f"family must be a name or path.py:name, got {table['family']!r}")
    if "fade" in table:
        end = table.get("end")
        if end is not None and not isinstance(end, int | float):
            end = cast(FloatDistribution, distribution_from(end, "end"))
        family = fade(family, table["fade"], end=end)
    elif "end" in table:
        raise InputError(f"end goes with fade = one of {', '.join(FADES)}")
    given = table.get("direction", family.directions)
    directions = (given,) if isinstance(given, str) else tuple(given)
    # A family and its upward form may then stand in one study.
    default = f"{family.name}_up" if directions == ("up",) else family.name
    return replace(family, name=str(table.get("name", default)), directions=directions)


def _of_formula(table: Mapping[str, Any], *, number: int) -> Family:
    from pdsearch.expression import parse

    formula, space = table["formula"], table.get("space", {})
    if not isinstance(formula, str):
        raise InputError(f"formula must be text, got {formula!r}")
    if not isinstance(space, Mapping) or not isinstance(table.get("defaults", {}), Mapping):
        raise InputError("space and defaults are tables, such as space = {a = [0.01, 1.0]}")
    ranges: dict[str, BaseDistribution] = {
        name: distribution_from(entry, str(name)) for name, entry in space.items()
    }
    return Family(
        f"formula_{number}",
        parse(formula, parameters=ranges),
        space=ranges,
        defaults=dict(table.get("defaults", {})),
        reference=str(table.get("reference", "")),
        origin="study file",
    )


def as_spec(family: Family) -> dict[str, Any]:
    """A family as the table that a study file would hold for it."""
    data = family.to_dict()
    table = {key: data[key] for key in ("name", "formula", "space", "defaults", "reference")}
    return table | ({"direction": data["directions"]} if "directions" in data else {})


def settle_families(
    families: Mapping[str, Family],
    criteria: CriteriaSection,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, FamilyGate]:
    """Decides the required criteria for whole families, where that can be done.

    Args:
        families: those searched, by name.
        criteria: the study's.
        say: told which family's turn it is, and of which no candidate can pass: those are still
            drawn, and ruled out one by one, for a study may be about just that.
    """
    gates = {}
    for index, (name, family) in enumerate(families.items()):
        say(f"criteria of the family {name} ({index + 1} of {len(families)})")
        gates[name] = settle(family, profile=criteria.profile, thresholds=criteria.bounds())
        if gates[name].hopeless:
            say(f"each candidate of {name} will be ruled out: {gates[name].hopeless}")
    return gates


def offered(family: Family, gate: FamilyGate | None = None) -> dict[str, BaseDistribution]:
    """A family's distributions as they are drawn from: without what is known to be ruled out.

    A range of fractional steps stays whole: begun elsewhere, its steps would miss the family's own
    values by rounding.
    """
    found: dict[str, BaseDistribution] = dict(family.space)
    for name, (low, high) in (gate.ranges if gate is not None else {}).items():
        whole = family.space[name]
        if isinstance(whole, FloatDistribution) and whole.step is None:
            found[name] = FloatDistribution(low, high, log=whole.log)
        elif isinstance(whole, IntDistribution):
            first = whole.low + math.ceil((low - whole.low) / whole.step) * whole.step
            last = whole.low + math.floor((high - whole.low) / whole.step) * whole.step
            # Between two whole numbers nothing is drawn; each candidate is decided by itself.
            if first <= last:
                found[name] = IntDistribution(first, last, log=whole.log, step=whole.step)
    return found


def suggest(
    trial: optuna.Trial,
    families: Mapping[str, Family],
    *,
    flat: bool,
    spaces: Mapping[str, Mapping[str, BaseDistribution]] | None = None,
) -> Candidate:
    """Draw a candidate: `family`, then `<family>.<parameter>` for that family's own.

    Where a family has several directions, `<family>.direction` is drawn too.

    Args:
        trial: Optuna's.
        families: by name.
        flat: draw every family's parameters, as a genetic algorithm needs: its crossover is over
            parameters that all parents have. Those of other families than the drawn one are idle.
        spaces: what is drawn from, by family; the families' own if left out.
    """
    name = trial.suggest_categorical("family", list(families))
    drawn: dict[str, float | str] = {}
    for other, family in families.items():
        if other != name and not flat:
            continue
        for parameter, distribution in (spaces or {}).get(other, family.space).items():
            value = _suggest(trial, f"{other}.{parameter}", distribution)
            if other == name:
                drawn[parameter] = value
        if len(family.directions) > 1:
            direction = trial.suggest_categorical(f"{other}.direction", list(family.directions))
            if other == name:
                drawn["direction"] = direction
    return families[str(name)].bind(**drawn)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> float:
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def grid(
    family: Family, points: int, *, space: Mapping[str, BaseDistribution] | None = None
) -> list[dict[str, Any]]:
    """At most `points` points of a family's box as Optuna parameters, as even as they can be.

    The box is `space`, the family's own if left out. Every range gets its ends and equal steps
    between (equal ratios where log); the counts are raised in turn as long as their product stays
    within `points`. Each point is taken in each of the family's directions.
    """
    points = max(1, points // len(family.directions))
    space = family.space if space is None else space
    free = [name for name, d in space.items() if not d.single()]
    counts = dict.fromkeys(free, 1)
    most = {name: _most(space[name]) for name in free}
    grown = True
    while grown:
        grown = False
        for name in free:
            size = math.prod(counts.values()) // counts[name] * (counts[name] + 1)
            if counts[name] < most[name] and size <= points:
                counts[name] += 1
                grown = True
    axes: list[list[tuple[str, Any]]] = [
        [(f"{family.name}.{name}", value) for value in _steps(distribution, counts.get(name, 1))]
        for name, distribution in space.items()
    ]
    if len(family.directions) > 1:
        axes.append([(f"{family.name}.direction", choice) for choice in family.directions])
    return [{"family": family.name, **dict(point)} for point in itertools.product(*axes)]


def _most(distribution: BaseDistribution) -> float:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.step is None:
        return math.inf
    return int((distribution.high - distribution.low) / distribution.step + 1e-9) + 1


def _steps(distribution: BaseDistribution, count: int) -> list[float]:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    shares = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
    values = [at_share(low, high, share, log=distribution.log) for share in shares]
    if distribution.step is not None:
        step = distribution.step
        values = [low + round((value - low) / step) * step for value in values]
    values = [min(max(value, low), high) for value in values]
    if isinstance(distribution, IntDistribution):
        values = [round(value) for value in values]
    return list(dict.fromkeys(values))


# --------------------------------------------------------------------------------------- samplers


class _Candidates(optuna.Study):
    """A study as its samplers see it: without the baseline and the references.

    Those carry no parameters. Samplers that look for what all trials have in common (GP, CMA-ES,
    NSGA-II) would find nothing, and TPE would count them among the good trials it learns from.
    It also spares samplers Hyperband's division of a study into brackets, of which a study of a few
    dozen trials has too few each to learn from.
    """

    def __init__(self, study: "Study") -> None:
        super().__init__(study.study_name, storage_of(study))
        # Samplers ask a dozen times a trial, and asking a database takes milliseconds.
        self.known: list[FrozenTrial] | None = None

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self.known is None:
            trials = current(super()._get_trials(deepcopy=False))
            self.known = [trial for trial in trials if trial.user_attrs.get(KIND) not in FIXED]
        found = [trial for trial in self.known if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


FIXED = ("baseline", "reference")


class CandidateSampler(BaseSampler):
    """Hands candidates to one of Optuna's samplers, built anew for each trial.

    Its seed comes from the study's seed and the trial's number: a resumed study goes on as one that
    never stopped, and workers cannot draw the same numbers.
    """

    def __init__(self, settings: StudySection, begin: Callable[["Study", FrozenTrial], None]):
        self._settings = settings
        self._begin = begin
        self._inner: BaseSampler = optuna.samplers.RandomSampler(seed=0)
        self._view: _Candidates | None = None

    def _seen(self, study: "Study") -> "Study":
        if self._view is None:
            self._view = _Candidates(study)
        return self._view

    def reseed_rng(self) -> None:
        """Nothing to do: each trial has its own generator."""

    def before_trial(self, study: "Study", trial: FrozenTrial) -> None:
        """Signs the trial, before anything can happen to it, and seeds its sampler."""
        self._begin(study, trial)
        if self._view is not None:
            self._view.known = None
        self._inner = make_sampler(self._settings, seed=trial_seed(self._settings, trial.number))
        if trial.user_attrs.get(KIND) not in FIXED:
            self._inner.before_trial(self._seen(study), trial)

    def infer_relative_search_space(
        self, study: "Study", trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the inner sampler's."""
        return self._inner.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: "Study", trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the inner sampler's."""
        return self._inner.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self,
        study: "Study",
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the inner sampler's."""
        return self._inner.sample_independent(
            self._seen(study), trial, param_name, param_distribution
        )

    def after_trial(
        self,
        study: "Study",
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the inner sampler's, for candidates."""
        if self._view is not None:
            self._view.known = None
        if trial.user_attrs.get(KIND) not in FIXED:
            self._inner.after_trial(self._seen(study), trial, state, values)


def trial_seed(settings: StudySection, number: int) -> int:
    """The seed of a trial's sampler, from the study's seed and the trial's number."""
    digest = hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def startup_trials(settings: StudySection) -> int:
    """How many candidates are drawn at random first: Optuna's 10, fewer in a short study."""
    return min(10, max(4, settings.trials // 4))


def make_sampler(settings: StudySection, *, seed: int) -> BaseSampler:
    """The study's sampler.

    Raises:
        UnsupportedError: it needs a package that is not installed.
    """
    startup = startup_trials(settings)
    with _no_experimental_warnings():
        if settings.sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, group=True
            )
        if settings.sampler == "cmaes":
            return CmaEsSampler(
                seed=seed,
                # Trials that stopped at a rung have a value there to learn from, if it is of the
                # same kind as the others'.
                consider_pruned_trials=settings.pruner in ("hyperband", "halving")
                and settings.compares == "accuracy",
                warn_independent_sampling=False,
            )
        if settings.sampler == "gp":
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=startup, warn_independent_sampling=False
            )
        if settings.sampler == "nsga2":
            population = max(4, min(50, settings.trials // 4))
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    # A grid's points wait in the study's queue; what is left of its total is drawn at random.
    return optuna.samplers.RandomSampler(seed=seed)


def check_installed(settings: StudySection) -> None:
    """Says at once what a sampler would miss at its first draw.

    Raises:
        UnsupportedError: a package is not installed.
    """
    needs = {"cmaes": ("cmaes",), "gp": ("torch", "scipy")}.get(settings.sampler, ())
    for package in needs:
        if importlib.util.find_spec(package) is None:
            raise UnsupportedError(
                f"study.sampler: {settings.sampler!r} needs the package {package}: "
                f"pip install {package} (or choose tpe)"
            )


@contextlib.contextmanager
def _no_experimental_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


# ---------------------------------------------------------------------------------------- pruners


PER_BRACKET = 20
"""Trials for each of Hyperband's brackets. With fewer it has the most pruning bracket alone, which
is successive halving: the last one prunes nothing, and would take half of a short study."""


def make_pruner(
    settings: StudySection, *, epochs: int | None, looks: int = 1
) -> optuna.pruners.BasePruner:
    """The study's pruner, its resources in steps.

    No trial is stopped within its first quarter (rounded up), for early epochs mislead, most under
    a one-cycle schedule. Successive halving, which is for those who would rather look at more
    candidates, is our own: see `pdsearch.study.rungs`.

    Args:
        settings: the study's.
        epochs: of a whole trial; None where that is not yet known, and nothing is pruned.
        looks: steps of an epoch.
    """
    if epochs is None or epochs * looks < 2 or settings.pruner in ("none", "halving"):
        return optuna.pruners.NopPruner()
    quarter = max(1, math.ceil(epochs / 4))
    brackets = math.floor(math.log(epochs / quarter, 3)) + 1
    first = quarter * looks
    if settings.pruner == "hyperband" and brackets > 1 and settings.trials < PER_BRACKET * brackets:
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=startup_trials(settings), n_warmup_steps=first
        )
    return optuna.pruners.HyperbandPruner(
        min_resource=first, max_resource=epochs * looks, reduction_factor=3
    )
