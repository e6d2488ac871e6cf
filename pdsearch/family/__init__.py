"""Families of pseudo-derivatives, and candidates: families with their parameters bound.

A family is data: one sympy expression in `x` (and maybe `t`), with a range for each parameter.
Kernel, criteria, plots, LaTeX and exported files are all made from that expression.
"""

from pdsearch.family.definition import SCHEMA, Candidate, Family
from pdsearch.family.loading import (
    find_families,
    is_library_name,
    library,
    library_directory,
    load_family,
    load_target,
)
from pdsearch.family.ranges import distribution_from

__all__ = [
    "SCHEMA",
    "Candidate",
    "Family",
    "distribution_from",
    "find_families",
    "is_library_name",
    "library",
    "library_directory",
    "load_family",
    "load_target",
]
