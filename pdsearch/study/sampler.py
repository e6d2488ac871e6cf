"""Who draws the candidates: Optuna's samplers, which see no baseline and no reference."""

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from pdsearch.errors import UnsupportedError
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.innards import CmaEsSampler, SeenStudy
from pdsearch.study.queue import current
from pdsearch.study.settings import StudySection

if TYPE_CHECKING:
    from optuna.study import Study


def candidates_of(study: "Study") -> SeenStudy:
    """Return a study as its samplers see it: without the baseline and the references.

    Those carry no parameters. Samplers that look for what all trials have in common (GP, CMA-ES,
    NSGA-II) would find nothing, and TPE would count them among the good trials it learns from.
    It also spares samplers Hyperband's division of a study into brackets, of which a study of a few
    dozen trials has too few each to learn from.
    """
    return SeenStudy(study, lambda trials: [t for t in current(trials) if not TrialAttrs(t).fixed])


class CandidateSampler(BaseSampler):
    """Hands candidates to one of Optuna's samplers, built anew for each trial.

    Its seed comes from the study's seed and the trial's number: a resumed study continues like one
    that never stopped, and workers cannot draw the same numbers.
    """

    def __init__(self, settings: StudySection, begin: Callable[["Study", FrozenTrial], None]):
        self._settings = settings
        self._begin = begin
        self._inner: BaseSampler = optuna.samplers.RandomSampler(seed=0)
        self._view: SeenStudy | None = None

    def _seen(self, study: "Study") -> "Study":
        if self._view is None:
            self._view = candidates_of(study)
        return self._view

    def reseed_rng(self) -> None:
        """Nothing to do: each trial has its own generator."""

    def before_trial(self, study: "Study", trial: FrozenTrial) -> None:
        """Sign the trial, before anything can happen to it, and seed its sampler."""
        self._begin(study, trial)
        if self._view is not None:
            self._view.forget()
        self._inner = make_sampler(self._settings, seed=trial_seed(self._settings, trial.number))
        if not TrialAttrs(trial).fixed:
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
            self._view.forget()
        if not TrialAttrs(trial).fixed:
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
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
    """Say at once what a sampler would miss at its first draw.

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
