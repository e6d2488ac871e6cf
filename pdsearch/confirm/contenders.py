"""Who is retrained: the rows of a confirmation before they are trained."""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pdsearch.confirm.outcome import KINDS, how_of, identity_of
from pdsearch.errors import InputError, UnsupportedError, shortened
from pdsearch.family import Candidate, fading, load_family
from pdsearch.study.twins import Curve

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy
    from pdsearch.trial import TrialSettings

# They stand for "why not use another function forward as well?", at torch's defaults.
ACTIVATIONS = {
    "LeakyReLU": "Max(0, x) + Min(0, x)/100",
    "GELU": "x*erfc(-x/sqrt(2))/2",
    "SiLU": "x*sigmoid(x)",
}

# For a stream of tasks: those that units do not die of.
STREAM_ACTIVATIONS = {
    "LeakyReLU": "Max(0, x) + Min(0, x)/100",
    "LeakyReLU(0.1)": "Max(0, x) + Min(0, x)/10",
    "ELU": "Piecewise((x, x > 0), (exp(x) - 1, True))",
}

# Settings of `[trial]` that are known to keep a network able to learn. The strengths of the L2 term
# are ours, the other numbers their authors' (see `TrialSettings`).
REMEDIES: dict[str, dict[str, Any]] = {
    "CReLU": {"activation": "crelu"},
    "LayerNorm": {"normalisation": "layer"},
    "L2 towards initial weights (1e-3)": {"l2_init": 1e-3},
    "L2 towards initial weights (1e-4)": {"l2_init": 1e-4},
    "continual backprop": {"continual_backprop": {}},
}


@dataclass(frozen=True)
class Contender:
    """One row before it is trained.

    `how`, `formula` and `changes`, the settings of `[trial]` that it is trained with instead of the
    study's, decide the result; the rest is for show. `place` is its place among those it is trained
    with.
    """

    name: str
    kind: str
    how: str  # see `how_of`; "forward": the formula is its true derivative; "activation"
    formula: str
    candidate: Candidate
    module: Callable[[], Any] | None = None
    place: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def identity(self) -> str:
        """What tells its runs from another's."""
        own = identity_of(self.formula, how=self.how)
        return f"{own} with {json.dumps(self.changes, sort_keys=True)}" if self.changes else own

    def settings(self, trial: "TrialSettings") -> "TrialSettings":
        """A trial's settings as it is trained.

        Raises:
            ValidationError: the changes do not fit them.
        """
        if not self.changes:
            return trial
        return type(trial).model_validate({**trial.model_dump(mode="json"), **self.changes})

    def fits(self, trial: "TrialSettings") -> bool:
        """Whether it can be trained with these settings."""
        try:
            self.settings(trial)
        except ValidationError:
            return False
        return True


def choose_contenders(
    stored: "StoredStudy",
    *,
    top: int,
    given: Sequence[Candidate],
    forward_control: bool,
    activations: bool,
) -> tuple[list[Contender], list[str]]:
    """Baseline, the study's best, references, the user's, controls; each g once. And notes."""
    baseline = load_family("relu").default
    ranked = stored.ranked()
    if top > 0 and not ranked and not given:
        raise InputError(
            f"study {stored.name!r} has no finished candidate to confirm yet; "
            "finish its search, or name one with --candidate"
        )
    curves: list[Curve] = []
    found: list[Contender] = []

    def add(candidate: Candidate, kind: str) -> bool:
        """Whether it is a new shape; one that is not adds its name to the row it equals."""
        curve = Curve(candidate)
        for index, other in enumerate(curves):
            if curve.same(other):
                # The study's own near-duplicates are many and have no name of their own.
                if kind != "candidate" and _name(candidate) not in found[index].name:
                    name = f"{found[index].name} = {_name(candidate)}"
                    found[index] = replace(found[index], name=name)
                return False
        curves.append(curve)
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
        found += _plain_controls(baseline, stored.settings.trial, notes)
    ordered = sorted(found, key=lambda contender: KINDS.index(contender.kind))
    return [replace(one, place=place) for place, one in enumerate(ordered)], notes


def _plain_controls(
    baseline: Candidate, trial: "TrialSettings", notes: list[str]
) -> list[Contender]:
    """The activations, and for a stream the remedies that fit the model."""
    from torch import nn

    modules: dict[str, Callable[[], Any]] = {
        "LeakyReLU": nn.LeakyReLU,
        "LeakyReLU(0.1)": functools.partial(nn.LeakyReLU, 0.1),
        "GELU": nn.GELU,
        "SiLU": nn.SiLU,
        "ELU": nn.ELU,
    }
    chosen = ACTIVATIONS if trial.stream is None else STREAM_ACTIVATIONS
    found = [
        Contender(name, "activation", "activation", formula, baseline, modules[name])
        for name, formula in chosen.items()
    ]
    for name, changes in REMEDIES.items() if trial.stream is not None else ():
        one = Contender(
            name, "remedy", "pseudo-derivative", baseline.formula, baseline, changes=changes
        )
        if one.fits(trial):
            found.append(one)
        else:
            notes.append(
                f"No row of {name}: it is not for {trial.model}, or not with its settings."
            )
    return found


def best_of(contenders: Sequence[Contender]) -> Contender | None:
    """The study's best candidate, else the first that the user gave."""
    kinds = ("candidate", "given")
    return next((one for kind in kinds for one in contenders if one.kind == kind), None)


def _forward_control(found: Sequence[Contender], notes: list[str]) -> list[Contender]:
    """That of the first candidate (or the first given), where there is one."""
    from pdsearch.autograd import forward_control

    best = best_of(found)
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


def _name(candidate: Candidate) -> str:
    """Its name; of a formula that was typed the formula, for all of those have the same name."""
    if candidate.family.name != "formula":
        return candidate.name
    text = re.sub(r"\d*\.\d{7,}", lambda found: f"{float(found[0]):.6g}", candidate.identity)
    return shortened(text, 80)


# ------------------------------------------------------------------- ReLU at a raised early rate


def raised_rate(contender: Contender, run: Mapping[str, Any]) -> Contender | str:
    """ReLU at a raised early rate: is a pseudo-derivative more than a larger learning rate?

    For quantisers, gradient estimators differ at small learning rates by initialisation and rate
    alone (arXiv:2405.05171). This control has ReLU's own gradient. Its rate is raised by the factor
    by which the candidate's gradient is longer, for as long as the candidate uses one of its own.

    The factor is the geometric mean of the ratios ‖pseudo-gradient‖ / ‖exact gradient‖ after each
    epoch or task before the candidate has faded out, to three digits.

    Args:
        contender: the candidate.
        run: the record of one of its test runs, with diagnostics.

    Returns:
        The control; or, in a sentence, why there is none.
    """
    faded = fading(contender.candidate.family)
    until = 1.0 if faded is None else faded.end_of(contender.candidate)
    entries = run["epochs"]
    ratios = []
    for entry in entries:
        ratio = (entry.get("diagnostics") or {}).get("norm_ratio")
        if entry["epoch"] <= until * len(entries) and ratio:
            ratios.append(ratio)
    without = f"No row of ReLU at a raised early rate: {contender.name}"
    if run["diverged"]:
        return f"{without} diverged at seed {run['seed']}."
    if not any(entry.get("diagnostics") for entry in entries):
        return f"{without} was trained by a version of pdsearch that measured no gradients."
    if not ratios:
        return f"{without} has no gradient of its own after its first epoch or task."
    factor = float(f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.3g}")
    early = "" if until == 1 else f" until {until:.3g}"
    relu = load_family("relu").default
    return Contender(
        f"ReLU at {factor:g}× its rate{early}",
        "remedy",
        "pseudo-derivative",
        relu.formula,
        relu,
        changes={"early_rate": {"factor": factor, "until": until}},
    )
