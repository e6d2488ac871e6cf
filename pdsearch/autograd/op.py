"""`pd_relu` and its three autograd functions.

They are `torch.autograd.Function`s rather than a `torch.library.custom_op`, for three reasons:
forward-mode AD of a custom op silently gives zero tangents; Dynamo traces a Function's formula, so
that Inductor fuses it with its neighbours, and treats a custom op as a wall; and its double
backward needs no second op. There are three because no single one is right everywhere:

* `_Eager`: plain tensors outside any transform. The fused kernels, the least bookkeeping.
* `_Transformed`: inside torch.func transforms, with forward-mode AD and for tensor subclasses. The
  formula; it has a `jvp`.
* `_Traced`: under torch.compile, outside transforms. The formula; no `jvp`, because Dynamo
  ignores it.
"""

import functools
import math
from typing import Any, cast

import torch
from torch.autograd import forward_ad

from pdsearch import kernels
from pdsearch.apart import apart
from pdsearch.autograd import eager_only
from pdsearch.autograd.slopes import Push, Slope
from pdsearch.codegen import check_progress
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate, fading
from pdsearch.float32_family import Formula, Traceable, formula

__all__ = ["InGraph", "Rule", "is_transformed", "pd_relu"]

# Not torch.relu: a function mode, `convert`'s own among them, would see that as another call.
_relu, _relu_ = torch.ops.aten.relu.default, torch.ops.aten.relu_.default


class _Traced(torch.autograd.Function):
    """`torch.relu` forward; backward `grad_output * g(input)` by the formula."""

    @staticmethod
    def forward(
        input: torch.Tensor, numbers: torch.Tensor, formula: Traceable, up: bool
    ) -> torch.Tensor:
        return _relu(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        input, numbers, ctx.formula, ctx.up = inputs
        ctx.save_for_backward(output if ctx.formula.of_output else input, numbers)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, numbers = ctx.saved_tensors
        product = grads[0] * ctx.formula(kept, numbers)
        if ctx.up:
            product = kernels.passing(product, grads[0], kept)
        return product, None, None, None


class _Transformed(torch.autograd.Function):
    """The same, differentiable again, and with forward-mode AD: `tangent * g(input)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: torch.Tensor, numbers: torch.Tensor, formula: Formula, up: bool
    ) -> torch.Tensor:
        return _relu(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.formula, ctx.up = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, numbers = ctx.saved_tensors
        product = grads[0] * Slope.apply(input, numbers, ctx.formula, 0)
        if ctx.up:
            product = kernels.passing(product, grads[0], input)
        return product, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        if ctx.up:
            raise UnsupportedError(
                'direction "up" chooses by the sign of grad_output, and forward-mode AD has none: '
                'use reverse mode, or direction "both"'
            )
        return cast(torch.Tensor, Push.apply(ctx.formula, 0, *ctx.saved_tensors, tangents[0]))


class _Eager(torch.autograd.Function):
    """The fused way: keeps what the plan says, and lets the plan scale."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, plan: kernels.Plan, progress: float) -> torch.Tensor:
        output = _relu(input)
        ctx.plan, ctx.progress = plan, progress
        if plan.keeps == "input":
            ctx.save_for_backward(input)
        elif plan.keeps == "output":
            ctx.save_for_backward(output)
        else:
            ctx.save_for_backward(plan.encode(input))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (kept,) = ctx.saved_tensors
        plan = ctx.plan
        if not torch.is_grad_enabled():
            return plan.scale(grads[0], kept, ctx.progress), None, None
        # create_graph=True: the gradient itself is going to be differentiated.
        if plan.keeps == "code":
            raise UnsupportedError(
                'save="uint8" keeps too little for double backward (create_graph=True): use '
                'save="input"'
            )
        slope = Slope.apply(kept, plan.numbers(ctx.progress), plan.formula, 0)
        product = grads[0] * slope
        if plan.up:
            product = kernels.passing(product, grads[0], kept)
        return product, None, None


class _InPlace(torch.autograd.Function):
    """The same, written over the input as `torch.relu_` does."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        plan: kernels.Plan,
        progress: float,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.plan, ctx.progress = plan, progress
        kept = plan.encode(input) if plan.keeps == "code" else before
        _relu_(input)
        ctx.mark_dirty(input)
        ctx.save_for_backward(input if kept is None else kept)
        return input

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_Eager.backward(ctx, *grads), None)


class Rule:
    """One candidate: what `pd_relu` needs at every call.

    Plans are made when a dtype and device first come by.
    """

    def __init__(self, candidate: Candidate, *, save: str, exact: bool) -> None:
        self.candidate, self.save, self.exact = candidate, save, exact
        self.up = candidate.direction == "up"
        self.formula = formula(candidate, exact)
        faded = fading(candidate.family)
        # From here on it has faded out: it is then ReLU with its own backward pass.
        self._end = math.inf if faded is None else faded.end_of(candidate)
        self._plans: dict[tuple[torch.dtype, torch.device], kernels.Plan] = {}

    def plan(self, input: torch.Tensor) -> kernels.Plan:
        """The plan for an input's dtype and device."""
        key = (input.dtype, input.device)
        found = self._plans.get(key)
        if found is None:
            found = kernels.plan(
                self.candidate,
                dtype=input.dtype,
                device=input.device,
                save=self.save,
                exact=self.exact,
            )
            self._plans[key] = found
        return found

    def __call__(
        self, input: torch.Tensor, progress: float, *, numbers: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The op on anything but what torch.compile traces; inside transforms with `numbers`.

        A module's own, which torch.func may have swapped or stacked; otherwise the candidate's.
        """
        if not is_transformed(input):
            return self.plain(input, progress)
        if (numbers is None and progress >= self._end) or _recorded_without_gradient():
            return _relu(input)
        plan = self.plan(input)
        numbers = plan.numbers(progress) if numbers is None else numbers
        return cast(torch.Tensor, _Transformed.apply(input, numbers, self.formula, self.up))

    def plain(self, input: torch.Tensor, progress: float) -> torch.Tensor:
        """The op on an input that `is_transformed` is false of."""
        if progress >= self._end or _recorded_without_gradient():
            return _relu(input)
        if not (input.requires_grad and torch.is_grad_enabled()):
            return _relu(input)
        return cast(torch.Tensor, _Eager.apply(input, self.plan(input), progress))

    def in_place(self, input: torch.Tensor, progress: float) -> torch.Tensor:
        """The op written over a plain input, outside transforms, as `torch.relu_` is."""
        if progress >= self._end or not (input.requires_grad and torch.is_grad_enabled()):
            return _relu_(input)
        plan = self.plan(input)
        # An argument, not a copy made inside: a second derivative finds its way through it.
        before = input.clone() if plan.keeps == "input" else None
        return cast(torch.Tensor, _InPlace.apply(input, plan, progress, before))


def _recorded_without_gradient() -> bool:
    """Whether an ONNX export records the call; `torch.jit.trace` of a gradient is refused."""
    if not (torch.jit.is_tracing() and torch.is_grad_enabled()):
        return False
    if torch.onnx.is_in_onnx_export():
        return True
    raise UnsupportedError(
        "torch.jit.trace records ReLU's own gradient, not a pseudo-derivative's: trace "
        "under torch.no_grad() for inference, or use torch.compile"
    )


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_transformed(input: torch.Tensor) -> bool:
    """Whether a torch.func transform, forward-mode AD or a tensor subclass is at work."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or type(input) not in _PLAIN
    )


def _uncompiled(input: torch.Tensor, numbers: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Where Dynamo traces through a transform it would inline the forward pass.

    What it then differentiates is ReLU itself (vmap, grad) or gives zero tangents (forward-mode
    AD), silently (torch 2.14). With fullgraph=True `eager_only.call` raises with its reason;
    otherwise the graph ends here, and this runs in eager mode, which is right.
    """
    return cast(torch.Tensor, _Transformed.apply(input, numbers, rule.formula, rule.up))


class InGraph:
    """One candidate as torch.compile and torch.export find it: an export is a plain relu.

    A formula shared by the family, and numbers that are tensors, so that another candidate of the
    family is no reason to compile again.
    """

    @apart()
    def __init__(self, candidate: Candidate, *, save: str, exact: bool) -> None:
        self.rule = Rule(candidate, save=save, exact=exact)
        one = self.rule.formula
        self.annealed, self.exact = candidate.annealed, exact
        # Of a dtype and device that every machine has: g depends on the sign of x alone, or not.
        plan = kernels.plan(
            candidate, dtype=torch.float32, device=torch.device("cpu"), save="auto", exact=exact
        )
        self.formula = one.traceable(of_output=plan.keeps == "output")
        self.narrow = one.numbers(0.0, wide=False)
        count = len(candidate.parameters)
        self.parameters = slice(-2 * count - 2, -count - 2)
        self.wide = one.numbers(0.0, wide=True)

    def in_float64(self, input: torch.Tensor) -> bool:
        """Whether the float64 text is used."""
        return self.exact or input.dtype == torch.float64 or self.formula.part is None

    def __call__(self, input: torch.Tensor, t: float, exact: bool) -> torch.Tensor:
        """The op of `pd_relu`."""
        wide = exact or self.in_float64(input)
        if self.annealed:
            given = self.wide[:-1] if wide else self.narrow[self.parameters]
            numbers = self.formula.numbers(t, given)
        else:
            numbers = self.wide if wide else self.narrow
        return self.apply(input, numbers.to(input.device))

    def apply(self, input: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The op with the numbers of a module."""
        if torch.compiler.is_exporting():
            return _relu(input)
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return cast(torch.Tensor, eager_only.call(_uncompiled, input, numbers, self.rule))
        return cast(torch.Tensor, _Traced.apply(input, numbers, self.formula, self.rule.up))


@functools.lru_cache(maxsize=256)
def rule(candidate: Candidate, save: str, exact: bool) -> Rule:
    """The rule of a candidate, made once: `pd_relu` and the forward control call it a batch."""
    return Rule(candidate, save=save, exact=exact)


def pd_relu(
    input: torch.Tensor,
    candidate: Candidate,
    *,
    t: float = 0.0,
    save: str = "auto",
    exact: bool = False,
) -> torch.Tensor:
    """ReLU whose backward pass multiplies by g instead of the step.

        y = max(x, 0),    ∂L/∂x := g(x, t) · ∂L/∂y

    With a candidate of direction "up" the gradient is 0 where x ≤ 0 and ∂L/∂y ≥ 0: below zero only
    gradients pass for which a descent step raises x. There is no forward-mode AD then.

    At x = +inf and -inf, g is its value at the largest finite number; at NaN it is NaN.

    Args:
        input: any shape, strides and floating-point dtype.
        candidate: the pseudo-derivative; its parameters get no gradient.
        t: training progress in [0, 1], for annealed families.
        save: what the backward pass keeps. "auto": nothing beyond what ReLU keeps where g depends
            on the sign of x alone, else the input. "input": the input. "uint8": one byte an
            element, with an error of g up to about 0.005 (`kernels.Plan.error` says how much), no
            double backward, only with the fused kernels; under torch.compile and torch.func it has
            no effect.
        exact: always evaluate the formula itself, in float64. Otherwise g may come from a table
            that is within 1e-5 of it (float32), or is its correctly rounded value (16-bit dtypes),
            and on a GPU within 2e-6 of it; elsewhere it is computed in float32, within
            2e-6·max(1, abs(g)).

    Returns:
        `torch.relu(input)`, bit for bit.

    Raises:
        InputError: a wrong dtype, `t`, `save` or candidate.
        UnsupportedError: `save="uint8"` without the fused kernels.
    """
    if not isinstance(candidate, Candidate):
        raise InputError(
            f"pd_relu needs a Candidate, got {type(candidate).__name__} (bind a family first)"
        )
    if not isinstance(input, torch.Tensor) or not input.is_floating_point():
        kind = str(input.dtype) if isinstance(input, torch.Tensor) else type(input).__name__
        raise InputError(f"pd_relu needs a floating-point tensor, got {kind}")
    check_progress(t)
    if torch.compiler.is_compiling():
        if not hasattr(candidate, "_traceable"):
            raise UnsupportedError(
                "torch.compile cannot make a candidate's kernel while it traces: use PDReLU, or "
                "call pd_relu with this candidate once outside what is compiled"
            )
        return candidate._traceable(input, t, exact)
    if not hasattr(candidate, "_traceable"):
        object.__setattr__(candidate, "_traceable", InGraph(candidate, save="auto", exact=False))
    return rule(candidate, save, exact)(input, float(t))
