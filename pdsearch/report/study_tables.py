"""The tables of a study's page: every trial, every setting."""

import json
from collections.abc import Mapping
from typing import Any

from pdsearch.report.markup import Markup, h
from pdsearch.report.page import table
from pdsearch.report.sketch import sketch
from pdsearch.report.view import View, duration, name

__all__ = ["settings", "trials"]


def trials(view: View) -> list[Any]:
    """Every trial, to be sorted and filtered."""
    if not view.rows:
        return []
    right = {"class_": "number"}
    best = view.best.number if view.best is not None else None
    rows, classes = [], []
    for row in view.rows:
        required = [e for e in (row.criteria or {}).get("criteria", ()) if e["required"]]
        held = sum(bool(entry["passed"]) for entry in required)
        reason = row.reason
        if row.duplicate_of is not None:
            reason = f"same g as trial {row.duplicate_of}" + (f"; {reason}" if reason else "")
        rows.append(
            [
                {"text": row.number, **right},
                sketch(row.candidate) if row.candidate is not None else None,
                {"text": h("code", name(row)), "class_": "candidate"},
                row.kind,
                row.status.replace("_", " "),
                {"text": view.value(row.value), "data_key": _key(row.value), **right},
                {
                    "text": f"{held}/{len(required)}" if required else "–",
                    "data_key": _key(held / len(required) if required else None),
                    **right,
                },
                {"text": len(row.epochs), **right},
                {
                    "text": duration(row.seconds) if row.seconds is not None else "–",
                    "data_key": _key(row.seconds),
                    **right,
                },
                h("span", reason, class_="small") if reason else None,
            ]
        )
        classes.append("best" if row.number == best else None)
    number_head = {"class_": "number"}
    return [
        h(
            "p",
            h(
                "input",
                type="search",
                placeholder="show rows with …",
                aria_label="filter the trials",
                data_filter="all-trials",
            ),
            class_="filter",
        ),
        table(
            [
                {"text": "#", "data_first": "ascending", **number_head},
                "",
                {"text": "candidate", "data_first": "ascending"},
                {"text": "kind", "data_first": "ascending"},
                {"text": "status", "data_first": "ascending"},
                {"text": "value", **number_head},
                {"text": "criteria", **number_head},
                {"text": f"{view.unit}s", **number_head},
                {"text": "time", **number_head},
                {"text": "note", "data_first": "ascending"},
            ],
            rows,
            id="all-trials",
            sortable=True,
            classes=classes,
        ),
    ]


def _key(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def settings(view: View) -> list[Any]:
    """The resolved study file, where it ran, and the commands."""
    stored = view.stored
    document_ = stored.settings.model_dump(mode="json")
    parts: list[Any] = []
    for section, values in document_.items():
        # A Python function knows nothing of the sections that say how images are trained on.
        if isinstance(values, Mapping) and not (
            view.by_function and section in ("trial", "confirm")
        ):
            parts.append(h("h3", f"[{section}]"))
            parts.append(
                _pairs({k: v for k, v in values.items() if (section, k) != ("study", "storage")})
            )
    attributes = stored.study.user_attrs
    parts.append(h("h3", "Where it ran"))
    parts.append(
        _pairs(
            {
                "storage": stored.storage,
                "device": attributes.get("pdsearch:device"),
                **dict(attributes.get("pdsearch:versions") or {}),
            }
        )
    )
    commands = [
        "search(train=…) in Python, with the settings above; the same call resumes"
        if view.by_function
        else "pdsearch search STUDY.toml      # with the settings above; the same command resumes",
        view.command("report", "-o report.html"),
        None if view.by_function else view.command("confirm"),
        view.command("export", "-o pd_relu.py"),
    ]
    parts += [h("h3", "To reproduce"), h("pre", "\n".join(filter(None, commands)))]
    return [parts]


def _pairs(values: Mapping[str, Any]) -> Markup:
    entries = []
    for key, value in values.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        entries += [h("dt", key), h("dd", h("code", "–" if value is None else shown))]
    return h("dl", entries, class_="settings")
