"""Curves: one line a method, through training or along the inner loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.parts import Array, limits, pen, stacked, styled
from mlkit.theme import NEUTRAL, Look, looks


def learning_curves(
    curves: Mapping[str, np.ndarray],
    x: Array,
    *,
    x_title: str = "meta-iterations",
    y_title: str,
    band: str = "range",
    log_y: bool = False,
) -> go.Figure:
    """Draw one line a method with a band over its runs.

    Args:
        curves: label (a method's name, perhaps with a remark: "MAML, test") -> values (points,) or (runs, points).
        x: where the points lie, (points,).
        x_title: title of the horizontal axis, with its unit.
        y_title: title of the vertical axis, with its unit.
        band: "range" (lowest to highest run) or "ci95" (mean +- 1.96 standard errors over runs).
        log_y: logarithmic vertical axis.

    Raises:
        ValueError: `band` is unknown, or a curve has not as many points as `x`.
    """
    figure = styled(xaxis_title=x_title, yaxis_title=y_title, yaxis_type="log" if log_y else "linear")
    at = np.asarray(x, dtype=float)
    for label, style in looks(list(curves)).items():
        runs = np.atleast_2d(np.asarray(curves[label], dtype=float))
        if runs.shape[1] != len(at):
            raise ValueError(f"expected {len(at)} points in curve {label!r}, got {runs.shape[1]}; pass one value per x")
        low, high = _band(runs, band)
        if len(runs) > 1:
            figure.add_scatter(**_area(at, low, high, style), legendgroup=label)
        mode = "lines+markers" if len(at) <= 40 else "lines"
        figure.add_scatter(x=at, y=runs.mean(0), mode=mode, **pen(label, style))
    return figure


def _band(runs: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper edge (points,) of the band over runs (runs, points)."""
    if band == "range":
        return runs.min(0), runs.max(0)
    if band == "ci95":
        half = 1.96 * runs.std(0, ddof=min(1, len(runs) - 1)) / np.sqrt(len(runs))
        return runs.mean(0) - half, runs.mean(0) + half
    raise ValueError(f"expected band to be 'range' or 'ci95', got {band!r}")


def _area(at: np.ndarray, low: np.ndarray, high: np.ndarray, style: Look) -> dict[str, object]:
    """Return the band between two edges (points,), left out where an edge is not a number."""
    known = np.isfinite(low) & np.isfinite(high)
    at, low, high = at[known], low[known], high[known]
    edge = {"x": np.concatenate([at, at[::-1]]), "y": np.concatenate([high, low[::-1]]), "mode": "lines"}
    area = {"fill": "toself", "fillcolor": style.fill(0.18), "line_width": 0, "hoverinfo": "skip"}
    return {**edge, **area, "showlegend": False}


@dataclass(frozen=True)
class Series:
    """A quantity through training with the edges of its 95 % band, (points,) each; without edges no band is drawn."""

    value: Array
    low: Array | None = None
    high: Array | None = None


def stacked_curves(
    panels: Mapping[str, Mapping[str, Series]], x: Array, *, x_title: str = "epoch", log: Sequence[str] = ()
) -> go.Figure:
    """Draw quantities of the same runs one below the other over a shared axis, each with its own scale.

    Two panels say what two scales on one panel would only suggest: where both curves turn, not where they cross.

    Args:
        panels: title of a panel, with its unit -> label (a method's name, perhaps with a remark) -> series.
        x: where the points lie, (points,).
        x_title: title of the shared axis.
        log: titles of the panels with a logarithmic axis.

    Raises:
        ValueError: a series has not as many points as `x`, or `log` names no panel.
    """
    if unknown := set(log) - set(panels):
        raise ValueError(f"expected log to name panels out of {list(panels)}, got {sorted(unknown)}")
    figure, at = stacked(list(panels)), np.asarray(x, dtype=float)
    styles = looks(list(dict.fromkeys(label for series in panels.values() for label in series)))
    named: set[str] = set()
    for row, (title, series) in enumerate(panels.items(), start=1):
        for label, one in series.items():
            _add_series(figure, row, at, label, one, styles[label], legend=label not in named)
            named.add(label)
        figure.update_yaxes(type="log" if title in log else "linear", row=row)
    return figure.update_xaxes(title=x_title, row=len(panels))


def _add_series(
    figure: go.Figure, row: int, at: np.ndarray, label: str, series: Series, style: Look, *, legend: bool
) -> None:
    value = np.asarray(series.value, dtype=float)
    if len(value) != len(at):
        raise ValueError(f"expected {len(at)} points in series {label!r}, got {len(value)}; pass one value per x")
    if series.low is not None and series.high is not None:
        low, high = (np.asarray(edge, dtype=float) for edge in (series.low, series.high))
        figure.add_scatter(**_area(at, low, high, style), legendgroup=label, row=row, col=1)
    mode = "lines+markers" if len(at) <= 40 else "lines"
    figure.add_scatter(x=at, y=value, mode=mode, **pen(label, style), showlegend=legend, row=row, col=1)


def sine_adaptation(
    x: Array,
    truth: Array,
    *,
    support: tuple[Array, Array],
    predictions: Mapping[str, np.ndarray],
) -> go.Figure:
    """Draw a sine task and what each method predicts after 0, 1, ..., T inner steps; a slider moves along the steps.

    Args:
        x: points on the horizontal axis, (points,).
        truth: the task's true curve at `x`, (points,).
        support: x and y of the support examples, (shots,) each.
        predictions: method -> predictions at `x`, (steps + 1, points); every method with as many steps.

    Raises:
        ValueError: the methods have different numbers of steps.
    """
    curves = {label: np.asarray(values, dtype=float) for label, values in predictions.items()}
    lengths = {label: len(values) for label, values in curves.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"expected equally many steps for every method, got {lengths}; cut the longer ones")
    figure = styled(height=480, xaxis_title="x", yaxis_title="y", margin={"b": 110})
    true_line = {"color": NEUTRAL, "width": 2, "dash": "dot"}
    figure.add_scatter(x=x, y=truth, name="true curve", mode="lines", line=true_line)
    for label, style in looks(list(curves)).items():
        figure.add_scatter(x=x, y=curves[label][0], mode="lines", **pen(label, style))
    dots = {"color": NEUTRAL, "size": 11, "line": {"width": 2, "color": "white"}}
    figure.add_scatter(x=support[0], y=support[1], name="support examples", mode="markers", marker=dots)
    figure.update_yaxes(range=limits(truth, *curves.values()))
    return figure.update_layout(sliders=[_step_slider(list(curves.values()), first_trace=1)])


def _step_slider(curves: Sequence[np.ndarray], *, first_trace: int) -> dict[str, object]:
    """Return a slider whose position t gives trace `first_trace + i` the values `curves[i][t]`."""
    traces = list(range(first_trace, first_trace + len(curves)))
    steps = [
        {"label": str(step), "method": "restyle", "args": [{"y": [c[step].round(4).tolist() for c in curves]}, traces]}
        for step in range(len(curves[0]))
    ]
    return {"steps": steps, "currentvalue": {"prefix": "inner steps: ", "xanchor": "left"}, "pad": {"t": 50}}
