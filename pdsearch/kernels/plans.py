"""How the backward pass of a candidate runs: what is kept, and which kernel multiplies by g."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pdsearch.apart import apart
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate, Fading, fading
from pdsearch.float32_family import Formula, formula
from pdsearch.float32_source import float32_text
from pdsearch.kernels import build, gpu
from pdsearch.kernels.accuracy import measured_error
from pdsearch.kernels.certify import LIMIT
from pdsearch.kernels.chords import chords
from pdsearch.kernels.fit import FINE_LIMIT
from pdsearch.kernels.gpu import Scale
from pdsearch.kernels.operators import by_operators
from pdsearch.kernels.pieces import sides
from pdsearch.kernels.rounded import rounded
from pdsearch.kernels.table import Codes, codes, every_value, segments

__all__ = ["TABLE_FROM", "Plan", "check_save", "passing", "plan"]

SAVE_MODES = ("auto", "input", "uint8")

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TABLE_FROM = 1 << 12
"""Smallest number of elements for which a float32 tensor uses the table. Below it, the formula
costs microseconds and is exact to the last digit, far tails included. Above it, the formula would
cost many times ReLU's own backward pass: half of a training step in a network with layers of 32 by
128 elements. The 16-bit tables hold every input's correctly rounded value and serve all sizes, and
so does the GPU kernel: there, launching the formula's operators one by one takes the time."""

NO_TABLE = "no table is provably within {limit:g} of this shape"


@dataclass(frozen=True, eq=False)
class _Route:
    """The kernel that a plan uses.

    Attributes:
        name: `sides`, `table`, `codes`, `float32` or `formula`.
        scale: the kernel; None for the formula.
        error: bound on the absolute error of g beyond the rounding to the dtype.
        least: elements from which the kernel is used.
        why: why no compiled kernel is used.
    """

    name: str
    scale: Scale | None = None
    error: float = 0.0
    least: int = 0
    why: str = ""


@dataclass(eq=False)
class Plan:
    """How the backward pass of one candidate runs for one dtype on one device.

    Args:
        candidate: the pseudo-derivative.
        keeps: what the forward pass keeps: "output" (as ReLU does) where g depends on the sign of
            x alone, "input", or "code", one byte an element.
        dtype: of the input.
        device: of the input.
        exact: whether the formula was requested.
    """

    candidate: Candidate
    keeps: str
    dtype: torch.dtype
    device: torch.device
    exact: bool

    @functools.cached_property
    def fading(self) -> Fading | None:
        """How g fades into the step, if it does: one table then serves every t."""
        return fading(self.candidate.family)

    @functools.cached_property
    def shape(self) -> Candidate:
        """What the tables hold: the candidate before it fades, in either direction."""
        found = self.candidate if self.fading is None else self.fading.unfaded(self.candidate)
        return Candidate(found.family, found.parameters) if self.up else found

    @functools.cached_property
    def up(self) -> bool:
        """Whether gradients that would push an inactive unit down are dropped."""
        return self.candidate.direction == "up"

    def weight(self, progress: float) -> float:
        """Return the weight of g against the step at a training progress; 1 if nothing fades."""
        return 1.0 if self.fading is None else self.fading.weight(self.candidate, progress)

    @functools.cached_property
    def formula(self) -> Formula:
        """The formula, in float32 where that keeps the digits."""
        return formula(self.candidate, self.exact)

    def numbers(self, progress: float) -> torch.Tensor:
        """Return what the formula needs besides x at a training progress."""
        return self._numbers(self.formula, progress)

    def _numbers(self, of: Formula, progress: float) -> torch.Tensor:
        return of.numbers(progress, wide=of.in_float64(self.dtype)).to(self.device)

    @functools.cached_property
    @apart()
    def codes(self) -> Codes:
        """The table of save="uint8"."""
        return codes(self.shape, signed=self.up or self.fading is not None, gpu=self.on_gpu)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU that CUDA or ROCm runs: torch calls both "cuda"."""
        return self.device.type == "cuda"

    @property
    def route(self) -> str:
        """Return the name of the way to g.

        `sides` (two numbers), `table` and `codes` are compiled kernels, on a GPU those in Triton.
        `float32` and `formula` are torch's own operators: the text of the candidate in float32, and
        the family's, in float32 or float64.
        """
        return self._route.name

    @property
    def why(self) -> str:
        """Why no compiled kernel is used; empty where one is."""
        return self._route.why

    @property
    def error(self) -> float:
        """Bound on the absolute error of g beyond the rounding to the dtype.

        Proved for codes and for float32 tables, which GPUs use for every dtype, float32 arithmetic
        included. 0 for two numbers and for 16-bit tables; while g fades, these are rounded before
        they are weighted, which adds half a unit in the last place of g. For texts in float32, the
        bound that a comparison with float64 found to hold; in float64 see
        `accuracy.measured_error`.
        """
        route = self._route
        if route.scale is not None and route.least == 0:
            return route.error
        narrow = self.formula.error(self.dtype)
        return max(route.error, measured_error(self.shape) if narrow is None else narrow)

    def scale(
        self, grad_output: torch.Tensor, kept: torch.Tensor, progress: float = 0.0
    ) -> torch.Tensor:
        """Return `grad_output * g`, by the direction's rule, at a training progress."""
        route = self._route
        # Only torch's own operators take batched gradients (is_grads_batched=True).
        batched = torch._C._functorch.peek_interpreter_stack() is not None
        if route.scale is not None and not batched and kept.numel() >= route.least:
            return route.scale(grad_output, kept, self.weight(progress))
        if self.keeps == "code":
            return self._decoded(grad_output, kept, self.weight(progress))
        product = grad_output * self._formula(kept, progress)
        return passing(product, grad_output, kept) if self.up else product

    def _formula(self, kept: torch.Tensor, progress: float) -> torch.Tensor:
        faded = self.fading is not None and self.weight(progress) < 1.0
        one = self.formula if faded else formula(self.shape, self.exact)
        return one(kept, self._numbers(one, progress))

    def _decoded(
        self, grad_output: torch.Tensor, kept: torch.Tensor, weight: float
    ) -> torch.Tensor:
        slope = self.codes.values.to(kept.device)[kept.long()].to(grad_output.dtype)
        if self.fading is not None:
            slope = weight * slope + torch.where(kept >= 128, 1.0 - weight, 0.0)
        product = grad_output * slope
        if not self.up:
            return product
        dropped = (kept < 128) & (grad_output >= 0) & ~torch.isnan(slope)
        return product.masked_fill(dropped, 0.0)

    def encode(self, input: torch.Tensor) -> torch.Tensor:
        """Return the code of each element, uint8, same shape and strides."""
        return self._encode(input)

    @functools.cached_property
    @apart()
    def _encode(self) -> Callable[[torch.Tensor], torch.Tensor]:
        table = self.codes.table
        if self.on_gpu:
            return gpu.encode(table)
        return lambda input: torch.ops.pdsearch.encode(input, table)

    def unfit(self) -> str | None:
        """Return why no kernel can serve the candidate; None if one may."""
        if self.exact:
            return "exact=True"
        if self.shape.annealed:
            return "g changes with t in another way than by fading into the step"
        if self.dtype not in FUSED_DTYPES:
            return f"no fused kernel for {self.dtype}"
        if self.on_gpu:
            return gpu.load(self.device)
        if self.device.type != "cpu":
            return f"no fused kernel for {self.device.type}"
        return build.load()

    @functools.cached_property
    @apart()
    def _route(self) -> _Route:
        if why := self.unfit():
            return self._without_kernel(why)
        if self.on_gpu:
            return self._gpu_route()
        ops, shape, up = torch.ops.pdsearch, self.shape, self.up
        if self.keeps == "code":
            coded = _with_tables(ops.scale_coded.default, self.codes.values, up=up)
            return _Route("codes", coded, self.codes.error)
        if (values := sides(shape)) is not None:
            return _Route("sides", self._sides(values))
        if self.dtype == torch.float32:
            # Polynomials whose coefficients do not stay in registers are slower than look-ups.
            found = segments(shape) if ops.level() == "avx512" else None
            if (found is None or found.slow) and (lines := chords(shape)):
                scale = _with_tables(ops.scale_chords.default, lines.values, up=up)
                return _Route("table", scale, lines.error, TABLE_FROM)
            found = segments(shape)
            if found is None:
                return self._without_kernel(NO_TABLE.format(limit=LIMIT))
            scale = _with_tables(ops.scale.default, found.values, up=up)
            return _Route("table", scale, found.proof.error, TABLE_FROM)
        every = every_value(shape, self.dtype)
        if self.dtype == torch.bfloat16 and not ops.looks_up() and (bent := rounded(shape)):
            return _Route(
                "table", _with_tables(ops.scale_rounded.default, bent.values, every, up=up)
            )
        return _Route("table", _with_tables(ops.scale.default, every, up=up))

    def _gpu_route(self) -> _Route:
        shape, up = self.shape, self.up
        if self.keeps == "code":
            return _Route("codes", gpu.by_codes(self.codes.values, up=up), self.codes.error)
        if (values := sides(shape)) is not None:
            return _Route("sides", gpu.by_sides(*values, self.dtype, up=up))
        found = segments(shape, gpu=True)
        if found is None:
            return self._without_kernel(NO_TABLE.format(limit=FINE_LIMIT))
        return _Route("table", gpu.by_table(found.values, up=up), found.proof.error)

    def _without_kernel(self, why: str) -> _Route:
        if self.exact or self.dtype not in FUSED_DTYPES:
            return _Route("formula", why=why)
        text = None if self.shape.annealed else float32_text(self.shape)
        if text is not None:
            scale = by_operators(text.function, up=self.up)
            return _Route("float32", scale, text.error, why=why)
        if self.formula.in_float64(self.dtype):
            why += ", and no float32 text is known to keep its digits"
        return _Route("formula", why=why)

    def _sides(self, values: tuple[float, float]) -> Scale:
        largest = torch.finfo(self.dtype).max
        below, above = (min(max(value, -largest), largest) for value in values)
        op, up = torch.ops.pdsearch.scale_sides.default, self.up
        return lambda grad_output, kept, weight: op(
            grad_output, kept, weight * below, 1.0 + weight * (above - 1.0), up
        )


def _with_tables(op: Any, *tables: torch.Tensor, up: bool) -> Scale:
    return lambda grad_output, kept, weight: op(grad_output, kept, *tables, weight, up)


def passing(product: torch.Tensor, grad_output: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the product by the rule of direction "up": 0 where x <= 0 and `grad_output >= 0`.

    Args:
        product: grad_output times g.
        grad_output: same shape.
        kept: x, or ReLU's output, which is 0 where x <= 0. A NaN in it or in `grad_output` stays.
    """
    return product.masked_fill((kept <= 0) & (grad_output >= 0), 0.0)


def check_save(save: str, *, exact: bool) -> None:
    """Refuse an unknown `save`, and "uint8" together with `exact`."""
    if save not in SAVE_MODES:
        raise InputError(f"save must be one of {', '.join(SAVE_MODES)}, got {save!r}")
    if save == "uint8" and exact:
        raise InputError('save="uint8" keeps rounded values of g: not with exact=True')


@apart()
def plan(
    candidate: Candidate,
    *,
    dtype: torch.dtype,
    device: torch.device,
    save: str,
    exact: bool,
) -> Plan:
    """Choose what the forward pass keeps.

    Raises:
        InputError: an unknown `save`, or "uint8" together with `exact`.
        UnsupportedError: "uint8" where no fused kernel serves the candidate.
    """
    check_save(save, exact=exact)
    found = Plan(candidate, "input", dtype, device, exact)
    shape = found.shape
    if save != "input" and not shape.annealed and sides(shape) is not None:
        found.keeps = "output"
    elif save == "uint8":
        if reason := found.unfit():
            raise UnsupportedError(f'save="uint8" needs the fused kernels: {reason}')
        if segments(shape, gpu=found.on_gpu) is None:
            limit = FINE_LIMIT if found.on_gpu else LIMIT
            raise UnsupportedError(f'save="uint8": {NO_TABLE.format(limit=limit)}')
        found.keeps = "code"
    return found
