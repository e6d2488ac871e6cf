"""Studies: a study file becomes an Optuna study that can be killed at any time and resumed.

Running a study loads torch, which takes seconds. Reading one does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pdsearch.study.file import load_study_file
from pdsearch.study.rows import TrialRow
from pdsearch.study.settings import StudyFile
from pdsearch.study.stored import StoredStudy, open_study, status

if TYPE_CHECKING:
    from pdsearch.study.api import SearchResult, search, worker

__all__ = [
    "SearchResult",
    "StoredStudy",
    "StudyFile",
    "TrialRow",
    "load_study_file",
    "open_study",
    "search",
    "status",
    "worker",
]


def __getattr__(name: str) -> Any:
    if name not in ("SearchResult", "search", "worker"):
        raise AttributeError(f"module 'pdsearch.study' has no attribute {name!r}")
    value = getattr(import_module("pdsearch.study.api"), name)
    globals()[name] = value
    return value
