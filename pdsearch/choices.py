"""Products of a factor that may be zero and one that may overflow, rewritten as Piecewise.

Far to the right, `Heaviside(-x)*exp(x)` evaluates to 0·inf. `Piecewise((exp(x), x < 0), …)` does
not, because the printer guards the arms that are not taken.
"""

from collections.abc import Iterator
from typing import Any

import sympy
from sympy import Abs, Add, Heaviside, Max, Min, Mul, Piecewise, Pow, S
from sympy.core.relational import StrictGreaterThan, StrictLessThan

from pdsearch.enclosure.algebra import size
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.nodes import rebuilt
from pdsearch.expression import x

__all__ = ["MOST_SPLITS", "bounded", "hoisted", "may_overflow"]

MOST_SPLITS = 4  # nested splits of a product into arms

LARGEST_FORM = 20_000
"""Most nodes of a rewritten form, counted as a tree, because sympy walks trees: 150 distinct nodes
may unfold to millions. The library's largest form (second derivative of `gelu_tanh`) has 6 402."""


def bounded(form: Any) -> Any:
    """Return the form unchanged.

    Raises:
        OutOfReachError: The form has more than `LARGEST_FORM` nodes.
    """
    if size(form) > LARGEST_FORM:
        raise OutOfReachError("a form grows too large")
    return form


def hoisted(node: Any, splits: int) -> Any:
    """Rewrite each product of a choosing factor and one that may overflow as a Piecewise.

    Raises:
        OutOfReachError: The result grows too large.
    """
    if not isinstance(node, sympy.Expr) or not node.args or not node.has(x):
        return node
    if isinstance(node, Mul) and splits > 0 and may_overflow(node):
        chooser = next(iter(_choosers(node, direct=True)), None)
        if chooser is not None:
            arms = [
                (hoisted(node.xreplace({chooser: value}), splits - 1), condition)
                for value, condition in _choices(chooser)
            ]
            return bounded(Piecewise(*arms, evaluate=False))
    return rebuilt(node, lambda arg: hoisted(arg, splits))


def may_overflow(node: sympy.Expr) -> bool:
    """Return whether the node contains an exponential of x."""
    return any(e.has(x) for e in node.atoms(sympy.exp, sympy.sinh, sympy.cosh))


def _choosers(node: Any, *, direct: bool) -> Iterator[Any]:
    """Yield the choosing nodes among the factors of a product and among their terms."""
    if isinstance(node, Mul | Add):
        for arg in node.args:
            yield from _choosers(arg, direct=direct and isinstance(node, Mul))
    elif isinstance(node, Pow) and not node.exp.has(x):
        yield from _choosers(node.base, direct=direct)
    elif isinstance(node, _DEAD if direct else (*_DEAD, Abs, sympy.sign)) and node.has(x):
        yield node


_DEAD = (Heaviside, Max, Min, Piecewise)
"""Nodes that may be zero on an interval. In a sum, so may terms with Abs and sign."""


def _choices(chooser: Any) -> list[tuple[sympy.Expr, Any]]:
    """Return the values that a node may take, each with its condition."""
    if isinstance(chooser, Piecewise):
        return [(arm.expr, arm.cond) for arm in chooser.args]
    first = chooser.args[0]
    above = StrictGreaterThan(first, S.Zero, evaluate=False)
    below = StrictLessThan(first, S.Zero, evaluate=False)
    if isinstance(chooser, Heaviside):
        at_zero = chooser.args[1] if len(chooser.args) > 1 else S.Half
        return [(S.One, above), (S.Zero, below), (at_zero, sympy.true)]
    if isinstance(chooser, sympy.sign):
        return [(S.One, above), (S.NegativeOne, below), (S.Zero, sympy.true)]
    if isinstance(chooser, Abs):
        return [(first, above), (-first, sympy.true)]
    rest = chooser.func(*chooser.args[1:])
    relation = StrictGreaterThan if isinstance(chooser, Max) else StrictLessThan
    return [(first, relation(first, rest, evaluate=False)), (rest, sympy.true)]
