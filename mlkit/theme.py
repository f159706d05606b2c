"""One look for the whole book: two Plotly templates, and one color, marker and dash for each method.

Every color keeps a contrast of at least 3:1 on both page backgrounds, so that one figure serves light and dark; a color
is never the only sign of a method.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import plotly.graph_objects as go
import plotly.io as pio

INK = {"light": "#24292f", "dark": "#dfe4ea"}
PAGE = {"light": "#ffffff", "dark": "#14181e"}
GRID = {"light": "#e4e7eb", "dark": "#2d343d"}
LINE = {"light": "#9aa3ad", "dark": "#66707c"}
NEUTRAL = "#808488"  # what is no method: the true function, chance, the paper's own value
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Look:
    """How a method is drawn everywhere: its color, its marker symbol and the dash of its line."""

    color: str
    symbol: str
    dash: str

    def fill(self, opacity: float) -> str:
        """Return the color with `opacity` in [0, 1], as `rgba(...)`."""
        red, green, blue = (int(self.color[start : start + 2], 16) for start in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity:g})"


METHODS: dict[str, Look] = {
    "MAML": Look("#2778b2", "circle", "solid"),
    "FOMAML": Look("#f65638", "square", "dash"),
    "Reptile": Look("#009177", "diamond", "dot"),
    "FOMAML*": Look("#8f6ff0", "star", "dashdot"),
    "ANIL": Look("#0197bb", "triangle-up", "longdash"),
    "Meta-SGD": Look("#c23189", "triangle-down", "dashdot"),
    "transfer": Look("#69961e", "cross", "dash"),
    "joint-trained": Look("#965a4b", "x", "longdash"),
    "from scratch": Look("#808488", "triangle-left", "dot"),
    "Baseline++": Look("#726c68", "triangle-right", "longdashdot"),
    "LSTM": Look("#d61d52", "pentagon", "dash"),
    "TURTLE": Look("#3c7700", "hexagon", "solid"),
    "LEO": Look("#b655dc", "hourglass", "solid"),
    "regularized MAML": Look("#555fec", "circle-open", "dash"),
    "finetuning": Look("#a55270", "bowtie", "dot"),
}


def look(label: str) -> Look:
    """Return the look of the method that `label` names, e.g. `"MAML"` or `"MAML, T = 5"`.

    A label is a method's name, or its name followed by a comma or a parenthesis and anything else.

    Raises:
        ValueError: `label` starts with no method of the book.
    """
    name = re.split(r"[,(]", label, maxsplit=1)[0].strip()
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"expected a label that starts with one of {', '.join(METHODS)}, got {label!r}{hint}")


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return a look for each label; further labels of one method keep its color and marker and get another dash.

    Example:
        >>> looks(["MAML, training", "MAML, test"])["MAML, test"].dash
        'dash'
    """
    taken: dict[str, list[str]] = {}
    chosen: dict[str, Look] = {}
    for label in labels:
        base = look(label)
        used = taken.setdefault(base.color, [])
        free = [dash for dash in (base.dash, *DASHES) if dash not in used] or [base.dash]
        used.append(free[0])
        chosen[label] = replace(base, dash=free[0])
    return chosen


def template(mode: str) -> go.layout.Template:
    """Return the Plotly template for the `light` or the `dark` page; the background is the page's own.

    Raises:
        ValueError: `mode` is neither `light` nor `dark`.
    """
    if mode not in INK:
        raise ValueError(f"expected 'light' or 'dark', got {mode!r}")
    ink, grid, line = INK[mode], GRID[mode], LINE[mode]
    axis = {
        "gridcolor": grid, "linecolor": line, "zerolinecolor": grid, "tickcolor": line, "ticks": "outside",
        "ticklen": 4, "showline": True, "automargin": True, "title": {"standoff": 10}, "zeroline": False,
    }  # fmt: skip
    control = {"bgcolor": grid, "bordercolor": line, "font": {"color": ink}}
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 14, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [method.color for method in METHODS.values()],
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 40, "b": 56},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {"bgcolor": PAGE[mode], "bordercolor": line, "font": {"color": ink}},
            "annotationdefaults": {"font": {"color": ink}, "arrowcolor": line},
            "sliderdefaults": {**control, "activebgcolor": METHODS["MAML"].color, "tickcolor": line},
            "updatemenudefaults": control,
        }
    )


for _mode in INK:
    pio.templates[f"mlkit_{_mode}"] = template(_mode)
