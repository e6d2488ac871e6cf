"""Writes docs/study.md, every key of a study file, from the code: `python docs/study.py`."""

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pdsearch.study.begin import FREE
from pdsearch.study.settings import StudyFile

PAGE = Path(__file__).parent / "study.md"

HEAD = """\
# The study file

`pdsearch search FILE.toml` reads a TOML file of four sections. Only `name` and `families` must be
there. Paths are relative to the file. Unknown keys, wrong types and impossible values are all told
at once, before anything runs.

A study that has begun keeps its settings, for its trials would not compare otherwise. These may
change from run to run:
{free}.
Anything else needs a new name: `pdsearch search FILE.toml --set study.name=other trial.epochs=4`.

Environment variables: `PDSEARCH_STORAGE` is the storage where none is named (a password in it does
not show in the list of processes), `PDSEARCH_CACHE` the folder of decoded data sets and compiled
kernels, `PDSEARCH_FUSED=0` does without the compiled kernels, and `OMP_NUM_THREADS` sets the
threads of a new study's trials where `--threads` does not; one that has begun keeps its own.

`pdsearch worker` and `pdsearch confirm` take the study file or the study's name. With the file, its
settings must be those that the study was begun with, `--set` and a worker's `--seed` included. With
the name, the settings come from the storage, and everybody who can write to it may have changed
them: no Python file is then run that only the storage names (a model's, a criterion's), and nothing
is written outside of the current folder, unless `--trust-study-code` is given.

A server that goes away while trials run is waited for, 10 minutes at most (`--storage-wait
SECONDS`); at the start one that does not answer within 4 seconds is an error, unless the URL has a
`connect_timeout` of its own. The storage's URL is not kept with the study. Passwords in URLs are
masked wherever pdsearch prints them; in your own command line everybody on the machine can read
them, so put such a URL into `PDSEARCH_STORAGE`.

Ctrl-C and SIGTERM end a command with status 130 within 5 seconds. Trials that were running are
queued again; whatever does not end within 2.5 seconds (a driver that hangs) is left where it is, as
if it had been killed, which uses up one of a trial's three attempts. Only a C function that keeps
Python's interpreter lock can delay this.
"""

ABOUT = {
    "study": "What is searched, how, and where it is kept.",
    "criteria": "What a candidate must meet before it is trained ([criteria.md](criteria.md)).",
    "trial": "One training run of one candidate.",
    "confirm": "How `pdsearch confirm` retrains.",
}

SYMBOLS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def page() -> str:
    """The page's text."""
    free = [f"`{name}`" for name in FREE]
    parts = [HEAD.format(free=", ".join(free))]
    for name, field in StudyFile.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, BaseModel)
        parts.append(f"## `[{name}]`\n\n{ABOUT[name]}\n")
        parts.append(_keys(section, name))
        for key, info in section.model_fields.items():
            if (table := _table(info.annotation)) is not None:
                parts.append(f"### `{key}` in `[{name}]`\n\n{_sentence(table)}\n")
                parts.append(_inner_keys(table))
    return "\n".join(parts)


def _keys(section: type[BaseModel], name: str) -> str:
    lines = ["| key | default | values | what it is |", "|---|---|---|---|"]
    for key, info in section.model_fields.items():
        assert info.description, f"{name}.{key} has no description"
        cells = (f"`{key}`", _default(info), values(info), info.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _inner_keys(table: type[BaseModel]) -> str:
    """The keys of a table within a section, as a list."""
    return "".join(
        f"- `{key}` ({values(info)}; default {_default(info)}): {info.description}\n"
        for key, info in table.model_fields.items()
    )


def _table(kind: Any) -> type[BaseModel] | None:
    """The model of a key that holds a table with keys of its own."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _sentence(table: type[BaseModel]) -> str:
    """What a table is for, from its docstring."""
    text = (table.__doc__ or "").splitlines()[0].partition(": ")[2]
    return text[0].upper() + text[1:]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is None or value == "":
        return "–"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def values(info: FieldInfo) -> str:
    """What a key may hold."""
    return _values(info.annotation, info.metadata)


def _values(kind: Any, metadata: list[Any]) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        some = [one for one in inner if one is not type(None)]
        return " or ".join(dict.fromkeys(_values(one, metadata) for one in some))
    if origin in (list, tuple):
        return f"list of {_values(inner[0], [])}"
    if hasattr(kind, "__metadata__"):
        return _values(inner[0], list(kind.__metadata__))
    if kind in (int, float):
        noun = "whole number" if kind is int else "number"
        found = [one for item in metadata for one in getattr(item, "metadata", [item])]
        bounds = [
            f"{sign} {getattr(item, type(item).__name__.lower()):g}"
            for item in found
            for known, sign in SYMBOLS.items()
            # A limit that nobody meets is only there to catch a slip.
            if isinstance(item, known) and getattr(item, type(item).__name__.lower()) < 1e5
        ]
        return " ".join([noun, ", ".join(bounds)]).strip()
    if _table(kind) is not None:
        return "table"
    names = {str: "text", bool: "`true`, `false`", dict: "table"}
    return names[origin or kind]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
