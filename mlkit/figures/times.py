"""Running time against accuracy: what a method costs, and what it brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from mlkit.figures.parts import stacked
from mlkit.theme import looks


@dataclass(frozen=True)
class Timed:
    """What a run took in seconds, and the score it ended with, with its 95 % half width."""

    seconds: float
    score: float
    ci95: float = 0.0


def time_scores(panels: Mapping[str, Mapping[str, Timed]], *, x_title: str = "seconds of a run") -> go.Figure:
    """Draw one point a method, panels below one another over one logarithmic axis of time (figure 3.4 of paper 002).

    Variants of a method, named by a remark behind it, have open markers.

    Args:
        panels: title of a panel, with the unit of the score -> label -> time and score.
        x_title: title of the shared axis.

    Raises:
        ValueError: a method took no time, which has no place on such an axis.
    """
    figure, named = stacked(list(panels), height=300), set()
    styles = looks(list(dict.fromkeys(label for points in panels.values() for label in points)))
    for panel, points in enumerate(panels.values(), start=1):
        for label, point in points.items():
            if not point.seconds > 0:
                raise ValueError(f"expected {label!r} to take more than 0 seconds, got {point.seconds}; leave it out")
            style = styles[label]
            symbol = style.symbol + "-open" * ("(" in label or "," in label)
            marker = {"color": style.color, "symbol": symbol, "size": 12, "line": {"width": 2, "color": style.color}}
            error = {"type": "data", "array": [point.ci95], "color": style.color, "thickness": 1.5, "width": 4}
            shown = {"name": label, "legendgroup": label, "showlegend": label not in named, "mode": "markers"}
            x, y = [point.seconds], [point.score]
            figure.add_scatter(x=x, y=y, error_y=error, marker=marker, row=panel, col=1, **shown)
            named.add(label)
    return figure.update_xaxes(type="log").update_xaxes(title=x_title, row=len(panels))
