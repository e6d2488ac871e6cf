"""The frame of a report: one HTML file that loads nothing and runs only its own scripts."""

import base64
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from pdsearch import __version__
from pdsearch.report.markup import Markup, data_script, h, join
from pdsearch.report.terminal import bound, number, place

__all__ = ["badge", "criteria_table", "document", "facts", "figure_box", "table"]


@functools.cache
def _asset(name: str) -> str:
    return files("pdsearch.report").joinpath(name).read_text(encoding="utf-8")


def document(
    title: str, *, head: Sequence[Any], sections: Sequence[tuple[str, str, Sequence[Any]]]
) -> str:
    """The whole page.

    Args:
        title: of the page and its tab.
        head: what stands above the first section.
        sections: (anchor, heading, content) each; a section without content is left out.

    Returns:
        HTML text. Its content policy forbids every load and every script but its own two.
    """
    shown = [(anchor, heading, content) for anchor, heading, content in sections if content]
    scripts = [get_plotlyjs(), _asset("page.js")]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )
    links = [h("li", h("a", heading, href=f"#{anchor}")) for anchor, heading, _ in shown]
    body = h(
        "body",
        h("header", h("h1", title), head, class_="top"),
        h("nav", h("ul", links), aria_label="sections"),
        h(
            "main",
            h("noscript", h("p", "The figures need JavaScript; text and tables do not.")),
            [h("section", h("h2", head_), content, id=id_) for id_, head_, content in shown],
        ),
        h("footer", f"Written by pdsearch {__version__}. This file works without a network."),
        [h("script", Markup(script)) for script in scripts],
    )
    return join(
        Markup("<!DOCTYPE html>\n"),
        h(
            "html",
            h(
                "head",
                h("meta", charset="utf-8"),
                h("meta", http_equiv="Content-Security-Policy", content=policy),
                h("meta", name="viewport", content="width=device-width, initial-scale=1"),
                h("meta", name="color-scheme", content="light dark"),
                h("title", title),
                h("style", Markup(_asset("page.css"))),
            ),
            body,
            lang="en",
        ),
        Markup("\n"),
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def figure_box(
    figure: go.Figure | None, label: str, *, caption: Any = None, height: int = 400
) -> Markup | None:
    """A figure with its caption; None where there is none.

    Args:
        figure: what to draw; its own height wins.
        label: what it shows, for those who do not see it.
        caption: below it.
        height: in CSS pixels.
    """
    if figure is None:
        return None
    json = plotly.io.to_json(figure, validate=False)
    return h(
        "figure",
        h(
            "div",
            class_="plot",
            role="img",
            aria_label=label,
            data_height=height,
            style=f"min-height:{figure.layout.height or height}px",
        ),
        data_script(json),
        h("figcaption", caption) if caption else None,
    )


def facts(entries: Mapping[str, Any]) -> Markup:
    """Figures that stand out: a label and a value each."""
    return h(
        "dl",
        [h("div", h("dt", name), h("dd", value)) for name, value in entries.items()],
        class_="facts",
    )


def table(
    columns: Sequence[str | Mapping[str, Any]],
    rows: Iterable[Sequence[Any]],
    *,
    id: str | None = None,
    sortable: bool = False,
    classes: Sequence[str | None] = (),
) -> Markup:
    """A table; a cell that is a mapping gives its content as "text" and attributes beside it."""
    heads = []
    for column in columns:
        given = dict(column) if isinstance(column, Mapping) else {"text": column}
        text = given.pop("text")
        inner = h("button", text, type="button") if sortable and text else text
        heads.append(h("th", inner, scope="col", **given))
    lines = []
    for i, row in enumerate(rows):
        cells = []
        for cell in row:
            given = dict(cell) if isinstance(cell, Mapping) else {"text": cell}
            cells.append(h("td", given.pop("text"), **given))
        lines.append(h("tr", cells, class_=classes[i] if i < len(classes) else None))
    return h(
        "div",
        h(
            "table",
            h("thead", h("tr", heads)),
            h("tbody", lines),
            id=id,
            class_="sortable" if sortable else None,
        ),
        class_="wide",
    )


SIGNS = {"proved": "✔", "refuted": "✘", "undecided": "?"}


def badge(entry: Mapping[str, Any]) -> Markup:
    """A verdict: its word with a sign, so that it does not hang on colour."""
    verdict = str(entry["verdict"])
    sign = SIGNS.get(verdict) or ("✔" if entry["passed"] else "✘")
    missed = verdict == "measured" and not entry["passed"]
    known = verdict if verdict in (*SIGNS, "measured") else "undecided"
    return h("span", f"{sign} {verdict}", class_=f"badge {known}" + (" misses" if missed else ""))


def criteria_table(entries: Sequence[Mapping[str, Any]]) -> Markup:
    """Every criterion with its verdict, value, bound, witness and source."""
    rows = []
    for entry in entries:
        notes = [h("div", entry["statement"])]
        if entry.get("witness"):
            notes.append(h("div", "witness: ", h("code", place(entry["witness"]))))
        if entry.get("detail"):
            notes.append(h("div", entry["detail"], class_="quiet small"))
        rows.append(
            [
                [
                    h("code", entry["name"], class_="name"),
                    h("div", "required", class_="quiet small") if entry["required"] else None,
                ],
                badge(entry),
                {"text": number(entry["value"]), "class_": "number"},
                {"text": bound(entry["bound"]), "class_": "number"},
                {"text": notes, "class_": "statement"},
                {"text": entry["source"], "class_": "source quiet small"},
            ]
        )
    number_head = {"class_": "number"}
    return table(
        [
            "criterion",
            "verdict",
            {"text": "value", **number_head},
            {"text": "bound", **number_head},
            "statement",
            "source",
        ],
        rows,
    )
