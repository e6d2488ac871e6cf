"""Draw the pictures of the documentation: `python docs/pictures.py [hero]`.

Each picture is a screenshot of one of pdsearch's plotly figures, taken by headless Chromium or
Chrome. The browser must be on the PATH (Debian: `apt install chromium`) or in PDSEARCH_CHROME.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go

from pdsearch import load_family
from pdsearch.family.figures import shapes_figure

FOLDER = Path(__file__).parent / "pictures"
CHROMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def hero() -> go.Figure:
    """Draw three pseudo-derivatives and the step, the README's first picture."""
    shown = {
        "exp_tail: α·exp(βx) below zero": load_family("exp_tail").bind(alpha=0.3, beta=1.0),
        "b_silu: SUGAR's B-SiLU": load_family("b_silu").default,
        "sigmoid: σ(αx)": load_family("sigmoid").bind(alpha=2.0),
    }
    figure = shapes_figure(list(shown.values()), labels=list(shown), low=-5, high=3)
    figure.update_traces(line_width=4)
    figure.data[-1].update(line={"width": 3.5, "dash": "dot", "color": "#57606a"})
    figure.update_layout(
        font_size=20,
        legend_font_size=20,
        margin={"l": 90, "r": 30, "t": 70, "b": 80},
        xaxis_dtick=1,
        yaxis_dtick=0.5,
    )
    return figure


PICTURES = {"hero": (hero, 1200, 620)}


def chrome() -> str:
    """Return the path of the browser, or exit with a hint."""
    for name in (os.environ.get("PDSEARCH_CHROME"), *CHROMES):
        if name and (found := shutil.which(name)):
            return found
    raise SystemExit("pictures.py: needs Chromium or Chrome on the PATH (or PDSEARCH_CHROME)")


def photograph(figure: go.Figure, path: Path, *, width: int, height: int) -> None:
    """Save the figure as a PNG at twice its size in pixels."""
    browser = chrome()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        figure.update_layout(width=width, height=height, autosize=False)
        html = figure.to_html(config={"staticPlot": True}, include_plotlyjs=True)
        page.write_text(html.replace("<body>", "<body style='margin:0'>"), encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}/profile", "--hide-scrollbars",
            "--force-device-scale-factor=2", "--virtual-time-budget=20000",
            f"--window-size={width},{height}", f"--screenshot={path}", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main(names: list[str]) -> None:
    """Draw the named pictures, or all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name in names or list(PICTURES):
        if name not in PICTURES:
            raise SystemExit(f"pictures.py: no picture {name!r} (known: {', '.join(PICTURES)})")
        draw, width, height = PICTURES[name]
        photograph(draw(), FOLDER / f"{name}.png", width=width, height=height)
        print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
