"""Criteria that are measured, and labelled as such: bit comparisons and timings."""

import functools
import math
import statistics
import time
from typing import TYPE_CHECKING

from pdsearch.criteria.result import MEASURED, Outcome

if TYPE_CHECKING:
    import torch

    from pdsearch.criteria.records import Demands
    from pdsearch.family import Candidate

_CHEAP_ELEMENTS = 2**18  # 1 MiB in float32: above it the CPU pays page faults on every allocation
_CHEAP_ROUNDS = 15
_CHEAP_SECONDS = 1.0  # beyond it three rounds suffice: the ratio is about a hundred


def forward_is_relu(candidate: "Candidate", demands: "Demands") -> Outcome:
    """Compare the op with torch.relu bit by bit: all 16-bit values, a battery of float32/64."""
    import torch

    from pdsearch.autograd import pd_relu

    del demands
    compared = 0
    for values, theirs in _battery():
        ours = _bits(pd_relu(values, candidate).detach())
        if not torch.equal(ours, theirs):
            differs = ours != theirs
            at = float(values.detach()[differs][0])
            return Outcome(
                MEASURED,
                value=float(differs.sum()),
                witness={"x": at, "dtype": str(values.dtype).removeprefix("torch.")},
                detail="value: how many outputs of a dtype differ",
            )
        compared += values.numel()
    return Outcome(MEASURED, passed=True, value=0.0, detail=f"{compared:,} values, no bit differs")


def _bits(values: "torch.Tensor") -> "torch.Tensor":
    import torch

    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.view(integer)


@functools.cache
def _battery() -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Inputs that require a gradient, as in training, with the bits of relu."""
    import torch

    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32, device="cpu").to(torch.int16)
    result = [patterns.view(torch.float16), patterns.view(torch.bfloat16)]
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        limits = torch.finfo(dtype)
        special = [
            0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, limits.max, limits.min,
            limits.tiny, -limits.tiny, limits.smallest_normal / 2, -limits.smallest_normal / 2,
        ]  # fmt: skip
        normal = torch.randn(4096, generator=generator, dtype=dtype, device="cpu")
        spread = normal * torch.exp(
            8 * torch.randn(4096, generator=generator, dtype=dtype, device="cpu")
        )
        result.append(torch.cat([torch.tensor(special, dtype=dtype, device="cpu"), normal, spread]))
    return [(values.clone().requires_grad_(), _bits(torch.relu(values))) for values in result]


def alive_in_half(candidate: "Candidate", demands: "Demands") -> Outcome:
    """The most negative x at which g is non-zero, the nearer to 0 of float16 and bfloat16."""
    import torch

    patterns = torch.arange(-(2**15), 0, dtype=torch.int32, device="cpu").to(torch.int16)
    reach = []
    for dtype in (torch.float16, torch.bfloat16):
        values = patterns.view(dtype)
        values = values[torch.isfinite(values) & (values < 0)]
        slope = candidate(values)
        alive = values[(slope != 0) & torch.isfinite(slope)]
        reach.append(float(alive.min()) if alive.numel() else None)
    shown = ", ".join(
        f"{'zero throughout' if at is None else f'non-zero from {at:g}'} in {kind}"
        for at, kind in zip(reach, ("float16", "bfloat16"), strict=True)
    )
    known = [at for at in reach if at is not None]
    value = max(known) if len(known) == len(reach) else None
    passed = value is not None and value <= demands.number("alive_in_half")
    return Outcome(MEASURED, passed=passed, value=value, detail=shown)


def cheap(candidate: "Candidate", demands: "Demands") -> Outcome:
    """Time one backward pass of the op against ReLU's: medians of interleaved rounds."""
    import torch

    from pdsearch.autograd import pd_relu

    generator = torch.Generator().manual_seed(0)
    given = torch.randn(_CHEAP_ELEMENTS, generator=generator, device="cpu")
    upstream = torch.randn(_CHEAP_ELEMENTS, generator=generator, device="cpu")

    def once(ours: bool) -> float:
        leaf = given.clone().requires_grad_()
        output = pd_relu(leaf, candidate) if ours else torch.relu(leaf)
        begun = time.perf_counter()
        torch.autograd.grad(output, leaf, upstream)
        return time.perf_counter() - begun

    for _ in range(3):
        once(True), once(False)
    rounds: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while len(rounds) < (_CHEAP_ROUNDS if time.perf_counter() < begun + _CHEAP_SECONDS else 3):
        rounds.append((once(True), once(False)))
    ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = ours / theirs
    return Outcome(
        MEASURED, passed=ratio <= demands.number("cheap"), value=ratio,
        detail=f"{ours * 1e6:.0f} us against {theirs * 1e6:.0f} us for ReLU, float32, "
        f"{_CHEAP_ELEMENTS:,} elements on the CPU, {len(rounds)} rounds",
    )  # fmt: skip
