"""The encoder of EfficientLab: EfficientNet-B0 up to its eleventh block, built from the public class of its package."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet
from efficientnet_pytorch.model import MBConvBlock
from torch import Tensor, nn

from mlkit.models.layers import Linear
from mlkit.models.noise import DropConnect, Dropout
from mlkit.models.normalization import BatchNorm, Policy, normalization

EPS, MOMENTUM = 1e-3, 0.01  # of batch norm: TensorFlow's 0.99 is torch's 0.01
BLOCKS = 11  # of 16: paper 000 leaves out the last two stages
SKIP = 2  # the block after which features have a quarter of the image's size: the end of stage 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images in [0, 1]
SMALLEST = 16  # pixels: the encoder halves them four times


class Encoder(nn.Module):
    """EfficientNet-B0 (Tan and Le 2019) without its last two stages and its head: 851,808 weights at width 1.

    x (examples, 3, height, width) in [0, 1] -> features after stage 3, (examples, 24, height/4, width/4), and after
    stage 6, (examples, 112, height/16, width/16); sizes are rounded up. Both are outputs of linear bottlenecks: no
    activation follows. Convolutions pad as TensorFlow does.

    Args:
        width: factor of all numbers of channels, rounded to multiples of 8.
        norm: normalization policy.
        drop_connect: block i of 11 is left out at a rate of `drop_connect` i/11, in training mode, where it can be.
    """

    def __init__(self, width: float = 1.0, *, norm: Policy = "running", drop_connect: float = 0.2) -> None:
        super().__init__()
        whole = EfficientNet.from_name("efficientnet-b0", image_size=None, width_coefficient=width, include_top=False)
        self.stem = Stem(whole._conv_stem, whole._bn0)
        self.blocks = nn.ModuleList(MBConv(block) for block in whole._blocks[:BLOCKS])
        _adopt(self, norm)
        self.drops = nn.ModuleDict(
            {str(i): DropConnect(drop_connect * i / BLOCKS) for i, block in enumerate(self.blocks) if block.keeps_shape}
        )
        self.channels = tuple(self.blocks[i].size.output_filters for i in (SKIP, BLOCKS - 1))
        self.draw()

    def draw(self) -> None:
        """Draw fresh weights: convolutions from N(0, 2 / fan_out), all biases zero (`draw_normal`)."""
        draw_normal(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features after stage 3 and those after stage 6.

        Raises:
            ValueError: images that are not RGB, or too small.
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[-2:]) < SMALLEST:
            raise ValueError(
                f"expected images (examples, 3, height, width) of at least {SMALLEST} pixels, got {tuple(x.shape)}; "
                "repeat gray channels, enlarge small images"
            )
        mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device).view(3, 1, 1) for values in (MEAN, STD))
        x, skip = self.stem(channels_last((x - mean) / std)), x
        for index, block in enumerate(self.blocks):
            x = block(x, self.drops[str(index)]) if block.skips else block(x)
            skip = x if index == SKIP else skip
        return skip, x


class EncoderClassifier(nn.Module):
    """The encoder as a classifier, to pre-train it: features averaged over space, dropout, a linear head.

    x (examples, 3, size, size) in [0, 1] -> scores (examples, ways). Its parameters `encoder.*` are named as those of
    `EfficientLab`; `mlkit.learners.Finetuning` trains it on all training classes.

    Args:
        ways: number of classes.
        width: as for `Encoder`.
        norm: normalization policy.
        drop_connect: as for `Encoder`.
        dropout: rate before the head.

    Example:
        >>> EncoderClassifier(ways=5)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        ways: int,
        *,
        width: float = 1.0,
        norm: Policy = "running",
        drop_connect: float = 0.2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self._described = {"width": width, "drop_connect": drop_connect, "dropout": dropout}
        self.encoder = Encoder(width, norm=norm, drop_connect=drop_connect)
        self.dropout = Dropout(dropout)
        self.head = Linear(self.encoder.channels[1], ways)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights from the global generator; the head is uniform in 1 / sqrt(ways), as in the package."""
        self.encoder.draw()
        self.dropout.reset_parameters()
        bound = self.head.out_features**-0.5
        nn.init.uniform_(self.head.weight, -bound, bound)
        nn.init.zeros_(self.head.bias)

    def describe(self) -> dict[str, Any]:
        """Return what tells this network from another."""
        return dict(self._described)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes, (examples, ways)."""
        _, deep = self.encoder(x)
        return self.head(self.dropout(deep.mean((-2, -1))))


class Stem(nn.Sequential):
    """Convolution, normalization, swish."""

    def forward(self, x: Tensor) -> Tensor:
        """Return features (examples, channels, height / 2, width / 2) of images."""
        convolution, norm = self
        return normalized(norm, convolution(x))


class MBConv(nn.Module):
    """An inverted bottleneck with squeeze and excitation (Sandler et al. 2018, Hu et al. 2018).

    It has the layers of the package's block, by the same names. x (examples, channels, height, width), best channels
    last -> (examples, filters, height', width').
    """

    def __init__(self, block: MBConvBlock) -> None:
        super().__init__()
        self.size = block._block_args
        self.keeps_shape = self.size.stride in (1, [1]) and self.size.input_filters == self.size.output_filters
        self.skips = self.keeps_shape and self.size.stride == 1  # the package: not where a stage begins, with [1]
        for name, layer in block.named_children():
            if name != "_swish":
                self.add_module(name, layer)

    def forward(self, x: Tensor, add: DropConnect | None = None) -> Tensor:
        """Widen, filter each channel by itself, weigh channels by what they are on average, narrow, `add` to x."""
        y = x if self.size.expand_ratio == 1 else normalized(self._bn0, pointwise(self._expand_conv, x))
        y = normalized(self._bn1, self._depthwise_conv(y))
        squeezed = F.silu(pointwise(self._se_reduce, y.mean((-2, -1), keepdim=True)))
        y = self._bn2(pointwise(self._project_conv, y * torch.sigmoid(pointwise(self._se_expand, squeezed))))
        return add(x, y) if add else y


def normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """Return swish of `norm(x)`, in one go where the layer can."""
    return norm(x, swish=True) if isinstance(norm, BatchNorm) else F.silu(norm(x))


def pointwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return `convolution(x)` for a kernel of one pixel: where channels lie last, a product of matrices."""
    if x.is_cuda:
        return convolution(x)
    return F.linear(x.movedim(1, -1), convolution.weight.flatten(1), convolution.bias).movedim(-1, 1)


def channels_last(x: Tensor) -> Tensor:
    """Lay images (examples, channels, height, width) out channels last on the CPU: all that follows is faster."""
    return x if x.is_cuda else x.movedim(1, -1).contiguous().movedim(-1, 1)


def draw_normal(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / (k k out / groups)) with zero biases; reset all other layers.

    EfficientNet's initialization (Tan and Le 2019); a depthwise kernel has a fan-out of k k.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[0, 0].numel() * layer.out_channels / layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


def _adopt(module: nn.Module, norm: Policy) -> None:
    """Put the policy's normalization for the package's, and let convolutions of stride 1 pad by themselves.

    Where padding is symmetric the package pads in a pass of its own: the same numbers, more memory traffic.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, normalization(norm, child.num_features, eps=EPS, momentum=MOMENTUM))
        elif isinstance(child, nn.Conv2d) and tuple(child.stride) == (1, 1):
            setattr(module, name, _padding_itself(child))
        else:
            _adopt(child, norm)


def _padding_itself(conv: nn.Conv2d) -> nn.Conv2d:
    size = {"kernel_size": conv.kernel_size, "padding": conv.kernel_size[0] // 2, "groups": conv.groups}
    return nn.Conv2d(conv.in_channels, conv.out_channels, **size, bias=conv.bias is not None)
