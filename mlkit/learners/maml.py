"""MAML and its small variants: first order, ANIL, Meta-SGD; one code path, four switches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Descent, Weights, descend, judge_query, leaves
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.tasks.base import TaskBatch


@dataclass(frozen=True)
class MAML:
    r"""Learn an initialization from which a few gradient steps adapt.

    $$\tilde\theta_i = \theta_{i,T},\quad \theta_{i,t+1} = \theta_{i,t} - \alpha \nabla L_{S_i}(\theta_{i,t}),\quad
    \min_\theta \sum_i L_{Q_i}(\tilde\theta_i)$$ (Finn et al. 2017, algorithm 1.) With a mean loss; Finn's code sums
    it over the classes, so its inner learning rates are `ways` times smaller for the same step.

    Args:
        model: any module; its own weights are not used.
        inner_lr: alpha.
        inner_steps: T, in training; `adapt` may take another number.
        loss: loss of a task, by default the mean cross-entropy.
        first_order: treat the inner gradients as constants (FOMAML).
        learn_inner_lr: meta-learn one learning rate per weight, started at `inner_lr` (Meta-SGD, Li et al. 2017).
        adapted: adapt only parameters whose name starts with this, e.g. "head." (ANIL, Raghu et al. 2020).
        adapt_norm: let gamma and beta of the normalization adapt too (papers 000, 002); False as in Finn's code.
        clip_inner: clip the values of the inner gradients to [-clip, clip].
        checkpoint: recompute inner steps in the backward pass: memory nearly flat in `inner_steps`.

    Raises:
        ValueError: no parameter is left to adapt, or a number is out of its range.
    """

    model: nn.Module
    inner_lr: float = 0.01
    inner_steps: int = 5
    loss: TaskLoss = cross_entropy
    first_order: bool = False
    learn_inner_lr: bool = False
    adapted: str = ""
    adapt_norm: bool = True
    clip_inner: float | None = None
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.inner_lr <= 0 or self.inner_steps < 0:
            raise ValueError(
                f"expected inner_lr > 0 and inner_steps >= 0, got inner_lr={self.inner_lr}, "
                f"inner_steps={self.inner_steps}; inner_lr is a step size, inner_steps the number of updates"
            )
        if not self._adapted_names:
            names = ", ".join(name for name, _ in self.model.named_parameters())
            raise ValueError(f"expected adapted={self.adapted!r} to start a parameter's name, got none of: {names}")

    @cached_property
    def _adapted_names(self) -> list[str]:
        left_alone = set() if self.adapt_norm else common.of_norms(self.model)
        names = [name for name, _ in self.model.named_parameters() if name.startswith(self.adapted)]
        return [name for name in names if name not in left_alone]

    def init(self, generator: torch.Generator) -> Meta:
        """Draw an initialization."""
        meta = common.initialize(self.model, generator)
        if self.learn_inner_lr:
            rates = {name: torch.full_like(meta[f"theta.{name}"], self.inner_lr) for name in self._adapted_names}
            meta |= {f"inner_lr.{name}": rate for name, rate in rates.items()}
        return meta

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets without a graph; `steps` defaults to the training value."""
        steps = self.inner_steps if steps is None else steps
        with torch.no_grad():
            return self._descend(meta, tasks, Descent(steps, trajectory=trajectory))

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""
        return common.predict(self.model, adapted, x)

    def adapt_with_graph(self, meta: Meta, tasks: TaskBatch) -> Adapted:
        """Adapt as in meta-training: the graph from `meta` to the adapted weights is kept."""
        how = Descent(
            self.inner_steps, differentiable=True, second_order=not self.first_order, checkpoint=self.checkpoint
        )
        return self._descend(meta, tasks, how)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return each task's gradient of its query loss, through the adaptation."""
        learned = leaves(common.trainable(meta))
        adapted = self.adapt_with_graph(meta | learned, tasks)
        judge = common.query_loss(self.model, self.loss)
        judged = judge_query(adapted, judge, tasks.query, query_chunk=query_chunk)
        return TaskGradients(
            judged.gradients(learned), judged.losses, judged.outputs, common.carried_on(adapted.buffers)
        )

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        kept = ("inner_lr", "inner_steps", "first_order", "learn_inner_lr", "adapted", "adapt_norm", "clip_inner")
        return {
            "learner": "MAML",
            "loss": self.loss.__name__,
            **{name: getattr(self, name) for name in kept},
            **common.describe_model(self.model),
        }

    def _descend(self, meta: Meta, tasks: TaskBatch, how: Descent) -> Adapted:
        theta, rates = common.role(meta, "theta"), common.role(meta, "inner_lr")
        names = set(self._adapted_names)
        fixed = {name: tensor for name, tensor in theta.items() if name not in names}

        def update(weights: Weights, gradients: Weights, _losses: Tensor, state: None) -> tuple[Weights, None]:
            limit = self.clip_inner
            if limit is not None:
                gradients = {name: gradient.clamp(-limit, limit) for name, gradient in gradients.items()}
            if rates:
                return {name: weights[name] - rates[name] * gradients[name] for name in weights}, state
            return {name: torch.sub(weights[name], gradients[name], alpha=self.inner_lr) for name in weights}, state

        adapted = descend(
            {name: tensor for name, tensor in theta.items() if name in names},
            common.own_buffers(self.model, meta, tasks),
            common.full_batch(tasks),
            loss=common.support_loss(self.model, self.loss, fixed),
            update=update,
            state=None,
            how=how,
        )
        path = tuple((fixed | weights, buffers) for weights, buffers in adapted.trajectory)
        whole = replace(adapted, weights=fixed | adapted.weights, trajectory=path)
        return common.with_support_statistics(self.model, whole, tasks.support)
