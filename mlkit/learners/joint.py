"""Joint training for segmentation: one network of all training classes; a new head for each task, then adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, call, leaves
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.reptile import Augment, Displacement
from mlkit.losses import TaskLoss
from mlkit.seeding import seeded
from mlkit.segmentation_losses import joint_segmentation_loss
from mlkit.tasks.base import TaskBatch


@dataclass(frozen=True)
class JointTraining:
    r"""Learn to tell all training classes and the background apart; at meta-test a new head of 2 channels adapts.

    $$\min_{\theta, W} L_B(f_W(h_\theta(x)), y) + \frac{\lambda}{2} |\theta, W|^2$$ over batches B of all training
    classes (paper 000, sections 5.4 and 5.5). It trains on `SupervisedSegmentationSpec` batches, each one pseudo task.

    The same task gets the same new head under every run, so runs are compared on equal terms.

    Args:
        adaptation: the learner whose model, L2 and routine of adaptation are used: those of whom it is compared with.
            The model has a method `new_head(channels, generator)` that draws the parameters it replaces.
        classes: number of training classes; the head has one more channel, for the background.
        loss: of a batch.
        augment: what becomes of each batch in training.

    Raises:
        ValueError: the model cannot draw a new head, or `classes` is below 1.

    Example:
        >>> from mlkit.models.efficientlab import EfficientLab
        >>> from mlkit.segmentation_losses import segmentation_loss
        >>> routine = Displacement(EfficientLab("3", width=0.25), batch_size=8, loss=segmentation_loss, l2=5e-4)
        >>> JointTraining(routine, classes=560).init(seeded("example"))["theta.head.bias"].shape
        torch.Size([561])
    """

    adaptation: Displacement
    classes: int
    loss: TaskLoss = joint_segmentation_loss
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.model, "new_head"):
            raise ValueError(
                f"expected a model with a method new_head(channels, generator), got {type(self.model).__name__}; "
                "take EfficientLab, or add one that draws the parameters of the last layer"
            )
        if self.classes < 1:
            raise ValueError(f"expected classes >= 1, got {self.classes}; count the training classes")

    @property
    def model(self) -> nn.Module:
        """The network of a task, of 2 channels."""
        return self.adaptation.model

    def init(self, generator: torch.Generator) -> Meta:
        """Draw the body as the model does, and a head of a channel for the background and for each training class."""
        return self.adaptation.init(generator) | self._head(self.classes + 1, generator)

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Give each task a new head, drawn from its own seed; then adapt all weights as `adaptation` does."""
        heads = [self._head(2, seeded("head", int(seed))) for seed in tasks.seeds]
        new = {name: torch.stack([head[name] for head in heads]).to(meta[name]) for name in heads[0]}
        return self.adaptation.adapt(meta | new, tasks, steps=steps, trajectory=trajectory)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the masks of x (tasks, examples, ...)."""
        return self.adaptation.predict(adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return the gradient of each batch's loss and L2; a batch is the query set of its pseudo task.

        The outputs are those of the batch as it came, not augmented: scores compare them with its masks.
        """
        del query_chunk  # one pass serves both ends
        learned, model = leaves(common.trainable(meta)), self.model
        weights, buffers = common.role(learned, "theta"), common.own_buffers(model, meta, tasks)
        batch = tasks.query if self.augment is None else self.augment(tasks.query, tasks.seeds, 0)
        outputs, buffers = call(model, weights, buffers, batch.x, "adapt")  # moves running statistics on
        losses = self.loss(outputs, batch.y)
        found = torch.autograd.grad(losses.sum(), list(weights.values()), allow_unused=True, materialize_grads=True)
        found = dict(zip(weights, found, strict=True))
        decayed = common.with_l2(found, weights, self.adaptation.l2, but=common.of_norms(model))
        gradients = {f"theta.{name}": gradient.detach() for name, gradient in decayed.items()}
        if self.augment is not None:
            outputs = common.predict(model, Adapted(weights, buffers, losses), tasks.query.x)
        return TaskGradients(gradients, losses.detach(), outputs.detach(), common.carried_on(buffers))

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return {
            "learner": "JointTraining",
            "loss": self.loss.__name__,
            "classes": self.classes,
            **common.describe_augment(self.augment),
            "adaptation": self.adaptation.describe(),
        }

    def _head(self, channels: int, generator: torch.Generator) -> Meta:
        return {f"theta.{name}": tensor for name, tensor in self.model.new_head(channels, generator).items()}
