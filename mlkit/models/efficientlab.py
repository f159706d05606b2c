"""EfficientLab: EfficientNet's encoder and a residual skip decoder, the segmentation network of paper 000."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mlkit.models.decoders import PyramidPooling, ResidualSkipDecoder, SeparableDecoder, resize
from mlkit.models.encoder import Encoder
from mlkit.models.encoder_weights import EncoderWeights
from mlkit.models.noise import Dropout
from mlkit.models.normalization import Policy, policy_of

Variant = Literal["3", "6-3"]
Decoder = Literal["rsd", "rsd_no_residual", "auto_deeplab"]
DECODERS = {"stage6": "RSD 6", "stage3": "RSD 3", "pyramid": "ASPP", "separable": "skip decoder"}  # part: its title


class EfficientLab(nn.Module):
    """EfficientLab-3 (1,368,242 weights) and EfficientLab-6-3 (2,071,714) of paper 000, figure 1.

    x (examples, 3, height, width) in [0, 1] -> logits (examples, channels, height, width); channel 0 is the background,
    1 the target. Any size of at least 16 pixels. A narrower network (`width`) has as many filters in its decoder as
    features come out of its encoder.

    Args:
        variant: where skip connections meet a decoder: after stage "3", or "6-3": after stages 6 and 3.
        width: factor of all numbers of channels; 1 is the paper's.
        decoder: "rsd", or for table 1 "rsd_no_residual" or "auto_deeplab".
        norm: normalization policy; the decoder "auto_deeplab" turns "running" into "transductive" for itself.
        drop_connect: rate at the last block of the encoder, falling to 0 at the first.
        dropout: rate before the head.
        encoder_weights: what `reset_parameters`, and so every learner, copies into the encoder; None keeps random ones.
        channels: of the logits; for joint training the number of classes and one.

    Raises:
        ValueError: an unknown variant or decoder, or a combination that the paper does not have.

    Example:
        >>> EfficientLab("3", width=0.25)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """

    def __init__(
        self,
        variant: Variant = "3",
        *,
        width: float = 1.0,
        decoder: Decoder = "rsd",
        norm: Policy = "running",
        drop_connect: float = 0.2,
        dropout: float = 0.2,
        encoder_weights: EncoderWeights | None = None,
        channels: int = 2,
    ) -> None:
        super().__init__()
        _check(variant, decoder)
        self.encoder_weights = encoder_weights
        self._described = {
            "variant": variant, "width": width, "decoder": decoder, "drop_connect": drop_connect, "dropout": dropout,
            "channels": channels,
        }  # fmt: skip
        self.encoder = Encoder(width, norm=norm, drop_connect=drop_connect)
        skip, deep = self.encoder.channels
        self.decoder, features = nn.ModuleDict(), deep
        if decoder == "auto_deeplab":
            self.decoder["pyramid"] = PyramidPooling(deep)
            self.decoder["separable"] = SeparableDecoder(deep, skip, norm=norm)
            features = deep + deep // 2
        else:
            how = {"norm": norm, "residual": decoder == "rsd"}
            if variant == "6-3":
                self.decoder["stage6"] = ResidualSkipDecoder(deep, deep, **how)
            self.decoder["stage3"] = ResidualSkipDecoder(deep, skip, **how)
        self.dropout = Dropout(dropout)
        self.head = nn.Conv2d(features, channels, 1)
        self._draw()

    def reset_parameters(self) -> None:
        """Draw fresh weights from the global generator, then copy `encoder_weights` where they are given.

        Raises:
            FileNotFoundError: they are not there; the message says how to get them.
            ValueError: they are those of another encoder.
        """
        self._draw()
        if self.encoder_weights is not None:
            self.encoder_weights.copy_to(self.encoder)

    def new_head(self, channels: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw the parameters of a head of `channels` logits: kernel from N(0, 2 / channels), bias zero.

        Returns:
            `head.weight` (channels, features, 1, 1) and `head.bias` (channels,).
        """
        weight = torch.empty(channels, self.head.in_channels, 1, 1)
        nn.init.normal_(weight, std=(2 / channels) ** 0.5, generator=generator)
        return {"head.weight": weight, "head.bias": torch.zeros(channels)}

    @property
    def blocks(self) -> tuple[str, ...]:
        """The titles of its blocks, from the image to the logits."""
        return tuple(dict.fromkeys(block_of(name) for name, _ in self.named_parameters()))

    def describe(self) -> dict[str, Any]:
        """Return what tells this network from another; `normalization` where policies are mixed."""
        weights = self.encoder_weights
        policies = dict.fromkeys((policy_of(self.encoder), policy_of(self.decoder)))
        mixed = {"normalization": ", in the decoder ".join(policies)} if len(policies) > 1 else {}
        return {**self._described, "encoder_weights": weights.describe() if weights else None, **mixed}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (examples, channels, height, width)."""
        skip, deep = self.encoder(x)
        if "stage6" in self.decoder:
            deep = self.decoder["stage6"](deep, deep)
        if "stage3" in self.decoder:
            y = self.decoder["stage3"](skip, deep)
        else:
            y = self.decoder["separable"](skip, self.decoder["pyramid"](deep))
        return resize(self.head(self.dropout(y)), x.shape[-2:])

    def _draw(self) -> None:
        for part in (self.encoder, *self.decoder.values()):
            part.draw()
        self.dropout.reset_parameters()
        self.load_state_dict(self.new_head(self.head.out_channels), strict=False)


def block_of(parameter: str) -> str:
    """Name the block of a parameter of `EfficientLab` or `EncoderClassifier`: what displacement is measured by.

    Example:
        >>> block_of("encoder.blocks.3._bn0.weight"), block_of("decoder.stage3.merge.0.bias"), block_of("head.bias")
        ('MBConv 3', 'RSD 3', 'head')
    """
    part, name, *rest = parameter.split(".")
    if part == "encoder":
        return name if name == "stem" else f"MBConv {rest[0]}"
    return DECODERS[name] if part == "decoder" else part


def _check(variant: str, decoder: str) -> None:
    for what, given, known in (("variant", variant, get_args(Variant)), ("decoder", decoder, get_args(Decoder))):
        if given not in known:
            raise ValueError(f"expected a {what} out of {', '.join(known)}; got {given!r}")
    if decoder == "auto_deeplab" and variant != "3":
        raise ValueError(f"expected variant '3' with decoder 'auto_deeplab', got {variant!r}; leave the variant out")
