"""Small learned update rules in float64, and the contract that both families are held to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.learners import MetaLSTM, Turtle, common
from mlkit.losses import cross_entropy, mean_squared_error
from mlkit.models import normalization
from mlkit.seeding import seeded
from mlkit.tasks.base import TaskBatch

from . import cases
from .test_gradients import directional, finite_difference

EXACT = {"rtol": 0, "atol": 1e-10}
STEP = 1e-6  # of finite differences: so small that a ReLU of the rule rarely turns on between its ends
Meta = dict[str, Tensor]


def smooth_net() -> nn.Module:
    """No kinks, plain torch layers: any module serves."""
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def image_net(policy: str) -> nn.Module:
    return cases.Smooth(normalization(policy, 8)).double()


def turtle(model: nn.Module | None = None, **changes: Any) -> Turtle:
    settings = {"inner_steps": 3, "hidden_layers": 2, "width": 5}
    return Turtle(model or smooth_net(), loss=cross_entropy if model else mean_squared_error, **settings | changes)


def lstm(model: nn.Module | None = None, **changes: Any) -> MetaLSTM:
    settings = {"inner_steps": 3, "width": 4, "preprocessed": False, "first_order": False}
    settings |= {"forget_bias": (2.0, 3.0), "input_bias": (-1.0, 0.0)}  # steps large enough for curvature to matter
    return MetaLSTM(model or smooth_net(), loss=cross_entropy if model else mean_squared_error, **settings | changes)


def started(learner: Turtle | MetaLSTM, *seeds: int) -> Meta:
    """Draw stacked meta-parameters, the rule moved away from where many of its numbers are zero."""
    metas = []
    for seed in seeds or (0,):
        meta = learner.init(seeded("test", seed))
        for name, tensor in meta.items():
            noise = torch.randn(tensor.shape, generator=seeded(name, seed), dtype=torch.float64)
            meta[name] = tensor + 0.1 * noise if name.startswith("phi.") else tensor
        metas.append(meta)
    return stack(metas)


def direction(gradients: Meta, seed: int) -> Meta:
    return {
        name: torch.randn(tensor.shape, generator=seeded(name, seed), dtype=torch.float64)
        for name, tensor in gradients.items()
    }


def check_second_order(learner: Turtle | MetaLSTM, tasks: TaskBatch) -> None:
    """The meta-gradient is the derivative of the query loss, in initialization and rule; of first order it is not."""
    meta = started(learner)
    found = meta_gradient(learner, meta, tasks).gradients
    first = meta_gradient(replace(learner, first_order=True), meta, tasks).gradients
    assert all(float(gradient.abs().max()) > 0 for name, gradient in found.items() if name.startswith("phi."))
    for seed in range(2):
        along = direction(found, seed)
        expected = finite_difference(learner, meta, tasks, along, STEP)
        assert abs(directional(found, along) - expected) < 1e-6 * max(1, abs(expected))
        assert abs(directional(first, along) - expected) > 1e-5


def check_first_order(learner: Turtle | MetaLSTM, tasks: TaskBatch) -> None:
    """The meta-gradient is the derivative of the query loss where all gradients and losses are held fixed."""
    meta = started(learner)
    own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
    path = learner.adapt(own, tasks, trajectory=True)
    states = [path.after(step) for step in range(learner.inner_steps)]
    inner = common.support_loss(learner.model, learner.loss, {})

    def slopes(weights: Meta) -> tuple[Meta, Tensor]:
        at = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        losses, _ = inner(at, {}, tasks.support)
        return dict(zip(at, torch.autograd.grad(losses.sum(), list(at.values())), strict=True)), losses.detach()

    seen = [slopes(state.weights) for state in states]

    def loss(meta: Meta) -> float:
        own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
        update, state = learner.rule(own, tasks)
        weights = common.role(own, "theta")
        for gradients, losses in seen:
            weights, state = update(weights, gradients, losses, state)
        outputs = common.call(learner.model, weights, {}, tasks.query.x, "learn")[0]
        return float(learner.loss(outputs, tasks.query.y).mean())

    found = meta_gradient(learner, meta, tasks).gradients
    for seed in range(2):
        along = direction(found, seed)
        ahead, behind = (loss({name: t + sign * STEP * along[name] for name, t in meta.items()}) for sign in (1, -1))
        expected = (ahead - behind) / (2 * STEP)
        assert abs(directional(found, along) - expected) < 1e-6 * max(1, abs(expected))


def check_chunks(learner: Turtle | MetaLSTM, tasks: TaskBatch) -> None:
    meta = started(learner)
    loop = meta_gradient(learner, meta, tasks, chunk_size=1)
    for how in ({"chunk_size": 4, "query_chunk": 1}, {"chunk_size": 2, "workers": 2}):
        other = meta_gradient(learner, meta, tasks, **how)
        for name, value in (loop.gradients | loop.buffers).items():
            assert torch.allclose((other.gradients | other.buffers)[name], value, **EXACT), (how, name)


def check_runs(learner: Turtle | MetaLSTM) -> None:
    tasks, both = cases.regression_tasks(6), started(learner, 1, 2)
    assert not torch.allclose(
        *(tensor for tensor in both["phi.head.weight" if "phi.head.weight" in both else "phi.input.weight"])
    )
    together = meta_gradient(learner, both, tasks, chunk_size=2)  # the middle chunk holds tasks of both runs
    for run in (0, 1):
        alone = {name: tensor[run : run + 1] for name, tensor in both.items()}
        expected = meta_gradient(learner, alone, tasks[3 * run : 3 * run + 3]).gradients
        for name, gradient in expected.items():
            assert torch.allclose(together.gradients[name][run], gradient[0], **EXACT), name
