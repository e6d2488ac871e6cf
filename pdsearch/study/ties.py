"""Near-ties: further seeds decide between the best few, not the luck of one seed."""

from pdsearch import interrupt
from pdsearch.errors import first_line
from pdsearch.study.attempt import Context
from pdsearch.study.attributes import StudyAttrs
from pdsearch.study.queue import ATTEMPTS
from pdsearch.study.rows import TrialRow
from pdsearch.study.run import Machine
from pdsearch.study.trainer import Outcome, Reached, drop_checkpoints

FEW = 3
"""How many of the best may be trained over further seeds."""


def decide_ties(context: Context) -> None:
    """Train those of the best few that nearly tie over the same further seeds.

    The study is finished. Each value is stored at once, so that an interruption loses none.
    """
    stored, settings = context.stored, context.stored.settings.study
    if settings.tie_seeds == 0 or len(settings.objectives) > 1:
        return
    sign = 1 if stored.minimize else -1
    rows = sorted(stored.ranked(), key=lambda row: (sign * (row.value or 0.0), row.number))[:FEW]
    if not rows:
        return
    best = rows[0].value or 0.0
    margin = context.trainer.tie_margin(best)
    close = [row for row in rows if abs((row.value or 0.0) - best) <= margin]
    if len(close) < 2:
        return
    context.display.say(
        f"{len(close)} candidates within {margin:.4f} of the best: "
        f"{settings.tie_seeds} more seed(s) each"
    )
    for row in close:
        for seed in range(settings.seed + 1, settings.seed + 1 + settings.tie_seeds):
            # Read again, because another process may have stored it.
            kept = (StudyAttrs(stored.study).seeds or {}).get(str(row.number), {})
            if str(seed) not in kept:
                _further_seed(context, row, seed)


def _further_seed(context: Context, row: TrialRow, seed: int) -> None:
    assert row.candidate is not None
    stored, trainer, display = context.stored, context.trainer, context.display

    def on_step(at: Reached) -> None:
        context.check_wanted()
        display.epoch(at.step / trainer.looks, at.value)

    checkpoint = context.checkpoint_for(row.candidate, seed=seed)
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
            # The study is finished, and can be decided without this seed.
            then = (
                "trying again" if attempt < ATTEMPTS else "skipped; the same search tries it again"
            )
            what = f"{type(error).__name__}: {first_line(error)}"
            display.note(f"trial {row.number}, seed {seed}: {what} ({then})")
    if outcome is None:
        return
    # A candidate that diverges at one of these seeds is not the best: without a mean it comes last.
    value = None if outcome.diverged is not None else outcome.values[0]
    attrs = StudyAttrs(stored.study)
    kept = dict(attrs.seeds or {})
    kept[str(row.number)] = {**kept.get(str(row.number), {}), str(seed): value}
    attrs.seeds = kept
    drop_checkpoints(checkpoint)
    found = outcome.diverged if value is None else f"{value:.4f}"
    display.say(f"trial {row.number}, seed {seed}: {found}")
