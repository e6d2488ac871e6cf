"""A study's progress on stderr: two bars on a terminal, else plain lines."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from optuna.trial import FrozenTrial
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from pdsearch.study.rows import TrialRow, best_of, counts_of

if TYPE_CHECKING:
    from pdsearch.study.stored import StoredStudy

QUIET = 20.0  # seconds between plain lines about epochs: short trials get one line each


class Display:
    """Shows a study's progress, or only notes if it is `quiet`; `total` is the study's."""

    def __init__(self, *, quiet: bool, total: int) -> None:
        self._quiet = quiet
        self._total = total
        self._bars = not quiet and sys.stderr.isatty()
        self._study: Any = None
        self._trial: Any = None
        self._spoke = time.monotonic()
        self._drawn = 0.0
        self._epochs = 1
        self._name, self._unit = "", "epoch"

    def __enter__(self) -> Self:
        if self._bars:
            self._study = tqdm(total=self._total, desc="study", unit="trial", position=0)
        return self

    def __exit__(self, *error: object) -> None:
        for bar in (self._trial, self._study):
            if bar is not None:
                bar.close()

    def note(self, text: str) -> None:
        """Show a line, even when quiet."""
        if self._study is not None:
            self._study.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Show a line, unless quiet."""
        if not self._quiet:
            self.note(text)

    def study(self, done: int, *, best: float | None) -> None:
        """Show the count of finished trials in the storage, whichever process ran them."""
        if self._study is not None:
            self._study.n = min(done, self._total)
            if best is not None:
                self._study.set_postfix_str(f"best {best:.4f}", refresh=False)
            self._study.refresh()

    def begin(self, name: str, *, epochs: int | None, unit: str) -> None:
        """Show that a trial begins to train, for so many epochs (or the given unit)."""
        self._name, self._unit, self._epochs = name, unit, epochs or 1
        self._spoke = time.monotonic()
        if self._bars:
            self._trial = tqdm(
                total=epochs,
                desc=name[:40],
                unit=unit,
                position=1,
                leave=False,
                bar_format="{desc}: {percentage:3.0f}% |{bar}| {n:.1f}/{total_fmt}{postfix}"
                if epochs
                else None,
            )

    def batch(self, done: int, total: int) -> None:
        """Show the batches of a run; with several learning rates, each counts anew."""
        now = time.monotonic()
        if self._trial is None or total < 1 or now - self._drawn < 0.1:
            return
        self._drawn = now
        self._trial.n = max(self._trial.n, int(self._trial.n) + (done / total * self._epochs) % 1)
        self._trial.refresh()

    def epoch(self, number: float, value: float) -> None:
        """Show that an epoch is over, or a part of the first one."""
        if self._trial is not None:
            self._trial.n = number
            self._trial.set_postfix_str(f"{value:.4f}")
        elif time.monotonic() - self._spoke > QUIET:
            self._spoke = time.monotonic()
            self.say(f"  {self._name}: {self._unit} {number:.3g}, {value:.4f}")

    def end(self, row: TrialRow, *, done: int, best: float | None) -> None:
        """Show how a trial ended."""
        if self._trial is not None:
            self._trial.close()
            self._trial = None
        name = row.candidate.name if row.candidate else "no candidate"
        value = "" if row.value is None else f" {row.value:.4f}"
        took = "" if row.seconds is None else f" in {row.seconds:.1f} s"
        kind = "" if row.kind == "candidate" else f" ({row.kind})"
        reason = f": {row.reason}" if row.reason else ""
        leader = "" if best is None else f"; best {best:.4f}"
        line = (
            f"[{done}/{self._total}] trial {row.number} {name}{kind}: "
            f"{row.status.replace('_', ' ')}{value}{took}{leader}{reason}"
        )
        if not self._bars:
            self.say(line)
        elif row.status == "failed":
            self.note(line)
        self.study(done, best=best)


class Ends:
    """Shows the trials of a study that end, each once, of all processes or only of this one."""

    def __init__(self, stored: "StoredStudy", display: Display, *, of_others: bool) -> None:
        self._stored, self._display, self._of_others = stored, display, of_others
        self._shown = {row.number for row in stored.trials() if row.ended}

    def show(self, trials: Sequence[FrozenTrial], *, mine: int | None = None) -> None:
        """Show what has ended since the last call; `mine` is this process's last trial.

        `trials` are the study's as they are now.
        """
        rows = self._stored.rows(trials)
        best = best_of(rows, minimize=self._stored.minimize)
        value, done = best.value if best else None, counts_of(rows)["total"]
        new = [row for row in rows if row.ended and row.number not in self._shown]
        done -= sum(row.counts for row in new)
        for row in sorted(new, key=lambda row: row.number == mine):
            done += row.counts
            self._shown.add(row.number)
            if self._of_others or row.number == mine:
                self._display.end(row, done=done, best=value)
        self._display.study(done, best=value)
