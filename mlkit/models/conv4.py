"""Four convolution blocks and a linear head: the classifier of the few-shot image papers, in their variants."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from torch import Tensor, nn

from mlkit.models.layers import Conv2d, Linear, max_pool, relu
from mlkit.models.normalization import BatchNorm, Policy, normalization


class Conv4(nn.Module):
    """Blocks of 3x3 convolution, normalization, ReLU and down-sampling by 2; then a linear layer.

    x (examples, channels, size, size) -> scores (examples, ways). The features that feed the head are flattened
    (`head="flatten"`) or averaged over space (`head="mean"`).

    Args:
        ways: number of classes of a task.
        size: height and width of the images, in pixels.
        channels: 1 for drawings, 3 for photographs.
        filters: filters of each block.
        padding: of each convolution, 0 or 1.
        downsample: "pool", a 2x2 max-pool that drops odd borders; "stride", convolutions of stride 2.
        head: what becomes of the last feature map.
        norm: normalization policy.
        eps: of the normalization.
        init: "pytorch" weights, or "xavier" uniform weights with zero biases.

    Raises:
        ValueError: the images are too small for four blocks.
    """

    def __init__(
        self,
        ways: int,
        *,
        size: int,
        channels: int,
        filters: int = 64,
        padding: int = 1,
        downsample: Literal["pool", "stride"] = "pool",
        head: Literal["flatten", "mean"] = "flatten",
        norm: Policy = "transductive",
        eps: float = 1e-5,
        init: Literal["pytorch", "xavier"] = "pytorch",
    ) -> None:
        super().__init__()
        self.pool, self.mean, self.init = downsample == "pool", head == "mean", init
        self._described = {
            "size": size, "channels": channels, "filters": filters, "padding": padding, "downsample": downsample,
            "head": head, "eps": eps, "init": init,
        }  # fmt: skip
        stride = 1 if self.pool else 2
        widths = [channels, filters, filters, filters, filters]
        self.convolutions = nn.ModuleList(
            Conv2d(before, after, 3, stride=stride, padding=padding) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(normalization(norm, filters, eps=eps) for _ in range(4))
        final = _final_size(size, padding, stride, self.pool)
        self.head = Linear(filters if self.mean else filters * final * final, ways)
        self.reset_parameters()

    @property
    def stacks_tasks(self) -> bool:
        """Whether one call serves many tasks (group normalization goes through vmap instead)."""
        return all(getattr(norm, "stacks_tasks", isinstance(norm, nn.Identity)) for norm in self.norms)

    def reset_parameters(self) -> None:
        """Draw fresh weights from the global generator."""
        for layer in (*self.convolutions, *self.norms, self.head):
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        for layer in (*self.convolutions, self.head):
            if self.init == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            if self.init == "xavier" or layer is self.head:
                nn.init.zeros_(layer.bias)

    def describe(self) -> dict[str, Any]:
        """Return what tells this network from another."""
        return dict(self._described)

    def features(self, x: Tensor) -> Tensor:
        """Return what feeds the head: (..., examples, filters * size * size), or (..., examples, filters) for mean."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            if isinstance(norm, BatchNorm):
                x = norm(x, after=convolution, pool=self.pool, rectify=True)
            else:
                x = norm(convolution(x))
                x = relu(max_pool(x) if self.pool else x)
        return x.mean((-2, -1)) if self.mean else x.flatten(-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes, (..., examples, ways)."""
        return self.head(self.features(x))


def _final_size(size: int, padding: int, stride: int, pool: bool) -> int:
    final = size
    for _ in range(4):
        final = (final + 2 * padding - 3) // stride + 1
        final = final // 2 if pool else final
    if final < 1:
        raise ValueError(
            f"expected images that survive four blocks of down-sampling, got {size} pixels with padding {padding}; "
            "use larger images, padding=1, or downsample='stride'"
        )
    return final


Variant = Literal["finn-omniglot", "finn-mini", "guiroy-omniglot", "guiroy-mini", "huisman", "chen", "small"]


def conv4(variant: Variant, ways: int, *, size: int, channels: int, norm: Policy = "transductive") -> Conv4:
    """Return the conv4 that a paper used, for images of any size.

    | variant | filters | padding | down-sampling | head | source |
    |---|---|---|---|---|---|
    | finn-omniglot | 64 | 1 | stride | mean | Finn et al. 2017, Omniglot |
    | finn-mini | 32 | 1 | pool | flatten | Finn et al. 2017, miniImageNet |
    | guiroy-omniglot | 64 | 1 | stride | mean | paper 003, Omniglot |
    | guiroy-mini | 48 | 1 | pool | flatten | paper 003, miniImageNet |
    | huisman | 64 | 0 | pool | flatten | paper 002 (needs images of at least 46 pixels) |
    | chen | 64 | 1 | pool | flatten | Chen et al. 2019 |
    | small | 32 | 1 | pool | flatten | a light net for 28-32 pixel images; of no paper |

    Not as in the sources: Finn et al. normalize without gamma, and draw the head for Omniglot from N(0, 1).

    Raises:
        ValueError: the variant is unknown, or the images are too small for it.
    """
    variants = {
        "finn-omniglot": {"filters": 64, "downsample": "stride", "head": "mean", "eps": 1e-3, "init": "xavier"},
        "finn-mini": {"filters": 32, "eps": 1e-3, "init": "xavier"},
        "guiroy-omniglot": {"filters": 64, "downsample": "stride", "head": "mean", "init": "xavier"},
        "guiroy-mini": {"filters": 48, "init": "xavier"},
        "huisman": {"filters": 64, "padding": 0},
        "chen": {"filters": 64},
        "small": {"filters": 32, "init": "xavier"},
    }
    if variant not in variants:
        raise ValueError(f"expected a conv4 variant out of {', '.join(variants)}; got {variant!r}")
    return Conv4(ways, size=size, channels=channels, norm=norm, **variants[variant])
