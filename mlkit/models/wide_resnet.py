"""Wide residual networks: what paper 004 computes its 640 features of an image with, and small ones for a CPU."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.models.layers import Conv2d, Linear
from mlkit.models.normalization import Policy, normalization

STEM = 16  # filters of the first convolution


class WideResNet(nn.Module):
    r"""Residual blocks in three groups, then an average over space and a linear head (Zagoruyko and Komodakis 2016).

    x (examples, channels, height, width) in [0, 1] -> scores (examples, ways). A group has (depth - 4) / 6 blocks
    $x + f(x)$, f twice normalization, ReLU and 3x3 convolution; its filters are 16, 32, 64 times `width`.

    Args:
        ways: number of classes.
        depth: number of convolutions, 10, 16, 22, 28, ...
        width: factor of the filters; features have 64 times as many numbers.
        channels: 1 for drawings, 3 for photographs.
        reductions: 2, groups 2 and 3 begin with stride 2 (32 x 32 pixels); 3, so does the first (80 x 80, paper 004).
        norm: normalization policy; with "running" features of an image do not depend on other images.

    Raises:
        ValueError: a depth that makes no whole blocks, or a number out of its range.

    Example:
        >>> sum(p.numel() for p in WideResNet(10).parameters())
        36479194
    """

    def __init__(
        self,
        ways: int,
        *,
        depth: int = 28,
        width: int = 10,
        channels: int = 3,
        reductions: int = 2,
        norm: Policy = "running",
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1 or reductions not in (2, 3):
            raise ValueError(
                f"expected a depth of 10, 16, 22, 28, ..., width >= 1 and 2 or 3 reductions, got depth={depth}, "
                f"width={width}, reductions={reductions}"
            )
        self._described = {"depth": depth, "width": width, "channels": channels, "reductions": reductions}
        widths = [STEM, *(STEM * factor * width for factor in (1, 2, 4))]
        strides = (1 if reductions == 2 else 2, 2, 2)
        self.stem = Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for (before, after), stride in zip(itertools.pairwise(widths), strides, strict=True):
            self.blocks.append(WideBlock(before, after, stride, norm))
            self.blocks.extend(WideBlock(after, after, 1, norm) for _ in range((depth - 4) // 6 - 1))
        self.norm = normalization(norm, widths[-1])
        self.head = Linear(widths[-1], ways)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights from the global generator: convolutions from N(0, 2 / fan_out), the head's bias 0."""
        for module in self.modules():
            if isinstance(module, Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        nn.init.zeros_(self.head.bias)

    def describe(self) -> dict[str, Any]:
        """Return what tells this network from another."""
        return dict(self._described)

    def features(self, x: Tensor) -> Tensor:
        """Return what feeds the head, averaged over space: (examples, 64 * width), all >= 0."""
        return torch.relu(self.norm(self.blocks(self.stem(x)))).mean((-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes, (examples, ways)."""
        return self.head(self.features(x))


class WideBlock(nn.Module):
    """A residual block that normalizes first; where the shape changes, a 1x1 convolution carries x across."""

    def __init__(self, before: int, after: int, stride: int, norm: Policy) -> None:
        super().__init__()
        self.norms = nn.ModuleList([normalization(norm, before), normalization(norm, after)])
        self.convolutions = nn.ModuleList(
            [
                Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
                Conv2d(after, after, 3, padding=1, bias=False),
            ]
        )
        self.across = None
        if before != after or stride != 1:
            self.across = Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + f(x), or a projection of x where the shape changes."""
        y = torch.relu(self.norms[0](x))
        x = x if self.across is None else self.across(y)
        y = self.convolutions[0](y)
        return x + self.convolutions[1](torch.relu(self.norms[1](y)))


def wide_resnet(
    variant: str, ways: int, *, channels: int = 3, reductions: int = 2, norm: Policy = "running"
) -> WideResNet:
    """Return the network called `variant`, depth-width: "28-10" as in paper 004, "10-2" light enough for a CPU.

    Raises:
        ValueError: `variant` is no such name, or no such network.

    Example:
        >>> wide_resnet("10-2", 5).head.in_features
        128
    """
    depth, _, width = variant.partition("-")
    if not (depth.isdecimal() and width.isdecimal()):
        raise ValueError(f'expected a wide residual network named <depth>-<width>, such as "28-10", got {variant!r}')
    return WideResNet(ways, depth=int(depth), width=int(width), channels=channels, reductions=reductions, norm=norm)
