"""Sine tasks: learn one wave from a few of its points."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlkit.project import nearest
from mlkit.tasks.base import Draw, Examples, TaskBatch, content_hash

Range = tuple[float, float]


@dataclass(frozen=True)
class SineSetting:
    """Ranges that amplitudes a and phases c are drawn from, uniformly; `held_out` are those of the test split.

    The wave is y = a sin(x + sign c), with x uniform in [-5, 5].
    """

    amplitude: Range
    phase: Range
    sign: int
    shots: int
    query: int
    held_out: tuple[Range, Range] | None = None  # None: test tasks come from the same ranges as training tasks


SETTINGS = {
    "finn": SineSetting((0.1, 5.0), (0.0, math.pi), -1, shots=10, query=10),  # Finn et al. 2017
    "huisman": SineSetting((0.1, 5.0), (0.0, math.pi), +1, shots=5, query=50),  # Huisman et al. 2022
    "guiroy": SineSetting(  # Guiroy et al. 2019; the paper leaves the ranges open: these are ours
        (0.1, 3.0), (0.0, math.pi / 2), +1, shots=5, query=50, held_out=((3.0, 5.0), (math.pi / 2, math.pi))
    ),
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SineTasks:
    """A distribution of sine tasks: x and y are (tasks, shots or query, 1).

    `draw` names amplitude and phase of each task (tasks,), so that a figure can show the true wave.
    """

    setting: str
    split: str
    shots: int
    query: int
    amplitude: Range
    phase: Range
    sign: int

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose waves and the points they are seen at."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator)

        return {
            "amplitude": uniform(*self.amplitude, count),
            "phase": uniform(*self.phase, count),
            "x": uniform(-5.0, 5.0, count, self.shots + self.query, 1),
            "seeds": torch.randint(2**62, (count,), generator=generator),
        }

    def wave(self, draw: Draw, x: Tensor) -> Tensor:
        """Return y = a sin(x + sign c) at `x` (tasks, points, 1)."""
        a, c = draw["amplitude"][:, None, None], draw["phase"][:, None, None]
        return a * torch.sin(x + self.sign * c)

    def gather(self, draw: Draw) -> TaskBatch:
        """Evaluate the waves; the first `shots` points are the support set."""
        x, y = draw["x"], self.wave(draw, draw["x"])
        k = self.shots
        return TaskBatch(Examples(x[:, :k], y[:, :k]), Examples(x[:, k:], y[:, k:]), draw["seeds"])

    def describe(self) -> dict[str, Any]:
        """Return the ranges and sizes, with their hash."""
        description = {
            "data": "sine",
            "setting": self.setting,
            "split": self.split,
            "shots": self.shots,
            "query": self.query,
            "amplitude": list(self.amplitude),
            "phase": list(self.phase),
            "phase_sign": self.sign,
            "x": [-5.0, 5.0],
            "stand_in": False,
        }
        return description | {"content_hash": content_hash(description, {})}


def sine(
    setting: str = "finn", split: str = "train", *, shots: int | None = None, query: int | None = None
) -> SineTasks:
    """Return the sine tasks of `setting` ("finn", "huisman" or "guiroy"); sizes default to the setting's own.

    Where a setting holds ranges out for testing ("guiroy"), validation tasks come from the training ranges.

    Raises:
        ValueError: The setting or the split is not known, or a size is below 1.

    Example:
        >>> from mlkit.seeding import seeded
        >>> from mlkit.tasks.base import sample
        >>> sample(sine("huisman"), 3, seeded("docs")).query.x.shape
        torch.Size([3, 50, 1])
    """
    if setting not in SETTINGS:
        hint = nearest(setting, SETTINGS)
        raise ValueError(f"expected a sine setting of {', '.join(SETTINGS)}; got {setting!r}; {hint}choose one of them")
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}; got {split!r}")
    chosen = SETTINGS[setting]
    shots = chosen.shots if shots is None else shots
    query = chosen.query if query is None else query
    if min(shots, query) < 1:
        raise ValueError(f"expected shots and query of at least 1, got {shots} and {query}")
    amplitude, phase = chosen.held_out if chosen.held_out and split == "test" else (chosen.amplitude, chosen.phase)
    return SineTasks(setting, split, shots, query, amplitude, phase, chosen.sign)
