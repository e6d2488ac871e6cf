"""Questions to the criteria: about a candidate, about a family, and before a study begins."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import sympy

from pdsearch.criteria.decide import Claim
from pdsearch.criteria.family import (
    FamilyGate,
    FamilyMap,
    FamilyShape,
    decide_criterion,
    family_gate,
    map_criterion,
)
from pdsearch.criteria.own import UserCriterion, functions_of, own_results, worst_of
from pdsearch.criteria.records import (
    CERTIFIED,
    CRITERIA,
    NEVER_PUSHES_DOWN,
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
from pdsearch.enclosure.interval import Box
from pdsearch.enclosure.search import Budget, minimum
from pdsearch.errors import InputError
from pdsearch.expression import x
from pdsearch.family import Candidate, Family, side

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
    wanted, extra = demands(profile, thresholds), functions_of(extra, "extra")
    if isinstance(target, Family):
        results, candidates = _family_results(target, wanted, budget)
    elif isinstance(target, Candidate):
        results, candidates = _results(target, wanted, CRITERIA, budget), [target]
    else:
        raise InputError(f"check needs a Candidate or a Family, got {type(target).__name__}")
    results += _never_pushes_down(target, wanted, budget)
    return _report(target, wanted, [*results, *own_results(extra, candidates)])


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

    `known` holds verdicts on the whole family; what is proved there is not decided again. The other
    arguments are those of `check`.

    Raises:
        InputError: As for `check`.
    """
    wanted = demands(profile, thresholds)
    names = [name for name in CRITERIA if wanted.required(name)]
    results = _results(candidate, wanted, names, budget, known=known or {})
    return _report(candidate, wanted, [*results, *own_results(extra, [candidate])])


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
    """Return the intervals by which one of `PROVED_BY_BOXES` is proved, for drawing.

    The other arguments are those of `check`; the candidate is taken at t = 0.

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
            leaves: list[Box] = []
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


def _results(
    candidate: Candidate,
    wanted: Demands,
    names: Sequence[str],
    budget: Budget | None,
    *,
    known: Mapping[str, str] = MappingProxyType({}),
) -> list[Result]:
    shape = Shape(candidate.expression, budget=budget)
    results = []
    for one in (RECORDS[name] for name in names):
        if known.get(one.name) == PROVED:
            found = Outcome(PROVED, detail="for the whole family")
        elif one.measure is not None:
            found = one.measure(candidate, wanted)
        else:
            found = one.over(shape, wanted)
        results.append(one.result(found, wanted))
    return results


def _report(target: Candidate | Family, wanted: Demands, results: Sequence[Result]) -> Report:
    """A report named after its target, or after the text of a typed formula."""
    family = target if isinstance(target, Family) else target.family
    name = target.formula if family.origin == "formula" else target.name
    return Report(name, wanted.profile, tuple(results), target)


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

    There are at most `parts` of them. The other arguments are those of `check`.

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

    The budget gives the boxes for each decision, and the seconds for the family. The other
    arguments are those of `check`.

    Raises:
        InputError: An unknown profile or threshold.
    """
    wanted = demands(profile, thresholds)
    limit = (budget or STUDY_BUDGET).fresh()
    return family_gate(FamilyShape(family, wanted), wanted.decided, limit, parts=STUDY_PARTS)


def _family_results(
    family: Family, wanted: Demands, budget: Budget | None
) -> tuple[list[Result], list[Candidate]]:
    """The results for a family, and the candidates for which it was measured."""
    shape = FamilyShape(family, wanted)
    corners = (shape.candidate_at(shape.corner(itertools.repeat(end))) for end in (0, 1))
    candidates = list(dict.fromkeys([family.default, *corners]))
    results = []
    for one in (RECORDS[name] for name in CRITERIA):
        if one.measure is None:
            results.append(decide_criterion(shape, one.name, (budget or FAMILY_BUDGET).fresh()))
            continue
        asked = candidates[:1] if one.once else candidates
        found = [(one.result(one.measure(at, wanted), wanted), at) for at in asked]
        results.append(worst_of(found, "measured at"))
    return results, candidates


def _never_pushes_down(
    target: Candidate | Family, demands: Demands, budget: Budget | None
) -> list[Result]:
    """Decide it for a candidate or a family whose only direction is "up"; otherwise return [].

    With direction "up", a gradient passes where x ≤ 0 only if grad_output < 0. Its step raises the
    pre-activation where g ≥ 0.
    """
    below = side(target.expression, positive=False)
    expression = sympy.Piecewise((0, x > 0), (below, True))
    if isinstance(target, Candidate):
        if target.direction != "up":
            return []
        return [NEVER_PUSHES_DOWN.check(Shape(expression, budget=budget), demands)]
    if target.directions != ("up",):
        return []
    held = {symbol.name for symbol in expression.free_symbols}
    lower = Family(
        target.name,
        expression,
        space={name: d for name, d in target.space.items() if name in held},
        defaults={name: v for name, v in target.defaults.items() if name in held},
    )
    shape = FamilyShape(lower, demands)
    return [decide_criterion(shape, NEVER_PUSHES_DOWN.name, (budget or Budget()).fresh())]
