"""Studies: a study file becomes an Optuna study that can be killed at any time and run again."""

from pdsearch.study.api import SearchResult, search, worker
from pdsearch.study.settings import StudyFile, load_study_file
from pdsearch.study.stored import StoredStudy, TrialRow, open_study, status

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
