"""Few-shot classification: tasks of `ways` classes drawn from images that lie in memory once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mlkit.tasks.base import Draw, Examples, TaskBatch
from mlkit.tasks.images import ImageClasses

Rotations = Literal["none", "classes", "random"]


@dataclass(frozen=True, eq=False)
class ClassTasks:
    """Tasks of `ways` classes, `shots` + `query` distinct images each; labels 0..ways-1 follow a random class order.

    x is (tasks, ways * shots, channels, height, width), float32 in [0, 1]; y is (tasks, ways * shots), int64.
    Examples are in class order: the `shots` images of label 0, then those of label 1, and so on.

    `rotations` by quarter turns: "none"; "classes", each turn of a class is a class of its own; "random", each class
    of a task is turned at random (Finn et al. 2017).
    """

    source: ImageClasses
    split: str
    ways: int
    shots: int
    query: int
    rotations: Rotations = "none"

    def __post_init__(self) -> None:
        if self.rotations not in ("none", "classes", "random"):
            raise ValueError(f'expected rotations "none", "classes" or "random", got {self.rotations!r}')
        if min(self.ways, self.shots, self.query) < 1:
            raise ValueError(f"expected ways, shots, query >= 1, got {self.ways}, {self.shots}, {self.query}")
        if self.ways > self.classes:
            raise ValueError(
                f"{self.source.name}/{self.split} has {self.classes} classes, too few for {self.ways} ways; lower ways"
            )
        few = int(self.source.sizes.argmin())
        size, needed = int(self.source.sizes[few]), self.shots + self.query
        if size < needed:
            raise ValueError(
                f"class {self.source.names[few]!r} of {self.source.name}/{self.split} has {size} images, expected at "
                f"least shots + query = {self.shots} + {self.query} = {needed}; lower them or remove the class"
            )

    @property
    def classes(self) -> int:
        """How many classes a task can be made of."""
        return len(self.source.names) * (4 if self.rotations == "classes" else 1)

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose classes without replacement, then images of each without replacement."""
        chosen = distinct(torch.full((count,), self.classes), self.ways, generator)
        turns = torch.zeros_like(chosen)
        if self.rotations == "classes":
            chosen, turns = chosen // 4, chosen % 4
        elif self.rotations == "random":
            turns = torch.randint(4, chosen.shape, generator=generator)
        within = distinct(self.source.sizes[chosen], self.shots + self.query, generator)
        return {
            "images": self.source.offsets[chosen].unsqueeze(-1) + within,  # (tasks, ways, shots + query)
            "turns": turns,  # (tasks, ways)
            "seeds": torch.randint(2**62, (count,), generator=generator),
        }

    def gather(self, draw: Draw) -> TaskBatch:
        """Look the images up on the device where they live; `seeds` stay with the draw."""
        index, turns = draw["images"], draw["turns"]
        labels = torch.arange(self.ways, device=self.source.images.device).view(1, -1, 1).expand(index.shape)

        def examples(part: slice) -> Examples:
            return Examples(self.pixels(index[:, :, part], turns), labels[:, :, part].flatten(1, 2))

        return TaskBatch(examples(slice(self.shots)), examples(slice(self.shots, None)), draw["seeds"])

    def pixels(self, index: Tensor, turns: Tensor) -> Tensor:
        """Look up images by number (tasks, classes, n), each class turned by its quarter turns (tasks, classes).

        Returns:
            (tasks, classes * n, channels, height, width), float32 in [0, 1].
        """
        device = self.source.images.device
        pixels = self.source.images[index.to(device)]  # (tasks, classes, n, C, H, W)
        if self.rotations != "none":
            pixels = self._turned(pixels, turns.to(device))
        return (255 - pixels if self.source.ink else pixels).flatten(1, 2) / 255

    def _turned(self, x: Tensor, turns: Tensor) -> Tensor:
        """Turn the images of each class by its quarter turns, as one lookup of pixels."""
        pixels = self._pixel_orders[turns].view(*turns.shape, 1, 1, -1)
        return x.flatten(-2).gather(-1, pixels.expand(*x.shape[:-2], -1)).view(x.shape)

    @cached_property
    def _pixel_orders(self) -> Tensor:
        height, width = self.source.images.shape[-2:]
        if height != width:
            raise ValueError(f"expected square images to rotate, got {height} x {width}; use rotations='none'")
        upright = torch.arange(height * width, device=self.source.images.device).view(height, width)
        return torch.stack([torch.rot90(upright, turn).flatten() for turn in range(4)])

    def to(self, device: torch.device | str) -> ClassTasks:
        """Move the images to `device`: tasks are then gathered there."""
        return replace(self, source=self.source.to(device))

    def describe(self) -> dict[str, Any]:
        """Return what a record says about the data."""
        return {
            "data": self.source.name,
            "split": self.split,
            "ways": self.ways,
            "shots": self.shots,
            "query": self.query,
            "rotations": self.rotations,
            "classes": self.classes,
            "images": len(self.source.images),
            "shape": list(self.source.images.shape[1:]),
            "content_hash": self.source.content_hash,
            "stand_in": self.source.stand_in,
        }


def distinct(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` distinct integers in [0, size) for each size (...,), in random order: (..., count)."""
    width = int(sizes.max())
    keys = torch.rand(*sizes.shape, width, generator=generator, dtype=torch.float64)
    if int(sizes.min()) < width:
        keys.masked_fill_(torch.arange(width) >= sizes.unsqueeze(-1), -1.0)
    return keys.topk(count, dim=-1).indices


def grid(batch: TaskBatch, *, task: int = 0, query: int = 5, gap: int = 2, invert: bool = False) -> np.ndarray:
    """Lay one task of images out, a row a class: support, a wider gap, the first `query` images of the query set.

    Returns:
        uint8 (height, width, 3), ready for an image trace; `invert` shows ink = 1 as black on white.
    """
    ways = int(batch.support.y[task].max()) + 1

    def rows(examples: Examples, limit: int | None) -> Tensor:
        x = examples.x[task].unflatten(0, (ways, -1))[:, :limit]  # (ways, examples, C, H, W)
        x = torch.nn.functional.pad(x, (0, gap, 0, gap), value=0.0 if invert else 1.0)
        return x.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  # (C, ways * (H + gap), examples * (W + gap))

    support, asked = rows(batch.support, None), rows(batch.query, query)
    space = support.new_full((*support.shape[:2], 3 * gap), 0.0 if invert else 1.0)
    image = torch.cat([support, space, asked], dim=2)[:, :-gap, :-gap].clamp(0, 1).cpu()
    image = (1 - image if invert else image).expand(3, -1, -1)
    return (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
