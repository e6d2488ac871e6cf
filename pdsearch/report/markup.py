"""HTML text in which everything that is not marked as HTML is escaped."""

import html
from typing import Any

__all__ = ["Markup", "data_script", "h", "join", "plain"]


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


VOID = {"br", "hr", "input", "meta", "wbr"}


def h(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element: children that are not `Markup` are escaped, None and False are left out.

    A trailing underscore of an attribute's name is dropped, others become hyphens.
    """
    named = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(str(value), quote=True)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in VOID:
        return Markup(f"<{tag}{named}>")
    return Markup(f"<{tag}{named}>{join(*children)}</{tag}>")


def join(*children: Any) -> Markup:
    """The children one after the other."""
    parts: list[str] = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        else:
            parts.append(child if isinstance(child, Markup) else _escaped(str(child)))
    return Markup("".join(parts))


def _escaped(text: str) -> str:
    # Control characters, NUL and lone surrogates are no valid HTML, or not UTF-8.
    shown = "".join(c if c.isprintable() or c in "\n\t " else "�" for c in text)
    return html.escape(shown, quote=True)


def plain(text: object) -> str:
    """A text for a label of plotly, which takes some tags and entities of HTML as such."""
    return _escaped(str(text))


def data_script(json: str, **attributes: Any) -> Markup:
    """A JSON document for the page's own script; nothing in it can end the element."""
    safe = json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return h("script", Markup(safe), type="application/json", **attributes)
