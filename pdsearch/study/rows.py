"""The trials of a study as rows: the purpose and the outcome of each, and which are the best."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

from pdsearch.criteria import Report
from pdsearch.errors import InputError
from pdsearch.family import Candidate, Drawn, Grouped
from pdsearch.study.attributes import Kind

Status = Literal["complete", "pruned", "diverged", "ruled_out", "failed", "running", "waiting"]


@dataclass(frozen=True)
class TrialRow:
    """One trial of a study.

    Attributes:
        number: Optuna's number of the trial.
        kind: its purpose; only a `candidate` can be the study's best.
        status: how it ended, or that it has not ended.
        candidate: of a study with groups, a `Grouped`, except for ReLU and the references; None
            until one was drawn.
        value: the value that counts, usually the last epoch's validation accuracy (a fraction);
            for a pruned trial the last one it reached, even within its first epoch.
        epochs: an entry per epoch, as `pdsearch.trial.EpochRecord`.
        criteria: the gate's findings, as `Report.to_dict()`; with groups, a criterion is named
            `<group>:<criterion>`; None if nothing was checked.
        reason: why it was ruled out, stopped or failed.
        seconds: its duration without waiting.
        parameters: the candidate's, by their names in the family, with groups `<group>:<name>`.
        values: one per objective; empty until complete.
        duplicate_of: the number of the earlier trial of the same g whose result it shares.
        learning_rate: the one that counts, if each candidate tried several.
        seeds: values by further seed, if these decided a near-tie; None where training diverged.
        owner: host, process and start time of the process that runs it.
        started: when, in that host's local time.
    """

    number: int
    kind: Kind
    status: Status
    candidate: Drawn | None
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

    @property
    def ended(self) -> bool:
        """Whether it neither runs nor waits."""
        return self.status not in ("running", "waiting")

    @property
    def counts(self) -> bool:
        """Whether it counts towards the study's total."""
        return self.ended and self.status != "failed"


def check_drawn(row: TrialRow, groups: Collection[str]) -> None:
    """Check that a trial has a candidate for each of the study's groups, or one for all layers.

    Raises:
        InputError: it has those of other groups, or is ReLU's or a reference's and has several.
    """
    if isinstance(row.candidate, Grouped):
        given = list(row.candidate.parts)
        if row.kind != "candidate" or set(given) != set(groups):
            raise InputError(f"a {row.kind} for the groups {', '.join(given)}, not the study's")


def gated(drawn: Drawn, reports: Mapping[str, Report]) -> dict[str, Any]:
    """Return the gate's findings on a candidate, or on that of each group, as they are stored."""
    if not isinstance(drawn, Grouped):
        return reports[""].to_dict()
    found = {group: report.to_dict() for group, report in reports.items()}
    return {
        "target": drawn.name,
        "profile": next(iter(found.values()))["profile"],
        "passed": all(report["passed"] for report in found.values()),
        "criteria": [
            {**entry, "name": f"{group}:{entry['name']}"}
            for group, report in found.items()
            for entry in report["criteria"]
        ],
    }


def of_group(row: TrialRow, group: str) -> TrialRow:
    """Return a trial with one group's candidate, parameters and criteria.

    ReLU's trial and the references', which have one candidate for all groups, stay as they are.
    """
    if not isinstance(row.candidate, Grouped):
        return row
    part, prefix = row.candidate.parts[group], f"{group}:"
    criteria = row.criteria
    if criteria is not None:
        own = [
            {**entry, "name": entry["name"].removeprefix(prefix)}
            for entry in criteria["criteria"]
            if entry["name"].startswith(prefix)
        ]
        criteria = {**criteria, "criteria": own}
    return replace(row, candidate=part, parameters=dict(part.parameters), criteria=criteria)


def _latest(rows: list[TrialRow]) -> TrialRow:
    """Return the last attempt that did not fail, else the last one."""
    return ([row for row in rows if row.status != "failed"] or rows)[-1]


def baseline_of(rows: Iterable[TrialRow]) -> TrialRow | None:
    """Return the trial of true ReLU; None if it has not begun."""
    attempts = [row for row in rows if row.kind == "baseline"]
    return _latest(attempts) if attempts else None


def references_of(rows: Iterable[TrialRow]) -> dict[str, TrialRow]:
    """Return the references' trials by family name."""
    attempts: dict[str, list[TrialRow]] = {}
    for row in rows:
        if row.kind == "reference" and isinstance(row.candidate, Candidate):
            attempts.setdefault(row.candidate.family.name, []).append(row)
    return {name: _latest(some) for name, some in attempts.items()}


def finite(value: float | None) -> float | None:
    """Return the value; None if it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def counts_of(rows: Sequence[TrialRow]) -> dict[str, int]:
    """Count rows by status; `total` are those that count towards the study's total.

    `pruned` includes the diverged ones, which `diverged` also counts separately.
    """
    by = {status: sum(row.status == status for row in rows) for status in get_args(Status)}
    by["pruned"] += by["diverged"]
    by["total"] = sum(row.counts for row in rows)
    return by


def ranked(rows: Iterable[TrialRow], *, minimize: bool = False) -> list[TrialRow]:
    """Return the complete candidates, each g once, the best first.

    They are sorted by their value at the study's seed. Near-tied ones with further seeds stay
    together at the place of the best of them. Their order is that of their means over the seeds
    that all of them have; those that diverged at such a seed come last.
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
    """Return the complete candidates, the first of each g."""
    numbers: set[int] = set()
    formulas: set[str] = set()
    found = []
    for row in rows:
        if row.kind != "candidate" or row.status != "complete" or finite(row.value) is None:
            continue
        # A duplicate has its original's values. Of a reference's duplicates the first is kept.
        original = row.number if row.duplicate_of is None else row.duplicate_of
        # Two workers may have trained the same g at the same time.
        formula = f"trial {row.number}" if row.candidate is None else row.candidate.identity
        if original not in numbers and formula not in formulas:
            found.append(row)
        numbers.add(original)
        formulas.add(formula)
    return found


def best_of(rows: Iterable[TrialRow], *, minimize: bool = False) -> TrialRow | None:
    """Return the first of `ranked`; None if there is none."""
    return next(iter(ranked(rows, minimize=minimize)), None)
