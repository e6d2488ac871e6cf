"""Families from the library, from files, and from a TARGET of the command line."""

import difflib
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

from optuna.distributions import BaseDistribution, FloatDistribution

from pdsearch import expression as _expression
from pdsearch.errors import InputError, short
from pdsearch.family.definition import FAMILY_NAME, Candidate, Family
from pdsearch.family.documents import JSON_LIMIT
from pdsearch.family.fades import fade
from pdsearch.family.ranges import Range, distribution_from
from pdsearch.userfile import read_bytes, run_file

_FILE_NAME = re.compile(r"[\w./\\~:-]*\.[A-Za-z_]\w*(:\w*)?")


def library_directory() -> Path:
    """Return the folder of the library: in the package, or next to it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


@functools.cache
def _library() -> tuple[Mapping[str, Family], Mapping[str, str]]:
    directory = library_directory()
    if not directory.is_dir():
        raise InputError(f"the library of families is missing: no folder {directory}")
    families: dict[str, Family] = {}
    names: dict[str, str] = {}
    for file in sorted(directory.glob("*.py")):
        for family in find_families(file, origin=f"search_spaces/{file.name}").values():
            for name in (family.name, *family.aliases):
                if name in names:
                    raise InputError(f"two families of the library are called {name!r}")
                names[name] = family.name
            families[family.name] = family
    ordered = dict(sorted(families.items()))
    return MappingProxyType(ordered), MappingProxyType(names)


def library() -> dict[str, Family]:
    """Return every family of the library by name, sorted; `load_family` also knows the aliases."""
    return dict(_library()[0])


def find_families(path: Path, *, origin: str | None = None) -> dict[str, Family]:
    """Run a Python file and return the families at its top level, by name.

    Families that it loads from elsewhere, such as from the library, do not count.

    Raises:
        InputError: the file does not exist, fails, or defines no family.
    """
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {kind}: give a Python file that defines a Family")
    found: dict[str, Family] = {}
    for value in vars(run_file(path)).values():
        if not isinstance(value, Family) or value.origin or value is found.get(value.name):
            continue
        if value.name in found:
            raise InputError(f"{path} defines two families called {value.name!r}")
        found[value.name] = value
    if not found:
        raise InputError(f"{path} defines no Family at its top level")
    for family in found.values():
        object.__setattr__(family, "origin", origin or str(path))
    return found


def is_library_name(text: str) -> bool:
    """Return whether the library has a family with that name or alias."""
    return text in _library()[1]


def load_family(spec: str | Path, *, directory: Path | None = None) -> Family:
    """Return a family by its library name or alias, or from a file.

    Args:
        spec: `exp_tail`, `path.py:name`, or `path.py` if the file defines one family.
        directory: base of relative paths; by default the working directory.

    Raises:
        InputError: there is no such family or file; the message names those there are.
    """
    text = str(spec)
    file, _, name = text.rpartition(":") if ".py:" in text else (text, "", "")
    if file.endswith(".py"):
        path = Path(file) if directory is None else directory / file
        found = find_families(path)
        if name:
            for family in found.values():
                if name in (family.name, *family.aliases):
                    return family
            raise InputError(f"{file} defines no family {name!r} (it defines: {', '.join(found)})")
        if len(found) > 1:
            raise InputError(
                f"{file} defines several families: choose one with {file}:NAME ({', '.join(found)})"
            )
        return next(iter(found.values()))
    families, names = _library()
    if text in names:
        return families[names[text]]
    close = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(f"no family {short(text)}: {hint}the library has {', '.join(sorted(names))}")


def load_target(
    text: str,
    *,
    settings: Mapping[str, float] | None = None,
    params: Sequence[str] = (),
    fading: str | None = None,
    direction: str | None = None,
) -> tuple[Family, Candidate]:
    """Return the family and candidate of a TARGET of the command line.

    Args:
        text: `exp_tail` | `path.py[:name]` | `candidate.json` | `"formula in x"`.
        settings: parameter values; for a formula, they also declare parameters.
        params: ranges that declare a formula's parameters, each `a=0.01:1` or `a=0.01:1:log`.
        fading: how the target fades into the step, see `fade`; `end` is then its parameter.
        direction: replaces the candidate's own.

    Returns:
        The family, and its candidate at the defaults (for a JSON file, at the file's parameters)
        changed by `settings`.

    Raises:
        InputError: there is no such target, or a setting does not fit it.
    """
    settings = dict(settings or {})
    ranges: dict[str, Range] = {}
    for name, distribution in map(_parse_range, params):
        if name in ranges:
            raise InputError(f"--param {name} is given twice")
        ranges[name] = distribution
    # `end` belongs to the fade, not to the target.
    end = cast("FloatDistribution | None", ranges.pop("end", None)) if fading else None
    given = {"end": settings.pop("end")} if fading and "end" in settings else {}
    chosen = _plain_target(text, settings, ranges)
    candidate = varied(chosen, given, fading=fading, direction=direction, end=end)
    return candidate.family, candidate


def varied(
    candidate: Candidate,
    settings: Mapping[str, float],
    *,
    fading: str | None = None,
    direction: str | None = None,
    end: FloatDistribution | None = None,
) -> Candidate:
    """Return the candidate with other parameters, faded, or with another direction.

    Args:
        candidate: the candidate to change.
        settings: parameter values, including those of a fade.
        fading: see `fade`.
        direction: see `Candidate`.
        end: the range of `end`; by default that of `fade`.

    Raises:
        InputError: a change does not fit the candidate's family.
    """
    family = candidate.family if fading is None else fade(candidate.family, fading, end=end)
    if direction is not None:
        family = replace(family, directions=(direction,))
    values = {**candidate.parameters, **settings}
    return family.bind(**values, direction=direction or candidate.direction)


def _plain_target(text: str, settings: dict[str, float], ranges: dict[str, Range]) -> Candidate:
    is_name = bool(FAMILY_NAME.match(text)) and text not in ("x", "t")
    is_file = text.endswith((".py", ".json")) or ".py:" in text
    if (is_name or is_file) and ranges:
        raise InputError("--param declares the parameters of a formula; this target has its own")
    if text.endswith(".json"):
        return varied(_read_candidate(Path(text)), settings)
    # A bare word is a family's name, unless it is a constant or --set declares it.
    if is_file or (is_name and text not in ("pi", "E") and text not in settings):
        return load_family(text).bind(**settings)
    if _FILE_NAME.fullmatch(text):  # a dot before a name is in no formula
        raise InputError(
            f"{short(text)} is no target: a file must end in .py or .json (in .py:NAME, if it "
            "defines several families); else give a family's name or a formula in x"
        )
    space: dict[str, BaseDistribution] = dict(ranges)
    for name, value in settings.items():
        if name not in space:
            space[name] = _degenerate(name, value)
    expression = _expression.parse(text, parameters=space)
    return Family("formula", expression, space=space, defaults=settings, origin="formula").default


def _degenerate(name: str, value: float) -> FloatDistribution:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"--set {name} needs a finite number, got {value!r}")
    return FloatDistribution(float(value), float(value))


def _parse_range(text: str) -> tuple[str, Range]:
    name, equals, rest = text.partition("=")
    parts = rest.split(":")
    if not equals or len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] != "log"):
        raise InputError(f"--param needs NAME=LOW:HIGH or NAME=LOW:HIGH:log, got {short(text)}")
    name = name.strip()
    _expression.symbol(name)
    try:
        low, high = float(parts[0]), float(parts[1])
    except ValueError:
        raise InputError(f"--param {name}: LOW and HIGH must be numbers, got {rest!r}") from None
    return name, distribution_from({"low": low, "high": high, "log": len(parts) == 3}, name)


def _read_candidate(path: Path) -> Candidate:
    data = read_bytes(path, limit=JSON_LIMIT, what="candidate's file")
    try:
        return Candidate.from_json(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
