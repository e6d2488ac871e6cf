"""Questions to the criteria: about a candidate, about a family, and before a study begins."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pdsearch.criteria.decide import Claim
from pdsearch.criteria.direction import never_pushes_down
from pdsearch.criteria.family import (
    FamilyGate,
    FamilyMap,
    FamilyShape,
    decide_criterion,
    family_gate,
    map_criterion,
)
from pdsearch.criteria.own import UserCriterion, own_results, worst_of
from pdsearch.criteria.records import (
    CERTIFIED,
    CRITERIA,
    OVERTIME,
    PROVED_BY_BOXES,
    RECORDS,
    Demands,
    demands,
)
from pdsearch.criteria.result import PROVED, Outcome, Report, Result, Threshold
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure import interval as iv
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.search import Budget, minimum
from pdsearch.errors import InputError
from pdsearch.family import Candidate, Family

FAMILY_BUDGET = Budget(boxes=100_000, seconds=10.0)
"""What each criterion of a family may cost. All of them take half a minute for a hard family.

Here seconds end a decision, not boxes: 20 000 boxes take two seconds and leave the gain of `circle`
undecided, which 30 000 prove.
"""

STUDY_BUDGET = Budget(boxes=20_000, seconds=6.0)
"""What a study spends on a family at its start: boxes for each decision, seconds for all.

Boxes should end a decision, so that the ranges for the sampler do not depend on how busy the
machine is. Under `paper` the slowest family of the library, `knots_cubic`, takes 4 s.
"""

STUDY_PARTS = 48
"""Parts of a map that only narrows ranges: more parts cost more and cut off little more."""


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
        target: A candidate, checked at t = 0, or a family, decided over its whole parameter space.
        profile: `paper` or `strict`: which criteria are required.
        thresholds: Bounds that replace the defaults, by criterion; also `alive_radius` and
            `alive_epsilon` of `alive_below_zero`.
        extra: Your own criteria: functions of a candidate that return a `Result`, or a pair
            (value, passed), which is listed as `measured`.
        budget: What each decision may cost, in boxes and seconds.

    Raises:
        InputError: An unknown profile or threshold, an extra criterion that returns neither, or a
            target of another type.
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
    """Decide only what the profile requires, before a training run.

    Args:
        candidate: The candidate to train.
        profile: `paper` or `strict`.
        thresholds: As for `check`.
        extra: As for `check`.
        known: Verdicts on the whole family; what is proved there is not decided again.
        budget: As for `check`.

    Raises:
        InputError: As for `check`.
    """
    wanted = demands(profile, thresholds)
    names = [name for name in CRITERIA if wanted.required(name)]
    return _report(candidate, wanted, names, extra, budget, known=known or {})


@dataclass(frozen=True)
class ProofBox:
    """An interval of x and a certified enclosure of g over it.

    Attributes:
        x: Its ends, to the nearest float; infinite at the ends of the line.
        g: A lower and an upper bound of g there.
    """

    x: tuple[float, float]
    g: tuple[float, float]


def proof_boxes(
    candidate: Candidate,
    criterion: str,
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
) -> tuple[ProofBox, ...]:
    """Return the intervals by which a criterion is proved, for drawing.

    Args:
        candidate: Taken at t = 0.
        criterion: One of `PROVED_BY_BOXES`.
        thresholds: As for `check`.
        budget: As for `check`.

    Returns:
        Boxes that cover the line, from left to right; none if there is no such proof.

    Raises:
        InputError: Another criterion, or an unknown threshold.
    """
    if criterion not in PROVED_BY_BOXES:
        raise InputError(
            f"{criterion!r} is not proved by boxes: choose from {', '.join(PROVED_BY_BOXES)}"
        )
    wanted = demands(thresholds=thresholds)
    shape = Shape(candidate.expression, budget=budget)
    record = RECORDS[criterion]
    # A jump refutes `non_decreasing` though every piece rises.
    if record.claim is None or record.check(shape, wanted).verdict != PROVED:
        return ()
    try:
        with time_limit(OVERTIME * shape.budget.seconds):
            return _boxes_of(shape, record.claim(wanted))
    except OutOfReachError:
        return ()


def _boxes_of(shape: Shape, claim: Claim) -> tuple[ProofBox, ...]:
    """The boxes of a claim's proof from left to right; none where boxes do not prove it.

    The single points where pieces meet are decided by exact arithmetic, without a box.

    Raises:
        OutOfReachError: The time is up.
    """
    found = []
    for index, function in enumerate(shape.functions):
        ends: set[float] = set(function.start[:2])
        for asked, floor in claim.floors(shape, index):
            leaves: list[tuple[iv.Interval, ...]] = []
            low = minimum(asked, shape.budget.fresh(), above=floor, below=floor, leaves=leaves)
            if not (low.complete and low.lo >= floor):
                return ()
            ends |= {end for ((left, right, _),) in leaves for end in (left, right)}
        for left, right in itertools.pairwise(sorted(ends)):
            places = sorted(float(shape.x_at(index, end)) for end in (left, right))
            bounds = []
            for oriented in (function, function.negated):
                lo, _, flag = oriented.lower(((left, right, 0),))
                bounds.append(-math.inf if flag & iv.UNDEFINED else lo)
            found.append(ProofBox((places[0], places[1]), (bounds[0], -bounds[1])))
    return tuple(sorted(found, key=lambda box: box.x))


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
    for one in (RECORDS[name] for name in names):
        if (known or {}).get(one.name) == PROVED:
            found = Outcome(PROVED, detail="for the whole family")
        elif one.measure is not None:
            found = one.measure(candidate, wanted)
        else:
            found = one.over(shape, wanted)
        results.append(one.result(found, wanted))
    results += directed
    results += own_results(extra, [candidate])
    return Report(_target(candidate), wanted.profile, tuple(results))


def _target(checked: Candidate | Family) -> str:
    """The target of a report: a name, or the text of a typed formula."""
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
    """Return the verdict on the whole parameter space for each required, certified criterion.

    Pass it to `gate` as `known`: a criterion proved here is not decided again for each candidate.

    Raises:
        InputError: An unknown profile or threshold.
    """
    wanted = demands(profile, thresholds)
    shape = FamilyShape(family, wanted)
    return {
        name: decide_criterion(shape, name, (budget or FAMILY_BUDGET).fresh()).verdict
        for name in wanted.decided
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
        family: A family with at least one parameter.
        criterion: A certified criterion.
        profile: `paper` or `strict`.
        thresholds: As for `check`.
        budget: As for `check`.
        parts: The largest number of parts.

    Raises:
        InputError: No such criterion, one that is measured, or a family without parameters.
    """
    if criterion not in CERTIFIED:
        kind = "is measured, not proved" if criterion in CRITERIA else "is not a criterion"
        raise InputError(f"{criterion!r} {kind}: a map can be made of {', '.join(CERTIFIED)}")
    if not family.parameters:
        raise InputError(f"family {family.name!r} has no parameters: there is nothing to map")
    shape = FamilyShape(family, demands(profile, thresholds))
    return map_criterion(shape, criterion, (budget or FAMILY_BUDGET).fresh(), parts=parts)


def settle(
    family: Family,
    *,
    profile: str = "paper",
    thresholds: Mapping[str, Threshold] | None = None,
    budget: Budget | None = None,
) -> FamilyGate:
    """Decide, before a study begins, what holds or fails for whole ranges of a family.

    Args:
        family: The family to search.
        profile: `paper` or `strict`.
        thresholds: As for `check`.
        budget: Boxes for each decision, seconds for the family.

    Raises:
        InputError: An unknown profile or threshold.
    """
    wanted = demands(profile, thresholds)
    limit = (budget or STUDY_BUDGET).fresh()
    return family_gate(FamilyShape(family, wanted), wanted.decided, limit, parts=STUDY_PARTS)


def _family_report(
    family: Family, wanted: Demands, extra: Sequence[UserCriterion], budget: Budget | None
) -> Report:
    shape = FamilyShape(family, wanted)
    corners = [family.default, *(shape.candidate_at(shape.corner(end)) for end in (0, 1))]
    results: list[Result] = []
    for one in (RECORDS[name] for name in CRITERIA):
        if one.measure is None:
            results.append(decide_criterion(shape, one.name, (budget or FAMILY_BUDGET).fresh()))
            continue
        asked = corners[:1] if one.once else list(dict.fromkeys(corners))
        found = [(one.result(one.measure(at, wanted), wanted), at) for at in asked]
        results.append(worst_of(found, "measured at"))
    results += never_pushes_down(family, wanted, budget)
    results += own_results(extra, list(dict.fromkeys(corners)))
    return Report(_target(family), wanted.profile, tuple(results))
