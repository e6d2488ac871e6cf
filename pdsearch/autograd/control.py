"""The control of a pseudo-derivative: the activation whose true derivative it is."""

import functools
import logging
import subprocess
import sys
from typing import Any, cast

import numpy as np
import sympy
import torch
from torch import nn

from pdsearch import codegen
from pdsearch.apart import apart
from pdsearch.autograd.op import rule
from pdsearch.autograd.slopes import Slope
from pdsearch.errors import FormulaError, InputError
from pdsearch.expression import format_formula, parse, t, x
from pdsearch.family import Candidate
from pdsearch.float32_family import float32_function

__all__ = ["ForwardControl", "forward_control"]

TIME_LIMIT = 10.0  # seconds for sympy; an integral that it finds, it mostly finds within one
REACH = 1e4  # the tabulated integral goes on as a straight line beyond
ACCURACY = 1e-6  # of a control's values, relative to max(1, abs(value)), for abs(x) up to REACH

_log = logging.getLogger("pdsearch")


class ForwardControl(nn.Module):
    r"""The activation :math:`F(x) = \int_0^x g(s)\,ds`; its derivative is g, exactly.

    Args:
        candidate: the pseudo-derivative, taken at t = 0.
        primitive: F in closed form, or None: tabulated, a straight line for abs(x) beyond 1e4.

    F(x) is within 1e-6·max(1, abs(F)) for abs(x) up to 1e4 where it is tabulated. Dtypes other than
    float64 are computed in float32, within 3e-6·max(1, abs(F)) before they are rounded, and from
    the table if float32 loses digits of the closed form.
    """

    def __init__(self, candidate: Candidate, primitive: sympy.Expr | None) -> None:
        super().__init__()
        self.candidate, self.primitive = candidate, primitive

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """F(input): same shape and dtype."""
        if not input.is_floating_point():
            raise InputError(f"a floating-point tensor is needed, got {input.dtype}")
        return cast(torch.Tensor, _Integral.apply(input, self.candidate, self.primitive))

    def extra_repr(self) -> str:
        """The formula, or whose integral was tabulated."""
        if self.primitive is not None:
            return format_formula(self.primitive)
        return f"integral of {self.candidate.formula}, tabulated"


def forward_control(candidate: Candidate) -> nn.Module:
    r"""The activation whose true derivative is g: :math:`F(x) = \int_0^x g(s)\,ds`.

    It answers "why not use that function in the forward pass too?". Sympy integrates within a
    time limit; what it finds is checked by numbers. Otherwise F is tabulated by quadrature.

    Args:
        candidate: the pseudo-derivative; an annealed one is taken at t = 0, one of direction "up"
            as g in both directions.

    Returns:
        A module without parameters. Its derivative is g as the op computes it, F(0) = 0.
    """
    if not isinstance(candidate, Candidate):
        raise InputError(f"forward_control needs a Candidate, got {type(candidate).__name__}")
    # An activation passes its gradient in both directions.
    both = Candidate(candidate.family, candidate.parameters)
    return ForwardControl(both, _primitive(both))


class _Integral(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, candidate: Candidate, primitive: sympy.Expr | None
    ) -> torch.Tensor:
        ctx.save_for_backward(input)
        ctx.candidate = candidate
        if input.dtype == torch.float64:
            if primitive is None:
                return _interpolate(candidate, input)
            return codegen.torch_function(primitive)(input, 0.0)
        narrow = None if primitive is None else float32_function(primitive)
        given = input.float()
        value = _interpolate(candidate, given) if narrow is None else narrow(given)
        return value.to(input.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (input,) = ctx.saved_tensors
        plan = rule(ctx.candidate, "input", False).plan(input)
        if torch.is_grad_enabled():  # create_graph=True: the gradient will be differentiated
            return grads[0] * Slope.apply(input, plan.numbers(0.0), plan.formula, 0), None, None
        return plan.scale(grads[0], input), None, None


# --------------------------------------------------------------------------------- closed forms

_INTEGRATE = """
import sys
import sympy
from pdsearch.expression import format_formula, parse, sigmoid, softplus, x
g = parse(sys.stdin.read(), parameters=[])
plain = g.replace(sigmoid, lambda z: 1 / (1 + sympy.exp(-z)))
plain = plain.replace(softplus, lambda z: sympy.log(1 + sympy.exp(z)))
F = sympy.integrate(plain, x)
if not F.has(sympy.Integral):
    sys.stdout.write(format_formula(F))
"""


@functools.lru_cache(maxsize=256)
def _primitive(candidate: Candidate) -> sympy.Expr | None:
    """F in closed form if sympy finds one in time and numbers agree with it.

    In a process of its own, since nothing but killing it ends some of sympy's integrations.
    """
    g = candidate.expression.xreplace({t: sympy.S.Zero})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _INTEGRATE],
            input=format_formula(g),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        _log.info("no closed integral of %s within %g s: tabulated", candidate.name, TIME_LIMIT)
        return None
    if done.returncode != 0 or not done.stdout:
        return None
    try:
        found = parse(done.stdout, parameters=[])
        found = found - found.subs(x, 0)
        wanted = sympy.Abs(found)  # a complex or unknown value cannot be compared below
        del wanted
        values = codegen.torch_function(found)(torch.from_numpy(_probes()), 0.0)
    except (FormulaError, InputError, TypeError, ValueError):
        return None  # a function outside what formulas may hold: tabulated instead
    reference = _interpolate(candidate, torch.from_numpy(_probes()))
    close = (values - reference).abs() <= ACCURACY * reference.abs().clamp(min=1.0)
    return found if bool(close.all()) else None


@functools.cache
def _probes() -> np.ndarray:
    far = np.geomspace(1e-3, REACH, 200)
    return np.concatenate([-far[::-1], [0.0], far])


# ---------------------------------------------------------------------------------- quadrature


@functools.lru_cache(maxsize=64)
@apart()
def _grid(candidate: Candidate) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Knots, F there, and g on either side of each, float64.

    Gauss-Legendre with 8 points between neighbouring knots; breakpoints of g are knots.
    """
    from pdsearch.enclosure import cut
    from pdsearch.kernels.pieces import at_start, breakpoints, function

    g = function(candidate)
    side = np.sinh(np.linspace(0.0, np.arcsinh(REACH * 50.0), 6_001)) / 50.0
    inner = [b for b in breakpoints(cut(at_start(candidate))) if abs(b) < REACH]
    knots = np.unique(np.concatenate([-side, side, inner]))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = 0.5 * np.diff(knots)
    middle = 0.5 * (knots[1:] + knots[:-1])
    parts = (g(middle[:, None] + half[:, None] * nodes) * weights).sum(axis=1) * half
    total = np.concatenate([[0.0], np.cumsum(parts)])
    total -= total[np.searchsorted(knots, 0.0)]
    # One-sided limits of g: just inside each interval.
    inside = np.stack([g(knots[:-1] + 1e-9 * half), g(knots[1:] - 1e-9 * half)])
    return torch.from_numpy(knots), torch.from_numpy(total), torch.from_numpy(inside)


def _interpolate(candidate: Candidate, points: torch.Tensor) -> torch.Tensor:
    """F by Hermite's cubic between the knots, and straight on beyond them; in the points' dtype."""
    grid = (part.to(points.dtype) for part in _grid(candidate))
    knots, total, slopes = (part.to(points.device) for part in grid)
    inside = points.clamp(-REACH, REACH)
    at = (torch.searchsorted(knots, inside, right=True) - 1).clamp(0, len(knots) - 2)
    width = knots[at + 1] - knots[at]
    s = (inside - knots[at]) / width
    value = (
        total[at] * (1 + 2 * s) * (1 - s) ** 2
        + total[at + 1] * s**2 * (3 - 2 * s)
        + slopes[0][at] * width * s * (1 - s) ** 2
        - slopes[1][at] * width * s**2 * (1 - s)
    )
    beyond = points - inside
    ends = torch.where(points > 0, slopes[1][-1], slopes[0][0])
    return value + torch.where(beyond == 0, beyond, beyond * ends)
