"""The gallery matches the library."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from pdsearch.family import library, load_family

DOCS = Path(__file__).parent.parent / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    return load_script(DOCS / "gallery.py")


def _numbers(text: str) -> tuple[str, list[float]]:
    """Return a text without its numbers, and the numbers."""
    number = r"-?\d+(?:\.\d+)?"
    return re.sub(number, "#", text), [float(found) for found in re.findall(number, text)]


def test_the_page_is_current(gallery: ModuleType) -> None:
    again = "run: python docs/gallery.py"
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery.page(), again


def test_every_family_has_its_picture_and_no_other(gallery: ModuleType) -> None:
    there = {path.stem for path in (DOCS / "pictures" / "gallery").iterdir()}
    assert there == set(library())
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == re.findall(r"gallery/(\w+)\.svg", page)


@pytest.mark.parametrize("name", sorted(library()))
def test_the_picture_is_current(gallery: ModuleType, name: str) -> None:
    """Compare up to a tenth of a pixel, because machines round last digits differently."""
    kept = (DOCS / "pictures" / "gallery" / f"{name}.svg").read_text(encoding="utf-8")
    drawn = gallery.picture(load_family(name)) + "\n"
    (text, numbers), (wanted, places) = _numbers(kept), _numbers(drawn)
    assert text == wanted, "run: python docs/gallery.py"
    assert numbers == pytest.approx(places, abs=0.11), "run: python docs/gallery.py"


def test_a_curve_is_where_its_axes_say() -> None:
    """Read exp_tail at its defaults, 0.3·exp(x) below zero, off the picture by its tick labels."""
    root = ET.parse(DOCS / "pictures" / "gallery" / "exp_tail.svg").getroot()
    ticks = [
        (float(e.text.replace("−", "-")), float(e.get("x", "")), float(e.get("y", "")))
        for e in root.iter(f"{SVG}text")
        if e.text
    ]
    bottom = max(y for _, _, y in ticks)
    across = {value: x for value, x, y in ticks if y == bottom}
    up = {value: y - 4 for value, _, y in ticks if y != bottom}
    solid = [
        e.get("d", "")
        for e in root.iter(f"{SVG}path")
        if e.get("stroke-width") == "2.6" and not e.get("stroke-dasharray")
    ]
    assert len(solid) == 1
    points = [tuple(map(float, part.split())) for part in re.split("[ML]", solid[0]) if part]
    for x in (-4.0, -2.0, 2.0):
        (height,) = {y for px, y in points if abs(px - across[x]) < 0.06}
        wanted = 1.0 if x > 0 else 0.3 * math.exp(x)
        assert height == pytest.approx(up[0.0] + wanted * (up[1.0] - up[0.0]), abs=0.15)
