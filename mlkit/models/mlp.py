"""Multilayer perceptron; 1-40-40-1 is the sine regressor of every paper."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlkit.models.layers import Linear


class MLP(nn.Module):
    """Linear layers with ReLU between them; x (examples, sizes[0]) -> (examples, sizes[-1]).

    Args:
        sizes: width of the input, of each hidden layer and of the output.
        init: "pytorch", torch's uniform weights with zero biases (paper 002); "finn", truncated normal of standard
            deviation 0.01 (Finn et al. 2017); "xavier", Xavier uniform (paper 003). Biases start at zero in all.

    Example:
        >>> sum(p.numel() for p in MLP((1, 40, 40, 1)).parameters())
        1761
    """

    stacks_tasks = True

    def __init__(
        self, sizes: Sequence[int] = (1, 40, 40, 1), *, init: Literal["pytorch", "finn", "xavier"] = "pytorch"
    ) -> None:
        super().__init__()
        self.sizes, self.init = tuple(sizes), init
        *hidden, last = itertools.pairwise(sizes)
        self.body = nn.ModuleList(Linear(*widths) for widths in hidden)
        self.head = Linear(*last)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights from the global generator."""
        for layer in (*self.body, self.head):
            layer.reset_parameters()
            nn.init.zeros_(layer.bias)
            if self.init == "finn":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            elif self.init == "xavier":
                nn.init.xavier_uniform_(layer.weight)

    def describe(self) -> dict[str, Any]:
        """Return what tells this network from another."""
        return {"sizes": list(self.sizes), "init": self.init}

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., sizes[0]) to (..., sizes[-1])."""
        for layer in self.body:
            x = torch.relu(layer(x))
        return self.head(x)
