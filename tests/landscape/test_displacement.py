"""Distances moved by each task, against their formulas, by block and over all weights."""

from __future__ import annotations

import pytest
import torch

from mlkit.landscape import MEASURES, coherence, displacement, displacements
from mlkit.landscape.displacement import distance, mean_absolute, unit_distance
from mlkit.learners import MAML

from . import cases


@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.parametrize("chunk_size", [2, 100])
def test_the_distance_is_the_length_of_the_displacement(name, chunk_size):
    learner, meta, tasks = cases.every_case()[name]
    found = displacement(learner, meta, tasks, chunk_size=chunk_size)
    lengths = torch.cat(list(displacements(learner, meta, tasks))).norm(dim=1)
    assert torch.allclose(found["distance"]["all"], lengths, rtol=1e-12)
    mean = coherence(displacements(learner, meta, tasks)).norm
    assert float(found["distance"]["all"].mean()) == pytest.approx(mean, rel=1e-12)


def test_blocks_are_the_first_components_of_the_names_and_make_up_the_whole():
    learner, meta, tasks = cases.every_case()["MAML, images"]
    found = displacement(learner, meta, tasks)
    assert set(found) == set(MEASURES) == {"distance", "unit_distance", "mean_absolute"}
    for of in found.values():
        assert set(of) == {"all", "convolutions", "norms", "head"}
        assert {tuple(values.shape) for values in of.values()} == {(5,)}
    blocks = [values for where, values in found["distance"].items() if where != "all"]
    assert torch.allclose(torch.stack(blocks).square().sum(0), found["distance"]["all"].square(), rtol=1e-12)


def test_blocks_can_be_given():
    learner, meta, tasks = cases.every_case()["MAML, images"]
    fine = displacement(learner, meta, tasks, block=lambda name: name)["distance"]
    assert set(fine) == {"all", *(name for name, _ in learner.model.named_parameters())}
    coarse = displacement(learner, meta, tasks)["distance"]
    head = (fine["head.weight"].square() + fine["head.bias"].square()).sqrt()
    assert torch.allclose(head, coarse["head"], rtol=1e-12)
    with pytest.raises(ValueError, match="expected a block of another name than 'all'"):
        displacement(learner, meta, tasks, block=lambda name: "all")


def test_measures_can_be_given():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    largest = {"largest": lambda start, end: (end - start).abs().amax(1)}
    found = displacement(learner, meta, tasks, measures=largest)
    vectors = torch.cat(list(displacements(learner, meta, tasks)))
    assert set(found) == {"largest"}
    assert torch.allclose(found["largest"]["all"], vectors.abs().amax(1), rtol=1e-12)


def test_the_three_measures_by_hand():
    start, end = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, 1.0]])
    assert distance(start, end).tolist() == pytest.approx([5, 2**0.5])
    assert unit_distance(start, end).tolist() == pytest.approx([0, 2**0.5])
    assert mean_absolute(start, end).tolist() == pytest.approx([3.5, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_start_at_zero_have_a_unit_distance_of_one(dtype):
    zero, away = torch.zeros(1, 3, dtype=dtype), torch.tensor([[0.0, 2.0, 0.0]], dtype=dtype)
    assert unit_distance(zero, away).tolist() == [1]
    assert unit_distance(zero, zero).tolist() == [0]


def test_small_moves_keep_their_digits_in_single_precision():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    learner = MAML(learner.model.float(), 1e-4, 1, learner.loss)
    single = displacement(learner, {name: tensor.float() for name, tensor in meta.items()}, tasks)
    double = displacement(MAML(learner.model.double(), 1e-4, 1, learner.loss), meta, tasks)
    assert torch.allclose(single["unit_distance"]["all"], double["unit_distance"]["all"], rtol=1e-3)


def test_a_task_that_does_not_move_is_zero_in_every_measure():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    found = displacement(learner, meta, cases.solved(learner, meta, tasks, 1))
    for of in found.values():
        assert {float(values[1]) for values in of.values()} == {0.0}
        assert float(of["all"][0]) > 0


def test_a_diverged_task_is_nan_in_every_measure_and_block_and_alone():
    learner, meta, tasks = cases.every_case()["MAML, sine"]
    healthy, broken = (displacement(learner, meta, which) for which in (tasks, cases.diverging(tasks, 3)))
    for name, of in broken.items():
        for where, values in of.items():
            assert values.isnan().tolist() == [False, False, False, True, False]
            assert torch.allclose(values[:3], healthy[name][where][:3], rtol=1e-12)


def test_one_task_only():
    learner, meta, tasks = cases.every_case()["Reptile"]
    alone, five = (displacement(learner, meta, which)["mean_absolute"]["head"] for which in (tasks[:1], tasks))
    assert torch.allclose(alone, five[:1], rtol=1e-12)
