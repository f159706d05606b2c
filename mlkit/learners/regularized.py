"""Regularized MAML: adapted weights are turned towards the mean direction of all tasks before they are judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Judged, Weights, judge_query, leaves
from mlkit.driver import Rounds, TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.maml import MAML
from mlkit.losses import TaskLoss
from mlkit.tasks.base import TaskBatch

Outer = Literal["detached", "full", "constant"]
OUTERS: tuple[Outer, ...] = get_args(Outer)


@dataclass(frozen=True)
class RegularizedMAML:
    r"""MAML whose tasks, in meta-training, are judged after a step that reduces the angles between them.

    $$\hat\theta_i = \tilde\theta_i - \gamma \nabla \Omega_i,\quad \Omega_i = -u_i^T \mu,\quad
    u_i = \frac{\tilde\theta_i - \theta}{\|\tilde\theta_i - \theta\|},\quad \mu = \frac{1}{n} \sum_j u_j$$
    (paper 003, section 7 and algorithm 1, whose minus signs the print lost). The gradient of Omega is taken at the
    task's own adapted weights, theta held fixed; the paper does not say. mu is over the whole meta-batch of a run, and
    over all processes that share it. At meta-test a task is alone, and adapts as in MAML.

    | outer | the meta-gradient of the query loss at theta-hat runs through |
    |---|---|
    | detached | theta-tilde and u_i; mu is a constant |
    | full | theta-tilde, u_i and mu, and so from each task to all others |
    | constant | theta-tilde alone; the correction is a constant |

    The graphs of all tasks are kept until mu is known: `chunk_size` does not bound memory, `checkpoint` of the MAML
    does.

    Args:
        maml: what adapts.
        gamma: size of the correction; 0 is MAML.
        outer: one of OUTERS.

    Raises:
        ValueError: gamma is negative, or `outer` unknown.

    Example:
        >>> from mlkit.models import conv4
        >>> learner = RegularizedMAML(MAML(conv4("guiroy-omniglot", 20, size=28, channels=1), inner_lr=0.1), gamma=0.5)
    """

    maml: MAML
    gamma: float = 0.5
    outer: Outer = "detached"

    def __post_init__(self) -> None:
        if self.outer not in OUTERS:
            raise ValueError(f"expected outer out of {', '.join(OUTERS)}; got {self.outer!r}")
        if not self.gamma >= 0:
            raise ValueError(f"expected gamma >= 0, got {self.gamma}; the correction reduces angles")

    @property
    def model(self) -> nn.Module:
        """The network that adapts."""
        return self.maml.model

    @property
    def loss(self) -> TaskLoss:
        """The loss of a task."""
        return self.maml.loss

    def init(self, generator: torch.Generator) -> Meta:
        """Draw an initialization, the one that MAML draws."""
        return self.maml.init(generator)

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets as MAML does."""
        return self.maml.adapt(meta, tasks, steps=steps, trajectory=trajectory)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""
        return self.maml.predict(adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> Rounds:
        """Return each task's gradient of its query loss at theta-hat, once the driver has answered with mu.

        Under "full" a second mean is asked for: how the losses of all tasks depend on mu.
        """
        learned = leaves(common.trainable(meta))
        adapted = self.maml.adapt_with_graph(meta | learned, tasks)
        moved = displacement(common.role(learned, "theta"), adapted.weights)
        own = direction(moved)
        mean = yield own.detach()
        mean.requires_grad_(self.outer == "full")
        turn = correction(moved.detach() if self.outer == "constant" else moved, mean, self.gamma)
        judged = self._judge(adapted, turn, tasks, query_chunk)
        if self.outer == "full":
            pull = yield torch.autograd.grad(judged.tensors, mean, judged.slopes, retain_graph=True)[0]
            judged = replace(judged, tensors=(*judged.tensors, own), slopes=(*judged.slopes, pull))
        buffers = common.carried_on(adapted.buffers)
        return TaskGradients(judged.gradients(learned), judged.losses, judged.outputs, buffers)

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return self.maml.describe() | {"learner": "RegularizedMAML", "gamma": self.gamma, "outer": self.outer}

    def _judge(self, adapted: Adapted, turn: Tensor, tasks: TaskBatch, query_chunk: int | None) -> Judged:
        turned = replace(adapted, weights=_plus(adapted.weights, turn))
        ready = common.with_support_statistics(self.model, turned, tasks.support)
        return judge_query(ready, common.query_loss(self.model, self.loss), tasks.query, query_chunk=query_chunk)


def displacement(origin: Weights, adapted: Weights) -> Tensor:
    """Return d = adapted - origin, as one vector a task (tasks, parameters), in the order of `adapted`."""
    return torch.cat([(tensor - origin[name]).flatten(1) for name, tensor in adapted.items()], 1)


def direction(moved: Tensor) -> Tensor:
    """Return u = d / |d| of each displacement (tasks, parameters); 0 for a task that did not move."""
    return moved / _length(moved)


def correction(moved: Tensor, mean: Tensor, gamma: float) -> Tensor:
    r"""Return the step that turns each displacement d towards the mean direction mu, both (tasks, parameters).

    $$-\gamma \nabla_{\tilde\theta_i} \Omega_i = \frac{\gamma}{\|d_i\|} (\mu - (u_i^T \mu) u_i)$$
    It is orthogonal to d, and 0 for a task that did not move.

    Example:
        >>> correction(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.6, 0.8]]), gamma=0.5)
        tensor([[0.0000, 0.2000]])
    """
    own = direction(moved)
    return gamma / _length(moved) * (mean - (own * mean).sum(1, keepdim=True) * own)


def _length(moved: Tensor) -> Tensor:
    """Return |d| (tasks, 1); infinity for 0, by which whatever is divided vanishes, its gradient too."""
    square = moved.square().sum(1, keepdim=True)
    return torch.where(square > 0, square, torch.inf).sqrt()


def _plus(weights: Weights, step: Tensor) -> Weights:
    """Add a vector a task (tasks, parameters) to its weights."""
    parts = step.split([tensor[0].numel() for tensor in weights.values()], 1)
    return {name: tensor + part.view_as(tensor) for (name, tensor), part in zip(weights.items(), parts, strict=True)}
