"""Near-ties: the best few are separated by further seeds, not by the luck of one."""

from collections.abc import Callable

from pdsearch import interrupt
from pdsearch.errors import first_line
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.progress import Display
from pdsearch.study.queue import ATTEMPTS
from pdsearch.study.rows import TrialRow
from pdsearch.study.run import Machine
from pdsearch.study.stored import StoredStudy
from pdsearch.study.trainer import Outcome, Reached, Trainer, checkpoint_path, drop_checkpoints

FEW = 3
"""Of the best, how many may be trained over further seeds."""


def decide_ties(
    stored: StoredStudy,
    trainer: Trainer,
    display: Display,
    *,
    check_wanted: Callable[[], None] = lambda: None,
) -> None:
    """Train the best few over further seeds where they nearly tie; all over the same ones.

    Each value is kept in the study as it comes, so that an interruption loses none.

    Args:
        stored: the study, finished; its `tie_seeds` says how many seeds.
        trainer: how a candidate is trained, and how near a tie is.
        display: where progress is shown.
        check_wanted: called after each epoch; raises where the work is to end.
    """
    settings = stored.settings.study
    if settings.tie_seeds == 0 or len(settings.objectives) > 1:
        return
    sign = 1 if stored.minimize else -1
    rows = sorted(stored.ranked(), key=lambda row: (sign * (row.value or 0.0), row.number))[:FEW]
    if not rows:
        return
    best = rows[0].value or 0.0
    margin = trainer.tie_margin(best)
    close = [row for row in rows if abs((row.value or 0.0) - best) <= margin]
    if len(close) < 2:
        return
    display.say(
        f"{len(close)} candidates within {margin:.4f} of the best: "
        f"{settings.tie_seeds} more seed(s) each"
    )

    def on_step(at: Reached) -> None:
        check_wanted()
        display.epoch(at.step / trainer.looks, at.value)

    for row in close:
        for seed in range(settings.seed + 1, settings.seed + 1 + settings.tie_seeds):
            kept = (StudyAttrs(stored.study).seeds or {}).get(str(row.number), {})
            if str(seed) not in kept:  # by now: another process may be at it too
                _further_seed(stored, trainer, display, row, seed, on_step=on_step)


def _further_seed(
    stored: StoredStudy,
    trainer: Trainer,
    display: Display,
    row: TrialRow,
    seed: int,
    *,
    on_step: Callable[[Reached], None],
) -> None:
    assert row.candidate is not None
    checkpoint = checkpoint_path(stored.output / "checkpoints", row.candidate, seed=seed)
    display.begin(row.candidate.name, epochs=trainer.epochs, unit=trainer.unit)
    outcome: Outcome | None = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with interrupt.exposed():
                outcome = trainer(
                    row.candidate,
                    seed=seed,
                    on_step=interrupt.deferring(on_step),
                    on_batch=display.batch,
                    checkpoint=checkpoint,
                )
            break
        except Machine as error:
            # The study is finished, and what is known decides well enough without this seed.
            then = (
                "trying again" if attempt < ATTEMPTS else "skipped; the same search tries it again"
            )
            what = f"{type(error).__name__}: {first_line(error)}"
            display.note(f"trial {row.number}, seed {seed}: {what} ({then})")
    if outcome is None:
        return
    # One that diverges over one seed in three is no best candidate: it has no mean, and comes last.
    value = None if outcome.diverged is not None else outcome.values[0]
    attrs = StudyAttrs(stored.study)
    kept = dict(attrs.seeds or {})
    kept[str(row.number)] = {**kept.get(str(row.number), {}), str(seed): value}
    attrs.seeds = kept
    drop_checkpoints(checkpoint)
    told = outcome.diverged if value is None else f"{value:.4f}"
    display.say(f"trial {row.number}, seed {seed}: {told}")
