"""A figure of the book in a running notebook: Plotly's widget, and controls that keys and screen readers reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from ipywidgets import HBox, Layout, VBox

from mlkit.drawn import Drawn
from mlkit.theme import PAGE

Step = tuple[str, tuple[Any, ...]]  # a method of Plotly's and its arguments
CHANGING = ("x", "y", "z", "zmin", "zmax", "text", "visible", "marker.color", "marker.cmax")  # of traces, with the data
SCRIPT = """
function render({ model, el }) {
  el.style.fontFamily = "system-ui, sans-serif";
  const kind = model.get("kind");
  const input = document.createElement(kind === "range" ? "input" : kind);
  input.dataset.lmSuppressShortcuts = "true"; // itself, or JupyterLab takes the arrow keys
  const said = document.createElement("span");
  const label = document.createElement("label");
  Object.assign(label.style, { display: "flex", flexWrap: "wrap", alignItems: "center", gap: "0 0.5em" });
  Object.assign(input.style, { font: "inherit", minHeight: "2.2em", maxWidth: "100%" });
  if (kind === "range") Object.assign(input, { type: "range", min: 0 });
  if (kind === "button") el.append(input);
  else label.append(model.get("words") + ":", ...(kind === "range" ? [said, input] : [input])), el.append(label);
  const draw = () => {
    const choices = model.get("choices"), chosen = model.get("chosen");
    input.disabled = model.get("disabled");
    if (kind === "button") { input.textContent = model.get("words"); return; }
    if (kind === "select") input.replaceChildren(...choices.map((name, i) => new Option(name, i)));
    else input.max = choices.length - 1;
    input.value = chosen;
    said.textContent = input.ariaValueText = choices[chosen];
  };
  input.addEventListener(kind === "button" ? "click" : "input", () => {
    model.set("chosen", kind === "button" ? model.get("chosen") + 1 : Number(input.value));
    model.save_changes();
  });
  for (const name of ["choices", "chosen", "disabled"]) model.on(`change:${name}`, draw);
  draw();
}
export default { render };
"""


class Control(anywidget.AnyWidget):
    """One of the browser's own controls with its label, as on the pages of the book.

    Traits:
        kind: "select", "range", or "button".
        words: the label.
        choices: what can be chosen, as text; unused by a button.
        chosen: which of them; a button counts its clicks here.
        disabled: whether it is out of use.

    Example:
        >>> Control(kind="range", words="inner steps", choices=["1", "2", "5"], chosen=1).text
        '2'
    """

    _esm = SCRIPT
    kind = traitlets.Enum(["select", "range", "button"], "range").tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)
    choices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)

    @property
    def text(self) -> str:
        """What is chosen."""
        return self.choices[self.chosen]


class Live(VBox):
    """A figure whose choosers and sliders are `Control`s; each position draws what it draws on the page.

    `drawn` is Plotly's widget; `controls` are by name, choosers before sliders.

    Args:
        figure: what a function of `mlkit.figures` returned.

    Example:
        >>> Live(search_map(searches, x_title="learning rate", y_title="IoU (%)"))  # doctest: +SKIP
    """

    def __init__(self, figure: go.Figure) -> None:
        self._movers = [_Mover(offer, self._move) for offer in _offers(figure)]
        self.controls = {control.words: control for mover in self._movers for control in mover.controls}
        row = HBox(list(self.controls.values()), layout=Layout(flex_flow="row wrap", grid_gap="0 1.5em"))
        super().__init__([row], layout=Layout(width="100%"))
        self._draw(figure)

    def show(self, figure: go.Figure) -> None:
        """Draw another figure; its controls stay where they were, a slider at its end at the new end.

        Raises:
            ValueError: it has other controls than the one before.
        """
        offers, names = list(_offers(figure)), [mover.offer.words for mover in self._movers]
        if [offer.words for offer in offers] != names:
            raise ValueError(f"expected a figure with the controls {names}, got {[offer.words for offer in offers]}")
        for mover, offer in zip(self._movers, offers, strict=True):
            mover.renew(offer)
        self._draw(figure)

    def chosen(self, words: str) -> str | None:
        """Return the label that a chooser or slider stands at; None where the figure has no such one."""
        return next((mover.label for mover in self._movers if mover.offer.words == words), None)

    def _draw(self, figure: go.Figure) -> None:
        """Draw at the positions of the controls: what changed is sent; a new widget only where traces come."""
        controls = ("updatemenus", "sliders", "margin")  # the margin made room for them
        layout = {name: value for name, value in figure.to_plotly_json()["layout"].items() if name not in controls}
        bare = go.Figure(figure.data, layout).update_layout(paper_bgcolor=PAGE["light"], autosize=True)
        for mover in self._movers:
            _apply(bare, mover.step)
        row, *old = self.children
        if old and [trace.name for trace in self.drawn.data] == [trace.name for trace in bare.data]:
            _carry_over(bare, self.drawn)
            return
        self.drawn = Drawn(bare, {"responsive": True, "displayModeBar": False})
        self.children = (row, self.drawn)
        for widget in old:
            widget.close()

    def _move(self, step: Step) -> None:
        _apply(self.drawn, step)


@dataclass(frozen=True)
class _Offer:
    """What a menu or a slider of a figure offers: a step for each label, the one of `active` at first."""

    kind: str
    words: str
    labels: list[str]
    steps: list[Step]
    active: int


def _offers(figure: go.Figure) -> Iterator[_Offer]:
    layout = figure.to_plotly_json()["layout"]
    found = [("select", menu["name"], menu["buttons"], menu) for menu in layout.get("updatemenus", ())]
    for slider in layout.get("sliders", ()):
        found.append(("range", slider["currentvalue"]["prefix"].strip(": "), slider["steps"], slider))
    for kind, words, steps, whole in found:
        labels = [step["label"] for step in steps]
        yield _Offer(kind, words, labels, [(step["method"], step["args"]) for step in steps], whole.get("active", 0))


def _carry_over(new: go.Figure, drawn: go.FigureWidget) -> None:
    """Send to a widget what a figure with the same traces has otherwise, in one message."""
    with drawn.batch_update():
        for trace, wanted in zip(drawn.data, new.data, strict=True):
            for name in CHANGING:
                if name in trace and wanted[name] is not None:
                    trace[name] = wanted[name]
        for axis, wanted in zip(drawn.select_yaxes(), new.select_yaxes(), strict=True):
            axis.range = wanted.range


def _apply(figure: go.Figure, step: Step) -> None:
    method, args = step
    getattr(figure, f"plotly_{method}")(*args)


class _Mover:
    """The controls that choose a step of an offer.

    For an offer called "initialization, shots" there is one for each part of its labels; where no label has all the
    parts that were chosen, the one that shares most with the last is taken.
    """

    def __init__(self, offer: _Offer, moved: Callable[[Step], None]) -> None:
        self.moved, self._told = moved, False
        self.controls = [Control(kind=offer.kind, words=word) for word in offer.words.split(", ")]
        self._take(offer, offer.active)
        for place, control in enumerate(self.controls):
            control.observe(lambda _, place=place: self._turned(place), "chosen")

    @property
    def label(self) -> str:
        """The label of the chosen step."""
        return self.offer.labels[self.chosen]

    @property
    def step(self) -> Step:
        """The chosen step."""
        return self.offer.steps[self.chosen]

    def renew(self, offer: _Offer) -> None:
        """Choose among other steps, as near as can be to the one that was chosen."""
        follows = offer.kind == "range" and self.chosen == len(self.offer.labels) - 1
        stays = offer.labels.index(self.label) if self.label in offer.labels else offer.active
        self._take(offer, len(offer.labels) - 1 if follows else stays)

    def _take(self, offer: _Offer, chosen: int) -> None:
        self.offer = offer
        self._parts = [label.split(", ") if len(self.controls) > 1 else [label] for label in offer.labels]
        self._choose(chosen)

    def _choose(self, chosen: int) -> None:
        """Put every control at its part of the chosen label."""
        self.chosen, self._told = chosen, True
        for place, control in enumerate(self.controls):
            choices = list(dict.fromkeys(parts[place] for parts in self._parts))
            with control.hold_sync():
                control.choices, control.chosen = choices, choices.index(self._parts[chosen][place])
        self._told = False

    def _turned(self, place: int) -> None:
        if self._told:
            return
        last, wanted = self._parts[self.chosen], self.controls[place].text
        fits = [number for number, parts in enumerate(self._parts) if parts[place] == wanted]
        self._choose(max(fits, key=lambda number: sum(map(str.__eq__, self._parts[number], last))))
        self.moved(self.step)
