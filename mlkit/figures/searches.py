"""Searches over update hyperparameters: what was believed after each trial, and what every number of steps is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mlkit.figures.parts import Array, color_bar, styled
from mlkit.theme import NEUTRAL, look

SCALE = "Viridis"
TRACES = 6  # band, mean, trials, best, improvement, diverged: of each search, in this order


@dataclass(frozen=True)
class Point:
    """One setting that a reader asked for.

    value: where on the axis; score: NaN where it diverged; steps: number of inner steps that goes with it; curve
    (max_steps + 1,): scores after every step.
    """

    value: float
    score: float
    steps: int
    curve: Array


@dataclass(frozen=True)
class Search:
    """One search along one hyperparameter, as figures need it; axis 0 of trials' arrays counts trials, in order.

    label: initialization and shots, begins with a method's name; values, scores, steps (trials,): what was tried, NaN
    where it diverged; curves (trials, max_steps + 1): scores after every step; grid (points,), mean, deviation,
    improvement (trials, points): what was believed after each trial, NaN before there was a belief; training: value and
    score of meta-training's own; along: which hyperparameter; points: what a reader tried besides.
    """

    label: str
    values: Array
    scores: Array
    steps: Array
    curves: Array
    grid: Array
    mean: Array
    deviation: Array
    improvement: Array
    training: tuple[float, float]
    higher_is_better: bool = True
    along: str = "inner_lr"
    points: Sequence[Point] = ()

    def best(self, trials: int) -> int | None:
        """Return which of the first `trials` is best; None where all of them diverged."""
        scores = np.asarray(self.scores[:trials], dtype=float)
        if not np.isfinite(scores).any():
            return None
        return int(np.nanargmax(scores) if self.higher_is_better else np.nanargmin(scores))


def search_curves(
    searches: Sequence[Search],
    *,
    x_title: str,
    y_title: str,
    words: str = "initialization",
    start: int | None = None,
) -> go.Figure:
    """Draw what a search believed after each trial: a slider over trials, a chooser of the search.

    Above: mean of the Gaussian process with its 95 % band, the trials so far colored by their number of steps, the best
    one marked, those that diverged at the worst end of the axis, meta-training's own value marked, and what a reader
    tried. Below: the expected improvement. A search of fewer trials than another stays as it ended.

    Args:
        searches: the first is shown at first.
        x_title: title of the searched value, with its unit.
        y_title: title of the score, with its unit.
        words: what the chooser is called. With "initialization, shots" and labels such as "FOMAML*, 5-shot" the pages
            and widgets of the book offer one chooser a part.
        start: where the slider begins, in trials; None for the last one, 1 below a question whose answer it shows.

    Raises:
        ValueError: there is no search, or a label has other parts than `words`.
    """
    if not searches:
        raise ValueError("expected a search to draw, got none")
    count, span = max(len(search.scores) for search in searches), _span(searches)
    figure = styled(
        make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.72, 0.28]), height=640
    )
    for number, search in enumerate(searches):
        for trace, row in zip(_traces(search, start or count, span), (1, 1, 1, 1, 2, 1), strict=True):
            figure.add_trace(trace.update(visible=number == 0), row=row, col=1)
    for number, search in enumerate(searches):
        value, score = search.training
        figure.add_scatter(
            x=[value], y=[score], mode="markers", name="in meta-training", visible=number == 0,
            marker={"symbol": "x", "size": 11, "color": NEUTRAL}, row=1, col=1,
        )  # fmt: skip
    asked = [number for number, search in enumerate(searches) if search.points]
    for number in asked:
        figure.add_trace(_points(searches[number]).update(visible=number == 0), row=1, col=1)
    figure.update_xaxes(type="log").update_xaxes(title=x_title, row=2)
    figure.update_yaxes(title=y_title, row=1, range=span).update_yaxes(title="expected gain", row=2)
    owners = [*np.repeat(np.arange(len(searches)), TRACES).tolist(), *range(len(searches)), *asked]
    menus, sliders = _choosers(searches, owners, words), [_over_trials(searches, count, start or count, span)]
    return figure.update_layout(sliders=sliders, updatemenus=menus, margin={"t": 110, "b": 120})


def search_map(searches: Sequence[Search], *, x_title: str, y_title: str, words: str = "initialization") -> go.Figure:
    """Draw the mean score over the searched value and the number of steps; below, the curve of a chosen number.

    Its arguments are those of `search_curves`.

    Raises:
        ValueError: there is no search, two have another number of steps, or a label has other parts than `words`.
    """
    lengths = {np.shape(search.curves)[1] for search in searches}
    if len(lengths) != 1:
        raise ValueError(f"expected searches with one largest number of steps, got {sorted(lengths)}")
    (length,) = lengths
    low, high = _span(searches, curves=True)
    figure = styled(make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4]), height=680)
    for number, search in enumerate(searches):
        values, table = _sorted(search)
        figure.add_heatmap(
            x=values, y=np.arange(1, length), z=table[:, 1:].T, colorscale=SCALE, visible=number == 0,
            zmin=low, zmax=high, colorbar=color_bar(y_title),
            hovertemplate=f"{x_title} %{{x:.3g}}, %{{y}} steps: %{{z:.3g}}<extra></extra>",
            row=1, col=1,
        )  # fmt: skip
        style = look(search.label)
        figure.add_scatter(
            x=values, y=table[:, 1], name=search.label, mode="lines+markers", visible=number == 0,
            line={"color": style.color, "dash": style.dash}, marker={"symbol": style.symbol}, row=2, col=1,
        )  # fmt: skip
    figure.update_xaxes(type="log").update_xaxes(title=x_title, row=2)
    figure.update_yaxes(title="inner steps", row=1).update_yaxes(title=y_title, row=2, range=[low, high])
    menus = _choosers(searches, np.repeat(np.arange(len(searches)), 2).tolist(), words)
    return figure.update_layout(sliders=[_over_steps(searches, length)], updatemenus=menus, margin={"t": 110, "b": 190})


def _points(search: Search) -> go.Scatter:
    """Return the trace of what a reader tried."""
    return go.Scatter(
        x=_numbers([point.value for point in search.points]), y=_numbers([point.score for point in search.points]),
        text=[f"{point.steps} steps" for point in search.points], mode="markers", name="evaluated here",
        marker={"symbol": "diamond-open", "size": 14, "color": look(search.label).color, "line": {"width": 2.5}},
    )  # fmt: skip


def _traces(search: Search, trials: int, span: Sequence[float]) -> list[Any]:
    """Return the traces after so many trials: band, mean, trials, best, improvement, diverged."""
    style, state = look(search.label), _state(search, trials, span)
    color = {"colorscale": SCALE, "cmin": 1, "cmax": float(np.max(search.steps)), "colorbar": color_bar("inner steps")}
    names = ("95 % band", "Gaussian process", "trials", "best so far", "expected improvement", "diverged")
    looks: list[dict[str, Any]] = [
        {"fill": "toself", "mode": "lines", "line": {"width": 0}, "fillcolor": style.fill(0.18), "hoverinfo": "skip"},
        {"mode": "lines", "line": {"color": style.color, "width": 2.5}},
        {"mode": "markers", "marker": {"size": 9, "line": {"width": 1, "color": NEUTRAL}, **color}},
        {"mode": "markers", "marker": {"size": 18, "symbol": "star-open", "color": style.color, "line": {"width": 2}}},
        {"mode": "lines", "line": {"color": style.color, "dash": "dot"}},
        {
            "mode": "markers",
            "marker": {"size": 11, "symbol": "x-thin-open", "color": style.color, "line": {"width": 2}},
        },
    ]
    found = []
    for name, how, data in zip(names, looks, state, strict=True):
        if "marker.color" in data:
            how["marker"] |= {"color": data.pop("marker.color")}
        found.append(go.Scatter(name=name, **how, **data))
    found[-1].showlegend = not np.isfinite(np.asarray(search.scores, dtype=float)).all()
    return found


def _state(search: Search, trials: int, span: Sequence[float]) -> list[dict[str, Any]]:
    """Return what the slider changes, trace by trace; `span` are the limits of scores."""
    grid, trials = _numbers(search.grid), min(trials, len(search.scores))
    mean, half = (np.asarray(each[trials - 1], dtype=float) for each in (search.mean, search.deviation))
    half, known = 1.96 * half, bool(np.isfinite(mean).all())
    band = {"x": [*grid, *grid[::-1]], "y": _numbers([*(mean + half), *(mean - half)[::-1]])}
    best = search.best(trials)
    at = [] if best is None else [best]
    values, scores = np.asarray(search.values, dtype=float), np.asarray(search.scores, dtype=float)
    lost = np.flatnonzero(~np.isfinite(scores[:trials]))
    end = span[0] if search.higher_is_better else span[1]
    words = [f"trial {number + 1}: {int(search.steps[number])} steps" for number in range(trials)]
    return [
        band if known else {"x": [], "y": []},
        {"x": grid, "y": _numbers(mean)},
        {
            "x": _numbers(values[:trials]),
            "y": _numbers(scores[:trials]),
            "text": words,
            "marker.color": _numbers(np.asarray(search.steps[:trials], dtype=float)),
        },
        {"x": _numbers(values[at]), "y": _numbers(scores[at])},
        {"x": grid, "y": _numbers(np.asarray(search.improvement[trials - 1], dtype=float))},
        {"x": _numbers(values[lost]), "y": _numbers(np.full(len(lost), end)), "text": [words[at] for at in lost]},
    ]


def _over_trials(searches: Sequence[Search], count: int, start: int, span: Sequence[float]) -> dict[str, Any]:
    """Return the slider over trials; it changes all searches alike, seen or not."""
    steps = []
    for trials in range(1, count + 1):
        states = [state for search in searches for state in _state(search, trials, span)]
        change: dict[str, Any] = {key: [state[key] for state in states] for key in ("x", "y")}
        change["text"] = [state.get("text", "") for state in states]
        change["marker.color"] = [
            state.get("marker.color", look(searches[number // TRACES].label).color)
            for number, state in enumerate(states)
        ]
        steps.append({"label": str(trials), "method": "restyle", "args": [change, list(range(len(states)))]})
    current = {"prefix": "trials: ", "xanchor": "left"}
    return {"steps": steps, "active": start - 1, "currentvalue": current, "pad": {"t": 46}}


def _over_steps(searches: Sequence[Search], length: int) -> dict[str, Any]:
    """Return the slider over the number of inner steps; it changes the curves below."""
    curves = list(range(1, 2 * len(searches), 2))
    tables = [_sorted(search)[1] for search in searches]
    steps = [
        {"label": str(n), "method": "restyle", "args": [{"y": [_numbers(table[:, n]) for table in tables]}, curves]}
        for n in range(1, length)
    ]
    current = {"prefix": "inner steps: ", "xanchor": "left"}
    return {"steps": steps, "active": 0, "currentvalue": current, "pad": {"t": 46}}


def _choosers(searches: Sequence[Search], owners: Sequence[int], words: str) -> list[dict[str, Any]]:
    """Return the chooser of the search, which hides the traces of the others: `owners` names the search of each trace.

    There is none for a single search.
    """
    if wrong := [each.label for each in searches if words.count(", ") not in (0, each.label.count(", "))]:
        raise ValueError(f"expected a label with a part for each of {words!r}, got {wrong[0]!r}; join parts by ', '")
    buttons = [
        {"label": search.label, "method": "restyle", "args": [{"visible": [owner == number for owner in owners]}]}
        for number, search in enumerate(searches)
    ]
    menu = {"name": words, "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "showactive": True}
    return [menu] if len(searches) > 1 else []


def _sorted(search: Search) -> tuple[list[float | None], np.ndarray]:
    """Return the tried values in ascending order, and their curves (trials and points, steps + 1)."""
    values = np.array([*search.values, *(point.value for point in search.points)], dtype=float)
    order, curves = np.argsort(values), np.asarray(search.curves, dtype=float)
    asked = np.full((len(search.points), curves.shape[1]), np.nan)
    for row, point in zip(asked, search.points, strict=True):
        row[: len(point.curve)] = point.curve[: len(row)]
    return _numbers(values[order]), np.concatenate([curves, asked])[order]


def _span(searches: Sequence[Search], *, curves: bool = False) -> list[float]:
    """Return limits that hold every score at every position of the slider, so that nothing jumps.

    An error may explode: the limits go no further beyond not adapting than they go below it.
    """
    parts = [np.ravel(np.asarray(s.curves if curves else s.scores, dtype=float)) for s in searches]
    parts += [np.array([search.training[1], *(point.score for point in search.points)]) for search in searches]
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not len(values):
        return [0.0, 1.0]
    low, high = values.min(), values.max()
    if not searches[0].higher_is_better:
        unadapted = max(np.max(np.asarray(search.curves)[:, 0]) for search in searches)
        high = min(high, max(2 * unadapted - low, low))
    margin = 0.08 * (high - low or 1.0)
    return [float(low - margin), float(high + margin)]


def _numbers(values: Array) -> list[float | None]:
    """Return numbers as JSON knows them, short; None for what is none."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]
