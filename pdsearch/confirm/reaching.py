"""Time to accuracy: when each row reaches the accuracy that ReLU ends at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pdsearch.statistics import PairedDifference, paired_difference


@dataclass(frozen=True)
class Reaching:
    """When the runs of a row reach a target accuracy.

    Attributes:
        target: The mean of ReLU's own final accuracies, a fraction.
        epochs: For each seed of the row, epochs, linear between their ends; None if a run never
            reaches the target.
        paired: Epochs less ReLU's at the same seed, over the seeds at which both reach it; None in
            the baseline's own row.
    """

    target: float
    epochs: tuple[float | None, ...]
    paired: PairedDifference | None

    @property
    def never(self) -> int:
        """Number of seeds at which the target is never reached."""
        return self.epochs.count(None)

    @property
    def mean(self) -> float | None:
        """Mean epochs of the runs that reach it; None if none does."""
        reached = [one for one in self.epochs if one is not None]
        return sum(reached) / len(reached) if reached else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        paired = self.paired if self.paired is not None and self.paired.n else None
        return {
            "target": self.target,
            "epochs": list(self.epochs),
            "never": self.never,
            "mean": self.mean,
            "pairs": 0 if paired is None else paired.n,
            "difference": None if paired is None else paired.difference,
            "ci95": None if paired is None or paired.interval is None else list(paired.interval),
            "p_value": None if paired is None else paired.p_value,
        }


def epochs_to(accuracies: Sequence[float | None], target: float, *, start: float) -> float | None:
    """Return the epochs until a target is first reached, linear between the ends of epochs.

    `accuracies` are those after epochs 1, 2, …, `start` is the one before training, that of
    guessing. None if the target is never reached.
    """
    before = start
    if before >= target:
        return 0.0
    for done, accuracy in enumerate(accuracies):
        if accuracy is None:
            return None
        if accuracy >= target:
            return done + (target - before) / (accuracy - before)
        before = accuracy
    return None


def reaching(
    runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], *, own: bool
) -> Reaching | None:
    """Return when a row's runs, by seed, reach the mean of the baseline's final accuracies.

    None for a stream of tasks, if the baseline has not finished a run, or if a record holds no
    accuracies by epoch. `own` says that the row is the baseline's.
    """
    everyone = [*runs, *baseline]
    if not baseline or any(run["setting"]["trial"].get("stream") for run in everyone):
        return None
    if not all(run.get("epochs") for run in everyone if not run["diverged"]):
        return None
    target = sum(run["accuracy"] for run in baseline) / len(baseline)

    def when(run: Mapping[str, Any]) -> float | None:
        if run["diverged"]:
            return None
        accuracies = [entry["accuracy"] for entry in run["epochs"]]
        return epochs_to(accuracies, target, start=run["chance"])

    found = {run["seed"]: when(run) for run in runs}
    if own:
        return Reaching(target, tuple(found.values()), None)
    relu = {run["seed"]: when(run) for run in baseline}
    pairs = [
        (epochs, there)
        for seed, epochs in found.items()
        if epochs is not None and (there := relu.get(seed)) is not None
    ]
    paired = paired_difference([one for one, _ in pairs], [other for _, other in pairs])
    return Reaching(target, tuple(found.values()), paired)
