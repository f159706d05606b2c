"""Meta-gradients against finite differences, against formulas, between chunk sizes, under every policy; in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.learners import MAML, Displacement
from mlkit.losses import cross_entropy
from mlkit.models import POLICIES, normalization
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch

from . import cases


def start(learner, seed: int = 0):
    meta = learner.init(seeded("test", seed))
    return stack([{name: tensor.double() for name, tensor in meta.items()}])


def query_loss(learner, meta, tasks) -> torch.Tensor:
    """Mean query loss after adapting, as meta-training sees it; no meta-gradient code is used."""
    return learner.gradients(for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64)), tasks).losses.mean()


def finite_difference(learner, meta, tasks, direction, step: float = 1e-5) -> float:
    moved = [{name: tensor + sign * step * direction.get(name, 0) for name, tensor in meta.items()} for sign in (1, -1)]
    ahead, behind = (float(query_loss(learner, there, tasks)) for there in moved)
    return (ahead - behind) / (2 * step)


def directional(gradients, direction) -> float:
    return sum(float((gradients[name] * direction[name]).sum()) for name in gradients)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["MAML", "MAML checkpointed", "ANIL", "Meta-SGD", "norm not adapted"])
def test_second_order_meta_gradient_is_the_derivative_of_the_query_loss(name, policy):
    learner = cases.maml_family(cases.Smooth(normalization(policy, 8)).double())[name]
    tasks, meta = cases.image_tasks(), start(learner)
    found = meta_gradient(learner, meta, tasks)
    for seed in range(3):
        direction = {
            key: torch.randn(tensor.shape, generator=seeded(key, seed), dtype=torch.float64)
            for key, tensor in found.gradients.items()
        }
        expected = finite_difference(learner, meta, tasks, direction)
        assert abs(directional(found.gradients, direction) - expected) < 1e-6 * max(1, abs(expected))


def test_second_order_differs_from_first_order_and_finite_differences_know():
    learner = cases.maml_family(cases.Smooth(normalization("transductive", 8)).double())["MAML"]
    tasks, meta = cases.image_tasks(), start(learner)
    second = meta_gradient(learner, meta, tasks).gradients
    first = meta_gradient(replace(learner, first_order=True), meta, tasks).gradients
    expected = finite_difference(learner, meta, tasks, second)
    assert abs(directional(second, second) - expected) < 1e-6
    assert abs(directional(first, second) - expected) > 1e-4


@pytest.mark.parametrize("policy", POLICIES)
def test_every_learner_is_the_same_in_any_chunk_size_and_number_of_workers(policy):
    for name, learner in cases.every_learner(policy).items():
        tasks, meta = cases.image_tasks(5), start(learner)
        loop = meta_gradient(learner, meta, tasks, chunk_size=1)
        assert any(float(gradient.abs().max()) > 1e-4 for gradient in loop.gradients.values()), name
        for how in (
            {"chunk_size": 2},
            {"chunk_size": None},
            {"chunk_size": 4, "query_chunk": 1},
            {"chunk_size": 2, "workers": 2},
        ):
            other = meta_gradient(learner, meta, tasks, **how)
            for key, gradient in (loop.gradients | loop.buffers).items():
                again = (other.gradients | other.buffers)[key]
                assert torch.allclose(again, gradient, rtol=0, atol=1e-10), (name, how, key)


def test_runs_side_by_side_equal_runs_alone():
    learner = cases.sine_maml()
    tasks = cases.regression_tasks(6)
    both = stack([start(learner, seed) and {k: v[0] for k, v in start(learner, seed).items()} for seed in (1, 2)])
    together = meta_gradient(learner, both, tasks)
    for run in (0, 1):
        alone = meta_gradient(learner, {k: v[run : run + 1] for k, v in both.items()}, tasks[3 * run : 3 * run + 3])
        for name, gradient in alone.gradients.items():
            assert torch.allclose(together.gradients[name][run], gradient[0], rtol=0, atol=1e-10)


class Quadratic(nn.Module):
    """A model whose loss is the quadratic 1/2 (w - y)^T diag(x) (w - y): examples carry curvature x and minimum y."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w.expand_as(x)


def quadratic_tasks(count: int = 4):
    def examples(purpose: str) -> tuple[Examples, torch.Tensor]:
        curvature = torch.rand(count, 1, 3, generator=seeded(purpose), dtype=torch.float64) + 0.5
        minimum = torch.randn(count, 1, 3, generator=seeded(purpose, "y"), dtype=torch.float64)
        return Examples(curvature, torch.stack([curvature, minimum], -1)), curvature[:, 0]

    support, a = examples("support")
    query, b = examples("query")
    return TaskBatch(support, query, torch.arange(count)), a, b


def quadratic_loss(w: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    curvature, minimum = target.unbind(-1)
    return (curvature * (w - minimum).square() / 2).sum((1, 2))


def test_maml_on_a_quadratic_equals_the_formula():
    """T steps lead to m + (I - alpha A)^T (w - m); the meta-gradient carries B (w_T - n) back by (I - alpha A)^T."""
    tasks, a, b = quadratic_tasks()
    w = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    alpha, steps = 0.2, 4
    minimum, query_minimum = tasks.support.y[:, 0, :, 1], tasks.query.y[:, 0, :, 1]
    shrink = (1 - alpha * a) ** steps
    ahead = b * (minimum + shrink * (w - minimum) - query_minimum)
    meta = {"theta.w": w[None]}
    learner = MAML(Quadratic(), alpha, steps, quadratic_loss)
    second = meta_gradient(learner, meta, tasks).gradients["theta.w"][0]
    first = meta_gradient(replace(learner, first_order=True), meta, tasks).gradients["theta.w"][0]
    assert torch.allclose(second, (shrink * ahead).mean(0), atol=1e-12)
    assert torch.allclose(first, ahead.mean(0), atol=1e-12)


def test_displacements_on_a_quadratic_equal_the_formulas():
    """Reptile: w - w_T. FOMAML disjoint: alpha times the query gradient where T - 1 support steps ended."""
    tasks, a, b = quadratic_tasks()
    w = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    alpha, steps = 0.2, 4
    minimum, query_minimum = tasks.support.y[:, 0, :, 1], tasks.query.y[:, 0, :, 1]

    def found(variant: str) -> torch.Tensor:
        learner = Displacement(Quadratic(), variant, alpha, steps, loss=quadratic_loss)
        return meta_gradient(learner, {"theta.w": w[None]}, tasks).gradients["theta.w"][0]

    after = minimum + (1 - alpha * a) ** steps * (w - minimum)
    assert torch.allclose(found("reptile"), (w - after).mean(0), atol=1e-12)
    before_last = minimum + (1 - alpha * a) ** (steps - 1) * (w - minimum)
    assert torch.allclose(found("fomaml_disjoint"), (alpha * b * (before_last - query_minimum)).mean(0), atol=1e-12)


def test_mapping_the_inner_gradient_would_be_wrong_through_batch_norm():
    """The trap that the inner loop avoids: autograd through vmap(grad(...)) errs at affine batch norm.

    If the first assertion fails, torch has mended it; the second must hold either way.
    """
    model = cases.Smooth(nn.BatchNorm2d(8, track_running_stats=False)).double()
    learner, tasks = MAML(model, 0.1, 1), cases.image_tasks(3)
    meta = start(learner)
    meta = {name: tensor + 0.3 * torch.randn(tensor.shape, generator=seeded(name)) for name, tensor in meta.items()}
    theta = {key.removeprefix("theta."): tensor[0] for key, tensor in meta.items()}
    each = (tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y)

    def loss(weights, x, y):
        return torch.nn.functional.cross_entropy(functional_call(model, weights, (x,)), y)

    def step(weights, gradients):
        return {name: weights[name] - 0.1 * gradients[name] for name in weights}

    def by_autograd(support_x, support_y, query_x, query_y):
        weights = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
        inner = torch.autograd.grad(loss(weights, support_x, support_y), list(weights.values()), create_graph=True)
        adapted = step(weights, dict(zip(weights, inner, strict=True)))
        return torch.stack([g.sum() for g in torch.autograd.grad(loss(adapted, query_x, query_y), weights.values())])

    stacked = {name: tensor.expand(3, *tensor.shape).clone().requires_grad_() for name, tensor in theta.items()}
    adapted = step(stacked, vmap(grad(loss))(stacked, *each[:2]))
    mapped = torch.autograd.grad(vmap(loss)(adapted, *each[2:]).mean(), list(stacked.values()))
    truth = torch.stack([by_autograd(*(tensor[i] for tensor in each)) for i in range(3)]).mean(0)
    ours = meta_gradient(learner, meta, tasks).gradients
    assert (torch.stack([gradient.sum() for gradient in mapped]) - truth).norm() > 1e-5 * truth.norm()
    assert (torch.stack([ours[f"theta.{name}"].sum() for name in theta]) - truth).norm() < 1e-10 * truth.norm()


def test_cross_entropy_is_the_mean_over_a_tasks_examples():
    scores = torch.randn(2, 5, 3, generator=seeded("scores"), dtype=torch.float64)
    labels = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    expected = [torch.nn.functional.cross_entropy(one, y) for one, y in zip(scores, labels, strict=True)]
    assert torch.allclose(cross_entropy(scores, labels), torch.stack(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"variant": "reptil"}, "expected a variant out of reptile"), ({"pool": "query"}, "expected pool 'support' or")],
)
def test_unknown_choices_of_a_displacement_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Displacement(Quadratic(), **changes)
