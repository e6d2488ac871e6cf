"""What a criterion says: its statement, bound, verdict and evidence."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pdsearch.errors import InputError

Value = float | tuple[float, float] | None
Threshold = float | tuple[float, float]

PROVED: Final = "proved"
REFUTED: Final = "refuted"
UNDECIDED: Final = "undecided"
MEASURED: Final = "measured"
VERDICTS: Final = (PROVED, REFUTED, UNDECIDED, MEASURED)

SLACK: Final = 1e-6
"""Comparisons with a bound allow this much, so that a supremum equal to its bound passes."""


@dataclass(frozen=True)
class Criterion:
    """A design criterion: what it demands, by default, and where it comes from."""

    name: str
    statement: str
    bound: Threshold | str
    source: str
    profiles: frozenset[str]
    advisory: bool = False
    adjustable: bool = True


_PAPER: Final = frozenset({"paper", "strict"})
_STRICT: Final = frozenset({"strict"})
_ABSTRACT: Final = "Hu, Li, Yang 2018, abstract"

SPECIFICATIONS: Final = (
    Criterion(
        "forward_is_relu",
        "the output equals torch.relu bit for bit",
        "exact",
        f'{_ABSTRACT}: "ReLU itself was unchanged"',
        _PAPER,
        adjustable=False,
    ),
    Criterion(
        "alive_below_zero",
        "|g(x)| >= {epsilon:g} on [-{radius:g}, 0) but for at most {bound:.3g} of its length",
        0.01,
        f'{_ABSTRACT}: "alleviate the zero derivative problem"',
        _PAPER,
    ),
    Criterion(
        "consistent",
        "the mean of |g(x) - 1[x>0]| over x ~ N(0,1) is at most {bound:g}",
        0.4,
        f'{_ABSTRACT}: "consistent with original derivative in general"',
        _PAPER,
    ),
    Criterion(
        "cheap",
        "a backward pass takes at most {bound:g} times ReLU's own (advisory)",
        1.5,
        f'{_ABSTRACT}: ReLU\'s variants are "more expensive in computation"',
        _PAPER,
        advisory=True,
    ),
    Criterion(
        "limits",
        "g tends to 0 at -oo and to 1 at +oo",
        "exact",
        "ours",
        _STRICT,
        adjustable=False,
    ),
    Criterion(
        "sign_preserving",
        "g(x) >= 0 for all x: no gradient is reversed",
        0.0,
        "ours (SUGAR's B-SiLU, arXiv:2505.22074, fails it)",
        _STRICT,
        adjustable=False,
    ),
    Criterion(
        "bounded",
        "|g(x)| <= {bound:g} for all x: no exploding gradient",
        1.5,
        "ours",
        _STRICT,
    ),
    Criterion(
        "non_decreasing",
        "g is non-decreasing, as the step is",
        0.0,
        "ours",
        _STRICT,
        adjustable=False,
    ),
    Criterion(
        "gain",
        "the mean of g(x)^2 over x ~ N(0,1), relative to ReLU's 1/2, is in [{low:g}, {high:g}]",
        (0.5, 2.0),
        "ours, after the backward variance of He et al. 2015, arXiv:1502.01852",
        _STRICT,
    ),
    Criterion(
        "alive_in_half",
        "g is non-zero in float16 and bfloat16 down to x = {bound:g} (advisory)",
        -3.0,
        "ours",
        _STRICT,
        advisory=True,
    ),
)
"""The ten criteria, in the order of every report."""

CRITERIA: Final[tuple[str, ...]] = tuple(one.name for one in SPECIFICATIONS)
"""The criteria's names, in the order of every report."""

PROFILES: Final[dict[str, frozenset[str]]] = {
    name: frozenset(one.name for one in SPECIFICATIONS if name in one.profiles and not one.advisory)
    for name in ("paper", "strict")
}
"""Which criteria a profile requires; `cheap` and `alive_in_half` are advisory and never gate."""

SETTINGS: Final[dict[str, float]] = {"alive_radius": 3.0, "alive_epsilon": 1e-6}
"""Thresholds that are not a criterion's bound: R and ε of `alive_below_zero`."""


@dataclass(frozen=True)
class Result:
    """A criterion's outcome for one candidate or family.

    Attributes:
        name: the criterion's.
        statement: what was decided, with its bounds.
        verdict: `proved`, `refuted`, `undecided` or `measured`.
        passed: whether the statement holds; False where undecided.
        required: whether the profile asks for it.
        value: a number, or a certified enclosure [lo, hi] of it; None where there is none.
        bound: what the value is compared with.
        witness: where the statement fails: `x` a number or an interval, and parameters.
        source: where the criterion comes from.
        detail: one sentence more, such as limits or the smallest box left undecided.
    """

    name: str
    statement: str
    verdict: str
    passed: bool
    required: bool
    value: Value
    bound: Threshold | str
    witness: Mapping[str, Any] | None
    source: str
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data: non-finite numbers become None, enclosures lists."""
        return {
            "name": self.name,
            "statement": self.statement,
            "verdict": self.verdict,
            "passed": self.passed,
            "required": self.required,
            "value": _plain(self.value),
            "bound": _plain(self.bound),
            "witness": (
                None
                if self.witness is None
                else {key: _plain(value) for key, value in self.witness.items()}
            ),
            "source": self.source,
            "detail": self.detail,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, bool | str) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Report:
    """All results of one candidate or family, in the order of `CRITERIA`, then the user's own."""

    target: str
    profile: str
    criteria: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether every required criterion holds."""
        return all(result.passed for result in self.criteria if result.required)

    def __getitem__(self, name: str) -> Result:
        """A result by its criterion's name.

        Raises:
            KeyError: no such criterion in this report.
        """
        for result in self.criteria:
            if result.name == name:
                return result
        raise KeyError(f"no criterion {name!r} (there are: {', '.join(self.names)})")

    @property
    def names(self) -> tuple[str, ...]:
        """The criteria's names."""
        return tuple(result.name for result in self.criteria)

    def to_dict(self) -> dict[str, Any]:
        """The document of `check --json`."""
        return {
            "target": self.target,
            "profile": self.profile,
            "passed": self.passed,
            "criteria": [result.to_dict() for result in self.criteria],
        }


@dataclass(frozen=True)
class Demands:
    """A profile with its thresholds: what is required, and the bounds."""

    profile: str = "paper"
    bounds: Mapping[str, Threshold | str] = field(default_factory=dict)
    radius: float = SETTINGS["alive_radius"]
    epsilon: float = SETTINGS["alive_epsilon"]

    def required(self, name: str) -> bool:
        """Whether the profile requires the criterion, advisory ones apart."""
        return name in PROFILES[self.profile]

    def number(self, name: str) -> float:
        """The bound of a criterion with a single one."""
        value = self.bounds[name]
        assert isinstance(value, float | int)
        return float(value)

    def range(self, name: str) -> tuple[float, float]:
        """The bound of a criterion with a lower and an upper one."""
        value = self.bounds[name]
        assert isinstance(value, tuple)
        return value

    def result(
        self,
        name: str,
        verdict: str,
        *,
        passed: bool | None = None,
        value: Value = None,
        witness: Mapping[str, Any] | None = None,
        detail: str = "",
    ) -> Result:
        """A result of one of our criteria; `passed` follows from the verdict unless given."""
        one = next(spec for spec in SPECIFICATIONS if spec.name == name)
        bound = self.bounds[name]
        low, high = bound if isinstance(bound, tuple) else (math.nan, math.nan)
        statement = one.statement.format(
            bound=bound if isinstance(bound, float | int) else math.nan,
            low=low,
            high=high,
            radius=self.radius,
            epsilon=self.epsilon,
        )
        return Result(
            name=name,
            statement=statement,
            verdict=verdict,
            passed=verdict == PROVED if passed is None else passed,
            required=self.required(name),
            value=value,
            bound=bound,
            witness=witness,
            source=one.source,
            detail=detail,
        )


def demands(profile: str = "paper", thresholds: Mapping[str, Threshold] | None = None) -> Demands:
    """Check a profile's name and thresholds.

    Raises:
        InputError: an unknown profile or threshold, or a bound that is not a finite number (or,
            for `gain`, a pair of numbers in order).
    """
    if profile not in PROFILES:
        raise InputError(f"no profile {profile!r} of criteria: choose one of {', '.join(PROFILES)}")
    bounds: dict[str, Threshold | str] = {one.name: one.bound for one in SPECIFICATIONS}
    adjustable = [one.name for one in SPECIFICATIONS if one.adjustable]
    settings = dict(SETTINGS)
    for name, given in (thresholds or {}).items():
        if name in settings:
            settings[name] = _number(name, given, positive=True)
        elif name in bounds and name not in adjustable:
            raise InputError(
                f"the criterion {name!r} has no threshold: it holds or not "
                f"(thresholds: {', '.join([*adjustable, *settings])})"
            )
        elif name not in bounds:
            raise InputError(
                f"no threshold {name!r}: choose from {', '.join([*adjustable, *settings])}"
            )
        elif isinstance(bounds[name], tuple):
            bounds[name] = _pair(name, given)
        else:
            bounds[name] = _number(name, given, positive=name != "alive_in_half")
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
