"""What a task looks like, and how each method is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.parts import pen, styled
from mlkit.theme import look


def task_gallery(support: np.ndarray, query: np.ndarray) -> go.Figure:
    """Draw one N-way task of the embedded glyphs: a row a class, its support examples left, its query examples right.

    Photographs of a downloaded data set belong to others: never publish them with this.

    Args:
        support: intensities in [0, 1], ink high, (ways, shots, height, width).
        query: likewise, (ways, queries, height, width).
    """
    ways, shots, size = support.shape[:3]
    gap = np.full((ways, 1, *support.shape[2:]), np.nan)
    tiles = np.concatenate([support, gap, query], axis=1, dtype=float)  # (ways, columns, height, width)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=np.nan)
    columns, cell = tiles.shape[1], size + 4
    mosaic = tiles.transpose(0, 2, 1, 3).reshape(ways * cell, columns * cell)
    ink = look("MAML")
    figure = styled(height=90 + 64 * ways, margin={"l": 70, "t": 50, "b": 10})
    scale = [[0, ink.fill(0.07)], [1, ink.color]]
    figure.add_heatmap(z=mosaic.round(2), colorscale=scale, showscale=False, hoverinfo="skip", zmin=0, zmax=1)
    bare = {"showgrid": False, "showline": False, "ticks": ""}
    middle = [cell * shots / 2, cell * (shots + 1 + query.shape[1] / 2)]
    figure.update_xaxes(tickvals=middle, ticktext=["support", "query"], side="top", **bare)
    centers = [cell * (way + 0.5) for way in range(ways)]
    names = [f"class {way}" for way in range(ways)]
    return figure.update_yaxes(
        tickvals=centers, ticktext=names, autorange="reversed", scaleanchor="x", constrain="domain", **bare
    )


def legend(methods: Sequence[str]) -> go.Figure:
    """Draw the line and marker of each method, one row a method."""
    figure = styled(height=40 + 30 * len(methods), showlegend=False, margin={"l": 130, "t": 10, "b": 10})
    for label in methods:
        figure.add_scatter(x=[0, 1, 2], y=[label] * 3, mode="lines+markers", **pen(label, look(label)))
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(autorange="reversed", type="category", showgrid=False, showline=False, ticks="")
