"""Drawing candidates by Optuna's samplers, which see neither the baseline nor the references."""

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pdsearch.errors import UnsupportedError
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.innards import CmaEsSampler, SeenStudy
from pdsearch.study.queue import current
from pdsearch.study.settings import StudySection


def _delegated(name: str) -> Callable[..., Any]:
    """Return a method of `CandidateSampler` that calls the inner sampler's with the seen study."""

    def call(self: "CandidateSampler", study: Study, *args: Any) -> Any:
        return getattr(self._inner, name)(self._seen(study), *args)

    return call


class CandidateSampler(BaseSampler):
    """Draws candidates by one of Optuna's samplers, created anew for each trial.

    Its seed comes from the study's seed and the trial's number: a resumed study continues as if it
    had never stopped, and two workers cannot draw the same numbers.

    It hides the baseline and the references, which have no parameters. GP, CMA-ES and NSGA-II look
    for parameters that all trials share and would find none, and TPE would count them among the
    good trials it learns from. It also hides Hyperband's brackets: a study of a few dozen trials
    has too few per bracket to learn from.
    """

    def __init__(self, settings: StudySection, begin: Callable[[Study, FrozenTrial], None]):
        self._settings = settings
        self._begin = begin
        self._inner: BaseSampler = optuna.samplers.RandomSampler(seed=0)
        self._view: SeenStudy | None = None

    def _seen(self, study: Study) -> SeenStudy:
        if self._view is None:
            self._view = SeenStudy(
                study, lambda trials: [t for t in current(trials) if not TrialAttrs(t).fixed]
            )
        return self._view

    def reseed_rng(self) -> None:
        """Do nothing: each trial has its own generator."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Sign the trial, before anything can happen to it, and seed its sampler."""
        self._begin(study, trial)
        self._seen(study).forget()
        self._inner = make_sampler(self._settings, seed=trial_seed(self._settings, trial.number))
        if not TrialAttrs(trial).fixed:
            self._inner.before_trial(self._seen(study), trial)

    infer_relative_search_space = _delegated("infer_relative_search_space")
    sample_relative = _delegated("sample_relative")
    sample_independent = _delegated("sample_independent")

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See the inner sampler; only for candidates."""
        self._seen(study).forget()
        if not TrialAttrs(trial).fixed:
            self._inner.after_trial(self._seen(study), trial, state, values)


def trial_seed(settings: StudySection, number: int) -> int:
    """Return the seed of a trial's sampler."""
    digest = hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def startup_trials(settings: StudySection) -> int:
    """Return how many candidates are first drawn at random: Optuna's 10, fewer in a short study."""
    return min(10, max(4, settings.trials // 4))


def make_sampler(settings: StudySection, *, seed: int) -> BaseSampler:
    """Return the study's sampler of Optuna."""
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
                # Stopped trials have a value to learn from, if it is an accuracy like the others'.
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
    # A grid's points wait in the study's queue; the rest of its total is drawn at random.
    return optuna.samplers.RandomSampler(seed=seed)


def check_installed(settings: StudySection) -> None:
    """Check for the packages that the sampler imports at its first draw.

    Raises:
        UnsupportedError: one is not installed.
    """
    needs = {"cmaes": ("cmaes",), "gp": ("torch", "scipy")}.get(settings.sampler, ())
    for package in needs:
        if importlib.util.find_spec(package) is None:
            raise UnsupportedError(
                f"study.sampler: {settings.sampler!r} needs the package {package}: "
                f"pip install {package} (or choose tpe)"
            )
