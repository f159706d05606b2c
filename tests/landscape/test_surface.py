from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlkit.adaptation import Adapted
from mlkit.driver import stack
from mlkit.landscape.directions import flatten
from mlkit.landscape.surface import Plane, around, surface, through
from mlkit.learners import MAML
from mlkit.learners.common import support_loss
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks import TaskBatch
from tests.landscape.operators import adapt, sine_setting
from tests.learners.cases import conv4_of, image_tasks


@pytest.fixture(name="setting")
def sines() -> tuple[MAML, Adapted, TaskBatch]:
    learner, meta, tasks = sine_setting(3, (1, 6, 1))
    return learner, adapt(learner, meta, tasks), tasks


def image_setting(policy: str) -> tuple[MAML, Adapted, TaskBatch]:
    learner, tasks = MAML(conv4_of(policy), 0.1, 2), image_tasks(2)
    return learner, adapt(learner, stack([learner.init(seeded("surface"))]), tasks), tasks


def losses_at_solutions(learner: MAML, adapted: Adapted, tasks: TaskBatch) -> tuple[Tensor, Tensor]:
    support, _ = support_loss(learner.model, learner.loss, {})(adapted.weights, adapted.buffers, tasks.support)
    return support.detach(), learner.loss(learner.predict(adapted, tasks.query.x), tasks.query.y)


@pytest.mark.parametrize("policy", ["transductive", "support", "running", "group"])
def test_the_middle_of_the_surface_around_a_solution_is_its_loss(policy: str) -> None:
    learner, adapted, tasks = image_setting(policy)
    found = surface(learner, adapted, tasks, around(adapted, task=1), resolution=3)
    support, query = losses_at_solutions(learner, adapted, tasks)
    assert found.support.shape == found.query.shape == (2, 3, 3)
    assert torch.allclose(found.support[1, 1, 1], support[1])
    assert torch.allclose(found.query[1, 1, 1], query[1])
    assert found.support[1].std() > 0


def test_random_directions_have_the_length_of_every_filter_and_leave_vectors_alone() -> None:
    _, adapted, _ = image_setting("transductive")
    plane = around(adapted, task=1, reach=0.5, seed=3)
    for direction in (plane.across, plane.up):
        for name, tensor in direction.items():
            own = adapted.weights[name][1]
            if own.dim() == 1:
                assert not tensor.any()
            else:
                assert torch.allclose(tensor[0].flatten(1).norm(dim=1), own.flatten(1).norm(dim=1))
    assert (plane.x, plane.y, plane.points.tolist()) == ((-0.5, 0.5), (-0.5, 0.5), [[0, 0]])
    cosine = torch.cosine_similarity(flatten(plane.across), flatten(plane.up))
    assert abs(float(cosine)) < 0.5
    again, other = around(adapted, task=1, seed=3), around(adapted, task=1, seed=4)
    assert torch.equal(flatten(again.up), flatten(plane.up))
    assert not torch.equal(flatten(other.up), flatten(plane.up))


def test_larger_weights_in_front_of_batch_normalization_have_the_same_surface() -> None:
    learner, adapted, tasks = image_setting("transductive")
    for norm in learner.model.norms:
        norm.eps = 0.0
    convolutions = {name: 5 * t for name, t in adapted.weights.items() if name.startswith("conv") and "weight" in name}
    larger = replace(adapted, weights=adapted.weights | convolutions)
    one, other = (surface(learner, state, tasks[0:1], around(state), resolution=3) for state in (adapted, larger))
    assert torch.allclose(one.support, other.support, rtol=1e-9)


def test_the_plane_goes_through_the_three_solutions(setting: tuple[MAML, Adapted, TaskBatch]) -> None:
    learner, adapted, tasks = setting
    plane = through(adapted, margin=0.5)
    solutions = flatten(adapted.weights)
    assert torch.allclose(flatten(plane.at(plane.points)), solutions)
    distances = torch.cdist(solutions, solutions)
    assert torch.allclose(torch.cdist(plane.points, plane.points), distances)
    assert plane.points[0].tolist() == [0, 0] and float(plane.points[1, 1]) == 0
    low, high = plane.points.amin(0), plane.points.amax(0)
    assert plane.x == pytest.approx([float(low[0] - 0.5 * (high - low)[0]), float(high[0] + 0.5 * (high - low)[0])])
    corner = replace(plane, x=(0.0, 1.0), y=(0.0, 1.0))
    support, query = losses_at_solutions(learner, adapted, tasks)
    found = surface(learner, adapted, tasks, corner, resolution=2)
    assert torch.allclose(found.support[0, 0, 0], support[0])
    assert torch.allclose(found.query[0, 0, 0], query[0])


def test_rows_go_up_and_columns_across(setting: tuple[MAML, Adapted, TaskBatch]) -> None:
    learner, adapted, tasks = setting
    plane = through(adapted)
    found = surface(learner, adapted, tasks, plane, resolution=4, chunk_size=3)
    row, column = 2, 1
    there = plane.at(torch.stack([found.x[column], found.y[row]])[None])
    state = Adapted(there, {}, torch.empty(0))
    for task in range(3):
        support, query = losses_at_solutions(learner, state, tasks[task : task + 1])
        assert torch.allclose(found.support[task, row, column], support[0])
        assert torch.allclose(found.query[task, row, column], query[0])


def test_the_chunk_size_does_not_matter(setting: tuple[MAML, Adapted, TaskBatch]) -> None:
    learner, adapted, tasks = setting
    one, other = (
        surface(learner, adapted, tasks, through(adapted), resolution=5, chunk_size=size) for size in (1, 100)
    )
    assert torch.allclose(one.support, other.support, rtol=1e-10)
    assert torch.allclose(one.query, other.query, rtol=1e-10)


def test_three_solutions_that_span_no_plane_are_refused(setting: tuple[MAML, Adapted, TaskBatch]) -> None:
    learner, adapted, tasks = setting
    with pytest.raises(ValueError, match="span a plane"):
        through(adapted, tasks=(0, 1, 1))
    with pytest.raises(ValueError, match="span a plane"):
        through(adapted, tasks=(0, 0, 1))
    lost = {
        name: torch.where(torch.tensor([False, True, False]).view(3, *[1] * (t.dim() - 1)), torch.nan, t)
        for name, t in adapted.weights.items()
    }
    with pytest.raises(ValueError, match="span a plane, got distances nan"):
        through(replace(adapted, weights=lost))
    with pytest.raises(ValueError, match="at least 2 points along each axis, got 1"):
        surface(learner, adapted, tasks, through(adapted), resolution=1)


def test_a_unit_without_weights_stays_without() -> None:
    weights = {name: torch.zeros(1, *p.shape) for name, p in MLP((1, 4, 1)).named_parameters()}
    plane: Plane = around(Adapted(weights, {}, torch.empty(0)))
    assert not flatten(plane.across).any()
