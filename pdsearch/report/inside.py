"""What diagnostics saw inside of networks while they trained, as figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from pdsearch.report.markup import plain
from pdsearch.report.study_figures import epoch_axis, value_axis
from pdsearch.report.style import colour, layout

__all__ = ["EXPLAINED", "INSIDE", "by_layer"]

Read = Callable[[Mapping[str, Any]], float | None]

EXPLAINED = (
    "Measured after each {unit}. Cosine and norm ratio: the pseudo-gradient and the exact gradient "
    "of the same network on a fixed batch of training images, over all its weights. A unit came "
    "back if it was inactive for all images looked at one {unit} before and is active for one now; "
    "it died in the reverse case."
)


def _of_net(name: str) -> Read:
    return lambda entry: (entry.get("diagnostics") or {}).get(name)


def _mean(name: str) -> Read:
    def read(entry: Mapping[str, Any]) -> float | None:
        shares = list(((entry.get("diagnostics") or {}).get(name) or {}).values())
        return sum(shares) / len(shares) if shares else None

    return read


INSIDE: dict[str, tuple[Read, bool]] = {
    "cosine to the exact gradient": (_of_net("cosine"), False),
    "norm ratio to the exact gradient": (_of_net("norm_ratio"), False),
    "units that came back, mean over layers": (_mean("revived"), True),
    "units that died, mean over layers": (_mean("died"), True),
}
"""Each quantity: how it is read from an epoch's entry, and whether it is a share."""


def by_layer(runs: Sequence[Sequence[Mapping[str, Any]]], *, unit: str) -> dict[str, go.Figure]:
    """Cosine and norm ratio of each layer, the mean over some runs, epoch by epoch.

    Returns:
        Figures by their titles; none where nothing was measured.
    """
    found = {}
    titles = (
        "cosine to the exact gradient, by layer",
        "norm ratio to the exact gradient, by layer",
    )
    for place, title in enumerate(titles):
        lines = _by_layer(runs, place)
        if not lines:
            continue
        figure = go.Figure()
        for number, (layer, points) in enumerate(lines.items()):
            epochs, values = list(points), list(points.values())
            figure.add_trace(
                go.Scatter(
                    x=epochs,
                    y=values,
                    mode="lines",
                    name=plain(layer or "the model itself"),
                    line={"color": colour(number), "width": 2},
                    hoverinfo="text",
                    hovertext=[
                        f"{plain(layer)}<br>{unit} {epoch}: {value:.4g}"
                        for epoch, value in points.items()
                    ],
                )
            )
        figure.update_layout(
            layout(
                xaxis=epoch_axis(unit, max(map(len, runs))),
                yaxis=value_axis(False, title.partition(",")[0]),
            )
        )
        found[title] = figure
    return found


def _by_layer(
    runs: Sequence[Sequence[Mapping[str, Any]]], place: int
) -> dict[str, dict[int, float]]:
    """By layer and epoch, the mean over the runs that came as far."""
    gathered: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for entry in run:
            for layer, pair in ((entry.get("diagnostics") or {}).get("layers") or {}).items():
                if pair[place] is not None:
                    by_epoch = gathered.setdefault(layer, {})
                    by_epoch.setdefault(int(entry["epoch"]), []).append(pair[place])
    return {
        layer: {epoch: sum(v) / len(v) for epoch, v in sorted(by_epoch.items())}
        for layer, by_epoch in gathered.items()
    }
