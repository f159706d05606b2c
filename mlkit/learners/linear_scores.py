"""Linear classifiers of features, judged without copying a query set: one product of matrices for each class."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mlkit.driver import Learner, Meta, for_tasks
from mlkit.losses import ACCURACY, Metric
from mlkit.models.softmax import SoftmaxClassifier
from mlkit.tasks.base import FrozenTasks
from mlkit.tasks.features import FeatureTasks

BLOCK = 100  # classifiers whose scores of a class are computed at once


def judges_linear(learner: Learner, tasks: object, metric: Metric) -> bool:
    """Tell whether `accuracy_of_linear` does what `evaluate` would: linear classifiers of frozen tasks of features."""
    of_features = isinstance(tasks, FrozenTasks) and isinstance(tasks.tasks, FeatureTasks)
    return of_features and metric is ACCURACY and isinstance(getattr(learner, "model", None), SoftmaxClassifier)


@torch.no_grad()
def accuracy_of_linear(learner: Learner, meta: Meta, tasks: FrozenTasks, *, chunk_size: int = 100) -> Tensor:
    """Return what `evaluate(learner, meta, tasks, metric=ACCURACY)` does, sooner where query sets are large.

    With all of 600 images of a class as queries, most of the time of `evaluate` goes into copying them for each task.
    Here every example of a class is scored by all classifiers whose tasks have that class, then queries are picked.

    Args:
        learner: LEO, or `MAML(SoftmaxClassifier(...))`: what adapts is one classifier `weight` (tasks, ways, features).
        meta: stacked meta-parameters (runs, ...).
        tasks: frozen tasks of features, on the device where to compute.
        chunk_size: tasks adapted at once.

    Returns:
        Accuracies (runs, tasks), on the CPU.

    Raises:
        ValueError: the tasks are not of features.
    """
    source = tasks.tasks
    if not isinstance(source, FeatureTasks):
        raise ValueError(f"expected frozen FeatureTasks, got {type(source).__name__}; use mlkit.evaluation.evaluate")
    few = {**tasks.draws, "images": tasks.draws["images"][:, :, : source.shots + 1]}
    support = FrozenTasks(replace(source, query=1), few, tasks.seed)
    runs = len(next(iter(meta.values())))
    return torch.stack(
        [_share(_classifiers(learner, meta, run, support, chunk_size), tasks) for run in range(runs)]
    ).cpu()


def _classifiers(learner: Learner, meta: Meta, run: int, support: FrozenTasks, size: int) -> Tensor:
    """Adapt one run to all tasks: (tasks, ways, features)."""
    device = support.tasks.source.rows.device
    dtype = next(tensor.dtype for tensor in meta.values() if tensor.is_floating_point())
    found = []
    for start in range(0, len(support), size):
        batch = support[start : start + size].to(device, dtype)
        own = for_tasks(meta, torch.full((len(batch),), run, device=device))
        found.append(learner.adapt(own, batch).weights["weight"])
    return torch.cat(found)


def _share(classifiers: Tensor, tasks: FrozenTasks) -> Tensor:
    """Return the share of each task's queries that its classifier gets right (tasks,)."""
    source, images = tasks.tasks.source, tasks.draws["images"]
    hits, classes = torch.zeros(len(tasks), dtype=torch.int64), tasks.tasks.classes_of(tasks.draws)
    for index, (start, end) in enumerate(zip(source.offsets.tolist(), source.offsets[1:].tolist(), strict=False)):
        rows = source.rows[start:end].to(classifiers.dtype)
        for which in (classes == index).nonzero().split(BLOCK):
            task, label = which.unbind(1)
            scores = rows @ classifiers[task.to(rows.device)].flatten(0, 1).mT  # (examples, tasks * ways)
            right = scores.unflatten(1, (len(task), tasks.tasks.ways)).argmax(-1).cpu() == label
            queries = images[task, label, tasks.tasks.shots :] - start
            hits.index_add_(0, task, right.mT.gather(1, queries).sum(1))
    return hits / (tasks.tasks.ways * tasks.tasks.query)
