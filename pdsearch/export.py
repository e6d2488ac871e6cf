"""A candidate as a file that stands on its own: a torch module, JSON, or LaTeX.

The Python file holds the text that `pdsearch.codegen` prints for the op, so that it computes the
same bits as the op's formula route, and imports nothing but torch.
"""

import json
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdsearch import __version__
from pdsearch.errors import InputError
from pdsearch.files import write_text
from pdsearch.plain import plain
from pdsearch.text import escaped

if TYPE_CHECKING:
    from pdsearch.family import Candidate
    from pdsearch.study import StoredStudy, TrialRow

__all__ = ["export", "provenance", "to_latex", "to_python"]


def export(
    candidate: "Candidate",
    path: Path | str,
    *,
    force: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a candidate as a standalone file; the suffix chooses the form.

    Args:
        candidate: what to write.
        path: `.py` (needs only torch), `.json` (read back by `Candidate.from_json` and wherever
            the command line takes a TARGET) or `.tex` (needs amsmath).
        force: whether a file that is there may be replaced.
        provenance: where the candidate comes from, such as study, trial and value; kept in the
            file beside the pdsearch version.

    Returns:
        The path.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written to.
    """
    path = Path(path)
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise InputError(
            f"{path.name or path} has no suffix that says what to write: use {', '.join(FORMS)}"
        )
    origin = {"pdsearch": __version__, **plain(dict(provenance or {}))}
    return write_text(form(candidate, origin), path, force=force)


def provenance(stored: "StoredStudy", row: "TrialRow") -> dict[str, Any]:
    """Return where a study's candidate comes from: the trial, its value, and how it was trained."""
    from pdsearch.study.stored import trained_by

    found: dict[str, Any] = {"study": stored.name, "trial": row.number}
    by = trained_by(stored)
    if by is not None:  # of its model and data nothing is known
        return {**found, "value": row.value, "train": by}
    trial = stored.settings.trial
    tasks = {} if trial.stream is None else {"tasks": trial.stream.tasks}
    return {
        **found,
        stored.settings.measure: row.value,
        "model": trial.model,
        "dataset": trial.dataset,
        "epochs": trial.epochs,
        **tasks,
    }


def _comments(lines: Mapping[str, object], mark: str) -> str:
    """Return each entry that is not empty as a comment, wrapped to short lines."""
    out = []
    for name, value in lines.items():
        if value is None or value == "":
            continue
        out += textwrap.wrap(
            escaped(f"{name}: {value}"),
            96,
            initial_indent=f"{mark}   ",
            subsequent_indent=f"{mark}       ",
            break_on_hyphens=False,
        )
    return "\n".join(out)


def _facts(candidate: "Candidate", origin: Mapping[str, Any]) -> dict[str, object]:
    return {
        "g(x)": candidate.formula,
        "family": f"{candidate.family.name}, g(x) = {candidate.family.formula}",
        "parameters": ", ".join(f"{k} = {v!r}" for k, v in candidate.parameters.items()),
        "direction": "" if candidate.direction == "both" else candidate.direction,
        "reference": candidate.family.reference,
        **{k: v for k, v in origin.items() if k != "pdsearch"},
    }


# ---------------------------------------------------------------------------------- .json


def _json(candidate: "Candidate", origin: Mapping[str, Any]) -> str:
    document = {**candidate.to_dict(), "provenance": dict(origin)}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


# ------------------------------------------------------------------------------------ .py


def to_python(candidate: "Candidate", origin: Mapping[str, Any]) -> str:
    """Return the text of a Python file with `pd_relu` and `PDReLU` that needs only torch."""
    from pdsearch.codegen import SCALAR_HELPER, kernel, parameter_values, torch_source
    from pdsearch.family import fading

    family = candidate.family
    parameter_values(candidate)  # refuses what cannot be evaluated
    both = [kernel(family).part(order) for order in (0, 1)]
    # Training needs no derivative of g.
    parts = both[:1] if both[1].trouble else both
    functions = [
        torch_source(part.expression, parameters=family.parameters, name=f"_g{order}")
        for order, part in enumerate(parts)
    ]
    names = ", ".join(f"_g{order}" for order in range(len(parts)))
    faded = fading(family)
    end = None if faded is None else faded.end_of(candidate)
    # Names from outside reach the text as comments of one line and as ASCII literals only.
    values = {
        "@TITLE@": escaped(f"{candidate.name}, written by pdsearch {__version__}"),
        "@FACTS@": _comments(_facts(candidate, origin), "#"),
        "@HELPER@": SCALAR_HELPER.strip(),
        "@SECOND@": _SECOND if len(parts) > 1 else _NO_SECOND,
        "@FUNCTIONS@": "\n\n\n".join(f.replace(SCALAR_HELPER, "").strip() for f in functions),
        "@DERIVATIVES@": f"({names},)" if len(parts) == 1 else f"({names})",
        "@LAST@": "third" if len(parts) > 1 else "second",
        "@SPANS@": repr(tuple(part.span for part in parts)),
        "@NAME@": ascii(candidate.name),
        "@FORMULA@": ascii(candidate.formula),
        "@PARAMETERS@": ascii(dict(candidate.parameters)),
        "@PROVENANCE@": ascii(dict(origin)),
        "@SIGNATURE@": ", t=0.0" if candidate.annealed else "",
        "@T@": "t" if candidate.annealed else "0.0",
        "@T_DOC@": "; t is training progress in [0, 1]" if candidate.annealed else "",
        "@INIT@": _INIT if candidate.annealed else "",
        "@SELF_T@": ", t=self.t" if candidate.annealed else "",
        "@RULE@": _RULE if candidate.direction == "up" else "",
        "@PASSING@": _PASSING if candidate.direction == "up" else "",
        "@ENDED@": "" if end is None else _ENDED.format(end=end),
    }
    # In one pass: a study named @G0@ stays a name.
    return re.sub("@[A-Z0-9_]+@", lambda found: values[found[0]], _PYTHON)


_SECOND = """Second derivatives (double backward) use g's own derivative away from
# its jumps; a third derivative raises an error,"""

_NO_SECOND = """A second derivative (double backward) raises an error: g's own
# is too large to compile, or cannot be evaluated in floating point;"""

_INIT = """    def __init__(self):
        super().__init__()
        self.t = 0.0  # training progress in [0, 1]: set it as training goes on

"""

_RULE = """
# Where x <= 0 only gradients pass for which a descent step raises x: grad_output < 0.
"""

_PASSING = """
        grad_input = grad_input.masked_fill((input <= 0) & (grad_output >= 0), 0.0)"""

_ENDED = """
    if t >= {end!r}:  # faded out: ReLU with its own backward pass
        return torch.relu(input)"""

# The first two lines hold nothing from outside: Python looks for an encoding's name in them, and
# finds one where a parameter is called coding.
_PYTHON = '''# ReLU with a pseudo-derivative, for PyTorch, written by pdsearch.
#
# @TITLE@
#
@FACTS@
#
# This file needs only torch. The forward pass is torch.relu; the backward pass multiplies the
# incoming gradient by g(x) instead of by the step. Every floating-point dtype works: g is computed
# in float64 and rounded once. @SECOND@
# and so does forward-mode differentiation.
@RULE@
import torch

__all__ = ["PDReLU", "g", "pd_relu"]

NAME = @NAME@
FORMULA = @FORMULA@
PARAMETERS = @PARAMETERS@
PROVENANCE = @PROVENANCE@


@HELPER@


@FUNCTIONS@


_DERIVATIVES = @DERIVATIVES@


# Infinities count as the dtype's largest number; further out than this a power of x overflows.
_SPANS = @SPANS@


def _evaluate(x, t, order):
    largest = torch.finfo(x.dtype).max
    low, high = _SPANS[order]
    wide = torch.clamp(x.to(torch.float64), max(low, -largest), min(high, largest))
    value = _DERIVATIVES[order](wide, t, *PARAMETERS.values())
    value = torch.where(torch.isnan(wide), wide, value).clamp(-largest, largest)
    if x.dtype in (torch.float16, torch.bfloat16):
        # Torch rounds to them by way of float32: to odd first, so that it is rounded once.
        bits, low_bits = value.view(torch.int64), (1 << 38) - 1
        value = ((bits | ((bits & low_bits) + low_bits)) & ~low_bits).view(torch.float64)
    return value.to(x.dtype)


def g(x@SIGNATURE@):
    """The pseudo-derivative at each element of a floating-point tensor@T_DOC@."""
    return _evaluate(x, @T@, 0)


class _Scale(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad_output, input, t, order):
        return grad_output * _evaluate(input, t, order)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_output, input, ctx.t, ctx.order = inputs
        ctx.save_for_backward(grad_output, input)

    @staticmethod
    def backward(ctx, incoming):
        grad_output, input = ctx.saved_tensors
        to_grad_output = to_input = None
        if ctx.needs_input_grad[0]:
            to_grad_output = _Scale.apply(incoming, input, ctx.t, ctx.order)
        if ctx.needs_input_grad[1]:
            if ctx.order + 1 == len(_DERIVATIVES):
                raise RuntimeError("pd_relu has no @LAST@ derivative in this exported file")
            to_input = _Scale.apply(incoming * grad_output, input, ctx.t, ctx.order + 1)
        return to_grad_output, to_input, None, None


class _PDReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, t):
        return torch.relu(input)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, ctx.t = inputs
        ctx.save_for_backward(input)

    @staticmethod
    def backward(ctx, grad_output):
        (input,) = ctx.saved_tensors
        grad_input = _Scale.apply(grad_output, input, ctx.t, 0)@PASSING@
        return grad_input, None


def pd_relu(input@SIGNATURE@):
    """torch.relu(input); in the backward pass grad_input = grad_output * g(input)@T_DOC@."""
    if not input.is_floating_point():
        raise TypeError(f"pd_relu needs a floating-point tensor, got {input.dtype}")@ENDED@
    return _PDReLU.apply(input, @T@)


class PDReLU(torch.nn.Module):
    """pd_relu as a module, without parameters or state."""

@INIT@    def forward(self, input):
        return pd_relu(input@SELF_T@)

    def extra_repr(self):
        return NAME
'''


# ----------------------------------------------------------------------------------- .tex


def to_latex(candidate: "Candidate", origin: Mapping[str, Any]) -> str:
    """Return a LaTeX snippet: the family's formula as an equation, then its parameters' values."""
    from sympy import latex

    from pdsearch.expression import symbol

    argument = "x, t" if candidate.annealed else "x"
    values = ", ".join(
        f"${latex(symbol(name))} = {_latex_number(value)}$"
        for name, value in candidate.parameters.items()
    )
    sentence = f"Pseudo-derivative \\texttt{{{_latex_text(candidate.family.name)}}}"
    sentence += f" with {values}" if values else ""
    if candidate.direction == "up":
        sentence += (
            ", passing where $x \\le 0$ only gradients "
            "$\\partial L/\\partial y < 0$, which raise the unit"
        )
    if candidate.family.reference:
        sentence += f" ({_latex_text(candidate.family.reference)})"
    return (
        f"% The pseudo-derivative {escaped(candidate.name)}, written by pdsearch {__version__}; "
        "needs amsmath.\n"
        f"{_comments(_facts(candidate, origin), '%')}\n"
        "\\begin{equation}\n"
        f"  g({argument}) = {candidate.family.latex}\n"
        "\\end{equation}\n"
        f"{sentence}.\n"
    )


def _latex_number(value: float) -> str:
    digits, e, exponent = repr(value).partition("e")
    digits = digits.removesuffix(".0")
    return f"{digits} \\cdot 10^{{{int(exponent)}}}" if e else digits


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in escaped(text))


FORMS: Mapping[str, Callable[["Candidate", Mapping[str, Any]], str]] = {
    ".py": to_python,
    ".json": _json,
    ".tex": to_latex,
}
