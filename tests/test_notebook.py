"""What families, candidates, reports and studies show in a notebook; docs/tour.ipynb runs."""

import ast
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import sympy
from optuna.distributions import FloatDistribution

from pdsearch import Family, check, load_family, open_study, plot, search, x
from pdsearch.criteria import Report
from pdsearch.errors import InputError

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"
HOSTILE = "<script>alert(1)</script> & \x00 “é”"
VOID = {"path"}


class Read(HTMLParser):
    """Tags in balance, the cells of tables, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def family(**more: Any) -> Family:
    alpha = sympy.Symbol("alpha")
    expression = sympy.Piecewise((1, x > 0), (alpha * sympy.exp(x), True))
    ranges = {"alpha": FloatDistribution(0.01, 1.0, log=True)}
    return Family("tail", expression, space=ranges, defaults={"alpha": 0.25}, **more)


def test_a_family() -> None:
    shown = Read(family(reference=HOSTILE)._repr_html_())
    assert shown.rows == [
        ["parameter", "range", "default"],
        ["alpha", "[0.01, 1], logarithmic", "0.25"],
    ]
    assert {"svg", "math", "table"} <= shown.tags and "script" not in shown.tags
    assert "<script>alert(1)</script> & � “é”" in shown.text and shown.text.startswith("tail")
    assert family()._repr_latex_() == rf"$\displaystyle g(x) = {family().latex}$"


@pytest.mark.parametrize("name", ["relu", "b_silu", "knots_cubic", "annealed_exp_tail"])
def test_those_of_the_library(name: str) -> None:
    for one in (load_family(name), load_family(name).default):
        shown = Read(one._repr_html_())
        assert shown.text.startswith(one.name) and "svg" in shown.tags
        assert ("table" in shown.tags) == (isinstance(one, Family) and bool(one.parameters))
        assert one._repr_latex_().count("$") == 2


def test_plots() -> None:
    candidate = family().bind(alpha=0.5)
    for figure in (candidate.plot(), plot(candidate)):
        drawn = dict(zip(figure.data[0].x, figure.data[0].y, strict=True))
        assert drawn[-2.0] == pytest.approx(0.5 * math.exp(-2), rel=1e-5)
        assert list(figure.layout.xaxis.range) == [-6, 4]
    assert family().plot() == plot(family())
    assert list(family().plot(low=-1, high=2).layout.xaxis.range) == [-1, 2]
    for one in (family(), candidate):
        with pytest.raises(InputError, match="low must be below high, got low = 2, high = 1"):
            one.plot(low=2, high=1)


def test_a_report() -> None:
    report = check(load_family("b_silu").default, profile="strict")
    shown = Read(report._repr_html_())
    assert [row[1].split()[0] for row in shown.rows[1:]] == list(report.names)
    for row, result in zip(shown.rows[1:], report.criteria, strict=True):
        assert row[0] == ("✓" if result.passed else "✗") and row[2] == result.verdict
        assert ("not required" in row[1]) == (not result.required)
    assert "do not all hold" in shown.text and not report.passed
    (place,) = (row[5] for row in shown.rows if row[1] == "sign_preserving")
    assert place.startswith("x = -")
    figure = report.plot()
    assert "sign_preserving fails" in {trace.name for trace in figure.data}


def test_the_report_of_a_family() -> None:
    whole = family()
    report = Report(HOSTILE, "paper", (), whole)
    assert "script" not in Read(report._repr_html_()).tags
    assert report.plot() == whole.plot()
    assert check(whole).subject is whole and "all" not in Read(report._repr_html_()).text


def test_a_study(workdir: Path) -> None:
    name = "shown"
    result = search(
        families=[family()],
        train=lambda g: g.parameters.get("alpha", 0.0),
        name=name,
        trials=8,
        progress=False,
    )
    ranked = result.stored.ranked()
    for study in (result, open_study(name)):
        shown = Read(study._repr_html_())
        assert shown.text.startswith(
            f"{name}: 8 trials (8 complete, 0 pruned, 0 failed, 0 ruled out)"
        )
        assert "b" in shown.tags and shown.rows[0] == [
            "rank",
            "value",
            "candidate",
            "g(x)",
            "trial",
        ]
        assert [row[2] for row in shown.rows[1:6]] == [row.candidate.name for row in ranked]
        values = [float(row[1]) for row in shown.rows[1:6]]
        assert values == sorted(values, reverse=True)
        assert [row[0] for row in shown.rows[6:]] == ["baseline", "reference", "reference"]
        names = [trace.name for trace in study.plot().data]
        assert names[:3] == [row.candidate.name for row in ranked[:3]] and len(names) == 6


def test_a_study_without_candidates(workdir: Path) -> None:
    result = search(families=[family()], train=lambda g: 0.5, name="few", trials=3, progress=False)
    assert next(row[0] for row in Read(result._repr_html_()).rows[1:]) == "baseline"
    with pytest.raises(InputError, match="no complete candidate yet"):
        result.plot()


# ------------------------------------------------------------------------------------ the tour


def test_the_tour_runs(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run its cells in order in one namespace; what a cell ends with is what it shows."""
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells), "stored outputs go stale"
    namespace: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        body = ast.parse("".join(cell["source"]), str(TOUR)).body
        last = body[-1]
        if isinstance(last, ast.Expr):
            body.pop()
        exec(compile(ast.Module(body, []), str(TOUR), "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), str(TOUR), "eval"), namespace))
    written = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    figures = [one for one in shown if isinstance(one, go.Figure)]
    assert len(figures) == 3 and len(written) >= 5 + len(figures)
    assert "True" in capsys.readouterr().out
