"""A live explorer for a running notebook: choose a wave, watch learners adapt to it step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import torch
from ipywidgets import HBox, Layout, VBox

from mlkit.chapters.update_rules import waves
from mlkit.controls import Control, Live
from mlkit.driver import Learner, Meta
from mlkit.figures.rules import wave_chooser
from mlkit.seeding import seeded
from mlkit.tasks.base import Draw
from mlkit.tasks.sine import SineTasks

MOST = 10  # support points
JUDGED = 50  # query points


class WaveExplorer(VBox):
    """Amplitude, phase and number of support points of a wave to choose, inner steps to move through.

    Every choice adapts all learners anew, from the weights that they learned. "other points" draws the places of the
    support examples again; elsewhere they stay, so that one sees what a change of the wave alone does.

    Args:
        learners: label (a method's name) -> learner and stacked meta-parameters of one run.
        tasks: the ranges that waves come from.
        steps: inner steps that are shown; may exceed those of training.

    Example:
        >>> WaveExplorer({"MAML": (learner, meta)}, sine("huisman", "test"))  # doctest: +SKIP
    """

    def __init__(self, learners: Mapping[str, tuple[Learner, Meta]], tasks: SineTasks, *, steps: int = 10) -> None:
        self.learners, self.tasks, self.steps = dict(learners), tasks, steps
        offered = {"amplitude": np.linspace(*tasks.amplitude, 21), "phase": np.linspace(*tasks.phase, 21)}
        self.chosen = {name: _slider(name, [f"{value:.1f}" for value in offered[name]], 14) for name in offered}
        self.chosen["support points"] = _slider("support points", [str(k) for k in range(1, MOST + 1)], 4)
        self.button = Control(kind="button", words="other points")
        self.live = Live(self.figure())
        for control in (*self.chosen.values(), self.button):
            control.observe(lambda _: self.live.show(self.figure()), "chosen")
        panel = HBox([*self.chosen.values(), self.button], layout=Layout(flex_flow="row wrap", grid_gap="0 1.5em"))
        super().__init__([panel, self.live])

    @property
    def draw(self) -> Draw:
        """The chosen wave, and the places of its support and query points."""
        amplitude, phase = (torch.tensor([float(self.chosen[name].text)]) for name in ("amplitude", "phase"))
        shots, places = int(self.chosen["support points"].text), seeded("wave explorer", self.button.chosen)
        x = 10 * torch.rand(1, MOST + JUDGED, 1, generator=places) - 5
        x = torch.cat([x[:, :shots], x[:, MOST:]], 1)  # what is judged stays the same
        return {"amplitude": amplitude, "phase": phase, "x": x, "seeds": torch.zeros(1, dtype=torch.int64)}

    def figure(self) -> go.Figure:
        """Adapt all learners to the chosen wave and draw it."""
        tasks = replace(self.tasks, shots=int(self.chosen["support points"].text))
        x, found = waves(self.learners, tasks, self.draw, steps=self.steps)
        return wave_chooser(found, x)


def _slider(words: str, choices: list[str], chosen: int) -> Control:
    return Control(kind="range", words=words, choices=choices, chosen=chosen)
