"""Who is retrained: the rows of a confirmation before they are trained."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pdsearch.confirm.outcome import KINDS, how_of, identity_of
from pdsearch.errors import InputError, UnsupportedError
from pdsearch.study.twins import Shape, same_shape, shape_of

if TYPE_CHECKING:
    from pdsearch.family import Candidate
    from pdsearch.study import StoredStudy

# They stand for "why not use another function forward as well?", at torch's defaults.
ACTIVATIONS = {
    "LeakyReLU": "Max(0, x) + Min(0, x)/100",
    "GELU": "x*erfc(-x/sqrt(2))/2",
    "SiLU": "x*sigmoid(x)",
}


@dataclass(frozen=True)
class Contender:
    """One row before it is trained. `how` and `formula` decide the result; the rest is for show.

    `place` is its place among those it is trained with.
    """

    name: str
    kind: str
    how: str  # see `how_of`; "forward": the formula is its true derivative; "activation"
    formula: str
    candidate: "Candidate"
    module: Callable[[], Any] | None = None
    place: int = 0

    @property
    def identity(self) -> str:
        """What tells its runs from another's."""
        return identity_of(self.formula, how=self.how)


def choose_contenders(
    stored: "StoredStudy",
    *,
    top: int,
    given: Sequence["Candidate"],
    forward_control: bool,
    activations: bool,
) -> tuple[list[Contender], list[str]]:
    """Baseline, the study's best, references, the user's, controls; each g once. And notes."""
    from torch import nn

    from pdsearch.family import load_family

    baseline = load_family("relu").default
    ranked = stored.ranked()
    if top > 0 and not ranked and not given:
        raise InputError(
            f"study {stored.name!r} has no finished candidate to confirm yet; "
            "finish its search, or name one with --candidate"
        )
    shapes: list[Shape] = []
    found: list[Contender] = []

    def add(candidate: "Candidate", kind: str) -> bool:
        """Whether it is a new shape; one that is not adds its name to the row it equals."""
        shape = shape_of(candidate)
        for index, other in enumerate(shapes):
            if same_shape(shape, other):
                # The study's own near-duplicates are many and have no name of their own.
                if kind != "candidate" and _name(candidate) not in found[index].name:
                    name = f"{found[index].name} = {_name(candidate)}"
                    found[index] = replace(found[index], name=name)
                return False
        shapes.append(shape)
        found.append(
            Contender(_name(candidate), kind, how_of(candidate), candidate.formula, candidate)
        )
        return True

    add(baseline, "baseline")
    picked = 0
    for row in ranked:
        if picked == top:
            break
        if row.candidate is not None:
            picked += add(row.candidate, "candidate")
    for row in stored.references().values():
        if row.candidate is not None:
            add(row.candidate, "reference")
    for candidate in given:
        add(candidate, "given")
    notes: list[str] = []
    if forward_control:
        found += _forward_control(found, notes)
    if activations:
        found += [
            Contender(name, "activation", "activation", formula, baseline, getattr(nn, name))
            for name, formula in ACTIVATIONS.items()
        ]
    ordered = sorted(found, key=lambda contender: KINDS.index(contender.kind))
    return [replace(one, place=place) for place, one in enumerate(ordered)], notes


def _forward_control(found: Sequence[Contender], notes: list[str]) -> list[Contender]:
    """That of the first candidate (or the first given), where there is one."""
    from pdsearch.autograd import forward_control

    best = next((c for kind in ("candidate", "given") for c in found if c.kind == kind), None)
    if best is None:
        return []
    candidate = best.candidate
    try:
        forward_control(candidate)
    except UnsupportedError as error:
        notes.append(f"No forward control of {best.name}: {error}.")
        return []
    return [
        Contender(
            f"forward control of {best.name}",
            "forward_control",
            "forward",
            best.formula,
            candidate,
            lambda: forward_control(candidate),
        )
    ]


def _name(candidate: "Candidate") -> str:
    """Its name; of a formula that was typed the formula, for all of those have the same name."""
    if candidate.family.name != "formula":
        return candidate.name
    text = re.sub(r"\d*\.\d{7,}", lambda found: f"{float(found[0]):.6g}", candidate.identity)
    return text if len(text) <= 80 else f"{text[:77]}..."
