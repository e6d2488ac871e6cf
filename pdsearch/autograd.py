"""ReLU with a pseudo-derivative: the op, the module, and the conversion of whole models.

The forward pass is `torch.relu` itself. Only the backward pass differs: `grad_input =
grad_output * g(input)`. Its derivative with respect to the input (double backward) is symbolic.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from pdsearch import codegen
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate

__all__ = ["PDReLU", "convert", "forward_control", "pd_relu", "relu_modules", "set_progress"]


class _Scale(torch.autograd.Function):
    """`grad_output * g⁽ᵒʳᵈᵉʳ⁾(input)`, differentiable in both."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_output: torch.Tensor,
        input: torch.Tensor,
        t: torch.Tensor,
        values: torch.Tensor,
        kernel: codegen.Kernel,
        order: int,
    ) -> torch.Tensor:
        return grad_output * kernel(input, t, values, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.kernel, ctx.order = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_output, input, t, values = ctx.saved_tensors
        (incoming,) = grads
        to_grad_output = to_input = None
        if ctx.needs_input_grad[0]:
            to_grad_output = _Scale.apply(incoming, input, t, values, ctx.kernel, ctx.order)
        if ctx.needs_input_grad[1]:
            to_input = _Scale.apply(
                incoming * grad_output, input, t, values, ctx.kernel, ctx.order + 1
            )
        return to_grad_output, to_input, None, None, None, None


class _PseudoDerivativeReLU(torch.autograd.Function):
    """`torch.relu` forward; backward `grad_output * g(input)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: torch.Tensor, t: torch.Tensor, values: torch.Tensor, kernel: codegen.Kernel
    ) -> torch.Tensor:
        return torch.relu(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.kernel = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, t, values = ctx.saved_tensors
        return _Scale.apply(grads[0], input, t, values, ctx.kernel, 0), None, None, None


def pd_relu(
    input: torch.Tensor,
    candidate: Candidate,
    *,
    t: float | torch.Tensor = 0.0,
    save: str = "auto",
    exact: bool = False,
) -> torch.Tensor:
    r"""ReLU whose backward pass multiplies by g instead of the step.

    .. math:: y = \max(x, 0), \qquad
              \frac{\partial L}{\partial x} := g(x, t) \, \frac{\partial L}{\partial y}

    Args:
        input: any shape, strides and floating-point dtype.
        candidate: the pseudo-derivative; its parameters get no gradient.
        t: training progress in [0, 1], for annealed families.
        save: what the backward pass keeps. "auto" and "input": the input.
        exact: always evaluate the formula itself.

    Returns:
        `torch.relu(input)`, bit for bit.

    Raises:
        InputError: a wrong dtype, `t`, `save` or candidate.
    """
    if not isinstance(candidate, Candidate):
        raise InputError(
            f"pd_relu needs a Candidate, got {type(candidate).__name__} (bind a family first)"
        )
    if not isinstance(input, torch.Tensor) or not input.is_floating_point():
        kind = str(input.dtype) if isinstance(input, torch.Tensor) else type(input).__name__
        raise InputError(f"pd_relu needs a floating-point tensor, got {kind}")
    _check_save(save)
    if not isinstance(t, torch.Tensor):
        _check_progress(t)
        t = torch.tensor(t, dtype=torch.float64, device=input.device)
    values = codegen.parameter_values(candidate, device=input.device)
    kernel = codegen.kernel(candidate.family)
    return cast(torch.Tensor, _PseudoDerivativeReLU.apply(input, t, values, kernel))


SAVE_MODES = ("auto", "input")


def _check_save(save: str) -> None:
    if save not in SAVE_MODES:
        raise InputError(f"save must be one of {', '.join(SAVE_MODES)}, got {save!r}")


def _check_progress(t: float) -> None:
    if not 0.0 <= t <= 1.0:
        raise InputError(f"t must be in [0, 1], got {t!r}")


class PDReLU(nn.Module):
    """`pd_relu` as a module; it has no parameters and nothing in its `state_dict`.

    Args:
        candidate: the pseudo-derivative.
        save: as for `pd_relu`.
        exact: as for `pd_relu`.
    """

    t: torch.Tensor
    values: torch.Tensor

    def __init__(self, candidate: Candidate, *, save: str = "auto", exact: bool = False) -> None:
        super().__init__()
        if not isinstance(candidate, Candidate):
            raise InputError(
                f"PDReLU needs a Candidate, got {type(candidate).__name__} (bind a family first)"
            )
        _check_save(save)
        self.candidate, self.save, self.exact = candidate, save, exact
        self.kernel = codegen.kernel(candidate.family)
        # Buffers, not numbers: torch.compile would compile anew for every new number.
        self.register_buffer("values", codegen.parameter_values(candidate), persistent=False)
        self.register_buffer("t", torch.zeros((), dtype=torch.float64), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`torch.relu(input)`, with g in the backward pass."""
        if not input.is_floating_point():
            raise InputError(f"PDReLU needs a floating-point tensor, got {input.dtype}")
        return cast(
            torch.Tensor,
            _PseudoDerivativeReLU.apply(input, self.t, self.values, self.kernel),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the kernel, whose functions were compiled from text and cannot be pickled."""
        return {k: v for k, v in self.__dict__.items() if k != "kernel"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, with the kernel of the candidate's family."""
        super().__setstate__(state)
        self.kernel = codegen.kernel(self.candidate.family)

    def _apply(self, fn: Any, recurse: bool = True) -> "PDReLU":
        """Move with the model, but keep float64: `model.half()` must not round the parameters."""
        super()._apply(fn, recurse)
        self.values = codegen.parameter_values(self.candidate, device=self.values.device)
        self.t = self.t.double()
        return self

    def extra_repr(self) -> str:
        """The candidate and its formula."""
        return f"{self.candidate.name}: {self.candidate.formula}"


def set_progress(model: nn.Module, t: float) -> None:
    """Set the training progress of every `PDReLU` in a model.

    Args:
        model: any module.
        t: in [0, 1]; annealed families become the step at t = 1.

    Raises:
        InputError: t is outside of [0, 1].
    """
    _check_progress(t)
    for module in model.modules():
        if isinstance(module, PDReLU):
            module.t.fill_(t)


def relu_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every ReLU and PDReLU of a model with its qualified name, each module once."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ReLU | PDReLU)]


def convert(
    model: nn.Module, candidate: Candidate, *, save: str = "auto", exact: bool = False
) -> nn.Module:
    """Replace every `nn.ReLU` of a model, in place.

    A PDReLU that is there already is replaced too, so that a model can be converted again. A
    ReLU module used in several places stays one module used in several places.

    Args:
        model: any module; itself a ReLU, the replacement is returned.
        candidate: the pseudo-derivative.
        save: as for `pd_relu`.
        exact: as for `pd_relu`.

    Returns:
        The model.

    Raises:
        UnsupportedError: the model calls ReLU as a function, which cannot be replaced from
            outside, or has no ReLU at all. The model is left as it was.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"convert needs a torch.nn.Module, got {type(model).__name__}")
    functional = sorted(set(_functional_relus(model)))
    if functional:
        raise UnsupportedError(
            f"{type(model).__name__} calls ReLU as a function in {', '.join(functional)}: convert "
            "can only replace nn.ReLU modules; use them there"
        )
    if not relu_modules(model):
        raise UnsupportedError(f"{type(model).__name__} holds no nn.ReLU to convert")
    if isinstance(model, nn.ReLU | PDReLU):
        return PDReLU(candidate, save=save, exact=exact)
    replaced: dict[nn.Module, PDReLU] = {}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | PDReLU):
                if child not in replaced:
                    replaced[child] = PDReLU(candidate, save=save, exact=exact)
                    replaced[child].train(child.training)
                setattr(module, name, replaced[child])
    return model


_RELU_CALLS = {"relu", "relu_"}


def _functional_relus(model: nn.Module) -> Iterator[str]:
    """Classes of the model whose own methods call relu as a function or tensor method."""
    for kind in {type(module) for module in model.modules()}:
        if kind.__module__.startswith(("torch.nn.", "pdsearch.")):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        except (OSError, TypeError, SyntaxError):
            continue  # no source, as for classes typed at a prompt: nothing can be said
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if isinstance(function, ast.Name) and function.id in _RELU_CALLS:
                yield kind.__name__
            if isinstance(function, ast.Attribute) and function.attr in _RELU_CALLS:
                owner = function.value
                is_submodule = isinstance(owner, ast.Name) and owner.id == "self"
                if not is_submodule:
                    yield kind.__name__


def forward_control(candidate: Candidate) -> nn.Module:
    r"""The activation whose true derivative is g: :math:`F(x) = \int_0^x g(s)\,ds`.

    It answers "why not use that function in the forward pass too?".

    Raises:
        UnsupportedError: sympy finds no closed form of the integral.
    """
    import sympy

    from pdsearch.expression import x

    bound = candidate.expression.subs(sympy.Symbol("t", real=True), 0)
    primitive = sympy.integrate(bound.rewrite(sympy.exp), x)
    if primitive.has(sympy.Integral):
        raise UnsupportedError(f"no closed form is known for the integral of {candidate.formula}")
    primitive = primitive - primitive.subs(x, 0)
    return _Primitive(codegen.torch_function(primitive, ()))


class _Primitive(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.function(input, 0.0))
