"""Convolution of an enlarged map, at the cost of the small one: both are linear, so channels can be mixed first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve_resized(x: Tensor, weight: Tensor, size: tuple[int, int], *, dilation: int = 1) -> Tensor:
    r"""Convolve what x is when resized (bilinearly, corners on corners) to `size`, without resizing it; size is kept.

    With U the interpolation along a side, and U_i the same shifted by the i-th tap of the kernel and padded with zeros,
    $$w * (U x U^\top) = \sum_{ij} U_i\, (w_{ij} x)\, U_j^\top,$$ exactly; on the right are products of matrices.
    A map of one pixel becomes a constant one: the mean over an image, shown to every pixel.

    Args:
        x: (examples, channels, h, w).
        weight: (filters, channels, k, k), k odd.
        size: height and width to resize to.
        dilation: of the convolution.

    Returns:
        (examples, filters, *size).

    Example:
        >>> x, weight = torch.rand(2, 3, 4, 4), torch.rand(5, 3, 3, 3)
        >>> large = F.interpolate(x, (16, 16), mode="bilinear", align_corners=True)
        >>> torch.allclose(convolve_resized(x, weight, (16, 16)), F.conv2d(large, weight, padding=1), atol=1e-5)
        True
    """
    filters, channels, k, _ = weight.shape
    rows, columns = (
        _shifted(small, large, k, dilation, x.dtype, x.device) for small, large in zip(x.shape[-2:], size, strict=True)
    )
    mixed = x.movedim(1, -1) @ weight.permute(1, 2, 3, 0).reshape(channels, -1)
    mixed = mixed.unflatten(-1, (k, k, filters)).permute(0, 3, 1, 4, 2, 5)  # (examples, k, h, k, w, filters)
    wide = columns.mT @ mixed.flatten(3, 4).flatten(1, 2)  # (examples, k h, width, filters)
    return (rows.mT @ wide.flatten(2)).unflatten(-1, (size[1], filters)).movedim(-1, 1)


def convolve_joined(convolution: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """Convolve maps joined along channels, smaller ones as if resized to the largest; the same with fewer operations.

    Args:
        convolution: of stride 1, padded to keep the size.
        parts: maps (examples, channels, height, width), in the order of the convolution's channels.
    """
    size = max(part.shape[-2:] for part in parts)
    pairs = list(zip(parts, convolution.weight.split([part.shape[1] for part in parts], 1), strict=True))
    large = [pair for pair in pairs if pair[0].shape[-2:] == size]
    small = [pair for pair in pairs if pair[0].shape[-2:] != size]
    x, weight = (torch.cat(tensors, 1) for tensors in zip(*large, strict=True))
    y = F.conv2d(x, weight, convolution.bias, 1, convolution.padding, convolution.dilation)
    for part, weight in small:
        y = y + convolve_resized(part, weight, size, dilation=convolution.dilation[0])
    return y


@cache
def _shifted(small: int, large: int, k: int, dilation: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the transposed U_1 ... U_k, one below the other: (k small, large)."""
    across = F.interpolate(torch.eye(small, dtype=dtype, device=device)[None], large, mode="linear", align_corners=True)
    padded = F.pad(across[0], [dilation * (k // 2)] * 2)
    return torch.cat([padded[:, tap * dilation : tap * dilation + large] for tap in range(k)])
