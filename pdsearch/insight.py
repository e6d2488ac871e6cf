"""Learned criteria: what a finished study says about the criteria themselves.

Each criterion's value is compared with the accuracy of the trials that got the same, full budget:
Spearman's rank correlation with a bootstrap interval, and a permutation p-value adjusted (Holm) for
the number of criteria that could be judged. This shows an association among the shapes that were
tried. It shows no cause, and nothing about other shapes.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pdsearch.criteria import CRITERIA, PROFILES, RECORDS, gate
from pdsearch.errors import StorageError
from pdsearch.statistics import RankCorrelation, holm, rank_correlation
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.storage import storage_errors
from pdsearch.study.stored import trained_by
from pdsearch.text import columns, ends, p_value, signed

if TYPE_CHECKING:
    from pdsearch.study import StoredStudy, TrialRow

# After adjustment.
LEVEL = 0.05

# Below this many trials no correlation is given: of four, even a perfect order has p = 1/12.
FEWEST = 5

# What diagnostics of a trial saw after its first epoch or task is compared like a criterion: does
# an early look tell how a long training ends? Each with its measure and its statement.
EARLY = {
    "early_cosine": (
        "cosine to the exact gradient",
        "cosine of the pseudo-gradient to the exact gradient, after the first epoch or task",
    ),
    "early_norm_ratio": (
        "norm ratio to the exact gradient",
        "norm of the pseudo-gradient over the exact one's, after the first epoch or task",
    ),
    "early_revived": (
        "share of units that came back",
        "share of units that came back within the first epoch or task, mean over layers",
    ),
}
MET = "whether it is met"

# An enclosure wider than this says too little of its value to be ranked.
WIDEST = 0.01

# These place their trials without looking at results.
UNBIASED = ("random", "grid")


@dataclass(frozen=True)
class Point:
    """One trial of the comparison.

    Attributes:
        trial: Its number.
        name: Of the candidate.
        kind: "baseline", "reference" or "candidate".
        accuracy: Validation accuracy at full budget, a fraction.
    """

    trial: int
    name: str
    kind: str
    accuracy: float


@dataclass(frozen=True)
class Learned:
    """One criterion against accuracy.

    Attributes:
        name: The criterion.
        statement: What it asks, in a sentence.
        measure: What was correlated: its value, in words, or "whether it is met" (0 or 1).
        values: One for each point of the insight; None where the trial has none.
        correlation: Spearman's ρ with accuracy; None if it cannot be judged.
        p_adjusted: Holm's, over the criteria that could be judged.
    """

    name: str
    statement: str
    measure: str
    values: tuple[float | None, ...]
    correlation: RankCorrelation | None
    p_adjusted: float | None

    @property
    def n(self) -> int:
        """Trials with a value."""
        return sum(value is not None for value in self.values)

    @property
    def verdict(self) -> str:
        """One of "evidence", "no evidence", "constant", "too few trials"."""
        if self.correlation is None:
            return "too few trials" if self.n < FEWEST else "constant"
        return (
            "evidence" if self.p_adjusted is not None and self.p_adjusted < LEVEL else "no evidence"
        )

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict == "too few trials":
            return f"only {self.n} trials have a value: no statement"
        if self.correlation is None:
            return "does not vary, or accuracy does not: no statement"
        if self.verdict == "no evidence":
            return "no evidence of a relation to accuracy"
        way = "higher" if self.correlation.rho > 0 else "lower"
        what = "meeting it" if self.measure == MET else f"a larger {self.measure}"
        return f"evidence: {what} goes with {way} accuracy"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite as None."""
        found = self.correlation
        return {
            "name": self.name,
            "statement": self.statement,
            "measure": self.measure,
            "n": self.n,
            "rho": None if found is None else found.rho,
            "ci95": None if found is None or found.interval is None else list(found.interval),
            "p_value": None if found is None else found.p_value,
            "p_adjusted": self.p_adjusted,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "values": list(self.values),
        }


@dataclass(frozen=True)
class Insight:
    """What a study says about its criteria.

    Attributes:
        study: Its name.
        epochs: The budget that every point got.
        sampler: The study's.
        points: The trials compared.
        criteria: One for each criterion.
        notes: What bears on the reading, a sentence each.
    """

    study: str
    epochs: int
    sampler: str
    points: tuple[Point, ...]
    criteria: tuple[Learned, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """One sentence."""
        found = [learned.name for learned in self.criteria if learned.verdict == "evidence"]
        n = len(self.points)
        if found:
            names = ", ".join(found)
            return f"Among {n} trials of {self.epochs} epochs, accuracy is related to {names}."
        if any(learned.correlation for learned in self.criteria):
            return (
                f"No evidence among {n} trials of {self.epochs} epochs that any criterion is "
                "related to accuracy."
            )
        return f"{n} trials of equal budget say nothing about the criteria yet."

    def __str__(self) -> str:
        return insight_table(self)

    def to_dict(self) -> dict[str, Any]:
        """The document of `criteria --json`."""
        return {
            "study": self.study,
            "headline": self.headline,
            "epochs": self.epochs,
            "sampler": self.sampler,
            "points": [vars(point).copy() for point in self.points],
            "criteria": [learned.to_dict() for learned in self.criteria],
            "notes": list(self.notes),
        }


def learned_criteria(
    stored: "StoredStudy", *, rows: "Sequence[TrialRow] | None" = None, decide: int | None = None
) -> Insight:
    """Relate each criterion's value to accuracy over the trials of equal, full budget.

    An enclosure counts with its middle. A criterion without values counts as met or not. Trials of
    the same g count once. The baseline and the references, which got the same budget, are among the
    points.

    Args:
        stored: The study.
        rows: Its trials, if they were read already.
        decide: How many candidates without stored values are decided now, at most; a note counts
            the others. All if None.
    """
    rows = stored.trials() if rows is None else rows
    settings = stored.settings.study
    place = settings.objectives.index("accuracy")
    complete = [row for row in rows if row.status == "complete" and len(row.values) > place]
    # A study around a Python function has no epochs of its own.
    own = trained_by(stored) is None
    longest = max((len(row.epochs) for row in complete), default=0)
    epochs = stored.settings.trial.epochs if own else longest
    used: dict[str, TrialRow] = {}
    for row in complete:
        if row.candidate is None or row.duplicate_of is not None:
            continue
        if math.isfinite(row.values[place]):
            used.setdefault(row.candidate.identity, row)
    compared = list(used.values())
    accuracies = [row.values[place] for row in compared]
    tables, left = _tables(stored, compared, decide=decide)
    names = list(dict.fromkeys(name for table in tables for name in table))
    judged = [_learn(name, tables, accuracies) for name in names]
    adjusted = holm([one.correlation.p_value if one.correlation else None for one in judged])
    return Insight(
        study=stored.name,
        epochs=epochs,
        sampler=settings.sampler,
        points=tuple(
            Point(row.number, row.candidate.name, row.kind, accuracy)
            for row, accuracy in zip(compared, accuracies, strict=True)
            if row.candidate is not None
        ),
        criteria=tuple(replace(one, p_adjusted=p) for one, p in zip(judged, adjusted, strict=True)),
        notes=(*_notes(stored, rows, compared), *_left(stored, left)),
    )


def _left(stored: "StoredStudy", count: int) -> list[str]:
    if count == 0:
        return []
    return [
        f"The criteria that the search did not need were not decided for {count} candidates, which "
        f"are missing there: `pdsearch criteria {stored.name}` decides and keeps them."
    ]


def _tables(
    stored: "StoredStudy", rows: Sequence["TrialRow"], *, decide: int | None
) -> tuple[list[dict[str, Mapping[str, Any]]], int]:
    """Return the verdicts on each trial by criterion, and how many candidates lack some.

    A study's gate decides what its profile requires, and omits the value where the whole family was
    proved. The rest is decided here (about 0.1 s a candidate) and stored with the study.
    """
    with storage_errors(stored.storage):
        kept: dict[str, Any] = dict(StudyAttrs(stored.study).insight or {})
    thresholds = stored.settings.criteria.bounds()
    # By the thresholds too: some values depend on them.
    suffix = f" | {sorted(thresholds.items())}"
    tables, new, left = [], 0, 0
    for row in rows:
        entries = {entry["name"]: entry for entry in (row.criteria or {}).get("criteria", ())}
        valued = {name for name, entry in entries.items() if entry.get("value") is not None}
        if row.candidate is not None and not valued >= PROFILES["strict"]:
            key = row.candidate.formula + suffix
            if key not in kept and decide is not None and new >= decide:
                left += 1
            elif key not in kept:
                new += 1
                report = gate(row.candidate, profile="strict", thresholds=thresholds)
                kept[key] = [
                    {k: entry[k] for k in ("name", "statement", "verdict", "value", "passed")}
                    for entry in report.to_dict()["criteria"]
                ]
            for entry in kept.get(key, ()):
                if entry["name"] not in valued:
                    entries[entry["name"]] = entry
        ours = {name: entries[name] for name in CRITERIA if name in entries}
        tables.append({**ours, **entries, **_early(row)})
    if new:
        # This only saves work for the next call, so a storage that cannot be written to is fine.
        with suppress(StorageError), storage_errors(stored.storage):
            StudyAttrs(stored.study).insight = kept
    return tables, left


def _early(row: "TrialRow") -> dict[str, dict[str, Any]]:
    """What the first look inside of a trial saw, in the form of verdicts."""
    looks = (entry["diagnostics"] for entry in row.epochs if entry.get("diagnostics"))
    first = next(looks, None)
    if first is None:
        return {}
    shares = list(first["revived"].values())
    values = {
        "early_cosine": first["cosine"],
        "early_norm_ratio": first["norm_ratio"],
        "early_revived": sum(shares) / len(shares) if shares else None,
    }
    return {
        name: {
            "name": name,
            "statement": EARLY[name][1],
            "verdict": "measured",
            "value": value,
            "passed": True,
        }
        for name, value in values.items()
        if value is not None
    }


def _measure(name: str) -> str:
    """What a value is, in words; empty where it is no quantity to be ranked."""
    if name in EARLY:
        return EARLY[name][0]
    return RECORDS[name].meaning if name in RECORDS else "value"


def _learn(
    name: str, tables: Sequence[Mapping[str, Mapping[str, Any]]], accuracies: Sequence[float]
) -> Learned:
    entries = [table.get(name) for table in tables]
    numbers = [None if entry is None else _number(entry.get("value")) for entry in entries]
    measure = _measure(name)
    if not measure or all(number is None for number in numbers):
        measure = MET
        numbers = [None if entry is None else _met(entry) for entry in entries]
    pairs = [
        (number, accuracy)
        for number, accuracy in zip(numbers, accuracies, strict=True)
        if number is not None
    ]
    correlation = None
    if len(pairs) >= FEWEST:
        correlation = rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
    statement = next(str(entry["statement"]) for entry in entries if entry is not None)
    return Learned(name, statement, measure, tuple(numbers), correlation, None)


def _number(value: Any) -> float | None:
    """A criterion's value as one number: itself, or the middle of its enclosure."""
    if isinstance(value, list | tuple):
        if len(value) != 2 or any(end is None for end in value):
            return None
        if value[1] - value[0] > WIDEST:
            return None
        value = (value[0] + value[1]) / 2
    if value is None or not math.isfinite(value):
        return None
    # Enclosures of one and the same number differ in their last digits, by up to some 1e-6 (where a
    # bound is decided, no closer is asked for); ranks must not.
    return round(float(value), 5)


def _met(entry: Mapping[str, Any]) -> float | None:
    return None if entry.get("verdict") == "undecided" else float(bool(entry["passed"]))


def _notes(
    stored: "StoredStudy", rows: Sequence["TrialRow"], used: Sequence["TrialRow"]
) -> list[str]:
    notes = []
    sampler = stored.settings.study.sampler
    if stored.minimize:
        notes.append("This study's value is better when smaller; it stands where accuracy is said.")
    if sampler in UNBIASED:
        notes.append(
            f"The {sampler} sampler placed its trials without looking at results, so they stand "
            "for the search space."
        )
    else:
        notes.append(
            f"The {sampler} sampler is adaptive: it crowds its trials where accuracy was high. "
            "They are then neither independent nor spread over the search space, so a correlation "
            "may be weakened, lost or made by that choice, and its p-value is not to be taken at "
            "its word. A study with sampler = 'random' or 'grid' avoids this."
        )
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    for status, why in (
        ("pruned", "stopped early for a low accuracy"),
        ("diverged", "without an accuracy"),
        ("ruled_out", "never trained, so a required criterion hardly varies here"),
    ):
        if counts.get(status):
            notes.append(f"{counts[status]} {status.replace('_', ' ')} trials are left out: {why}.")
    shared = counts.get("complete", 0) - len(used)
    if shared > 0:
        notes.append(
            f"{shared} complete trials are left out: the same g as another, or no finite accuracy."
        )
    return notes


def insight_table(insight: Insight) -> str:
    """The insight for a terminal: headline, table, notes."""
    head = ("criterion", "compared", "n", "ρ", "95 % interval", "p", "p adjusted", "")
    rows = [head]
    for one in insight.criteria:
        found = one.correlation
        rows.append(
            (
                one.name,
                one.measure,
                str(one.n),
                signed(found.rho if found else None),
                ends(found.interval if found else None, signed),
                p_value(found.p_value if found else None),
                p_value(one.p_adjusted),
                one.sentence,
            )
        )
    lines = [insight.headline, "", columns(rows, right=range(2, len(head) - 1))]
    lines += ["", "ρ is Spearman's, between what is compared and validation accuracy."]
    return "\n".join([*lines, *insight.notes])


__all__ = ["Insight", "Learned", "Point", "insight_table", "learned_criteria"]
