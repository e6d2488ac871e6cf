"""Families of pseudo-derivatives, and candidates: families with their parameters bound.

A family is data: one sympy expression in `x` (and optionally `t`), with a range for each parameter.
The kernels, criteria, plots, LaTeX and exported files are all generated from that expression.
"""

from pdsearch.family.definition import DIRECTIONS, Candidate, Family
from pdsearch.family.documents import SCHEMA
from pdsearch.family.fades import FADES, Fading, fade, fading, side
from pdsearch.family.grouped import Drawn, Grouped, check_group, drawn_from, parts_of
from pdsearch.family.loading import (
    find_families,
    is_library_name,
    library,
    library_directory,
    load_family,
    load_target,
    varied,
)
from pdsearch.family.notebook import plot
from pdsearch.family.ranges import (
    Range,
    at_share,
    distribution_from,
    in_range,
    parameters_in,
)

__all__ = [
    "DIRECTIONS",
    "FADES",
    "SCHEMA",
    "Candidate",
    "Drawn",
    "Fading",
    "Family",
    "Grouped",
    "Range",
    "at_share",
    "check_group",
    "distribution_from",
    "drawn_from",
    "fade",
    "fading",
    "find_families",
    "in_range",
    "is_library_name",
    "library",
    "library_directory",
    "load_family",
    "load_target",
    "parameters_in",
    "parts_of",
    "plot",
    "side",
    "varied",
]
