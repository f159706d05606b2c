"""The vectors of a learner at its meta-test tasks: gradients, displacements, representations; a chunk at a time.

Any learner serves. theta^s of a task is what adapting by zero steps leaves; a vector runs over all parameters in the
order of `adapt(...).weights`, those that adaptation leaves alone included. Chunks arrive on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Weights, call, leaves
from mlkit.driver import Learner, Meta, for_tasks
from mlkit.learners.common import role, support_loss
from mlkit.seeding import seeded
from mlkit.tasks.base import FrozenTasks, TaskBatch

Tasks = FrozenTasks | TaskBatch


def gradients(
    learner: Learner, meta: Meta, tasks: Tasks, *, chunk_size: int = 25, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    r"""Yield the meta-test gradients (n, d), the directions of steepest descent before any step.

    $$g_i = -\nabla_\theta L_{S_i}(\theta^s)$$ (Paper 003, section 4.3.) The loss is that of the whole support set, in
    the mode of adaptation: batch statistics are those of the support set.

    Args:
        learner: what adapts; its model and loss are used.
        meta: stacked meta-parameters of one run (1, ...).
        tasks: what to measure on.
        chunk_size: tasks differentiated at once.
        device: where to compute.

    Raises:
        ValueError: `meta` holds several runs, or `chunk_size` is below 1.
    """
    for batch in batches(meta, tasks, chunk_size=chunk_size, device=device):
        yield _descent(learner, meta, batch)


def displacements(
    learner: Learner,
    meta: Meta,
    tasks: Tasks,
    *,
    steps: int | None = None,
    chunk_size: int = 25,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    r"""Yield how far and where adaptation moves, (n, d): $\tilde\theta_i - \theta^s$ (paper 003, section 4.2).

    Args:
        learner: what adapts.
        meta: stacked meta-parameters of one run (1, ...).
        tasks: what to measure on.
        steps: inner steps; None for the learner's own number.
        chunk_size: tasks adapted at once.
        device: where to compute.

    Raises:
        ValueError: `meta` holds several runs, or `chunk_size` is below 1.
    """
    for batch in batches(meta, tasks, chunk_size=chunk_size, device=device):
        yield _displacement(learner, meta, batch, steps)


def adaptations(
    learner: Learner,
    meta: Meta,
    tasks: Tasks,
    *,
    steps: int | None = None,
    chunk_size: int = 25,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Weights, Weights]]:
    """Yield the weights before and after adapting, each a dict of (n, ...); arguments as for `displacements`."""
    for batch in batches(meta, tasks, chunk_size=chunk_size, device=device):
        yield _ends(learner, meta, batch, steps)


def representations(
    learner: Learner,
    meta: Meta,
    images: Tensor,
    *,
    batch: int = 100,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield what feeds the head at theta^s, h = `model.features(x)`, for every image: (n, features).

    (Paper 003, section 6.) Batch statistics make h depend on the images of its batch. So all images are shuffled, which
    mixes the classes, and cut into batches of one size, give or take one image; they pass as support sets do.

    Args:
        learner: its model must have a method `features`.
        meta: stacked meta-parameters of one run (1, ...).
        images: (images, channels, height, width) of all classes.
        batch: images of a batch.
        seed: of the shuffle.
        device: where to compute.

    Raises:
        TypeError: the model has no method `features`.
        ValueError: `meta` holds several runs.
    """
    if not hasattr(learner.model, "features"):
        name = type(learner.model).__name__
        raise TypeError(f"expected a model with a method `features`, got {name}; give it one that returns the head's x")
    body, dtype = _Body(learner.model), _dtype(meta)
    own = {name: tensor.to(device) for name, tensor in _one_run(meta).items()}
    weights, buffers = ({f"model.{name}": t for name, t in role(own, kind).items()} for kind in ("theta", "buffers"))
    order = torch.randperm(len(images), generator=seeded("representations", seed))
    for rows in order.tensor_split(max(1, round(len(images) / batch))):
        with torch.no_grad():
            x = images[rows.to(images.device)].to(device, dtype)
            features, _ = call(body, weights, buffers, x[None], "adapt")
        yield features[0].flatten(1).cpu()


def flatten(weights: Weights) -> Tensor:
    """Lay each task's tensors (tasks, ...) end to end, in the order of the dict: (tasks, d)."""
    return torch.cat([tensor.flatten(1) for tensor in weights.values()], 1)


def batches(meta: Meta, tasks: Tasks, *, chunk_size: int, device: torch.device | str) -> Iterator[TaskBatch]:
    """Yield the tasks `chunk_size` at a time, on `device` and in the precision of `meta`.

    Raises:
        ValueError: `chunk_size` is below 1.
    """
    if chunk_size < 1:
        raise ValueError(f"expected a chunk_size of at least 1, got {chunk_size}; it counts tasks computed at once")
    for start in range(0, len(tasks), chunk_size):
        yield tasks[start : start + chunk_size].to(device, _dtype(meta))


def copies(meta: Meta, batch: TaskBatch) -> Meta:
    """Give each task of `batch` its copy of the one run in `meta` (1, ...), where the batch is.

    Raises:
        ValueError: `meta` holds several runs.
    """
    device = batch.seeds.device
    here = {name: tensor.to(device) for name, tensor in _one_run(meta).items()}
    return for_tasks(here, torch.zeros(len(batch), dtype=torch.int64, device=device))


def _one_run(meta: Meta) -> Meta:
    if (runs := len(next(iter(meta.values())))) != 1:
        raise ValueError(
            f"expected the stacked meta-parameters of one run (1, ...), got {runs} runs; "
            "measure them one by one: stack([run_of(meta, index)])"
        )
    return meta


def _dtype(meta: Meta) -> torch.dtype:
    return next(tensor.dtype for tensor in meta.values() if tensor.is_floating_point())


# What a function has made is gone when it returns: while a chunk is read, nothing else is held.


def _descent(learner: Learner, meta: Meta, batch: TaskBatch) -> Tensor:
    adapted = learner.adapt(copies(meta, batch), batch, steps=0)
    at = leaves(adapted.weights)
    with torch.enable_grad():
        losses, _ = support_loss(learner.model, learner.loss, {})(at, adapted.buffers, batch.support)
        slopes = torch.autograd.grad(losses.sum(), list(at.values()), allow_unused=True, materialize_grads=True)
    return flatten(dict(zip(at, slopes, strict=True))).neg_().cpu()


def _displacement(learner: Learner, meta: Meta, batch: TaskBatch, steps: int | None) -> Tensor:
    start, end = _ends(learner, meta, batch, steps)
    return flatten({name: end[name] - start[name] for name in start}).cpu()


def _ends(learner: Learner, meta: Meta, batch: TaskBatch, steps: int | None) -> tuple[Weights, Weights]:
    with torch.no_grad():
        own = copies(meta, batch)
        return tuple(learner.adapt(own, batch, steps=count).weights for count in (0, steps))


class _Body(nn.Module):
    """A model up to its head, so that `call` can lend it weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.stacks_tasks = model, getattr(model, "stacks_tasks", False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.features(x)
