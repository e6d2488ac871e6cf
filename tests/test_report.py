"""Figures and pages: what they say is right, stands alone, and no name breaks out of it."""

import base64
import dataclasses
import gzip
import hashlib
import html
import itertools
import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mpmath
import plotly.graph_objects as go
import pytest
import sympy
import torch
from made_up import made_up_study
from optuna.distributions import FloatDistribution, IntDistribution

from pdsearch import plot
from pdsearch.criteria import (
    FamilyMap,
    Part,
    ProofBox,
    Report,
    Result,
    check,
    family_map,
    proof_boxes,
)
from pdsearch.criteria.figures import criteria_figure
from pdsearch.errors import InputError
from pdsearch.expression import parse
from pdsearch.expression.mathml import equation
from pdsearch.family import Candidate, Family, library, load_family
from pdsearch.family.figures import family_figure
from pdsearch.family.shapes import breakpoints, curve, evaluate, sketch
from pdsearch.report import (
    criteria_report,
    criteria_text,
    sparkline,
    study_report,
    write_html,
)
from pdsearch.report.maps import map_figure, map_plot, share
from pdsearch.report.page import Section, render
from pdsearch.report.study_page import confirmed
from pdsearch.report.terminal import shape_plot
from pdsearch.report.trial_figures import history, importances, objectives, slices
from pdsearch.study import StoredStudy, open_study, search
from pdsearch.study.rows import TrialRow
from pdsearch.text import number, place

EXP_TAIL = load_family("exp_tail").bind(alpha=0.3, beta=1.0)
B_SILU = load_family("b_silu").default
RELU = load_family("relu").default

NASTY = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '"><svg onload=alert(4)>',
    "' onmouseover='alert(5)",
    "</title></style></textarea><b>",
    "<!-- --><![CDATA[ ]]>",
    "&lt;script&gt; &#60;",
    "%{x} $x$ {{}} \\u003c",
    "a\0b\x1bc\ud800d\u202ee",
)


# ------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("name", sorted(library()))
def test_curves_agree_with_the_values_that_torch_computes(name: str) -> None:
    candidate = library()[name].default
    xs, ys = curve(candidate, -6.0, 4.0, count=101)
    assert xs == sorted(xs)
    expected = candidate(torch.tensor(xs, dtype=torch.float64)).tolist()
    for x, y, exact in zip(xs, ys, expected, strict=True):
        assert math.isclose(y, exact, rel_tol=1e-9, abs_tol=1e-12), x


def test_values_against_mpmath() -> None:
    with mpmath.workdps(30):
        for x in (-40.0, -2.7349, -1.0, 0.0, 0.5, 3.0):
            s = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
            exact = s + (x + mpmath.mpf("1.67")) * s * (1 - s)
            assert math.isclose(evaluate(B_SILU, x), float(exact), rel_tol=1e-12, abs_tol=1e-15)


def test_a_jump_is_drawn_as_one() -> None:
    xs, ys = curve(EXP_TAIL, -1.0, 1.0, count=11)
    left = max(x for x in xs if x < 0)
    right = min(x for x in xs if x > 0)
    assert right - left < 1e-8
    assert ys[xs.index(left)] == pytest.approx(0.3)
    assert ys[xs.index(right)] == 1.0
    ramp = load_family("rect").bind(alpha=1.0)
    assert {-0.5, 0.0, 0.5} <= set(breakpoints(ramp))


def test_an_annealed_family_at_its_end_is_the_step() -> None:
    family = load_family("annealed_exp_tail").default
    assert evaluate(family, -1.0, progress=1.0) == 0.0
    assert evaluate(family, -1.0) > 0.0


# --------------------------------------------------------------------------------------- plot


def test_plot_shows_the_shape_beside_the_step() -> None:
    figure = plot(EXP_TAIL)
    assert [trace.name for trace in figure.data] == ["exp_tail(alpha=0.3, beta=1)", "step (ReLU)"]
    assert list(figure.data[1].x) == [-6.0, 0.0, 0.0, 4.0]
    assert list(figure.data[1].y) == [0.0, 0.0, 1.0, 1.0]
    assert "exp(x)" in figure.data[0].hovertemplate
    assert figure.layout.xaxis.title.text == "pre-activation x"
    assert "g(x)" in figure.layout.yaxis.title.text


def test_plot_of_several_names_each() -> None:
    figure = plot([EXP_TAIL, B_SILU], low=-3, high=2)
    assert [trace.name for trace in figure.data] == [EXP_TAIL.name, B_SILU.name, "step (ReLU)"]
    assert figure.data[0].line.color != figure.data[1].line.color
    assert tuple(figure.layout.xaxis.range) == (-3, 2)


def test_an_annealed_candidate_is_drawn_half_way_too() -> None:
    figure = plot(load_family("annealed_exp_tail").default)
    assert any("t = 0.5" in trace.name for trace in figure.data)


def test_a_familys_fan_spans_each_parameters_range() -> None:
    family = Family(
        "fan",
        parse("Piecewise((1, x > 0), (a*exp(b*x) + k/10, True))", parameters=("a", "b", "k")),
        space={
            "a": FloatDistribution(0.1, 0.7),
            "b": FloatDistribution(0.1, 10.0, log=True),
            "k": IntDistribution(0, 2),
        },
    )
    figure = family_figure(family)
    names = [trace.name for trace in figure.data]
    for text in ("a = 0.1", "a = 0.7", "b = 0.1", "b = 1", "b = 10", "k = 0", "k = 1", "k = 2"):
        assert names.count(text) == 1, text
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["vary a", "vary b", "vary k"]
    for button, letter in zip(menu.buttons, "abk", strict=True):
        shown = [n for n, v in zip(names, button.args[0]["visible"], strict=True) if v]
        assert {n for n in shown if " = " in n and n[0] in "abk"} == {
            n for n in names if n.startswith(f"{letter} = ")
        }
        assert any(n.startswith("default") for n in shown) and "step (ReLU)" in shown


@pytest.mark.parametrize("name", sorted(library()))
def test_every_library_family_can_be_plotted(name: str) -> None:
    figure = plot(library()[name])
    assert figure.to_json()
    assert len(figure.data) >= 2


@pytest.mark.parametrize("target", [[], "exp_tail", None, [EXP_TAIL, "x"], 3])
def test_plot_refuses_what_has_no_shape(target: Any) -> None:
    with pytest.raises(InputError, match="plot needs a Candidate, several of them, or a Family"):
        plot(target)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, -2), (math.nan, 1), (-math.inf, 0)])
def test_plot_refuses_an_empty_range(low: float, high: float) -> None:
    with pytest.raises(InputError, match="low must be below high"):
        plot(EXP_TAIL, low=low, high=high)


# ----------------------------------------------------------------------------------- terminal


def test_sparkline_shows_zero_tail_and_plateau() -> None:
    assert sparkline(RELU, width=8, unicode=True) == "·····███"
    assert sparkline(RELU, width=8, unicode=False) == "_____@@@"
    line = sparkline(EXP_TAIL, width=24, unicode=True)
    assert len(line) == 24
    assert line[:15] == "".join(sorted(line[:15]))
    assert line.endswith("█" * 9)
    # B-SiLU is negative far out on the left: SUGAR's, below −2.7349.
    assert sparkline(B_SILU, width=24, unicode=True).startswith("------")
    assert sparkline(B_SILU, width=24, unicode=False).isascii()


@pytest.mark.parametrize("unicode", [True, False])
def test_shape_plot_has_axes_and_fits(unicode: bool) -> None:
    lines = shape_plot(B_SILU, width=40, height=8, unicode=unicode).splitlines()
    assert len(lines) == 8 + 3
    assert all(len(line) <= 46 for line in lines[:-1])
    assert any(line.startswith("   1 ") for line in lines)
    assert any(line.startswith("   0 ") for line in lines)
    if not unicode:
        assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (0.35069118, "0.35069"),
        ((1.2903797, 1.2903799), "1.2904 ± 1e-07"),
        ((0.0, 2e-8), "[0, 2e-08]"),
        ((1.0, 1.0), "1"),
        ((0.5, None), "[0.5, ∞]"),
        ((None, None), "[−∞, ∞]"),
        ("exact", "exact"),
        (3, "3"),
    ],
)
def test_numbers_as_shown(value: Any, shown: str) -> None:
    assert number(value) == shown


def test_witnesses_as_shown() -> None:
    assert place({"x": -3.0, "alpha": 0.5}) == "x = -3, alpha = 0.5"
    assert place({"x": (-9.0, None)}) == "x in [-9, ∞]"


@pytest.fixture(scope="module")
def b_silu_report() -> Any:
    return check(B_SILU, profile="strict")


def test_criteria_text_tells_every_verdict_and_witness(b_silu_report: Any) -> None:
    text = criteria_text(b_silu_report, B_SILU, unicode=True)
    for result in b_silu_report.criteria:
        assert result.name in text
        assert result.verdict in text
    assert "witness: x = " in text
    assert "0.35069" in text  # facts: consistent 0.3507
    assert "│" in text
    assert "not shown to hold: sign_preserving, non_decreasing" in text
    ascii_text = criteria_text(b_silu_report, B_SILU, unicode=False, width=72)
    assert ascii_text.isascii()
    assert max(len(line) for line in ascii_text.splitlines()) <= 72
    assert "│" not in criteria_text(b_silu_report, unicode=True)


# ------------------------------------------------------------------------------------- markup


@pytest.mark.parametrize("nasty", NASTY)
def test_what_is_not_markup_is_escaped(nasty: str) -> None:
    title = Page(page_of(title=nasty)).text
    shown = "".join(c if c.isprintable() else "�" for c in nasty)
    assert " ".join(shown.split()) in title
    assert "\0" not in title and "\ud800" not in title


def page_of(figure: Any = None, title: str = "title") -> str:
    """A page with one figure."""
    section = Section("one", "One", {"history": figure, "objectives": None}, "study/history.html")
    return render("page.html", title=title, sections=[section])


def test_a_json_document_cannot_end_its_element() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], hovertext=["</script><!--&lt;", "b"]))
    text = page_of(figure)
    inner = text.split('id="texts">')[1].split("</script>")[0]
    assert not re.search("[<>&]", inner)
    assert json.loads(inner) == ["</script><!--&lt;", "b"]
    (found,) = Page(text).figures()
    assert found["data"][0]["hovertext"] == ["</script><!--&lt;", "b"]


def test_a_text_that_many_points_show_is_kept_once() -> None:
    trace = go.Scatter(x=[1, 2, 3], y=[1, 2, 3], hovertext=["same text", "other text", "same text"])
    text = page_of(go.Figure([trace, trace]))
    assert text.count("same text") == text.count("other text") == 1
    assert [t["hovertext"] for t in Page(text).figures()[0]["data"]] == [
        ["same text", "other text", "same text"]
    ] * 2


@pytest.mark.parametrize(
    "candidate",
    [
        *(family.default for family in library().values()),
        # Half way up its jump, where a straight line from the tail to 1 would pass too.
        load_family("rational_tail").bind(alpha=0.548961, beta=7.08241),
    ],
    ids=lambda candidate: candidate.name,
)
def test_a_sketch_is_within_half_a_pixel_of_the_shape(candidate: Candidate) -> None:
    """Where the shape is smooth: joined by lines, between any two of the sketch's points."""
    path = [tuple(map(float, p.split())) for p in sketch(candidate).removeprefix("M").split("L")]
    assert path[0][0] == 0 and path[-1][0] == 84 and len(path) < 80
    xs = [i / 5 for i in range(421)]
    exact = candidate(torch.tensor([-5 + 8 * x / 84 for x in xs], dtype=torch.float64)).tolist()
    heights = [(1.35 - min(max(g, -0.35), 1.35)) / 1.7 * 30 for g in exact]
    for left, middle, right, x, y in zip(heights, heights[2:], heights[4:], xs[2:], heights[2:],
                                         strict=False):  # fmt: skip
        if max(abs(left - middle), abs(right - middle)) > 1.5:
            continue  # a jump
        (x0, y0), (x1, y1) = next((a, b) for a, b in itertools.pairwise(path) if a[0] <= x <= b[0])
        drawn = y0 if x0 == x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        assert abs(drawn - y) < 0.5, (x, drawn, y)


@pytest.mark.parametrize("name", sorted(library()))
def test_every_formula_becomes_well_formed_mathml(name: str) -> None:
    from xml.dom import minidom

    text = str(equation(library()[name].expression))
    text = re.sub(r"&(InvisibleTimes|pi|ExponentialE|infin);", "", text)
    document = minidom.parseString(text)
    assert document.documentElement.tagName == "math"
    assert "sigmoid" not in text and "Piecewise" not in text and "piecewise" not in text


def test_long_rationals_are_shown_as_decimals() -> None:
    text = equation(sympy.Rational("0.347192837123") * sympy.Symbol("x"))
    assert "0.347193" in text
    tiny = equation(sympy.Rational("-0.0000015000000001"))
    assert "-1.5" in tiny and "<mn>10</mn><mn>-6</mn>" in tiny


# -------------------------------------------------------------------------------------- pages


class Page(HTMLParser):
    """A page taken apart: elements in order, text by element, scripts, and what is unbalanced."""

    VOID = frozenset({"br", "hr", "input", "meta", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open[-3:]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def figures(self) -> list[dict[str, Any]]:
        """With the hover texts, of which a page keeps each once, where they belong."""
        *figures, texts = [
            json.loads(text) for kind, text in self.scripts if kind == "application/json"
        ]
        for trace in (trace for figure in figures for trace in figure["data"]):
            if isinstance(trace.get("hovertext"), list):
                trace["hovertext"] = [texts[i] for i in trace["hovertext"]]
        return figures


ALLOWED = {
    "a", "body", "button", "code", "dd", "div", "dl", "dt", "figcaption", "figure", "footer", "h1",
    "h2", "h3", "head", "header", "html", "input", "li", "main", "meta", "nav", "noscript", "p",
    "path", "pre", "script", "section", "small", "span", "strong", "style", "svg", "table", "tbody",
    "td", "th", "thead", "title", "tr", "ul", "use",
    "math", "mfrac", "mi", "mn", "mo", "mrow", "msqrt", "msup", "mtable", "mtd", "mtext", "mtr",
}  # fmt: skip


def assert_stands_alone(text: str) -> Page:
    """One file, well-formed, that loads nothing and whose policy lets only its own scripts run."""
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag in ALLOWED, tag
        assert not [name for name in attributes if name.startswith("on")], attributes
        for name in ("src", "srcset", "data", "action", "xlink:href", "poster"):
            assert name not in attributes, attributes
        if "href" in attributes:
            assert str(attributes["href"]).startswith("#")
    run = [text for kind, text in page.scripts if kind is None]
    assert len(run) == 1
    (packed,) = (text for kind, text in page.scripts if kind == "application/gzip")
    run.append(gzip.decompress(base64.b64decode(packed)).decode())
    assert "plotly.js v" in run[1][:200]
    (policy,) = (
        str(a["content"])
        for tag, a in page.elements
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    digests = re.findall(r"'sha256-([^']+)'", policy)
    assert digests == [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in run]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "http:" not in policy and "https:" not in policy
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]
    for figure in page.figures():
        go.Figure(figure)  # plotly's own validation
    return page


def test_the_criteria_page_tells_statement_verdict_value_and_witness(b_silu_report: Any) -> None:
    text = criteria_report(b_silu_report, B_SILU)
    page = assert_stands_alone(text)
    for result in b_silu_report.criteria:
        assert result.name in page.text
        assert " ".join(result.statement.split()) in page.text
    assert page.text.count("✘ refuted") == 2
    assert "2 of 8 required criteria not shown to hold (profile strict)" in page.text
    assert place(b_silu_report["sign_preserving"].to_dict()["witness"]) in page.text
    (figure,) = page.figures()
    marked = {trace["name"]: trace for trace in figure["data"] if "fails" in trace["name"]}
    assert set(marked) == {"sign_preserving fails", "non_decreasing fails"}
    (x,) = marked["sign_preserving fails"]["x"]
    (y,) = marked["sign_preserving fails"]["y"]
    assert x == b_silu_report["sign_preserving"].witness["x"]
    s = 1 / (1 + math.exp(-x))
    assert y == pytest.approx(s + (x + 1.67) * s * (1 - s), rel=1e-9)
    assert y < 0
    assert text.count("</html>") == 1
    assert "all required" not in text.lower()


def test_the_criteria_page_of_one_that_holds() -> None:
    page = Page(criteria_report(check(EXP_TAIL, profile="strict"), EXP_TAIL))
    assert "All 8 required criteria hold (profile strict)" in page.text
    assert "α" in page.text and "0.3" in page.text and "arXiv:1511.07289" in page.text


def entry(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "statement": f"{name} holds", "verdict": "refuted", "passed": False,
        "required": True, "value": 1.0, "bound": 0.5, "witness": None, "source": "ours",
        "detail": "", **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("witness", "drawn"),
    [
        ({"x": -8.5}, [-8.5]),
        ({"x": [-3.0, -0.5]}, [-3.0, -0.5]),
        ({"x": [None, -0.5]}, None),
        ({"x": None}, None),
        ({"x": "-oo", "limit": 0.3}, None),
        ({"x": -1e300}, None),
        ({"alpha": 0.5}, None),
        (None, None),
    ],
)
def test_witnesses_are_marked_where_they_are(witness: Any, drawn: list[float] | None) -> None:
    figure = criteria_figure(EXP_TAIL, [entry("limits", witness=witness)])
    marked = [trace for trace in figure.data if "fails" in trace.name]
    if drawn is None:
        assert marked == []
    else:
        assert list(marked[0].x) == drawn
        low, high = figure.layout.xaxis.range
        assert low < min(drawn) and max(drawn) < high


def test_proofs_are_drawn_on_request() -> None:
    candidate = load_family("sigmoid").default
    page = assert_stands_alone(criteria_report(check(candidate, profile="strict"), candidate))
    (figure,) = page.figures()
    bars = [trace for trace in figure["data"] if trace["type"] == "bar"]
    assert [bar["name"].split(" (")[0] for bar in bars] == [
        "proof of sign_preserving", "proof of bounded", "proof of non_decreasing",
    ]  # fmt: skip
    low, high = figure["layout"]["xaxis"]["range"]
    for bar in bars:
        assert bar["visible"] == "legendonly"
        sides = [(x - w / 2, x + w / 2) for x, w in zip(bar["x"], bar["width"], strict=True)]
        assert sides[0][0] <= low and sides[-1][1] >= high
        for (left, right), base, height in zip(sides, bar["base"], bar["y"], strict=True):
            place = min(max((left + right) / 2, low), high)
            assert base <= 1 / (1 + math.exp(-4 * place)) <= base + height
        criterion = bar["name"].split()[2]
        boxes = proof_boxes(candidate, criterion)
        assert bar["name"].endswith(f" ({len(boxes)} boxes)")
        inside = [box for box in boxes if box.x[0] < high and box.x[1] > low]
        assert len(bar["hovertext"]) == len(inside)
    assert "x from −∞ to " in bars[0]["hovertext"][0]
    assert "Choose a proof in the legend" in page.text


def test_only_what_is_proved_by_boxes_is_drawn_as_boxes(b_silu_report: Any) -> None:
    (figure,) = Page(criteria_report(b_silu_report, B_SILU)).figures()
    bars = [trace["name"] for trace in figure["data"] if trace["type"] == "bar"]
    assert len(bars) == 1 and bars[0].startswith("proof of bounded")
    page = Page(criteria_report(check(load_family("selu").default), load_family("selu").default))
    assert not any(name.startswith("proof of bounded") for name in page.text.split("\n"))


def test_thousands_of_boxes_are_joined_where_they_would_be_hairs() -> None:
    count = 5000
    boxes = [
        ProofBox(
            (-6 + 10 * i / count, -6 + 10 * (i + 1) / count), (0.1 + i / count, 0.2 + i / count)
        )
        for i in range(count)
    ]
    figure = criteria_figure(EXP_TAIL, [], proofs={"bounded": boxes})
    bar = figure.data[-1]
    assert bar.name == "proof of bounded (5000 boxes)"
    assert 200 < len(bar.x) <= 650
    for x, width, base, height in zip(bar.x, bar.width, bar.base, bar.y, strict=True):
        inside = [b for b in boxes if x - width / 2 < sum(b.x) / 2 < x + width / 2]
        assert base <= min(b.g[0] for b in inside) + 1e-12
        assert base + height >= min(max(b.g[1] for b in inside), 1.5) - 1e-12


def test_the_page_of_a_family_draws_the_members_that_the_witnesses_name() -> None:
    family = load_family("leaky")
    entries = [
        entry("limits", witness={"x": -4.0, "alpha": 0.5}),
        entry("gain", verdict="undecided"),
    ]
    report = Report("leaky", "strict", tuple(Result(**one) for one in entries), family)
    page = assert_stands_alone(criteria_report(report, family))
    first, fan = page.figures()
    assert first["data"][0]["name"] == "leaky(alpha=0.5)"
    assert any(trace["name"].startswith("alpha = ") for trace in fan["data"])
    assert "? undecided" in page.text


def rectangles(trace: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """Left, right, bottom and top of each closed path of a trace."""
    found = []
    for start in range(0, len(trace["x"]), 6):
        xs, ys = trace["x"][start : start + 5], trace["y"][start : start + 5]
        assert trace["x"][start + 5] is trace["y"][start + 5] is None
        assert (xs[0], ys[0]) == (xs[-1], ys[-1])
        found.append((min(xs), max(xs), min(ys), max(ys)))
    return found


def test_a_map_of_two_parameters_is_drawn_as_its_parts() -> None:
    family = load_family("exp_tail")
    maps = [family_map(family, name, parts=60) for name in ("consistent", "alive_below_zero")]
    page = assert_stands_alone(criteria_report(check(family), family, maps=maps))
    assert "Map of the parameters" in page.text
    for one, figure in zip(maps, page.figures()[-2:], strict=True):
        drawn = {trace["name"].split(":")[0]: rectangles(trace) for trace in figure["data"]}
        for verdict in ("proved", "refuted", "undecided"):
            parts = [part.ranges for part in one.parts if part.verdict == verdict]
            assert drawn.get(verdict, []) == [(*r["alpha"], *r["beta"]) for r in parts]
        assert figure["layout"]["yaxis"]["type"] == "log"
        assert figure["layout"]["yaxis"]["range"] == pytest.approx([-1, 1])
        assert figure["layout"]["xaxis"]["range"] == [0.01, 1.0]
        share = f"proved: {100 * one.share('proved'):.1f} %"
        assert share in [trace["name"] for trace in figure["data"]]
        assert f"{100 * one.share('refuted'):.1f} %" in page.text


def test_a_map_of_one_parameter_is_a_strip_and_of_more_a_table() -> None:
    wide = FloatDistribution(0.5, 2.5)

    def family(tail: str, **space: FloatDistribution) -> Family:
        text = f"Piecewise((1, x > 0), ({tail}, True))"
        return Family("f", parse(text, parameters=space), space=space)

    one = family("a", a=wide)
    found = family_map(one, "bounded")  # for a <= 1.5
    figure = map_figure(one, found)
    assert figure is not None
    strips = {trace.name.split(":")[0]: rectangles(trace.to_plotly_json()) for trace in figure.data}
    assert all((low, high) == (0, 1) for *_, low, high in strips["proved"])
    assert max(right for _, right, *_ in strips["proved"]) <= 1.5 + 2e-6
    assert min(left for left, *_ in strips["refuted"]) >= 1.5
    three = family("a*b*c", a=wide, b=wide, c=wide)
    found = family_map(three, "bounded", parts=40)
    assert map_figure(three, found) is None and map_plot(three, found) == ""
    page = Page(criteria_report(check(three), three, maps=[found]))
    for verdict in ("proved", "refuted", "undecided"):
        assert f"{100 * found.share(verdict):.1f} %" in page.text
    # what is held at one value is no side of the map
    held = family("a*b", a=wide, b=FloatDistribution(1.0, 1.0))
    assert map_figure(held, family_map(held, "bounded")) is not None


def test_shares_do_not_round_to_all_or_nothing() -> None:
    parts = [Part({"a": (0, 1)}, "proved", 1 - 1e-7), Part({"a": (1, 2)}, "refuted", 1e-7)]
    one = FamilyMap("f", "bounded", tuple(parts))
    assert [share(one, v) for v in ("proved", "refuted", "undecided")] == [
        "> 99.9 %", "< 0.1 %", "0.0 %",
    ]  # fmt: skip


# -------------------------------------------------------------------------------------- study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StoredStudy:
    return made_up_study(tmp_path_factory.mktemp("study"), trials=12, confirmed=True, seed=3)


@pytest.fixture(scope="module")
def page_text(study: StoredStudy) -> str:
    return study_report(study)


def test_the_study_page_stands_alone_and_has_every_part(page_text: str) -> None:
    page = assert_stands_alone(page_text)
    anchors = [a["id"] for tag, a in page.elements if tag == "section"]
    assert anchors == [
        "confirmation", "shapes", "criteria", "history", "curves", "dead", "parameters", "learned",
        "trials", "settings",
    ]  # fmt: skip
    links = [str(a["href"])[1:] for tag, a in page.elements if tag == "a"]
    assert links == anchors


def test_the_study_page_tells_the_studys_figures(study: StoredStudy, page_text: str) -> None:
    page = Page(page_text)
    best, baseline, counts = study.best(), study.baseline(), study.counts()
    assert best is not None and baseline is not None and best.candidate is not None
    assert f"{100 * (best.value or 0):.2f} %" in page.text
    assert f"{100 * (baseline.value or 0):.2f} %" in page.text
    assert f"{counts['total']} of 12" in page.text
    rows = page_text.count("<tr", page_text.index('id="all-trials"'))
    assert rows == 1 + len(study.trials())
    for row in study.trials():
        assert row.candidate is not None and row.candidate.name in page.text
    for version in ("torch", "optuna", "pdsearch"):
        assert version in page.text
    assert "pdsearch confirm made-up --storage sqlite:" in page.text


def test_the_headline_is_the_confirmations_own_sentence(study: StoredStudy, page_text: str) -> None:
    from pdsearch.confirm import load_confirmation

    found = load_confirmation(study)
    assert found is not None
    page = Page(page_text)
    assert found.headline in page.text
    for row in found.rows:
        assert f"{100 * row.mean:.2f}" in page.text
        if row.ci95 is not None:
            assert f"{100 * row.ci95[0]:+.2f} to {100 * row.ci95[1]:+.2f}" in page.text
    forest = page.figures()[0]
    lines = [trace for trace in forest["data"] if trace["mode"] == "lines"]
    ends = sorted(tuple(trace["x"]) for trace in lines)
    expected = sorted(
        (100 * row.ci95[0], 100 * row.ci95[1]) for row in found.rows if row.ci95 is not None
    )
    assert len(ends) == len(expected)
    for shown, told in zip(ends, expected, strict=True):
        assert shown == pytest.approx(told)


def test_the_confirmations_table_has_no_column_of_dashes(study: StoredStudy) -> None:
    from pdsearch.confirm import load_confirmation

    found = load_confirmation(study)
    assert found is not None
    few = dataclasses.replace(
        found,
        rows=tuple(
            dataclasses.replace(row, paired=dataclasses.replace(row.paired, bootstrap=None))
            if row.paired
            else row
            for row in found.rows
        ),
    )
    column = "95 % (bootstrap)"
    assert column in confirmation_page(found)
    assert column not in confirmation_page(few)
    slow = dataclasses.replace(
        found, rows=tuple(dataclasses.replace(row, reaching=None) for row in found.rows)
    )
    column = "epochs to ReLU's"
    assert html.escape(column, quote=True) not in confirmation_page(slow)
    shown = html.unescape(confirmation_page(found))
    assert column in shown and "until the mean of ReLU's final accuracies is first" in shown
    for row in found.rows:
        assert row.reaching is not None
        reached = [epochs for epochs in row.reaching.epochs if epochs is not None]
        mean = f"{sum(reached) / len(reached):.1f}" if reached else "never"
        assert f'data-label="{column}">{mean}' in shown


def confirmation_page(found: Any) -> str:
    record = {"parts": [confirmed(found)]}
    section = Section("one", "One", record, "study/confirmation.html")
    return render("page.html", title="title", sections=[section])


@pytest.mark.parametrize(("sign", "tone"), [(1, "better"), (-1, "worse")])
def test_a_significant_row_is_green_above_relu_and_red_below(
    study: StoredStudy, sign: int, tone: str
) -> None:
    from pdsearch.confirm import load_confirmation

    found = load_confirmation(study)
    assert found is not None
    baseline, row = found.rows[0], next(row for row in found.rows if row.paired)
    assert row.paired
    paired = dataclasses.replace(row.paired, difference=sign * 0.01)
    shown = dataclasses.replace(row, paired=paired, p_adjusted=0.001)
    one = dataclasses.replace(found, rows=(baseline, shown))
    none = dataclasses.replace(one, rows=(baseline, dataclasses.replace(shown, p_adjusted=0.05)))
    text = confirmation_page(one)
    assert text.count(f'class="{tone}"') == 1
    assert text.count('class="better"') + text.count('class="worse"') == 1
    assert f'class="{tone}"' not in confirmation_page(none)


def unconfirmed(study: StoredStudy, rows: list[Any] | None = None, **changes: Any) -> Any:
    """The study as it would be without a confirmation, and with other rows."""
    attributes = {
        key: value
        for key, value in study.study.user_attrs.items()
        if not key.startswith("pdsearch:confirm")
    }
    inner = SimpleNamespace(
        user_attrs={**attributes, **changes.pop("user_attrs", {})},
        directions=study.study.directions,
        get_trials=study.study.get_trials,
    )
    return _Doctored(study, rows, inner, **changes)


class _Doctored:
    """A stored study, some of it replaced."""

    def __init__(self, study: StoredStudy, rows: Any, inner: Any, **changes: Any) -> None:
        self._study, self._rows = study, study.trials() if rows is None else rows
        self.study = inner
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def trials(self) -> list[Any]:
        return list(self._rows)

    def counts(self) -> dict[str, int]:
        from pdsearch.study.rows import counts_of

        return counts_of(self.trials())


def test_without_a_confirmation_the_headline_claims_nothing(study: StoredStudy) -> None:
    page = Page(study_report(unconfirmed(study)))
    assert "this is no significant evidence of a difference" in page.text
    assert "One seed" in page.text
    assert not re.search(r"better than ReLU|significantly", page.text)
    best = study.best()
    assert best is not None and f"{100 * (best.value or 0):.2f} % validation accuracy" in page.text


def test_a_study_that_has_just_begun(study: StoredStudy) -> None:
    waiting = dataclasses.replace(
        study.trials()[0], status="waiting", value=None, values=(), epochs=(), seconds=None
    )
    drawn_later = dataclasses.replace(waiting, number=1, kind="candidate", candidate=None)
    for rows in ([], [waiting], [waiting, drawn_later]):
        page = assert_stands_alone(study_report(unconfirmed(study, rows)))
        assert "No candidate has been trained to the end yet" in page.text


def test_failed_and_diverged_trials_keep_their_reasons(study: StoredStudy) -> None:
    rows = study.trials()
    some = next(row for row in rows if row.kind == "candidate")
    rows += [
        dataclasses.replace(some, number=90, status="diverged", value=None, reason="loss is nan"),
        dataclasses.replace(some, number=91, status="failed", value=None, reason="worker killed"),
        dataclasses.replace(some, number=92, duplicate_of=some.number),
    ]
    page = assert_stands_alone(study_report(unconfirmed(study, rows)))
    assert "loss is nan" in page.text and "worker killed" in page.text
    assert f"same g as trial {some.number}" in page.text


def test_no_name_breaks_out_of_the_page(study: StoredStudy) -> None:
    """Each hostile text wherever text from outside can be: rows, criteria, settings, names."""
    everything = " ".join(NASTY)
    rows = []
    for i, row in enumerate(study.trials()):
        text = NASTY[i % len(NASTY)]
        candidate = row.candidate
        assert candidate is not None
        family = dataclasses.replace(candidate.family, reference=everything)
        criteria = {"criteria": [entry(text, statement=text, detail=text, source=text,
                                       verdict=text, witness={text: text, "x": text})]}  # fmt: skip
        dead = {text: 0.5}
        rows.append(
            dataclasses.replace(
                row,
                candidate=Candidate(family, dict(candidate.parameters)),
                reason=text,
                criteria=criteria,
                epochs=tuple({**e, "dead": dead} for e in row.epochs),
            )
        )
    stored = unconfirmed(
        study,
        rows,
        name=everything,
        storage=f"sqlite:///{everything}",
        user_attrs={"pdsearch:device": everything, "pdsearch:versions": {everything: everything}},
    )
    page = assert_stands_alone(study_report(stored))
    assert "<script>alert(1)</script>" in page.text  # as text
    scripts = [kind for kind, _ in page.scripts if kind is None]
    assert len(scripts) == 1
    for figure in page.figures():
        # Plotly takes tags in its labels for such: they come as entities.
        assert "<script" not in json.dumps(figure) and "<img" not in json.dumps(figure)


def test_a_study_trained_by_a_function_is_not_said_to_be_accuracies(tmp_path: Path) -> None:
    def train(candidate: Candidate) -> float:
        return 3.0 + float(sum(candidate.parameters.values()))

    url = f"sqlite:///{tmp_path / 'f.db'}"
    search(families=["exp_tail"], references=["leaky"], train=train, name="mine", trials=6,
           pruner="none", storage=url, direction="minimize", progress=False)  # fmt: skip
    page = assert_stands_alone(study_report(open_study("mine", storage=url)))
    assert "%" not in page.text.split("Shapes")[0].replace("pdsearch", "")
    assert "accuracy" not in page.text.split("Shapes")[0]
    assert "call the training function over several seeds" in page.text


def test_history_has_the_baseline_and_reference_lines(study: StoredStudy) -> None:
    figure = history(study, study.trials(), percent=True, title="validation accuracy")
    heights = {shape.y0 for shape in figure.layout.shapes}
    expected = {row.value for row in study.trials() if row.kind != "candidate"}
    assert heights == expected
    best = next(trace for trace in figure.data if trace.name == "best so far")
    values = [v for v in best.y]
    assert values == sorted(values)
    stored_best = study.best()
    assert stored_best is not None and values[-1] == stored_best.value


def test_importances_say_why_they_are_missing(study: StoredStudy) -> None:
    _, notes = importances(study, [])
    assert notes == ["No candidate has been trained to the end yet."]
    rows = [row for row in study.trials() if row.status == "complete"]
    figure, notes = importances(study, rows)
    families = {row.candidate.family.name for row in rows if row.kind == "candidate"}
    assert {note.split(":")[0] for note in notes} == families
    assert all(re.search("fewer than|nothing to share|from ", note) for note in notes)
    if figure is not None:
        assert all(0 <= share <= 1 for share in figure.data[0].x)


def test_slices_cover_the_range_of_each_parameter(study: StoredStudy) -> None:
    rows = study.trials()
    found = slices(study, rows, percent=True)
    families = {
        row.candidate.family.name
        for row in rows
        if row.kind == "candidate" and row.status == "complete"
    }
    expected = {
        f"{name}.{parameter}" for name in families for parameter in library()[name].parameters
    }
    assert set(found) == expected
    for name, figure in found.items():
        family, _, parameter = name.partition(".")
        space: Any = library()[family].space[parameter]
        low, high = figure.layout.xaxis.range
        if figure.layout.xaxis.type == "log":
            low, high = 10**low, 10**high
        assert low <= space.low < space.high <= high
        assert (figure.layout.xaxis.type == "log") == space.log


def test_two_objectives_ring_what_nothing_beats() -> None:
    values = [(0.9, 0.5), (0.8, 0.1), (0.7, 0.3), (0.9, 0.6)]
    rows = [
        TrialRow(number, "candidate", "complete", EXP_TAIL, both[0], values=both)
        for number, both in enumerate(values)
    ]
    stored: Any = SimpleNamespace(
        settings=SimpleNamespace(study=SimpleNamespace(objectives=["accuracy", "dead_units"])),
        study=SimpleNamespace(
            directions=[SimpleNamespace(name="MAXIMIZE"), SimpleNamespace(name="MINIMIZE")]
        ),
        families={"exp_tail": EXP_TAIL.family},
    )
    figure = objectives(stored, rows)
    assert figure is not None
    assert [width > 0 for width in figure.data[0].marker.line.width] == [True, True, False, False]


def test_a_report_replaces_an_older_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_html("old", path)
    write_html("new", path)
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(InputError, match="is a directory"):
        write_html("x", tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        write_html("x", tmp_path / "missing" / "report.html")


# ------------------------------------------------------------------------------------- browser

CHROME = next(
    (
        found
        for name in ("chromium", "google-chrome", "chromium-browser")
        if (found := shutil.which(name))
    ),
    None,
)


def browse(path: Path, folder: Path) -> tuple[str, str]:
    """The page's elements after its scripts have run, and what the browser logged."""
    assert CHROME is not None
    done = subprocess.run(
        [
            CHROME, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0",
            "--window-size=1000,800", "--virtual-time-budget=30000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROME is None, reason="no Chromium here")
def test_a_browser_draws_every_figure_and_logs_nothing(page_text: str, tmp_path: Path) -> None:
    path = write_html(page_text, tmp_path / "report.html")
    dom, log = browse(path, tmp_path)
    assert log == ""
    figures = len(Page(page_text).figures())
    assert f'data-drawn="{figures}"' in dom
    assert dom.count('class="main-svg"') >= figures


@pytest.mark.skipif(CHROME is None, reason="no Chromium here")
def test_the_table_sorts_and_filters(study: StoredStudy, page_text: str, tmp_path: Path) -> None:
    script = """
    const head = [...document.querySelectorAll('#all-trials th')];
    const column = name => head.find(h => h.textContent.startsWith(name));
    const read = () => [...document.querySelectorAll('#all-trials tbody tr')]
      .filter(r => !r.hidden).map(r => r.cells[0].textContent).join(' ');
    const out = [];
    column('value').querySelector('button').click(); out.push(read());
    column('value').querySelector('button').click(); out.push(read());
    column('#').querySelector('button').click(); out.push(read());
    const box = document.querySelector('input[data-filter]');
    box.value = 'ReLU BASELINE'; box.dispatchEvent(new Event('input')); out.push(read());
    document.body.dataset.out = out.join('|');
    """
    # The page's policy forbids added scripts, as it should; for this one it is taken out.
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_text)
    free = free.replace("</body>", f"<script>{script}</script></body>")
    dom, log = browse(write_html(free, tmp_path / "report.html"), tmp_path)
    assert log == ""
    found = re.search(r'data-out="([^"]*)"', dom)
    assert found is not None
    down, up, numbers, filtered = (
        [int(n) for n in part.split()] for part in html.unescape(found[1]).split("|")
    )
    rows = study.trials()
    value = {row.number: row.value for row in rows}
    known = [v for n in down if (v := value[n]) is not None]
    rising = [v for n in up if (v := value[n]) is not None]
    assert known == sorted(known, reverse=True)
    assert rising == sorted(known)
    # Those without a value come last either way.
    for order in (down, up):
        assert all(value[n] is None for n in order[len(known) :])
    assert numbers == sorted(value)
    assert filtered == [row.number for row in rows if row.kind == "baseline"]


@pytest.mark.skipif(CHROME is None, reason="no Chromium here")
def test_an_added_script_does_not_run(page_text: str, tmp_path: Path) -> None:
    added = page_text.replace("</body>", "<script>document.title = 'ran'</script></body>")
    dom, log = browse(write_html(added, tmp_path / "report.html"), tmp_path)
    assert "<title>ran" not in dom
    assert "Content Security Policy" in log
