"""The fast path of a first convolution: images of few channels, which no gradient is taken of.

A convolution is a linear map of patches, so its batch statistics follow from the patches' own mean and covariance: the
large result need not be gone through. Where only its max-pool is wanted it is not kept either, block after block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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

    In double precision, on matrices of (C k k)^2 numbers: a filter may all but cancel what the patches have in common.
    """
    with torch.no_grad():
        patches = _patches(x, weight, how).double()
        center = patches.mean((1, 3))
        offset = patches - center[:, None, :, None]
        covariance = (offset @ offset.mT).sum(1) / (patches.shape[1] * patches.shape[3])
    flat = weight.flatten(2).double()
    mean, variance = (flat * center[:, None]).sum(-1), ((flat @ covariance) * flat).sum(-1)
    return mean.to(x.dtype), variance.to(x.dtype)


def pooled_convolution(x: Tensor, weight: Tensor, how: How) -> Tensor:
    """Return the 2x2 max-pool of the convolution, (tasks, examples, filters, height // 2, width // 2)."""
    return _Pooled.apply(x, weight, how)[0]


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
# are each other, so they are closed under differentiation.


class _Pooled(Function):
    """W -> the max-pool of x * w, and where its maxima are (as `torch.nn.functional.max_pool2d` counts)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, how: How) -> tuple[Tensor, Tensor]:
        parts = []
        for tasks, examples in _blocks(x, w, how):
            z = unfolded(x[tasks, examples], w[tasks], how)
            parts.append(F.max_pool2d(z.flatten(0, 1), 2, return_indices=True))
        y, where = (_join(part).unflatten(0, x.shape[:2]) for part in zip(*parts, strict=True))
        ctx.save_for_backward(x, w, where)
        ctx.how = how
        ctx.mark_non_differentiable(where)
        return y, where

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, w, where = ctx.saved_tensors
        return None, _PooledWeight.apply(x, g, where, w, ctx.how), None


class _PooledWeight(Function):
    """G -> the gradient at w (which gives the shape alone) of the pooled numbers in g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, where: Tensor, w: Tensor, how: How) -> Tensor:
        ctx.save_for_backward(x, where)
        ctx.how = how
        height, width = _size(x, w, how)
        result = w.new_zeros(w.flatten(2).mT.shape)
        for tasks, examples in _blocks(x, w, how):
            images = x[tasks, examples]
            spread = _unpool(g[tasks, examples].flatten(0, 1), where[tasks, examples].flatten(0, 1), height, width)
            pixels = spread.movedim(1, -1).flatten(1, 2)  # (tasks * examples, pixels, filters)
            products = torch.bmm(_patches(images, w, how).flatten(0, 1), pixels)
            result[tasks] += products.unflatten(0, images.shape[:2]).sum(1)
        return result.mT.reshape(w.shape)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        x, where = ctx.saved_tensors
        return None, _Picked.apply(x, h, where, ctx.how), None, None, None


class _Picked(Function):
    """W -> x * w, where the maxima of another convolution are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, where: Tensor, how: How) -> Tensor:
        ctx.save_for_backward(x, w, where)
        ctx.how = how
        parts = []
        for tasks, examples in _blocks(x, w, how):
            z = unfolded(x[tasks, examples], w[tasks], how).flatten(0, 1)
            parts.append(_pick(z, where[tasks, examples].flatten(0, 1)))
        return _join(parts).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, where = ctx.saved_tensors
        return None, _PooledWeight.apply(x, g, where, w, ctx.how), None, None


def _unpool(g: Tensor, where: Tensor, height: int, width: int) -> Tensor:
    """Put each number of g (images, filters, ...) where the maximum of its window was; zeros elsewhere."""
    g = g.contiguous(memory_format=torch.channels_last)
    shape = g.new_empty(*g.shape[:2], height, width).to(memory_format=torch.channels_last)  # its numbers are not read
    return torch.ops.aten.max_pool2d_with_indices_backward(g, shape, [2, 2], [2, 2], [0, 0], [1, 1], False, where)


def _pick(z: Tensor, where: Tensor) -> Tensor:
    """Take from z (images, filters, height, width) the number where the maximum of each window was."""
    places = where.movedim(1, -1)
    picked = z.movedim(1, -1).flatten(1, 2).gather(1, places.flatten(1, 2))
    return picked.view(places.shape).movedim(-1, 1)


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenate images along axis 0; they lie channels last."""
    return parts[0] if len(parts) == 1 else torch.cat([part.movedim(1, -1) for part in parts]).movedim(-1, 1)
