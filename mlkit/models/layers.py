"""Layers that work with plain weights, or with one set of weights a task stacked along a leading axis.

| | plain | stacked |
|---|---|---|
| weights | (out, in, ...) | (tasks, out, in, ...) |
| input, output | (examples, channels, ...) | (tasks, examples, channels, ...) |

The weights decide: under `torch.func.functional_call` with stacked ones, one call of the model serves all tasks. Plain
weights go through ordinary torch operations, stacked ones through the fast path of `mlkit.models.stacked`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.models import stacked
from mlkit.models.stacked import over, scale_shift_relu, summarize, summarize_convolution


class Linear(nn.Linear):
    """`torch.nn.Linear` that also takes stacked weights: (tasks, examples, in) -> (tasks, examples, out).

    Example:
        >>> layer, x = Linear(3, 2), torch.ones(4, 5, 3)  # 4 tasks, 5 examples
        >>> weights = {name: torch.stack([p] * 4) for name, p in layer.named_parameters()}
        >>> torch.func.functional_call(layer, weights, (x,)).shape
        torch.Size([4, 5, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        if self.weight.dim() == 2:
            return super().forward(x)
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` (zero padding, one group, no dilation) that also takes stacked weights.

    (tasks, examples, channels, height, width) -> (tasks, examples, filters, height', width').
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution plus the bias."""
        y = self.convolve(x)
        return y if self.bias is None else y + over(self.bias, y)

    def convolve(self, x: Tensor) -> Tensor:
        """Return the convolution without the bias."""
        if self.weight.dim() == 4:
            return F.conv2d(x, self.weight, None, self.stride, self.padding)
        return stacked.conv2d(x, self.weight, self.stride, self.padding)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    after: Conv2d | None = None,
    pool: bool = False,
    rectify: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize each channel by its batch statistics, scale by `weight` and shift by `bias` (..., channels).

    Args:
        x: (..., examples, channels) or (..., examples, channels, height, width).
        weight: gamma; its dimensions say whether tasks are stacked.
        bias: beta.
        eps: added to the variance.
        after: convolve x first, without the bias: batch statistics would only take it away again.
        pool: reduce the result by a 2x2 max-pool.
        rectify: apply ReLU to the result.

    Returns:
        the result; mean and biased variance of each channel (..., channels), differentiable.
    """
    first = pool and _pools_first(weight)
    if weight.dim() == 1:
        x, mean, variance = _plain_summary(x if after is None else after.convolve(x))
    elif after is None:
        x, mean, variance = summarize(x, pool=first)
    else:
        x, mean, variance = summarize_convolution(x, after.weight, after.stride, after.padding, pool=first)
    y = normalize(x, mean, variance, weight, bias, eps, pool=pool and not first, rectify=rectify)
    return y, mean, variance


def normalize(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    pool: bool = False,
    rectify: bool = False,
) -> Tensor:
    """Normalize by given statistics: (x - mean) / sqrt(variance + eps) * weight + bias, each (..., channels).

    With `pool` and `rectify` a 2x2 max-pool and ReLU follow.
    """
    if pool and _pools_first(weight):
        x, pool = max_pool(x), False
    scale = weight * torch.rsqrt(variance + eps)
    shift = bias - mean * scale
    if rectify and not pool and weight.dim() == 2 and not x.is_cuda:
        return scale_shift_relu(x, scale, shift)
    y = (x * over(scale, x)).add_(over(shift, x))
    y = max_pool(y) if pool else y
    return relu(y) if rectify else y


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)


def max_pool(x: Tensor) -> Tensor:
    """Return the largest value of each 2x2 window of (..., height, width); odd borders are dropped."""
    return F.max_pool2d(x.flatten(0, -4), 2).unflatten(0, x.shape[:-3])


def _pools_first(weight: Tensor) -> bool:
    """Tell whether pooling commutes with the normalization and is cheaper before it: no channel changes its sign."""
    return weight.dim() == 2 and not weight.is_cuda and bool((weight > 0).all())


def _plain_summary(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dims = (0, *range(2, x.dim()))
    mean = x.mean(dims)
    return x, mean, (x - over(mean, x)).square().mean(dims)
