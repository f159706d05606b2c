"""Figures: pure functions from data to Plotly, and `show`, which puts one on the page with its words."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from IPython.display import HTML, display
from plotly.subplots import make_subplots

from mlkit.theme import NEUTRAL, PAGE, Look, look, looks

Array = np.ndarray | Sequence[float]


def show(figure: go.Figure | str, *, alt: str, caption: str) -> None:
    """Display a Plotly figure, or a drawing given as SVG text, with its caption.

    While the book is built (environment variable `MLKIT_BOOK=1`) the figure becomes data inside an HTML `<figure>`,
    which the page draws in the reader's light or dark theme; elsewhere it is the live Plotly figure.

    Args:
        figure: what a function of this module or of `mlkit.drawings` returned.
        alt: what a reader who cannot see the figure needs to know; one or two sentences.
        caption: what is drawn, and its evidence: data, tasks, seeds, kind of interval, hardware.

    Raises:
        ValueError: `alt` or `caption` is empty.
    """
    page = as_html(figure, alt=alt, caption=caption)
    if os.environ.get("MLKIT_BOOK") == "1" or isinstance(figure, str):
        display(HTML(page))
    else:
        words = f"<p>{html.escape(caption, quote=False)}</p>"
        display(go.Figure(figure).update_layout(paper_bgcolor=PAGE["light"]), HTML(words))


def as_html(figure: go.Figure | str, *, alt: str, caption: str) -> str:
    """Return the HTML `<figure>` that `show` puts on a page of the book; arguments and errors are those of `show`."""
    for name, words in (("alt", alt), ("caption", caption)):
        if not words.strip():
            raise ValueError(f"expected {name} to say what the figure shows, got an empty string; write a sentence")
    body = figure if isinstance(figure, str) else _data(figure)
    label, words = html.escape(" ".join(alt.split())), html.escape(" ".join(caption.split()), quote=False)
    picture = f'<div role="img" aria-label="{label}">{body}</div>'
    return f'<figure class="mlkit">{picture}<figcaption>{words}</figcaption></figure>'


def _data(figure: go.Figure) -> str:
    """Return the figure as JSON that book.js draws; the page supplies the template."""
    data = json.loads(figure.to_json())
    data["layout"].pop("template", None)
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    height = figure.layout.height
    return f'<div class="chart" style="height:{height:g}px"><script type="application/json">{text}</script></div>'


def _figure(figure: go.Figure | None = None, *, height: int = 420, **layout: object) -> go.Figure:
    return (figure or go.Figure()).update_layout(template="mlkit_light", height=height, **layout)


def _pen(label: str, style: Look) -> dict[str, object]:
    """Return how every line of a method is drawn; its parts share one entry of the legend."""
    line = {"color": style.color, "dash": style.dash, "width": 2.5}
    return {"name": label, "legendgroup": label, "line": line, "marker": {"symbol": style.symbol, "size": 7}}


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
    figure = _figure(xaxis_title=x_title, yaxis_title=y_title, yaxis_type="log" if log_y else "linear")
    at = np.asarray(x, dtype=float)
    for label, style in looks(list(curves)).items():
        runs = np.atleast_2d(np.asarray(curves[label], dtype=float))
        if runs.shape[1] != len(at):
            raise ValueError(f"expected {len(at)} points in curve {label!r}, got {runs.shape[1]}; pass one value per x")
        low, high = _band(runs, band)
        if len(runs) > 1:
            edge = {"x": np.concatenate([at, at[::-1]]), "y": np.concatenate([high, low[::-1]]), "mode": "lines"}
            area = {"fill": "toself", "fillcolor": style.fill(0.18), "line_width": 0, "hoverinfo": "skip"}
            figure.add_scatter(**edge, **area, legendgroup=label, showlegend=False)
        mode = "lines+markers" if len(at) <= 40 else "lines"
        figure.add_scatter(x=at, y=runs.mean(0), mode=mode, **_pen(label, style))
    return figure


def _band(runs: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper edge (points,) of the band over runs (runs, points)."""
    if band == "range":
        return runs.min(0), runs.max(0)
    if band == "ci95":
        half = 1.96 * runs.std(0, ddof=min(1, len(runs) - 1)) / np.sqrt(len(runs))
        return runs.mean(0) - half, runs.mean(0) + half
    raise ValueError(f"expected band to be 'range' or 'ci95', got {band!r}")


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
    figure = _figure(height=480, xaxis_title="x", yaxis_title="y", margin={"b": 110})
    true_line = {"color": NEUTRAL, "width": 2, "dash": "dot"}
    figure.add_scatter(x=x, y=truth, name="true curve", mode="lines", line=true_line)
    for label, style in looks(list(curves)).items():
        figure.add_scatter(x=x, y=curves[label][0], mode="lines", **_pen(label, style))
    dots = {"color": NEUTRAL, "size": 11, "line": {"width": 2, "color": "white"}}
    figure.add_scatter(x=support[0], y=support[1], name="support examples", mode="markers", marker=dots)
    figure.update_yaxes(range=_limits(truth, *curves.values()))
    return figure.update_layout(sliders=[_step_slider(list(curves.values()), first_trace=1)])


def _step_slider(curves: Sequence[np.ndarray], *, first_trace: int) -> dict[str, object]:
    """Return a slider whose position t gives trace `first_trace + i` the values `curves[i][t]`."""
    traces = list(range(first_trace, first_trace + len(curves)))
    steps = [
        {"label": str(step), "method": "restyle", "args": [{"y": [c[step].round(4).tolist() for c in curves]}, traces]}
        for step in range(len(curves[0]))
    ]
    return {"steps": steps, "currentvalue": {"prefix": "inner steps: ", "xanchor": "left"}, "pad": {"t": 50}}


def _limits(*values: Array) -> list[float]:
    """Return axis limits with a margin of 6 % around all values."""
    low, high = min(np.min(v) for v in values), max(np.max(v) for v in values)
    return [low - 0.06 * (high - low), high + 0.06 * (high - low)]


@dataclass(frozen=True)
class Bar:
    """One score with its 95 % interval (half width), and the value the paper prints, where it has one."""

    label: str
    value: float
    ci95: float = 0.0
    paper: float | None = None
    paper_ci95: float = 0.0


def score_bars(bars: Sequence[Bar], *, x_title: str) -> go.Figure:
    """Draw one row a score: ours as the method's marker with its interval, the paper's as an open diamond.

    Raises:
        ValueError: `bars` is empty.
    """
    if not bars:
        raise ValueError("expected at least one bar to draw, got none")
    figure = _figure(height=150 + 44 * len(bars), xaxis_title=x_title)
    for bar in bars:
        style = look(bar.label)
        marker = {"color": style.color, "symbol": style.symbol, "size": 12}
        error = {"type": "data", "array": [bar.ci95], "color": style.color, "thickness": 2.5, "width": 6}
        figure.add_scatter(
            x=[bar.value], y=[bar.label], error_x=error, mode="markers", marker=marker, name="ours", showlegend=False
        )
    printed = [bar for bar in bars if bar.paper is not None]
    if printed:
        x, y = [bar.paper for bar in printed], [bar.label for bar in printed]
        marker = {"color": NEUTRAL, "symbol": "diamond-open", "size": 13, "line": {"width": 2}}
        error = {"type": "data", "array": [bar.paper_ci95 for bar in printed], "color": NEUTRAL, "thickness": 1.5}
        figure.add_scatter(x=x, y=y, error_x=error, mode="markers", marker=marker, name="the authors' value")
    return figure.update_yaxes(autorange="reversed", type="category")


def score_distribution(scores: Mapping[str, Array], *, x_title: str, log_x: bool = False) -> go.Figure:
    """Draw, for each label, the share of tasks with at most a score: the whole distribution behind a mean.

    The axis leaves the outermost half percent on either side to the reader's zoom: a few diverged tasks must not decide
    the scale.

    Args:
        scores: label -> one score a task, (tasks,).
        x_title: title of the horizontal axis, with its unit.
        log_x: logarithmic horizontal axis.
    """
    figure = _figure(xaxis_title=x_title, xaxis_type="log" if log_x else "linear", yaxis_title="share of tasks")
    share = np.linspace(0, 1, 201)
    drawn = {}
    for label, style in looks(list(scores)).items():
        with np.errstate(invalid="ignore"):  # a diverged task may score infinity
            drawn[label] = np.quantile(np.asarray(scores[label], dtype=float), share)
        figure.add_scatter(x=drawn[label], y=share, mode="lines", **_pen(label, style))
    inner = np.concatenate([values[1:-1] for values in drawn.values()])
    inner = inner[np.isfinite(inner)]
    figure.update_xaxes(range=_limits(np.log10(np.maximum(inner, 1e-12)) if log_x else inner))
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.02])


@dataclass(frozen=True)
class Cost:
    """What one meta-iteration takes at each chunk size: seconds, and peak bytes above the start."""

    chunk_sizes: Sequence[int]
    seconds: Sequence[float]
    peak_bytes: Sequence[float]


def cost_curves(costs: Mapping[str, Cost]) -> go.Figure:
    """Draw time, and below it peak memory, of one meta-iteration against the number of tasks in flight."""
    figure = _figure(make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06), height=560)
    for label, style in looks(list(costs)).items():
        cost = costs[label]
        pen = {"mode": "lines+markers", **_pen(label, style)}
        figure.add_scatter(x=cost.chunk_sizes, y=cost.seconds, row=1, col=1, **pen)
        memory = [value / 2**20 for value in cost.peak_bytes]
        figure.add_scatter(x=cost.chunk_sizes, y=memory, row=2, col=1, showlegend=False, **pen)
    sizes = sorted({size for cost in costs.values() for size in cost.chunk_sizes})
    figure.update_xaxes(type="log", tickvals=sizes)
    figure.update_xaxes(title="tasks at a time", row=2)
    figure.update_yaxes(title="seconds", rangemode="tozero", row=1)
    return figure.update_yaxes(title="peak memory (MiB)", rangemode="tozero", row=2)


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
    figure = _figure(height=90 + 64 * ways, margin={"l": 70, "t": 50, "b": 10})
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
    figure = _figure(height=40 + 30 * len(methods), showlegend=False, margin={"l": 130, "t": 10, "b": 10})
    for label in methods:
        figure.add_scatter(x=[0, 1, 2], y=[label] * 3, mode="lines+markers", **_pen(label, look(label)))
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(autorange="reversed", type="category", showgrid=False, showline=False, ticks="")
