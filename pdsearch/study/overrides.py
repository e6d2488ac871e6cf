"""`--set section.key=value`: a value that wins over the study file's."""

import tomllib
from typing import Any

from pdsearch.study.problems import shown_value


def override(
    data: dict[str, Any], key: str, text: str, *, problems: list[str], sections: list[str]
) -> None:
    """Sets one value of a study file's data.

    Args:
        data: of the file, changed in place.
        key: `section.key`.
        text: the value as in TOML; text may go without its quotes.
        problems: what is wrong is added to them, a line each.
        sections: the valid ones.
    """
    section, dot, name = key.partition(".")
    *within, name = name.split(".")
    if not dot or not name or section not in sections:
        problems.append(
            f"--set {key}: must be section.key=value with a section of {' | '.join(sections)}"
        )
        return
    if any(ord(c) < 32 or c == "\x7f" for c in text):
        problems.append(
            f"--set {key}: holds a line break or a control character, got {shown_value(text)}"
        )
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        if tomllib.loads(f"value = [{text}]")["value"] != [value] and value == value:
            value = text  # what follows a # would be dropped
    except (ValueError, RecursionError):
        value = text  # words need no quotes on a command line
    table: Any = data.setdefault(section, {})
    for part in within if isinstance(table, dict) else ():
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            problems.append(f"--set {key}: {part} is not a table, so {name} cannot be set in it")
            return
    if isinstance(table, dict):  # what else a section is, is told with the file's own problems
        table[name] = value
