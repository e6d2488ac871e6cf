"""A study's families as one conditional search space of Optuna: loading, gating, drawing.

Its parameters are named `family`, `<family>.<parameter>` and `<family>.direction`; for a group of
layers, each after `<group>:`.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from pdsearch.criteria import FamilyGate, settle
from pdsearch.errors import InputError, short
from pdsearch.expression import parse
from pdsearch.family import (
    FADES,
    Candidate,
    Drawn,
    Family,
    Grouped,
    Range,
    at_share,
    distribution_from,
    fade,
    in_range,
    load_family,
)
from pdsearch.study.attributes import TrialAttrs
from pdsearch.study.groups import FamilySpec
from pdsearch.study.innards import contains
from pdsearch.study.problems import Problems
from pdsearch.study.settings import ONE_FAMILY, CriteriaSection, StudySection

BASELINE = "relu"

Groups = Mapping[str, Mapping[str, Family]]
"""The families that each group of layers is searched over, by name. Without groups, those for all
layers have the group ""."""


def all_families(groups: Groups) -> dict[str, Family]:
    """Return the families of all groups by name: one name stands for one family."""
    return {name: family for families in groups.values() for name, family in families.items()}


def resolve_families(
    settings: StudySection, *, directory: Path
) -> tuple[Groups, dict[str, Family]]:
    """Return the families to search by group, and the references, of a study, by name.

    Raises:
        InputError: some are wrong: all problems, one per line.
    """
    problems = Problems()

    def resolve(key: str, specs: Sequence[FamilySpec], *, label: str = "") -> dict[str, Family]:
        found: dict[str, Family] = {}
        for index, spec in enumerate(specs):
            with problems.at(f"study.{key}.{index}: "):
                family = _family(spec, label=f"{label}{index + 1}", directory=directory)
                if family.name in found:
                    raise InputError(f"family {family.name!r} is there twice")
                found[family.name] = family
        return found

    groups: dict[str, dict[str, Family]] = {}
    needed = not settings.groups or any(one.families is None for one in settings.groups.values())
    default = resolve("families", settings.families) if needed else {}
    for name, group in settings.groups.items():
        key = f"groups.{name}.families"
        own = group.families
        groups[name] = default if own is None else resolve(key, own, label=f"{name}_")
    groups = groups or {"": default}
    families = all_families(groups)
    named = [pair for found in groups.values() for pair in found.items()]
    for name in sorted({name for name, family in named if family != families[name]}):
        problems.append(
            f"study.groups: {name!r} names different families in two groups: give one of them "
            "another name (name = …)"
        )
    references = resolve("references", settings.references)
    if BASELINE in references:
        problems.append(f"study.references: {BASELINE!r} is the baseline, which always runs")
    for name in families.keys() & references.keys():
        if replace(families[name], directions=families[name].directions[:1]) != references[name]:
            problems.append(
                f"study.references: {name!r} names another family than in study.families"
            )
    if settings.sampler in ONE_FAMILY and families:
        only = next(iter(families.values()))
        free = sum(not distribution.single() for distribution in only.space.values())
        if free == 0:
            problems.append(
                f"study.sampler: {settings.sampler!r} needs parameters to search, but family "
                f"{only.name!r} has none"
            )
        if settings.sampler == "cmaes" and len(only.directions) > 1:
            problems.append(
                "study.sampler: 'cmaes' draws numbers only, but family "
                f"{only.name!r} has several directions; use tpe, or one direction"
            )
        if settings.sampler == "cmaes" and free < 2:
            problems.append(
                "study.sampler: 'cmaes' needs two parameters or more, but family "
                f"{only.name!r} has fewer; use tpe or gp"
            )
    problems.check()
    return groups, references


def _family(spec: FamilySpec, *, label: str, directory: Path) -> Family:
    if isinstance(spec, str):
        return load_family(spec, directory=directory)
    return _of_table(spec, label=label, directory=directory)


_ANY = ("name", "fade", "end", "direction")
_OF_FORMULA = ("space", "defaults", "reference")


def _of_table(table: Mapping[str, Any], *, label: str, directory: Path) -> Family:
    if ("formula" in table) == ("family" in table):
        raise InputError('a family\'s table needs formula = "…" or family = "…", but not both')
    allowed = (*(("formula", *_OF_FORMULA) if "formula" in table else ("family",)), *_ANY)
    if unknown := sorted(set(table) - set(allowed)):
        raise InputError(f"unknown key {unknown[0]!r}; valid are: {', '.join(allowed)}")
    if "formula" in table:
        family = _of_formula(table, label=label)
    elif isinstance(table["family"], str):
        family = load_family(table["family"], directory=directory)
    else:
        raise InputError(f"family must be a name or path.py:name, got {table['family']!r}")
    if "fade" in table:
        end = table.get("end")
        if end is not None and not isinstance(end, int | float):
            end = cast(FloatDistribution, distribution_from(end, "end"))
        family = fade(family, table["fade"], end=end)
    elif "end" in table:
        raise InputError(f"end goes with fade = one of {', '.join(FADES)}")
    given = table.get("direction", family.directions)
    directions = (given,) if isinstance(given, str) else tuple(given)
    # This allows a family and its upward form in one study.
    default = f"{family.name}_up" if directions == ("up",) else family.name
    return replace(family, name=str(table.get("name", default)), directions=directions)


def _of_formula(table: Mapping[str, Any], *, label: str) -> Family:
    formula, space = table["formula"], table.get("space", {})
    if not isinstance(formula, str):
        raise InputError(f"formula must be text, got {formula!r}")
    if not isinstance(space, Mapping) or not isinstance(table.get("defaults", {}), Mapping):
        raise InputError("space and defaults are tables, such as space = {a = [0.01, 1.0]}")
    ranges: dict[str, BaseDistribution] = {
        name: distribution_from(entry, str(name)) for name, entry in space.items()
    }
    return Family(
        f"formula_{label}",
        parse(formula, parameters=ranges),
        space=ranges,
        defaults=dict(table.get("defaults", {})),
        reference=str(table.get("reference", "")),
        origin="study file",
    )


def as_spec(family: Family) -> dict[str, Any]:
    """Return a family as its table in a study file."""
    data = family.to_dict()
    table = {key: data[key] for key in ("name", "formula", "space", "defaults", "reference")}
    return table | ({"direction": data["directions"]} if "directions" in data else {})


def settle_families(
    families: Mapping[str, Family],
    criteria: CriteriaSection,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, FamilyGate]:
    """Decide the required criteria for whole families where possible; `say` reports progress.

    Candidates of a family that cannot pass are still drawn, and ruled out one by one, because a
    study may be about just that.
    """
    gates = {}
    for index, (name, family) in enumerate(families.items()):
        say(f"criteria of the family {name} ({index + 1} of {len(families)})")
        gates[name] = settle(family, profile=criteria.profile, thresholds=criteria.bounds())
        if gates[name].hopeless:
            say(f"each candidate of {name} will be ruled out: {gates[name].hopeless}")
    return gates


def offered(family: Family, gate: FamilyGate | None = None) -> dict[str, Range]:
    """Return a family's distributions without the ranges that its gate excludes.

    A range with fractional steps stays whole: if it began elsewhere, its steps would miss the
    family's own values by rounding.
    """
    found = cast("dict[str, Range]", dict(family.space))
    for name, (low, high) in (gate.ranges if gate is not None else {}).items():
        whole = found[name]
        if isinstance(whole, FloatDistribution) and whole.step is None:
            found[name] = FloatDistribution(low, high, log=whole.log)
        elif isinstance(whole, IntDistribution):
            first = whole.low + math.ceil((low - whole.low) / whole.step) * whole.step
            last = whole.low + math.floor((high - whole.low) / whole.step) * whole.step
            # If no step remains, keep the whole range and decide each candidate separately.
            if first <= last:
                found[name] = IntDistribution(first, last, log=whole.log, step=whole.step)
    return found


def suggest(
    trial: optuna.Trial,
    groups: Groups,
    layers: Mapping[str, tuple[str, ...]],
    spaces: Mapping[str, Mapping[str, Range]],
    *,
    flat: bool,
    enqueued: Mapping[str, Any],
) -> Drawn:
    """Draw a candidate, or one for each group: `family`, then its parameters and its direction.

    Args:
        trial: Optuna's.
        groups: the families.
        layers: the patterns of each group's ReLUs; empty without groups.
        spaces: the distributions by family; see `offered`.
        flat: draw the parameters of every family: the crossover of a genetic algorithm needs
            parameters that all parents have.
        enqueued: parameters that the user has fixed, which may be outside `spaces`.
    """

    def draw_one(families: Mapping[str, Family], prefix: str) -> Candidate:
        name = str(trial.suggest_categorical(f"{prefix}family", list(families)))
        drawn: dict[str, dict[str, Any]] = {name: {}}
        for other, family in families.items() if flat else [(name, families[name])]:
            found = drawn.setdefault(other, {})
            for parameter, d in spaces[other].items():
                key = f"{prefix}{other}.{parameter}"
                if key in enqueued and not contains(d, enqueued[key]):
                    d = offered(family)[parameter]
                draw = trial.suggest_int if isinstance(d, IntDistribution) else trial.suggest_float
                found[parameter] = draw(key, d.low, d.high, step=d.step, log=d.log)  # type: ignore
            if len(family.directions) > 1:
                choices = list(family.directions)
                key = f"{prefix}{other}.direction"
                found["direction"] = trial.suggest_categorical(key, choices)
        return families[name].bind(**drawn[name])

    if not layers:
        return draw_one(groups[""], "")
    parts = {name: draw_one(families, prefix_of(name)) for name, families in groups.items()}
    return Grouped(parts, layers)


def prefix_of(group: str) -> str:
    """Return what stands before the Optuna parameters of a group, and before its criteria."""
    return f"{group}:" if group else ""


def grid(
    family: Family, points: int, *, space: Mapping[str, Range] | None = None
) -> list[dict[str, Any]]:
    """Return an even grid of at most `points` points in a family's box, as Optuna parameters.

    The box is `space`, by default the family's own. Each range gets its ends and equal steps
    between them (equal ratios if log). The counts grow in turn while their product is at most
    `points`. Each point is repeated for each of the family's directions.
    """
    points = max(1, points // len(family.directions))
    space = offered(family) if space is None else space
    free = [name for name, d in space.items() if not d.single()]
    counts = dict.fromkeys(free, 1)
    most = {name: _most(space[name]) for name in free}
    grown = True
    while grown:
        grown = False
        for name in free:
            size = math.prod(counts.values()) // counts[name] * (counts[name] + 1)
            if counts[name] < most[name] and size <= points:
                counts[name] += 1
                grown = True
    axes: list[list[tuple[str, Any]]] = [
        [(f"{family.name}.{name}", value) for value in _steps(distribution, counts.get(name, 1))]
        for name, distribution in space.items()
    ]
    if len(family.directions) > 1:
        axes.append([(f"{family.name}.direction", choice) for choice in family.directions])
    return [{"family": family.name, **dict(point)} for point in itertools.product(*axes)]


def _most(d: Range) -> float:
    """Return the number of values in a range."""
    return math.inf if d.step is None else int((d.high - d.low) / d.step + 1e-9) + 1


def _steps(d: Range, count: int) -> list[float]:
    """Return so many values of a range, at equal distances."""
    shares = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
    values = [at_share(d.low, d.high, share, log=d.log) for share in shares]
    if d.step is not None:
        values = [d.low + round((value - d.low) / d.step) * d.step for value in values]
    return list(dict.fromkeys(in_range(value, d) for value in values))


# --------------------------------------------------------------- trials that pdsearch did not add


def space_of(groups: Groups) -> dict[str, BaseDistribution]:
    """Return every parameter of a search over families, by its name."""
    space: dict[str, BaseDistribution] = {}
    for group, families in groups.items():
        prefix = prefix_of(group)
        space[f"{prefix}family"] = CategoricalDistribution(list(families))
        for name, family in families.items():
            if len(family.directions) > 1:
                directions = list(family.directions)
                space[f"{prefix}{name}.direction"] = CategoricalDistribution(directions)
            space |= {f"{prefix}{name}.{parameter}": d for parameter, d in family.space.items()}
    return space


def refusal(fixed: Any, groups: Groups) -> str | None:
    """Return why the parameters of an enqueued trial are invalid; None if they are valid."""
    if not isinstance(fixed, Mapping):
        return f"enqueued with no parameters: {short(fixed, 80)}"
    space = space_of(groups)
    for name, value in fixed.items():
        if name not in space:
            return (
                f"enqueued with {short(name, 80)}, no parameter of the study "
                f"(it has: {', '.join(space)[:200]})"
            )
        d: Any = space[name]
        if isinstance(d, CategoricalDistribution):
            if value not in d.choices:
                valid = ", ".join(map(str, d.choices))
                return f"enqueued with {name} {short(value, 80)}: valid are {valid}"
        elif type(value) not in (int, float) or not contains(d, value):
            steps = "" if d.step in (None, 1) else f" in steps of {d.step}"
            return f"enqueued with {name} = {short(value, 80)}, none of [{d.low}, {d.high}]{steps}"
    return None


def check_added(trials: Iterable[FrozenTrial], groups: Groups) -> None:
    """Check that the parameters of trials added by hand do not conflict with the study's own.

    Raises:
        InputError: Optuna refuses the study's parameter because of one of the same name.
    """
    space = space_of(groups)
    for trial in trials:
        if "candidate" in TrialAttrs(trial):
            continue
        for name, distribution in trial.distributions.items():
            try:
                check_distribution_compatibility(distribution, space.get(name, distribution))
            except ValueError:
                raise InputError(
                    f"trial {trial.number}, which pdsearch did not make, holds the parameter "
                    f"{name!r} as {short(distribution, 80)}: Optuna allows one type of parameter "
                    "per name in a study; choose another study.name"
                ) from None
