"""Figures, one-file HTML reports and terminal plots of studies, checks and families."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdsearch.report.criteria_page import criteria_report
    from pdsearch.report.maps import maps_text
    from pdsearch.report.page import write_html
    from pdsearch.report.study_page import study_report
    from pdsearch.report.terminal import criteria_text, sparkline

_OWNERS = {
    "criteria_report": "criteria_page",
    "criteria_text": "terminal",
    "maps_text": "maps",
    "sparkline": "terminal",
    "study_report": "study_page",
    "write_html": "page",
}

__all__ = [
    "criteria_report",
    "criteria_text",
    "maps_text",
    "sparkline",
    "study_report",
    "write_html",
]


def __getattr__(name: str) -> Any:
    # Loaded when used, so that a terminal plot does not import plotly.
    if name not in _OWNERS:
        raise AttributeError(f"module 'pdsearch.report' has no attribute {name!r}")
    return getattr(import_module(f"pdsearch.report.{_OWNERS[name]}"), name)
