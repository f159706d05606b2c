"""Small learners and tasks in float64 that every contract is checked on."""

from __future__ import annotations

import torch
from torch import nn

from mlkit.learners import MAML, Displacement
from mlkit.losses import mean_squared_error
from mlkit.models import MLP, POLICIES, Conv4
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch

WAYS = 3


def image_tasks(count: int = 3, *, size: int = 16, shots: int = 2, query: int = 2) -> TaskBatch:
    """Noise images with labels: the mathematics does not care."""
    generator = seeded("image tasks", count, size)

    def examples(each: int) -> Examples:
        x = torch.randn(count, WAYS * each, 1, size, size, generator=generator, dtype=torch.float64)
        return Examples(x, torch.arange(WAYS).repeat_interleave(each).repeat(count, 1))

    return TaskBatch(examples(shots), examples(query), torch.randint(2**62, (count,), generator=generator))


def regression_tasks(count: int = 4, *, shots: int = 5, query: int = 6) -> TaskBatch:
    generator = seeded("regression tasks", count)

    def examples(each: int) -> Examples:
        x = torch.rand(count, each, 1, generator=generator, dtype=torch.float64) * 4 - 2
        return Examples(x, torch.sin(x + torch.arange(count)[:, None, None]))

    return TaskBatch(examples(shots), examples(query), torch.randint(2**62, (count,), generator=generator))


def conv4_of(policy: str) -> Conv4:
    return Conv4(WAYS, size=16, channels=1, filters=4, norm=policy).double()


class Smooth(nn.Module):
    """Convolution, normalization, tanh, linear: no kinks, so that finite differences are exact to their order."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 8, 3, stride=2), norm
        self.head = nn.Linear(8, WAYS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.norm(self.convolution(x))).mean((-2, -1)))


def maml_family(model: nn.Module) -> dict[str, MAML]:
    return {
        "MAML": MAML(model, 0.1, 3),
        "MAML checkpointed": MAML(model, 0.1, 3, checkpoint=True),
        "FOMAML": MAML(model, 0.1, 3, first_order=True),
        "ANIL": MAML(model, 0.1, 3, adapted="head."),
        "Meta-SGD": MAML(model, 0.1, 2, learn_inner_lr=True),
        "norm not adapted": MAML(model, 0.1, 2, adapt_norm=False),
        "inner gradients clipped": MAML(model, 0.1, 2, clip_inner=0.05),
    }


def displacement_family(model: nn.Module) -> dict[str, Displacement]:
    return {
        "Reptile": Displacement(model, "reptile", 0.1, 3, batch_size=4),
        "Reptile, all examples": Displacement(model, "reptile", 0.1, 3, pool="all"),
        "FOMAML no tail": Displacement(model, "fomaml_no_tail", 0.1, 3, batch_size=4),
        "FOMAML disjoint": Displacement(model, "fomaml_disjoint", 0.1, 3, batch_size=4),
        "FOMAML*": Displacement(model, "fomaml_star", 0.1, 3, batch_size=4),
    }


def every_learner(policy: str) -> dict[str, MAML | Displacement]:
    model = conv4_of(policy)
    return {**maml_family(model), **displacement_family(model)}


def sine_maml(**switches: object) -> MAML:
    return MAML(MLP((1, 8, 8, 1)).double(), 0.05, 3, mean_squared_error, **switches)


__all__ = ["POLICIES", "WAYS", "Smooth", "conv4_of", "every_learner", "image_tasks", "maml_family", "regression_tasks"]
