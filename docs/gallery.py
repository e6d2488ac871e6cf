"""Write docs/gallery.md and its pictures: `python docs/gallery.py`.

Each picture shows the step and g at the family's defaults and at both ends of its first parameter's
range. An annealed family is shown at three values of t instead. The script writes SVG itself, so it
needs no browser, and the same library gives the same files.
"""

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from pdsearch.family import Candidate, Family, library
from pdsearch.family.shapes import curve, step

PAGE = Path(__file__).parent / "gallery.md"
PICTURES = Path(__file__).parent / "pictures" / "gallery"

LOW, HIGH = -6.0, 4.0
WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 12, 26  # margins around the plot's area
FAR = 1.75
"""Curves are cut off above this value."""

INK, SOFT, STEP = "#0b57d0", "#7aa7ee", "#8c959f"

THEMES = {
    "steps": ("Steps", "The step, shifted, tilted or with another constant below zero."),
    "activations": ("Derivatives of activations", "Each by `sympy.diff` of its activation."),
    "spiking": (
        "Surrogates of spiking networks",
        "Spiking networks replace a spike's derivative by a bump; these are their primitives.",
    ),
    "tails": ("Tails below zero", "1 above zero, and a tail that decays below it."),
    "knots": ("Knots", "Monotone curves through knots, whose heights are the parameters."),
    "two_sided": ("Two-sided", "A tail on each side of zero."),
    "annealed": ("Annealed", "Shapes that turn into the step as t goes from 0 to 1."),
}


def shown(family: Family) -> list[tuple[str, Candidate, float]]:
    """Return (label, candidate, t) for each curve of a family's picture, the defaults last."""
    default = family.default
    if family.annealed:
        return [(f"t = {t:g}", default, t) for t in (1.0, 0.5, 0.0)]
    if not family.parameters:
        return [("", default, 0.0)]
    name = family.parameters[0]
    distribution = family.space[name]
    found = [
        (f"{name} = {value:g}", family.bind(**{name: value}), 0.0)
        for value in (distribution.low, distribution.high)
        if value != family.defaults[name]
    ]
    return [*found, (f"{name} = {family.defaults[name]:g}", default, 0.0)]


def picture(family: Family) -> str:
    """Return the family's picture as SVG."""
    curves = [
        (label, *curve(candidate, LOW, HIGH, count=161, progress=t))
        for label, candidate, t in shown(family)
    ]
    values = [y for _, _, ys in curves for y in ys if math.isfinite(y)]
    bottom, top = min(-0.1, max(min(values), -0.6) - 0.05), max(1.12, min(max(values), FAR) + 0.05)

    def across(x: float) -> float:
        return LEFT + (x - LOW) / (HIGH - LOW) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        y = min(max(y, bottom), top)
        return TOP + (top - y) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    def path(xs: list[float], ys: list[float]) -> str:
        parts, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if math.isnan(y):
                pen = "M"
                continue
            parts.append(f"{pen}{across(x):.1f} {down(y):.1f}")
            pen = "L"
        return "".join(parts)

    grid = [
        element("path", d=f"M{across(x):.1f} {TOP}V{HEIGHT - BOTTOM}", stroke="#eaeef2")
        for x in range(int(LOW), int(HIGH) + 1, 2)
        if x
    ]
    heights = [y for y in (-0.5, 0.0, 0.5, 1.0, 1.5) if bottom <= y <= top]
    grid += [
        element("path", d=f"M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}", stroke="#eaeef2")
        for y in heights
    ]
    axes = [
        element("path", d=f"M{LEFT} {down(0):.1f}H{WIDTH - RIGHT}", stroke="#afb8c1"),
        element("path", d=f"M{across(0):.1f} {TOP}V{HEIGHT - BOTTOM}", stroke="#afb8c1"),
    ]
    ticks = [
        element(
            "text",
            f"{x}".replace("-", "−"),
            x=f"{across(x):.1f}",
            y=HEIGHT - 9,
            text_anchor="middle",
        )
        for x in range(int(LOW), int(HIGH) + 1, 2)
    ]
    ticks += [
        element(
            "text",
            f"{y:g}".replace("-", "−"),
            x=LEFT - 6,
            y=f"{down(y) + 4:.1f}",
            text_anchor="end",
        )
        for y in heights
    ]
    lines = [
        element(
            "path",
            d=path(*step(LOW, HIGH)),
            stroke=STEP,
            stroke_width="1.6",
            stroke_dasharray="2 4",
        )
    ]
    for index, (_, xs, ys) in enumerate(curves):
        last = index == len(curves) - 1
        dash = None if last else ("7 4" if index == len(curves) - 2 else "1.5 3.5")
        lines.append(
            element(
                "path",
                d=path(xs, ys),
                stroke=INK if last else SOFT,
                stroke_width="2.6" if last else "1.8",
                stroke_dasharray=dash,
                stroke_linejoin="round",
                stroke_linecap="round",
            )
        )
    text = element(
        "g", ticks, fill="#57606a", stroke="none", font_size="11", font_family="sans-serif"
    )
    svg = element(
        "svg",
        element("title", f"{family.name}: {described(family)}"),
        element("rect", width=WIDTH, height=HEIGHT, fill="#ffffff", rx="6"),
        element("g", grid, axes, lines, fill="none"),
        text,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
    )
    return ET.tostring(svg, encoding="unicode", short_empty_elements=False)


def element(
    tag: str, *children: str | ET.Element | list[ET.Element], **attributes: object
) -> ET.Element:
    """Make an SVG element. Attributes that are None are omitted; underscores become hyphens."""
    named = {k.replace("_", "-"): str(v) for k, v in attributes.items() if v is not None}
    found = ET.Element(tag, named)
    for child in children:
        if isinstance(child, str):
            found.text = child
        else:
            found.extend(child if isinstance(child, list) else [child])
    return found


def described(family: Family) -> str:
    """Describe the lines of a family's picture."""
    labels = [label for label, _, _ in shown(family)]
    styles = {1: ["solid"], 2: ["dashed", "solid"], 3: ["dotted", "dashed", "solid"]}[len(labels)]
    if labels == [""]:
        return "no parameters"
    pairs = zip(reversed(styles), reversed(labels), strict=True)
    return ", ".join(f"{style}: {label}" for style, label in pairs)


def page() -> str:
    """Return the text of docs/gallery.md."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield "# Gallery"
    yield ""
    yield "<!-- written by `python docs/gallery.py` -->"
    yield ""
    yield (
        f"The {len(library())} built-in families. Each picture also shows the step (grey, dotted). "
        "`pdsearch families` lists them in a terminal; `pdsearch check NAME` decides the design "
        "criteria for one."
    )
    themed = {
        theme: list(families)
        for theme, families in itertools.groupby(
            sorted(library().values(), key=lambda f: (list(THEMES).index(_theme(f)), f.name)),
            key=_theme,
        )
    }
    for theme, (title, about) in THEMES.items():
        yield from ("", f"## {title}", "", about)
        for family in themed[theme]:
            yield from ("", f"### {family.name}", "")
            yield f"![{family.name} and the step](pictures/gallery/{family.name}.svg)"
            yield from ("", f"$$g(x) = {family.latex}$$", "")
            if family.aliases:
                yield f"- also known as: {', '.join(f'`{alias}`' for alias in family.aliases)}"
            for name, distribution in family.space.items():
                log = " on a logarithmic scale" if distribution.log else ""
                yield (
                    f"- `{name}` from {distribution.low:g} to {distribution.high:g}{log}, "
                    f"default {family.defaults[name]:g}"
                )
            yield f"- {family.reference}"
            yield f"- picture: {described(family)}"


def _theme(family: Family) -> str:
    return Path(family.origin).stem


def main() -> None:
    """Write the page and its pictures, and delete the pictures of removed families."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in PICTURES.glob("*.svg"):
        if path.stem not in library():
            path.unlink()
    for family in library().values():
        (PICTURES / f"{family.name}.svg").write_text(picture(family) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
