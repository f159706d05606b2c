"""The cases that are measured: a network, its twin of plain torch layers, tasks, and how many run at once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.driver import Meta, meta_gradient, stack
from mlkit.learners import MAML
from mlkit.losses import cross_entropy, mean_squared_error
from mlkit.models import MLP, Conv4
from mlkit.seeding import seeded
from mlkit.tasks import Examples, TaskBatch, glyphs, sample, sine


class PlainConv4(nn.Module):
    """Conv4 as one writes it with torch's layers; its parameters carry the names of `mlkit.models.Conv4`."""

    def __init__(self, ways: int, *, size: int, channels: int, filters: int = 64, downsample: str = "pool") -> None:
        super().__init__()
        self.pool = downsample == "pool"
        widths, stride = [channels, *[filters] * 4], 1 if self.pool else 2
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=stride, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters, track_running_stats=False) for _ in range(4))
        self.head = nn.Linear(filters * (size // 16) ** 2 if self.pool else filters, ways)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
            x = F.max_pool2d(x, 2) if self.pool else x
        return self.head(x.flatten(1) if self.pool else x.mean((2, 3)))


class PlainMLP(nn.Module):
    """The 1-40-40-1 sine regressor with torch's layers; its parameters carry the names of `mlkit.models.MLP`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(1, 40), nn.Linear(40, 40)])
        self.head = nn.Linear(40, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions."""
        for layer in self.body:
            x = F.relu(layer(x))
        return self.head(x)


@dataclass(frozen=True)
class Case:
    """One meta-iteration. `network` and `plain` compute the same function of the same parameters.

    tasks: their number; query_chunk, chunk_size, workers: how mlkit runs them; bar: ratio to the best peer that is
    asked for, if any; drawings: the same tasks on characters, where the float32 error is measured once more.
    """

    name: str
    network: Callable[[], nn.Module]
    plain: Callable[[], nn.Module]
    draw: Callable[[int], TaskBatch]
    tasks: int
    inner_lr: float
    steps: int = 5
    regression: bool = False
    first_order: bool = False
    chunk_size: int | None = None
    query_chunk: int | None = None
    workers: int = 1
    bar: float | None = None
    drawings: Callable[[int], TaskBatch] | None = None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of one task, for the peers."""
        return F.mse_loss(outputs, targets) if self.regression else F.cross_entropy(outputs, targets)

    def learner(self, **changes: Any) -> MAML:
        """Return mlkit's learner."""
        loss = mean_squared_error if self.regression else cross_entropy
        how = {"inner_lr": self.inner_lr, "inner_steps": self.steps, "first_order": self.first_order, "loss": loss}
        return MAML(self.network(), **how | changes)

    def weights(self, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
        """Return the initialization that everyone starts from."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return {name: p.detach().to(device, dtype) for name, p in self.plain().named_parameters()}


def ours(case: Case, weights: dict[str, Tensor], batch: TaskBatch, learner: MAML | None = None) -> dict[str, Tensor]:
    """Return mlkit's meta-gradient, the mean over the tasks."""
    meta: Meta = stack([{f"theta.{name}": tensor for name, tensor in weights.items()}])
    how = {"chunk_size": case.chunk_size, "query_chunk": case.query_chunk, "workers": case.workers}
    found = meta_gradient(learner or case.learner(), meta, batch, **how).gradients
    return {name: found[f"theta.{name}"][0] for name in weights}


def sines(count: int) -> TaskBatch:
    """Finn's sine tasks, 10 shots."""
    return sample(sine("finn"), count, seeded("benchmark"))


def images(count: int, *, size: int, channels: int) -> TaskBatch:
    """Five-way one-shot tasks, 15 queries a class: noise around a pattern a class."""
    generator = seeded("benchmark", size)
    patterns = torch.rand(count, 5, 1, channels, size, size, generator=generator)

    def examples(each: int) -> Examples:
        noise = torch.rand(count, 5, each, channels, size, size, generator=generator)
        labels = torch.arange(5).repeat_interleave(each).expand(count, -1)
        return Examples((patterns + 0.3 * noise).flatten(1, 2), labels.contiguous())

    return TaskBatch(examples(1), examples(15), torch.arange(count))


def drawings(count: int) -> TaskBatch:
    """Five-way one-shot tasks of the embedded characters, 15 queries a class.

    Most pixels are zero, so that some activations lie within rounding of a kink: float32 errors jump from task to task.
    """
    return sample(glyphs("train", ways=5, shots=1, query=15), count, seeded("benchmark"))


def cases(device: str = "cpu") -> list[Case]:
    """Return all cases, each in second and in first order."""
    cpu = device == "cpu"
    split = {"chunk_size": 8, "query_chunk": 1, "workers": os.cpu_count() or 1} if cpu else {}

    def conv4(name: str, count: int, how: dict[str, Any], mean: bool = False, **form: Any) -> Case:
        drawn = {"size": form["size"], "channels": form["channels"]}
        head = "mean" if mean else "flatten"
        return Case(
            name,
            lambda: Conv4(5, head=head, **form),
            lambda: PlainConv4(5, **form),
            lambda tasks: images(tasks, **drawn),
            count,
            inner_lr=0.1,
            drawings=drawings if form["size"] == 28 else None,
            **how,
        )

    small = {"size": 28, "channels": 1}
    strided = small | {"downsample": "stride", "mean": True}
    second_order = [
        conv4("Omniglot conv4-64 max-pool, 16 tasks, 5 steps", 16, split | {"bar": 2.0}, **small),
        conv4("Omniglot conv4-64 stride 2, 16 tasks, 5 steps", 16, split, **strided),
        Case("sine MLP, 25 tasks, 1 step", MLP, PlainMLP, sines, 25, 0.01, steps=1, regression=True),
        Case("sine MLP, 25 tasks, 5 steps", MLP, PlainMLP, sines, 25, 0.01, regression=True, bar=8.0),
    ]
    return [
        replace(case, first_order=first, bar=2.5 if first and case.bar else case.bar)
        for case in second_order
        for first in (False, True)
    ]
