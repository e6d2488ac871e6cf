"""What is compiled from a formula's text: its function, its derivatives, its values."""

import copy
import functools
import linecache
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import sympy

from pdsearch import expression as _expression
from pdsearch.enclosure.clock import OutOfReachError
from pdsearch.enclosure.nodes import derivative as slope
from pdsearch.enclosure.program import NO_REAL_NUMBER
from pdsearch.errors import FormulaError, InputError, UnsupportedError, shortened
from pdsearch.reach import FAR, find_reach, trouble_at
from pdsearch.saturating import saturating
from pdsearch.torch_source import SCALAR_HELPER, torch_source

if TYPE_CHECKING:
    import torch

    from pdsearch.family import Candidate, Family

__all__ = [
    "FAR",
    "SCALAR_HELPER",
    "Kernel",
    "check_progress",
    "compiled",
    "derivative",
    "evaluate",
    "kernel",
    "parameter_values",
    "rounded",
    "torch_function",
    "torch_source",
]


@functools.lru_cache(maxsize=1_024)
def torch_function(
    expression: sympy.Expr, parameters: tuple[str, ...] = ()
) -> "Callable[..., torch.Tensor]":
    """The compiled form of `torch_source`'s text, one per expression and parameter names."""
    return compiled(torch_source(expression, parameters=parameters), "g")


def compiled(source: str, name: str) -> "Callable[..., torch.Tensor]":
    """A function of a text that our printer made; tracebacks show its lines."""
    import torch

    file = f"<pdsearch formula {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {"torch": torch}
    # Our own printer's text of an expression that went through the allow-list: nothing a user
    # wrote is in it but identifiers that begin with p_.
    exec(compile(source, file, "exec"), namespace)
    return cast("Callable[..., torch.Tensor]", namespace[name])


LARGEST_DERIVATIVE = 20_000
"""Nodes of a derivative, by an upper estimate. The library's largest, of `knots_cubic` with a fade,
is estimated at 4 060; of 39 nested functions the second one would have 60 000."""


@functools.lru_cache(maxsize=1_024)
def derivative(expression: sympy.Expr, order: int = 1) -> sympy.Expr:
    """The derivative in x away from jumps.

    At a breakpoint it is the derivative of the arm that is taken there.

    Raises:
        UnsupportedError: it grows too large, or its formula holds what is no number, as that of 0ˣ.
    """
    if order == 0:
        return saturating(expression)
    lower = derivative(expression, order - 1)
    try:
        found = slope(lower, _expression.x, most=LARGEST_DERIVATIVE)
    except OutOfReachError:
        trouble = "grows too large: nest fewer functions in"
    else:
        if not found.has(*NO_REAL_NUMBER):
            return found
        trouble = "has no finite formula: that of"
    shown = shortened(_expression.format_formula(expression), 80)
    raise UnsupportedError(f"the derivative of order {order} {trouble} {shown}")


class Part:
    """One order of a `Kernel`, compiled.

    Attributes:
        expression: what the text stands for.
        function: the text, of x, t and the parameters.
        span: from where to where an input is taken as it is.
        trouble: why the text cannot be used; empty where it can.
        choosing: whether a NaN in the input could be lost.
    """

    def __init__(self, expression: sympy.Expr, ranges: "Mapping[str, tuple[float, float]]") -> None:
        self.expression = expression
        self.function = torch_function(expression, tuple(ranges))
        found = find_reach(self.function, expression, ranges)
        self.span, self.trouble = (found.low, found.high), found.trouble
        self.choosing = _chooses(expression)


class Kernel:
    """The compiled functions of one family: g, and its derivatives in x by order.

    One per family, made once: it holds no parameter values, so that every candidate of a family
    shares it, and `torch.compile` finds plain functions of tensors in it. All orders are made at
    once: one made at its first use would be traced by Dynamo.
    """

    def __init__(self, expression: sympy.Expr, ranges: "Mapping[str, tuple[float, float]]") -> None:
        self._parts = [Part(expression, ranges)]
        for order in range(1, KEPT_ORDERS):
            try:
                part = Part(derivative(expression, order), ranges)
            except UnsupportedError as error:
                # g itself is no worse for it: training asks for no derivative of it.
                part = copy.copy(self._parts[0])
                part.trouble = str(error)
            self._parts.append(part)

    def part(self, order: int) -> Part:
        """One order; see `Part`."""
        return self._parts[order]

    @property
    def reach(self) -> tuple[float, ...]:
        """By order, the size up to which inputs of either sign are taken as they are."""
        spans = [self.part(order).span for order in range(KEPT_ORDERS)]
        return tuple(min(-low, high) for low, high in spans)

    def __call__(
        self, input: "torch.Tensor", t: "torch.Tensor", values: "torch.Tensor", order: int = 0
    ) -> "torch.Tensor":
        """The `order`-th derivative of g in x.

        float64 inside for every dtype: near a zero of g, or in a tail that is a difference,
        arithmetic in the input's own precision would lose digits that the result can show.
        At +inf and -inf it is the value at the largest finite number, at NaN it is NaN. Where a
        power of x in the text overflows float64 (never below 1e30), and inf/inf or 0·inf would be
        NaN, it is the value at a point before that.

        Args:
            input: any shape, floating-point.
            t: 0-d.
            values: the parameters, float64, in the family's order.
            order: 0 for g itself.

        Returns:
            Same shape and dtype as `input`.
        """
        import torch

        if order >= KEPT_ORDERS:
            raise UnsupportedError(
                f"derivatives of a pseudo-derivative are kept up to order {KEPT_ORDERS - 1}"
            )
        if input.device.type in WITHOUT_FLOAT64:
            raise UnsupportedError(
                f"g needs float64, which {input.device.type} does not have: float32 would lose "
                'digits of this shape, or exact=True asks for it. Use device "cpu"'
            )
        part = self.part(order)
        if part.trouble:
            raise FormulaError(part.trouble)
        largest = torch.finfo(input.dtype).max
        low, high = part.span
        wide = torch.clamp(input.double(), max(low, -largest), min(high, largest))
        result = part.function(wide, t, *values.unbind())
        if part.choosing:
            result = torch.where(torch.isnan(wide), wide, result)
        return rounded(torch.clamp(result, -largest, largest), input.dtype)


def rounded(wide: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """float64 to a dtype, rounded once.

    Torch converts to 16 bits by way of float32: to nearest twice, which is not to nearest. So the
    digits that no 16-bit number has are first rounded to odd, which the second rounding forgives.
    """
    import torch

    if dtype in (torch.bfloat16, torch.float16):
        bits = wide.view(torch.int64)
        low = bits & _LOW_BITS
        wide = ((bits | (low + _LOW_BITS)) & ~_LOW_BITS).view(torch.float64)
    return wide.to(dtype)


_LOW_BITS = (1 << 38) - 1
"""14 bits of a float64's 52 are kept: two more than float16 needs, and few enough that a bfloat16
below float32's normal numbers is still exact in float32."""


def _chooses(expression: sympy.Expr) -> bool:
    """Whether a NaN could be lost: an arm is chosen by comparing, or x is not in it."""
    return _expression.x not in expression.free_symbols or expression.has(
        sympy.Piecewise, sympy.Heaviside, sympy.sign
    )


WITHOUT_FLOAT64 = ("mps",)
"""Types of devices."""

KEPT_ORDERS = 3
"""g, g′ and g″: enough to differentiate a training step twice more."""


@functools.lru_cache(maxsize=1_024)
def kernel(family: "Family") -> Kernel:
    """The family's `Kernel`, made at the first call."""
    space: dict[str, Any] = dict(family.space)
    ranges = {name: (float(space[name].low), float(space[name].high)) for name in family.parameters}
    return Kernel(family.expression, ranges)


def check_progress(t: float) -> None:
    """Refuse a training progress that is no number in [0, 1]."""
    try:
        inside = 0.0 <= t <= 1.0
    except TypeError:  # text, None
        inside = False
    if not inside:
        raise InputError(f"t must be in [0, 1], got {t!r}")


def evaluate(
    candidate: "Candidate", input: "torch.Tensor", *, t: float = 0.0, order: int = 0
) -> "torch.Tensor":
    """Values of a candidate's g, or of its derivative of some order.

    Raises:
        InputError: the input is not floating-point, or t is outside [0, 1].
    """
    import torch

    if not isinstance(input, torch.Tensor) or not input.is_floating_point():
        kind = str(input.dtype) if isinstance(input, torch.Tensor) else type(input).__name__
        raise InputError(f"a floating-point tensor is needed, got {kind}")
    check_progress(t)
    device = input.device
    progress = torch.tensor(t, dtype=torch.float64, device=device)
    return kernel(candidate.family)(
        input, progress, parameter_values(candidate, device=device), order
    )


def parameter_values(candidate: "Candidate", *, device: Any = "cpu") -> "torch.Tensor":
    """A candidate's parameters in its family's order, float64, shape (parameters,).

    Raises:
        FormulaError: g is finite, but its text is not, and no limit stands for it.
    """
    import torch

    _check(candidate)
    return torch.tensor(list(candidate.parameters.values()), dtype=torch.float64, device=device)


@functools.lru_cache(maxsize=4_096)
def _check(candidate: "Candidate") -> None:
    """Refuse a candidate whose text would give NaN."""
    part = kernel(candidate.family).part(0)
    why = part.trouble or trouble_at(
        part.function, part.expression, candidate.parameters, part.span
    )
    if why:
        raise FormulaError(f"{candidate.name}: {why}")
