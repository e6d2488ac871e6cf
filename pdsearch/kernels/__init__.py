"""The fast backward passes, and the choice between them and the formula.

A candidate's g is turned into a table once (`table.py`), and one compiled kernel (`fused.cpp`)
serves every table: the shape is data. Where a table cannot be good enough, or no kernel fits the
dtype or the device, the formula itself is evaluated.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pdsearch import codegen
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate, Fading, fading
from pdsearch.kernels import accuracy, build, pieces, rounded, table

__all__ = ["SAVE_MODES", "Plan", "available", "plan"]

SAVE_MODES = ("auto", "input", "uint8")

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TABLE_FROM = 1 << 12
"""Elements from which a float32 tensor takes the table. Below it, the formula gives the last digit,
far tails included, and costs microseconds; from it on, it would cost many times ReLU's own backward
pass: of a network with layers of 32 by 128 elements, half of the time of a training step. The
half-precision tables hold every input's correctly rounded value and serve all sizes."""


# grad_output, what was kept, the weight of a fade → grad_input
Scale = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def available() -> str | None:
    """None where the fused kernels can be used, else why not, in one line."""
    return build.load()


@dataclass(eq=False)
class Plan:
    """How the backward pass of one candidate runs for one dtype on one device.

    Args:
        candidate: the pseudo-derivative.
        keeps: what the forward pass keeps: "output" where g depends on the sign of x alone (it is
            what ReLU keeps), "input", or "code", one byte an element.
        dtype: of the input.
        device: of the input.
        exact: whether the formula was asked for.
    """

    candidate: Candidate
    keeps: str
    dtype: torch.dtype
    device: torch.device
    exact: bool
    _fused: Scale | None = field(default=None, init=False)
    _least: int = field(default=0, init=False)
    _ready: bool = field(default=False, init=False)
    _route: str = field(default="formula", init=False)
    _error: float = field(default=0.0, init=False)
    _why: str = field(default="", init=False)

    @functools.cached_property
    def fading(self) -> Fading | None:
        """How it fades into the step, where it does: then one table serves every t."""
        return fading(self.candidate.family)

    @functools.cached_property
    def shape(self) -> Candidate:
        """What the tables hold: the candidate, or what it is before it fades."""
        found = self.candidate if self.fading is None else self.fading.unfaded(self.candidate)
        # One shape, whatever the direction: it is shared.
        return Candidate(found.family, found.parameters) if self.up else found

    @functools.cached_property
    def up(self) -> bool:
        """Whether gradients that would push an inactive unit down are dropped."""
        return self.candidate.direction == "up"

    def weight(self, progress: float) -> float:
        """The weight of g against the step at a training progress; 1 where nothing fades."""
        return 1.0 if self.fading is None else self.fading.weight(self.candidate, progress)

    def t(self, progress: float) -> torch.Tensor:
        """0-d, float64."""
        return torch.tensor(progress, dtype=torch.float64, device=self.device)

    @functools.cached_property
    def kernel(self) -> codegen.Kernel:
        """The family's formula."""
        return codegen.kernel(self.candidate.family)

    @functools.cached_property
    def values(self) -> torch.Tensor:
        """The parameters, float64."""
        return codegen.parameter_values(self.candidate, device=self.device)

    @functools.cached_property
    def codes(self) -> table.Codes:
        """The table of save="uint8"."""
        return _codes(self.shape, self.up or self.fading is not None)

    @property
    def route(self) -> str:
        """`sides` (two numbers), `table`, `codes` or `formula`."""
        self._prepare()
        return self._route

    @property
    def why(self) -> str:
        """Why the formula is used; empty where it is not."""
        self._prepare()
        return self._why

    @property
    def error(self) -> float:
        """Bound on the absolute error of g beyond the rounding to the dtype.

        Proved for float32 tables and codes, float32 arithmetic included. 0 for two numbers and for
        16-bit tables; where g fades these round it before it is weighted, which is half a unit in
        the last place of g. Where the formula's text is evaluated, see `accuracy.measured_error`.
        """
        self._prepare()
        if self._route == "formula" or self._least > 0:
            measured = _measured(self.shape)
            return max(self._error, measured)
        return self._error

    def scale(
        self, grad_output: torch.Tensor, kept: torch.Tensor, progress: float = 0.0
    ) -> torch.Tensor:
        """`grad_output * g` from what was kept, by the direction's rule, at a training progress."""
        if not self._ready:
            self._prepare()
        # Batched gradients (is_grads_batched=True): only torch's own operators take them.
        batched = torch._C._functorch.peek_interpreter_stack() is not None
        if self._fused is not None and not batched and kept.numel() >= self._least:
            return self._fused(grad_output, kept, self.weight(progress))
        if self.keeps == "code":
            return self._decoded(grad_output, kept, self.weight(progress))
        product = grad_output * self._formula(kept, progress)
        return passing(product, grad_output, kept) if self.up else product

    def _formula(self, kept: torch.Tensor, progress: float) -> torch.Tensor:
        if self.fading is not None and self.weight(progress) == 1.0:
            values = codegen.parameter_values(self.shape, device=self.device)
            return codegen.kernel(self.shape.family)(kept, self.t(0.0), values)
        return self.kernel(kept, self.t(progress), self.values)

    def _decoded(
        self, grad_output: torch.Tensor, kept: torch.Tensor, weight: float
    ) -> torch.Tensor:
        slope = self.codes.values[kept.long()].to(grad_output.dtype)
        if self.fading is not None:
            slope = weight * slope + torch.where(kept >= 128, 1.0 - weight, 0.0)
        product = grad_output * slope
        if not self.up:
            return product
        dropped = (kept < 128) & (grad_output >= 0) & ~torch.isnan(slope)
        return product.masked_fill(dropped, 0.0)

    def encode(self, input: torch.Tensor) -> torch.Tensor:
        """The code of each element, uint8, same shape and strides."""
        return torch.ops.pdsearch.encode(input, self.codes.table)

    def _prepare(self) -> None:
        if self._ready:
            return
        self._why = self._reason() or ""
        if not self._why:
            self._choose(torch.ops.pdsearch)
        self._ready = True

    def _choose(self, ops: Any) -> None:
        """The kernel that serves this shape and dtype; none where no table is good enough."""
        sides, up = _sides(self.shape), self.up
        if self.keeps == "code":
            self._route, self._error, codes = "codes", self.codes.error, self.codes.values
            scale_coded = ops.scale_coded.default
            self._fused = lambda grad_output, kept, weight: scale_coded(
                grad_output, kept, codes, weight, up
            )
        elif sides is not None:
            self._route = "sides"
            largest = torch.finfo(self.dtype).max
            below, above = (min(max(side, -largest), largest) for side in sides)
            scale_sides = ops.scale_sides.default
            self._fused = lambda grad_output, kept, weight: scale_sides(
                grad_output, kept, weight * below, 1.0 + weight * (above - 1.0), up
            )
        elif self.dtype == torch.float32:
            found = _segments(self.shape)
            if found is None:
                self._why = f"no table is provably within {table.LIMIT:g} of this shape"
                return
            self._route, self._error, self._least = "table", found.proof.error, TABLE_FROM
            scale, values = ops.scale.default, found.values
            self._fused = lambda grad_output, kept, weight: scale(
                grad_output, kept, values, weight, up
            )
        else:
            self._route = "table"
            every = _every(self.shape, self.dtype)
            scale = ops.scale.default
            self._fused = lambda grad_output, kept, weight: scale(
                grad_output, kept, every, weight, up
            )
            # Without AVX-512 nothing is faster than looking every value up.
            if self.dtype == torch.bfloat16 and ops.avx512():
                bent = _rounded(self.shape)
                if bent is not None:
                    scale_rounded, coefficients = ops.scale_rounded.default, bent.values
                    self._fused = lambda grad_output, kept, weight: scale_rounded(
                        grad_output, kept, coefficients, every, weight, up
                    )

    def _reason(self) -> str | None:
        if self.exact:
            return "exact=True"
        if self.shape.annealed:
            return "g changes with t otherwise than by fading into the step"
        return _unfit(self.dtype, self.device)


def passing(product: torch.Tensor, grad_output: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The product by the rule of direction "up": 0 where x <= 0 and `grad_output >= 0`.

    Args:
        product: grad_output times g.
        grad_output: same shape.
        kept: x, or ReLU's output, which is 0 where x <= 0. NaN in it or in `grad_output` stays.
    """
    return product.masked_fill((kept <= 0) & (grad_output >= 0), 0.0)


def _unfit(dtype: torch.dtype, device: torch.device) -> str | None:
    if dtype not in FUSED_DTYPES:
        return f"no fused kernel for {dtype}"
    if device.type != "cpu":
        return f"no fused kernel for {device.type}"
    return available()


def plan(
    candidate: Candidate,
    *,
    dtype: torch.dtype,
    device: torch.device,
    save: str,
    exact: bool,
) -> Plan:
    """Choose what to keep and how to compute.

    Raises:
        InputError: an unknown `save`, or "uint8" together with `exact`.
        UnsupportedError: "uint8" where there is no fused kernel.
    """
    if save not in SAVE_MODES:
        raise InputError(f"save must be one of {', '.join(SAVE_MODES)}, got {save!r}")
    found = Plan(candidate, "input", dtype, device, exact)
    shape = found.shape
    if save != "input" and not shape.annealed and _sides(shape) is not None:
        found.keeps = "output"
    elif save == "uint8":
        if exact:
            raise InputError('save="uint8" keeps rounded values of g: not with exact=True')
        if reason := found._reason():
            raise UnsupportedError(f'save="uint8" needs the fused kernels: {reason}')
        if _segments(shape) is None:
            raise UnsupportedError(
                f'save="uint8": no table is provably within {table.LIMIT:g} of this shape'
            )
        found.keeps = "code"
    return found


@functools.lru_cache(maxsize=1_024)
def _sides(candidate: Candidate) -> tuple[float, float] | None:
    return pieces.sides(candidate, 0.0)


@functools.lru_cache(maxsize=256)
def _segments(candidate: Candidate) -> table.Segments | None:
    return table.segments(candidate, 0.0)


@functools.lru_cache(maxsize=256)
def _measured(candidate: Candidate) -> float:
    return accuracy.measured_error(candidate, 0.0)


@functools.lru_cache(maxsize=128)  # 128 KiB each
def _every(candidate: Candidate, dtype: torch.dtype) -> torch.Tensor:
    return table.every_value(candidate, 0.0, dtype)


@functools.lru_cache(maxsize=256)
def _rounded(candidate: Candidate) -> rounded.Rounded | None:
    every = _every(candidate, torch.bfloat16)
    return rounded.rounded(every, pieces.Values(candidate, 0.0))


@functools.lru_cache(maxsize=256)
def _codes(candidate: Candidate, signed: bool) -> table.Codes:
    found = _segments(candidate)
    assert found is not None  # `plan` looked
    return table.codes(found, signed=signed)
