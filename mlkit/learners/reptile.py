"""Displacement updates: the meta-gradient is minus how far mini-batch SGD moved the weights. Any loss, no second order.

Reptile moves towards where adaptation ended; the first-order MAML variants move along its last step only. They differ
in which examples feed that last step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Batches, Descent, Weights, descend
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.tasks.base import Examples, TaskBatch

Variant = Literal["reptile", "fomaml_disjoint", "fomaml_star", "fomaml_no_tail"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
Augment = Callable[[Examples, Tensor, int], Examples]  # examples, the tasks' seeds (tasks,), inner step


@dataclass(frozen=True)
class Displacement:
    r"""Reptile and the displacement forms of FOMAML; K = `inner_steps`, the outer step is SGD with the meta step size.

    | variant | first K - 1 batches | last batch | displacement |
    |---|---|---|---|
    | reptile | mini-batches of the support set | the same | theta_K - theta_0 |
    | fomaml_no_tail | mini-batches of the support set | the same | theta_K - theta_{K-1} |
    | fomaml_disjoint | mini-batches of the support set | the whole query set | theta_K - theta_{K-1} |
    | fomaml_star | mini-batches of a redrawn support set | a redrawn query set | theta_K - theta_{K-1} |

    Redrawn: independently and with replacement from all of the task's examples, in the same numbers.

    Sources: Nichol et al. 2018, sections 3 and 5; paper 000, section 3.2 and appendix A. `gradients` returns the
    negative displacement, so theta - meta_lr * gradient moves along it.

    Args:
        model: any module; its own weights are not used.
        variant: one of VARIANTS.
        inner_lr: learning rate of the inner SGD.
        inner_steps: K, counting the last batch.
        batch_size: examples of a mini-batch, cycling through reshuffled data; None for the whole set at every step.
        loss: loss of a task.
        pool: what Reptile and fomaml_no_tail train on: the support set, or support and query together.
        augment: what becomes of each mini-batch, in training and at meta-test.
        last_augmented: augment the last batch of fomaml_disjoint and fomaml_star, too (paper 000 does not).
        l2: add l2 * w to the gradient of each weight w, save gamma and beta of the normalization (paper 000: 5e-4).

    Raises:
        ValueError: an unknown variant, or a number out of its range.
    """

    model: nn.Module
    variant: Variant = "reptile"
    inner_lr: float = 0.01
    inner_steps: int = 5
    batch_size: int | None = None
    loss: TaskLoss = cross_entropy
    pool: Literal["support", "all"] = "support"
    augment: Augment | None = None
    last_augmented: bool = False
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"expected a variant out of {', '.join(VARIANTS)}; got {self.variant!r}")
        if self.pool not in ("support", "all"):
            raise ValueError(f"expected pool 'support' or 'all', got {self.pool!r}")
        small = self.inner_lr <= 0 or self.inner_steps < 1 or self.l2 < 0
        if small or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError(
                f"expected inner_lr > 0, inner_steps >= 1, batch_size >= 1 or None and l2 >= 0, got inner_lr="
                f"{self.inner_lr}, inner_steps={self.inner_steps}, batch_size={self.batch_size}, l2={self.l2}"
            )

    def init(self, generator: torch.Generator) -> Meta:
        """Draw an initialization."""
        return common.initialize(self.model, generator)

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets by mini-batch SGD, as at meta-test."""
        steps = self.inner_steps if steps is None else steps
        batches = self._augmented(mini_batches(tasks.support, tasks.seeds, self.batch_size, steps), tasks)
        adapted = self._descend(meta, tasks, batches, Descent(steps, trajectory=trajectory))
        with torch.no_grad():
            return common.with_support_statistics(self.model, adapted, tasks.support)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""
        return common.predict(self.model, adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return each task's negative displacement; the losses are those of the last step, outputs of the query set."""
        del query_chunk  # the query set is only predicted, without a graph
        how = Descent(self.inner_steps, trajectory=True)
        adapted = self._descend(meta, tasks, self._training_batches(tasks), how)
        origin, _ = adapted.trajectory[0 if self.variant == "reptile" else -2]
        gradients = {f"theta.{name}": origin[name] - tensor for name, tensor in adapted.weights.items()}
        with torch.no_grad():
            ready = common.with_support_statistics(self.model, adapted, tasks.support)
        outputs = self.predict(ready, tasks.query.x)
        return TaskGradients(gradients, adapted.losses[-1], outputs, common.carried_on(adapted.buffers))

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        kept = ("variant", "inner_lr", "inner_steps", "batch_size", "pool")
        added = {"last_augmented": self.last_augmented, "l2": self.l2}  # named where they are set, as is `augment`
        return {
            "learner": "Displacement",
            "loss": self.loss.__name__,
            **{name: getattr(self, name) for name in kept},
            **{name: value for name, value in added.items() if value},
            **common.describe_augment(self.augment),
            **common.describe_model(self.model),
        }

    def _training_batches(self, tasks: TaskBatch) -> Batches:
        last = self.inner_steps - 1
        if self.variant in ("reptile", "fomaml_no_tail"):
            pool = together(tasks) if self.pool == "all" else tasks.support
            return self._augmented(mini_batches(pool, tasks.seeds, self.batch_size, self.inner_steps), tasks)
        support, query = redrawn(tasks) if self.variant == "fomaml_star" else (tasks.support, tasks.query)
        first = mini_batches(support, tasks.seeds, self.batch_size, last)
        augmented = self._augmented(lambda step: query if step == last else first(step), tasks)
        return lambda step: query if step == last and not self.last_augmented else augmented(step)

    def _augmented(self, batches: Batches, tasks: TaskBatch) -> Batches:
        if self.augment is None:
            return batches
        return lambda step: self.augment(batches(step), tasks.seeds, step)

    def _descend(self, meta: Meta, tasks: TaskBatch, batches: Batches, how: Descent) -> Adapted:
        def update(weights: Weights, gradients: Weights, _losses: Tensor, state: None) -> tuple[Weights, None]:
            return common.moved(weights, gradients, self.inner_lr, l2=self.l2, but=self._norms), state

        return descend(
            common.role(meta, "theta"),
            common.own_buffers(self.model, meta, tasks),
            batches,
            loss=common.support_loss(self.model, self.loss, {}),
            update=update,
            state=None,
            how=how,
        )

    @cached_property
    def _norms(self) -> set[str]:
        return common.of_norms(self.model)


def pick(examples: Examples, rows: Tensor) -> Examples:
    """Take examples by index: rows (tasks, n) of x, y (tasks, examples, ...)."""
    task = torch.arange(len(rows), device=rows.device)[:, None]
    return examples.map(lambda tensor: tensor[task, rows.to(tensor.device)])


def together(tasks: TaskBatch) -> Examples:
    """Join support and query along the example axis; images that lie channels last stay so."""

    def joined(*parts: Tensor) -> Tensor:
        if parts[0].dim() == 5 and parts[0].stride(2) == 1:
            return torch.cat([part.movedim(2, -1) for part in parts], 1).movedim(-1, 2)
        return torch.cat(parts, 1)

    return Examples(joined(tasks.support.x, tasks.query.x), joined(tasks.support.y, tasks.query.y))


def redrawn(tasks: TaskBatch) -> tuple[Examples, Examples]:
    """Redraw support and query, each with replacement, from all examples of a task (paper 000, FOMAML*)."""
    pool, shots, queries = together(tasks), tasks.support.y.shape[1], tasks.query.y.shape[1]
    rows = [torch.randint(shots + queries, (shots + queries,), generator=_own(seed, "redraw")) for seed in tasks.seeds]
    drawn = pick(pool, torch.stack(rows).to(tasks.seeds.device))
    return drawn.map(lambda tensor: tensor[:, :shots]), drawn.map(lambda tensor: tensor[:, shots:])


def mini_batches(examples: Examples, seeds: Tensor, batch_size: int | None, steps: int) -> Batches:
    """Cut `steps` batches from an endless run of reshuffled passes over the examples; each task by its own seed."""
    if batch_size is None:
        return lambda _step: examples
    count = examples.y.shape[1]
    passes = -(-batch_size * max(steps, 1) // count)
    orders = []
    for seed in seeds:
        generator = _own(seed, "batches")
        orders.append(torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)]))
    order = torch.stack(orders).to(seeds.device)
    return lambda step: pick(examples, order[:, step * batch_size : (step + 1) * batch_size])


def _own(seed: Tensor, purpose: str) -> torch.Generator:
    offset = {"batches": 1, "redraw": 2}[purpose]
    return torch.Generator().manual_seed((int(seed) * 4 + offset) % 2**63)
