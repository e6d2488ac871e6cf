"""A study read once for a page, and the format of its values."""

import shlex
from dataclasses import dataclass
from functools import cached_property

from pdsearch.confirm import Confirmation, load_confirmation
from pdsearch.report.rates import best_run
from pdsearch.study import StoredStudy, TrialRow
from pdsearch.study.rows import ranked
from pdsearch.study.settings import DEFAULT_STORAGE
from pdsearch.study.stored import trained_by
from pdsearch.text import number, percent, points


@dataclass(frozen=True)
class View:
    """A study with its rows read once, so that all parts of a page are consistent.

    `decide` is the most candidates to decide for the learned criteria; None: all.
    """

    stored: StoredStudy
    rows: tuple[TrialRow, ...]
    decide: int | None = None

    @cached_property
    def best(self) -> TrialRow | None:
        """The trial of the best candidate."""
        return next(iter(self.ranked), None)

    @cached_property
    def ranked(self) -> list[TrialRow]:
        """The complete trials of candidates, each g once, in the study's order from the best."""
        return ranked(self.rows, minimize=self.stored.minimize)

    @cached_property
    def runs(self) -> tuple[TrialRow, ...]:
        """The rows, each with the epochs of one run: the one at its best learning rate."""
        return tuple(self._run(row) for row in self.rows)

    def _run(self, row: TrialRow) -> TrialRow:
        settings = self.stored.settings
        return row if self.by_function else best_run(row, settings.trial, settings.legs)

    @property
    def best_run(self) -> TrialRow | None:
        """The best candidate's row among `runs`."""
        return None if self.best is None else self._run(self.best)

    @cached_property
    def baseline(self) -> TrialRow | None:
        """ReLU's last complete trial; if there is none, its last trial with a value."""
        rows = [r for r in self.rows if r.kind == "baseline" and r.value is not None]
        whole = [r for r in rows if r.status == "complete"]
        return whole[-1] if whole else rows[-1] if rows else None

    @cached_property
    def references(self) -> list[TrialRow]:
        """The last trial of each reference that did not fail."""
        found = {
            row.candidate.name: row
            for row in self.rows
            if row.kind == "reference" and row.status != "failed" and row.candidate is not None
        }
        return list(found.values())

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of layers with candidates of their own; without any, one named ""."""
        return tuple(self.stored.settings.study.groups) or ("",)

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates; empty if there is none."""
        return () if self.by_function else tuple(self.stored.settings.trial.learning_rates)

    @property
    def percent(self) -> bool:
        """Whether values are accuracies; a Python function may return anything."""
        return not self.by_function and self.stored.settings.study.objectives[0] == "accuracy"

    @cached_property
    def by_function(self) -> bool:
        """Whether a Python function trains, so that the meaning of values is unknown."""
        return trained_by(self.stored) is not None

    @property
    def title(self) -> str:
        """The meaning of a trial's value."""
        return self.stored.settings.measure if self.percent else "value"

    @property
    def measured(self) -> str:
        """The meaning of the values after each epoch, which may differ from a trial's value."""
        return self.stored.settings.trial.measure if self.percent else "value"

    @property
    def predicted(self) -> bool:
        """Whether values are predictions at a horizon."""
        return self.stored.settings.study.horizon is not None

    @property
    def stream(self) -> bool:
        """Whether trials train on a stream of tasks."""
        return not self.by_function and self.stored.settings.trial.stream is not None

    @property
    def unit(self) -> str:
        """The unit of a trial's records: "epoch" or "task"."""
        return "epoch" if self.by_function else self.stored.settings.trial.unit

    def value(self, value: float | None) -> str:
        """Return a value as text."""
        return (percent(value) if self.percent else number(value)) or "–"

    def difference(self, value: float) -> str:
        """Return a difference of two values as text."""
        return f"{points(value)} points" if self.percent else f"{value:+.4g}"

    def command(self, verb: str, rest: str = "") -> str:
        """Return a shell command for this study."""
        storage = self.stored.storage
        named = "" if storage == DEFAULT_STORAGE else f"--storage {shlex.quote(storage)}"
        parts = ("pdsearch", verb, shlex.quote(self.stored.name), named, rest)
        return " ".join(filter(None, parts))

    @cached_property
    def confirmation(self) -> Confirmation | None:
        """The stored confirmation, if it has rows."""
        found = load_confirmation(self.stored)
        return found if found is not None and found.rows else None
