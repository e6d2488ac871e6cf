"""One training run of one candidate: its settings, the run, its checkpoints. Knows no Optuna."""

from pdsearch.trial.records import EpochRecord, RateSearch, TrialResult
from pdsearch.trial.run import run_over_learning_rates, run_trial
from pdsearch.trial.settings import TrialSettings, learning_rate_at
from pdsearch.trial.speed import probe_precision, resolve_device, resolve_settings

__all__ = [
    "EpochRecord",
    "RateSearch",
    "TrialResult",
    "TrialSettings",
    "learning_rate_at",
    "probe_precision",
    "resolve_device",
    "resolve_settings",
    "run_over_learning_rates",
    "run_trial",
]
