"""Learned criteria: how each criterion relates to accuracy in a finished study.

Each criterion's value is compared with the accuracy of the trials that got the same, full budget:
Spearman's rank correlation with a bootstrap interval, and a permutation p-value with Holm's
adjustment. This shows an association among the shapes that were tried. It shows neither a cause nor
anything about other shapes.
"""

import itertools
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from pdsearch.criteria import CRITERIA, PROFILES, RECORDS, gate
from pdsearch.errors import StorageError
from pdsearch.family import Candidate
from pdsearch.statistics import RankCorrelation, holm, rank_correlation
from pdsearch.study import StoredStudy, TrialRow
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.rows import of_group
from pdsearch.study.storage import storage_errors
from pdsearch.study.stored import trained_by
from pdsearch.text import columns, counted, ends, p_value, signed

__all__ = ["Insight", "Learned", "Point", "insight_table", "learned_criteria"]

# Level of the adjusted p-values.
LEVEL = 0.05

# With fewer trials no correlation is given: with four, even a perfect order has p = 1/12.
FEWEST = 5

# Diagnostics after the first epoch or task are compared like criteria, to see whether an early look
# predicts the end of a long training run. name: (key, measure, statement)
EARLY = {
    "early_cosine": (
        "cosine",
        "cosine to the exact gradient",
        "cosine of the pseudo-gradient to the exact gradient, after the first epoch or task",
    ),
    "early_norm_ratio": (
        "norm_ratio",
        "norm ratio to the exact gradient",
        "norm of the pseudo-gradient over the exact one's, after the first epoch or task",
    ),
    "early_revived": (
        "revived",
        "share of units that came back",
        "share of units that came back within the first epoch or task, mean over layers",
    ),
}
MET = "whether it is met"

# A wider enclosure is too vague to be ranked.
WIDEST = 0.01

# Samplers that do not look at results.
UNBIASED = ("random", "grid")

_EXCLUDED = {
    "pruned": "stopped early for a low accuracy",
    "diverged": "without an accuracy",
    "ruled_out": "never trained, so a required criterion hardly varies here",
}


@dataclass(frozen=True)
class Point:
    """One compared trial, by its number."""

    trial: int
    name: str
    kind: str
    accuracy: float  # on validation images, at full budget; a fraction


@dataclass(frozen=True)
class Learned:
    """One criterion compared with accuracy."""

    name: str
    statement: str
    measure: str  # the meaning of its value, or "whether it is met" (0 or 1)
    values: tuple[float | None, ...]  # one for each point of the insight
    correlation: RankCorrelation | None  # with accuracy; None if it cannot be computed
    p_adjusted: float | None = None  # Holm's, over all criteria with a correlation

    @property
    def n(self) -> int:
        """The number of trials with a value."""
        return sum(value is not None for value in self.values)

    @property
    def verdict(self) -> str:
        """One of "evidence", "no evidence", "constant", "too few trials"."""
        if self.correlation is None:
            return "too few trials" if self.n < FEWEST else "constant"
        found = self.p_adjusted is not None and self.p_adjusted < LEVEL
        return "evidence" if found else "no evidence"

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
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
        """Return plain data."""
        found = self.correlation
        return {
            "name": self.name,
            "statement": self.statement,
            "measure": self.measure,
            "n": self.n,
            "rho": found and found.rho,
            "ci95": list(found.interval) if found and found.interval else None,
            "p_value": found and found.p_value,
            "p_adjusted": self.p_adjusted,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "values": list(self.values),
        }


@dataclass(frozen=True)
class Insight:
    """A study's learned criteria."""

    study: str
    epochs: int  # the budget of every point
    sampler: str
    points: tuple[Point, ...]
    criteria: tuple[Learned, ...]
    notes: tuple[str, ...]  # caveats, about a sentence each

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        found = [learned.name for learned in self.criteria if learned.verdict == "evidence"]
        n = len(self.points)
        if found:
            names = ", ".join(found)
            length = counted(self.epochs, "epoch")
            return f"Among {n} trials of {length}, accuracy is related to {names}."
        if any(learned.correlation for learned in self.criteria):
            return (
                f"No evidence among {n} trials of {counted(self.epochs, 'epoch')} that any "
                "criterion is related to accuracy."
            )
        return f"{counted(n, 'trial')} with the same budget: too few for a statement."

    def to_dict(self) -> dict[str, Any]:
        """Return the document of `criteria --json`."""
        return {
            "study": self.study,
            "headline": self.headline,
            "epochs": self.epochs,
            "sampler": self.sampler,
            "points": [asdict(point) for point in self.points],
            "criteria": [learned.to_dict() for learned in self.criteria],
            "notes": list(self.notes),
        }


def learned_criteria(
    stored: StoredStudy, *, rows: Sequence[TrialRow] | None = None, decide: int | None = None
) -> Insight:
    """Relate each criterion's value to accuracy over the trials of equal, full budget.

    An enclosure counts as its midpoint. A criterion without values counts as met or not. Trials
    with the same g count once. The baseline and the references are among the points, because they
    got the same budget. With groups of layers, each group's criteria are compared separately:
    `last:consistent` is the criterion `consistent` of the candidates of the group `last`.

    Args:
        stored: The study.
        rows: The study's trials, if already read.
        decide: The most candidates without stored values to decide now; a note counts the rest.
            None: all.
    """
    settings = stored.settings.study
    rows = stored.trials() if rows is None else rows
    place = settings.objectives.index("accuracy")
    complete = [row for row in rows if row.status == "complete" and len(row.values) > place]
    epochs = stored.settings.trial.epochs
    if trained_by(stored) is not None:  # the settings say nothing about a Python function's epochs
        epochs = max((len(row.epochs) for row in complete), default=0)
    used: dict[str, TrialRow] = {}
    points = []
    for row in complete:
        candidate, accuracy = row.candidate, row.values[place]
        if candidate is None or row.duplicate_of is not None or not math.isfinite(accuracy):
            continue
        if used.setdefault(candidate.identity, row) is row:
            points.append(Point(row.number, candidate.name, row.kind, accuracy))
    tables, undecided = _tables(stored, list(used.values()), decide=decide)
    names = list(dict.fromkeys(name for table in tables for name in table))
    accuracies = [point.accuracy for point in points]
    judged = [_learn(name, tables, accuracies, settings.groups) for name in names]
    adjusted = holm([one.correlation.p_value if one.correlation else None for one in judged])
    notes = _notes(stored, rows, compared=len(used))
    if undecided:
        notes.append(
            f"The criteria that the search did not need were not decided for {undecided} "
            f"candidates and have no values there: `pdsearch criteria {stored.name}` decides and "
            "stores them."
        )
    return Insight(
        study=stored.name,
        epochs=epochs,
        sampler=settings.sampler,
        points=tuple(points),
        criteria=tuple(replace(one, p_adjusted=p) for one, p in zip(judged, adjusted, strict=True)),
        notes=tuple(notes),
    )


def _tables(
    stored: StoredStudy, rows: Sequence[TrialRow], *, decide: int | None
) -> tuple[list[dict[str, Mapping[str, Any]]], int]:
    """Return the verdicts on each trial by criterion, and the number of incomplete candidates.

    With groups of layers, a criterion's name begins with the group's, and a colon. A study's gate
    decides only what its profile requires, and omits the value if the whole family was proved. The
    rest is decided here (about 0.1 s a candidate) and stored with the study.
    """
    with storage_errors(stored.storage):
        kept: dict[str, Any] = dict(StudyAttrs(stored.study).insight or {})
    thresholds = stored.settings.criteria.bounds()
    suffix = f" | {sorted(thresholds.items())}"  # some values depend on the thresholds
    groups: Sequence[str | None] = list(stored.settings.study.groups) or [None]
    tables: list[dict[str, Mapping[str, Any]]] = [{} for _ in rows]
    new = undecided = 0
    for (row, table), group in itertools.product(zip(rows, tables, strict=True), groups):
        own, prefix = (row, "") if group is None else (of_group(row, group), f"{group}:")
        entries = {entry["name"]: entry for entry in (own.criteria or {}).get("criteria", ())}
        valued = {name for name, entry in entries.items() if entry.get("value") is not None}
        if isinstance(own.candidate, Candidate) and not valued >= PROFILES["strict"]:
            key = own.candidate.formula + suffix
            if key not in kept and decide is not None and new >= decide:
                undecided += 1
            elif key not in kept:
                new += 1
                report = gate(own.candidate, profile="strict", thresholds=thresholds)
                kept[key] = [
                    {k: entry[k] for k in ("name", "statement", "verdict", "value", "passed")}
                    for entry in report.to_dict()["criteria"]
                ]
            entries |= {e["name"]: e for e in kept.get(key, ()) if e["name"] not in valued}
        ours = {name: entries[name] for name in CRITERIA if name in entries}
        table |= {prefix + name: entry for name, entry in (ours | entries).items()}
    for row, table in zip(rows, tables, strict=True):
        table |= _early(row)
    if new:
        # Storing only saves the next call work, so a read-only storage is no error.
        with suppress(StorageError), storage_errors(stored.storage):
            StudyAttrs(stored.study).insight = kept
    return tables, undecided


def _early(row: TrialRow) -> dict[str, dict[str, Any]]:
    """Return a trial's first diagnostics in the form of verdicts."""
    first: Mapping[str, Any] = next(
        (entry["diagnostics"] for entry in row.epochs if entry.get("diagnostics")), {}
    )
    found = {}
    for name, (key, _, statement) in EARLY.items() if first else ():
        value = first[key]
        if isinstance(value, Mapping):  # by layer
            value = sum(value.values()) / len(value) if value else None
        if value is not None:
            entry = {"statement": statement, "verdict": "measured", "value": value, "passed": True}
            found[name] = entry
    return found


def _learn(
    name: str,
    tables: Sequence[Mapping[str, Mapping[str, Any]]],
    accuracies: Sequence[float],
    groups: Container[str],
) -> Learned:
    group, _, rest = name.partition(":")
    own = rest if group in groups else name
    entries = [table.get(name) for table in tables]
    numbers = [None if entry is None else _number(entry.get("value")) for entry in entries]
    meaning = RECORDS[own].meaning if own in RECORDS else "value"
    measure = EARLY[own][1] if own in EARLY else meaning
    if not measure or all(number is None for number in numbers):
        measure = MET
        numbers = [
            float(bool(entry["passed"])) if entry and entry.get("verdict") != "undecided" else None
            for entry in entries
        ]
    pairs = [(a, b) for a, b in zip(numbers, accuracies, strict=True) if a is not None]
    correlation = None
    if len(pairs) >= FEWEST:
        correlation = rank_correlation([a for a, _ in pairs], [b for _, b in pairs])
    statement = next(str(entry["statement"]) for entry in entries if entry is not None)
    return Learned(name, statement, measure, tuple(numbers), correlation)


def _number(value: Any) -> float | None:
    """Return a criterion's value as one number: itself, or the midpoint of its enclosure."""
    if isinstance(value, list | tuple):
        if len(value) != 2 or None in value or value[1] - value[0] > WIDEST:
            return None
        value = (value[0] + value[1]) / 2
    if value is None or not math.isfinite(value):
        return None
    # Enclosures of the same number differ by up to about 1e-6, which must not affect ranks.
    return round(float(value), 5)


def _notes(stored: StoredStudy, rows: Sequence[TrialRow], *, compared: int) -> list[str]:
    notes = []
    sampler = stored.settings.study.sampler
    if stored.minimize:
        notes.append("This study minimizes its value, which takes the place of accuracy here.")
    if sampler in UNBIASED:
        notes.append(
            f"The {sampler} sampler placed its trials without looking at results, so they stand "
            "for the search space."
        )
    else:
        notes.append(
            f"The {sampler} sampler is adaptive: it places more trials where accuracy was high. "
            "They are therefore neither independent nor spread over the search space, which may "
            "weaken, hide or create a correlation, and makes its p-value unreliable. "
            "A study with sampler = 'random' or 'grid' avoids this."
        )
    counts = Counter[str](row.status for row in rows)
    for status, why in _EXCLUDED.items():
        if counts[status]:
            kind = f"{status.replace('_', ' ')} trial"
            notes.append(f"Left out: {counted(counts[status], kind)}, {why}.")
    if counts["complete"] > compared:
        notes.append(
            f"Left out: {counted(counts['complete'] - compared, 'complete trial')} with the same g "
            "as another, or without a finite accuracy."
        )
    return notes


def insight_table(insight: Insight) -> str:
    """Return the insight as text: headline, table, notes."""
    head = ("criterion", "compared", "n", "ρ", "95 % interval", "p", "p adjusted", "")
    rows = [head]
    for one in insight.criteria:
        found = one.correlation
        rows.append(
            (
                one.name,
                one.measure,
                str(one.n),
                signed(found.rho) if found else "",
                ends(found.interval, signed) if found else "",
                p_value(found.p_value) if found else "",
                p_value(one.p_adjusted),
                one.sentence,
            )
        )
    lines = [insight.headline, "", columns(rows, right=range(2, len(head) - 1))]
    lines += ["", "ρ is Spearman's rank correlation of what is compared with validation accuracy."]
    return "\n".join([*lines, *insight.notes])
