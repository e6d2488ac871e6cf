"""Rendering of records as one HTML file, with the templates in `templates/`.

A page loads nothing and runs only its own scripts. Plotly's script, most of the page, is compressed
and unpacked by the browser. Hover texts are stored once for the whole page, and figures refer to
them by number, because the same trial is a dot in many figures.
"""

import base64
import functools
import gzip
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pdsearch import __version__, text
from pdsearch.expression.mathml import equation, symbol
from pdsearch.family import parts_of, shapes
from pdsearch.files import write_text
from pdsearch.plain import plain


@dataclass(frozen=True)
class Section:
    """One section of a page; it is omitted if its record is empty."""

    name: str  # its anchor
    heading: str
    record: Any  # what it shows
    template: str  # its file in `templates/`


def render(template: str, *, sections: list[Section], **values: Any) -> str:
    """Return a page as HTML text; `template` is its file in `templates/`."""
    texts: dict[str, int] = {}
    script = _asset("page.js")
    plotly, digest = _plotly()
    return (
        _environment()
        .get_template(template)
        .render(
            sections=[section for section in sections if section.record],
            data=functools.partial(_data, texts=texts),
            texts=lambda: _json(list(texts)),
            style=Markup(_asset("page.css")),
            script=Markup(script),
            plotly=Markup(plotly),
            digests=[_digest(script), digest],
            **values,
        )
    )


def write_html(text: str, path: Path | str) -> Path:
    """Write a report atomically; an existing file is replaced.

    Raises:
        InputError: `path` is a directory, a link or a device, or its folder cannot be written to.
    """
    return write_text(text, Path(path), force=True)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pdsearch.report"),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(text, name) for name in text.__all__}
    environment.globals |= {"equation": equation, "symbol": symbol, "shapes": shapes}
    environment.globals["parts_of"] = parts_of
    environment.globals["version"] = __version__
    return environment


def _finalized(value: Any) -> Any:
    """Return a value as a template prints it: nothing for None, and no control characters."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) else text.printable(value)


@functools.cache
def _asset(name: str) -> str:
    return files("pdsearch.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> tuple[str, str]:
    """Return plotly's script, compressed and base64-encoded, and the digest of its text."""
    script = get_plotlyjs()
    packed = gzip.compress(script.encode("utf-8"), mtime=0)
    return base64.b64encode(packed).decode("ascii"), _digest(script)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _data(figure: go.Figure, *, texts: dict[str, int]) -> Markup:
    """Return a figure as JSON, with hover texts replaced by their indices in the page's `texts`."""
    found = figure.to_plotly_json()
    for trace in found["data"]:
        notes = trace.get("hovertext")
        if isinstance(notes, list | tuple):
            trace["hovertext"] = [texts.setdefault(note, len(texts)) for note in notes]
    return _json(found)


def _json(value: Any) -> Markup:
    """Return a JSON document that cannot end the script element around it."""
    document = json.dumps(plain(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        document = document.replace(character, f"\\u{ord(character):04x}")
    return Markup(document)
