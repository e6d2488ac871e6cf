"""The runs of a confirmation: each is trained once, by any process, and then stored.

The storage shows which runs are finished. A locked file shows that a process is training one; the
system releases the lock however its holder ends. So no process distributes the runs: a second
`pdsearch confirm` of the same study on this machine helps the first, and takes over if that is
killed.
"""

import functools
import math
import subprocess
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pdsearch import interrupt
from pdsearch.confirm.contenders import Contender
from pdsearch.confirm.runs import Setting, chance_of, epoch_entry, read_runs, run_key
from pdsearch.files import locked
from pdsearch.processes import parent_alive, start
from pdsearch.study.attributes import RUNS, SCHEMA
from pdsearch.study.machine import WORTH, Share
from pdsearch.study.storage import storage_errors

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.study import StoredStudy
    from pdsearch.trial import EpochRecord, TrialResult

PAUSE = 1.0  # seconds between two checks of the runs that other processes train


@dataclass(frozen=True)
class Stage:
    """One model and data set, its rows, and the rates that the search found by such runs.

    `known` holds these rates by the rows' identity.
    """

    setting: Setting
    dataset: "Dataset"
    contenders: list[Contender]
    known: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One run: everything that its record depends on."""

    contender: Contender
    setting: Setting
    dataset: "Dataset"
    seed: int
    split: Literal["validation", "test"]
    rate: float

    @functools.cached_property
    def key(self) -> str:
        """Its attribute in the storage."""
        return run_key(
            self.setting.to_dict(),
            identity=self.contender.identity,
            seed=self.seed,
            split=self.split,
            rate=self.rate,
        )

    def record(self, result: "TrialResult") -> dict[str, Any]:
        """Return its record for the storage."""
        contender, setting = self.contender, self.setting
        # A diverged network's output is not a number: it gets the accuracy of guessing.
        chance = chance_of(setting.trial, self.dataset, seed=self.seed, split=self.split)
        return {
            "schema": SCHEMA,
            "setting": setting.to_dict(),
            "name": contender.name,
            "kind": contender.kind,
            "place": contender.place,
            "how": contender.how,
            "formula": contender.formula,
            "candidate": None if contender.module else contender.candidate.to_dict(),
            **({"changes": dict(contender.changes)} if contender.changes else {}),
            "seed": self.seed,
            "split": self.split,
            "learning_rate": self.rate,
            "accuracy": float(chance if result.diverged else result.value),
            "chance": chance,
            "diverged": result.diverged,
            "epochs": [epoch_entry(record) for record in result.epochs],
            "seconds": float(result.seconds),
            "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        }


@dataclass
class Session:
    """The runs of one call: those that are stored already, and how to train the others.

    `share` has the number of processes and the threads of each; with `auto` further processes start
    only if that saves time. `request` returns what they need. `planned` counts the runs, and
    `passes` the epochs of them all.
    """

    stored: "StoredStudy"
    device: str
    share: Share
    auto: bool
    request: Callable[[], Mapping[str, Any]]
    planned: int
    passes: int
    progress: Callable[[str], None] | None
    helpers: "list[subprocess.Popen[str]]" = field(default_factory=list)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)  # the epochs of runs, by their keys
    trained: int = 0  # epochs
    seconds: float = 0.0

    def recruit(self, seconds: float, count: int) -> None:
        """Start further processes for so many runs, if that saves time."""
        worth = seconds >= WORTH if self.auto else count > 0
        if worth and self.stored.url and not self.helpers:
            for _ in range(min(self.share.workers - 1, count)):
                self.helpers.append(start("pdsearch.confirm.retrain", self.request()))

    @property
    def folder(self) -> Path:
        """The folder of checkpoints and locks."""
        return self.stored.output / "confirm"

    @property
    def left(self) -> int:
        """Number of planned runs that are not finished."""
        return self.planned - len(self.wanted.keys() & self.records.keys())

    @property
    def passes_left(self) -> int:
        """Number of epochs of the planned runs that are not finished."""
        done = self.wanted.keys() & self.records.keys()
        return self.passes - sum(self.wanted[key] for key in done)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Update and return the records in the storage, by their keys."""
        self.records.update(read_runs(self.stored))
        return self.records

    def all_of(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Return the records of runs, training here or in further processes what is missing."""
        keyed = {run.key: run for run in runs}
        self.wanted.update({key: run.setting.trial.passes for key, run in keyed.items()})
        take_turns(
            list(keyed), lambda key: self._do(keyed[key]), done=self.finished, folder=self.folder
        )
        return [self.records[key] for key in keyed]

    def best_rates(self, stage: Stage, contenders: Sequence[Contender]) -> list[float]:
        """Return each one's rate for the test runs: the only one, or the grid's best by validation.

        A known rate of the search is used as it is.
        """
        setting, seed = stage.setting.of_rates(), self.stored.settings.study.seed
        grid = setting.trial.learning_rates
        if not grid:
            return [setting.trial.learning_rate] * len(contenders)
        tried = {
            contender.identity: [
                Run(contender, setting, stage.dataset, seed, "validation", rate) for rate in grid
            ]
            for contender in contenders
            if contender.identity not in stage.known
        }
        self.all_of([run for runs in tried.values() for run in runs])

        def accuracy(run: Run) -> float:
            record = self.records[run.key]
            return -math.inf if record["diverged"] else float(record["accuracy"])

        best = {identity: max(runs, key=accuracy).rate for identity, runs in tried.items()}
        best.update(stage.known)
        return [best[contender.identity] for contender in contenders]

    def _do(self, run: Run) -> None:
        """Train a run and store its record."""
        checkpoint = self.folder / f"{run.key.removeprefix(RUNS)}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        result = self._trained(run, checkpoint)
        record = run.record(result)
        with interrupt.deferred():
            with storage_errors(self.stored.url):
                self.stored.study.set_user_attr(run.key, record)
            # Not before: if the storage refuses, the next call resumes the run from here.
            checkpoint.unlink(missing_ok=True)
            self.records[run.key] = record
        self.trained += run.setting.trial.passes
        self.seconds += result.seconds
        self._tell(run, record)

    def _trained(self, run: Run, checkpoint: Path) -> "TrialResult":
        from pdsearch import trial as training

        setting, contender, alive = run.setting, run.contender, parent_alive()
        of_round = setting.trial.epochs_a_round

        def on_epoch(record: "EpochRecord") -> None:
            passes = self.passes_left - record.epoch * of_round
            self.recruit(record.seconds / of_round * passes, self.left - 1)

        def on_batch(done: int, total: int) -> None:
            interrupt.check()
            if not alive():
                raise KeyboardInterrupt

        return training.run_trial(
            contender.candidate,
            contender.settings(setting.trial).model_copy(
                update={"learning_rate": run.rate, "learning_rates": ()}
            ),
            run.dataset,
            seed=run.seed,
            device=self.device,
            threads=self.share.threads,
            split=run.split,
            on_epoch=on_epoch,
            on_batch=on_batch,
            checkpoint=checkpoint,
            module=contender.module,
            model_source=setting.model_source,
            directory=self.stored.directory,
            diagnostics=True,
        )

    def _tell(self, run: Run, record: Mapping[str, Any]) -> None:
        if self.progress is None:
            return
        self.finished()  # other processes' runs count too
        # Runs that choose a rate may be shorter than the others.
        seconds = self.passes_left * self.seconds / self.trained / (1 + len(self.helpers))
        self.progress(
            f"{self.planned - self.left}/{self.planned} {run.setting.trial.model} on "
            f"{run.setting.trial.dataset}: {run.contender.name}, seed {run.seed}: {run.split} "
            f"accuracy {100 * record['accuracy']:.2f} % ({record['seconds']:.0f} s"
            f"{', diverged' if record['diverged'] else ''}; about {seconds / 60:.0f} min left)"
        )


def take_turns(
    keys: Sequence[str],
    run: Callable[[str], None],
    *,
    done: Callable[[], Container[str]],
    folder: Path,
) -> None:
    """Have every key done, in their order: by `run`, or by another process that is training it.

    `done` returns those that are done, by any process; `folder` holds the locked files.
    """
    left = list(keys)
    while left:
        finished = done()
        left = [key for key in left if key not in finished]
        for key in left:
            lock = folder / f"{key.rpartition('/')[2]}.lock"
            with locked(lock, wait=False) as mine:
                if not mine:
                    continue
                try:
                    if key not in done():  # it may have been finished since
                        run(key)
                finally:
                    lock.unlink(missing_ok=True)
                break
        else:
            if left:
                interrupt.pause(PAUSE)
                interrupt.check()
