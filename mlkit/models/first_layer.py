"""The fast path of a first convolution: images of few channels, which no gradient is taken of.

A convolution is a linear map of patches, so its batch statistics follow from the patches' own mean and covariance: the
large result need not be gone through. Where only its max-pool is wanted it is not kept either, block after block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Pair = tuple[int, int]
How = tuple[Pair, Pair]  # stride, padding
BLOCK = 2**18  # numbers that fit the cache of a core together with what is computed from them
CHANNELS = 3  # at most so many: patches are small


def serves(x: Tensor) -> bool:
    """Tell whether x (tasks, examples, channels, height, width) can take this path."""
    return x.shape[2] <= CHANNELS and not x.is_cuda and not x.requires_grad


def statistics(x: Tensor, weight: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (tasks, filters) of the convolution of x with `weight`.

    What is left to do with the weights is done in double precision: a filter may all but cancel what patches share.
    """
    with torch.no_grad():
        patches = _patches(x, weight, how)
        center = patches.mean((1, 3))
        patches = patches.sub_(center[:, None, :, None])
        covariance = (patches @ patches.mT).double().sum(1) / (patches.shape[1] * patches.shape[3])
    flat = weight.flatten(2).double()
    mean, variance = (flat * center[:, None]).sum(-1), ((flat @ covariance) * flat).sum(-1)
    return mean.to(x.dtype), variance.to(x.dtype)


def pooled_convolution(x: Tensor, weight: Tensor, how: How) -> Tensor:
    """Return the 2x2 max-pool of the convolution, (tasks, examples, filters, height // 2, width // 2)."""
    return _Pooled.apply(x, weight, how)


def unfolded(x: Tensor, weight: Tensor, how: How) -> Tensor:
    """Return the convolution as matrix products of patches and weights."""
    patches, flat = _patches(x, weight, how), weight.flatten(2).mT.unsqueeze(1).expand(-1, x.shape[1], -1, -1)
    pixels = torch.bmm(patches.flatten(0, 1).mT, flat.flatten(0, 1))  # (tasks * examples, pixels, filters)
    return pixels.view(*x.shape[:2], *_size(x, weight, how), -1).permute(0, 1, 4, 2, 3)


def _patches(x: Tensor, weight: Tensor, how: How) -> Tensor:
    """What each pixel of the convolution sees: (tasks, examples, C k k, pixels)."""
    stride, padding = how
    patches = F.unfold(x.flatten(0, 1), weight.shape[-2:], padding=padding, stride=stride)
    return patches.unflatten(0, x.shape[:2])


def _size(x: Tensor, weight: Tensor, how: How) -> Pair:
    of_axes = zip(x.shape[-2:], weight.shape[-2:], *how, strict=True)
    height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in of_axes)
    return height, width


def _blocks(x: Tensor, weight: Tensor, how: How) -> Iterator[tuple[slice, slice]]:
    """Cut tasks and examples into blocks whose convolution stays in the cache: whole tasks, or parts of one."""
    size = max(2, BLOCK // (weight.shape[1] * math.prod(_size(x, weight, how))))
    each = max(1, size // x.shape[1])
    for task in range(0, x.shape[0], each):
        for example in range(0, x.shape[1], size):
            yield slice(task, task + each), slice(example, example + size)


# The max-pool of x * w is linear in w once it is known where the maxima are. The gradients of the last two functions
# are each other, so they are closed under differentiation. `where` lists the maxima of each block of images.


class _Pooled(Function):
    """W -> the max-pool of x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, how: How) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how, ctx.where = how, []

        def pool(z: Tensor) -> Tensor:
            y, where = F.max_pool2d(z, 2, return_indices=True)
            ctx.where.append(where)
            return y

        return _blockwise(pool, x, w, how)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        return None, _PooledWeight.apply(x, g, ctx.where, w, ctx.how), None


class _PooledWeight(Function):
    """G -> the gradient at w (which gives the shape alone) of the pooled numbers in g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, where: list[Tensor], w: Tensor, how: How) -> Tensor:
        ctx.save_for_backward(x)
        ctx.where, ctx.how = where, how
        size, result = _size(x, w, how), w.new_zeros(w.flatten(2).mT.shape)
        for rows, places in zip(_blocks(x, w, how), where, strict=True):
            pixels = _unpool(g[rows].flatten(0, 1), places, size).movedim(1, -1).flatten(1, 2)
            products = torch.bmm(_patches(x[rows], w, how).flatten(0, 1), pixels)  # (tasks * examples, C k k, filters)
            result[rows[0]] += products.unflatten(0, x[rows].shape[:2]).sum(1)
        return result.mT.reshape(w.shape)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return None, _Picked.apply(x, h, ctx.where, ctx.how), None, None, None


class _Picked(Function):
    """W -> x * w, where the maxima of another convolution are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, where: list[Tensor], how: How) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.where, ctx.how = where, how
        places = iter(where)
        return _blockwise(lambda z: _pick(z, next(places)), x, w, how)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        return None, _PooledWeight.apply(x, g, ctx.where, w, ctx.how), None, None


def _blockwise(reduce: Callable[[Tensor], Tensor], x: Tensor, w: Tensor, how: How) -> Tensor:
    """Convolve block by block, halve each by `reduce`, and lay the results out channels last."""
    height, width = (length // 2 for length in _size(x, w, how))
    result = x.new_empty(*x.shape[:2], height, width, w.shape[1]).movedim(-1, 2)
    for rows in _blocks(x, w, how):
        z = unfolded(x[rows], w[rows[0]], how)
        result[rows] = reduce(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    return result


def _unpool(g: Tensor, where: Tensor, size: Pair) -> Tensor:
    """Put each number of g (images, filters, ...) where the maximum of its window was; zeros elsewhere."""
    last = torch.channels_last
    shape = torch.empty(*g.shape[:2], *size, dtype=g.dtype, memory_format=last)  # its numbers are not read
    g = g.contiguous(memory_format=last)
    return torch.ops.aten.max_pool2d_with_indices_backward(g, shape, [2, 2], [2, 2], [0, 0], [1, 1], False, where)


def _pick(z: Tensor, where: Tensor) -> Tensor:
    """Take from z (images, filters, height, width) the number where the maximum of each window was."""
    places = where.movedim(1, -1)
    picked = z.movedim(1, -1).flatten(1, 2).gather(1, places.flatten(1, 2))
    return picked.view(places.shape).movedim(-1, 1)
