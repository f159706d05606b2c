"""What both fast paths do with images: cut them into blocks that stay in the cache, and go to and from 2x2 maxima."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SIZE = 2**18  # numbers that fit the cache of a core together with what is computed from them


def blocks(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Cut (tasks, examples, ...) into blocks that stay in the cache: of whole tasks, or of some examples of one."""
    tasks, examples, *image = shape
    count = max(2, SIZE // math.prod(image))
    each = max(1, count // examples)
    for task in range(0, tasks, each):
        for example in range(0, examples, count):
            yield slice(task, task + each), slice(example, example + count)


def unpool(g: Tensor, where: Tensor, size: Sequence[int]) -> Tensor:
    """Put each number of g (images, filters, ...) where the maximum of its 2x2 window was; zeros elsewhere."""
    last = torch.channels_last
    shape = torch.empty(*g.shape[:2], *size, dtype=g.dtype, device=g.device, memory_format=last)  # it is not read
    g = g.contiguous(memory_format=last)
    return torch.ops.aten.max_pool2d_with_indices_backward(g, shape, [2, 2], [2, 2], [0, 0], [1, 1], False, where)


def pick(z: Tensor, where: Tensor) -> Tensor:
    """Take from z (images, filters, height, width) the number where the maximum of each 2x2 window was."""
    places = where.movedim(1, -1)
    picked = z.movedim(1, -1).flatten(1, 2).gather(1, places.flatten(1, 2))
    return picked.view(places.shape).movedim(-1, 1)
