"""Scores over the number of shots, on a logarithmic axis: of each initialization, and what one gains over others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.curves import Series, stacked_curves
from mlkit.figures.parts import pen, styled
from mlkit.theme import NEUTRAL, looks

if TYPE_CHECKING:
    from mlkit.many_shots import Gains

TITLE = "labeled pictures"


def shots_curves(panels: Mapping[str, Mapping[str, Series]], shots: Sequence[int]) -> go.Figure:
    """Draw scores of initializations over the number of shots, one panel a rule (figure 4 of paper 000).

    Args:
        panels: title of a panel, with the unit of the score -> label -> mean with the ends of its interval, (shots,).
        shots: numbers of labeled pictures.

    Raises:
        ValueError: a series has not as many points as there are numbers of shots.
    """
    return _logarithmic(stacked_curves(panels, shots, x_title=TITLE), shots, shots[-1] * 1.2)


def shots_gains(found: Mapping[str, Gains], *, y_title: str) -> go.Figure:
    """Draw what one initialization gains over others, and from which number of shots on each of them matches it.

    The bar with a marker, at the height of the margin that counts as the same, is that number with its interval; it
    ends at the edge where the interval is open.

    Args:
        found: label of the other initialization -> gains over it, all at the same numbers of shots.
        y_title: title of the vertical axis, with its unit.

    Raises:
        ValueError: there is nothing to draw, or the numbers of shots differ.
    """
    numbers = {one.shots for one in found.values()}
    if len(numbers) != 1:
        raise ValueError(f"expected gains at the same numbers of shots, got {sorted(numbers)}; draw them apart")
    (shots,) = numbers
    figure, edge = styled(xaxis_title=TITLE, yaxis_title=y_title), shots[-1] * 1.25
    figure.add_hline(0, line={"color": NEUTRAL, "width": 1.5})
    for label, style in looks(list(found)).items():
        one = found[label]
        error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4}
        error |= {"array": one.high - one.value, "arrayminus": one.value - one.low}
        figure.add_scatter(x=shots, y=one.value, error_y=error, mode="lines+markers", **pen(label, style))
        figure.add_scatter(**_matched(one, edge, style.color), name=label, legendgroup=label)
    return _logarithmic(figure, shots, edge)


def _matched(one: Gains, edge: float, color: str) -> dict[str, object]:
    value, low, high = (min(each, edge) for each in (one.matched.value, one.matched.low, one.matched.high))
    reach = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]}
    return {
        "x": [value],
        "y": [one.margin],
        "error_x": reach | {"thickness": 4, "width": 8, "color": color},
        "mode": "markers",
        "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": color}},
        "hovertext": f"the same from {one} {TITLE} on",
        "hoverinfo": "text",
        "showlegend": False,
    }


def _logarithmic(figure: go.Figure, shots: Sequence[int], edge: float) -> go.Figure:
    figure.update_xaxes(type="log", range=[np.log10(shots[0] / 1.2), np.log10(edge)])
    return figure.update_xaxes(tickvals=list(shots), ticktext=[str(k) for k in shots])
