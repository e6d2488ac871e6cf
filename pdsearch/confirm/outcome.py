"""The rows of a confirmation, from the stored runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_args

from pdsearch.confirm.reaching import Reaching, reaching
from pdsearch.family import Grouped
from pdsearch.plain import plain
from pdsearch.statistics import (
    PairedDifference,
    beyond_guessing,
    holm,
    mean_std,
    paired_difference,
    pairs_needed,
)
from pdsearch.study.attributes import RunKind
from pdsearch.text import ends, p_value, points
from pdsearch.trial import length_of, where_in

if TYPE_CHECKING:
    from pdsearch.family import Drawn

LEVEL = 0.05  # a difference is significant if its adjusted p-value is below
KINDS = get_args(RunKind)  # in the order of the table


@dataclass(frozen=True)
class Row:
    """One retrained candidate, reference or control.

    Attributes:
        name: As shown.
        kind: One of `KINDS`.
        formula: Of g; of the forward function for an activation.
        seed_values: Its seeds.
        accuracy: Test accuracies (fractions), in the order of `seed_values`.
        mean: Mean accuracy.
        std: Sample standard deviation over the seeds; None with one seed.
        paired: The paired difference to the baseline, over the seeds both have; None in the
            baseline's own row.
        p_adjusted: Holm's, over the rows of the confirmation.
        seeds_needed: Seeds for 80 % power at the observed effect, at the strictest level that Holm
            requires here (0.05 over the number of rows compared); None if the difference is
            significant or zero, or if 100 000 are not enough.
        learning_rate: Of its runs.
        diverged: Seeds whose training diverged.
        seconds: Training time of its runs.
        reaching: When its runs reach ReLU's own final accuracy; None for a stream of tasks.
        runs: The stored entries of each run's epochs or tasks, in the order of `seed_values`.
    """

    name: str
    kind: str
    formula: str
    seed_values: tuple[int, ...]
    accuracy: tuple[float, ...]
    mean: float
    std: float | None
    paired: PairedDifference | None
    p_adjusted: float | None
    seeds_needed: int | None
    learning_rate: float
    diverged: tuple[int, ...]
    seconds: float
    reaching: Reaching | None = None
    runs: tuple[tuple[Mapping[str, Any], ...], ...] = ()

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.accuracy)

    @property
    def difference(self) -> float | None:
        """Mean paired difference to the baseline, a fraction; 0 in its own row, None if no pair."""
        if self.paired is None:
            return 0.0
        return self.paired.difference if self.paired.n else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The 95 % interval of the difference by the paired t."""
        return self.paired.interval if self.paired else None

    @property
    def ci95_bootstrap(self) -> tuple[float, float] | None:
        """The same by bootstrap."""
        return self.paired.bootstrap if self.paired else None

    @property
    def p_value(self) -> float | None:
        """The p-value of the two-sided paired t-test, not adjusted."""
        return self.paired.p_value if self.paired else None

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below 0.05."""
        return self.p_adjusted is not None and self.p_adjusted < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `confirm --json`."""
        left_out = ("paired", "reaching", "runs")
        names = [one.name for one in fields(self) if one.name not in left_out]
        names += ["seeds", "difference", "ci95", "ci95_bootstrap", "p_value"]
        reaching = None if self.reaching is None else self.reaching.to_dict()
        shown = {name: getattr(self, name) for name in names}
        return dict(plain({**shown, "time_to_accuracy": reaching}))


@dataclass(frozen=True)
class Confirmation:
    """Paired retraining over seeds, on one model and data set.

    Attributes:
        study: The study's name.
        model: As in the study file.
        dataset: As in the study file.
        epochs: Of each run; with a stream, of each task.
        learning_rate: The rate of every row; None if the rows chose theirs from a grid.
        rows: Baseline first.
        notes: What a reader must know in addition to the table, a sentence each.
        device: Where it was trained.
        versions: Of the software that trained it.
        transfers: The same on other models and data sets.
        stream: The stream of tasks in the trial's settings, if any: an accuracy is then the mean
            within the last tasks.
        only: Patterns of the ReLUs that a row's g serves, if not all.
        skip: Patterns of ReLUs that keep their own derivative.
    """

    study: str
    model: str
    dataset: str
    epochs: int
    learning_rate: float | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    transfers: tuple["Confirmation", ...] = ()
    stream: Mapping[str, Any] | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Model, the ReLUs that a row's g serves unless it serves all, and data set, in words."""
        return where_in(vars(self))

    @property
    def protocol(self) -> str:
        """Model, data set, and length of the runs, in words."""
        length = length_of({"epochs": self.epochs, "stream": self.stream})
        if self.stream is None:
            return f"{self.where}, test set, {length}"
        return (
            f"{self.where}, {length}: training accuracy within its last {self.stream['last']} "
            "tasks, on test images"
        )

    @property
    def pick(self) -> Row | None:
        """The search's first pick, or the next row that is compared; None without any."""
        compared = [row for row in self.rows if row.kind != "baseline"]
        order = ("candidate", "given", *KINDS)
        return min(compared, key=lambda row: order.index(row.kind), default=None)

    @property
    def headline(self) -> str:
        """The pick against the baseline in one sentence; no more certain than its adjusted p."""
        row = self.pick
        if row is None or row.paired is None:
            return "Nothing has been compared with ReLU yet."
        if row.difference is None:
            return f"{row.name}: no seed finished together with ReLU yet."
        text = f"{row.name} − ReLU = {points(row.difference)} points"
        if row.ci95 is not None:
            text += f" {ends(row.ci95)}"
        text += f", n = {row.paired.n}"
        if row.p_adjusted is None:
            why = "one seed" if row.paired.n == 1 else "no spread between seeds"
            return f"{text}: no statement ({why})."
        text += f", adjusted p = {p_value(row.p_adjusted)}"
        if row.significant:
            return f"{text}: {'better' if row.difference > 0 else 'worse'} than ReLU."
        text += ": not significant"
        if row.seeds_needed is None:
            return f"{text}."
        return f"{text} (about {row.seeds_needed} seeds for 80 % power at this effect)."

    def to_dict(self) -> dict[str, Any]:
        """Return the document of `confirm --json`."""
        document = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("rows", "transfers"):
            document[name] = [one.to_dict() for one in document[name]]
        for name in ("stream", "transfers", "only", "skip"):
            if not document[name]:
                del document[name]
        return dict(plain({**document, "headline": self.headline}))


def identity_of(formula: str, *, how: str) -> str:
    """Return what distinguishes a row's runs from another's."""
    return f"{how}: {formula}"


def how_of(candidate: "Drawn") -> str:
    """Return how a candidate's g is used: in the backward pass, perhaps in one direction."""
    if isinstance(candidate, Grouped):
        up = [group for group, part in candidate.parts.items() if part.direction == "up"]
        return "pseudo-derivative by group" + (f", direction up in {', '.join(up)}" if up else "")
    directed = "" if candidate.direction == "both" else f", direction {candidate.direction}"
    return f"pseudo-derivative{directed}"


def assemble(
    study: str,
    setting: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    *,
    picks: Sequence[str] = (),
) -> Confirmation:
    """Assemble the confirmation from the test runs under one setting.

    Args:
        study: The study's name.
        setting: As in the records.
        records: Of finished runs, of any setting.
        picks: Identities of the study's candidates as they rank now, the best first: the study may
            have continued since some of them were retrained, and the first row is its best.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: str(record["finished"])):
        if record["split"] == "test" and record["setting"] == setting:
            changed = json.dumps(record.get("changes", {}), sort_keys=True)
            groups.setdefault((record["how"], record["formula"], changed), []).append(record)
    rank = {pick: place for place, pick in enumerate(dict.fromkeys(picks))}

    def rank_of(runs: Sequence[Mapping[str, Any]]) -> int:
        return rank.get(identity_of(runs[0]["formula"], how=runs[0]["how"]), len(rank))

    def kind(runs: Sequence[Mapping[str, Any]]) -> str:
        """As it was retrained; a candidate if the study has found it since."""
        own = runs[0]["kind"] in ("given", "reference") and rank_of(runs) < len(rank)
        return "candidate" if own else str(runs[0]["kind"])

    # Not in the order in which they finished, which is chance with several processes.
    ordered = sorted(
        groups.values(),
        key=lambda runs: (
            KINDS.index(kind(runs)),
            rank_of(runs) if kind(runs) == "candidate" else 0,
            min(run.get("place", 0) for run in runs),
        ),
    )
    baseline = next((runs for runs in ordered if runs[0]["kind"] == "baseline"), [])
    rows = [_row(runs, baseline, kind=kind(runs)) for runs in ordered]
    adjusted = holm([row.p_value for row in rows])
    compared = sum(p is not None for p in adjusted)
    rows = [
        replace(row, p_adjusted=p, seeds_needed=_needed(row, p, compared))
        for row, p in zip(rows, adjusted, strict=True)
    ]
    chance = max((run["chance"] for runs in ordered for run in runs), default=0.0)
    trial = setting["trial"]
    return Confirmation(
        study=study,
        model=trial["model"],
        dataset=trial["dataset"],
        epochs=trial["epochs"],
        learning_rate=None if trial.get("learning_rates") else trial["learning_rate"],
        rows=tuple(rows),
        notes=tuple(_notes(rows, setting, chance=chance)),
        device=setting["device"],
        versions=dict(setting["versions"]),
        stream=trial.get("stream"),
        only=tuple(trial.get("only") or ()),
        skip=tuple(trial.get("skip") or ()),
    )


def _row(
    runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], *, kind: str
) -> Row:
    runs = sorted(runs, key=lambda run: int(run["seed"]))
    own = {run["seed"]: run["accuracy"] for run in runs}
    relu = {run["seed"]: run["accuracy"] for run in baseline}
    common = [seed for seed in own if seed in relu]
    paired = None
    if kind != "baseline":
        paired = paired_difference([own[seed] for seed in common], [relu[seed] for seed in common])
    mean, std = mean_std(list(own.values()))
    return Row(
        name=runs[0]["name"],
        kind=kind,
        formula=runs[0]["formula"],
        seed_values=tuple(own),
        accuracy=tuple(own.values()),
        mean=mean,
        std=std,
        paired=paired,
        p_adjusted=None,
        seeds_needed=None,
        learning_rate=runs[0]["learning_rate"],
        diverged=tuple(run["seed"] for run in runs if run["diverged"]),
        seconds=sum(run["seconds"] for run in runs),
        reaching=reaching(runs, baseline, own=kind == "baseline"),
        runs=tuple(tuple(run.get("epochs", ())) for run in runs),
    )


def _needed(row: Row, p_adjusted: float | None, compared: int) -> int | None:
    if p_adjusted is None or p_adjusted < LEVEL or row.paired is None or row.paired.effect is None:
        return None
    return pairs_needed(row.paired.effect, alpha=LEVEL / compared)


def _notes(rows: Sequence[Row], setting: Mapping[str, Any], *, chance: float) -> list[str]:
    """The sentences under the table."""
    notes = []
    if grid := setting["trial"].get("learning_rates"):
        after = f" after {setting['rate_epochs']} epoch(s)" if "rate_epochs" in setting else ""
        notes.append(
            "Each row's learning rate is the best of "
            f"{', '.join(format(rate, 'g') for rate in grid)} by one run's validation accuracy"
            f"{after}."
        )
    for row in rows:
        if row.diverged:
            seeds = ", ".join(str(number) for number in row.diverged)
            notes.append(
                f"{row.name} diverged at seed {seeds}: counted with the accuracy of guessing."
            )
        if row.paired is not None and row.paired.n < row.seeds:
            notes.append(
                f"{row.name} is compared over the {row.paired.n} of its {row.seeds} seeds "
                "that the baseline has finished too."
            )
    flat = [r.name for r in rows if r.paired and r.paired.n > 1 and r.paired.interval is None]
    if flat:
        notes.append(
            "Different from the baseline by the same amount at every seed, so without an interval "
            f"or a test: {'; '.join(flat)}."
        )
    if rows and not beyond_guessing(max(row.mean for row in rows), chance):
        notes.append(
            f"No row is above guessing ({100 * chance:.1f} %), which says nothing about the "
            "candidates: train for more epochs or at another learning rate."
        )
    if rows and max(row.seeds for row in rows) == 1:
        notes.append("One seed: no interval, and no difference can be told from luck.")
    return notes
