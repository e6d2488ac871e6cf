"""Functions that stand only in rewritten expressions, for `torch_source` to print."""

import sympy
from sympy import S


class pd_positive(sympy.Function):
    """u⁺ = max(u, 0)."""

    @classmethod
    def eval(cls, u: sympy.Expr) -> sympy.Expr | None:
        """A number is compared."""
        return sympy.Max(u, 0) if u.is_number else None


class pd_negative(sympy.Function):
    """u⁻ = min(u, 0)."""

    @classmethod
    def eval(cls, u: sympy.Expr) -> sympy.Expr | None:
        """A number is compared."""
        return sympy.Min(u, 0) if u.is_number else None


class pd_largest(sympy.Function):
    """The largest of its arguments; sympy's own compares them, which may take long."""

    @classmethod
    def eval(cls, *args: sympy.Expr) -> sympy.Expr | None:
        """Numbers are compared, which takes no time."""
        return sympy.Max(*args) if all(arg.is_number for arg in args) else None


class pd_expm1(sympy.Function):
    """exp(u) - 1."""

    nargs = 1

    @classmethod
    def eval(cls, u: sympy.Expr) -> sympy.Expr | None:
        """Zero at zero."""
        return S.Zero if u == 0 else None


class pd_arccot(sympy.Function):
    """pi/2 - atan(z)."""


class pd_erfc_ratio(sympy.Function):
    """erfc(z)·exp(max(z, 0)²)."""

    nargs = 1


class pd_softplus_ratio(sympy.Function):
    """softplus(z)·exp(-min(z, 0))."""

    nargs = 1
