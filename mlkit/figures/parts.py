"""What the figures share: an empty figure in the book's look, the pen of a method, limits of an axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mlkit.theme import Look

Array = np.ndarray | Sequence[float]


def styled(figure: go.Figure | None = None, *, height: int = 420, **layout: object) -> go.Figure:
    """Return an empty figure, or the given one, in the book's look."""
    return (figure or go.Figure()).update_layout(template="mlkit_light", height=height, **layout)


def stacked(titles: Sequence[str], *, height: int = 190) -> go.Figure:
    """Return panels one below the other over one horizontal axis; a title stands above its panel, for narrow pages."""
    rows = len(titles)
    gap = min(0.16, 0.3 / rows)
    figure = make_subplots(rows=rows, shared_xaxes=True, subplot_titles=titles, vertical_spacing=gap)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    total = 110 + height * rows
    return styled(figure, height=total, legend={"y": 1 + 34 / total}, margin={"t": 60})


def color_bar(title: str) -> dict[str, object]:
    """Return a color bar below the picture, where a narrow page has room for it."""
    words = {"text": title, "side": "bottom"}
    return {"orientation": "h", "y": 0.01, "yanchor": "bottom", "yref": "container", "thickness": 12, "title": words}


def pen(label: str, style: Look) -> dict[str, object]:
    """Return how every line of a method is drawn; its parts share one entry of the legend."""
    line = {"color": style.color, "dash": style.dash, "width": 2.5}
    return {"name": label, "legendgroup": label, "line": line, "marker": {"symbol": style.symbol, "size": 7}}


def limits(*values: Array) -> list[float]:
    """Return axis limits with a margin of 6 % around all values."""
    low, high = min(np.min(v) for v in values), max(np.max(v) for v in values)
    return [low - 0.06 * (high - low), high + 0.06 * (high - low)]
