"""The trials of a study as rows: what each ran for, how it ended, and which are the best."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from pdsearch.family import Candidate
from pdsearch.study.attributes import Kind

Status = Literal["complete", "pruned", "diverged", "ruled_out", "failed", "running", "waiting"]

COUNTED: tuple[Status, ...] = ("complete", "pruned", "diverged", "ruled_out")
"""What a study's total counts; a failed trial is tried again instead."""


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        number: Optuna's number of the trial.
        kind: what it ran for; only a `candidate` can be the study's best.
        status: how it ended, or that it has not.
        candidate: None until one was drawn.
        value: what counts, usually the last epoch's validation accuracy (a fraction); of a pruned
            trial the last one it reached, of one within its first epoch the accuracy there.
        epochs: an entry an epoch, as `pdsearch.trial.EpochRecord`.
        criteria: what the gate found, as `Report.to_dict()`; None where nothing was checked.
        reason: why it was ruled out, stopped or failed.
        seconds: that it took, waiting not included.
        parameters: the candidate's, by the family's own names.
        values: one an objective; empty until complete.
        duplicate_of: the number of the earlier trial of the same g whose result it shares.
        learning_rate: the one that counts, where each candidate tried several.
        seeds: values by further seed, where a near-tie was decided by them; None where it diverged.
        owner: host, process and start time of whoever runs it.
        started: when, in local time of that host.
    """

    number: int
    kind: Kind
    status: Status
    candidate: Candidate | None
    value: float | None
    epochs: tuple[dict[str, Any], ...] = ()
    criteria: dict[str, Any] | None = None
    reason: str | None = None
    seconds: float | None = None
    parameters: dict[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    duplicate_of: int | None = None
    learning_rate: float | None = None
    seeds: dict[int, float | None] = field(default_factory=dict)
    owner: dict[str, Any] | None = None
    started: datetime | None = None


def latest(rows: list[TrialRow]) -> TrialRow | None:
    """Of several attempts the one that did not fail, else the last."""
    good = [row for row in rows if row.status != "failed"]
    return (good or rows)[-1] if rows else None


def finite(value: float | None) -> float | None:
    """Return the value; None if it is no finite number."""
    return value if value is not None and math.isfinite(value) else None


def counts_of(rows: Sequence[TrialRow]) -> dict[str, int]:
    """As `StoredStudy.counts`, of rows at hand."""
    by = {status: sum(row.status == status for row in rows) for status in get_args(Status)}
    by["pruned"] += by["diverged"]
    by["total"] = by["complete"] + by["pruned"] + by["ruled_out"]
    return by


def ranked(rows: Iterable[TrialRow], *, minimize: bool = False) -> list[TrialRow]:
    """The complete candidates, each g once, the best first: what `best`, reports and confirm name.

    By their value over the study's seed. Those that a near-tie put to further seeds stand together,
    where the first of them stands, and among themselves by their mean over the seeds that all of
    them have; one that diverged at such a seed comes after them.
    """
    sign = 1 if minimize else -1
    found = sorted(_distinct(rows), key=lambda row: (sign * (row.value or 0.0), row.number))
    retried = [row for row in found if row.seeds]
    common = set.intersection(*(set(row.seeds) for row in retried)) if retried else set()

    def by_mean(row: TrialRow) -> tuple[bool, float, int]:
        values = [row.value, *(row.seeds[seed] for seed in sorted(common))]
        kept = [value for value in values if value is not None]
        return len(kept) < len(values), sign * sum(kept) / len(kept), row.number

    place = next((place for place, row in enumerate(found) if row.seeds), 0)
    rest = [row for row in found if not row.seeds]
    return [*rest[:place], *sorted(retried, key=by_mean), *rest[place:]]


def _distinct(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The complete candidates, the first of each g."""
    numbers: set[int] = set()
    formulas: set[str] = set()
    found = []
    for row in rows:
        if row.kind != "candidate" or row.status != "complete" or finite(row.value) is None:
            continue
        # A duplicate shares its original's values; of a reference's duplicates the first is named.
        original = row.number if row.duplicate_of is None else row.duplicate_of
        # Two workers may have trained one g at the same time, without knowing of each other.
        formula = f"trial {row.number}" if row.candidate is None else row.candidate.identity
        if original not in numbers and formula not in formulas:
            found.append(row)
        numbers.add(original)
        formulas.add(formula)
    return found


def best_of(rows: Iterable[TrialRow], *, minimize: bool = False) -> TrialRow | None:
    """As `StoredStudy.best`, of rows at hand."""
    return next(iter(ranked(rows, minimize=minimize)), None)
