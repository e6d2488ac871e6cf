"""The design criteria: each statement proved, refuted with a witness, or openly undecided.

`check` decides all ten for a candidate; `gate` only those that a study requires. A verdict is
`proved` only by a certified enclosure or an exact identity (`pdsearch.enclosure`), `refuted` only
with evidence that was itself evaluated rigorously. `measured` says so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pdsearch.criteria import decide, measured
from pdsearch.criteria.result import (
    CRITERIA,
    PROFILES,
    Demands,
    Report,
    Result,
    Threshold,
    demands,
)
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure.search import Budget
from pdsearch.errors import InputError
from pdsearch.family import Candidate, Family

__all__ = [
    "CRITERIA",
    "PROFILES",
    "Budget",
    "Report",
    "Result",
    "check",
    "demands",
    "gate",
]

UserCriterion = Callable[[Candidate], Any]
"""A criterion of one's own: candidate → `Result`, or → (value, passed)."""

_CERTIFIED: Mapping[str, Callable[[Shape, Demands], Result]] = {
    "alive_below_zero": decide.alive_below_zero,
    "consistent": decide.consistent,
    "limits": decide.limits,
    "sign_preserving": decide.sign_preserving,
    "bounded": decide.bounded,
    "non_decreasing": decide.non_decreasing,
    "gain": decide.gain,
}
_MEASURED: Mapping[str, Callable[[Candidate, Demands], Result]] = {
    "forward_is_relu": measured.forward_is_relu,
    "cheap": measured.cheap,
    "alive_in_half": measured.alive_in_half,
}


def check(
    target: Family | Candidate,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    extra: Sequence[UserCriterion] = (),
    budget: Budget | None = None,
) -> Report:
    """Decide all ten criteria, and the user's own.

    Args:
        target: a candidate, checked at t = 0; or a family, decided over its whole parameter box.
        profile: `paper` or `strict`: which criteria are required.
        thresholds: bounds other than the defaults, by criterion; also `alive_radius` and
            `alive_epsilon` of `alive_below_zero`.
        extra: further criteria: functions of the candidate that give a `Result`, or a pair
            (value, passed), which is then listed as `measured`.
        budget: what each decision may cost, in boxes and seconds.

    Raises:
        InputError: an unknown profile or threshold, or an extra criterion that gives neither.
    """
    wanted = demands(profile, thresholds)
    if isinstance(target, Family):
        raise NotImplementedError
    return _report(target, wanted, CRITERIA, extra, budget)


def gate(
    candidate: Candidate,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    extra: Sequence[UserCriterion] = (),
    known: Mapping[str, str] | None = None,
    budget: Budget | None = None,
) -> Report:
    """Decide what the profile requires and nothing else: what a study asks before training.

    Args:
        candidate: the trial's.
        profile: `paper` or `strict`.
        thresholds: as for `check`.
        extra: as for `check`.
        known: verdicts that hold for the whole family; a proved one is not decided again.
        budget: as for `check`.

    Raises:
        InputError: as for `check`.
    """
    wanted = demands(profile, thresholds)
    names = [name for name in CRITERIA if wanted.required(name)]
    return _report(candidate, wanted, names, extra, budget, known=known or {})


def _report(
    candidate: Candidate,
    wanted: Demands,
    names: Sequence[str],
    extra: Sequence[UserCriterion],
    budget: Budget | None,
    *,
    known: Mapping[str, str] | None = None,
) -> Report:
    shape = Shape(candidate.expression, budget=budget)
    results: list[Result] = []
    for name in names:
        if (known or {}).get(name) == "proved":
            results.append(wanted.result(name, "proved", detail="proved for the whole family"))
        elif name in _CERTIFIED:
            results.append(_CERTIFIED[name](shape, wanted))
        else:
            results.append(_MEASURED[name](candidate, wanted))
    results += [_own(criterion, candidate) for criterion in extra]
    return Report(candidate.name, wanted.profile, tuple(results))


def _own(criterion: UserCriterion, candidate: Candidate) -> Result:
    name = getattr(criterion, "__name__", type(criterion).__name__)
    if name in CRITERIA:
        raise InputError(f"a criterion of your own cannot be called {name!r}: that is one of ours")
    outcome = criterion(candidate)
    if isinstance(outcome, Result):
        return outcome
    if (
        isinstance(outcome, tuple)
        and len(outcome) == 2
        and isinstance(outcome[1], bool)
        and (outcome[0] is None or isinstance(outcome[0], int | float | tuple))
    ):
        value, passed = outcome
        statement = " ".join((criterion.__doc__ or name).split("\n\n")[0].split())
        return Result(
            name, statement, "measured", passed, True, value, "the user's own", None, "the user's"
        )
    raise InputError(
        f"the criterion {name!r} must give a Result or a pair (value, passed), "
        f"got {type(outcome).__name__}"
    )
