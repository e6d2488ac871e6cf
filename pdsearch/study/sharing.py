"""Duplicates: a trial of a g that another one has tried shares its result."""

from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState

from pdsearch import interrupt
from pdsearch.family import Candidate
from pdsearch.study.kept import PREFIX
from pdsearch.study.rows import candidate_from
from pdsearch.study.twins import Shape, same_shape, shape_of


def twin_of(
    candidate: Candidate,
    trials: Iterable[FrozenTrial],
    shapes: dict[int, Shape],
    *,
    finished: bool,
) -> FrozenTrial | None:
    """An earlier trial of the same g that has a result to share.

    Args:
        candidate: the new trial's.
        trials: the study's, as they stand.
        shapes: of those that were compared with before, by their numbers; it grows.
        finished: whether the other must have come to its end.
    """
    with interrupt.exposed():
        shape = shape_of(candidate)
        for other in trials:
            if other.state not in (TrialState.COMPLETE, TrialState.PRUNED):
                continue
            data = other.user_attrs.get(PREFIX + "candidate")
            if data is None or other.user_attrs.get(PREFIX + "status") == "ruled_out":
                continue
            if other.number not in shapes:
                shapes[other.number] = shape_of(candidate_from(data))
            stopped = finished and other.state != TrialState.COMPLETE
            if not stopped and same_shape(shape, shapes[other.number]):
                return other
    return None


def share(trial: optuna.Trial, twin: FrozenTrial) -> tuple[float, ...]:
    """Gives a trial the result of the earlier one of the same g.

    Raises:
        optuna.TrialPruned: the other was.
    """
    first = twin.user_attrs.get(PREFIX + "duplicate_of", twin.number)
    trial.set_user_attr(PREFIX + "duplicate_of", first)
    for key in ("epochs", "looks", "learning_rate"):
        if PREFIX + key in twin.user_attrs:
            trial.set_user_attr(PREFIX + key, twin.user_attrs[PREFIX + key])
    for step, value in sorted(twin.intermediate_values.items()):
        trial.report(value, step)
    if twin.state == TrialState.PRUNED:
        status = twin.user_attrs.get(PREFIX + "status", "pruned")
        reason = twin.user_attrs.get(PREFIX + "reason", "pruned")
        raise pruned(trial, status, f"same g as trial {first}: {reason}")
    trial.set_user_attr(PREFIX + "status", "complete")
    trial.set_user_attr(PREFIX + "reason", f"same g as trial {first}, whose result it shares")
    assert twin.values is not None
    return tuple(twin.values)


def pruned(trial: optuna.Trial, status: str, reason: str) -> optuna.TrialPruned:
    """What ends a trial early, which is stored with it."""
    trial.set_user_attr(PREFIX + "status", status)
    trial.set_user_attr(PREFIX + "reason", reason)
    return optuna.TrialPruned(reason)
