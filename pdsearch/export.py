"""A candidate, or one for each group of layers, as files that stand on their own.

They are torch modules, JSON or LaTeX.

The Python file holds the text that `pdsearch.codegen` prints for the op, so that it computes the
same bits as the op's formula route, and imports nothing but torch.
"""

import functools
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from pdsearch import __version__
from pdsearch.errors import InputError
from pdsearch.family import Candidate, Grouped
from pdsearch.files import check_place, write_text
from pdsearch.plain import plain
from pdsearch.text import escaped

if TYPE_CHECKING:
    from pdsearch.family import Drawn
    from pdsearch.study import StoredStudy, TrialRow

__all__ = [
    "environment",
    "export",
    "export_all",
    "part_of",
    "provenance",
    "to_latex",
    "to_python",
]


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
    form = FORMS[_suffix(path)]
    return write_text(form(candidate, _origin(provenance)), path, force=force)


def export_all(
    drawn: "Drawn",
    path: Path | str,
    *,
    force: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a candidate as `export` does, or the candidates of groups of layers.

    With groups, `name.py` becomes a file for each of them, `name_<group>.py`. A `.json` file (read
    back by `Grouped.from_json`) and a `.tex` file hold all groups.

    Returns:
        The paths of the files.

    Raises:
        InputError: as for `export`; no file is written then.
    """
    if isinstance(drawn, Candidate):
        return [export(drawn, path, force=force, provenance=provenance)]
    path = Path(path)
    suffix, origin = _suffix(path), _origin(provenance)
    parts = {
        group: (part, {**origin, **part_of(drawn, group)}) for group, part in drawn.parts.items()
    }
    if suffix == ".py":
        texts = {
            path.with_stem(f"{path.stem}_{group}"): to_python(part, own)
            for group, (part, own) in parts.items()
        }
    elif suffix == ".tex":
        texts = {path: "\n".join(to_latex(part, own) for part, own in parts.values())}
    else:
        texts = {path: _document({**drawn.to_dict(), "provenance": origin})}
    for place in texts:
        check_place(place, force=force)
    return [write_text(text, place, force=force) for place, text in texts.items()]


def part_of(grouped: "Grouped", group: str) -> dict[str, Any]:
    """Return what the file of a group's candidate says of its place: the group and its layers."""
    return {"group": group, "layers": ", ".join(grouped.layers[group])}


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        raise InputError(
            f"{path.name or path}: the suffix chooses the format; use {', '.join(FORMS)}"
        )
    return suffix


def _origin(provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"pdsearch": __version__, **plain(dict(provenance or {}))}


def provenance(stored: "StoredStudy", row: "TrialRow") -> dict[str, Any]:
    """Return where a study's candidate comes from: the trial, its value, and how it was trained."""
    from pdsearch.study.stored import trained_by

    found: dict[str, Any] = {"study": stored.name, "trial": row.number}
    by = trained_by(stored)
    if by is not None:  # of its model and data nothing is known
        return {**found, "value": row.value, "train": by}
    trial = stored.settings.trial
    tasks = {} if trial.stream is None else {"tasks": trial.stream.tasks}
    sites = () if isinstance(row.candidate, Grouped) else ("only", "skip")
    return {
        **found,
        stored.settings.measure: row.value,
        "model": trial.model,
        **{key: ", ".join(found) for key in sites if (found := getattr(trial, key))},
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
    return _document({**candidate.to_dict(), "provenance": dict(origin)})


def _document(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


# ------------------------------------------------------------------------------------ .py


def to_python(candidate: "Candidate", origin: Mapping[str, Any]) -> str:
    """Return the text of a Python file with `pd_relu` and `PDReLU` that needs only torch."""
    import torch

    from pdsearch.codegen import SCALAR_HELPER, evaluate, kernel, parameter_values, torch_source
    from pdsearch.family import fading
    from pdsearch.float32_source import BOUND, float32_text
    from pdsearch.triton_source import triton_text

    family = candidate.family
    parameter_values(candidate)  # refuses what cannot be evaluated
    both = [kernel(family).part(order) for order in (0, 1)]
    # Training needs no derivative of g.
    parts = both[:1] if both[1].trouble else both
    exact = [
        torch_source(part.expression, parameters=family.parameters, name=f"_g{order}")
        for order, part in enumerate(parts)
    ]
    texts = [float32_text(candidate, name=f"_f{order}", order=order) for order in range(len(parts))]
    fast = [None if text is None else text.source for text in texts]
    faded = fading(family)
    # In float32 and both 16-bit formats.
    points = torch.tensor([-64.0, -8.0, *(k / 4 for k in range(-12, 13)), 8.0, 64.0]).double()
    known = zip(points.tolist(), evaluate(candidate, points).tolist(), strict=True)
    # Names from outside reach the text as comments of one line and as ASCII literals only.
    return (
        environment()
        .get_template("pd_relu.py.jinja")
        .render(
            title=escaped(f"{candidate.name}, written by pdsearch {__version__}"),
            facts=_comments(_facts(candidate, origin), "#"),
            name=ascii(candidate.name),
            formula=ascii(candidate.formula),
            parameters=ascii(dict(candidate.parameters)),
            provenance=ascii(dict(origin)),
            exact=exact,
            fast=fast,
            in_triton="" if fast[0] is None else triton_text(fast[0], name="_t0"),
            functions=[
                SCALAR_HELPER.strip(),
                *(text.replace(SCALAR_HELPER, "").strip() for text in exact),
                *(text.strip() for text in fast if text is not None),
            ],
            bound=BOUND,
            spans=repr(tuple(part.span for part in parts)),
            annealed=candidate.annealed,
            t_doc="; t is training progress in [0, 1]" if candidate.annealed else "",
            up=candidate.direction == "up",
            weight="" if faded is None else faded.shape,
            end="" if faded is None else repr(faded.end_of(candidate)),
            known=[(repr(point), repr(value)) for point, value in known],
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of the exported files' templates."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pdsearch"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )


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
