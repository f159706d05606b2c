"""Quantities of the blocks of a network, method beside method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.curves import Series
from mlkit.figures.parts import stacked
from mlkit.theme import Look, looks


def block_bars(
    panels: Mapping[str, Mapping[str, Series]], blocks: Sequence[str], *, x_title: str = "block", log: bool = False
) -> go.Figure:
    """Draw one panel a quantity: for each block of the network a bar a method, with its 95 % interval.

    Args:
        panels: title of a panel, with its unit -> label (a method's name, perhaps with a remark) -> series (blocks,).
        blocks: what the blocks are called, from the input to the output.
        x_title: title of the shared axis.
        log: logarithmic axes, on which ratios can be compared; there points stand for bars, which have no zero.

    Raises:
        ValueError: a series has not one value a block.
    """
    figure = stacked(list(panels))
    styles = looks(list(dict.fromkeys(label for series in panels.values() for label in series)))
    named: set[str] = set()
    for row, series in enumerate(panels.values(), start=1):
        for label, one in series.items():
            values = np.asarray(one.value, dtype=float)
            if len(values) != len(blocks):
                raise ValueError(f"expected {len(blocks)} blocks in {label!r}, got {len(values)}; pass one value each")
            shown = {
                "name": label,
                "legendgroup": label,
                "showlegend": label not in named,
                **_reach(one, styles[label]),
            }
            draw = figure.add_scatter if log else figure.add_bar
            draw(x=list(blocks), y=values, row=row, col=1, **shown, **_body(styles[label], log))
            named.add(label)
        figure.update_yaxes(type="log" if log else "linear", row=row)
    figure.update_layout(barmode="group", bargap=0.25, scattermode="group")
    return figure.update_xaxes(type="category", tickangle=-60).update_xaxes(title=x_title, row=len(panels))


def _body(style: Look, log: bool) -> dict[str, object]:
    if log:
        return {"mode": "markers", "marker": {"color": style.color, "symbol": style.symbol, "size": 9}}
    return {"marker": {"color": style.fill(0.75), "line": {"color": style.color, "width": 1}}}


def _reach(series: Series, style: Look) -> dict[str, object]:
    """Return the interval as error bars, where it is known."""
    if series.low is None or series.high is None:
        return {}
    value, low, high = (np.asarray(part, dtype=float) for part in (series.value, series.low, series.high))
    ends = {"array": high - value, "arrayminus": value - low}
    return {"error_y": {"type": "data", **ends, "color": style.color, "thickness": 1.5, "width": 3}}
