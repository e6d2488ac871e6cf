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
from pdsearch.family import Candidate
from pdsearch.kernels import accuracy, build, pieces, rounded, table

__all__ = ["SAVE_MODES", "Plan", "available", "plan"]

SAVE_MODES = ("auto", "input", "uint8")

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TABLE_FROM = 1 << 15
"""Elements from which a float32 tensor takes the table. Below it, the formula costs microseconds
and gives the last digit, far tails included; from it on, it would cost many times ReLU's own
backward pass. The half-precision tables hold every input's correctly rounded value and serve all
sizes."""


Scale = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def available() -> str | None:
    """None where the fused kernels can be used, else why not, in one line."""
    return build.load()


@dataclass(eq=False)
class Plan:
    """How the backward pass of one candidate runs for one dtype on one device.

    Args:
        candidate: the pseudo-derivative.
        progress: its t.
        keeps: what the forward pass keeps: "output" where g depends on the sign of x alone (it is
            what ReLU keeps), "input", or "code", one byte an element.
        dtype: of the input.
        device: of the input.
        exact: whether the formula was asked for.
    """

    candidate: Candidate
    progress: float
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
    def kernel(self) -> codegen.Kernel:
        """The family's formula."""
        return codegen.kernel(self.candidate.family)

    @functools.cached_property
    def t(self) -> torch.Tensor:
        """0-d, float64."""
        return torch.tensor(self.progress, dtype=torch.float64, device=self.device)

    @functools.cached_property
    def values(self) -> torch.Tensor:
        """The parameters, float64."""
        return codegen.parameter_values(self.candidate, device=self.device)

    @functools.cached_property
    def codes(self) -> table.Codes:
        """The table of save="uint8"."""
        return _codes(self.candidate, self.progress)

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
        16-bit tables. Where the formula's text is evaluated, see `accuracy.measured_error`.
        """
        self._prepare()
        if self._route == "formula" or self._least > 0:
            measured = _measured(self.candidate, self.progress)
            return max(self._error, measured)
        return self._error

    def scale(self, grad_output: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """`grad_output * g` from what was kept."""
        if not self._ready:
            self._prepare()
        if torch._C._functorch.peek_interpreter_stack() is not None:
            # Batched gradients (is_grads_batched=True): only torch's own operators take them.
            if self.keeps == "code":
                return grad_output * self.codes.values[kept.long()].to(grad_output.dtype)
            return grad_output * self.kernel(kept, self.t, self.values)
        if self._fused is not None and kept.numel() >= self._least:
            return self._fused(grad_output, kept)
        return grad_output * self.kernel(kept, self.t, self.values)

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
        sides = _sides(self.candidate, self.progress)
        if self.keeps == "code":
            self._route, self._error, codes = "codes", self.codes.error, self.codes.values
            scale_coded = ops.scale_coded.default
            self._fused = lambda grad_output, kept: scale_coded(grad_output, kept, codes)
        elif sides is not None:
            self._route = "sides"
            largest = torch.finfo(self.dtype).max
            sides = (
                min(max(sides[0], -largest), largest),
                min(max(sides[1], -largest), largest),
            )
            scale_sides = ops.scale_sides.default
            self._fused = lambda grad_output, kept: scale_sides(grad_output, kept, *sides)
        elif self.dtype == torch.float32:
            found = _segments(self.candidate, self.progress)
            if found is None:
                self._why = f"no table is provably within {table.LIMIT:g} of this shape"
                return
            self._route, self._error, self._least = "table", found.proof.error, TABLE_FROM
            scale, values = ops.scale.default, found.values
            self._fused = lambda grad_output, kept: scale(grad_output, kept, values)
        else:
            self._route = "table"
            every = _every(self.candidate, self.progress, self.dtype)
            scale = ops.scale.default
            self._fused = lambda grad_output, kept: scale(grad_output, kept, every)
            # Without AVX-512 nothing is faster than looking every value up.
            if self.dtype == torch.bfloat16 and ops.avx512():
                bent = _rounded(self.candidate, self.progress)
                if bent is not None:
                    scale_rounded, coefficients = ops.scale_rounded.default, bent.values
                    self._fused = lambda grad_output, kept: scale_rounded(
                        grad_output, kept, coefficients, every
                    )

    def _reason(self) -> str | None:
        if self.exact:
            return "exact=True"
        return _unfit(self.dtype, self.device)


def _unfit(dtype: torch.dtype, device: torch.device) -> str | None:
    if dtype not in FUSED_DTYPES:
        return f"no fused kernel for {dtype}"
    if device.type != "cpu":
        return f"no fused kernel for {device.type}"
    return available()


def plan(
    candidate: Candidate,
    *,
    progress: float,
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
    progress = progress if candidate.annealed else 0.0
    keeps = "input"
    if save != "input" and _sides(candidate, progress) is not None:
        keeps = "output"
    elif save == "uint8":
        if exact:
            raise InputError('save="uint8" keeps rounded values of g: not with exact=True')
        if reason := _unfit(dtype, device):
            raise UnsupportedError(f'save="uint8" needs the fused kernels: {reason}')
        if _segments(candidate, progress) is None:
            raise UnsupportedError(
                f'save="uint8": no table is provably within {table.LIMIT:g} of this shape'
            )
        keeps = "code"
    return Plan(candidate, progress, keeps, dtype, device, exact)


@functools.lru_cache(maxsize=1_024)
def _sides(candidate: Candidate, progress: float) -> tuple[float, float] | None:
    return pieces.sides(candidate, progress)


@functools.lru_cache(maxsize=256)
def _segments(candidate: Candidate, progress: float) -> table.Segments | None:
    return table.segments(candidate, progress)


@functools.lru_cache(maxsize=256)
def _measured(candidate: Candidate, progress: float) -> float:
    return accuracy.measured_error(candidate, progress)


@functools.lru_cache(maxsize=128)  # 128 KiB each
def _every(candidate: Candidate, progress: float, dtype: torch.dtype) -> torch.Tensor:
    return table.every_value(candidate, progress, dtype)


@functools.lru_cache(maxsize=256)
def _rounded(candidate: Candidate, progress: float) -> rounded.Rounded | None:
    every = _every(candidate, progress, torch.bfloat16)
    return rounded.rounded(every, pieces.Values(candidate, progress))


@functools.lru_cache(maxsize=256)
def _codes(candidate: Candidate, progress: float) -> table.Codes:
    found = _segments(candidate, progress)
    assert found is not None  # `plan` looked
    return table.codes(found)
