"""The problems of a study file, all reported at once: where, what is wrong, what would be valid."""

import contextlib
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pdsearch.errors import InputError, shortened
from pdsearch.masking import mask


class Problems(list[str]):
    """Problems of a user's input, a line each, which are collected to be raised together."""

    @contextlib.contextmanager
    def at(self, place: str = "") -> Iterator[None]:
        """Collect the `InputError` that ends a block, with the place in front."""
        try:
            yield
        except InputError as error:
            self.append(f"{place}{error}")

    def check(self) -> None:
        """Raise an `InputError` with all problems, if there are any."""
        if self:
            raise InputError("\n".join(self))


def fields_of(root: type[BaseModel], location: Iterable[Any]) -> dict[str, FieldInfo]:
    """Return the fields of the table at a location below a model, such as `["trial", "stream"]`."""
    model: type[BaseModel] | None = root
    by_name: type[BaseModel] | None = None  # of a table of tables, each by a name of the user's
    for part in location:
        if by_name is not None:
            model, by_name = by_name, None
            continue
        field = model.model_fields.get(part) if model is not None else None
        model = _table(field.annotation) if field is not None else None
        if field is not None and typing.get_origin(field.annotation) is dict:
            by_name = _table(typing.get_args(field.annotation)[1])
    return dict(model.model_fields) if model is not None else {}


def _table(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation admits, if any."""
    models = [k for k in _kinds(annotation) if isinstance(k, type) and issubclass(k, BaseModel)]
    return models[0] if models else None


def type_problems(root: type[BaseModel], data: Mapping[str, Any], place: str = "") -> list[str]:
    """Find text or booleans in place of numbers, which pydantic would convert silently."""
    problems = []
    for name, entry in root.model_fields.items():
        value, inner = data.get(name), _table(entry.annotation)
        if inner is not None:
            if isinstance(value, Mapping):
                problems += type_problems(inner, value, f"{place}{name}.")
            continue
        kinds = _kinds(entry.annotation)
        if isinstance(value, bool | str) and type(value) not in kinds and kinds & set(_WORDS):
            words = " or ".join(word for kind, word in _WORDS.items() if kind in kinds)
            shown = str(value).lower() if isinstance(value, bool) else shown_value(value)
            problems.append(f"{place}{name}: must be {words}, got {shown}")
    return problems


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types an annotation admits; a Literal counts as the types of its values."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(one) for one in typing.get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    return {annotation}


# Of pydantic's names: a bound's sign and its key in the context, and types in words.
_BOUNDS = {
    "greater_than_equal": ("≥", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("≤", "le"),
    "less_than": ("<", "lt"),
}
_TYPES = {
    **{kind.__name__: word for kind, word in _WORDS.items()},
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
}


def problem_of(entry: Any, *, keys: Callable[[list[Any]], list[str]]) -> str:
    """Return an error of pydantic as `section.key: what is wrong and what would be valid`."""
    location = [part for part in entry["loc"] if not _is_union_tag(part)]
    place = ".".join(str(part) for part in location) or "study file"
    kind, context = entry["type"], entry.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{place}: unknown key; {close(str(location[-1]), keys(location[:-1]))}"
    if kind == "missing":
        return f"{place}: is missing"
    if kind == "value_error":
        return f"{place}: {context['error']}"
    if kind == "too_short":
        return f"{place}: needs at least {context['min_length']} entry"
    stem, _, end = kind.partition("_")
    if kind in _BOUNDS:
        sign, limit = _BOUNDS[kind]
        said = f"must be {sign} {context[limit]}"
    elif kind == "literal_error":
        valid = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        said = f"must be one of {valid.replace(', ', ' | ')}"
    elif kind == "finite_number":
        said = "must be a finite number"
    elif stem == "model":
        said = "must be a section" if len(location) < 2 else "must be a table"
    elif stem in _TYPES and end in ("type", "parsing", "from_float"):
        said = f"must be {_TYPES[stem]}"
    else:
        said = entry["msg"]
    return f"{place}: {said}, got {shown_value(entry.get('input'))}"


def alternatives(problems: Iterable[str]) -> list[str]:
    """Merge `must be text, got 3` and `must be a table, got 3`, which pydantic reports apart."""
    merged: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        found = re.fullmatch(r"(.*?: must be )(.*?)(, got .*)", problem, re.DOTALL)
        head, kind, tail = found.groups() if found else (problem, "", "")
        merged.setdefault((head, tail), []).append(kind)
    return [head + " or ".join(kinds) + tail for (head, tail), kinds in merged.items()]


def _is_union_tag(part: Any) -> bool:
    """Whether a part of pydantic's location is a member of a union rather than a key."""
    return isinstance(part, str) and (part in ("str", "float", "int", "none") or "[" in part)


def close(name: str, valid: Iterable[str]) -> str:
    """Return a hint at the valid name that was probably meant, or at all of them."""
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {near[0]}?" if near else f"valid are: {', '.join(valid)}"


def shown_value(value: Any) -> str:
    """Return a value as a message repeats it: short, and without its secrets."""
    return shortened(mask(repr(value)), 60)
