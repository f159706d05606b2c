"""Decoders of EfficientLab: from coarse features and finer ones of the skip connection to features for the head.

Each takes `skip` (examples, channels, height, width) and `deep`, of fewer pixels, and returns features as large as
`skip`. Source: paper 000, section 4, figure 1 and table 1; where its text and its code differ, its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.models.encoder import EPS, MOMENTUM, draw_normal
from mlkit.models.noise import Dropout
from mlkit.models.normalization import Policy, normalization
from mlkit.models.resized import convolve_joined


def resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize x (examples, channels, ...) to `size` (height, width), bilinearly, corners on corners."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class ResidualSkipDecoder(nn.Module):
    """The residual skip decoder (RSD): three views of the joined features, merged, plus the coarse ones as they were.

    With u = resize(deep) and c = [u, skip]: y = f_3x3([f_1x1(c), f_3x3 dilated by 2(c), mean(c)]) + u, where each f is
    a convolution with a bias, swish, then normalization, and the mean is over all pixels, as a map.

    Args:
        deep: channels of the coarse features, and of the output.
        skip: channels of the finer ones.
        norm: normalization policy.
        residual: add u; without it, the row "w/o residual" of table 1.

    Example:
        >>> decoder = ResidualSkipDecoder(112, 24)
        >>> decoder(torch.rand(1, 24, 16, 16), torch.rand(1, 112, 4, 4)).shape
        torch.Size([1, 112, 16, 16])
        >>> sum(p.numel() for p in decoder.parameters())
        516208
    """

    def __init__(self, deep: int, skip: int, *, norm: Policy = "running", residual: bool = True) -> None:
        super().__init__()
        self.residual, self.shortcut, joined = residual, True, deep + skip
        self.point = _Layer(joined, deep, 1, norm=norm)
        self.wide = _Layer(joined, deep, 3, dilation=2, norm=norm)
        self.merge = _Layer(2 * deep + joined, deep, 3, norm=norm)

    def draw(self) -> None:
        """Draw fresh weights: Glorot uniform, zero biases."""
        draw_glorot(self)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Return features (examples, deep, height, width) as large as `skip`.

        By the shortcut maps are joined where they are convolved, so that what is enlarged or constant costs little.
        """
        up = resize(deep, skip.shape[-2:])
        y = self._by_shortcut(skip, deep, up) if self.shortcut else self._as_defined(skip, up)
        return y + up if self.residual else y

    def _as_defined(self, skip: Tensor, up: Tensor) -> Tensor:
        joined = torch.cat([up, skip], 1)
        mean = joined.mean((-2, -1), keepdim=True).expand_as(joined)
        return self.merge([torch.cat([self.point([joined]), self.wide([joined]), mean], 1)])

    def _by_shortcut(self, skip: Tensor, deep: Tensor, up: Tensor) -> Tensor:
        mean = torch.cat([part.mean((-2, -1), keepdim=True) for part in (up, skip)], 1)
        return self.merge([self.point([deep, skip]), self.wide([deep, skip]), mean])


class PyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017) as the Auto-DeepLab decoder of table 1 has it.

    y = f_1x1([mean, f_3x3 dilated by 6, f_1x1]) with dropout instead of normalization. The released code pools over the
    wrong axes; this is what it means.
    """

    def __init__(self, channels: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.mean = nn.Conv2d(channels, channels, 1)
        self.wide = nn.Conv2d(channels, channels, 3, padding=6, dilation=6)
        self.point = nn.Conv2d(channels, channels, 1)
        self.merge = nn.Conv2d(3 * channels, channels, 1)
        self.drops = nn.ModuleList(Dropout(dropout) for _ in range(4))

    def draw(self) -> None:
        """Draw fresh weights: Glorot uniform, zero biases."""
        draw_glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of x (examples, channels, height, width)."""
        drop_mean, drop_wide, drop_point, drop = self.drops
        mean = F.silu(drop_mean(self.mean(x.mean((-2, -1), keepdim=True)))).expand_as(x)
        views = [mean, drop_wide(F.silu(self.wide(x))), drop_point(F.silu(self.point(x)))]
        return drop(F.silu(self.merge(torch.cat(views, 1))))


class SeparableDecoder(nn.Module):
    """The skip decoder of DeepLab-v3+ (Chen et al. 2018): joined features through two depthwise separable layers.

    As in the code of paper 000, batch normalization uses the batch's own statistics at all times, prediction included:
    where the policy of the network is "running", that of this decoder is "transductive".
    """

    def __init__(self, deep: int, skip: int, *, norm: Policy = "running") -> None:
        super().__init__()
        own: Policy = "transductive" if norm == "running" else norm
        self.project = _normalized(own, skip, deep // 2, 1)
        joined = deep + deep // 2
        self.layers = nn.Sequential(
            _normalized(own, joined, joined, 3, groups=joined),
            _normalized(own, joined, joined, 1),
            _normalized(own, joined, joined, 3, groups=joined),
            _normalized(own, joined, joined, 1),
        )

    def draw(self) -> None:
        """Draw fresh weights as in EfficientNet."""
        draw_normal(self)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        """Return features (examples, 3/2 deep, height, width) as large as `skip`."""
        return self.layers(torch.cat([resize(deep, skip.shape[-2:]), self.project(skip)], 1))


class _Layer(nn.Sequential):
    """Convolution with bias, swish, normalization: the order of paper 000's code; pads to keep the size."""

    def __init__(self, before: int, after: int, kernel: int, *, dilation: int = 1, norm: Policy) -> None:
        convolution = nn.Conv2d(before, after, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        super().__init__(convolution, nn.SiLU(), normalization(norm, after, eps=EPS, momentum=MOMENTUM))

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Take maps that are to be joined, smaller ones as if resized to the largest."""
        convolution, swish, norm = self
        return norm(swish(convolve_joined(convolution, parts)))


def _normalized(norm: Policy, before: int, after: int, kernel: int, *, groups: int = 1) -> nn.Sequential:
    """Return convolution, normalization and swish."""
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, normalization(norm, after, eps=EPS, momentum=MOMENTUM), nn.SiLU())


def draw_glorot(module: nn.Module) -> None:
    """Draw convolutions as Glorot and Bengio (2010), uniform, with zero biases; reset all other layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
