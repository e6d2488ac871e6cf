"""The design criteria: each statement proved, refuted with a witness, or openly undecided.

`check` decides all ten for a candidate or, given a family, for every point of its parameter
space; `gate` only those that a study requires. A verdict is `proved` only by a certified enclosure
or an exact identity (`pdsearch.enclosure`), `refuted` only with evidence that was itself evaluated
rigorously. `measured` says so.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdsearch.criteria import measured
from pdsearch.criteria.family import (
    CERTIFIED,
    FamilyMap,
    FamilyShape,
    Part,
    decide_criterion,
    map_criterion,
    narrowed,
)
from pdsearch.criteria.result import (
    CRITERIA,
    MEASURED,
    PROFILES,
    PROVED,
    Criterion,
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
    "Criterion",
    "FamilyMap",
    "Part",
    "Report",
    "Result",
    "check",
    "decide_family",
    "demands",
    "family_map",
    "gate",
    "load_criterion",
    "narrow",
]

UserCriterion = Callable[[Candidate], Any]
"""A criterion of one's own: candidate → `Result`, or → (value, passed)."""

FAMILY_BUDGET = Budget(boxes=20_000, seconds=10.0)
"""What a criterion of a family may cost: half a minute for all of a hard family."""

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
        InputError: an unknown profile or threshold, an extra criterion that gives neither, or a
            target of another kind.
    """
    wanted = demands(profile, thresholds)
    if isinstance(target, Family):
        return _family_report(target, wanted, extra, budget)
    if not isinstance(target, Candidate):
        raise InputError(f"check needs a Candidate or a Family, got {type(target).__name__}")
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
        if (known or {}).get(name) == PROVED:
            results.append(wanted.result(name, PROVED, detail="proved for the whole family"))
        elif name in CERTIFIED:
            results.append(CERTIFIED[name](shape, wanted))
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
            name, statement, MEASURED, passed, True, value, "the user's own", None, "the user's"
        )
    raise InputError(
        f"the criterion {name!r} must give a Result or a pair (value, passed), "
        f"got {type(outcome).__name__}"
    )


# ---------------------------------------------------------------------------------- families


def decide_family(
    family: Family,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
) -> dict[str, str]:
    """The verdict over the whole parameter space, for each required criterion that is certified.

    What `gate` takes as `known`: a criterion proved here need not be decided again for a trial.

    Raises:
        InputError: an unknown profile or threshold.
    """
    wanted = demands(profile, thresholds)
    shape = FamilyShape(family, wanted)
    names = [name for name in CRITERIA if wanted.required(name) and name in CERTIFIED]
    return {
        name: decide_criterion(shape, name, (budget or FAMILY_BUDGET).fresh()).verdict
        for name in names
    }


def family_map(
    family: Family,
    criterion: str,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
    parts: int = 400,
) -> FamilyMap:
    """Cut a family's parameter space into parts where a criterion is proved, refuted, undecided.

    Args:
        family: with at least one parameter.
        criterion: one that is certified: not a measured one.
        profile: only names the thresholds' defaults.
        thresholds: as for `check`.
        budget: as for `check`.
        parts: how many parts at most.

    Raises:
        InputError: no such criterion, one that is measured, or a family without parameters.
    """
    if criterion not in CERTIFIED:
        kind = "is measured, not proved" if criterion in CRITERIA else "is not a criterion"
        raise InputError(f"{criterion!r} {kind}: a map can be made of {', '.join(CERTIFIED)}")
    if not family.parameters:
        raise InputError(f"family {family.name!r} has no parameters: there is nothing to map")
    shape = FamilyShape(family, demands(profile, thresholds))
    return map_criterion(shape, criterion, (budget or FAMILY_BUDGET).fresh(), parts=parts)


def narrow(
    family: Family,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
) -> dict[str, tuple[float, float]] | None:
    """Ranges that still hold every parameter at which the required criteria may hold.

    Nothing that passes is lost: only parts where a required criterion is refuted for every point
    are cut off, and only where that leaves a smaller box.

    Returns:
        Low and high by parameter; None if the whole space is refuted.
    """
    wanted = demands(profile, thresholds)
    shape = FamilyShape(family, wanted)
    limit = (budget or FAMILY_BUDGET).fresh()
    maps = [
        map_criterion(shape, name, limit.fresh(), parts=64)
        for name in CRITERIA
        if family.parameters and wanted.required(name) and name in CERTIFIED
    ]
    return narrowed(maps, family)


def _family_report(
    family: Family, wanted: Demands, extra: Sequence[UserCriterion], budget: Budget | None
) -> Report:
    shape = FamilyShape(family, wanted)
    corners = [family.default, *(shape.candidate_at(shape.box, end) for end in (0.0, 1.0))]
    results: list[Result] = []
    for name in CRITERIA:
        if name in CERTIFIED:
            results.append(decide_criterion(shape, name, (budget or FAMILY_BUDGET).fresh()))
        else:
            results.append(_worst(_MEASURED[name], corners, wanted, name))
    results += [_own(criterion, family.default) for criterion in extra]
    return Report(family.name, wanted.profile, tuple(results))


def _worst(
    measure: Callable[[Candidate, Demands], Result],
    corners: Sequence[Candidate],
    wanted: Demands,
    name: str,
) -> Result:
    """Measured at the defaults and at the ends of all ranges; `cheap` at the defaults alone."""
    measured_at = corners[:1] if name == "cheap" else list(dict.fromkeys(corners))
    found = [(measure(candidate, wanted), candidate) for candidate in measured_at]
    worst, at = next((pair for pair in found if not pair[0].passed), found[0])
    detail = (
        f"{worst.detail}; measured at {len(found)} of the family's candidates, this is {at.name}"
    )
    return wanted.result(
        name, MEASURED, passed=worst.passed, value=worst.value,
        witness=None if worst.witness is None else {**at.parameters, **worst.witness},
        detail=detail,
    )  # fmt: skip


# ------------------------------------------------------------------------- criteria of one's own


def load_criterion(spec: str, *, directory: Path | None = None) -> UserCriterion:
    """A criterion of one's own from a file: `path.py:function`.

    The function takes a candidate and gives a `Result`, or a pair (value, passed).

    Raises:
        InputError: no such file or function.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"a criterion of your own is named path.py:function, got {spec!r}")
    path = Path(file) if directory is None else directory / file
    if not path.is_file():
        raise InputError(f"{path} does not exist: a criterion needs path.py:function")
    module = _module(path.resolve())
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InputError(f"{path} has no function {name!r} (it has: {', '.join(names) or 'none'})")
    return function


@functools.cache
def _module(path: Path) -> Any:
    name = f"_pdsearch_criteria_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return module
