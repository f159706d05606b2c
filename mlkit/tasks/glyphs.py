"""`glyphs`: 1,000 made-up characters of a few strokes, 20 drawings each. No download, the same on every machine.

A class is two to four cubic curves; a drawing jitters their control points, bends the whole character by a random
affine map and picks a pen. Only uniform numbers and integer distances are used, so that every machine draws the
same pixels and one content hash serves all.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mlkit.seeding import seeded
from mlkit.tasks.class_folders import ClassTasks, Rotations
from mlkit.tasks.images import ImageClasses

CLASSES, DRAWINGS, SIDE = 1000, 20, 28
SPLITS = {"train": range(640), "val": range(640, 800), "test": range(800, 1000)}
STROKES, POINTS = 4, 32  # curves a character at most; places the pen passes on each
UNITS = 16  # distances are whole numbers of 1/16 pixel
FRAME = 0.68  # longer side of a character, as a fraction of the page; so are the next three
JITTER, BEND, SHIFT = 0.07, 0.3, 0.08  # of control points, of the affine map, of the place
PEN = (12, 22)  # half width of a stroke, in units


def glyphs(
    split: str = "train", *, ways: int = 5, shots: int = 1, query: int = 15, rotations: Rotations = "none"
) -> ClassTasks:
    """Return few-shot tasks on made-up characters, 28 x 28, ink = 1: 640 train, 160 val and 200 test classes.

    Raises:
        ValueError: The split is not known, or a class cannot give `shots + query` (at most 20) images.

    Example:
        >>> from mlkit.tasks.base import sample
        >>> sample(glyphs("val", shots=5), 2, seeded("docs")).support.x.shape
        torch.Size([2, 25, 1, 28, 28])
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}; got {split!r}")
    return ClassTasks(_source(split), split, ways, shots, query, rotations)


@cache
def _source(split: str) -> ImageClasses:
    drawings = _drawings()
    arrays = [_render(*(tensor[classes] for tensor in drawings)) for classes in torch.tensor(SPLITS[split]).split(100)]
    names = [f"glyph{k:04d}" for k in SPLITS[split]]
    return ImageClasses.build("glyphs", torch.cat(arrays).numpy(), names=names, stand_in=True)


def _uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _characters(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return control points (classes, strokes, 4, 2) in [-0.5, 0.5] and which strokes exist (classes, strokes)."""
    ends = _uniform(generator, CLASSES, STROKES, 2, 2, low=-0.36, high=0.36)
    joined = _uniform(generator, CLASSES, STROKES) < 0.6
    for k in range(1, STROKES):  # most strokes start where the one before ended, or in its middle
        end, middle = ends[:, k - 1, 1], ends[:, k - 1].mean(1)
        place = torch.where(_uniform(generator, CLASSES, 1) < 0.5, end, middle)
        ends[:, k, 0] = torch.where(joined[:, k, None], place, ends[:, k, 0])
    start, along = ends[:, :, 0], ends[:, :, 1] - ends[:, :, 0]
    across = torch.stack([-along[..., 1], along[..., 0]], dim=-1)
    bends = _uniform(generator, CLASSES, STROKES, 2, 1, low=-1.0, high=1.0)
    bends = torch.where(_uniform(generator, CLASSES, STROKES, 1, 1) < 0.3, torch.zeros_like(bends), bends)
    inner = [start + along * t + across * bends[:, :, i] for i, t in enumerate((1 / 3, 2 / 3))]
    exists = torch.arange(STROKES) < 2 + (3 * _uniform(generator, CLASSES, 1)).long()
    return _framed(torch.stack([start, *inner, ends[:, :, 1]], dim=2), exists), exists


def _framed(points: Tensor, exists: Tensor) -> Tensor:
    """Move and scale each character into the same frame, so that its place and size do not give it away."""
    absent = ~exists[:, :, None, None]
    low = points.masked_fill(absent, 1.0).amin((1, 2), keepdim=True)
    high = points.masked_fill(absent, -1.0).amax((1, 2), keepdim=True)
    return (points - (low + high) / 2) * (FRAME / (high - low).amax(-1, keepdim=True))


def _drawings() -> tuple[Tensor, Tensor, Tensor]:
    """Return control points (classes, drawings, strokes, 4, 2), which strokes exist, and pens (classes, drawings)."""
    generator = seeded("glyphs")
    points, exists = _characters(generator)
    shape = (CLASSES, DRAWINGS)
    points = points[:, None] + _uniform(generator, *shape, STROKES, 4, 2, low=-JITTER, high=JITTER)
    affine = torch.eye(2, dtype=torch.float64) + _uniform(generator, *shape, 1, 2, 2, low=-BEND, high=BEND)
    points = points @ affine + _uniform(generator, *shape, 1, 1, 2, low=-SHIFT, high=SHIFT)
    pens = (PEN[0] + (PEN[1] - PEN[0] + 1) * _uniform(generator, *shape)).long()
    return points, exists, pens


def _render(points: Tensor, exists: Tensor, pens: Tensor) -> Tensor:
    """Draw (classes, drawings, 1, 28, 28) uint8: 255 within the pen of any curve, fading over one pixel."""
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    bernstein = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    places = ((bernstein @ points + 0.5) * (SIDE - 1) * UNITS).round().int()  # (classes, drawings, strokes, points, 2)
    places = torch.where(exists[:, None, :, None, None], places, -1000).flatten(2, 3).flatten(0, 1)
    nearest = (places + UNITS // 2).div(UNITS, rounding_mode="floor")
    squares = torch.full((len(places), (SIDE + 2) ** 2), 2 * (4 * UNITS) ** 2, dtype=torch.int32)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            pixel = nearest + torch.tensor([dx, dy], dtype=torch.int32)
            square = (pixel * UNITS - places).square().sum(-1, dtype=torch.int32)
            x, y = (pixel.clamp(-1, SIDE) + 1).long().unbind(-1)  # what falls off the page lands in its margin
            squares.scatter_reduce_(1, y * (SIDE + 2) + x, square, "amin")
    page = squares.view(*pens.shape, 1, SIDE + 2, SIDE + 2)[..., 1:-1, 1:-1]
    fade = pens[..., None, None, None] + UNITS // 2 - page.double().sqrt()
    return (fade * 255 / UNITS).clamp(0, 255).byte()
