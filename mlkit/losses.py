"""Losses and scores of a batch of tasks: predictions (tasks, examples, ...) and targets in, one number a task out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

TaskLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats: scores (tasks, examples, ways), labels (tasks, examples) -> (tasks,)."""
    losses = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape).mean(1)


def mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each task: two tensors (tasks, examples, ...) -> (tasks,)."""
    return (predictions - targets).square().flatten(1).mean(1)


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of right predictions of each task: scores (tasks, examples, ways), labels (tasks, examples) -> (tasks,)."""
    return (scores.argmax(-1) == labels).to(scores.dtype).mean(1)


@dataclass(frozen=True)
class Metric:
    """A score of each task, with its name and the direction that is better."""

    name: str
    score: TaskLoss
    higher_is_better: bool

    def better(self, new: Tensor, old: Tensor) -> Tensor:
        """Elementwise: is `new` strictly better than `old`? NaN never is."""
        return new > old if self.higher_is_better else new < old

    @property
    def worst(self) -> float:
        """What any score beats."""
        return float("-inf") if self.higher_is_better else float("inf")


ACCURACY = Metric("accuracy", accuracy, higher_is_better=True)
MEAN_SQUARED_ERROR = Metric("mean_squared_error", mean_squared_error, higher_is_better=False)
