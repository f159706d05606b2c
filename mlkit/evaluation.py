"""Meta-test: score every frozen task, then summarize over tasks and over seeds, which are different things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlkit.driver import Learner, Meta, for_tasks
from mlkit.losses import Metric
from mlkit.tasks.base import FrozenTasks, TaskBatch


@torch.no_grad()
def evaluate(
    learner: Learner,
    meta: Meta,
    tasks: FrozenTasks | TaskBatch,
    *,
    metric: Metric,
    steps: int | Sequence[int] | None = None,
    chunk_size: int = 100,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Adapt to each task and score its query set. No graph is kept, whatever the learner's order.

    Args:
        learner: what adapts.
        meta: stacked meta-parameters (runs, ...).
        tasks: what to be judged on; the same for every run.
        metric: the score.
        steps: inner steps; None for the learner's own; several numbers to score after each of them, adapting once.
        chunk_size: tasks adapted at once, for all runs together.
        device: where to compute.

    Returns:
        Scores (runs, tasks); with several `steps`, (runs, steps, tasks). Always on the CPU.
    """
    runs = next(iter(meta.values())).shape[0]
    dtype = next(tensor.dtype for tensor in meta.values() if tensor.is_floating_point())
    size = max(1, chunk_size // runs)
    parts = []
    for start in range(0, len(tasks), size):
        batch = tasks[start : start + size].to(device, dtype)
        run = torch.arange(runs, device=batch.seeds.device).repeat_interleave(len(batch))
        batch = batch.map(lambda tensor: torch.cat([tensor] * runs))
        scores = _scores(learner, for_tasks(meta, run), batch, metric, steps)
        parts.append(scores.unflatten(-1, (runs, -1)).movedim(-2, 0).cpu())
    return torch.cat(parts, -1)


def _scores(
    learner: Learner, meta: Meta, batch: TaskBatch, metric: Metric, steps: int | Sequence[int] | None
) -> Tensor:
    if steps is None or isinstance(steps, int):
        adapted = learner.adapt(meta, batch, steps=steps)
        return metric.score(learner.predict(adapted, batch.query.x), batch.query.y)
    adapted = learner.adapt(meta, batch, steps=max(steps), trajectory=True)
    predictions = (learner.predict(adapted.after(count), batch.query.x) for count in steps)
    return torch.stack([metric.score(predicted, batch.query.y) for predicted in predictions])


@dataclass(frozen=True)
class Summary:
    """A mean or median with the half width of its 95 % interval, and over how many values."""

    value: float
    ci95: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.ci95:.2g}"


def over_tasks(scores: Tensor) -> Summary:
    """Average the runs' scores of each task (runs, tasks), then the tasks: how well the mean is known for these seeds.

    The interval is 1.96 sd / sqrt(tasks), ddof 1. All runs are judged on the same tasks, so only tasks count as
    independent. It is NaN for a single task.
    """
    return _summary(scores.double().reshape(-1, scores.shape[-1]).mean(0))


def over_seeds(scores: Tensor, *, statistic: str = "mean") -> Summary:
    """Summarize each run (runs, tasks) by its mean or median over tasks, then average the runs.

    The interval is 1.96 sd / sqrt(runs), ddof 1: the spread over seeds. It is NaN for a single run.
    """
    return _summary(_per_run(scores, statistic))


def median_of_runs(scores: Tensor) -> Summary:
    """Average the runs' medians over tasks, runs outside 1.5 interquartile ranges dropped: paper 002's table cells.

    A run whose median is no finite number lies outside as long as no more than a quarter of the runs are such; with
    more there is no value: NaN. `count` says how many runs are left.

    Args:
        scores: (runs, tasks), errors or accuracies.
    """
    medians = _per_run(scores, "median")
    usable = medians[medians.isfinite()]
    if 4 * (len(medians) - len(usable)) > len(medians) or not len(usable):
        return Summary(math.nan, math.nan, len(usable))
    first, third = torch.quantile(usable, torch.tensor([0.25, 0.75], dtype=usable.dtype))
    reach = 1.5 * (third - first)
    return _summary(usable[(usable >= first - reach) & (usable <= third + reach)])


def _per_run(scores: Tensor, statistic: str) -> Tensor:
    if statistic == "mean":
        return scores.double().mean(-1)
    if statistic == "median":
        return torch.quantile(scores.double(), 0.5, dim=-1)
    raise ValueError(f"expected statistic 'mean' or 'median', got {statistic!r}")


def _summary(values: Tensor) -> Summary:
    count = len(values)
    spread = float(values.std()) if count > 1 else float("nan")
    return Summary(float(values.mean()), 1.96 * spread / count**0.5, count)


@torch.no_grad()
def predict_along(learner: Learner, meta: Meta, tasks: TaskBatch, x: Tensor, *, steps: int) -> Tensor:
    """Predict x (tasks, points, ...) after 0, 1, ..., `steps` inner steps, with one run's stacked `meta` (1, ...).

    Returns:
        Predictions (tasks, steps + 1, points, ...).
    """
    own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
    adapted = learner.adapt(own, tasks, steps=steps, trajectory=True)
    return torch.stack([learner.predict(adapted.after(count), x) for count in range(steps + 1)], 1)
