"""Finetuning: supervised training on all training classes; a new head for each task, gradient descent from there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.maml import MAML
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.seeding import seeded
from mlkit.tasks.base import TaskBatch


@dataclass(frozen=True)
class Finetuning:
    r"""Learn to tell all training classes apart; at meta-test replace the head, then adapt all weights as MAML does.

    $$\min_{\theta, W} L_B(f_W(h_\theta(x)), y)$$ over batches B of all training classes (paper 003, section 3.2 and
    appendix A). It trains on `mlkit.tasks.SupervisedBatches`, each one pseudo task, and is judged on few-shot tasks.

    The same task gets the same new head under every run, so runs are compared on equal terms.

    Args:
        model: the network of a few-shot task; its last layer is an `nn.Linear` named `head`. Its own weights are not
            used. In training the same network gets a head of all training classes.
        classes: number of training classes, as `SupervisedSpec.classes`.
        inner_lr: alpha, of the gradient descent at meta-test.
        inner_steps: T; `adapt` may take another number.
        loss: loss of a task and of a supervised batch.

    Raises:
        ValueError: the model has no such head, or a number is out of its range.

    Example:
        >>> from mlkit.models import conv4
        >>> learner = Finetuning(conv4("guiroy-mini", 5, size=32, channels=3), classes=64, inner_lr=0.01)
    """

    model: nn.Module
    classes: int
    inner_lr: float = 0.01
    inner_steps: int = 5
    loss: TaskLoss = cross_entropy

    def __post_init__(self) -> None:
        head = getattr(self.model, "head", None)
        if not isinstance(head, nn.Linear):
            raise ValueError(
                f"expected a model whose last layer is an nn.Linear named `head`, got {type(self.model).__name__} with "
                f"{type(head).__name__}; name the layer that is to be replaced `head`"
            )
        if self.classes < 1:
            raise ValueError(f"expected classes >= 1, got {self.classes}; count the training classes")
        _ = self._descent  # refuses numbers out of their range

    @cached_property
    def _descent(self) -> MAML:
        return MAML(self.model, self.inner_lr, self.inner_steps, self.loss)

    def init(self, generator: torch.Generator) -> Meta:
        """Draw the body as the model does, and a Xavier head of all training classes."""
        meta = common.initialize(self.model, generator)
        return meta | self._head(self.classes, generator)

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Give each task a new Xavier head, drawn from its own seed; then adapt all weights to the support set."""
        heads = [self._head(self.model.head.out_features, seeded("head", int(seed))) for seed in tasks.seeds]
        new = {name: torch.stack([head[name] for head in heads]).to(meta[name]) for name in heads[0]}
        return self._descent.adapt(meta | new, tasks, steps=steps, trajectory=trajectory)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""
        return self._descent.predict(adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return the gradient of each supervised batch's loss; a batch is the query set of its pseudo task."""
        del query_chunk  # one pass serves both ends
        return common.supervised_gradients(self.model, self.loss, meta, tasks)

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return {
            "learner": "Finetuning",
            "loss": self.loss.__name__,
            "inner_lr": self.inner_lr,
            "inner_steps": self.inner_steps,
            "classes": self.classes,
            "new_head": "xavier",
            **common.describe_model(self.model),
        }

    def _head(self, outputs: int, generator: torch.Generator) -> Meta:
        """Draw a Xavier uniform head with zero bias (Glorot & Bengio 2010)."""
        head = {"theta.head.weight": torch.empty(outputs, self.model.head.in_features)}
        nn.init.xavier_uniform_(head["theta.head.weight"], generator=generator)
        return head if self.model.head.bias is None else head | {"theta.head.bias": torch.zeros(outputs)}
