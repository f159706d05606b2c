"""The inner loop U(theta; D, omega) that every learner shares, batched over tasks, and the gradient through it.

Weights are dicts of tensors with a leading task axis. Only the forward pass is mapped over tasks; gradients are taken
outside by autograd of the summed losses, whose terms share nothing. (Autograd through a mapped gradient,
`vmap(grad(...))`, gives wrong second-order gradients at affine batch norm.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint as checkpointed

from mlkit.models.normalization import Phase, set_phase
from mlkit.tasks.base import Examples

Weights = dict[str, Tensor]
Batches = Callable[[int], Examples]  # inner step -> the support examples it learns from
InnerLoss = Callable[
    [Weights, Weights, Examples], tuple[Tensor, Weights]
]  # weights, buffers -> losses (tasks,), buffers
Update = Callable[[Weights, Weights, Tensor, Any], tuple[Weights, Any]]  # weights, gradients, losses, state -> new ones


@dataclass(frozen=True)
class Adapted:
    """What adapting leaves behind, for each task.

    weights: adapted tensors (tasks, ...); buffers: of the normalization (tasks, ...);
    losses: support losses before each step (steps, tasks); trajectory: the weights after 0..steps steps, if asked for,
    and the buffers that go with them; penalty: what the learner adds to each task's query loss (tasks,), if anything.
    """

    weights: Weights
    buffers: Weights
    losses: Tensor
    trajectory: tuple[tuple[Weights, Weights], ...] = ()
    penalty: Tensor | None = None

    def after(self, steps: int) -> Adapted:
        """Return the state after `steps` steps; needs the trajectory."""
        weights, buffers = self.trajectory[steps]
        return replace(self, weights=weights, buffers=buffers, trajectory=())


def call(model: nn.Module, weights: Weights, buffers: Weights, x: Tensor, phase: Phase) -> tuple[Tensor, Weights]:
    """Apply `model` to x (tasks, examples, ...) with each task's own weights; return outputs and new buffers.

    Any `nn.Module` serves: it is mapped over tasks by `torch.vmap`. One whose layers understand stacked weights says so
    by an attribute `stacks_tasks` and is called once. The module keeps its own weights; only its mode is set.
    """
    set_phase(model, phase)
    if getattr(model, "stacks_tasks", False):
        return _call_one(model, weights, buffers, x)
    owned = {name: buffer.clone() for name, buffer in buffers.items()}  # batch norm of torch writes in place
    if len(x) == 1:  # mapping a single task would only cost
        outputs, owned = _call_one(model, _first(weights), _first(owned), x[0])
        return outputs[None], {name: buffer[None] for name, buffer in owned.items()}
    return vmap(_call_one, in_dims=(None, 0, 0, 0), randomness="different")(model, weights, owned, x)


def _call_one(model: nn.Module, weights: Weights, buffers: Weights, x: Tensor) -> tuple[Tensor, Weights]:
    tensors = {**weights, **buffers}  # functional_call writes assigned buffers back here
    outputs = functional_call(model, tensors, (x,))
    outputs = outputs.to(x.dtype)  # in mixed precision losses and scores are computed in full
    return outputs, {name: tensors[name] for name in buffers}


def _first(tensors: Weights) -> Weights:
    return {name: tensor.squeeze(0) for name, tensor in tensors.items()}  # its gradient is a view, that of [0] a copy


@dataclass(frozen=True)
class Descent:
    """How to adapt: the switches of the inner loop.

    Args:
        steps: number of updates T.
        differentiable: keep the graph from the initialization to the adapted weights (meta-training).
        second_order: let that graph run through the inner gradients too; otherwise they are constants.
        checkpoint: recompute each step in the backward pass; memory hardly grows with `steps`, time does by about half.
        trajectory: keep the weights after every step.
    """

    steps: int
    differentiable: bool = False
    second_order: bool = False
    checkpoint: bool = False
    trajectory: bool = False


def descend(
    weights: Weights, buffers: Weights, batches: Batches, *, loss: InnerLoss, update: Update, state: Any, how: Descent
) -> Adapted:
    """Adapt `weights` to the tasks of `batches`: `how.steps` times gradient of `loss`, then `update`.

    Args:
        weights: what is adapted, (tasks, ...).
        buffers: normalization statistics, (tasks, ...); updated copies come back.
        batches: the examples of each step.
        loss: (weights, buffers, examples) -> losses (tasks,) and new buffers.
        update: (weights, gradients, losses, state) -> new weights and new state of the update rule.
        state: first state of the update rule.
        how: the switches.
    """

    def step(
        weights: Weights, buffers: Weights, state: Any, examples: Examples
    ) -> tuple[Weights, Weights, Any, Tensor]:
        second_order = how.differentiable and how.second_order
        gradients, losses, buffers = _gradients(weights, buffers, examples, loss, second_order)
        with torch.set_grad_enabled(how.differentiable):
            weights, state = update(weights, gradients, losses, state)
        return weights, buffers, state, losses.detach()

    losses, path = [], [(weights, buffers)]
    for index in range(how.steps):
        arguments = (weights, buffers, state, batches(index))
        if how.checkpoint and how.differentiable:
            weights, buffers, state, now = checkpointed(step, *arguments, use_reentrant=False)
        else:
            weights, buffers, state, now = step(*arguments)
        losses.append(now)
        path.append((weights, buffers))
    history = torch.stack(losses) if losses else torch.empty(0)
    return Adapted(weights, buffers, history, tuple(path) if how.trajectory else ())


def _gradients(
    weights: Weights, buffers: Weights, examples: Examples, loss: InnerLoss, second_order: bool
) -> tuple[Weights, Tensor, Weights]:
    with torch.enable_grad():
        at = weights if second_order else leaves(weights)
        losses, buffers = loss(at, buffers, examples)
        gradients = torch.autograd.grad(
            losses.sum(), list(at.values()), create_graph=second_order, allow_unused=True, materialize_grads=True
        )
    if not second_order:
        losses, buffers = losses.detach(), {name: buffer.detach() for name, buffer in buffers.items()}
    return dict(zip(at, gradients, strict=True)), losses, buffers


def leaves(weights: Weights) -> Weights:
    """Return the same numbers, cut from any graph, ready to be differentiated."""
    return {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}


Judge = Callable[[Adapted, Examples], tuple[Tensor, Tensor]]  # -> query losses (tasks,), outputs (tasks, examples, ...)


@dataclass(frozen=True)
class Judged:
    """What the query sets say of the adapted weights.

    losses (tasks,) and outputs (tasks, examples, ...); tensors: what carries a graph, slopes: the gradient of the
    summed losses there.
    """

    losses: Tensor
    outputs: Tensor
    tensors: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    def gradients(self, meta: Weights) -> Weights:
        """Carry the slopes back through the adaptation: (d adapted / d meta)^T (d loss / d adapted)."""
        found = torch.autograd.grad(
            self.tensors, list(meta.values()), self.slopes, allow_unused=True, materialize_grads=True
        )
        return dict(zip(meta, found, strict=True))


def judge_query(adapted: Adapted, judge: Judge, query: Examples, *, query_chunk: int | None = None) -> Judged:
    """Differentiate each task's query loss at its adapted weights, and there only.

    The query pass is differentiated at detached adapted weights, so that its graph is gone before the backward pass
    through the adaptation begins.

    Args:
        adapted: adapted weights of all tasks, with the graph that led there.
        judge: adapted weights and query examples of some tasks -> losses and outputs.
        query: query examples of all tasks.
        query_chunk: tasks whose query sets are judged at once; None for all. Small chunks keep large nets in cache.
    """
    carried = [tensor for tensor in (*adapted.weights.values(), *adapted.buffers.values()) if tensor.requires_grad]
    parts = [
        _judged(adapted, judge, query, slice(start, start + (query_chunk or len(query.x))))
        for start in range(0, len(query.x), query_chunk or len(query.x))
    ]
    losses, outputs = (torch.cat([part[index] for part in parts]) for index in (0, 1))
    slopes = [torch.cat(pieces) for pieces in zip(*(part[2] for part in parts), strict=True)]
    if adapted.penalty is not None:
        carried.append(adapted.penalty)
        slopes.append(torch.ones_like(adapted.penalty))
        losses = losses + adapted.penalty.detach()
    return Judged(losses, outputs, tuple(carried), tuple(slopes))


def _judged(adapted: Adapted, judge: Judge, query: Examples, rows: slice) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Judge the tasks in `rows`: losses, outputs, and the gradient at every adapted tensor that carries a graph."""
    ends: list[Tensor] = []

    def cut(tensor: Tensor) -> Tensor:
        end = tensor[rows].detach()
        if tensor.requires_grad:
            ends.append(end.requires_grad_())
        return end

    weights = {name: cut(tensor) for name, tensor in adapted.weights.items()}
    buffers = {name: cut(tensor) for name, tensor in adapted.buffers.items()}
    losses, outputs = judge(replace(adapted, weights=weights, buffers=buffers), query.map(lambda tensor: tensor[rows]))
    cotangents = torch.autograd.grad(losses.sum(), ends, allow_unused=True, materialize_grads=True)
    return losses.detach(), outputs.detach(), cotangents
