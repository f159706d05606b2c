"""All metrics against generalization in one linked view: choose the metric, the setting, the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mlkit.figures.parts import Array, pen, styled
from mlkit.theme import looks

EVERY = "all settings"


@dataclass(frozen=True)
class History:
    """One training as the linked view needs it.

    label: the method, perhaps with a remark; setting: data, ways and shots; epochs (points,); generalization (points,);
    metrics: name -> (points,), absent where it was not measured; notes: name of a metric -> what to say of it (`R =
    ...`).
    """

    label: str
    setting: str
    epochs: Array
    generalization: Array
    metrics: Mapping[str, Array]
    notes: Mapping[str, str]


def explorer(histories: Sequence[History], *, y_title: str) -> go.Figure:
    """Draw each metric against generalization, and through training; hovering names the run.

    Above, a point is one epoch of one run; below, the same metric over epochs. The chosen epoch is filled in both, so
    that one sees which point of a curve lies where in the cloud. On a page the choosers are the browser's own, in a
    notebook Plotly's.

    Args:
        histories: the trainings, each labeled apart from the others of its setting.
        y_title: the generalization, with its unit.

    Raises:
        ValueError: there is no history or no metric, or a metric has not one value an epoch.
    """
    names = list(dict.fromkeys(name for history in histories for name in history.metrics))
    if not names:
        raise ValueError(f"expected at least one history with a metric, got {len(histories)} histories without")
    for history in histories:
        _check(history)
    figure = styled(make_subplots(rows=2, vertical_spacing=0.17, row_heights=[0.58, 0.42]), height=760)
    first = names[0]
    for history, style in zip(histories, _styles(histories), strict=True):
        both = {"mode": "lines+markers", "text": _hover(history), "hovertemplate": "%{text}<extra></extra>"}
        both |= pen(history.label, style) | {"legendgroup": f"{history.setting} {history.label}"}
        both |= {"line": {**both["line"], "width": 1.2}, "marker": {"symbol": style.symbol, "size": 9}}
        both |= {"visible": history.setting == histories[0].setting}
        both |= {"selected": {"marker": {"opacity": 1.0}}, "unselected": {"marker": {"opacity": 0.25}}}
        x, y = _at(history, first), history.generalization
        figure.add_scatter(x=x, y=y, **both | {"name": _name(history, first)}, row=1, col=1)
        figure.add_scatter(x=history.epochs, y=x, **both, showlegend=False, row=2, col=1)
    figure.update_xaxes(title=first, row=1).update_yaxes(title=y_title, row=1)
    figure.update_xaxes(title="epoch", row=2).update_yaxes(title=first, row=2)
    menus = [_metrics(histories, names), _settings(histories)]
    return figure.update_layout(updatemenus=menus, sliders=[_epochs(histories)], margin={"t": 150, "b": 120})


def _check(history: History) -> None:
    count = len(history.epochs)
    lengths = {name: len(values) for name, values in history.metrics.items()}
    lengths["generalization"] = len(history.generalization)
    if wrong := {name: length for name, length in lengths.items() if length != count}:
        raise ValueError(f"expected one value for each of {count} epochs of {_title(history)!r}, got {wrong}")


def _title(history: History) -> str:
    return f"{history.label}, {history.setting}"


def _styles(histories: Sequence[History]) -> list[Any]:
    """Return the looks: labels of one method in several settings differ by dash."""
    chosen = looks([_title(history) for history in histories])
    return [chosen[_title(history)] for history in histories]


def _hover(history: History) -> list[str]:
    scores = np.asarray(history.generalization, dtype=float)
    return [
        f"{_title(history)}<br>epoch {epoch:g}: {score:.3g}"
        for epoch, score in zip(history.epochs, scores, strict=True)
    ]


def _at(history: History, name: str) -> list[float | None]:
    """Return a metric as JSON knows it: None where it was not measured or is not a number."""
    values = np.asarray(history.metrics.get(name, np.full(len(history.epochs), np.nan)), dtype=float)
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _name(history: History, metric: str) -> str:
    note = history.notes.get(metric, "")
    return f"{_title(history)}<br>{note}" if note else _title(history)


def _metrics(histories: Sequence[History], names: Sequence[str]) -> dict[str, Any]:
    """Return the chooser of the metric: it moves the points, never hides or marks one."""
    buttons = []
    for name in names:
        x, y, words = [], [], []
        for history in histories:
            metric = _at(history, name)
            x += [metric, np.asarray(history.epochs, dtype=float).tolist()]
            y += [np.asarray(history.generalization, dtype=float).tolist(), metric]
            words += [_name(history, name)] * 2
        titles = {"xaxis.title.text": name, "yaxis2.title.text": name}
        buttons.append({"label": name, "method": "update", "args": [{"x": x, "y": y, "name": words}, titles]})
    return {"name": "metric", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.24, "showactive": True}


def _settings(histories: Sequence[History]) -> dict[str, Any]:
    """Return the chooser of the setting: it hides the runs of the others. The first is the one shown at first."""
    settings = list(dict.fromkeys(history.setting for history in histories))
    choices = [*settings, EVERY] if len(settings) > 1 else settings
    buttons = []
    for choice in choices:
        shown = [choice in (EVERY, history.setting) for history in histories for _ in range(2)]
        buttons.append({"label": choice, "method": "restyle", "args": [{"visible": shown}]})
    return {"name": "setting", "buttons": buttons, "x": 0.5, "xanchor": "left", "y": 1.24, "showactive": True}


def _epochs(histories: Sequence[History]) -> dict[str, Any]:
    """Return the slider over epochs: it marks one point a run; its first position marks all alike."""
    known = sorted({float(epoch) for history in histories for epoch in history.epochs})
    steps = [{"label": "all", "method": "restyle", "args": [{"selectedpoints": [None]}]}]
    for epoch in known:
        points = [[int(i) for i in np.flatnonzero(np.asarray(history.epochs) == epoch)] for history in histories]
        marked = [each for each in points for _ in range(2)]
        steps.append({"label": f"{epoch:g}", "method": "restyle", "args": [{"selectedpoints": marked}]})
    return {"steps": steps, "currentvalue": {"prefix": "epoch: ", "xanchor": "left"}, "pad": {"t": 40}}
