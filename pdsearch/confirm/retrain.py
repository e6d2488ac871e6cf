"""`confirm`: the rows, on each model and data set, in several processes."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pdsearch import interrupt
from pdsearch.confirm.contenders import Contender, best_of, choose_contenders, raised_rate
from pdsearch.confirm.outcome import Confirmation, how_of, identity_of
from pdsearch.confirm.runs import Setting, assemble_all, hardware, trials_of, versions
from pdsearch.confirm.session import Run, Session, Stage
from pdsearch.errors import InputError
from pdsearch.family import Candidate, load_family
from pdsearch.processes import end_all, parent_alive
from pdsearch.study.attributes import StudyAttrs, clean
from pdsearch.study.begin import other_versions
from pdsearch.study.file import validate
from pdsearch.study.machine import share_out
from pdsearch.study.patience import STORAGE_WAIT
from pdsearch.study.storage import storage_errors, waiting
from pdsearch.study.stored import open_study, trained_by
from pdsearch.study.trust import check_output, runnable

if TYPE_CHECKING:
    from pdsearch.data import Dataset
    from pdsearch.study import StoredStudy
    from pdsearch.trial import TrialSettings

# Added to the study's seed: far from the seeds of a search (its own and, for near-ties, the next).
FIRST_SEED = 1000


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
    """Retrain the study's best candidates, its references and the baseline over the same seeds.

    Args:
        stored: The study.
        seeds: Number of seeds; default: the study file's `confirm.seeds`.
        top: Number of the study's best candidates, distinct in g.
        epochs: Of each run; default: the study file's `confirm.epochs`.
        rate_epochs: Of each run that chooses a learning rate of the study's grid; default: the
            study file's `confirm.rate_epochs`, else `epochs`. If a trial of the search has as many,
            a row that the search trained to its end keeps its best rate.
        candidates: More to retrain.
        controls: Also retrain the activation whose true derivative is the best candidate's g,
            plain LeakyReLU, GELU and SiLU (with a stream of tasks, LeakyReLU of slope 0.01 and 0.1,
            ELU, and ReLU with each of `REMEDIES`), and ReLU at a raised early rate (see
            `raised_rate`).
        forward_control: Also retrain the first of these controls.
        transfer: `MODEL@DATASET`: the same rows there too.
        device: As for a search.
        threads: CPU threads of a run; default: as the study's trials.
        seed: The first seed; default: `FIRST_SEED` above the study's.
        workers: Processes on this machine, as for a search.
        trust_study_code: As for `worker`.
        storage_wait: As for `search`.
        progress: Called with one line for each finished run.

    Returns:
        Every row retrained under these settings, those of earlier calls included.

    Raises:
        InputError: A number is below 1, a model or data set is unknown, or the study has nothing to
            confirm.
    """
    _check_study(stored, forward_only=forward_control and not controls)
    stored = runnable(stored, trust=trust_study_code, gates=False, say=progress)
    check_output(stored.output)
    defaults, trial = stored.settings.confirm, stored.settings.trial
    epochs = defaults.epochs if epochs is None else epochs
    tuning = defaults.rate_epochs if rate_epochs is None else rate_epochs
    asked = Asked(
        seeds=defaults.seeds if seeds is None else seeds,
        top=top,
        epochs=epochs,
        rate_epochs=epochs if tuning is None else tuning,
        controls=controls,
        forward_control=forward_control,
        transfer=tuple(transfer),
        device=device,
        threads=threads,
        seed=stored.settings.study.seed + FIRST_SEED if seed is None else seed,
        storage_wait=storage_wait,
    )
    asked.check()
    if rate_epochs is not None and not trial.learning_rates:
        raise InputError(
            f"study {stored.name!r} has one learning rate, so rate_epochs decides nothing: it is "
            "for a study with trial.learning_rates"
        )
    if not trial.learning_rates:
        asked = replace(asked, rate_epochs=None)
    contenders, notes = choose_contenders(
        stored,
        top=top,
        given=candidates,
        forward_control=controls or forward_control,
        activations=controls,
    )
    stages, remarks = _stages(stored, contenders, asked)
    # ReLU at a raised early rate is compared with it: one more row in each stage.
    raised = best_of(contenders) if controls else None
    session = _session(stored, stages, asked, candidates, progress, workers, raised)
    remarks += _of_other_versions(session.records.values(), stages)
    with waiting(
        stored.study,
        seconds=storage_wait,
        say=progress or (lambda text: print(text, file=sys.stderr)),
        wanted=parent_alive(),
    ):
        try:
            if workers != "auto":
                session.recruit(math.inf, session.planned)
            for stage in stages:
                notes += _train(session, stage, asked, raised)
        finally:
            end_all(session.helpers)
    with suppress(OSError):  # not empty: another call is running
        session.folder.rmdir()
    settings = [stage.setting.to_dict() for stage in stages]
    found = assemble_all(stored, settings, session.records.values())
    return replace(found, notes=(*found.notes, *notes, *remarks))


def work(request: dict[str, Any]) -> None:
    """Take part as one of a confirmation's further processes, until all is done.

    The study file comes from the process that started this one, not from the storage.
    """
    loud, asked = request["progress"], Asked(**request["asked"])
    directory = Path(request["directory"])
    file = validate(request["file"], directory=directory)
    stored = replace(
        open_study(request["study"], storage=request["storage"]),
        settings=file,
        output=Path(request["output"]),
        trusted=True,
    )
    confirm(
        stored,
        candidates=[Candidate.from_dict(entry) for entry in request["candidates"]],
        workers=1,
        progress=(lambda line: print(line, file=sys.stderr, flush=True)) if loud else None,
        **vars(asked),
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `confirm`, defaults filled in; no `rate_epochs` without a grid of rates."""

    seeds: int
    top: int
    epochs: int
    rate_epochs: int | None
    controls: bool
    forward_control: bool
    transfer: Sequence[str]
    device: str
    threads: int | None
    seed: int
    storage_wait: float

    def check(self) -> None:
        """Raise `InputError` if a number is too small."""
        for name, least in (("seeds", 1), ("top", 0), ("epochs", 1), ("rate_epochs", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise InputError(f"{name} must be at least {least}, got {number}")


def _check_study(stored: "StoredStudy", *, forward_only: bool) -> None:
    """Raise `InputError` if the study, or with groups its forward control, cannot be trained."""
    if trained_by(stored) is not None:
        raise InputError(
            f"study {stored.name!r} trains by a Python function, which has no test set to "
            "confirm on: call the function over several seeds, for the candidate and for ReLU"
        )
    if forward_only and stored.settings.study.groups:
        raise InputError(
            f"study {stored.name!r} has groups of layers: no one activation has the shapes of all "
            "groups as its derivative, so there is no forward control; --controls adds the others"
        )


def _stages(
    stored: "StoredStudy", contenders: Sequence[Contender], asked: Asked
) -> tuple[list[Stage], list[str]]:
    """Return the study's own model and data set, each transfer, and notes."""
    from pdsearch.data import load_dataset
    from pdsearch.models import source_digest
    from pdsearch.study.sources import content_of, other_content
    from pdsearch.trial import check_room, resolve_device

    settings, directory = stored.settings, stored.directory
    where, made_with = hardware(resolve_device(asked.device)), versions()
    trials, remarks = trials_of(stored, budget=asked.epochs, transfer=asked.transfer)
    # Before the first run, so that a misspelt name does not end hours of training.
    names = dict.fromkeys(trial.dataset for trial in trials)
    size, channels = settings.trial.image_size, settings.trial.channels
    data = {
        name: load_dataset(name, directory=directory, image_size=size, channels=channels)
        for name in names
    }
    for trial in trials:
        check_room(trial, data[trial.dataset])
    for trial in trials[1:]:
        _check_transfer(trial, data[trial.dataset], stored)
    same = asked.rate_epochs == settings.trial.epochs and settings.study.horizon is None
    searched = _searched_rates(stored) if same else {}
    with storage_errors(stored.url):
        clean(stored.study)
        begun_with = StudyAttrs(stored.study).content or {}
    home = content_of(settings.trial, data[settings.trial.dataset], directory=directory)
    if changes := other_content(begun_with, home):
        searched = {}
        remarks.append(f"The search was made with other content of {', '.join(changes)}.")
    if line := other_versions(StudyAttrs(stored.study)):
        remarks.append(f"{line[:1].upper()}{line[1:]}.")
    stages: list[Stage] = []
    for trial in trials:
        setting = Setting(
            trial,
            data[trial.dataset].fingerprint,
            where,
            made_with,
            # Keys of runs have none in the usual case.
            rate_epochs=None if asked.rate_epochs == asked.epochs else asked.rate_epochs,
            model_source=source_digest(trial.model, directory=directory),
        )
        fitting = [one for one in contenders if one.fits(trial)]
        known = {} if stages else searched
        stages.append(Stage(setting, data[trial.dataset], fitting, known))
    return stages, remarks


def _of_other_versions(records: Iterable[Mapping[str, Any]], stages: Sequence[Stage]) -> list[str]:
    """A note on finished runs that are left out only because other versions made them."""

    def alike(setting: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in setting.items() if key != "versions"}

    ours = [stage.setting.to_dict() for stage in stages]
    settings = [record["setting"] for record in records if record["split"] == "test"]
    count = sum(setting not in ours and alike(setting) in map(alike, ours) for setting in settings)
    runs = "run is" if count == 1 else "runs are"
    return [f"{count} finished {runs} left out: other versions made them."] if count else []


def _check_transfer(trial: "TrialSettings", dataset: "Dataset", stored: "StoredStudy") -> None:
    """Check that a batch can be filled there, and that the model can be built and trained."""
    from pdsearch.models import check_network

    images = len(dataset.train_images)
    if trial.batch_size > images:
        raise InputError(
            f"trial.batch_size: {trial.batch_size} is more than the {images} training images "
            f"of {trial.dataset!r}, so nothing can be transferred there"
        )
    check_network(
        trial.network,
        classes=len(dataset.classes),
        shape=dataset.shape,
        sites=trial.sites,
        directory=stored.directory,
        candidate=stored.settings.study.everywhere(load_family("relu").default),
    )


def _session(
    stored: "StoredStudy",
    stages: Sequence[Stage],
    asked: Asked,
    candidates: Sequence[Candidate],
    progress: Callable[[str], None] | None,
    workers: int | Literal["auto"],
    raised: Contender | None,
) -> Session:
    """Return the runs of a call, with the finished ones."""
    from pdsearch.trial import resolve_device

    further = 0 if raised is None else 1
    grid = len(stored.settings.trial.learning_rates)
    planned = passes = 0
    for stage in stages:
        rows = len(stage.contenders) + further
        chosen = sum(one.identity in stage.known for one in stage.contenders)
        tests, choices = rows * asked.seeds, (rows - chosen) * grid
        planned += tests + choices
        passes += tests * stage.setting.trial.passes
        passes += choices * stage.setting.of_rates().trial.passes
    place = str(resolve_device(asked.device))
    with storage_errors(stored.url):
        threads = asked.threads or StudyAttrs(stored.study).threads
    share = share_out(workers, device=place, threads=threads)

    def request() -> dict[str, Any]:
        return {
            "asked": asdict(replace(asked, threads=share.threads)),
            "study": stored.name,
            "storage": stored.url,
            "file": stored.settings.model_dump(mode="json"),
            "directory": str(stored.directory),
            "output": str(stored.output),
            "candidates": [candidate.to_dict() for candidate in candidates],
            "progress": progress is not None,
        }

    session = Session(stored, place, share, workers == "auto", request, planned, passes, progress)
    session.finished()
    return session


def _train(session: Session, stage: Stage, asked: Asked, raised: Contender | None) -> list[str]:
    """Train all runs of a stage, and return notes."""
    setting, dataset = stage.setting, stage.dataset
    rows, notes = list(stage.contenders), []
    rates = session.best_rates(stage, rows)
    if raised is not None:
        rate = rates[rows.index(raised)]
        first_run = Run(raised, setting, dataset, asked.seed, "test", rate)
        control = raised_rate(raised, session.all_of([first_run])[0])
        if isinstance(control, str):
            notes.append(control)
        else:
            rows.append(replace(control, place=len(rows)))
            rates += session.best_rates(stage, rows[-1:])
    # Seed by seed, so that an interruption leaves paired runs.
    session.all_of(
        [
            Run(contender, setting, dataset, number, "test", rate)
            for number in range(asked.seed, asked.seed + asked.seeds)
            for contender, rate in zip(rows, rates, strict=True)
        ]
    )
    return notes


def _searched_rates(stored: "StoredStudy") -> dict[str, float]:
    """The best rate of each candidate that the search trained to its end, by identity."""
    return {
        identity_of(row.candidate.formula, how=how_of(row.candidate)): row.learning_rate
        for row in stored.trials()
        if row.status == "complete" and row.candidate is not None and row.learning_rate is not None
    }
