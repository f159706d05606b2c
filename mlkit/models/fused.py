"""Batch normalization and swish of images on the CPU, for plain weights: few passes over memory, no digit lost.

Images that lie channels last are a matrix, pixels x channels. torch adds up the statistics of such a matrix pixel by
pixel, which costs up to two digits; here groups of pixels have their own, which are then averaged.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

FEW, TOGETHER, GROUPS = 256, 64, 512  # so many pixels are few; in a group; groups at most


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, swish: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize each channel of x (examples, channels, ...) by its batch statistics, scale, shift; swish may follow.

    Second derivatives, `vmap`, other devices and few pixels take torch's operations.

    Args:
        x: fastest where it lies channels last.
        weight: gamma (channels,).
        bias: beta (channels,).
        eps: added to the variance.
        swish: apply z sigmoid(z) to the result.

    Returns:
        the result; mean and biased variance (channels,) without a graph.

    Example:
        >>> x, one = torch.randn(8, 3, 4, 4), torch.ones(3)
        >>> y, mean, _ = batch_norm(x, one, 0 * one, 1e-3, swish=False)
        >>> torch.allclose(y, F.batch_norm(x, None, None, training=True, eps=1e-3), atol=1e-5)
        True
    """
    if x.is_cuda or x.dtype != weight.dtype or x.numel() < FEW * x.shape[1]:
        return _ordinary(x, weight, bias, eps, swish)
    return _Normalized.apply(x, weight, bias, eps, swish)


def statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each column of a matrix, each (columns,)."""
    groups = _groups(len(rows))
    found = torch.ops.aten.batch_norm_update_stats(rows.view(len(rows) // groups, -1), None, None, 0.0)
    means, variances = (values.view(groups, -1) for values in found)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _ordinary(x: Tensor, weight: Tensor, bias: Tensor, eps: float, swish: bool) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, deviation = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    variance = (deviation.detach() ** -2 - eps).clamp_min(0)
    return F.silu(y) if swish else y, mean.detach(), variance


class _Normalized(Function):
    """(x, gamma, beta) -> swish(gamma (x - mean) / sqrt(variance + eps) + beta), mean, variance."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, swish: bool) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x)
        mean, variance = statistics(rows)
        scale = weight * torch.rsqrt(variance + eps)
        y = torch.addcmul(bias - mean * scale, rows, scale)
        return _images(F.silu(y, inplace=True) if swish else y, x), mean, variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, bias, eps, swish = inputs
        _, mean, variance = output
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.how = eps, swish

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _gradient_with_graph if torch.is_grad_enabled() else _gradient
        return *gradient(g, *ctx.saved_tensors, *ctx.how), None, None

    @staticmethod
    def vmap(_info: Any, in_dims: tuple, *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return torch.vmap(_ordinary, in_dims)(*inputs), (0, 0, 0)


def _gradient(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients at x, gamma and beta."""
    inverse = torch.rsqrt(variance + eps)
    scale, rows, slopes = weight * inverse, _rows(x), _rows(g)
    if swish:
        z = torch.addcmul(bias - mean * scale, rows, scale)
        slopes = torch.ops.aten.silu_backward(slopes, z, grad_input=z)
    product, total = _products(slopes, rows, mean, inverse)
    tilt = scale * inverse * product / len(rows)
    rest = mean * tilt - scale * total / len(rows)
    of_x = torch.addcmul(rest, slopes, scale, **({"out": slopes} if swish else {})).addcmul_(rows, tilt, value=-1)
    return _images(of_x, x), product, total


def _products(slopes: Tensor, rows: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over pixels of slopes * normalized rows, and of slopes."""
    groups = _groups(len(rows))
    dealt = (matrix.view(len(rows) // groups, -1) for matrix in (slopes, rows))
    moments = (values.repeat(groups) for values in (mean, inverse))
    sums = torch.ops.aten.native_batch_norm_backward(*dealt, None, None, None, *moments, True, 0.0, [False, True, True])
    return sums[1].view(groups, -1).sum(0), sums[2].view(groups, -1).sum(0)


def _gradient_with_graph(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, _mean: Tensor, _variance: Tensor, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by operations that can be differentiated again."""
    dims = (0, *range(2, x.dim()))
    across = (-1, *(1 for _ in dims[1:]))
    offset = x - x.mean(dims, keepdim=True)
    inverse = torch.rsqrt(offset.square().mean(dims, keepdim=True) + eps)
    normal = offset * inverse
    if swish:
        z = normal * weight.view(across) + bias.view(across)
        g = g * torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))
    flat = g - g.mean(dims, keepdim=True) - normal * (g * normal).mean(dims, keepdim=True)
    return flat * inverse * weight.view(across), (g * normal).sum(dims), g.sum(dims)


def _rows(x: Tensor) -> Tensor:
    """Return x (examples, channels, ...) as a matrix of pixels x channels; a view where channels lie last."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).contiguous()


def _images(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)


def _groups(pixels: int) -> int:
    """Return into how many groups, all of one size, so many pixels are dealt."""
    return math.gcd(pixels, min(GROUPS, pixels // TOGETHER) or 1)
