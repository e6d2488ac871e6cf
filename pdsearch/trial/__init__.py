"""One training run of one candidate: its settings, the run, its checkpoints. Knows no Optuna.

Settings and records are plain data, which reading a study needs too. The modules that train are
imported on first use, because importing torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pdsearch.trial.records import (
    Diagnosis,
    EpochRecord,
    Look,
    RateSearch,
    TaskRecord,
    TrialResult,
    value_of,
)
from pdsearch.trial.settings import (
    StreamSettings,
    TrialSettings,
    learning_rate_at,
    length_of,
    where_in,
)

if TYPE_CHECKING:
    from pdsearch.trial.run import run_over_learning_rates, run_trial
    from pdsearch.trial.speed import probe_precision, resolve_device, resolve_settings
    from pdsearch.trial.stream import Stream, check_room

_OWNERS = {
    "run": ("run_over_learning_rates", "run_trial"),
    "speed": ("probe_precision", "resolve_device", "resolve_settings"),
    "stream": ("Stream", "check_room"),
}

__all__ = [
    "Diagnosis",
    "EpochRecord",
    "Look",
    "RateSearch",
    "Stream",
    "StreamSettings",
    "TaskRecord",
    "TrialResult",
    "TrialSettings",
    "check_room",
    "learning_rate_at",
    "length_of",
    "probe_precision",
    "resolve_device",
    "resolve_settings",
    "run_over_learning_rates",
    "run_trial",
    "value_of",
    "where_in",
]


def __getattr__(name: str) -> Any:
    for module, names in _OWNERS.items():
        if name in names:
            value = getattr(import_module(f"pdsearch.trial.{module}"), name)
            globals()[name] = value  # the next use does not come here
            return value
    raise AttributeError(f"module 'pdsearch.trial' has no attribute {name!r}")
