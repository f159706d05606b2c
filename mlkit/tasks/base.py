"""What a task is: a support set to adapt on and a query set to be judged on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mlkit.seeding import seeded

Draw = dict[str, Tensor]  # what identifies tasks: small tensors, leading axis (tasks, ...)


@dataclass(frozen=True)
class Examples:
    """Inputs `x` (tasks, examples, ...) with their targets `y` (tasks, examples, ...)."""

    x: Tensor
    y: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        """Apply `function` to both tensors."""
        return Examples(function(self.x), function(self.y))


@dataclass(frozen=True)
class TaskBatch:
    """Several tasks; axis 0 of every tensor counts them.

    `seeds` (tasks,), int64, is drawn with the task: whatever is random while adapting to it (mini-batches,
    augmentation, dropout masks) derives from it, so that results do not depend on how tasks are batched.
    """

    support: Examples
    query: Examples
    seeds: Tensor

    def __len__(self) -> int:
        return len(self.seeds)

    def map(self, function: Callable[[Tensor], Tensor]) -> TaskBatch:
        """Apply `function` to every tensor."""
        return TaskBatch(self.support.map(function), self.query.map(function), function(self.seeds))

    def __getitem__(self, index: slice) -> TaskBatch:
        return self.map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TaskBatch:
        """Move to `device`; cast what is floating point to `dtype`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self.map(move)

    def chunks(self, size: int) -> Iterator[TaskBatch]:
        """Yield the tasks `size` at a time, in order."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def concatenate(batches: Sequence[TaskBatch]) -> TaskBatch:
    """Join task batches along the task axis."""

    def joined(pick: Callable[[TaskBatch], Tensor]) -> Tensor:
        return torch.cat([pick(batch) for batch in batches])

    return TaskBatch(
        Examples(joined(lambda b: b.support.x), joined(lambda b: b.support.y)),
        Examples(joined(lambda b: b.query.x), joined(lambda b: b.query.y)),
        joined(lambda b: b.seeds),
    )


class TaskDistribution(Protocol):
    """Where tasks come from: one split of one data set, with the shape of its tasks.

    Drawing (which classes, which images, which amplitude) is apart from gathering (the tensors), so that a set of
    frozen tasks costs a few numbers a task however large its images are.
    """

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose `count` tasks; the entry `seeds` (count,) is always there."""

    def gather(self, draw: Draw) -> TaskBatch:
        """Build the tensors of the tasks in `draw`."""

    def describe(self) -> dict[str, Any]:
        """Say what a record must say: data, split, shots, content_hash; stand_in where it is not a paper's data."""


def sample(tasks: TaskDistribution, count: int, generator: torch.Generator) -> TaskBatch:
    """Draw `count` fresh tasks."""
    return tasks.gather(tasks.draw(count, generator))


@dataclass(frozen=True)
class FrozenTasks:
    """The same tasks for ever: what two runs are compared on. Slice it to gather a TaskBatch."""

    tasks: TaskDistribution
    draws: Draw
    seed: int

    def __len__(self) -> int:
        return len(self.draws["seeds"])

    def __getitem__(self, index: slice) -> TaskBatch:
        return self.tasks.gather({name: tensor[index] for name, tensor in self.draws.items()})

    @property
    def content_hash(self) -> str:
        """First 16 hex digits of the sha256 over the data's own hash and every draw."""
        return content_hash(self.tasks.describe(), self.draws)


def frozen(tasks: TaskDistribution, count: int, seed: int) -> FrozenTasks:
    """Return `count` fixed tasks; task i is a function of the split, `seed` and i alone.

    A distribution with a `draw_fixed(index, generator)` decides what task i is, for example which class: so that every
    class comes equally often. Others draw it like any task.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"expected at least one task to freeze, got {count}; pass count >= 1")
    split = tasks.describe().get("split", "")
    draw = getattr(tasks, "draw_fixed", lambda _index, generator: tasks.draw(1, generator))
    draws = [draw(index, seeded("frozen", split, seed, index)) for index in range(count)]
    return FrozenTasks(tasks, {name: torch.cat([draw[name] for draw in draws]) for name in draws[0]}, seed)


def content_hash(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits that change when the description or any tensor changes."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
