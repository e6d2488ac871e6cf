"""One training run of one candidate: its settings, the run, its checkpoints. Knows no Optuna.

The settings and the records are plain data, which reading a study needs too; what trains is loaded
when it is first asked for, for torch takes seconds to import.
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
from pdsearch.trial.settings import StreamSettings, TrialSettings, learning_rate_at, length_of

if TYPE_CHECKING:
    from pdsearch.trial.run import run_over_learning_rates, run_trial
    from pdsearch.trial.speed import probe_precision, resolve_device, resolve_settings
    from pdsearch.trial.stream import Stream, check_room

_OWNERS = {
    "Stream": "stream",
    "check_room": "stream",
    "probe_precision": "speed",
    "resolve_device": "speed",
    "resolve_settings": "speed",
    "run_over_learning_rates": "run",
    "run_trial": "run",
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
]


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module 'pdsearch.trial' has no attribute {name!r}")
    value = getattr(import_module(f"pdsearch.trial.{_OWNERS[name]}"), name)
    globals()[name] = value
    return value
