"""ReLU at a raised early rate: is a pseudo-derivative more than a larger learning rate?

For quantisers, gradient estimators differ at small learning rates by initialisation and rate alone
(arXiv:2405.05171). This control has ReLU's own gradient, and its rate times what the candidate's
gradient is longer by, for as long as the candidate uses a gradient of its own.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pdsearch.confirm.contenders import Contender
from pdsearch.family import fading, load_family

if TYPE_CHECKING:
    from pdsearch.family import Candidate

__all__ = ["raised_rate"]


def raised_rate(contender: Contender, run: Mapping[str, Any]) -> Contender | str:
    """The control of a candidate, by the norm ratio that a run of it showed.

    The factor is the geometric mean of the ratios ‖pseudo-gradient‖ / ‖exact gradient‖ after each
    epoch or task before the candidate has faded out, to three digits.

    Args:
        contender: the candidate.
        run: the record of one of its test runs, with diagnostics.

    Returns:
        The control; or, in a sentence, why there is none.
    """
    until = _end(contender.candidate)
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
        return f"{without} has no gradient of its own at the end of its first {_unit(run)}."
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


def _end(candidate: "Candidate") -> float:
    """The share of training after which a candidate's g is the step; 1 if it does not fade."""
    found = fading(candidate.family)
    if found is None:
        return 1.0
    return float(candidate.parameters[found.end] if isinstance(found.end, str) else found.end)


def _unit(run: Mapping[str, Any]) -> str:
    return "task" if run["setting"]["trial"].get("stream") else "epoch"
