"""Finetuning: a supervised network of all classes, a new head for each task, MAML's inner loop from there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.evaluation import evaluate
from mlkit.learners import MAML, Finetuning
from mlkit.losses import ACCURACY
from mlkit.models import MLP, POLICIES
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch

from . import cases
from .test_gradients import start

CLASSES = 7


def finetuning(policy: str = "transductive", **changes: object) -> Finetuning:
    return Finetuning(cases.conv4_of(policy), CLASSES, 0.1, 2, **changes)


def batches(count: int = 2, size: int = 5) -> TaskBatch:
    x = torch.randn(count, size, 1, 16, 16, generator=seeded("batches"), dtype=torch.float64)
    batch = Examples(x, torch.randint(CLASSES, (count, size), generator=seeded("labels")))
    return TaskBatch(batch, batch, torch.arange(count))


def copies(learner: Finetuning, count: int = 3) -> dict[str, torch.Tensor]:
    return for_tasks(start(learner), torch.zeros(count, dtype=torch.int64))


def test_training_follows_the_gradient_of_the_supervised_loss():
    learner, tasks = finetuning(), batches(1)
    weights = {name.removeprefix("theta."): tensor[0].requires_grad_() for name, tensor in start(learner).items()}
    scores = functional_call(learner.model, weights, (tasks.query.x[0],))
    assert scores.shape == (5, CLASSES)
    loss = nn.functional.cross_entropy(scores, tasks.query.y[0])
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    found = meta_gradient(learner, start(learner), tasks)
    assert torch.allclose(found.losses[0, 0], loss) and torch.allclose(found.outputs[0, 0], scores)
    for name, gradient in zip(weights, gradients, strict=True):
        assert torch.allclose(found.gradients[f"theta.{name}"][0], gradient, rtol=0, atol=1e-10), name


@pytest.mark.parametrize("policy", POLICIES)
def test_training_is_the_same_in_any_chunk_size_and_moves_running_statistics_on(policy):
    learner, tasks = finetuning(policy), batches(4)
    meta = start(learner)
    loop = meta_gradient(learner, meta, tasks, chunk_size=1)
    for how in ({}, {"chunk_size": 3, "workers": 2}):
        other = meta_gradient(learner, meta, tasks, **how)
        for name, value in (loop.gradients | loop.buffers).items():
            assert torch.allclose((other.gradients | other.buffers)[name], value, rtol=0, atol=1e-10), name
    moved = {name for name, buffer in loop.buffers.items() if not torch.equal(buffer, meta[name])}
    assert moved == set(loop.buffers) and bool(moved) == (policy in ("support", "running"))


def test_each_task_gets_a_xavier_head_from_its_own_seed_and_keeps_the_body():
    learner, tasks, meta = finetuning(), cases.image_tasks(3), copies(finetuning())
    fresh = learner.adapt(meta, tasks, steps=0).weights
    assert {name: tensor[0].shape for name, tensor in fresh.items()} == {
        name: tensor.shape for name, tensor in learner.model.named_parameters()
    }
    assert all(torch.equal(fresh[name], meta[f"theta.{name}"]) for name in fresh if not name.startswith("head."))
    heads = fresh["head.weight"]
    assert not bool(fresh["head.bias"].any()) and len(heads.flatten(1).unique(dim=0)) == 3
    again = learner.adapt({name: tensor[1:2] for name, tensor in meta.items()}, tasks[1:2], steps=0).weights
    assert torch.equal(again["head.weight"][0], heads[1])
    wide = replace(learner, model=MLP((1, 50, 30)))
    values = wide.adapt(copies(wide, 100), replace(tasks, seeds=torch.arange(100)), steps=0).weights["head.weight"]
    limit = (6 / (50 + 30)) ** 0.5
    assert float(values.abs().max()) <= limit and float(values.std()) == pytest.approx(limit / 3**0.5, rel=0.01)


def test_at_meta_test_all_weights_descend_as_those_of_maml():
    learner, tasks, meta = finetuning(), cases.image_tasks(3), copies(finetuning())
    heads = learner.adapt(meta, tasks, steps=0).weights
    same = meta | {f"theta.{name}": heads[name] for name in ("head.weight", "head.bias")}
    for steps in (None, 3):
        found = learner.adapt(meta, tasks, steps=steps, trajectory=True)
        expected = MAML(learner.model, 0.1, 2).adapt(same, tasks, steps=steps, trajectory=True)
        assert torch.equal(found.losses, expected.losses) and len(found.trajectory) == (steps or 2) + 1
        for name, tensor in expected.weights.items():
            assert torch.equal(found.weights[name], tensor)
            idle = name.startswith("convolutions") and name.endswith("bias")  # the normalization takes it away
            assert idle == torch.equal(tensor, heads[name]), name
        assert torch.equal(learner.predict(found, tasks.query.x), learner.predict(expected, tasks.query.x))


def test_scores_do_not_depend_on_how_tasks_are_batched_and_runs_share_the_new_heads():
    learner, tasks = finetuning(), cases.image_tasks(4)
    one = {name: tensor[0] for name, tensor in start(learner).items()}
    together = evaluate(learner, stack([one, one]), tasks, metric=ACCURACY, chunk_size=8)
    assert together.shape == (2, 4) and torch.equal(together[0], together[1])
    assert torch.equal(evaluate(learner, stack([one]), tasks, metric=ACCURACY, chunk_size=1)[0], together[0])


def test_the_record_names_classes_and_new_head():
    said = finetuning().describe()
    assert said["learner"] == "Finetuning" and said["classes"] == CLASSES and said["new_head"] == "xavier"
    shared = {"inner_lr", "inner_steps", "loss", "model", "normalization", "parameters"}
    assert {name: said[name] for name in shared} == {
        name: value for name, value in MAML(finetuning().model, 0.1, 2).describe().items() if name in shared
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": nn.Sequential(nn.Linear(2, 3))}, "nn.Linear named `head`, got Sequential with NoneType"),
        ({"classes": 0}, "expected classes >= 1, got 0"),
        ({"inner_lr": 0.0}, "expected inner_lr > 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(finetuning(), **changes)
