"""Results: the verdict on a criterion with its evidence, and the report of all of them."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pdsearch.criteria.figures import criteria_figure
from pdsearch.family import Candidate, Family
from pdsearch.family.figures import family_figure
from pdsearch.plain import plain
from pdsearch.text import bound, html_table, number, place, printable

if TYPE_CHECKING:
    import plotly.graph_objects as go

Value = float | tuple[float, float] | None
Threshold = float | tuple[float, float]
Witness = Mapping[str, Any] | None

PROVED: Final = "proved"
REFUTED: Final = "refuted"
UNDECIDED: Final = "undecided"
MEASURED: Final = "measured"
VERDICTS: Final = (PROVED, REFUTED, UNDECIDED, MEASURED)


@dataclass(frozen=True)
class Outcome:
    """What a decider finds; its fields are those of `Result`.

    `passed` matters only where the verdict is `measured`.
    """

    verdict: str
    value: Value = None
    witness: Witness = None
    detail: str = ""
    passed: bool = False


@dataclass(frozen=True)
class Result:
    """A criterion's outcome for one candidate or family.

    Attributes:
        name: The criterion's name.
        statement: What was decided, with its bounds.
        verdict: `proved`, `refuted`, `undecided` or `measured`.
        passed: Whether the statement holds; False where undecided.
        required: Whether the profile requires it.
        value: A number, or a certified enclosure [lo, hi] of it; None where there is none.
        bound: The number or range that the value is compared with.
        witness: Where the statement fails: `x` a number or an interval, and parameters.
        source: Where the criterion comes from.
        detail: One more sentence, such as limits or the smallest box left undecided.
    """

    name: str
    statement: str
    verdict: str
    passed: bool
    required: bool
    value: Value
    bound: Threshold | str
    witness: Witness
    source: str
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: non-finite numbers become None, enclosures lists."""
        return plain(vars(self))


@dataclass(frozen=True)
class Report:
    """All results for one candidate or family: in the order of `CRITERIA`, then the user's own.

    Attributes:
        target: Its name, or the text of a typed formula.
        profile: `paper` or `strict`.
        criteria: The results.
        subject: The candidate or family itself.
    """

    target: str
    profile: str
    criteria: tuple[Result, ...]
    subject: Candidate | Family = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether every required criterion holds."""
        return all(result.passed for result in self.criteria if result.required)

    def __getitem__(self, name: str) -> Result:
        """A result by its criterion's name.

        Raises:
            KeyError: No such criterion in this report.
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

    def plot(self) -> "go.Figure":
        """Draw the shape, and mark where a candidate fails; a family as `pdsearch.plot` does."""
        if isinstance(self.subject, Family):
            return family_figure(self.subject)
        return criteria_figure(self.subject, self.to_dict()["criteria"])

    def _repr_html_(self) -> str:
        rows = [
            [
                "✓" if one.passed else "✗",
                one.name + ("" if one.required else " (not required)"),
                one.verdict,
                number(one.value),
                bound(one.bound),
                place(one.witness),
            ]
            for one in self.criteria
        ]
        holds = "hold" if self.passed else "do not all hold"
        title = f"{self.target}: the required criteria of the profile {self.profile} {holds}"
        head = ["", "criterion", "verdict", "value", "bound", "fails at"]
        return f"<div><p><b>{html.escape(printable(title))}</b></p>{html_table(head, rows)}</div>"
