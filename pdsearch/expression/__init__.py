"""Formula text and sympy expressions, both ways. The only parser of the project.

Text is never handed to `eval`, `sympify` or `parse_expr` (each of them runs code found in the
text). It is parsed by `ast.parse`, which builds a tree and runs nothing, and the tree is read by
an interpreter that knows names, numbers, arithmetic, comparisons, `and`/`or`/`not`, tuples inside
`Piecewise`, and calls of a fixed table of functions. Everything else is an error that says where.
"""

from pdsearch.expression.assumptions import Values, check_assumptions, check_constant
from pdsearch.expression.definedness import check_binding, check_size, undefined_at
from pdsearch.expression.functions import (
    FUNCTIONS,
    RELATIONS,
    RESERVED,
    clamp,
    exact,
    sigmoid,
    softplus,
    symbol,
    t,
    x,
)
from pdsearch.expression.reading import canonical, check_parameters_used, parse
from pdsearch.expression.writing import format_formula, format_latex

__all__ = [
    "FUNCTIONS",
    "RELATIONS",
    "RESERVED",
    "Values",
    "canonical",
    "check_assumptions",
    "check_binding",
    "check_constant",
    "check_parameters_used",
    "check_size",
    "clamp",
    "exact",
    "format_formula",
    "format_latex",
    "parse",
    "sigmoid",
    "softplus",
    "symbol",
    "t",
    "undefined_at",
    "x",
]
