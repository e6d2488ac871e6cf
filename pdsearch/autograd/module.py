"""`PDReLU`, and putting it into a model."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pdsearch import codegen, kernels
from pdsearch.autograd.op import Rule, check_progress, traced
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate

__all__ = ["PDReLU", "convert", "relu_modules", "set_progress"]


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
        if save not in kernels.SAVE_MODES:
            raise InputError(f"save must be one of {', '.join(kernels.SAVE_MODES)}, got {save!r}")
        self.candidate, self.save, self.exact = candidate, save, exact
        self.progress = 0.0
        # Buffers, not numbers: torch.compile would compile anew for every new number.
        self.register_buffer("values", codegen.parameter_values(candidate), persistent=False)
        self.register_buffer("t", torch.zeros((), dtype=torch.float64), persistent=False)
        self._prepare()

    def _prepare(self) -> None:
        self.kernel = codegen.kernel(self.candidate.family)
        self.rule = Rule(self.candidate, progress=self.progress, save=self.save, exact=self.exact)

    def set_progress(self, t: float) -> None:
        """Set the training progress, in [0, 1]."""
        check_progress(t)
        if t != self.progress:
            self.progress = float(t)
            self.t.fill_(t)
            self._prepare()

    def error_bound(
        self, dtype: torch.dtype = torch.float32, *, device: torch.device | str = "cpu"
    ) -> float:
        """How far the g that the backward pass uses may be from g, absolutely.

        Beyond the rounding to the dtype itself. Proved for tables of float32 and codes; 0 where g
        is correctly rounded (bfloat16, float16, two-valued shapes). Where the formula's text is
        evaluated it is beyond 1e-12·abs(g) + 1e-15, and measured at some 400 points: 0 but for
        formulas that cancel.

        Args:
            dtype: of the input, floating-point.
            device: of the input.
        """
        if not dtype.is_floating_point:
            raise InputError(f"error_bound needs a floating-point dtype, got {dtype}")
        return self.rule.plan(torch.empty(0, dtype=dtype, device=device)).error

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`torch.relu(input)`, with g in the backward pass; any shape, floating-point."""
        if not input.is_floating_point():
            raise InputError(f"PDReLU needs a floating-point tensor, got {input.dtype}")
        if torch.compiler.is_compiling():
            return traced(input, self.t, self.values, self.kernel)
        return self.rule(input)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled: functions made from text cannot be pickled."""
        return {k: v for k, v in self.__dict__.items() if k not in ("kernel", "rule")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, with the kernel of the candidate's family."""
        super().__setstate__(state)
        self._prepare()

    def _apply(self, fn: Any, recurse: bool = True) -> "PDReLU":
        """Move with the model, but keep float64: `model.half()` must not round the parameters."""
        super()._apply(fn, recurse)
        device = self.values.device
        self.values = codegen.parameter_values(self.candidate, device=device)
        self.t = torch.full((), self.progress, dtype=torch.float64, device=device)
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
    check_progress(t)
    for module in model.modules():
        if isinstance(module, PDReLU):
            module.set_progress(t)


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
    called = sorted(set(_functional_relus(model)))
    if called:
        raise UnsupportedError(
            f"{type(model).__name__} calls ReLU as a function in {', '.join(called)}: convert "
            "can only replace nn.ReLU modules; use them there"
        )
    if not relu_modules(model):
        raise UnsupportedError(f"{type(model).__name__} holds no nn.ReLU to convert")
    if isinstance(model, nn.ReLU | PDReLU):
        return PDReLU(candidate, save=save, exact=exact).train(model.training)
    replaced: dict[nn.Module, PDReLU] = {}
    for module in list(model.modules()):
        # Not named_children, which names a module once where two attributes hold it.
        for name, child in list(module._modules.items()):
            if isinstance(child, nn.ReLU | PDReLU):
                if child not in replaced:
                    replaced[child] = PDReLU(candidate, save=save, exact=exact)
                    replaced[child].train(child.training)
                setattr(module, name, replaced[child])
    return model


_RELU_CALLS = {"relu", "relu_"}
_RELU_FUNCTIONS = (functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu)


def _functional_relus(model: nn.Module) -> Iterator[str]:
    """Classes of the model that call relu as a function or tensor method."""
    for module in model.modules():
        # nn.TransformerEncoderLayer keeps the function in an attribute, for one.
        if any(value is f for value in vars(module).values() for f in _RELU_FUNCTIONS):
            yield type(module).__name__
    for kind in {type(module) for module in model.modules()}:
        if kind.__module__.startswith(("torch.nn.", "pdsearch.autograd")):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        except (OSError, TypeError, SyntaxError):
            continue  # no source, as for classes typed at a prompt: nothing can be said
        if any(isinstance(node, ast.Call) and _calls_relu(node.func) for node in ast.walk(tree)):
            yield kind.__name__


def _calls_relu(function: ast.expr) -> bool:
    """`relu(…)`, `F.relu(…)`, `torch.relu_(…)`, `y.relu()`; not `self.relu(…)`, a module."""
    if isinstance(function, ast.Name):
        return function.id in _RELU_CALLS
    if not isinstance(function, ast.Attribute) or function.attr not in _RELU_CALLS:
        return False
    owner = function.value
    while isinstance(owner, ast.Attribute | ast.Subscript):
        owner = owner.value
    return not (isinstance(owner, ast.Name) and owner.id == "self")
