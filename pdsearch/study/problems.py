"""How the problems of a study file are reported: where, what is wrong, what would be valid.

Those of `--set section.key=value` too, which is a value that wins over the file's.
"""

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pdsearch.errors import shortened
from pdsearch.masking import mask


def fields_of(root: type[BaseModel], location: Iterable[Any]) -> dict[str, FieldInfo]:
    """The fields of the table at a place below a model, such as `["trial", "stream"]`."""
    model: type[BaseModel] | None = root
    for part in location:
        field = model.model_fields.get(part) if model is not None else None
        model = _table(field.annotation) if field is not None else None
    return dict(model.model_fields) if model is not None else {}


def _table(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation admits, if any."""
    models = [k for k in _kinds(annotation) if isinstance(k, type) and issubclass(k, BaseModel)]
    return models[0] if models else None


def type_problems(root: type[BaseModel], data: Mapping[str, Any], place: str = "") -> list[str]:
    """Text or true/false where a number belongs: pydantic would quietly convert them."""
    problems = []
    for name, entry in root.model_fields.items():
        value, inner = data.get(name), _table(entry.annotation)
        if inner is not None:
            if isinstance(value, Mapping):
                problems += type_problems(inner, value, f"{place}{name}.")
            continue
        kinds = _kinds(entry.annotation)
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float, str}:
            problems.append(
                f"{place}{name}: must be {_said(kinds)}, got {shown_value(value)}".lower()
            )
        elif isinstance(value, str) and str not in kinds and kinds & {int, float, bool}:
            problems.append(f"{place}{name}: must be {_said(kinds)}, got {shown_value(value)}")
    return problems


def _kinds(annotation: Any) -> set[Any]:
    """The plain types an annotation admits; a Literal's count as those of its values."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(one) for one in typing.get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    return {annotation}


def _said(kinds: set[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return " or ".join(word for kind, word in words.items() if kind in kinds)


def problem_of(entry: Any, *, keys: Callable[[list[Any]], list[str]]) -> str:
    """One pydantic error as `section.key: what is wrong and what would be valid`."""
    location = [part for part in entry["loc"] if not _is_union_tag(part)]
    place = ".".join(str(part) for part in location) or "study file"
    kind, context, value = entry["type"], entry.get("ctx", {}), entry.get("input")
    if kind == "extra_forbidden":
        return f"{place}: unknown key; {close(str(location[-1]), keys(location[:-1]))}"
    if kind == "missing":
        return f"{place}: is missing"
    bounds = {"greater_than_equal": "≥", "greater_than": ">", "less_than_equal": "≤"}
    limits = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le"}
    if kind in bounds:
        return f"{place}: must be {bounds[kind]} {context[limits[kind]]}, got {shown_value(value)}"
    if kind == "less_than":
        return f"{place}: must be < {context['lt']}, got {shown_value(value)}"
    if kind == "literal_error":
        valid = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{place}: must be one of {valid.replace(', ', ' | ')}, got {shown_value(value)}"
    if kind == "value_error":
        return f"{place}: {context['error']}"
    if kind == "too_short":
        return f"{place}: needs at least {context['min_length']} entry"
    types_said = {
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "list_type": "a list",
        "tuple_type": "a list",
        "dict_type": "a table",
        "model_type": "a section" if len(location) < 2 else "a table",
        "model_attributes_type": "a section" if len(location) < 2 else "a table",
    }
    if kind in types_said:
        return f"{place}: must be {types_said[kind]}, got {shown_value(value)}"
    return f"{place}: {entry['msg']}, got {shown_value(value)}"


def alternatives(problems: Iterable[str]) -> list[str]:
    """Pydantic tells `must be text, got 3` and `must be a table, got 3` apart: both as one."""
    merged: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        found = re.fullmatch(r"(.*?: must be )(.*?)(, got .*)", problem, re.DOTALL)
        head, kind, tail = found.groups() if found else (problem, "", "")
        merged.setdefault((head, tail), []).append(kind)
    return [head + " or ".join(kinds) + tail for (head, tail), kinds in merged.items()]


def _is_union_tag(part: Any) -> bool:
    """Whether a part of pydantic's location names a union's member rather than a key."""
    return isinstance(part, str) and (part in ("str", "float", "int", "none") or "[" in part)


def close(name: str, valid: Iterable[str]) -> str:
    """The valid name that was meant, or all of them."""
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {near[0]}?" if near else f"valid are: {', '.join(valid)}"


def shown_value(value: Any) -> str:
    """A value as a message repeats it: short, and without what is secret in it."""
    return shortened(mask(repr(value)), 60)


def override(
    data: dict[str, Any], key: str, text: str, *, problems: list[str], sections: list[str]
) -> None:
    """Set one value of a study file's data.

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
    if isinstance(table, dict):  # otherwise it is reported with the file's own problems
        table[name] = value
