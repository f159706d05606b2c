"""Learned update rules: the move that follows a gradient, and waves that several rules adapt to, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.curves import learning_curves
from mlkit.figures.parts import Array, limits, pen, stacked
from mlkit.theme import NEUTRAL, looks

WORST = 1e3  # errors above are drawn as this one


def update_rules(curves: Mapping[str, Array], x: Array, *, met: tuple[Array, Array]) -> go.Figure:
    """Draw the move that a rule makes of a weight against its gradient, over the moves of real weights.

    Args:
        curves: label (a method's name, a comma, what came before) -> moves (points,).
        x: gradients, (points,).
        met: gradients and moves of weights of a network, (weights,) each.
    """
    moves = {label: np.asarray(values, dtype=float) for label, values in curves.items()}
    figure = learning_curves(moves, x, x_title="gradient of the weight", y_title="move of the weight")
    dots = {"mode": "markers", "marker": {"color": NEUTRAL, "size": 4, "opacity": 0.5}}
    figure.add_scatter(x=_numbers(met[0]), y=_numbers(met[1]), name="weights of a network", **dots)
    return figure.update_xaxes(range=limits(x)).update_yaxes(range=limits(*moves.values())).update_layout(height=480)


@dataclass(frozen=True)
class Wave:
    """One task of `wave_chooser`: its name, its true curve (points,), x and y of the support examples (shots,) each.

    predictions: method -> predicted curve after 0, 1, ... inner steps (steps + 1, points); errors: method -> query
    error after each (steps + 1,).
    """

    name: str
    truth: Array
    support: tuple[Array, Array]
    predictions: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]


def wave_chooser(waves: Sequence[Wave], x: Array, *, words: str = "wave") -> go.Figure:
    """Draw what methods predict of a wave, and their error so far; a chooser of waves, a slider over inner steps.

    Args:
        waves: what can be chosen; the first is shown at first.
        x: where the curves lie, (points,).
        words: what the chooser is called; there is none for a single wave.

    Raises:
        ValueError: there is no wave, or methods or numbers of steps differ.
    """
    lengths = {(label, len(errors)) for wave in waves for label, errors in wave.errors.items()}
    steps = {length for _, length in lengths}
    if len(steps) != 1 or any(len(wave.errors) != len(lengths) for wave in waves):
        raise ValueError(f"expected the same methods and steps for every wave, got {sorted(lengths)}; adapt all alike")
    figure = stacked(["y: the wave, and what is predicted", "error after each inner step (MSE)"], height=270)
    count, owners, moving = steps.pop(), [], []
    for number, wave in enumerate(waves):
        for trace, changes, row in _traces(wave, x, count):
            trace.visible = number == 0
            figure.add_trace(trace, row=row, col=1)
            owners.append(number)
            moving += [(len(owners) - 1, changes)] if changes is not None else []
    figure.update_xaxes(matches=None, showticklabels=True)
    figure.update_xaxes(title="x", range=limits(x), row=1).update_xaxes(
        title="inner steps", range=[-0.3, count - 0.7], row=2
    )
    heights = np.concatenate([np.ravel(part) for wave in waves for part in (wave.truth, wave.support[1])])
    errors = np.concatenate([_shown(values) for wave in waves for values in wave.errors.values()])
    figure.update_yaxes(range=limits(1.25 * heights), row=1)
    figure.update_yaxes(type="log", range=limits(np.log10(errors[np.isfinite(errors)])), row=2)
    return figure.update_layout(
        sliders=[_over_steps(moving, count)], updatemenus=_menus(waves, owners, words), margin={"t": 100, "b": 120}
    )


def _traces(wave: Wave, x: Array, count: int) -> list[tuple[go.Scatter, np.ndarray | None, int]]:
    """Return each trace of a wave, what it shows after every number of steps (steps + 1, points), and its panel."""
    dots = {"color": NEUTRAL, "size": 11, "line": {"width": 2, "color": "white"}}
    line = {"color": NEUTRAL, "width": 2, "dash": "dot"}
    support = {"x": _numbers(wave.support[0]), "y": _numbers(wave.support[1]), "marker": dots, "mode": "markers"}
    found: list[tuple[go.Scatter, np.ndarray | None, int]] = [
        (go.Scatter(x=_numbers(x), y=_numbers(wave.truth), name="true curve", mode="lines", line=line), None, 1)
    ]
    for label, style in looks(list(wave.errors)).items():
        curves = np.asarray(wave.predictions[label], dtype=float)
        so_far = np.where(np.tri(count, dtype=bool), _shown(wave.errors[label]), np.nan)
        how = {"x": _numbers(x), "y": _numbers(curves[0]), "mode": "lines", **pen(label, style)}
        found.append((go.Scatter(**how), curves, 1))
        how |= {"x": list(range(count)), "y": _numbers(so_far[0]), "mode": "lines+markers", "showlegend": False}
        found.append((go.Scatter(**how), so_far, 2))
    return [*found, (go.Scatter(name="support examples", **support), None, 1)]


def _over_steps(moving: Sequence[tuple[int, np.ndarray]], count: int) -> dict[str, Any]:
    """Return the slider over inner steps; it changes all waves alike, seen or not."""
    traces = [index for index, _ in moving]
    steps = [
        {"label": str(step), "method": "restyle", "args": [{"y": [_numbers(each[step]) for _, each in moving]}, traces]}
        for step in range(count)
    ]
    current = {"prefix": "inner steps: ", "xanchor": "left"}
    return {"steps": steps, "active": 0, "currentvalue": current, "pad": {"t": 50}}


def _menus(waves: Sequence[Wave], owners: Sequence[int], words: str) -> list[dict[str, Any]]:
    buttons = [
        {"label": wave.name, "method": "restyle", "args": [{"visible": [owner == number for owner in owners]}]}
        for number, wave in enumerate(waves)
    ]
    menu = {"name": words, "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "showactive": True}
    return [menu] if len(waves) > 1 else []


def _shown(errors: Array) -> np.ndarray:
    """Return errors as they are drawn: no higher than WORST, also where they are infinite."""
    return np.clip(np.nan_to_num(np.asarray(errors, dtype=float), nan=np.inf), 1e-12, WORST)


def _numbers(values: Array) -> list[float | None]:
    """Return numbers as JSON knows them, short; None for what is none."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]
