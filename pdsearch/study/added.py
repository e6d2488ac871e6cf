"""Trials that others put into a study: enqueued ones are checked, finished ones passed over."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution

from pdsearch.errors import InputError
from pdsearch.family import Family
from pdsearch.study.innards import contains
from pdsearch.study.kept import PREFIX
from pdsearch.text import short

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def refusal(fixed: Any, families: Mapping[str, Family]) -> str | None:
    """Why an enqueued trial's parameters cannot be a candidate's; None where they can.

    Args:
        fixed: what `study.enqueue_trial` was given.
        families: those searched, by name.
    """
    ranges = {
        f"{family.name}.{name}": distribution
        for family in families.values()
        for name, distribution in family.space.items()
    }
    choices = _choices(families)
    if not isinstance(fixed, Mapping):
        return f"enqueued with no parameters: {short(fixed, 80)}"
    for name, value in fixed.items():
        if name in choices:
            if value not in choices[name]:
                return (
                    f"enqueued with {name} {short(value, 80)}: valid are {', '.join(choices[name])}"
                )
            continue
        if name not in ranges:
            return (
                f"enqueued with {short(name, 80)}, no parameter of the study "
                f"(it has: {', '.join([*choices, *ranges])[:200]})"
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not contains(ranges[name], value):
            return f"enqueued with {name} = {short(value, 80)}, none of {_range(ranges[name])}"
    return None


def widened(
    spaces: Mapping[str, Mapping[str, BaseDistribution]],
    families: Mapping[str, Family],
    fixed: Mapping[str, Any],
) -> dict[str, dict[str, BaseDistribution]]:
    """The spaces that candidates are drawn from, with the values that an enqueued trial asks for.

    Such a value may lie where candidates are known to be ruled out, which is not offered.
    """
    found = {name: dict(space) for name, space in spaces.items()}
    for name, space in found.items():
        for parameter, distribution in space.items():
            value = fixed.get(f"{name}.{parameter}")
            if value is not None and not contains(distribution, value):
                space[parameter] = families[name].space[parameter]
    return found


def check_added(trials: "Iterable[FrozenTrial]", families: Mapping[str, Family]) -> None:
    """Looks whether trials added by hand leave room for the study's own parameters.

    Raises:
        InputError: one holds a parameter of the same name and another kind, which Optuna refuses.
    """
    categorical = _choices(families)
    names = {f"{family.name}.{name}" for family in families.values() for name in family.space}
    for trial in trials:
        if PREFIX + "candidate" in trial.user_attrs:
            continue
        for name, distribution in trial.distributions.items():
            choices = getattr(distribution, "choices", None)  # of a categorical one alone
            other = choices is None or list(choices) != categorical.get(name)
            if (name in names and choices is not None) or (name in categorical and other):
                raise InputError(
                    f"trial {trial.number}, which pdsearch did not make, holds the parameter "
                    f"{name!r} as {short(distribution, 80)}: Optuna allows one kind of parameter of a "
                    "name in a study; choose another study.name"
                )


def _choices(families: Mapping[str, Family]) -> dict[str, list[str]]:
    """What is chosen from among words: the family, and its direction where it has several."""
    directions = {
        f"{name}.direction": list(family.directions)
        for name, family in families.items()
        if len(family.directions) > 1
    }
    return {"family": list(families), **directions}


def _range(distribution: Any) -> str:
    step = getattr(distribution, "step", None)
    whole = f"[{distribution.low}, {distribution.high}]"
    return whole if step in (None, 1) else f"{whole} in steps of {step}"
