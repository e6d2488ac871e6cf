"""The retraining: who takes part, what each run is, and what the storage keeps of it."""

import functools
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pdsearch import interrupt
from pdsearch.confirm.contenders import Contender, choose_contenders
from pdsearch.confirm.outcome import Confirmation, how_of, identity_of
from pdsearch.confirm.runs import (
    PREFIX,
    SCHEMA,
    Setting,
    assemble_all,
    chance_of,
    epoch_entry,
    hardware,
    keep_run,
    read_runs,
    run_key,
    trials_of,
    versions,
)
from pdsearch.confirm.together import take_turns
from pdsearch.errors import InputError
from pdsearch.study.begin import other_versions
from pdsearch.study.kept import clean
from pdsearch.study.patience import STORAGE_WAIT
from pdsearch.study.storage import storage_errors, waiting
from pdsearch.study.stored import trained_by
from pdsearch.study.trust import check_output, runnable
from pdsearch.study.workers import WORTH, end_all, parent_alive, share_out, start

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.family import Candidate
    from pdsearch.study import StoredStudy
    from pdsearch.trial import EpochRecord

# Confirmation seeds are the study's seed plus this and up: far from those a search uses (its own
# seed and, for near-ties, the few after it).
FIRST_SEED = 1000


@dataclass
class _Session:
    """The runs of one call: what is stored already, and how to make what is not."""

    stored: "StoredStudy"
    device: str
    threads: int
    progress: Callable[[str], None] | None
    planned: int
    recruit: Callable[[float, int], int]
    """Told the seconds and the runs that are left, has others help; says how many are at it."""
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: dict[str, "_Run"] = field(default_factory=dict)
    trained: int = 0
    seconds: float = 0.0

    def all_of(self, runs: Sequence["_Run"]) -> list[dict[str, Any]]:
        """The records of runs: from the storage, or made here or by others beside."""
        keyed = {run.key: run for run in runs}
        self.known.update(keyed)
        folder = self.stored.output / "confirm"
        take_turns(list(keyed), lambda key: self.run(keyed[key]), done=self.finished, folder=folder)
        return [self.records[key] for key in keyed]

    def finished(self) -> dict[str, dict[str, Any]]:
        """The records by their keys, as the storage has them now."""
        self.records.update(read_runs(self.stored))
        return self.records

    @property
    def left(self) -> int:
        """Runs that are planned and not finished."""
        return self.planned - sum(key in self.records for key in self.known)

    def run(self, run: "_Run") -> None:
        """Trains one, and stores its record."""
        from pdsearch import trial as training

        contender, setting, dataset, key = run.contender, run.setting, run.dataset, run.key
        seed, split, rate = run.seed, run.split, run.rate
        checkpoint = self.stored.output / "confirm" / f"{key.removeprefix(PREFIX)}.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        alive = parent_alive()

        def on_epoch(record: "EpochRecord") -> None:
            rounds = setting.trial.rounds
            runs = self.left - 1 + (rounds - record.epoch) / rounds
            self.recruit(record.seconds * rounds * runs, self.left - 1)

        def on_batch(done: int, total: int) -> None:
            interrupt.check()
            if not alive():
                raise KeyboardInterrupt

        result = training.run_trial(
            contender.candidate,
            contender.settings(setting.trial).model_copy(
                update={"learning_rate": rate, "learning_rates": ()}
            ),
            dataset,
            seed=seed,
            device=self.device,
            threads=self.threads,
            split=split,
            on_epoch=on_epoch,
            on_batch=on_batch,
            checkpoint=checkpoint,
            module=contender.module,
            model_source=setting.model_source,
            directory=self.stored.directory,
        )
        # A diverged network's output is no number: what it can claim is the accuracy of guessing.
        chance = chance_of(setting.trial, dataset, seed=seed, split=split)
        accuracy = chance if result.diverged else result.value
        record = {
            "schema": SCHEMA,
            "setting": setting.to_dict(),
            "name": contender.name,
            "kind": contender.kind,
            "place": contender.place,
            "how": contender.how,
            "formula": contender.formula,
            "candidate": None if contender.module else contender.candidate.to_dict(),
            **({"changes": dict(contender.changes)} if contender.changes else {}),
            "seed": seed,
            "split": split,
            "learning_rate": rate,
            "accuracy": float(accuracy),
            "chance": chance,
            "diverged": result.diverged,
            "epochs": [epoch_entry(record) for record in result.epochs],
            "seconds": float(result.seconds),
            "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        with interrupt.deferred():
            keep_run(self.stored, key, record)
            # Not before: where the storage refuses, the next call takes the run up from here.
            checkpoint.unlink(missing_ok=True)
            self.records[key] = record
        self.trained += 1
        self.seconds += result.seconds
        if self.progress is not None:
            at_it = 1 + self.recruit(0.0, 0)
            minutes = self.left * self.seconds / self.trained / 60 / at_it
            self.progress(
                f"{self.planned - self.left}/{self.planned} {setting.trial.model} on "
                f"{setting.trial.dataset}: {contender.name}, seed {seed}: {split} accuracy "
                f"{100 * accuracy:.2f} % ({result.seconds:.0f} s"
                f"{', diverged' if result.diverged else ''}; at most {minutes:.0f} min left)"
            )

    def best_rates(
        self,
        contenders: Sequence[Contender],
        setting: Setting,
        dataset: "Dataset",
        *,
        seed: int,
        known: Mapping[str, float],
    ) -> list[float]:
        """Each one's rate for the test runs: the only one, or the grid's best by validation.

        `known` are those of whom the search itself has made these very runs.
        """
        grid = tuple(setting.trial.learning_rates)
        if not grid:
            return [float(setting.trial.learning_rate)] * len(contenders)
        runs = [
            _Run(contender, setting.of_rates(), dataset, seed, "validation", rate)
            for contender in contenders
            if contender.identity not in known
            for rate in grid
        ]
        # One that diverged is no choice, whatever guessing would reach.
        found = [
            -math.inf if record["diverged"] else record["accuracy"] for record in self.all_of(runs)
        ]
        each = iter([found[at : at + len(grid)] for at in range(0, len(found), len(grid))])
        return [
            known[contender.identity]
            if contender.identity in known
            else float(max(zip(next(each), grid, strict=True), key=lambda pair: pair[0])[1])
            for contender in contenders
        ]


@dataclass(frozen=True)
class _Run:
    """One run: all that its record depends on."""

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


@interrupt.handled()
def confirm(
    stored: "StoredStudy",
    *,
    seeds: int | None = None,
    top: int = 3,
    epochs: int | None = None,
    rate_epochs: int | None = None,
    candidates: Sequence["Candidate"] = (),
    controls: bool = False,
    forward_control: bool = False,
    transfer: Sequence[str] = (),
    device: str = "auto",
    threads: int | None = None,
    seed: int | None = None,
    workers: int | Literal["auto"] = "auto",
    trust_study_code: bool = False,
    storage_wait: float = STORAGE_WAIT,
    progress: Callable[[str], None] | None = None,
) -> Confirmation:
    """Retrains the study's best candidates, its references and the baseline over the same seeds.

    Args:
        stored: The study.
        seeds: How many; the study file's `confirm.seeds` if left out.
        top: How many of the study's best candidates, distinct in g.
        epochs: Of each run; the study file's `confirm.epochs` if left out.
        rate_epochs: Of each run that chooses a learning rate of the study's grid; the study file's
            `confirm.rate_epochs` if left out, else `epochs`. With as many as a trial of the search
            has, a row that the search trained to its end keeps the rate it was best at there.
        candidates: More to retrain beside them.
        controls: Also retrain the activation whose true derivative is the best candidate's g, and
            plain LeakyReLU, GELU and SiLU; of a stream of tasks, LeakyReLU of slope 0.01 and 0.1,
            ELU, and ReLU with each of `REMEDIES`.
        forward_control: Of the controls the first alone.
        transfer: `MODEL@DATASET`: the same rows again there.
        device: As for a search.
        threads: CPU threads of a run; as the study's trials have them if left out.
        seed: The first seed; `FIRST_SEED` above the study's if left out.
        workers: Processes side by side on this machine, as for a search.
        trust_study_code: As for `worker`.
        storage_wait: As for `search`.
        progress: Called with one line for each finished run.

    Returns:
        Every row retrained under these settings, those of earlier calls included.

    Raises:
        InputError: On a number below 1, an unknown model or data set, or a study with nothing to
            confirm.
    """
    from pdsearch.autograd import convert
    from pdsearch.data import load_dataset
    from pdsearch.family import load_family
    from pdsearch.models import build_model, check_trains, example_images, source_digest
    from pdsearch.study.content import CONTENT, content_of, other_content
    from pdsearch.trial import check_room, resolve_device

    if trained_by(stored) is not None:
        raise InputError(
            f"study {stored.name!r} trains by a Python function, which knows no test set to "
            "confirm on: call the function over several seeds, for the candidate and for ReLU"
        )
    stored = runnable(stored, trust=trust_study_code, gates=False, say=progress)
    check_output(stored.output)
    settings = stored.settings
    n = settings.confirm.seeds if seeds is None else seeds
    budget = settings.confirm.epochs if epochs is None else epochs
    tuning = settings.confirm.rate_epochs if rate_epochs is None else rate_epochs
    for name, number, least in (
        ("seeds", n, 1),
        ("top", top, 0),
        ("epochs", budget, 1),
        ("rate_epochs", tuning, 1),
    ):
        if number is not None and number < least:
            raise InputError(f"{name} must be at least {least}, got {number}")
    if rate_epochs is not None and not settings.trial.learning_rates:
        raise InputError(
            f"study {stored.name!r} has one learning rate, so rate_epochs decides nothing: it is "
            "for a study with trial.learning_rates"
        )
    if tuning == budget or not settings.trial.learning_rates:
        tuning = None  # the usual case, under the key it always had
    first = settings.study.seed + FIRST_SEED if seed is None else seed
    contenders, notes = choose_contenders(
        stored,
        top=top,
        given=candidates,
        forward_control=controls or forward_control,
        activations=controls,
    )
    place = resolve_device(device)
    trials, remarks = trials_of(stored, budget=budget, transfer=transfer)
    # All are loaded before the first run, so that a misspelt one does not end hours of training.
    data = {
        name: load_dataset(name, directory=stored.directory)
        for name in dict.fromkeys(t.dataset for t in trials)
    }
    for one in trials:
        check_room(one, data[one.dataset])
    for other in trials[1:]:
        images = len(data[other.dataset].train_images)
        if other.batch_size > images:
            raise InputError(
                f"trial.batch_size: {other.batch_size} is more than the {images} training images "
                f"of {other.dataset!r}, so nothing can be transferred there"
            )
        classes = len(data[other.dataset].classes)
        model = build_model(
            other.model, classes=classes, directory=stored.directory, **other.network
        )
        model = convert(model, load_family("relu").default, example=example_images())
        check_trains(model, other.model)
    where, made_with = hardware(place), versions()
    stages = [
        Setting(
            trial,
            data[trial.dataset].fingerprint,
            where,
            made_with,
            rate_epochs=tuning,
            model_source=source_digest(trial.model, directory=stored.directory),
        )
        for trial in trials
    ]
    searched = _searched_rates(stored) if (tuning or budget) == settings.trial.epochs else {}
    with storage_errors(stored.url):
        clean(stored.study)
        kept = stored.study.user_attrs
    begun_with = kept.get(f"pdsearch:{CONTENT}", {})
    home = content_of(settings.trial, data[settings.trial.dataset], directory=stored.directory)
    if changes := other_content(begun_with, home):
        searched = {}
        remarks.append(f"The search was made with other content of {', '.join(changes)}.")
    if line := other_versions(kept):
        remarks.append(f"{line[:1].upper()}{line[1:]}.")
    # A remedy may not fit another model.
    fitting = [[one for one in contenders if one.fits(stage.trial)] for stage in stages]
    rows = sum(map(len, fitting))
    grids = rows - sum(one.identity in searched for one in contenders)
    runs = rows * n + grids * len(settings.trial.learning_rates)
    share = share_out(
        workers,
        device=str(place),
        threads=threads or kept.get("pdsearch:threads"),
    )
    helpers: list[subprocess.Popen[str]] = []

    def recruit(seconds: float, count: int) -> int:
        """Starts the further processes where they gain more than their start takes."""
        worth = seconds >= WORTH if workers == "auto" else count > 0
        if not helpers and worth and stored.url:
            request = {
                "study": stored.name,
                "storage": stored.url,
                "file": settings.model_dump(mode="json"),
                "directory": str(stored.directory),
                "output": str(stored.output),
                "seeds": n,
                "top": top,
                "epochs": budget,
                "rate_epochs": (tuning or budget) if settings.trial.learning_rates else None,
                "candidates": [candidate.to_dict() for candidate in candidates],
                "controls": controls,
                "forward_control": forward_control,
                "transfer": list(transfer),
                "device": device,
                "threads": share.threads,
                "seed": first,
                "storage_wait": storage_wait,
                "progress": progress is not None,
            }
            for _ in range(min(share.workers - 1, count)):
                helpers.append(start("pdsearch.confirm.helper", request))
        return len(helpers)

    session = _Session(stored, str(place), share.threads, progress, runs, recruit)
    remarks += _of_other_versions(session.finished().values(), stages)
    with waiting(
        stored.study,
        seconds=storage_wait,
        say=progress or (lambda text: print(text, file=sys.stderr)),
        wanted=parent_alive(),
    ):
        try:
            if workers != "auto":
                recruit(math.inf, runs)
            for setting, those in zip(stages, fitting, strict=True):
                dataset = data[setting.trial.dataset]
                rates = session.best_rates(
                    those,
                    setting,
                    dataset,
                    seed=settings.study.seed,
                    known=searched if setting is stages[0] else {},
                )
                # Seed by seed, so that what an interruption leaves behind is already paired.
                session.all_of(
                    [
                        _Run(contender, setting, dataset, number, "test", rate)
                        for number in range(first, first + n)
                        for contender, rate in zip(those, rates, strict=True)
                    ]
                )
        finally:
            end_all(helpers)
    with suppress(OSError):  # not empty: another call is at work
        (stored.output / "confirm").rmdir()
    told = [setting.to_dict() for setting in stages]
    found = assemble_all(stored, told, session.records.values())
    return replace(found, notes=(*found.notes, *notes, *remarks))


def _of_other_versions(
    records: Iterable[Mapping[str, Any]], stages: Sequence[Setting]
) -> list[str]:
    """A note on finished runs that would be among the rows, had other versions not made them."""

    def alike(setting: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in setting.items() if key != "versions"}

    told = [stage.to_dict() for stage in stages]
    settings = [record["setting"] for record in records if record["split"] == "test"]
    count = sum(
        setting not in told and any(alike(setting) == alike(one) for one in told)
        for setting in settings
    )
    one = "run is" if count == 1 else "runs are"
    return [f"{count} finished {one} left out: other versions made them."] if count else []


def _searched_rates(stored: "StoredStudy") -> dict[str, float]:
    """The best rate of each candidate that the search trained to its end, by `identity`."""
    return {
        identity_of(row.candidate.formula, how=how_of(row.candidate)): row.learning_rate
        for row in stored.trials()
        if row.status == "complete" and row.candidate is not None and row.learning_rate is not None
    }
