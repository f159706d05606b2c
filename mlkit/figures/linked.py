"""Many methods in one view: a chart of what each brings against what it costs, and its table; choose in either."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from IPython.display import HTML, display

from mlkit.figures.explorer import EVERY
from mlkit.figures.page import as_html
from mlkit.figures.parts import Array, pen, styled
from mlkit.figures.sortable import Cell, Column, sortable, table_name
from mlkit.theme import NEUTRAL, PAGE, looks


@dataclass(frozen=True)
class Choice:
    """One row: a method in a group (data and shots), its score with 95 % half width, its cells, its quantities.

    quantities: title -> value, None where there is none; the same titles in every choice.
    """

    label: str
    group: str
    score: float
    ci95: float
    cells: Sequence[Cell]
    quantities: Mapping[str, float | None]


@dataclass(frozen=True)
class Linked:
    """A chart and the table of its points."""

    figure: go.Figure
    table: str


def linked(choices: Sequence[Choice], columns: Sequence[Column], *, y_title: str, log: Sequence[str] = ()) -> Linked:
    """Draw the score of each choice against a quantity that the reader picks, group by group, above a sortable table.

    Args:
        choices: the points and rows; those of the first group show at first.
        columns: of the table.
        y_title: the score, with its unit.
        log: titles of the quantities that have a logarithmic axis; there, what is not above 0 is left out.

    Raises:
        ValueError: there is no choice, or choices have other quantities than the first.
    """
    titles = list(choices[0].quantities) if choices else []
    if not titles or any(list(choice.quantities) != titles for choice in choices):
        raise ValueError(f"expected choices with the same quantities, got {[list(c.quantities) for c in choices]}")
    rows = [choice.cells for choice in choices]
    styles = looks(list(dict.fromkeys(choice.label for choice in choices)))
    figure = styled(height=520, yaxis_title=y_title, xaxis_title=titles[0], meta=table_name(columns, rows))
    for choice in choices:
        style = styles[choice.label]
        hover = f"{choice.label}, {choice.group}<br>%{{x:.3g}}, %{{y:.3g}}<extra></extra>"
        figure.add_scatter(
            x=_at(choice, titles[0], log), y=[choice.score], mode="markers", name=choice.label, hovertemplate=hover,
            error_y={"type": "data", "array": [choice.ci95], "color": style.color, "thickness": 1.5, "width": 4},
            marker={"color": style.color, "symbol": style.symbol, "size": 13}, visible=choice.group == choices[0].group,
            selected={"marker": {"opacity": 1, "size": 20}}, unselected={"marker": {"opacity": 0.25}},
        )  # fmt: skip
    figure.update_xaxes(type="log" if titles[0] in log else "linear")
    menus = [_quantities(choices, titles, log), _groups(choices)]
    figure.update_layout(updatemenus=menus, margin={"t": 170}, clickmode="event")
    words = f"One row a method: {', '.join(column.title for column in columns)}"
    return Linked(figure, sortable(columns, rows, words=words))


def show_linked(view: Linked, *, alt: str, caption: str) -> None:
    """Display a chart with its table; as `show`, which arguments and errors are those of."""
    page = as_linked_html(view, alt=alt, caption=caption)
    if os.environ.get("MLKIT_BOOK") == "1":
        display(HTML(page))
    else:
        words = f"<p>{html.escape(caption, quote=False)}</p>"
        display(go.Figure(view.figure).update_layout(paper_bgcolor=PAGE["light"]), HTML(view.table + words))


def as_linked_html(view: Linked, *, alt: str, caption: str) -> str:
    """Return the HTML `<figure>` of a chart with its table that `show_linked` puts on a page of the book."""
    return as_html(view.figure, alt=alt, caption=caption).replace("<figcaption>", f"{view.table}<figcaption>")


def clock_curves(
    curves: Mapping[str, tuple[Array, Array]], *, x_title: str, y_title: str, mark: float | None = None
) -> go.Figure:
    """Draw curves that have their points at times of their own, over a logarithmic axis; a line marks one time.

    Args:
        curves: label -> times and values (points,); what is not above time 0 is left out.
        x_title: the time, with its unit.
        y_title: the values, with their unit.
        mark: the time to be marked.
    """
    figure = styled(height=480, xaxis_title=x_title, yaxis_title=y_title, xaxis_type="log")
    for label, style in looks(list(curves)).items():
        x, y = (np.asarray(values, dtype=float) for values in curves[label])
        figure.add_scatter(x=x[x > 0], y=y[x > 0], mode="lines+markers", **pen(label, style))
    if mark is not None and mark > 0:
        figure.add_vline(x=mark, line={"color": NEUTRAL, "dash": "dot"})
    return figure


def _at(choice: Choice, title: str, log: Sequence[str]) -> list[float | None]:
    value = choice.quantities[title]
    known = value is not None and np.isfinite(value) and (value > 0 or title not in log)
    return [float(f"{value:.6g}") if known else None]


def _quantities(choices: Sequence[Choice], titles: Sequence[str], log: Sequence[str]) -> dict[str, object]:
    """Return the chooser of the quantity: it moves the points."""
    buttons = []
    for title in titles:
        axis = {"xaxis.title.text": title, "xaxis.type": "log" if title in log else "linear", "xaxis.autorange": True}
        buttons.append(
            {"label": title, "method": "update", "args": [{"x": [_at(choice, title, log) for choice in choices]}, axis]}
        )
    return {"name": "against", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.42, "showactive": True}


def _groups(choices: Sequence[Choice]) -> dict[str, object]:
    """Return the chooser of the group: it hides the points of the others."""
    groups = list(dict.fromkeys(choice.group for choice in choices))
    buttons = []
    for group in [*groups, EVERY] if len(groups) > 1 else groups:
        shown = [group in (EVERY, choice.group) for choice in choices]
        labels = [choice.label if on else None for choice, on in zip(choices, shown, strict=True)]
        once = [on and labels.index(label) == k for k, (label, on) in enumerate(zip(labels, shown, strict=True))]
        buttons.append({"label": group, "method": "restyle", "args": [{"visible": shown, "showlegend": once}]})
    return {"name": "setting", "buttons": buttons, "x": 0.5, "xanchor": "left", "y": 1.42, "showactive": True}
