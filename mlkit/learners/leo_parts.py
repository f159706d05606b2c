"""What LEO is made of: bias-free networks stacked over tasks, Gaussian codes, noise of each task, regularizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlkit.seeding import seeded
from mlkit.tasks.base import Examples

SMALLEST = 1e-10  # standard deviation


def glorot(sizes: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw the layers (out, in) of a network without biases, Glorot uniform."""
    shapes = zip(sizes[1:], sizes, strict=False)
    return [nn.init.xavier_uniform_(torch.empty(shape), generator=generator) for shape in shapes]


def network(x: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """Map x (tasks, n, in) by each task's layers (tasks, out, in), with ReLU between them: (tasks, n, out)."""
    *hidden, last = layers
    for layer in hidden:
        x = torch.relu(x @ layer.mT)
    return x @ last.mT


def related(codes: Tensor, layers: Sequence[Tensor]) -> Tensor:
    r"""Let each code be read beside every code of its task, itself too: (tasks, n, L) -> (tasks, n, out).

    $$r_i = \frac{1}{n} \sum_j W_3\,\mathrm{relu}(W_2\,\mathrm{relu}(W_1 [c_i, c_j]))$$ (public code of paper 004,
    `relation_network`). The linear maps are taken apart from the pairs wherever that is the same.
    """
    first, *middle, last = layers
    left, right = (codes @ half.mT for half in first.chunk(2, 2))  # W_1 [c_i, c_j] = left_i + right_j
    pairs = torch.relu(left.unsqueeze(2) + right.unsqueeze(1))  # (tasks, n, n, width)
    for layer in middle:
        pairs = torch.relu(pairs @ layer.unsqueeze(1).mT)
    return pairs.mean(2) @ last.mT


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions, one an entry."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, parameters: Tensor, offset: float) -> Gaussian:
        r"""Read what a network said (..., 2 n) as means and raw deviations u (..., n).

        $$\sigma = \max(e^u - (1 - \text{offset}), 10^{-10})$$ (public code of paper 004.) At u = 0 it is the offset.

        Example:
            >>> Gaussian.of(torch.zeros(2), offset=0.25).std
            tensor([0.2500])
        """
        mean, raw = parameters.chunk(2, -1)
        return cls(mean, (torch.exp(raw) - (1 - offset)).clamp_min(SMALLEST))

    def sample(self, noise: Tensor) -> Tensor:
        """Return mean + std * noise."""
        return torch.addcmul(self.mean, self.std, noise)

    def divergence(self) -> Tensor:
        r"""Return the divergence from N(0, 1) of each entry, $KL = (\mu^2 + \sigma^2 - 1) / 2 - \ln \sigma$."""
        return (self.mean.square() + self.std.square() - 1) / 2 - self.std.log()

    def sampled_divergence(self, noise: Tensor) -> Tensor:
        r"""Estimate it by one sample z = mean + std * noise: $\ln q(z) - \ln N(z; 0, 1)$."""
        return (self.sample(noise).square() - noise.square()) / 2 - self.std.log()


class Draws:
    """Random numbers of each task, a function of the task's own seed and of `purpose` alone, in the order of calls."""

    def __init__(self, seeds: Tensor, purpose: str, like: Tensor) -> None:
        self._generators = [seeded("leo", purpose, seed) for seed in seeds.tolist()]
        self._like = like

    def normal(self, *shape: int) -> Tensor:
        """Draw from N(0, 1): (tasks, *shape)."""
        return self._stacked(torch.randn, shape)

    def dropped(self, x: Tensor, rate: float) -> Tensor:
        """Set each entry of x (tasks, ...) to 0 with probability `rate`, scale the others by 1 / (1 - rate)."""
        return x * (self._stacked(torch.rand, x.shape[1:]) >= rate) / (1 - rate) if rate else x

    def _stacked(self, draw, shape: Sequence[int]) -> Tensor:
        dtype = self._like.dtype
        drawn = torch.stack([draw(*shape, generator=own, dtype=dtype) for own in self._generators])
        return drawn.to(self._like.device)


def by_class(examples: Examples, ways: int) -> Tensor:
    """Sort examples by label: x (tasks, ways * shots, features) -> (tasks, ways, shots, features).

    Raises:
        ValueError: not every label has the same number of examples.
    """
    labels, order = examples.y.sort(dim=1, stable=True)
    expected = torch.arange(ways, device=labels.device).repeat_interleave(labels.shape[1] // ways)
    if not torch.equal(labels, expected.expand(len(labels), -1)):
        raise ValueError(
            f"expected support sets with equally many examples of each label 0 to {ways - 1}, got labels "
            f"{examples.y[0].tolist()}; draw tasks of {ways} ways"
        )
    return examples.x.take_along_dim(order.unsqueeze(-1), 1).unflatten(1, (ways, -1))


def sum_of_squares(layers: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares of all weights of each task (tasks,)."""
    return sum(layer.square().sum((1, 2)) for layer in layers)


def l1_orthogonality(layers: Sequence[Tensor]) -> Tensor:
    r"""Return $\sum_l |W_l^T W_l - I|_1$ (tasks,), each Gram matrix along the shorter side (paper 004, section 2.3.3).

    A linear encoder, 640 -> 128, and decoder, 64 -> 1280, so give the paper's $|\phi_e^T \phi_e - I|_1$ and
    $|\phi_d \phi_d^T - I|_1$.
    """
    total = 0.0
    for layer in layers:
        tall = layer if layer.shape[1] >= layer.shape[2] else layer.mT
        total = total + _off_identity(tall.mT @ tall).abs().sum((1, 2))
    return total


def cosine_orthogonality(layers: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of cosines from the identity (tasks,): of what each input of a layer adds.

    Of the linear decoder 64 -> 1280 these are 64 x 64 cosines (public code of paper 004).
    """
    cosines = [nn.functional.normalize(layer, dim=1) for layer in layers]
    return sum(_off_identity(cosine.mT @ cosine).square().mean((1, 2)) for cosine in cosines)


def glorot_deviation(features: int, ways: int) -> float:
    """Return sqrt(2 / (features + ways)), what decoded weights deviate by at u = 0.

    Example:
        >>> round(glorot_deviation(640, 5), 4)
        0.0557
    """
    return math.sqrt(2 / (features + ways))


def _off_identity(gram: Tensor) -> Tensor:
    return gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
