"""The criteria, one record each. Tables, pages, gates and messages are built from the records."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pdsearch.criteria import decide, measured
from pdsearch.criteria.result import PROVED, UNDECIDED, Outcome, Result, Threshold
from pdsearch.criteria.shape import Shape
from pdsearch.enclosure.clock import OutOfReachError, time_limit
from pdsearch.enclosure.interval import Box
from pdsearch.enclosure.search import Budget
from pdsearch.errors import InputError

if TYPE_CHECKING:
    from pdsearch.family import Candidate

OVERTIME = 1.5
"""The time limit of a decision with all its searches, as a multiple of its budget of seconds."""


@dataclass(frozen=True)
class Criterion:
    """A design criterion: what it demands, where it comes from, and how it is decided.

    Exactly one of `claim`, `decider` and `measure` decides it.

    Attributes:
        name: Its name.
        statement: One sentence; its fields are filled in with the bounds that apply.
        bound: The default; text where there is nothing to compare with.
        source: Where the criterion comes from.
        profiles: The profiles that list it.
        meaning: What its value means, if values can be ranked. Otherwise learned criteria compare
            only whether it is met.
        claim: The condition on g at every x.
        decider: How it is decided over a box of parameters.
        measure: How it is measured for one candidate.
        advisory: Reported, and never required.
        adjustable: Whether a study file may set another bound.
        once: Measured only at a family's defaults, since every candidate gives the same.
    """

    name: str
    statement: str
    bound: Threshold | str
    source: str
    profiles: tuple[str, ...] = ("strict",)
    meaning: str = ""
    claim: "Callable[[Demands], decide.Claim] | None" = None
    decider: "Callable[[Shape, Demands, Box, Budget], Outcome] | None" = None
    measure: "Callable[[Candidate, Demands], Outcome] | None" = None
    advisory: bool = False
    adjustable: bool = True
    once: bool = False

    @property
    def certified(self) -> bool:
        """Whether it is decided by proof."""
        return self.measure is None

    def over(
        self, shape: Shape, demands: "Demands", box: Box = (), budget: Budget | None = None
    ) -> Outcome:
        """Decide it for every parameter of a box, within its time.

        Nothing is proved for a formula that may be undefined.

        Args:
            shape: The shape of a candidate or a family.
            demands: The bounds.
            box: A part of the family's box; that of a candidate has no sides.
            budget: What the box may cost; the budget of the shape if None.
        """
        budget = budget or shape.budget
        with time_limit(OVERTIME * budget.seconds):
            found = Outcome(UNDECIDED)
            try:
                if self.claim is not None:
                    found = decide.everywhere(self.claim(demands), shape, box, budget)
                else:
                    assert self.decider is not None
                    found = self.decider(shape, demands, box, budget)
                open_ = shape.undefined(box) if found.verdict == PROVED else None
            except OutOfReachError as error:
                open_ = str(error)
        return found if open_ is None else Outcome(UNDECIDED, value=found.value, detail=open_)

    def check(self, shape: Shape, demands: "Demands") -> Result:
        """Decide it for a candidate."""
        return self.result(self.over(shape, demands), demands)

    def result(self, found: Outcome, demands: "Demands") -> Result:
        """An outcome together with the criterion and its bounds."""
        bound = demands.bounds[self.name]
        fields = dict(zip(("low", "high"), bound, strict=True)) if isinstance(bound, tuple) else {}
        statement = self.statement.format(
            bound=bound, radius=demands.radius, epsilon=demands.epsilon, **fields
        )
        return Result(
            name=self.name,
            statement=statement,
            verdict=found.verdict,
            passed=found.passed or found.verdict == PROVED,
            required=demands.required(self.name),
            value=found.value,
            bound=bound,
            witness=found.witness,
            source=self.source,
            detail=found.detail,
        )


_PAPER: Final = ("paper", "strict")
_ABSTRACT: Final = "Hu, Li, Yang 2018, abstract"

_TEN: Final = (
    Criterion(
        "forward_is_relu",
        "the output equals torch.relu bit for bit",
        "exact",
        f'{_ABSTRACT}: "ReLU itself was unchanged"',
        _PAPER,
        meaning="number of outputs unlike torch.relu's",
        measure=measured.forward_is_relu,
        adjustable=False,
    ),
    Criterion(
        "alive_below_zero",
        "|g(x)| >= {epsilon:g} on [-{radius:g}, 0), except on at most {bound:.3g} of its length",
        0.01,
        f'{_ABSTRACT}: "alleviate the zero derivative problem"',
        _PAPER,
        meaning="share of [-R, 0) where g is nearly zero",
        decider=decide.alive_below_zero,
    ),
    Criterion(
        "consistent",
        "the mean of |g(x) - 1[x>0]| over x ~ N(0,1) is at most {bound:g}",
        0.4,
        f'{_ABSTRACT}: "consistent with original derivative in general"',
        _PAPER,
        meaning="mean distance of g from the step",
        decider=decide.consistent,
    ),
    Criterion(
        "cheap",
        "a backward pass takes at most {bound:g} times ReLU's own (advisory)",
        1.5,
        f'{_ABSTRACT}: ReLU\'s variants are "more expensive in computation"',
        _PAPER,
        meaning="value",
        measure=measured.cheap,
        advisory=True,
        once=True,
    ),
    Criterion(
        "limits",
        "g tends to 0 at -oo and to 1 at +oo",
        "exact",
        "ours",
        meaning="distance of the limits from 0 and 1",
        decider=decide.limits,
        adjustable=False,
    ),
    Criterion(
        "sign_preserving",
        "g(x) >= 0 for all x: no gradient is reversed",
        0.0,
        "ours (SUGAR's B-SiLU, arXiv:2505.22074, fails it)",
        meaning="smallest value of g",
        claim=lambda _: decide.Within(0.0, math.inf),
        adjustable=False,
    ),
    Criterion(
        "bounded",
        "|g(x)| <= {bound:g} for all x: no exploding gradient",
        1.5,
        "ours",
        meaning="largest value of |g|",
        claim=lambda demands: decide.Within.size(demands.number("bounded")),
    ),
    Criterion(
        "non_decreasing",
        "g is non-decreasing, as the step is",
        0.0,
        "ours",
        # No meaning: a certified fall need not be the largest.
        claim=lambda _: decide.Rising(),
        adjustable=False,
    ),
    Criterion(
        "gain",
        "the mean of g(x)^2 over x ~ N(0,1), relative to ReLU's 1/2, is in [{low:g}, {high:g}]",
        (0.5, 2.0),
        "ours, after the backward variance of He et al. 2015, arXiv:1502.01852",
        meaning="mean of g squared (ReLU's is 1)",
        decider=decide.gain,
    ),
    Criterion(
        "alive_in_half",
        "g is non-zero in float16 and bfloat16 down to x = {bound:g} (advisory)",
        -3.0,
        "ours",
        meaning="value",
        measure=measured.alive_in_half,
        advisory=True,
    ),
)

NEVER_PUSHES_DOWN: Final = Criterion(
    "never_pushes_down",
    "where x <= 0 no gradient that passes lowers the unit: direction up, and g(x) >= 0 there",
    0.0,
    "ours",
    meaning="value",
    claim=lambda _: decide.Within(0.0, math.inf),
    adjustable=False,
)
"""Decided only where a direction is set, and only for g below zero."""

RECORDS: Final = {one.name: one for one in (*_TEN, NEVER_PUSHES_DOWN)}
"""Every criterion by name."""

CRITERIA: Final = tuple(one.name for one in _TEN)
"""The names of the ten, in the order of every report."""

CERTIFIED: Final[Mapping[str, Criterion]] = {one.name: one for one in _TEN if one.certified}
"""Those of the ten that are decided by proof."""

PROVED_BY_BOXES: Final = tuple(one.name for one in _TEN if one.claim is not None)
"""Criteria whose proof consists of a bound on each of several intervals."""

PROFILES: Final = {
    profile: frozenset(one.name for one in _TEN if profile in one.profiles and not one.advisory)
    for profile in _PAPER
}
"""Which criteria a profile requires; advisory ones never gate."""

SETTINGS: Final[dict[str, float]] = {"alive_radius": 3.0, "alive_epsilon": 1e-6}
"""Thresholds that are not bounds of a criterion: R and ε of `alive_below_zero`."""


@dataclass(frozen=True)
class Demands:
    """A profile with its thresholds: the required criteria, and the bounds."""

    profile: str
    bounds: Mapping[str, Threshold | str]
    radius: float
    epsilon: float

    def required(self, name: str) -> bool:
        """Whether the profile requires the criterion; it never requires an advisory one."""
        one = RECORDS[name]
        return self.profile in one.profiles and not one.advisory

    @property
    def decided(self) -> tuple[str, ...]:
        """The certified criteria that the profile requires."""
        return tuple(name for name in CERTIFIED if self.required(name))

    def number(self, name: str) -> float:
        """The bound of a criterion that has a single one."""
        value = self.bounds[name]
        assert isinstance(value, float | int)
        return float(value)

    def range(self, name: str) -> tuple[float, float]:
        """The bounds of a criterion that has a lower and an upper one."""
        value = self.bounds[name]
        assert isinstance(value, tuple)
        return value


def demands(profile: str = "paper", thresholds: Mapping[str, Threshold] | None = None) -> Demands:
    """Check a profile's name and thresholds.

    Raises:
        InputError: An unknown profile or threshold, or a bound that is not a finite number (or,
            for `gain`, a pair of numbers in order).
    """
    if profile not in PROFILES:
        raise InputError(f"no profile {profile!r} of criteria: choose one of {', '.join(PROFILES)}")
    bounds = {one.name: one.bound for one in RECORDS.values()}
    settings = dict(SETTINGS)
    valid = [*(one.name for one in _TEN if one.adjustable), *settings]
    for name, given in (thresholds or {}).items():
        if name in settings:
            settings[name] = _number(name, given, positive=True)
        elif name not in bounds:
            raise InputError(f"no threshold {name!r}: choose from {', '.join(valid)}")
        elif name not in valid:
            raise InputError(
                f"the criterion {name!r} has no threshold: it holds or not "
                f"(thresholds: {', '.join(valid)})"
            )
        elif isinstance(default := bounds[name], tuple):
            bounds[name] = _pair(name, given)
        else:
            positive = isinstance(default, float) and default >= 0
            bounds[name] = _number(name, given, positive=positive)
    return Demands(profile, bounds, settings["alive_radius"], settings["alive_epsilon"])


def _number(name: str, given: Any, *, positive: bool) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise InputError(f"the threshold of {name!r} must be a finite number, got {given!r}")
    if (positive and given < 0) or (name in SETTINGS and given <= 0):
        raise InputError(f"the threshold of {name!r} must be positive, got {given!r}")
    if name == "alive_radius" and given > 1000:
        raise InputError(f"the threshold of {name!r} must be at most 1000, got {given!r}")
    return float(given)


def _pair(name: str, given: Any) -> tuple[float, float]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"the threshold of {name!r} must be a pair [low, high], got {given!r}")
    low, high = (_number(name, part, positive=True) for part in given)
    if low > high:
        raise InputError(f"the threshold of {name!r} is empty: low {low:g} is above high {high:g}")
    return (low, high)
