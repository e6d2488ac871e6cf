"""Your own criteria: functions of a candidate, listed after the built-in ones."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from pdsearch.criteria.records import CRITERIA
from pdsearch.criteria.result import MEASURED, PROVED, VERDICTS, Result
from pdsearch.errors import InputError, PdsearchError, first_line, short
from pdsearch.family import Candidate
from pdsearch.userfile import read_python

UserCriterion = Callable[[Candidate], Any]
"""Your own criterion: candidate → `Result`, or → (value, passed)."""


def functions_of(given: Any, name: str) -> tuple[UserCriterion, ...]:
    """Return the criteria that the user gave as an argument of that name.

    Raises:
        InputError: They are not functions in a list.
    """
    if callable(given) or isinstance(given, str):
        raise InputError(f"{name} must be a list of functions, got {short(given)}")
    for one in given:
        if not callable(one):
            raise InputError(f"{name}: a criterion is a function of a candidate, got {short(one)}")
    return tuple(given)


def own_results(extra: Sequence[UserCriterion], candidates: Sequence[Candidate]) -> list[Result]:
    """Return the results of the user's criteria for a candidate, or the worst of several.

    Raises:
        InputError: Two have the same name, or one fails or returns neither a `Result` nor a pair.
    """
    results = []
    for criterion in extra:
        found = [(_own(criterion, candidate), candidate) for candidate in candidates]
        results.append(found[0][0] if len(found) == 1 else worst_of(found, "asked of"))
    names = [result.name for result in results]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two criteria of your own are called {', '.join(map(repr, twice))}")
    return results


def worst_of(found: Sequence[tuple[Result, Candidate]], how: str) -> Result:
    """The worst result among some of a family's candidates.

    A proof for some of them proves nothing for the family: `proved` becomes `measured`.
    """
    worst, at = next((pair for pair in found if not pair[0].passed), found[0])
    asked = f"{how} {len(found)} of the family's candidates, this is {at.name}"
    return replace(
        worst,
        verdict=MEASURED if worst.verdict == PROVED else worst.verdict,
        witness=worst.witness and {**at.parameters, **worst.witness},
        detail=f"{worst.detail}; {asked}" if worst.detail else asked,
    )


def _own(criterion: UserCriterion, candidate: Candidate) -> Result:
    name = criterion_name(criterion)
    # Its output must not reach stdout, where the command line writes its data.
    try:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = criterion(candidate)
    except (PdsearchError, OSError, RuntimeError, MemoryError):
        raise  # clear already, or transient
    except Exception as error:
        raise InputError(
            f"the criterion {name!r} failed for {candidate.name}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if isinstance(outcome, Result):
        if outcome.name in CRITERIA:
            raise InputError(_TAKEN.format(outcome.name))
        if outcome.verdict not in VERDICTS:
            raise InputError(
                f"the verdict of the criterion {name!r} must be one of {', '.join(VERDICTS)}, "
                f"got {outcome.verdict!r}"
            )
        return outcome
    if (
        isinstance(outcome, tuple)
        and len(outcome) == 2
        and isinstance(outcome[1], bool | np.bool_)
        and (outcome[0] is None or isinstance(outcome[0], int | float | tuple | np.number))
    ):
        value, passed = outcome
        value = value.item() if isinstance(value, np.number) else value
        statement = " ".join((criterion.__doc__ or name).split("\n\n")[0].split())
        return Result(
            name, statement, MEASURED, bool(passed), True, value, "the user's own", None,
            "the user's",
        )  # fmt: skip
    kinds = [type(part).__name__ for part in outcome] if isinstance(outcome, tuple) else []
    got = f"({', '.join(kinds)})" if kinds else type(outcome).__name__
    raise InputError(
        f"the criterion {name!r} must give a Result or a pair (value, passed) of a number or None "
        f"and a bool, got {got}"
    )


_TAKEN = "a criterion of your own cannot be called {!r}: that is one of ours"


def criterion_name(criterion: UserCriterion) -> str:
    """Return the name under which a criterion is listed.

    Raises:
        InputError: It is the name of a built-in criterion.
    """
    name = str(getattr(criterion, "__name__", type(criterion).__name__))
    if name in CRITERIA:
        raise InputError(_TAKEN.format(name))
    return name


def load_criterion(spec: str, *, directory: Path | None = None) -> UserCriterion:
    """Load a criterion from a file, which is run: `path.py:function`.

    The function takes a candidate and returns a `Result`, or a pair (value, passed).

    Args:
        spec: The file and the function.
        directory: Where a relative path starts; the working directory if None.

    Raises:
        InputError: No such file or function.
    """
    return read_criterion(spec, directory=directory)[0]


def read_criterion(spec: str, *, directory: Path | None = None) -> tuple[UserCriterion, str]:
    """Return what `load_criterion` returns, and the text of the file as it ran."""
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(f"a criterion of your own is named path.py:function, got {spec!r}")
    path = Path(file) if directory is None else directory / file
    if not path.is_file():
        raise InputError(f"{path} does not exist: a criterion needs path.py:function")
    source = read_python(path)
    module = source.run()
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InputError(f"{path} has no function {name!r} (it has: {', '.join(names) or 'none'})")
    criterion_name(function)
    return cast(UserCriterion, function), source.text
