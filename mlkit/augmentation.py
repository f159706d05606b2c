"""Random changes of pictures together with their masks, as in the code of paper 000; each task by its own seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from mlkit.models.noise import scrambled
from mlkit.tasks.base import Examples
from mlkit.vision import transforms

NUMBERS = 8  # that each change of a picture may use
FARTHEST = 23 / 224  # that a picture is shifted, as a share of its side
Pair = tuple[Tensor, Tensor]  # pictures (n, 3, H, W) in [0, 1], masks (n, H, W)


@dataclass(frozen=True)
class Augmentation:
    """Change a share `rate` of the pictures by some of the `kinds`: a random number of them, in random order.

    | kind | what it does |
    |---|---|
    | erase | paints a rectangle of 2-10 % of the picture gray; there the mask becomes background |
    | translate | shifts by up to 23/224 of the side, around the edge or filling with a color and background |
    | flip | mirrors left and right |
    | noise | adds Gaussian noise of about 5.1/255 |
    | exposure | adds one number of about 12.75/255 to all pixels |
    | rotate | turns by -45 to 44 degrees; the border reflects, mirrors, wraps, or is noise or gray and background |

    Masks may be shares of pixels or integer labels; 0 is background. What is drawn depends on each task's seed, the
    step and the place of the picture in its batch, never on how tasks are batched or on the device.

    Args:
        rate: probability that a picture is changed at all.
        kinds: names out of KINDS.
        faithful_translate: blank a strip across the shift, as the authors' code does, rather than the one left behind.

    Raises:
        ValueError: an unknown kind, none or one twice, or a rate outside [0, 1].

    Example:
        >>> pictures = Examples(torch.rand(2, 5, 3, 32, 32), torch.ones(2, 5, 32, 32))
        >>> Augmentation()(pictures, seeds=torch.tensor([3, 4]), step=0).x.shape
        torch.Size([2, 5, 3, 32, 32])
    """

    rate: float = 0.5
    kinds: tuple[str, ...] = ("erase", "translate", "flip", "noise", "exposure", "rotate")
    faithful_translate: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"expected kinds out of {', '.join(KINDS)}, each at most once; got {self.kinds}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"expected a rate in [0, 1], got {self.rate}; it is the share of changed pictures")

    def __call__(self, examples: Examples, seeds: Tensor, step: int) -> Examples:
        """Change x (tasks, n, 3, H, W) in [0, 1] and y (tasks, n, H, W), with `seeds` (tasks,)."""
        shape, kinds = examples.y.shape[:2], len(self.kinds)
        x, y = (tensor.flatten(0, 1).clone() for tensor in (examples.x, examples.y))
        numbers = _numbers(seeds, step, shape[1], 2 + kinds * (1 + NUMBERS))
        chance = _uniform(numbers)
        order = chance[:, 2 : 2 + kinds].argsort(1)
        count = torch.where(chance[:, 0] < self.rate, 1 + (kinds * chance[:, 1]).long(), 0)
        of_kind = numbers[:, 2 + kinds :].unflatten(1, (kinds, NUMBERS))
        for place in range(kinds):
            for k, name in enumerate(self.kinds):
                rows = ((order[:, place] == k) & (place < count)).nonzero()[:, 0]
                if len(rows):
                    drawn, here = of_kind[rows, k].to(x.device), rows.to(x.device)
                    x[here], y[here] = self._change(name)(x[here], y[here], drawn)
        return Examples(x.unflatten(0, shape), y.unflatten(0, shape))

    def _change(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Pair]:
        if name == "translate" and self.faithful_translate:
            return lambda x, y, numbers: translate(x, y, numbers, across=True)
        return KINDS[name]

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        faithful = {"faithful_translate": True} if self.faithful_translate else {}
        return {"rate": self.rate, "kinds": list(self.kinds), **faithful}


def erase(x: Tensor, y: Tensor, numbers: Tensor) -> Pair:
    """Paint a rectangle in one gray: 2-10 % of the picture, height 0.3-3.33 times the width, cut at the border."""
    area, aspect, left, top, gray = _columns(_uniform(numbers, x.dtype), 5)
    height, width = x.shape[-2:]
    area, aspect = (0.02 + 0.08 * area) * height * width, 0.3 + 3.03 * aspect
    rows, columns = _grid(x)
    left, top = (left * width).floor(), (top * height).floor()
    tall, wide = (area * aspect).sqrt().floor(), (area / aspect).sqrt().floor()
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return torch.where(inside[:, None], gray[:, None], x), y.masked_fill(inside, 0)


def translate(x: Tensor, y: Tensor, numbers: Tensor, *, across: bool = False) -> Pair:
    """Shift along one axis, around the edge or blanking the strip left behind; with `across` one along the shift."""
    chance = _uniform(numbers, x.dtype)
    vertical, back, far, around = _columns(chance[:, :4], 4)
    height, width = x.shape[-2:]
    shift = 1 + (far * max(1, round(FARTHEST * height))).floor()
    shift = torch.where(back < 0.5, -shift, shift)
    zero = torch.zeros_like(shift)
    down, right = torch.where(vertical < 0.5, shift, zero), torch.where(vertical < 0.5, zero, shift)
    rows, columns = _grid(x)
    source = ((rows - down) % height * width + (columns - right) % width).long().flatten(1)
    x = x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    y = y.flatten(1).gather(1, source).view_as(y)
    if across:
        down, right = right, down
    left_behind = (rows < down) | (rows >= height + down) | (columns < right) | (columns >= width + right)
    blank = left_behind & (around < 0.5)
    return torch.where(blank[:, None], chance[:, 4:7, None, None], x), y.masked_fill(blank, 0)


def flip(x: Tensor, y: Tensor, numbers: Tensor) -> Pair:
    """Mirror left and right."""
    del numbers
    mirrored = transforms.functional.horizontal_flip
    return mirrored(x), mirrored(y)


def noise(x: Tensor, y: Tensor, numbers: Tensor) -> Pair:
    """Add Gaussian noise; its standard deviation is itself drawn, |N(5.1, 1)| / 255."""
    deviation = (5.1 + _normal(_uniform(numbers[:, 0], x.dtype))).abs() / 255
    return (x + deviation.view(-1, 1, 1, 1) * _normal(_many(numbers[:, 1], x))).clamp(0, 1), y


def exposure(x: Tensor, y: Tensor, numbers: Tensor) -> Pair:
    """Add one number to all pixels; its standard deviation is itself drawn, |N(12.75, 1)| / 255."""
    first, second = _normal(_uniform(numbers[:, :2], x.dtype)).unbind(1)
    return (x + ((12.75 + first).abs() / 255 * second).view(-1, 1, 1, 1)).clamp(0, 1), y


def rotate(x: Tensor, y: Tensor, numbers: Tensor) -> Pair:
    """Turn by a whole number of degrees, pictures by bicubic, masks by nearest interpolation."""
    angle, border, noisy, gray = _columns(_uniform(numbers, x.dtype), 4)
    angle, border = ((90 * angle).floor() - 45) * (math.pi / 180), (4 * border).floor()
    height, width = x.shape[-2:]
    rows, columns = _grid(x)
    down, right = rows - (height - 1) / 2, columns - (width - 1) / 2
    row = angle.cos() * down - angle.sin() * right + (height - 1) / 2
    column = angle.sin() * down + angle.cos() * right + (width - 1) / 2
    beyond = (row < -0.5) | (row > height - 0.5) | (column < -0.5) | (column > width - 0.5)
    row, column = _bordered(row, height, border), _bordered(column, width, border)
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], -1)
    how = {"padding_mode": "border", "align_corners": False}
    x = grid_sample(x, grid, mode="bicubic", **how).clamp(0, 1)
    y = grid_sample(y[:, None].to(x.dtype), grid, mode="nearest", **how)[:, 0].to(y.dtype)
    beyond = beyond & (border == 3)
    filled = torch.where(noisy[:, None] < 0.5, _many(numbers[:, 4], x), gray[:, None])
    return torch.where(beyond[:, None], filled, x), y.masked_fill(beyond, 0)


KINDS = {f.__name__: f for f in (erase, translate, flip, noise, exposure, rotate)}


def _bordered(at: Tensor, size: int, border: Tensor) -> Tensor:
    """Bring coordinates back inside: border 0 reflects at the edge of pixels, 1 at their centers, 2 wraps."""

    def folded(at: Tensor, period: int) -> Tensor:
        at = at % period
        return torch.minimum(at, period - at)

    wrapped = (at + 0.5) % size - 0.5
    inside = torch.where(border == 0, folded(at + 0.5, 2 * size) - 0.5, folded(at, 2 * size - 2))
    return torch.where(border == 3, at, torch.where(border == 2, wrapped, inside))


def _grid(x: Tensor) -> Pair:
    """Return the row (1, H, 1) and the column (1, 1, W) of every pixel."""
    rows, columns = (torch.arange(size, device=x.device, dtype=x.dtype) for size in x.shape[-2:])
    return rows.view(1, -1, 1), columns.view(1, 1, -1)


def _numbers(seeds: Tensor, step: int, pictures: int, count: int) -> Tensor:
    """Return hashes (tasks * pictures, count) of each task's seed, the step and the place of the picture."""
    start = scrambled(seeds.cpu()[:, None], step + 1)[:, -1:]
    return scrambled(start, pictures * count).view(-1, count)


def _uniform(numbers: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn hashes into numbers in (0, 1), the same in single and double precision."""
    return ((numbers & (2**22 - 1)).to(dtype) + 0.5) / 2**22


def _normal(uniform: Tensor) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _many(states: Tensor, x: Tensor) -> Tensor:
    """Return uniform numbers in the shape of x, two from each hash that follows `states` (n,)."""
    count = x[0].numel()
    halves = scrambled(states[:, None], -(-count // 2)).view(torch.int32)[:, :count]
    return _uniform(halves, x.dtype).view_as(x)


def _columns(values: Tensor, count: int) -> tuple[Tensor, ...]:
    """Split off the first `count` columns, each (n, 1, 1)."""
    return values[:, :count, None, None].unbind(1)
