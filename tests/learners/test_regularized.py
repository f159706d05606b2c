"""Regularized MAML against formulas and finite differences, in any chunks, threads, runs and processes; in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from mlkit.driver import meta_gradient, stack
from mlkit.learners import MAML, RegularizedMAML
from mlkit.learners.regularized import OUTERS, correction, direction, displacement
from mlkit.losses import mean_squared_error
from mlkit.models import MLP, POLICIES, normalization
from mlkit.seeding import seeded
from mlkit.tasks.base import TaskBatch

from . import cases
from .test_gradients import Quadratic, directional, quadratic_loss, quadratic_tasks, start

EXACT = {"rtol": 0, "atol": 1e-10}


def vectors(count: int = 5, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Displacements and, for each, their mean direction."""
    moved = torch.randn(count, size, generator=seeded("displacements"), dtype=torch.float64)
    return moved, direction(moved).mean(0, keepdim=True).expand(count, -1)


def test_the_correction_is_minus_gamma_times_the_gradient_of_the_penalty():
    """Each task's own penalty, whether its mean direction is held fixed or not: u_i is orthogonal to its derivative."""
    moved, mean = vectors()
    at = moved.clone().requires_grad_()
    for mu in (mean, direction(at).mean(0).expand_as(at)):
        penalties = -(direction(at) * mu).sum(1)
        own = torch.stack([torch.autograd.grad(p, at, retain_graph=True)[0][i] for i, p in enumerate(penalties)])
        assert torch.allclose(correction(moved, mean, 0.5), -0.5 * own, **EXACT)


def test_the_correction_is_orthogonal_and_turns_towards_the_mean():
    moved, mean = vectors()
    step = correction(moved, mean, 0.5)
    own, length = direction(moved), moved.norm(dim=1)
    projected = mean - (own * mean).sum(1, keepdim=True) * own
    assert torch.allclose((step * moved).sum(1), torch.zeros(5, dtype=torch.float64), **EXACT)
    grown = (moved + step).square().sum(1)
    assert torch.allclose(grown, length**2 + 0.25 * projected.square().sum(1) / length**2, **EXACT)
    before, after = (torch.cosine_similarity(vector, mean) for vector in (moved, moved + step))
    assert bool((after > before).all())


def test_a_task_that_does_not_move_has_no_direction_and_is_left_alone():
    """Its support set is already fitted; the others are corrected, and their derivatives stay finite."""
    tasks, *_ = quadratic_tasks()
    w = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    tasks.support.y[0, :, :, 1] = w
    maml = MAML(Quadratic(), 0.2, 2, quadratic_loss)
    plain = meta_gradient(maml, {"theta.w": w[None]}, tasks)
    for outer in OUTERS:
        found = meta_gradient(RegularizedMAML(maml, 0.5, outer), {"theta.w": w[None]}, tasks)
        assert bool(found.gradients["theta.w"].isfinite().all())
        assert torch.equal(found.losses[0, 0], plain.losses[0, 0])
        assert not bool(torch.isclose(found.losses[0, 1:], plain.losses[0, 1:]).any())
    alone = meta_gradient(RegularizedMAML(maml, 0.5, "full"), {"theta.w": w[None]}, tasks[:1])
    assert torch.equal(
        alone.gradients["theta.w"], meta_gradient(maml, {"theta.w": w[None]}, tasks[:1]).gradients["theta.w"]
    )


def test_meta_gradients_on_a_quadratic_equal_the_formulas():
    """With J the Jacobian of d, that of theta-hat is I + J + gamma F J; "full" adds what passes through the mean."""
    tasks, a, b = quadratic_tasks()
    w = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    alpha, steps, gamma, eye = 0.2, 4, 0.5, torch.eye(3, dtype=torch.float64)
    shrink = (1 - alpha * a) ** steps
    d = (shrink - 1) * (w - tasks.support.y[:, 0, :, 1])
    length = d.norm(dim=1)
    u = d / length[:, None]
    mu = u.mean(0)
    expected, projections, slopes = dict.fromkeys(OUTERS, 0), [], []
    for i in range(len(d)):
        jacobian, uu, c = torch.diag(shrink[i] - 1), torch.outer(u[i], u[i]), u[i] @ mu
        q = mu - c * u[i]
        slope = b[i] * (w + d[i] + gamma * q / length[i] - tasks.query.y[i, 0, :, 1])
        f = -(torch.outer(q, u[i]) + torch.outer(u[i], q) + c * (eye - uu)) / length[i] ** 2
        expected["constant"] += (eye + jacobian).T @ slope / len(d)
        expected["detached"] += (eye + jacobian + gamma * f @ jacobian).T @ slope / len(d)
        projections.append((eye - uu) / length[i])
        slopes.append(gamma * projections[i] @ slope)
    pull = torch.stack(slopes).mean(0)
    through = [torch.diag(shrink[j] - 1) @ projections[j] @ pull for j in range(len(d))]
    expected["full"] = expected["detached"] + torch.stack(through).mean(0)
    for outer in OUTERS:
        learner = RegularizedMAML(MAML(Quadratic(), alpha, steps, quadratic_loss), gamma, outer)
        found = meta_gradient(learner, {"theta.w": w[None]}, tasks).gradients["theta.w"][0]
        assert torch.allclose(found, expected[outer], **EXACT), outer


def finite_difference(learner, meta, tasks, along, step: float = 1e-5) -> float:
    def loss(sign: int) -> float:
        moved = {name: tensor + sign * step * along.get(name, 0) for name, tensor in meta.items()}
        return float(meta_gradient(learner, moved, tasks, chunk_size=2).losses.mean())

    return (loss(1) - loss(-1)) / (2 * step)


@pytest.mark.parametrize("policy", POLICIES)
def test_full_is_the_derivative_of_the_query_loss_through_the_mean_direction(policy):
    tasks = cases.image_tasks()
    model = cases.Smooth(normalization(policy, 8)).double()
    for name, maml in cases.maml_family(model).items():
        if maml.first_order or maml.clip_inner:
            continue
        learner, meta = RegularizedMAML(maml, 0.1, "full"), start(maml)
        found = meta_gradient(learner, meta, tasks).gradients
        along = {key: torch.randn(g.shape, generator=seeded(key), dtype=torch.float64) for key, g in found.items()}
        expected = finite_difference(learner, meta, tasks, along)
        assert abs(directional(found, along) - expected) < 1e-6 * max(1, abs(expected)), name
        for outer in ("detached", "constant"):
            other = meta_gradient(replace(learner, outer=outer), meta, tasks).gradients
            assert abs(directional(other, along) - expected) > 1e-5, (name, outer)


@pytest.mark.parametrize("outer", OUTERS)
def test_without_gamma_it_is_maml(outer):
    tasks, plain = cases.image_tasks(), MAML(cases.conv4_of("support"), 0.1, 2, adapt_norm=False)
    meta = start(plain)
    expected, found = (meta_gradient(each, meta, tasks) for each in (plain, RegularizedMAML(plain, 0.0, outer)))
    assert torch.allclose(found.losses, expected.losses, **EXACT)
    assert torch.allclose(found.outputs, expected.outputs, **EXACT)
    for name, gradient in (expected.gradients | expected.buffers).items():
        assert torch.allclose((found.gradients | found.buffers)[name], gradient, **EXACT), name


@pytest.mark.parametrize("outer", OUTERS)
@pytest.mark.parametrize("policy", ["transductive", "running"])
def test_the_mean_is_over_the_whole_meta_batch_in_any_chunk_size_and_number_of_workers(policy, outer):
    learner = RegularizedMAML(MAML(cases.conv4_of(policy), 0.1, 2), 0.5, outer)
    tasks, meta = cases.image_tasks(5), start(learner)
    loop = meta_gradient(learner, meta, tasks, chunk_size=1)
    plain = meta_gradient(learner.maml, meta, tasks, chunk_size=1)
    assert not torch.allclose(loop.gradients["theta.head.weight"], plain.gradients["theta.head.weight"], atol=1e-4)
    for how in ({"chunk_size": 2}, {}, {"chunk_size": 4, "query_chunk": 1}, {"chunk_size": 1, "workers": 2}):
        other = meta_gradient(learner, meta, tasks, **how)
        for name, gradient in (loop.gradients | loop.buffers).items():
            assert torch.allclose((other.gradients | other.buffers)[name], gradient, **EXACT), (how, name)


def sine_learner(outer: str = "full") -> RegularizedMAML:
    return RegularizedMAML(MAML(MLP((1, 8, 8, 1)).double(), 0.05, 3, mean_squared_error), 0.5, outer)


@pytest.mark.parametrize("outer", OUTERS)
def test_each_run_has_a_mean_of_its_own(outer):
    learner, tasks = sine_learner(outer), cases.regression_tasks(6)
    runs = [start(learner, seed) for seed in (1, 2)]
    both = {name: torch.cat([run[name] for run in runs]) for name in runs[0]}
    together = meta_gradient(learner, both, tasks, chunk_size=2)  # the middle chunk holds tasks of both runs
    for index, run in enumerate(runs):
        alone = meta_gradient(learner, run, tasks[3 * index : 3 * index + 3])
        for name, gradient in alone.gradients.items():
            assert torch.allclose(together.gradients[name][index], gradient[0], **EXACT)


def shared(tasks: TaskBatch) -> dict[str, torch.Tensor]:
    learner = sine_learner()
    meta = stack([{name: tensor.double() for name, tensor in learner.init(seeded("shared")).items()}])
    return meta_gradient(learner, meta, tasks).gradients


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save(shared(cases.regression_tasks(4)[2 * rank : 2 * rank + 2]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
def test_processes_that_share_a_meta_batch_share_its_mean(tmp_path):
    multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, gradient in shared(cases.regression_tasks(4)).items():
        assert torch.allclose((parts[0][name] + parts[1][name]) / 2, gradient, **EXACT)


def test_at_meta_test_it_adapts_as_maml():
    learner, tasks = sine_learner(), cases.regression_tasks(3)
    meta = {name: tensor.expand(3, *tensor.shape[1:]) for name, tensor in start(learner).items()}
    found, expected = (each.adapt(meta, tasks, steps=2, trajectory=True) for each in (learner, learner.maml))
    assert torch.equal(learner.predict(found, tasks.query.x), learner.maml.predict(expected, tasks.query.x))
    assert len(found.trajectory) == 3 and learner.model is learner.maml.model and learner.loss is mean_squared_error


def test_displacements_are_flattened_in_the_order_of_the_weights():
    origin = {"a": torch.zeros(2, 2, 2), "b": torch.ones(2, 1)}
    adapted = {"b": torch.tensor([[3.0], [4.0]]), "a": torch.arange(8.0).view(2, 2, 2)}
    assert displacement(origin, adapted).tolist() == [[2, 0, 1, 2, 3], [3, 4, 5, 6, 7]]


def test_the_record_names_gamma_and_the_variant():
    said = sine_learner("constant").describe()
    assert said == sine_learner().maml.describe() | {"learner": "RegularizedMAML", "gamma": 0.5, "outer": "constant"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"outer": "none"}, "expected outer out of detached"), ({"gamma": -1.0}, "expected gamma >= 0, got -1.0")],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(sine_learner(), **changes)
