"""Dropout and drop-connect whose masks are a function of each task's own seed, of nothing else.

The global generator knows no tasks: with it, results would depend on how many tasks run at once. Here a layer keeps an
int64 state in its buffer `noise`; a mask is a hash of that state, and so is the state that follows. `seeded_noise`
starts every layer of every task; the states then travel like running statistics, and are never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the steps of splitmix64, as signed integers


class Noise(nn.Module):
    """A layer that is random in training mode: its `rate` is the share of what it drops.

    Raises:
        ValueError: `rate` is not in [0, 1).
    """

    noise: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"expected a rate in [0, 1), got {rate}; it is the share of what is dropped")
        self.rate = rate
        self.register_buffer("noise", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Return to the state 0."""
        self.noise.zero_()

    def factors(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Draw a tensor of 0, with probability `rate`, and 1 / (1 - rate); move the state on."""
        numbers = scrambled(self.noise, 1 + -(-math.prod(shape) // 4))
        self.noise = numbers[0]  # assigned, never written in place: under `functional_call` it belongs to the caller
        quarters = numbers[1:].view(torch.int16)[: math.prod(shape)].view(shape)  # four draws to a hash
        kept = quarters >= round(self.rate * 2**16) - 2**15
        return kept.to(like.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Show the rate."""
        return str(self.rate)


class Dropout(Noise):
    """Set each entry to 0 with probability `rate` and scale the others by 1 / (1 - rate), in training mode.

    Example:
        >>> layer, x = Dropout(0.5), torch.ones(1000)
        >>> sorted(set(layer(x).tolist()))
        [0.0, 2.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x, thinned out in training mode."""
        return x * self.factors(x.shape, x) if self.training and self.rate else x


class DropConnect(Noise):
    """Skip a residual block for a random share of the examples, in training mode (Huang et al. 2016).

    A block x + f(x) becomes x + b / (1 - rate) f(x), with b = 0 or 1 for each example.
    """

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """Return x plus f where the block is kept, drawn for each example of axis 0: x and f (examples, ...)."""
        if not (self.training and self.rate):
            return x + f
        factors = self.factors(torch.Size([len(x), *[1] * (x.dim() - 1)]), x)
        return torch.addcmul(x, f, factors)


def scrambled(state: Tensor, count: int) -> Tensor:
    """Return the next `count` numbers of splitmix64 (Steele et al. 2014) from an int64 `state` (): (count,) int64."""
    return _mixed(state + _GOLDEN * torch.arange(1, count + 1, device=state.device))


def seeded_noise(model: nn.Module, buffers: Mapping[str, Tensor], seeds: Tensor) -> dict[str, Tensor]:
    """Return `buffers` (tasks, ...) with every noisy layer started from the tasks' own `seeds` (tasks,)."""
    names = [
        f"{path}.noise" if path else "noise" for path, module in model.named_modules() if isinstance(module, Noise)
    ]
    starts = {name: _mixed(_mixed(seeds) + index) for index, name in enumerate(names, 1)}
    return {**buffers, **starts}


def is_noise(name: str) -> bool:
    """Tell a buffer of a noisy layer from statistics, which are averaged over tasks."""
    return name.rpartition(".")[2] == "noise"


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shifted(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, as unsigned integers do."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
