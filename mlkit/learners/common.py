"""What every learner family does alike: start, split the meta-parameters by role, judge the query set, predict."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Judge, Weights, call, leaves
from mlkit.driver import TaskGradients
from mlkit.losses import TaskLoss
from mlkit.models.noise import is_noise, seeded_noise
from mlkit.models.normalization import collects_support_statistics, policy_of
from mlkit.tasks.base import Examples, TaskBatch

Meta = dict[str, Tensor]


def initialize(model: nn.Module, generator: torch.Generator) -> Meta:
    """Draw fresh weights for `model`: `theta.<parameter>` and `buffers.<buffer>`; the model itself keeps its own.

    A model with a `reset_parameters` of its own decides; else each layer's does. The draws come from `generator` alone.
    """
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # of the CPU alone
        for module in [fresh] if hasattr(fresh, "reset_parameters") else fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    meta = {f"theta.{name}": tensor.detach().clone() for name, tensor in fresh.named_parameters()}
    return meta | {f"buffers.{name}": tensor.detach().clone() for name, tensor in fresh.named_buffers()}


def role(meta: Mapping[str, Tensor], name: str) -> Weights:
    """Select the tensors of one role and drop the prefix, as in `role(meta, "theta")`."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in meta.items() if key.startswith(f"{name}.")}


def trainable(meta: Mapping[str, Tensor]) -> Weights:
    """Select what is meta-learned: everything but the buffers."""
    return {key: tensor for key, tensor in meta.items() if not key.startswith("buffers.")}


def own_buffers(model: nn.Module, meta: Mapping[str, Tensor], tasks: TaskBatch) -> Weights:
    """Return the buffers that the tasks start from (tasks, ...): noisy layers by the tasks' own seeds."""
    return seeded_noise(model, role(meta, "buffers"), tasks.seeds)


def carried_on(buffers: Weights) -> Meta:
    """Name the statistics that adaptation left (tasks, ...) as meta-parameters, cut from the graph."""
    return {f"buffers.{name}": tensor.detach() for name, tensor in buffers.items() if not is_noise(name)}


def of_norms(model: nn.Module) -> set[str]:
    """Name the parameters that belong to normalization layers: gamma and beta."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }


def support_loss(model: nn.Module, loss: TaskLoss, fixed: Weights) -> Any:
    """Return the inner loss of `model`: (adapted weights, buffers, examples) -> losses (tasks,), buffers.

    `fixed` are the weights (tasks, ...) that adaptation leaves alone.
    """

    def inner(weights: Weights, buffers: Weights, examples: Examples) -> tuple[Tensor, Weights]:
        outputs, buffers = call(model, {**fixed, **weights}, buffers, examples.x, "adapt")
        return loss(outputs, examples.y), buffers

    return inner


def with_support_statistics(model: nn.Module, adapted: Adapted, support: Examples) -> Adapted:
    """Under the policy "support": let one more pass over the support set fix the statistics of the adapted weights."""
    if not collects_support_statistics(model):
        return adapted

    def collected(weights: Weights, buffers: Weights) -> tuple[Weights, Weights]:
        return weights, call(model, weights, buffers, support.x, "adapt")[1]

    _, buffers = collected(adapted.weights, adapted.buffers)
    path = tuple(collected(*state) for state in adapted.trajectory)
    return Adapted(adapted.weights, buffers, adapted.losses, path, adapted.penalty)


def query_loss(model: nn.Module, loss: TaskLoss) -> Judge:
    """Return the judge of meta-training: adapted weights, query examples -> query losses (tasks,) and outputs."""

    def judge(adapted: Adapted, query: Examples) -> tuple[Tensor, Tensor]:
        outputs, _ = call(model, adapted.weights, adapted.buffers, query.x, "learn")
        return loss(outputs, query.y), outputs

    return judge


def supervised_gradients(model: nn.Module, loss: TaskLoss, meta: Meta, tasks: TaskBatch) -> TaskGradients:
    """Return the gradient of the loss of each batch, the query set of a pseudo task: no adaptation."""
    learned = leaves(trainable(meta))
    weights, buffers = role(learned, "theta"), own_buffers(model, meta, tasks)
    outputs, buffers = call(model, weights, buffers, tasks.query.x, "adapt")  # moves running statistics on
    losses = loss(outputs, tasks.query.y)
    found = torch.autograd.grad(losses.sum(), list(learned.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(learned, found, strict=True))
    return TaskGradients(gradients, losses.detach(), outputs.detach(), carried_on(buffers))


@torch.no_grad()
def predict(model: nn.Module, adapted: Adapted, x: Tensor) -> Tensor:
    """Predict x (tasks, examples, ...) with each task's adapted weights; no graph is built."""
    return call(model, adapted.weights, adapted.buffers, x, "predict")[0]


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Say what a record must say of a model: its own `describe()`, or else a hash of its printed structure.

    A model that mixes normalization policies names them itself, as `normalization`.
    """
    if hasattr(model, "describe"):
        structure = model.describe()
    else:
        structure = {"structure": hashlib.sha256(repr(model).encode()).hexdigest()[:16]}
    policy = {} if "normalization" in structure else {"normalization": policy_of(model)}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"model": type(model).__name__, **structure, "parameters": parameters, **policy}


def describe_augment(augment: Any) -> dict[str, Any]:
    """Say what a record must say of an augmentation; nothing where there is none."""
    if augment is None:
        return {}
    return {"augment": augment.describe() if hasattr(augment, "describe") else augment.__name__}


def with_l2(gradients: Weights, weights: Weights, l2: float, *, but: set[str]) -> Weights:
    """Add l2 * w to the gradients, the gradient of l2 / 2 |w|^2, save for the weights named in `but`."""
    if not l2:
        return gradients
    return {
        name: gradient if name in but else gradient.add(weights[name], alpha=l2) for name, gradient in gradients.items()
    }


def moved(weights: Weights, gradients: Weights, lr: float, *, l2: float, but: set[str]) -> Weights:
    """Return weights one step of gradient descent on, with L2 for all `but` those named."""
    gradients = with_l2(gradients, weights, l2, but=but)
    return {name: torch.add(tensor, gradients[name], alpha=-lr) for name, tensor in weights.items()}


def full_batch(tasks: TaskBatch) -> Any:
    """Return batches that are the whole support set at every step."""
    return lambda _step: tasks.support
