"""Relations: a metric against generalization over models, and every pair of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.parts import Array, color_bar, styled
from mlkit.theme import LINE, METHODS, NEUTRAL, Look, looks


@dataclass(frozen=True)
class Cloud:
    """Points of one method: x and y (points,), what each is called, and what to say of them all (`R = ...`).

    named: write the names beside the points, for a few points with short names; else they show under the pointer.
    """

    x: Array
    y: Array
    names: Sequence[str]
    note: str = ""
    named: bool = False


def correlation(clouds: Mapping[str, Cloud], *, x_title: str, y_title: str) -> go.Figure:
    """Draw a metric against generalization, a point a model; the legend carries each cloud's note.

    Args:
        clouds: label (a method's name, perhaps with a remark) -> points.
        x_title: the metric.
        y_title: the generalization.

    Raises:
        ValueError: a cloud's x, y and names differ in length.
    """
    figure = styled(height=460, xaxis_title=x_title, yaxis_title=y_title)
    for label, style in looks(list(clouds)).items():
        cloud = clouds[label]
        lengths = (len(cloud.x), len(cloud.y), len(cloud.names))
        if len(set(lengths)) != 1:
            raise ValueError(f"expected as many x as y and names in {label!r}, got {lengths}")
        figure.add_scatter(**_points(label, cloud, style))
    return figure


def _points(label: str, cloud: Cloud, style: Look) -> dict[str, object]:
    return {
        "x": cloud.x,
        "y": cloud.y,
        "text": list(cloud.names),
        "mode": "markers+text" if cloud.named else "markers",
        "textposition": "top center",
        "textfont": {"size": 11},
        "name": f"{label}: {cloud.note}" if cloud.note else label,
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9, "opacity": 1 if cloud.named else 0.7},
        "hovertemplate": "%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
    }


def pair_map(matrix: np.ndarray, *, title: str, groups: Mapping[str, int] | None = None) -> go.Figure:
    """Draw the similarity of every pair of tasks as a heat map; the diagonal, where all are 1, is left out.

    The scale is even about 0, so that what has no color is orthogonal: it is the page that shows through.

    Args:
        matrix: similarities, (tasks, tasks).
        title: what is similar.
        groups: name -> number of tasks, where the tasks are in blocks; lines part them.

    Raises:
        ValueError: the matrix is not square, or the groups do not add up.
    """
    values = np.array(matrix, dtype=float)
    count = len(values)
    if values.shape != (count, count) or (groups and sum(groups.values()) != count):
        raise ValueError(f"expected a square matrix and groups that add up to it, got {values.shape} and {groups}")
    np.fill_diagonal(values, np.nan)
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    cool, warm = METHODS["MAML"], METHODS["FOMAML"]
    scale = [[0, warm.color], [0.5, cool.fill(0)], [0.5, cool.fill(0)], [1, cool.color]]
    figure = styled(height=640, margin={"t": 20, "b": 130})
    hover = "tasks %{x} and %{y}: %{z:.3f}<extra></extra>"
    figure.add_heatmap(
        z=values.round(4),
        zmin=-most,
        zmax=most,
        colorscale=scale,
        colorbar=color_bar(title),
        hovertemplate=hover,
        hoverongaps=False,
    )
    ends = np.cumsum(list((groups or {}).values()))
    for end in ends[:-1]:
        figure.add_hline(y=end - 0.5, line={"color": NEUTRAL, "width": 1.5})
        figure.add_vline(x=end - 0.5, line={"color": NEUTRAL, "width": 1.5})
    bare = {"showgrid": False, "constrain": "domain", "linecolor": LINE["light"]}
    if groups:
        middles = ends - np.array(list(groups.values())) / 2 - 0.5
        bare |= {"tickvals": middles, "ticktext": list(groups)}
    figure.update_xaxes(side="bottom", **bare)
    return figure.update_yaxes(autorange="reversed", scaleanchor="x", **bare)
