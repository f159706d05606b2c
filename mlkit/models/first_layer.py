"""The fast path of a first convolution: images of few channels, which no gradient is taken of.

A convolution is a linear map of patches, so its batch statistics follow from the patches' own mean and covariance: the
large result need not be gone through. Where only its max-pool is wanted it is not kept either, block after block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from mlkit.models.blocks import blocks, pick, unpool

Pair = tuple[int, int]
How = tuple[Pair, Pair]  # stride, padding
CHANNELS = 3  # at most so many: patches are small


def serves(x: Tensor) -> bool:
    """Tell whether x (tasks, examples, channels, height, width) can take this path."""
    return x.shape[2] <= CHANNELS and not x.is_cuda and not x.requires_grad


def unfold(x: Tensor, weight: Tensor, how: How) -> Tensor:
    """What each pixel of the convolution sees: (tasks, examples, C k k, pixels)."""
    stride, padding = how
    patches = F.unfold(x.flatten(0, 1), weight.shape[-2:], padding=padding, stride=stride)
    return patches.unflatten(0, x.shape[:2])


def size(x: Tensor, weight: Tensor, how: How) -> Pair:
    """Height and width of the convolution."""
    of_axes = zip(x.shape[-2:], weight.shape[-2:], *how, strict=True)
    height, width = ((n + 2 * p - k) // s + 1 for n, k, s, p in of_axes)
    return height, width


def statistics(patches: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (tasks, filters) of the convolution with `weight`.

    Patches are centered first; what is left to do with the weights is done in double precision: a filter may all but
    cancel what patches share.
    """
    with torch.no_grad():
        center = patches.mean((1, 3), dtype=torch.float64)
        offset = patches - center.to(patches.dtype)[:, None, :, None]
        covariance = (offset @ offset.mT).sum(1, dtype=torch.float64) / (patches.shape[1] * patches.shape[3])
    flat = weight.flatten(2).double()
    mean, variance = (flat * center[:, None]).sum(-1), ((flat @ covariance) * flat).sum(-1)
    return mean.to(patches.dtype), variance.to(patches.dtype)


def convolution(patches: Tensor, weight: Tensor, size: Pair) -> Tensor:
    """Return the convolution, (tasks, examples, filters, height, width), as products of patches and weights."""
    flat = weight.flatten(2).mT.unsqueeze(1).expand(-1, patches.shape[1], -1, -1)
    pixels = torch.bmm(patches.flatten(0, 1).mT, flat.flatten(0, 1))  # (tasks * examples, pixels, filters)
    return pixels.view(*patches.shape[:2], *size, -1).permute(0, 1, 4, 2, 3)


def pooled_convolution(patches: Tensor, weight: Tensor, size: Pair) -> Tensor:
    """Return the 2x2 max-pool of the convolution, (tasks, examples, filters, height // 2, width // 2)."""
    return _Pooled.apply(patches, weight, size)


# The max-pool of a convolution is linear in the weights once it is known where the maxima are. The gradients of the
# last two functions are each other, so they are closed under differentiation. `where` lists the maxima of each block.


class _Pooled(Function):
    """W -> the max-pool of the convolution."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, w: Tensor, size: Pair) -> Tensor:
        where: list[Tensor] = []

        def pool(z: Tensor, out: Tensor) -> None:
            where.append(torch.empty_like(out, dtype=torch.int64))
            torch.ops.aten.max_pool2d_with_indices(z, [2, 2], [2, 2], out=out, indices=where[-1])

        y = _blockwise(pool, patches, w, size)
        ctx.size = size
        ctx.save_for_backward(patches, w, *where)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        patches, w, *where = ctx.saved_tensors
        return None, _PooledWeight.apply(g, w.shape, ctx.size, patches, *where), None


class _PooledWeight(Function):
    """G -> the gradient at w, of `shape`, of the pooled numbers in g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, shape: torch.Size, size: Pair, patches: Tensor, *where: Tensor) -> Tensor:
        ctx.size = size
        ctx.save_for_backward(patches, *where)
        result = patches.new_zeros(len(patches), patches.shape[2], shape[1])
        for rows, places in zip(blocks((*patches.shape[:2], shape[1], *size)), where, strict=True):
            pixels = unpool(g[rows].flatten(0, 1), places, size).movedim(1, -1).flatten(1, 2)
            products = torch.bmm(patches[rows].flatten(0, 1), pixels)  # (tasks * examples, C k k, filters)
            result[rows[0]] += products.unflatten(0, patches[rows].shape[:2]).sum(1)
        return result.mT.reshape(shape)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        patches, *where = ctx.saved_tensors
        return _Picked.apply(h, ctx.size, patches, *where), None, None, None, *[None for _ in where]


class _Picked(Function):
    """W -> the convolution where the maxima of another one are."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, size: Pair, patches: Tensor, *where: Tensor) -> Tensor:
        ctx.size, ctx.shape = size, w.shape
        ctx.save_for_backward(patches, *where)
        places = iter(where)
        return _blockwise(lambda z, out: out.copy_(pick(z, next(places))), patches, w, size)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        patches, *where = ctx.saved_tensors
        of_w = _PooledWeight.apply(g, ctx.shape, ctx.size, patches, *where)
        return of_w, None, None, *[None for _ in where]


def _blockwise(reduce: Callable[[Tensor, Tensor], object], patches: Tensor, w: Tensor, size: Pair) -> Tensor:
    """Convolve block by block, let `reduce` halve each (images, ...) into its second argument, channels last."""
    height, width = (length // 2 for length in size)
    result = patches.new_empty(*patches.shape[:2], height, width, w.shape[1]).movedim(-1, 2)
    for rows in blocks((*patches.shape[:2], w.shape[1], *size)):
        z = convolution(patches[rows], w[rows[0]], size)
        reduce(z.flatten(0, 1), result[rows].flatten(0, 1))
    return result
