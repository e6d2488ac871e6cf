"""Reading a study file: TOML, the overrides of a command line (`--set`), and all checks."""

import io
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pdsearch.errors import InputError, first_line
from pdsearch.study.problems import (
    Problems,
    alternatives,
    fields_of,
    problem_of,
    shown_value,
    type_problems,
)
from pdsearch.study.settings import THRESHOLDS, StudyFile
from pdsearch.userfile import read_bytes

_SIZE_LIMIT = 1_000_000  # bytes; a study file has about 2 000


def load_study_file(path: str | Path, *, overrides: Mapping[str, str] | None = None) -> StudyFile:
    """Read and check a study file.

    Args:
        path: of the TOML file.
        overrides: `{"section.key": "value"}`, which override the file; a value is written as in
            TOML, but text needs no quotes.

    Raises:
        InputError: the file cannot be read, or is not a valid study file: all problems, one per
            line.
    """
    path = Path(path)
    data = _read(path)
    problems = Problems()
    for key, text in (overrides or {}).items():
        with problems.at(f"--set {key}: "):
            _override(data, key, text)
    return validate(data, directory=path.resolve().parent, where=f"{path}: ", problems=problems)


def validate(
    data: Mapping[str, Any],
    *,
    directory: Path | None = None,
    where: str = "",
    problems: Sequence[str] = (),
) -> StudyFile:
    """Check the content of a study file.

    Args:
        data: the content.
        directory: the base of relative paths.
        where: prefix of each problem.
        problems: those found so far.

    Raises:
        InputError: there are problems: all of them, one per line.
    """
    found = [*problems, *type_problems(StudyFile, data)]
    places = {problem.split(":")[0] for problem in found}
    others: list[str] = []
    settings = None
    try:
        settings = StudyFile.model_validate(data)
    except ValidationError as error:
        for entry in error.errors():
            place, _, said = problem_of(entry, keys=_keys).partition(": ")
            if place not in places:
                others += [f"{place}: {line}" for line in said.splitlines()]
    found += alternatives(others)
    if settings is None or found:
        raise InputError("\n".join(where + problem for problem in dict.fromkeys(found)))
    return settings.at(directory)


def _read(path: Path) -> dict[str, Any]:
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory: give a study file (TOML)")
    content = read_bytes(path, limit=_SIZE_LIMIT, what="study file")
    try:
        # As `open` reads text, because tomllib rejects a lone carriage return.
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise InputError(f"{path} is empty: a study file needs a [study] section")
    try:
        return tomllib.loads(text)
    except ValueError as error:  # of tomllib, or of a number with thousands of digits
        raise InputError(f"{path} is not TOML: {first_line(error)}") from None
    except RecursionError:
        raise InputError(f"{path} is nested too deeply") from None


def _keys(location: list[Any]) -> list[str]:
    """Return the valid keys at a location in the study file."""
    if location == ["criteria"]:
        return ["profile", "own", *THRESHOLDS]
    return list(fields_of(StudyFile, location))


def _override(data: dict[str, Any], key: str, text: str) -> None:
    """Set one value of a study file's data.

    Args:
        data: of the file, changed in place.
        key: `section.key`.
        text: the value as in TOML; text needs no quotes.

    Raises:
        InputError: there is no such section, or the text is not one value.
    """
    section, dot, name = key.partition(".")
    *within, name = name.split(".")
    sections = list(StudyFile.model_fields)
    if not dot or not name or section not in sections:
        meant = " or ".join(f"{one}.{key}" for one in sections if key in _keys([one]))
        hint = f"; did you mean {meant}?" if meant else ""
        raise InputError(
            f"must be section.key=value with a section of {' | '.join(sections)}{hint}"
        )
    if any(ord(c) < 32 or c == "\x7f" for c in text):
        raise InputError(f"contains a line break or a control character, got {shown_value(text)}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        if tomllib.loads(f"value = [{text}]")["value"] != [value] and value == value:
            value = text  # a # would begin a comment
    except (ValueError, RecursionError):
        value = text  # words need no quotes on a command line
    table: Any = data.setdefault(section, {})
    for part in within if isinstance(table, dict) else ():
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"{part} is not a table, so {name} cannot be set in it")
    if isinstance(table, dict):  # otherwise it is reported with the file's own problems
        table[name] = value
