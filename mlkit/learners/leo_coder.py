"""What LEO learns: networks that turn a few examples into codes, and codes into the weights of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mlkit.learners import common, leo_parts
from mlkit.learners.common import Meta
from mlkit.learners.leo_parts import Draws, Gaussian

Version = Literal["v1", "v3"]
Start = Literal["encoder", "prior"]


@dataclass(frozen=True)
class Coder:
    """Encoder, relation network and decoder, as the version has them; see `LEO` for what the fields mean.

    A class has `rows` codes: one (v1), or one an example, all drawn from one distribution (v3).
    """

    features: int
    ways: int
    version: Version
    latents: int
    hidden: tuple[int, ...]
    start: Start

    @property
    def networks(self) -> dict[str, tuple[int, ...]]:
        """Sizes of the networks that are learned, by name."""
        doubled = 2 * self.latents
        found = {"decoder": (self.latents, *self.hidden, 2 * self.features)}
        if self.start == "prior":
            return found
        if self.version == "v1":
            return found | {"encoder": (self.features, *self.hidden, doubled)}
        return found | {"encoder": (self.features, *self.hidden, self.latents), "relation": (doubled,) * 4}

    def init(self, generator: torch.Generator) -> Meta:
        """Draw Glorot uniform networks without biases: `phi.<network>.<layer>`, each (out, in)."""
        drawn = {name: leo_parts.glorot(sizes, generator) for name, sizes in self.networks.items()}
        return {f"phi.{name}.{index}": layer for name, layers in drawn.items() for index, layer in enumerate(layers)}

    def rows(self, shots: int) -> int:
        """Return how many codes a class has."""
        return 1 if self.version == "v1" else shots

    def encode(self, meta: Meta, x: Tensor) -> Gaussian:
        """Return what codes are drawn from: x (tasks, ways, shots, features) -> (tasks, ways, rows, latents)."""
        ways, shots = x.shape[1:3]
        codes = leo_parts.network(x.flatten(1, 2), layers(meta, "encoder"))
        codes = codes if self.version == "v1" else leo_parts.related(codes, layers(meta, "relation"))
        averaged = codes.unflatten(1, (ways, shots)).mean(2, keepdim=True)
        offset = 1.0 if self.version == "v1" else 0.0
        return Gaussian.of(averaged.expand(-1, -1, self.rows(shots), -1), offset)

    def decode(self, meta: Meta, codes: Tensor, draws: Draws | None = None) -> Tensor:
        """Decode codes (tasks, ways, rows, latents) into classifiers (tasks, ways, features): means without `draws`.

        The weights that the codes of a class stand for are averaged, which is to average their scores.
        """
        *hidden, last = layers(meta, "decoder")
        last = last if draws else last[:, : self.features]
        decoded = leo_parts.network(codes.flatten(1, 2), [*hidden, last]).unflatten(1, codes.shape[1:3])
        if draws:
            gaussian = Gaussian.of(decoded, leo_parts.glorot_deviation(self.features, self.ways))
            decoded = gaussian.sample(draws.normal(*gaussian.mean.shape[1:]))
        return decoded.mean(2)

    def regularizers(self, meta: Meta) -> tuple[Tensor, Tensor]:
        """Return the sum of squares of all networks and their distance from orthogonality, each (tasks,)."""
        every = [layer for name in self.networks for layer in layers(meta, name)]
        if self.version == "v1":
            return leo_parts.sum_of_squares(every), leo_parts.l1_orthogonality(every)
        return leo_parts.sum_of_squares(every), leo_parts.cosine_orthogonality(layers(meta, "decoder"))


def layers(meta: Meta, name: str) -> list[Tensor]:
    """Return the layers of a network (tasks, out, in)."""
    found = common.role(meta, f"phi.{name}")
    return [found[str(index)] for index in range(len(found))]
