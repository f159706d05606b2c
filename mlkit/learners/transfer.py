"""Transfer baselines: from scratch, finetuning of a head on a frozen body, Baseline++; each task by Adam."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Batches, Descent, Update, Weights, call, descend
from mlkit.driver import TaskGradients
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.reptile import pick
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch


@dataclass(frozen=True)
class Transfer:
    r"""Learn to tell all training classes apart; at meta-test train a new head on what the frozen body sees.

    (Chen et al. 2019; paper 002, section 3.5.3.) Training is that of `Finetuning`, on `SupervisedBatches`. A task is
    then learned by Adam on small batches, drawn with replacement from its support set.

    | baseline | how | adapts |
    |---|---|---|
    | train from scratch | classes=None, and an outer loop of 0 iterations | all weights, from one initialization |
    | finetuning | a model with a linear head | a new head |
    | Baseline++ | a model `with_cosine_head` | a new head |

    A frozen body normalizes by running averages under the policy "running"; paper 002's code has a momentum of 1 there,
    which leaves the statistics of the last training batch.

    Args:
        model: the network of a few-shot task, with a method `features` that gives what feeds its last layer `head`.
        classes: number of training classes; None to train from scratch.
        lr: of Adam.
        inner_steps: batches at meta-test; `adapt` may take another number.
        batch_size: examples of a batch; None for the whole support set.
        loss: loss of a task and of a supervised batch.

    Raises:
        ValueError: the model has no such method and head, or a number is out of its range.

    Example:
        >>> from mlkit.models import conv4
        >>> network = conv4("small", 5, size=32, channels=3, norm="running")
        >>> baselines = Transfer(network, 64), Transfer(with_cosine_head(network), 64), Transfer(network, None)
    """

    model: nn.Module
    classes: int | None
    lr: float = 1e-3
    inner_steps: int = 100
    batch_size: int | None = 4
    loss: TaskLoss = cross_entropy

    def __post_init__(self) -> None:
        head = getattr(self.model, "head", None)
        if not hasattr(self.model, "features") or not isinstance(head, nn.Linear | CosineHead):
            raise ValueError(
                f"expected a model with a method `features` and a last layer `head`, nn.Linear or CosineHead, got "
                f"{type(self.model).__name__} with {type(head).__name__}"
            )
        counts = [count for count in (self.batch_size, self.classes, 1) if count is not None]
        if self.lr <= 0 or self.inner_steps < 0 or min(counts) < 1:
            raise ValueError(
                f"expected lr > 0, inner_steps >= 0, batch_size and classes of at least 1 or None, got {self.lr}, "
                f"{self.inner_steps}, {self.batch_size}, {self.classes}"
            )

    def init(self, generator: torch.Generator) -> Meta:
        """Draw the network, with a head of all training classes."""
        meta = common.initialize(self.model, generator)
        return meta if self.classes is None else meta | self._head(self.classes, generator)

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Train all weights, or a new head drawn from the task's own seed, on the support set."""
        how = Descent(self.inner_steps if steps is None else steps, trajectory=trajectory)
        with torch.no_grad():
            if self.classes is None:
                theta, buffers = common.role(meta, "theta"), common.own_buffers(self.model, meta, tasks)
                adapted = self._descend(self.model, theta, buffers, tasks.support, tasks.seeds, how)
                return common.with_support_statistics(self.model, adapted, tasks.support)
            return self._adapt_head(meta, tasks, how)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""
        return common.predict(self.model, adapted, x)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return the gradient of each supervised batch's loss; a batch is the query set of its pseudo task.

        Raises:
            ValueError: there is nothing to train before a task comes.
        """
        if self.classes is None:
            raise ValueError("expected no meta-training from scratch; pass an outer loop of 0 iterations")
        del query_chunk  # one pass serves both ends
        return common.supervised_gradients(self.model, self.loss, meta, tasks)

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        kept = ("classes", "lr", "inner_steps", "batch_size")
        return {
            "learner": "Transfer",
            **describe_head(self.model.head),
            "loss": self.loss.__name__,
            **{name: getattr(self, name) for name in kept},
            **common.describe_model(self.model),
        }

    def _head(self, outputs: int, generator: torch.Generator) -> Meta:
        """Draw a head like the model's, for as many outputs, its bias zero."""
        head = self.model.head
        scaled = {"scale": head.scale} if isinstance(head, CosineHead) else {}
        fresh = type(head)(head.in_features, outputs, **scaled).to(head.weight)
        drawn = common.role(common.initialize(fresh, generator), "theta")
        return {f"theta.head.{n}": torch.zeros_like(t) if n == "bias" else t for n, t in drawn.items()}

    def _adapt_head(self, meta: Meta, tasks: TaskBatch, how: Descent) -> Adapted:
        heads = [self._head(self.model.head.out_features, seeded("head", int(seed))) for seed in tasks.seeds]
        new = {name: torch.stack([head[name] for head in heads]).to(meta[name]) for name in heads[0]}
        theta = common.role(meta | new, "theta")
        body = {name: tensor for name, tensor in theta.items() if not name.startswith("head.")}
        start = Adapted(theta, common.own_buffers(self.model, meta, tasks), torch.empty(0))
        buffers = common.with_support_statistics(self.model, start, tasks.support).buffers
        seen = Examples(features(self.model, theta, buffers, tasks.support.x), tasks.support.y)
        adapted = self._descend(self.model.head, common.role(theta, "head"), {}, seen, tasks.seeds, how)

        def whole(head: Weights) -> Weights:
            return body | {f"head.{name}": tensor for name, tensor in head.items()}

        path = tuple((whole(head), buffers) for head, _ in adapted.trajectory)
        return replace(adapted, weights=whole(adapted.weights), buffers=buffers, trajectory=path)

    def _descend(
        self, model: nn.Module, weights: Weights, buffers: Weights, support: Examples, seeds: Tensor, how: Descent
    ) -> Adapted:
        batches = drawn_batches(support, seeds, self.batch_size, how.steps)
        loss = common.support_loss(model, self.loss, {})
        return descend(weights, buffers, batches, loss=loss, update=adam(self.lr), state=None, how=how)


class CosineHead(nn.Module):
    r"""Score each class by the cosine between features and its direction, times a learned length, times a scale.

    $$s_c = a\, l_c \, \frac{w_c}{\|w_c\|} \cdot \frac{h}{\|h\| + 10^{-5}}$$ (Baseline++, Chen et al. 2019, in the form
    that paper 002 used, with a = 2; the code of Chen et al. has 10 for more than 200 classes.)
    h (..., examples, in) -> s (..., examples, out); weights may be stacked over tasks.
    """

    stacks_tasks = True

    def __init__(self, in_features: int, out_features: int, *, scale: float = 2.0) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = in_features, out_features, scale
        self.weight, self.length = (
            nn.Parameter(torch.empty(out_features, in_features)),
            nn.Parameter(torch.empty(out_features)),
        )
        self.bias = torch.empty(0)  # networks set the bias of their head to zero; there is none
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw w as `nn.Linear` does; the lengths start as |w|."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        with torch.no_grad():
            self.length.copy_(self.weight.norm(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        seen = x / (x.norm(dim=-1, keepdim=True) + 1e-5)
        return self.scale * torch.matmul(seen, F.normalize(self.weight, dim=-1).mT) * self.length.unsqueeze(-2)


def describe_head(head: nn.Module) -> dict[str, Any]:
    """Say which classifier it is, and its scale where that is not paper 002's."""
    if not isinstance(head, CosineHead):
        return {"classifier": "linear"}
    return {"classifier": "cosine", **({"scale": head.scale} if head.scale != 2 else {})}


def with_cosine_head(model: nn.Module, *, scale: float = 2.0) -> nn.Module:
    """Return a copy of `model` whose linear layer `head` is a `CosineHead`."""
    changed = copy.deepcopy(model)
    head = CosineHead(model.head.in_features, model.head.out_features, scale=scale)
    changed.head = head.to(model.head.weight)
    return changed


class _Body(nn.Module):
    """A model up to its head, so that `call` can lend it weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.stacks_tasks = model, getattr(model, "stacks_tasks", False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model.features(x)


def features(model: nn.Module, weights: Weights, buffers: Weights, x: Tensor) -> Tensor:
    """Return what feeds the head of a frozen network: x (tasks, examples, ...) -> (tasks, examples, features)."""
    weights, buffers = ({f"model.{name}": t for name, t in of.items()} for of in (weights, buffers))
    return call(_Body(model), weights, buffers, x, "predict")[0]


def drawn_batches(examples: Examples, seeds: Tensor, batch_size: int | None, steps: int) -> Batches:
    """Draw `steps` batches with replacement, each task's by its own seed."""
    if batch_size is None:
        return lambda _step: examples
    count, shape = examples.y.shape[1], (steps, batch_size)
    rows = [torch.randint(count, shape, generator=seeded("drawn batches", int(seed))) for seed in seeds]
    drawn = torch.stack(rows, 1)  # (steps, tasks, batch_size)
    return lambda step: pick(examples, drawn[step].to(seeds.device))


def adam(lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Update:
    """Return the update of Adam (Kingma and Ba 2015, algorithm 1); its state is None at first."""

    def update(weights: Weights, gradients: Weights, _losses: Tensor, state: Any) -> tuple[Weights, Any]:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        count, mean, square = state or (0, zeros, zeros)
        count += 1
        mean = {name: torch.lerp(g, mean[name], betas[0]) for name, g in gradients.items()}
        square = {name: torch.lerp(g.square(), square[name], betas[1]) for name, g in gradients.items()}
        size, rate = 1 - betas[1] ** count, lr / (1 - betas[0] ** count)
        new = {n: w - rate * mean[n] / ((square[n] / size).sqrt() + eps) for n, w in weights.items()}
        return new, (count, mean, square)

    return update
