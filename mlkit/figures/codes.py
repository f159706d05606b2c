"""Codes on flat maps: choose the map, choose what is colored, follow the codes step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mlkit.figures.parts import styled
from mlkit.theme import LINE, METHODS, NEUTRAL

BEFORE, AFTER = "encoder's codes", "adapted codes"
SIDES = {BEFORE: METHODS["MAML"].color, AFTER: METHODS["FOMAML"].color}  # blue and orange, as in the paper
MARKERS = {BEFORE: {"symbol": "circle-open", "size": 6}, AFTER: {"symbol": "diamond", "size": 6}}
PALETTE = [look.color for look in METHODS.values() if look.color != NEUTRAL]
STAGE, CLASS = "before and after", "all classes"
BARE = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "constrain": "domain"}


def code_maps(maps: Mapping[str, np.ndarray], classes: Sequence[str]) -> go.Figure:
    """Draw codes before and after adaptation on flat maps, with choosers of the map and of what is colored.

    Encoder's codes are open circles and stay; adapted codes are diamonds. Where the maps have more than two stages a
    slider moves the diamonds from the first to the last. On a page the choosers are the browser's own, in a notebook
    Plotly's.

    Args:
        maps: name of a map -> places of the codes at every stage, (stages, codes, 2).
        classes: of each code, (codes,).

    Raises:
        ValueError: there is no map, or their shapes or the number of classes differ.
    """
    shapes = {np.shape(each) for each in maps.values()}
    if len(shapes) != 1 or (shape := shapes.pop())[1:] != (len(classes), 2) or shape[0] < 2:
        raise ValueError(
            f"expected maps of one shape (stages, {len(classes)} codes, 2) with at least 2 stages, got "
            f"{ {name: np.shape(each) for name, each in maps.items()} }"
        )
    figure = styled(height=700, legend={"itemsizing": "constant"})
    for side, color in SIDES.items():
        figure.add_scatter(x=[None], y=[None], mode="markers", name=side, marker={**MARKERS[side], "color": color})
    names, of = list(dict.fromkeys(classes)), np.asarray(classes)
    members = {name: np.flatnonzero(of == name) for name in names}
    for number, places in enumerate(maps.values()):
        for side, stage in ((BEFORE, 0), (AFTER, -1)):
            for name in names:
                figure.add_scatter(**_dots(side, name, places[stage][members[name]], visible=number == 0))
    menus = [_maps(maps, len(names)), _shown(names, len(maps))]
    sliders = [_steps(maps, members)] if shape[0] > 2 else []
    figure.update_layout(_square(next(iter(maps.values()))), margin={"t": 130, "b": 110 if sliders else 20})
    figure.update_xaxes(**BARE, linecolor=LINE["light"])
    figure.update_yaxes(**BARE, linecolor=LINE["light"], scaleanchor="x")
    return figure.update_layout(updatemenus=menus, sliders=sliders)


def _dots(side: str, name: str, places: np.ndarray, *, visible: bool) -> dict[str, Any]:
    x, y = _numbers(places)
    marker = {**MARKERS[side], "color": SIDES[side], "opacity": 0.7}
    hover = f"{name}<br>{side}<extra></extra>"
    how = {"mode": "markers", "marker": marker, "hovertemplate": hover, "visible": visible, "showlegend": False}
    return {"x": x, "y": y, "name": name, "legendgroup": side, **how}


def _maps(maps: Mapping[str, np.ndarray], classes: int) -> dict[str, Any]:
    """Return the chooser of the map: it shows one, whose size is the frame's."""
    count, buttons = 2 * classes, []
    for number, (name, places) in enumerate(maps.items()):
        shown = [True, True, *(other == number for other in range(len(maps)) for _ in range(count))]
        buttons.append({"label": name, "method": "update", "args": [{"visible": shown}, _square(places)]})
    return {"name": "map", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "showactive": True}


def _shown(names: Sequence[str], maps: int) -> dict[str, Any]:
    """Return the chooser of what is colored, on every map alike: the stage, all classes, or one class."""
    sides, even = list(SIDES.values()), [0.7] * len(names)
    colors = [PALETTE[number % len(PALETTE)] for number in range(len(names))]
    buttons = [_colored(STAGE, [[side] * len(names) for side in sides], even, maps, sides)]
    buttons.append(_colored(CLASS, [colors, colors], even, maps, [NEUTRAL] * 2))
    for chosen in names:
        alone = [[side if name == chosen else NEUTRAL for name in names] for side in sides]
        buttons.append(_colored(chosen, alone, [1.0 if name == chosen else 0.12 for name in names], maps, sides))
    return {"name": "colored", "buttons": buttons, "x": 0.5, "xanchor": "left", "y": 1.2, "showactive": True}


def _colored(
    label: str, colors: Sequence[Sequence[str]], opacity: list[float], maps: int, legend: Sequence[str]
) -> dict[str, Any]:
    """Return a choice: colors of the classes on either side, how opaque each class is, colors in the legend."""
    both = [color for side in colors for color in side]
    change = {"marker.color": [*legend, *both * maps], "marker.opacity": [1.0, 1.0, *opacity * 2 * maps]}
    return {"label": label, "method": "restyle", "args": [change]}


def _steps(maps: Mapping[str, np.ndarray], members: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the slider over inner steps: it moves the adapted codes of all maps, seen or not."""
    classes = len(members)
    moving = [2 + number * 2 * classes + classes + k for number in range(len(maps)) for k in range(classes)]
    stages, steps = len(next(iter(maps.values()))), []
    for stage in range(stages):
        places = [_numbers(each[stage][index]) for each in maps.values() for index in members.values()]
        x, y = (list(part) for part in zip(*places, strict=True))
        steps.append({"label": str(stage), "method": "restyle", "args": [{"x": x, "y": y}, moving]})
    current = {"prefix": "inner steps: ", "xanchor": "left"}
    return {"steps": steps, "active": stages - 1, "currentvalue": current, "pad": {"t": 30}}


def _square(places: np.ndarray) -> dict[str, list[float]]:
    """Return ranges of both axes, equally long, around all codes of a map."""
    flat = np.asarray(places, dtype=float).reshape(-1, 2)
    low, high = flat.min(0), flat.max(0)
    middle, reach = (low + high) / 2, 0.53 * float((high - low).max() or 1.0)
    return {f"{axis}axis.range": [float(m - reach), float(m + reach)] for axis, m in zip("xy", middle, strict=True)}


def _numbers(places: np.ndarray) -> tuple[list[float], list[float]]:
    """Return x and y of codes, short: the page carries them as text."""
    x, y = np.asarray(places, dtype=float).reshape(-1, 2).T
    return tuple([float(f"{value:.3g}") for value in side] for side in (x, y))
