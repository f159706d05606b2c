"""Gradients, displacements and representations against a loop over tasks in plain torch, for several learners."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from mlkit.driver import for_tasks, stack
from mlkit.landscape import adaptations, coherence, displacements, flatten, gradients, representations
from mlkit.learners import MAML
from mlkit.learners.common import role
from mlkit.models.normalization import set_phase
from mlkit.seeding import seeded
from mlkit.tasks.base import frozen
from mlkit.tasks.sine import sine

from ..learners.cases import conv4_of
from . import cases

TINY = {"rtol": 1e-10, "atol": 1e-12}


def loaded(learner, meta):
    """The learner's model with its initialization in it, as plain torch would use it."""
    model = copy.deepcopy(learner.model)
    model.load_state_dict({**role(meta, "theta"), **role(meta, "buffers")})
    set_phase(model, "adapt")
    return model


def plain(meta):
    return {name: tensor[0] for name, tensor in meta.items()}


def in_order_of(learner, meta, tasks) -> list[str]:
    return list(learner.adapt(for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64)), tasks, steps=0).weights)


def gradients_by_hand(learner, meta, tasks):
    model, names = loaded(learner, plain(meta)), in_order_of(learner, meta, tasks)
    rows = []
    for x, y in zip(tasks.support.x, tasks.support.y, strict=True):
        model.zero_grad()
        learner.loss(model(x)[None], y[None]).sum().backward()
        of = dict(model.named_parameters())  # a bias before batch statistics has no gradient
        slopes = [torch.zeros_like(of[name]) if of[name].grad is None else of[name].grad for name in names]
        rows.append(-torch.cat([slope.flatten() for slope in slopes]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.parametrize("chunk_size", [2, 5, 100])
def test_gradients_are_those_of_each_tasks_own_loop(name, chunk_size):
    learner, meta, tasks = cases.every_case()[name]
    chunks = list(gradients(learner, meta, tasks, chunk_size=chunk_size))
    assert [len(chunk) for chunk in chunks] == [len(part) for part in tasks.chunks(chunk_size)]
    expected = gradients_by_hand(learner, meta, tasks)
    assert float(expected.norm(dim=1).min()) > 1e-3
    assert torch.allclose(torch.cat(chunks), expected, **TINY)


@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.parametrize("chunk_size", [2, 100])
def test_displacements_lead_from_the_initialization_to_the_adapted_weights(name, chunk_size):
    learner, meta, tasks = cases.every_case()[name]
    found = torch.cat(list(displacements(learner, meta, tasks, chunk_size=chunk_size)))
    adapted = flatten(learner.adapt(for_tasks(meta, torch.zeros(5, dtype=torch.int64)), tasks).weights)
    names = in_order_of(learner, meta, tasks)
    start = torch.cat([meta[f"theta.{name}"].flatten() for name in names])
    assert torch.allclose(start + found, adapted, **TINY)
    assert float(found.norm(dim=1).min()) > 1e-3


@pytest.mark.parametrize("name", ["MAML, sine", "MAML, images", "Reptile"])
def test_one_step_moves_along_the_gradient(name):
    learner, meta, tasks = cases.every_case(steps=1)[name]
    g, d = (torch.cat(list(vectors(learner, meta, tasks))) for vectors in (gradients, displacements))
    assert torch.allclose(d, learner.inner_lr * g, **TINY)
    along, moved = (coherence(vectors(learner, meta, tasks), directions=True) for vectors in (gradients, displacements))
    assert moved.value == pytest.approx(along.value, rel=1e-9)
    assert moved.norm == pytest.approx(learner.inner_lr * along.norm, rel=1e-9)


def test_several_steps_do_not():
    learner, meta, tasks = cases.every_case(steps=3)["MAML, sine"]
    along, moved = (coherence(vectors(learner, meta, tasks), directions=True) for vectors in (gradients, displacements))
    assert abs(moved.value - along.value) > 1e-6


def test_parameters_that_adaptation_leaves_alone_have_a_gradient_and_move_by_zero():
    learner, meta, tasks = cases.every_case()["ANIL"]
    parameters = [(name, meta[f"theta.{name}"]) for name in in_order_of(learner, meta, tasks)]
    head = torch.cat([torch.full((tensor.numel(),), name.startswith("head")) for name, tensor in parameters])
    moved, slopes = next(displacements(learner, meta, tasks)), next(gradients(learner, meta, tasks))
    assert moved[:, head].any(1).all()
    assert not moved[:, ~head].any()
    assert slopes[:, ~head].any(1).all()


def test_the_number_of_steps_can_be_another_and_zero_steps_move_nothing():
    learner, meta, tasks = cases.every_case(steps=3)["MAML, sine"]
    one = next(displacements(learner, meta, tasks, steps=1))
    assert torch.equal(one, next(displacements(replace(learner, inner_steps=1), meta, tasks)))
    assert next(displacements(learner, meta, tasks, steps=0)).count_nonzero() == 0


def test_a_solved_task_has_no_gradient_and_no_direction():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    tasks = cases.solved(learner, meta, tasks, 2)
    assert next(gradients(learner, meta, tasks))[2].count_nonzero() == 0
    assert next(displacements(learner, meta, tasks))[2].count_nonzero() == 0
    found = coherence(displacements(learner, meta, tasks), directions=True)
    assert (found.count, found.skipped) == (4, 1)


def test_a_diverged_task_is_left_out_of_the_coherence_of_the_others():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    broken = coherence(displacements(learner, meta, cases.diverging(tasks, 4)), directions=True)
    assert (broken.count, broken.skipped) == (4, 1)
    healthy = coherence(displacements(learner, meta, tasks[:4]), directions=True)
    assert broken.value == pytest.approx(healthy.value, rel=1e-12)


def test_one_task_is_a_vector_without_coherence():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    assert next(gradients(learner, meta, tasks[:1])).shape == (1, 97)
    with pytest.raises(ValueError, match="expected at least two vectors to compare, got 1 of 1"):
        coherence(gradients(learner, meta, tasks[:1]))


def test_frozen_tasks_serve_and_the_precision_is_that_of_the_meta_parameters():
    learner, meta, _ = cases.every_case()["MAML, sine"]
    tasks = frozen(sine(), 30, seed=0)
    chunks = list(gradients(learner, meta, tasks))
    assert [(chunk.shape, chunk.dtype) for chunk in chunks] == [((25, 97), torch.float64), ((5, 97), torch.float64)]
    single = {name: tensor.float() for name, tensor in meta.items()}
    assert next(gradients(learner, single, tasks)).dtype == torch.float32


@pytest.mark.parametrize("measure", [gradients, displacements])
def test_it_works_where_gradients_are_switched_off_and_keeps_no_graph(measure):
    learner, meta, tasks = cases.every_case()["MAML, images"]
    expected = next(measure(learner, meta, tasks))
    with torch.no_grad():
        found = next(measure(learner, meta, tasks))
    assert torch.equal(found, expected)
    assert not expected.requires_grad


@pytest.mark.parametrize("measure", [gradients, displacements, adaptations])
def test_errors_say_what_to_do(measure):
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    two = stack([plain(meta), plain(meta)])
    with pytest.raises(ValueError, match="got 2 runs; measure them one by one"):
        next(measure(learner, two, tasks))
    with pytest.raises(ValueError, match="expected a chunk_size of at least 1, got 0"):
        next(measure(learner, meta, tasks, chunk_size=0))


IMAGES = torch.randn(23, 1, 16, 16, generator=seeded("images"), dtype=torch.float64)


@pytest.mark.parametrize("policy", ["transductive", "support", "running", "group", "none"])
def test_representations_are_the_heads_inputs_of_shuffled_batches(policy):
    learner = MAML(conv4_of(policy))
    meta = cases.started(learner)
    chunks = list(representations(learner, meta, IMAGES, batch=8, seed=5))
    assert sorted(map(len, chunks)) == [7, 8, 8]
    order = torch.randperm(23, generator=seeded("representations", 5))
    model = loaded(learner, plain(meta))
    with torch.no_grad():
        expected = [model.features(IMAGES[rows]) for rows in order.split([len(chunk) for chunk in chunks])]
    assert torch.allclose(torch.cat(chunks), torch.cat(expected), **TINY)
    assert expected[0].shape[1] == model.head.in_features


def test_with_batch_statistics_a_representation_depends_on_its_batch():
    values = {}
    for policy in ("transductive", "none"):
        learner = MAML(conv4_of(policy))
        meta = cases.started(learner)
        values[policy] = [coherence(representations(learner, meta, IMAGES, batch=8, seed=s)).value for s in (0, 1)]
    assert values["none"][0] == pytest.approx(values["none"][1], rel=1e-10)
    assert abs(values["transductive"][0] / values["transductive"][1] - 1) > 1e-4


def test_a_model_without_features_is_told_so():
    learner, meta, _ = cases.every_case()["MAML, sine"]
    learner = replace(learner, model=torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="expected a model with a method `features`, got Linear"):
        next(representations(learner, meta, IMAGES))


def test_tasks_lie_end_to_end_in_the_order_of_the_names():
    weights = {"b": torch.arange(4.0).view(2, 2), "a": torch.arange(4.0, 8.0).view(2, 2, 1)}
    assert flatten(weights).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
