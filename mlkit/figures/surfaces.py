"""Surfaces: the loss around solutions, and the spectrum of its Hessian."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.parts import Array, color_bar, pen, styled
from mlkit.theme import METHODS, NEUTRAL, looks


def loss_surface(
    x: Array,
    y: Array,
    losses: np.ndarray,
    *,
    points: Mapping[str, tuple[float, float]],
    x_title: str,
    y_title: str,
    log: bool = True,
) -> go.Figure:
    """Draw a loss over a plane through parameter space, with the points that span it or lie on it.

    Args:
        x: coordinates along the first direction, (columns,).
        y: coordinates along the second, (rows,).
        losses: the loss at each, (rows, columns).
        points: name -> where it lies.
        x_title: first direction, with its unit.
        y_title: second direction, with its unit.
        log: color and contours by the logarithm of the loss.

    Raises:
        ValueError: `losses` has another shape than the axes say.
    """
    losses = np.asarray(losses, dtype=float)
    if losses.shape != (len(y), len(x)):
        raise ValueError(f"expected losses of shape {(len(y), len(x))}, rows by columns, got {losses.shape}")
    height = np.log10(np.maximum(losses, 1e-12)) if log else losses
    low = METHODS["MAML"]
    scale = [[0, low.color], [1, low.fill(0.05)]]  # deep is dark on a light page, bright on a dark one
    bar = color_bar("log₁₀ loss" if log else "loss")
    figure = styled(height=640, xaxis_title=x_title, yaxis_title=y_title, margin={"t": 20, "b": 130})
    figure.add_contour(
        x=x, y=y, z=height.round(4), customdata=losses, colorscale=scale, colorbar=bar, ncontours=18,
        contours={"coloring": "heatmap"}, line={"width": 1, "color": NEUTRAL},
        hovertemplate="loss %{customdata:.3g}<extra></extra>",
    )  # fmt: skip
    for name, (across, up) in points.items():
        marker = {"size": 11, "symbol": "x", "color": METHODS["FOMAML"].color, "line": {"width": 1, "color": "white"}}
        figure.add_scatter(
            x=[across], y=[up], text=[name], mode="markers+text", textposition="top center", marker=marker,
            showlegend=False, hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(showgrid=False, constrain="domain")
    return figure.update_yaxes(showgrid=False, scaleanchor="x", constrain="domain")


def spectral_density(densities: Mapping[str, tuple[Array, Array]], *, x_title: str = "eigenvalue") -> go.Figure:
    """Draw how the eigenvalues of a Hessian are spread: one line a method, on a logarithmic scale of density.

    Args:
        densities: label -> eigenvalues and their density, (points,) each; densities integrate to 1.
        x_title: title of the horizontal axis.
    """
    figure = styled(xaxis_title=x_title, yaxis_title="density", yaxis_type="log")
    for label, style in looks(list(densities)).items():
        at, density = (np.asarray(values, dtype=float) for values in densities[label])
        seen = np.where(density > 1e-6 * density.max(), density, np.nan)  # below, it is the tail of the smoothing alone
        figure.add_scatter(x=at, y=seen, mode="lines", **pen(label, style))
    return figure.update_yaxes(exponentformat="power")
