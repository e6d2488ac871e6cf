"""The rows of a confirmation before they are trained."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pdsearch.confirm.outcome import KINDS, how_of, identity_of
from pdsearch.errors import InputError, UnsupportedError, shortened
from pdsearch.family import Candidate, Drawn, Grouped, fading, load_family, parts_of
from pdsearch.study.twins import Curves, curves_of, same

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy
    from pdsearch.trial import TrialSettings

# At torch's defaults: would another forward function do as well?
ACTIVATIONS = {
    "LeakyReLU": "Max(0, x) + Min(0, x)/100",
    "GELU": "x*erfc(-x/sqrt(2))/2",
    "SiLU": "x*sigmoid(x)",
}

# For a stream of tasks: units do not die of these.
STREAM_ACTIVATIONS = {
    "LeakyReLU": ACTIVATIONS["LeakyReLU"],
    "LeakyReLU(0.1)": "Max(0, x) + Min(0, x)/10",
    "ELU": "Piecewise((x, x > 0), (exp(x) - 1, True))",
}

# Settings of `[trial]` that are known to keep a network able to learn. The strengths of the L2 term
# are ours, the other numbers those of the authors (see `TrialSettings`).
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

    Attributes:
        name: As shown.
        kind: One of `KINDS`.
        how: See `how_of`; `forward…`: the formula is its true derivative; `activation`.
        formula: Of g; of the forward function for an activation.
        candidate: The pseudo-derivative, or one for each group of layers.
        module: Makes an activation that replaces ReLU instead.
        place: Its place among the rows of its confirmation.
        changes: Settings of `[trial]` that replace the study's.
    """

    name: str
    kind: str
    how: str
    formula: str
    candidate: Drawn
    module: Callable[[], Any] | None = None
    place: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def identity(self) -> str:
        """What distinguishes its runs from another's."""
        own = identity_of(self.formula, how=self.how)
        return f"{own} with {json.dumps(self.changes, sort_keys=True)}" if self.changes else own

    def settings(self, trial: "TrialSettings") -> "TrialSettings":
        """Return a trial's settings with its changes, which may raise `ValidationError`."""
        return trial.altered(self.changes) if self.changes else trial

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
    """Choose baseline, the study's best, references, given ones and controls, each g once.

    Returns the rows in order, and notes.
    """
    baseline = load_family("relu").default
    ranked = stored.ranked()
    if top > 0 and not ranked and not given:
        raise InputError(
            f"study {stored.name!r} has no finished candidate to confirm yet; "
            "finish its search, or name one with --candidate"
        )
    curves: list[Curves] = []
    found: list[Contender] = []

    def add(candidate: Drawn, kind: str) -> bool:
        """Add a new shape; one that is not new adds its name to the row it equals."""
        mine = curves_of(candidate)
        for index, other in enumerate(curves):
            if same(mine, other):
                # The study's own near-duplicates are many.
                if kind != "candidate" and _name(candidate) not in found[index].name:
                    name = f"{found[index].name} = {_name(candidate)}"
                    found[index] = replace(found[index], name=name)
                return False
        curves.append(mine)
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
        if not isinstance(candidate, Candidate):
            raise InputError(f"candidates must be Candidates, got {type(candidate).__name__}")
        add(candidate, "given")
    controls: list[Contender | str] = []
    best = best_of(found)
    if forward_control and best is not None:
        controls.append(_forward_control(best))
    if activations:
        controls += _plain_controls(baseline, stored.settings.trial)
    found += [one for one in controls if isinstance(one, Contender)]
    found.sort(key=lambda contender: KINDS.index(contender.kind))
    notes = [one for one in controls if isinstance(one, str)]
    return [replace(one, place=place) for place, one in enumerate(found)], notes


def _plain_controls(baseline: Candidate, trial: "TrialSettings") -> Iterator[Contender | str]:
    """Yield activations, and for a stream the remedies; a note if one does not fit the model."""
    from torch import nn

    modules: dict[str, Callable[[], Any]] = {
        "LeakyReLU": nn.LeakyReLU,
        "LeakyReLU(0.1)": functools.partial(nn.LeakyReLU, 0.1),
        "GELU": nn.GELU,
        "SiLU": nn.SiLU,
        "ELU": nn.ELU,
    }
    chosen = ACTIVATIONS if trial.stream is None else STREAM_ACTIVATIONS
    for name, formula in chosen.items():
        yield Contender(name, "activation", "activation", formula, baseline, modules[name])
    for name, changes in REMEDIES.items() if trial.stream is not None else ():
        one = _remedy(name, baseline, changes)
        unfit = f"No row of {name}: it does not fit {trial.model} or its settings."
        yield one if one.fits(trial) else unfit


def _remedy(name: str, relu: Candidate, changes: Mapping[str, Any]) -> Contender:
    return Contender(name, "remedy", "pseudo-derivative", relu.formula, relu, changes=changes)


def best_of(contenders: Sequence[Contender]) -> Contender | None:
    """Return the study's best candidate, else the first given one."""
    kinds = ("candidate", "given")
    return next((one for kind in kinds for one in contenders if one.kind == kind), None)


def _forward_control(best: Contender) -> Contender | str:
    """The forward control of the best candidate; or a note why there is none."""
    from pdsearch.autograd import forward_control

    candidate = best.candidate
    if isinstance(candidate, Grouped):
        return (
            f"No forward control of {best.name}: no one activation has the shapes of all groups as "
            "its derivative."
        )
    make = functools.partial(forward_control, candidate)
    try:
        make()
    except UnsupportedError as error:
        return f"No forward control of {best.name}: {error}."
    name = f"forward control of {best.name}"
    # Runs of earlier versions, whose control of an upward candidate was upward too, do not count.
    how = "forward" if candidate.direction == "both" else "forward, in both directions"
    return Contender(name, "forward_control", how, best.formula, candidate, make)


def _name(candidate: Drawn) -> str:
    """Its name; of a typed formula the formula itself, because all of those have one name."""
    if isinstance(candidate, Grouped) or candidate.family.name != "formula":
        return candidate.name
    text = re.sub(r"\d*\.\d{7,}", lambda found: f"{float(found[0]):.6g}", candidate.identity)
    return shortened(text, 80)


def _faded_out(candidate: Candidate) -> float:
    """Return the t from which its g is ReLU's derivative; 1 if it does not fade."""
    faded = fading(candidate.family)
    return 1.0 if faded is None else faded.end_of(candidate)


def raised_rate(contender: Contender, run: Mapping[str, Any]) -> Contender | str:
    """Return the control that trains ReLU at a raised early rate, or in a sentence why not.

    Is a pseudo-derivative more than a larger learning rate? For quantisers, gradient estimators
    differ at small learning rates by initialisation and rate alone (arXiv:2405.05171). The control
    has ReLU's own gradient. Until the candidate has faded out (with groups: each group's), its rate
    is raised by the geometric
    mean of the candidate's ratios ‖pseudo-gradient‖ / ‖exact gradient‖ after each epoch or task, to
    three digits. `run` is the record of a test run of the candidate, with diagnostics.
    """
    until = max(_faded_out(part) for part in parts_of(contender.candidate).values())
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
    changes = {"early_rate": {"factor": factor, "until": until}}
    return _remedy(f"ReLU at {factor:g}× its rate{early}", load_family("relu").default, changes)
