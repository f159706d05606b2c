"""Scores: a mean with its interval, the distribution behind it, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mlkit.figures.parts import Array, limits, pen, styled
from mlkit.theme import NEUTRAL, look, looks


@dataclass(frozen=True)
class Bar:
    """One score with its 95 % interval (half width), and the value the paper prints, where it has one.

    low, high: ends of an interval that is not even about the value.
    """

    label: str
    value: float
    ci95: float = 0.0
    paper: float | None = None
    paper_ci95: float = 0.0
    low: float | None = None
    high: float | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval goes down and up."""
        if self.low is None or self.high is None:
            return self.ci95, self.ci95
        return self.value - self.low, self.high - self.value


def score_bars(bars: Sequence[Bar], *, x_title: str) -> go.Figure:
    """Draw one row a score: ours as the method's marker with its interval, the paper's as an open diamond.

    Raises:
        ValueError: `bars` is empty.
    """
    if not bars:
        raise ValueError("expected at least one bar to draw, got none")
    figure = styled(height=150 + 44 * len(bars), xaxis_title=x_title)
    for bar in bars:
        style = look(bar.label)
        marker = {"color": style.color, "symbol": style.symbol, "size": 12}
        down, up = bar.reach
        error = {"type": "data", "array": [up], "color": style.color, "thickness": 2.5, "width": 6}
        error |= {"arrayminus": [down]} if down != up else {}
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
    figure = styled(xaxis_title=x_title, xaxis_type="log" if log_x else "linear", yaxis_title="share of tasks")
    share = np.linspace(0, 1, 201)
    drawn = {}
    for label, style in looks(list(scores)).items():
        with np.errstate(invalid="ignore"):  # a diverged task may score infinity
            drawn[label] = np.quantile(np.asarray(scores[label], dtype=float), share)
        figure.add_scatter(x=drawn[label], y=share, mode="lines", **pen(label, style))
    inner = np.concatenate([values[1:-1] for values in drawn.values()])
    inner = inner[np.isfinite(inner)]
    figure.update_xaxes(range=limits(np.log10(np.maximum(inner, 1e-12)) if log_x else inner))
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.02])


@dataclass(frozen=True)
class Cost:
    """What one meta-iteration takes at each chunk size: seconds, and peak bytes above the start."""

    chunk_sizes: Sequence[int]
    seconds: Sequence[float]
    peak_bytes: Sequence[float]


def cost_curves(costs: Mapping[str, Cost]) -> go.Figure:
    """Draw time, and below it peak memory, of one meta-iteration against the number of tasks in flight."""
    figure = styled(make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06), height=560)
    for label, style in looks(list(costs)).items():
        cost = costs[label]
        line = {"mode": "lines+markers", **pen(label, style)}
        figure.add_scatter(x=cost.chunk_sizes, y=cost.seconds, row=1, col=1, **line)
        memory = [value / 2**20 for value in cost.peak_bytes]
        figure.add_scatter(x=cost.chunk_sizes, y=memory, row=2, col=1, showlegend=False, **line)
    sizes = sorted({size for cost in costs.values() for size in cost.chunk_sizes})
    figure.update_xaxes(type="log", tickvals=sizes)
    figure.update_xaxes(title="tasks at a time", row=2)
    figure.update_yaxes(title="seconds", rangemode="tozero", row=1)
    return figure.update_yaxes(title="peak memory (MiB)", rangemode="tozero", row=2)
