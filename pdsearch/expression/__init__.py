"""Formula text and sympy expressions, both ways. The only parser of the project.

Text never reaches `eval`, `sympify` or `parse_expr`, each of which runs code found in the text.
`ast.parse` builds a tree and runs nothing. An interpreter reads the tree: names, numbers,
arithmetic, comparisons, `and`/`or`/`not`, tuples inside `Piecewise`, and calls of a fixed table of
functions. Everything else is an error with its column.
"""

from pdsearch.expression.assumptions import Values, check_assumptions, check_constant
from pdsearch.expression.definedness import check_binding, check_defined
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
    "check_defined",
    "check_parameters_used",
    "clamp",
    "exact",
    "format_formula",
    "format_latex",
    "parse",
    "sigmoid",
    "softplus",
    "symbol",
    "t",
    "x",
]
