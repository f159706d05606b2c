"""What learned update rules share: one rule serves every coordinate, that is every single weight of the network.

Their meta-parameters are `theta.*`, the initialization, and `phi.*`, the rule; as everywhere they carry a task axis.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Descent, Update, Weights, descend, judge_query, leaves
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.losses import TaskLoss
from mlkit.tasks.base import TaskBatch


class LearnedRule:
    """A learner that adapts by a rule over coordinates: a frozen dataclass with these fields, and its `rule`."""

    model: nn.Module
    loss: TaskLoss
    inner_steps: int
    first_order: bool
    checkpoint: bool

    def rule(self, meta: Meta, tasks: TaskBatch) -> tuple[Update, Any]:
        """Return the update of each inner step, and the state it starts from."""
        raise NotImplementedError

    @torch.no_grad()
    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets without a graph; `steps` defaults to the training value."""
        how = Descent(self.inner_steps if steps is None else steps, trajectory=trajectory)
        return _descend(self, meta, tasks, how)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""
        return common.predict(self.model, adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return each task's gradient of its query loss, through the adaptation, at everything that is meta-learned."""
        learned = leaves(common.trainable(meta))
        how = Descent(
            self.inner_steps, differentiable=True, second_order=not self.first_order, checkpoint=self.checkpoint
        )
        adapted = _descend(self, meta | learned, tasks, how)
        judge, buffers = common.query_loss(self.model, self.loss), common.carried_on(adapted.buffers)
        judged = judge_query(adapted, judge, tasks.query, query_chunk=query_chunk)
        return TaskGradients(judged.gradients(learned), judged.losses, judged.outputs, buffers)


def flatten(weights: Weights) -> Tensor:
    """Lay each task's tensors (tasks, ...) end to end: coordinates (tasks, n), in the order of the dict."""
    return torch.cat([tensor.flatten(1) for tensor in weights.values()], 1)


def unflatten(coordinates: Tensor, like: Weights) -> Weights:
    """Cut coordinates (tasks, n) into tensors of the names and shapes of `like`, whose dict order `flatten` took."""
    parts = coordinates.split([tensor[0].numel() for tensor in like.values()], 1)
    return {name: part.view_as(tensor) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def preprocess(x: Tensor, p: float = 10.0) -> Tensor:
    r"""Give each number x (tasks, ...) as size and sign, (tasks, 2, ...): sizes of many decades fit one network.

    $$x \mapsto \begin{cases} (\ln|x| / p,\ \mathrm{sign}\,x) & |x| \ge e^{-p} \\
    (-1,\ e^p x) & \text{else} \end{cases}$$
    (Andrychowicz et al. 2016, appendix A; Ravi and Larochelle 2017, section 3.2.)

    Example:
        >>> preprocess(torch.tensor([1.0, -1e-9]))
        tensor([[ 0.0000e+00,  1.0000e+00],
                [-1.0000e+00, -2.2026e-05]])
    """
    smallest = math.exp(-p)
    size = x.abs().clamp_min(smallest).log() / p
    return torch.stack([size, torch.where(x.abs() >= smallest, x.sign(), x / smallest)], 1)


def check_steps(inner_steps: int) -> None:
    """Refuse a number of updates below 0.

    Raises:
        ValueError: it is.
    """
    if inner_steps < 0:
        raise ValueError(f"expected inner_steps >= 0, got {inner_steps}; it is the number of updates")


def _descend(learner: LearnedRule, meta: Meta, tasks: TaskBatch, how: Descent) -> Adapted:
    update, state = learner.rule(meta, tasks)
    adapted = descend(
        common.role(meta, "theta"),
        common.own_buffers(learner.model, meta, tasks),
        common.full_batch(tasks),
        loss=common.support_loss(learner.model, learner.loss, {}),
        update=update,
        state=state,
        how=how,
    )
    return common.with_support_statistics(learner.model, adapted, tasks.support)
