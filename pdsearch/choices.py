"""A product of what may be zero and what may overflow, as the arms of a choice.

`Heaviside(-x)*exp(x)` is 0·inf far right. As `Piecewise((exp(x), x < 0), …)` it is not: the printer
guards the arms that are not taken.
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

MOST_SPLITS = 4  # of a product into arms, one within the other

LARGEST_FORM = 20_000
"""Nodes of a rewritten form, written out as a tree. The library's largest, of the second derivative
of `gelu_tanh`, has 6 402; one of 150 different nodes may have millions, and sympy walks trees."""


def bounded(form: Any) -> Any:
    """The form itself.

    Raises:
        OutOfReachError: it is too large to work with.
    """
    if size(form) > LARGEST_FORM:
        raise OutOfReachError("a form grows too large")
    return form


def hoisted(node: Any, splits: int) -> Any:
    """Products with a factor that chooses, and one that may overflow, as the arms of a choice.

    Raises:
        OutOfReachError: they are too many.
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
    """Whether an exponential of x is in it."""
    return any(e.has(x) for e in node.atoms(sympy.exp, sympy.sinh, sympy.cosh))


def _choosers(node: Any, *, direct: bool) -> Iterator[Any]:
    """Nodes that choose, among the factors of a product and the terms of those."""
    if isinstance(node, Mul | Add):
        for arg in node.args:
            yield from _choosers(arg, direct=direct and isinstance(node, Mul))
    elif isinstance(node, Pow) and not node.exp.has(x):
        yield from _choosers(node.base, direct=direct)
    elif isinstance(node, _DEAD if direct else (*_DEAD, Abs, sympy.sign)) and node.has(x):
        yield node


_DEAD = (Heaviside, Max, Min, Piecewise)
"""What may be zero on a stretch; in a sum, so may be what Abs and sign are part of."""


def _choices(chooser: Any) -> list[tuple[sympy.Expr, Any]]:
    """The values a node may take, each with its condition."""
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
