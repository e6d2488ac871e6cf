"""The design criteria: each statement is proved, refuted with a witness, or left undecided.

`check` decides all ten for a candidate or, given a family, for every point of its parameter
space; `gate` decides only those that a study requires. A verdict is `proved` only by a certified
enclosure or an exact identity (`pdsearch.enclosure`), and `refuted` only with evidence that was
itself evaluated rigorously. `measured` means that nothing was proved.
"""

from pdsearch.criteria.api import (
    ProofBox,
    check,
    decide_family,
    family_map,
    gate,
    proof_boxes,
    settle,
)
from pdsearch.criteria.family import FamilyGate, FamilyMap, Part
from pdsearch.criteria.own import (
    UserCriterion,
    criterion_name,
    functions_of,
    load_criterion,
    read_criterion,
)
from pdsearch.criteria.records import (
    CERTIFIED,
    CRITERIA,
    PROFILES,
    PROVED_BY_BOXES,
    RECORDS,
    SETTINGS,
    Criterion,
    demands,
)
from pdsearch.criteria.result import Report, Result
from pdsearch.enclosure.search import Budget

__all__ = [
    "CERTIFIED",
    "CRITERIA",
    "PROFILES",
    "PROVED_BY_BOXES",
    "RECORDS",
    "SETTINGS",
    "Budget",
    "Criterion",
    "FamilyGate",
    "FamilyMap",
    "Part",
    "ProofBox",
    "Report",
    "Result",
    "UserCriterion",
    "check",
    "criterion_name",
    "decide_family",
    "demands",
    "family_map",
    "functions_of",
    "gate",
    "load_criterion",
    "proof_boxes",
    "read_criterion",
    "settle",
]
