"""The design criteria: each statement proved, refuted with a witness, or openly undecided.

`check` decides all ten for a candidate or, given a family, for every point of its parameter
space; `gate` only those that a study requires. A verdict is `proved` only by a certified enclosure
or an exact identity (`pdsearch.enclosure`), `refuted` only with evidence that was itself evaluated
rigorously. `measured` says so.
"""

from collections.abc import Callable, Mapping, Sequence

from pdsearch.criteria import measured
from pdsearch.criteria.direction import never_pushes_down
from pdsearch.criteria.family import (
    CERTIFIED,
    FamilyGate,
    FamilyMap,
    FamilyShape,
    Part,
    decide_criterion,
    family_gate,
    map_criterion,
    narrowed,
)
from pdsearch.criteria.own import (
    UserCriterion,
    criterion_name,
    load_criterion,
    own_results,
    read_criterion,
)
from pdsearch.criteria.proof import PROVED_BY_BOXES, ProofBox, boxes_of
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
    "CERTIFIED",
    "CRITERIA",
    "PROFILES",
    "PROVED_BY_BOXES",
    "Budget",
    "Criterion",
    "FamilyGate",
    "FamilyMap",
    "Part",
    "ProofBox",
    "Report",
    "Result",
    "UserCriterion",
    "check",
    "criterion_name",
    "decide_family",
    "demands",
    "family_map",
    "gate",
    "load_criterion",
    "narrow",
    "proof_boxes",
    "read_criterion",
    "settle",
]

FAMILY_BUDGET = Budget(boxes=100_000, seconds=10.0)
"""What a criterion of a family may cost: half a minute for all of a hard family.

Seconds are what ends a decision here: 20 000 boxes take two seconds, and left the gain of `circle`
undecided that 30 000 prove.
"""

STUDY_BUDGET = Budget(boxes=20_000, seconds=6.0)
"""What a study spends on a family when it is begun: boxes a decision, seconds in all.

Boxes are what should end a decision, so that what is offered to a sampler does not depend on how
busy a machine is: under `paper` the library's slowest family, `knots_cubic`, takes 4 s.
"""

STUDY_PARTS = 48
"""Parts of a map that only has to give a range: more cost more and cut off hardly more."""

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
    """Decide all ten criteria, `never_pushes_down` where a direction is set, and the user's own.

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
    directed = never_pushes_down(target, wanted, budget)
    return _report(target, wanted, CRITERIA, extra, budget, directed=directed)


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


def proof_boxes(
    candidate: Candidate,
    criterion: str,
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
) -> tuple[ProofBox, ...]:
    """The intervals by which a criterion is proved, to be drawn.

    Args:
        candidate: taken at t = 0.
        criterion: one of `PROVED_BY_BOXES`.
        thresholds: as for `check`.
        budget: as for `check`.

    Returns:
        Boxes that cover the line, from left to right; none where there is no such proof.

    Raises:
        InputError: another criterion, or an unknown threshold.
    """
    if criterion not in PROVED_BY_BOXES:
        raise InputError(
            f"{criterion!r} is not proved by boxes: choose from {', '.join(PROVED_BY_BOXES)}"
        )
    wanted = demands(thresholds=thresholds)
    shape = Shape(candidate.expression, budget=budget)
    # A jump refutes `non_decreasing` though every piece rises.
    if CERTIFIED[criterion](shape, wanted).verdict != PROVED:
        return ()
    return boxes_of(shape, wanted, criterion)


def _report(
    candidate: Candidate,
    wanted: Demands,
    names: Sequence[str],
    extra: Sequence[UserCriterion],
    budget: Budget | None,
    *,
    known: Mapping[str, str] | None = None,
    directed: Sequence[Result] = (),
) -> Report:
    shape = Shape(candidate.expression, budget=budget)
    results: list[Result] = []
    for name in names:
        if (known or {}).get(name) == PROVED:
            results.append(wanted.result(name, PROVED, detail="for the whole family"))
        elif name in CERTIFIED:
            results.append(CERTIFIED[name](shape, wanted))
        else:
            results.append(_MEASURED[name](candidate, wanted))
    results += directed
    results += own_results(extra, [candidate])
    return Report(_target(candidate), wanted.profile, tuple(results))


def _target(checked: Candidate | Family) -> str:
    """What a report is about: a name, or of a formula that was typed its text."""
    family = checked if isinstance(checked, Family) else checked.family
    return checked.formula if family.origin == "formula" else checked.name


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


def settle(
    family: Family,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
) -> FamilyGate:
    """What a study need not ask of each candidate of a family: decided once, when it is begun.

    Args:
        family: one that is searched.
        profile: `paper` or `strict`.
        thresholds: as for `check`.
        budget: boxes for each decision, seconds for the family.

    Raises:
        InputError: an unknown profile or threshold.
    """
    wanted = demands(profile, thresholds)
    names = [name for name in CRITERIA if wanted.required(name) and name in CERTIFIED]
    limit = (budget or STUDY_BUDGET).fresh()
    return family_gate(FamilyShape(family, wanted), names, limit, parts=STUDY_PARTS)


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
    results += never_pushes_down(family, wanted, budget)
    results += own_results(extra, list(dict.fromkeys(corners)))
    return Report(_target(family), wanted.profile, tuple(results))


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
