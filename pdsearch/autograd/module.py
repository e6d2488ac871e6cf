"""`PDReLU`, the op as a module, and its training progress."""

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Any, NoReturn, cast

import torch
from torch import fx, nn

from pdsearch import kernels
from pdsearch.apart import apart
from pdsearch.autograd import eager_only
from pdsearch.autograd.op import InGraph, Rule, is_transformed
from pdsearch.codegen import check_progress
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.family import Candidate, load_family
from pdsearch.float32_family import Float32Part

__all__ = ["PDReLU", "exact_gradients", "relu_modules", "set_progress"]

_SPARSE = (
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    torch.sparse_bsc,
)


class PDReLU(nn.Module):
    """`pd_relu` as a module; it has no parameters and nothing in its `state_dict`.

    `functools.partial(PDReLU, candidate)` stands where a class of activations is expected, such as
    `nn.ReLU`.

    Args:
        candidate: The pseudo-derivative.
        inplace: Write the output over the input, as `nn.ReLU(inplace=True)` does.
        save: As for `pd_relu`.
        exact: As for `pd_relu`.
        zero: Return +0 for an input of -0, as `nn.Threshold(0, 0)` does; ReLU returns -0.
    """

    numbers: torch.Tensor
    exact_numbers: torch.Tensor
    shape_key: torch.Tensor

    def __init__(
        self,
        candidate: Candidate,
        inplace: bool = False,
        *,
        save: str = "auto",
        exact: bool = False,
        zero: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(candidate, Candidate):
            raise InputError(
                f"PDReLU needs a Candidate, got {type(candidate).__name__} (bind a family first)"
            )
        kernels.check_save(save, exact=exact)
        self.candidate, self.save, self.exact = candidate, save, exact
        self.inplace, self.zero = inplace, zero
        self.progress = 0.0
        self._prepare()
        # Buffers, not numbers: torch.compile would compile anew for every new number, and
        # torch.func stacks those of several models. Their device is named: the ambient default may
        # be meta, which holds no numbers.
        for name, buffer in self._buffers_on(torch.device("cpu")).items():
            self.register_buffer(name, buffer, persistent=False)

    @apart()
    def _buffers_on(self, device: torch.device) -> dict[str, torch.Tensor]:
        # float64 numbers as their bits: not every device has float64, and `model.half()` casts what
        # is floating.
        given = [*self.candidate.parameters.values(), self.progress]
        numbers = self.rule.formula.numbers(self.progress, wide=False)
        return {
            "numbers": numbers.to(device, copy=True),
            "exact_numbers": torch.tensor(
                [_bits(one) for one in given], dtype=torch.int64, device=device
            ),
            "shape_key": torch.full((), self.key, dtype=torch.int64, device=device),
        }

    def _prepare(self) -> None:
        self.in_graph = InGraph(self.candidate, save=self.save, exact=self.exact)
        self.rule = self.in_graph.rule
        self.key = _key(self.candidate, self.in_graph.formula.part)

    def set_progress(self, t: float) -> None:
        """Set the training progress, in [0, 1]."""
        check_progress(t)
        if t != self.progress:
            self.progress = float(t)
            if self.in_graph.annealed:
                self.numbers.copy_(self.rule.formula.numbers(t, wide=False))
                self.exact_numbers[-1] = _bits(t)

    def error_bound(
        self, dtype: torch.dtype = torch.float32, *, device: torch.device | str = "cpu"
    ) -> float:
        """How far the g that the backward pass uses may be from g, absolutely.

        Beyond the rounding to the dtype itself. Proved for tables of float32 (on a GPU, those of
        every dtype) and codes; 0 where g is correctly rounded (on the CPU bfloat16 and float16;
        two-valued shapes). For torch's operators in float32, which small float32 tensors use, it is
        2e-6 times the larger of 1 and the largest abs(g), found to hold by comparing with float64.
        Where the formula's text is evaluated in float64 it is beyond
        1e-12·abs(g) + 1e-15, and measured at some 400 points: 0 except for formulas that cancel.

        Args:
            dtype: of the input, floating-point.
            device: of the input.
        """
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise InputError(f"error_bound needs a floating-point dtype, got {dtype!r}")
        return self.rule.plan(torch.empty(0, dtype=dtype, device=device)).error

    def forward(
        self, input: torch.Tensor, inplace: bool | None = None, zero: bool | None = None
    ) -> torch.Tensor:
        """`torch.relu(input)`, with g in the backward pass; any shape, floating-point.

        Args:
            input: The pre-activation.
            inplace: The module's own where None; given for a call of `F.relu` that stands here.
            zero: Likewise.
        """
        if isinstance(input, fx.Proxy):
            return _traced_by_fx(self, input, inplace=inplace, zero=zero)
        if not input.is_floating_point():
            raise InputError(f"PDReLU needs a floating-point tensor, got {input.dtype}")
        zero = self.zero if zero is None else zero
        if not (self.inplace if inplace is None else inplace):
            output = self._out_of_place(input)
            return output + 0.0 if zero else output
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            return torch.relu_(input)  # an export is the forward
        if not zero and self._in_place_is_plain(input):
            return self.rule.in_place(input, self.progress)
        # The same visible effect by torch's own copy, which views, transforms and compilers know.
        output = self._out_of_place(input.clone())
        return input.copy_(output + 0.0 if zero else output)

    def _out_of_place(self, input: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active():
                eager_only.call(_check_stacked, self.shape_key, self.key)
            numbers = self._numbers(input)
            if numbers.device != input.device:
                numbers = numbers.to(input.device)
            return self.in_graph.apply(input, numbers)
        if input.layout in _SPARSE:
            return _sparse(self.rule, input, self.progress)
        if not is_transformed(input):
            return self.rule.plain(input, self.progress)
        if self.numbers.device != input.device:
            return self.rule(input, self.progress)
        _check_stacked(self.shape_key, self.key)
        return self.rule(input, self.progress, numbers=self._numbers(input))

    def _numbers(self, input: torch.Tensor) -> torch.Tensor:
        """What the formula needs besides x."""
        if self.in_graph.in_float64(input):
            return self.exact_numbers.view(torch.float64)
        return self.numbers

    def _in_place_is_plain(self, input: torch.Tensor) -> bool:
        return not (
            torch.compiler.is_compiling()
            or is_transformed(input)
            or input._is_view()
            or input.layout is not torch.strided
            or torch.jit.is_tracing()
        )

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, which would record ReLU's own gradient."""
        raise UnsupportedError(
            "torch.jit.script cannot hold a pseudo-derivative: use torch.compile, or script the "
            "model with plain ReLUs (its weights fit)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled: functions made from text cannot be pickled."""
        return {k: v for k, v in self.__dict__.items() if k not in ("in_graph", "rule", "key")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, with the formula of the candidate's family; also what was pickled earlier."""
        super().__setstate__({"inplace": False, "zero": False, **state})
        self._prepare()
        device = self.get_buffer(next(iter(self._buffers))).device
        self._buffers.clear()  # modules pickled earlier had float64 ones
        for name, buffer in self._buffers_on(device).items():
            self.register_buffer(name, buffer, persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a buffer's device, but not its numbers, which the candidate and the progress give.

        transformers' `from_pretrained` sets every buffer that is not in the `state_dict` to
        uninitialised memory.
        """
        if name in self.__dict__.get("_buffers", ()) and isinstance(value, torch.Tensor):
            device = self.numbers.device if value.is_meta else value.device
            self._buffers[name] = self._buffers_on(device)[name]
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> "PDReLU":
        """Move with the model, but keep the dtypes: `model.half()` must not round the numbers.

        On the meta device the numbers stay where they were: `to_empty` and
        `load_state_dict(assign=True)` bring parameters back, but nothing brings these.
        """
        before = self.numbers.device
        super()._apply(fn, recurse)
        device = self.numbers.device
        if device.type == "meta":
            device = before
        self._buffers.update(self._buffers_on(device))
        return self

    def extra_repr(self) -> str:
        """The candidate and its formula."""
        return f"{self.candidate.name}: {self.candidate.formula}" + ", inplace" * self.inplace


def set_progress(model: nn.Module, t: float) -> None:
    """Set the training progress of every `PDReLU` in a model.

    Args:
        model: any module.
        t: in [0, 1]; annealed families become the step at t = 1.

    Raises:
        InputError: t is no number in [0, 1], or the model is no module.
    """
    check_progress(t)
    if not isinstance(model, nn.Module):
        raise InputError(f"set_progress needs a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if isinstance(module, PDReLU):
            module.set_progress(t)


@contextlib.contextmanager
def exact_gradients(model: nn.Module) -> Iterator[None]:
    """Give every `PDReLU` of a model ReLU's own gradient while the block runs, in eager mode."""
    own = {m: m.rule for m in model.modules() if isinstance(m, PDReLU)}
    exact = Rule(load_family("relu").default, save="auto", exact=False)
    for module in own:
        module.rule = exact
    try:
        yield
    finally:
        for module, rule in own.items():
            module.rule = rule


def relu_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every ReLU and PDReLU module of a model with its qualified name, each module once."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ReLU | PDReLU)]


def _bits(value: float) -> int:
    """The bits of a float64 number, as an int64 one."""
    return int.from_bytes(struct.pack("<d", value), "little", signed=True)


def _key(candidate: Candidate, part: Float32Part | None) -> int:
    """A number for what is compiled: all of a candidate but the values of its parameters."""
    shape = {k: v for k, v in candidate.to_dict().items() if k != "parameters"}
    text = None if part is None else part.variant
    digest = hashlib.sha256(
        json.dumps([shape, text], sort_keys=True, default=str).encode()
    ).digest()
    return int.from_bytes(digest[:7], "big")


def _check_stacked(stacked: torch.Tensor, key: int) -> None:
    """Refuse models of several families stacked for vmap: one formula serves them all there."""
    functorch = torch._C._functorch
    if not functorch.is_functorch_wrapped_tensor(stacked):
        return
    while functorch.is_functorch_wrapped_tensor(stacked):
        stacked = functorch.get_unwrapped(stacked)
    if not bool((stacked == key).all()):
        raise UnsupportedError(
            "the models stacked for torch.func hold pseudo-derivatives of different families: vmap "
            "runs one formula for all of them, and of one family float32 must serve all or none. "
            "Stack models of one family (parameters may differ), or loop over the models"
        )


def _sparse(rule: Rule, input: torch.Tensor, progress: float) -> torch.Tensor:
    """As nn.ReLU: of the stored entries, and gradient reaches those alone."""
    if not (input.requires_grad and torch.is_grad_enabled()):
        return torch.relu(input)
    if input.layout is torch.sparse_coo:
        whole = input.coalesce()
        return torch.sparse_coo_tensor(
            whole.indices(), rule(whole.values(), progress), whole.shape, is_coalesced=True
        )
    if input.layout in (torch.sparse_csr, torch.sparse_bsr):
        compressed, plain = input.crow_indices(), input.col_indices()
    else:
        compressed, plain = input.ccol_indices(), input.row_indices()
    return torch.sparse_compressed_tensor(
        compressed, plain, rule(input.values(), progress), input.shape, layout=input.layout
    )


def _traced_by_fx(module: PDReLU, input: fx.Proxy, **options: bool | None) -> torch.Tensor:
    """One node for the module: fx cannot look into an autograd function."""
    tracer = cast(fx.Tracer, input.tracer)
    given = {name: value for name, value in options.items() if value is not None}
    path = tracer.path_of_module(module)
    return cast(torch.Tensor, tracer.create_proxy("call_module", path, (input,), given))
