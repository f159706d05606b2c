"""Plotly's widget for a page that is slow: it is sent whole, and Plotly's script of 5 MB once for all figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import plotly
import plotly.graph_objects as go
import traitlets

LATER = """
const source = globalThis.mlkitPlotly ??= (() => {
  let give;
  const given = new Promise(resolve => { give = resolve; });
  return { give, given };
})();
"""  # the text of Plotly's script, which one widget gives to all figures of a page
LIBRARY = f"{LATER} export default {{ initialize({{ model }}) {{ source.give(model.get('text')); }} }};"
FIGURE = (
    LATER
    + """
const NAMES = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate",
  "removeLayoutProps", "removeTraceProps"].map(name => `_py2js_${name}`);
async function load() {
  const url = URL.createObjectURL(new Blob([await source.given], { type: "text/javascript" }));
  return import(url).finally(() => URL.revokeObjectURL(url));
}
export default () => {
  const early = []; // what changed before Plotly could see it
  let begun, whole;
  return {
    initialize({ model }) {
      for (const name of NAMES) model.on(`change:${name}`, () => {
        if (!begun && model.get(name) !== null) early.push([name, model.get(name)]);
      });
      whole = async () => {
        const figure = (await (source.loaded ??= load())).default();
        figure.initialize({ model });
        begun = true;
        for (const [name, value] of early) model.set(name, value), model.set(name, null);
        return figure;
      };
    },
    async render(context) { return (await (whole.done ??= whole())).render(context); },
  };
};
"""
)


class Library(anywidget.AnyWidget):
    """Plotly's script as its widget has it, 5 MB; sent once for all figures of a page."""

    _esm = LIBRARY
    text = traitlets.Unicode().tag(sync=True)


@cache
def library() -> Library:
    """Send Plotly's script, when it is first needed."""
    script = Path(plotly.__file__).parent / "package_data" / "widgetbundle.js"
    return Library(text=script.read_text(encoding="utf-8"))


class Drawn(go.FigureWidget):
    """Plotly's widget, drawn however long a page takes to load Plotly's script.

    anywidget waits two seconds for the script of a widget; if it is later, whatever the kernel sends is lost. So a
    small script stands in, and the large one follows. Plotly's own also sends an empty figure first and its traces
    next, which a slow page draws in the wrong order; this one is sent whole.
    """

    _esm = FIGURE

    def __init__(self, figure: go.Figure, config: dict[str, Any]) -> None:
        library()
        self._is_whole = False
        super().__init__(figure)
        self._config, self._is_whole = config, True
        self.open()

    def open(self) -> None:
        """Appear on the page, once there is something to be seen."""
        if self._is_whole:
            super().open()
