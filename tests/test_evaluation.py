"""Meta-test: every task is judged by itself, and nothing is left behind or held on to."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from mlkit.driver import for_tasks, run_of, stack
from mlkit.evaluation import evaluate, median_of_runs, predict_along
from mlkit.learners import MAML, Displacement
from mlkit.losses import ACCURACY, MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import POLICIES, normalization
from mlkit.seeding import seeded
from mlkit.tasks import frozen
from mlkit.tasks.sine import sine

from .learners import cases


def start(learner, runs: int = 2):
    """Stack fresh meta-parameters in float64, moved off the symmetric point that normalization starts at."""
    metas = [learner.init(seeded("evaluation", run)) for run in range(runs)]
    stacked = stack([{name: tensor.double() for name, tensor in meta.items()} for meta in metas])
    return {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=seeded(name), dtype=torch.float64)
        for name, tensor in stacked.items()
    }


def smooth(policy: str) -> cases.Smooth:
    return cases.Smooth(normalization(policy, 8)).double()


def learners(policy: str) -> dict[str, object]:
    model = smooth(policy)
    return {
        "MAML": MAML(model, 0.1, 2),
        "FOMAML": MAML(model, 0.1, 2, first_order=True),
        "Meta-SGD": MAML(model, 0.1, 2, learn_inner_lr=True),
        "Reptile": Displacement(model, "reptile", 0.1, 2, batch_size=4),
    }


def mean_score(outputs, y):
    """Judge by every output, so that the slightest change shows."""
    del y
    return outputs.square().mean((1, 2))


FINE = replace(ACCURACY, name="fine", score=mean_score)


@pytest.mark.parametrize("policy", POLICIES)
def test_scores_do_not_depend_on_the_chunk_size_or_on_the_other_runs(policy):
    tasks = cases.image_tasks(5)
    for name, learner in learners(policy).items():
        meta = start(learner)
        whole = evaluate(learner, meta, tasks, metric=FINE)
        assert whole.shape == (2, 5)
        assert float(whole.std(dim=1).min()) > 1e-4, name
        for size in (1, 3, 4):
            again = evaluate(learner, meta, tasks, metric=FINE, chunk_size=size)
            assert torch.allclose(again, whole, rtol=0, atol=1e-10), (name, size)
        alone = evaluate(learner, {key: tensor[1:] for key, tensor in meta.items()}, tasks[2:3], metric=FINE)
        assert torch.allclose(alone, whole[1:, 2:3], rtol=0, atol=1e-10), name


@pytest.mark.parametrize("policy", POLICIES)
def test_several_steps_at_once_equal_each_alone(policy):
    tasks = cases.image_tasks(3)
    for name, learner in learners(policy).items():
        meta = start(learner)
        together = evaluate(learner, meta, tasks, metric=FINE, steps=[3, 0, 1])
        assert together.shape == (2, 3, 3)
        for index, steps in enumerate([3, 0, 1]):
            alone = evaluate(learner, meta, tasks, metric=FINE, steps=steps)
            assert torch.allclose(together[:, index], alone, rtol=0, atol=1e-10), (name, steps)
        assert not torch.allclose(together[:, 0], together[:, 1])
        own = evaluate(learner, meta, tasks, metric=FINE)
        assert torch.equal(own, evaluate(learner, meta, tasks, metric=FINE, steps=learner.inner_steps))


def test_frozen_tasks_score_as_their_batch():
    learner, tasks = cases.sine_maml(), frozen(sine("huisman", "test", query=7), 6, seed=3)
    learner = replace(learner, model=nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)))
    meta = start(learner)
    scores = evaluate(learner, meta, tasks, metric=MEAN_SQUARED_ERROR, chunk_size=4)
    assert torch.equal(scores, evaluate(learner, meta, tasks[:], metric=MEAN_SQUARED_ERROR, chunk_size=4))
    by_hand = []
    for index in range(6):
        task = tasks[index : index + 1].to(dtype=torch.float64)
        adapted = learner.adapt({name: tensor[:1] for name, tensor in meta.items()}, task)
        by_hand.append(mean_squared_error(learner.predict(adapted, task.query.x), task.query.y))
    assert torch.allclose(scores[0], torch.cat(by_hand), rtol=0, atol=1e-10)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_prediction_depends_on_other_queries_only_if_transductive(policy):
    tasks = cases.image_tasks(2, query=3)
    for name, learner in learners(policy).items():
        adapted = learner.adapt(for_tasks(start(learner), torch.zeros(2, dtype=torch.int64)), tasks)
        together = learner.predict(adapted, tasks.query.x)
        others = tasks.query.x.clone()
        others[:, 1:] = 3 * others[:, 1:].flip(1) - 1
        changed = float((learner.predict(adapted, others)[:, 0] - together[:, 0]).abs().max())
        alone = float((learner.predict(adapted, tasks.query.x[:, :1])[:, 0] - together[:, 0]).abs().max())
        if policy == "transductive":
            assert min(changed, alone) > 1e-3, name
        else:
            assert max(changed, alone) < 1e-12, name


@pytest.mark.parametrize("policy", POLICIES)
def test_evaluation_changes_nothing(policy):
    tasks = cases.image_tasks(3)
    for name, learner in learners(policy).items():
        meta = {key: tensor.requires_grad_() for key, tensor in start(learner).items()}
        kept = {key: tensor.detach().clone() for key, tensor in meta.items()}
        model = {key: tensor.clone() for key, tensor in learner.model.state_dict().items()}
        random_state = torch.get_rng_state()
        scores = evaluate(learner, meta, tasks, metric=FINE, steps=[0, 2])
        assert not scores.requires_grad
        assert all(torch.equal(tensor, kept[key]) and tensor.grad is None for key, tensor in meta.items()), name
        assert all(torch.equal(tensor, model[key]) for key, tensor in learner.model.state_dict().items()), name
        assert torch.equal(torch.get_rng_state(), random_state), name


def saved_for_backward(work) -> int:
    """Count the tensors that autograd keeps while `work` runs."""
    count = [0]

    def pack(tensor):
        count[0] += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return count[0]


def test_evaluation_builds_no_graph_beyond_each_inner_gradient():
    tasks = cases.regression_tasks()
    learner = cases.sine_maml()
    meta = {name: tensor.requires_grad_() for name, tensor in start(learner, 1).items()}

    def saved(learner, steps):
        return saved_for_backward(lambda: evaluate(learner, meta, tasks, metric=MEAN_SQUARED_ERROR, steps=steps))

    one = saved(learner, 1)
    assert saved(learner, 0) == 0  # predicting keeps nothing
    assert (
        0 < one < saved_for_backward(lambda: learner.gradients(for_tasks(meta, torch.zeros(4, dtype=int)), tasks)) / 3
    )
    assert saved(learner, 4) == 4 * one  # each step's own gradient and nothing across steps
    assert saved(replace(learner, first_order=True), 4) == 4 * one
    adapted = learner.adapt(for_tasks(meta, torch.zeros(4, dtype=int)), tasks, trajectory=True)
    left = [
        *adapted.weights.values(),
        adapted.losses,
        *(t for weights, _ in adapted.trajectory[1:] for t in weights.values()),
    ]
    assert not any(tensor.requires_grad for tensor in left)


def test_no_tensor_outlives_evaluation():
    learner, tasks = cases.sine_maml(), cases.regression_tasks(40)
    meta = start(learner)

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    counts = []
    for _ in range(3):
        scores = evaluate(learner, meta, tasks, metric=MEAN_SQUARED_ERROR, steps=range(3), chunk_size=8)
        counts.append(alive())
        del scores
    assert counts[1] == counts[2]


GROWTH = """
import resource, sys, torch
from mlkit.driver import stack
from mlkit.evaluation import evaluate, median_of_runs
from mlkit.learners import MAML
from mlkit.losses import MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks import frozen
from mlkit.tasks.sine import sine

torch.set_num_threads(1)
learner = MAML(MLP((1, 200, 200, 1)), 0.01, 2, mean_squared_error)  # 160 kB a task and step
meta = stack([learner.init(seeded("growth"))])


def peak(count):
    scores = evaluate(learner, meta, frozen(sine("huisman"), count, seed=0), metric=MEAN_SQUARED_ERROR, chunk_size=10)
    assert scores.shape == (1, count)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


print(peak(20), peak(400))
"""


def test_memory_does_not_grow_with_the_number_of_tasks():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, timeout=120, env=environment, check=True
    )
    few, many = map(int, done.stdout.split())
    assert many - few < 12e6  # the weights of 400 tasks are 65 MB


def test_predictions_along_the_inner_steps_end_where_adaptation_ends():
    learner, tasks = cases.sine_maml(), cases.regression_tasks(3)
    meta = start(learner, 1)
    along = predict_along(learner, meta, tasks, tasks.query.x, steps=4)
    assert along.shape == (3, 5, 6, 1)
    for steps in range(5):
        adapted = learner.adapt(for_tasks(meta, torch.zeros(3, dtype=torch.int64)), tasks, steps=steps)
        assert torch.allclose(along[:, steps], learner.predict(adapted, tasks.query.x), rtol=0, atol=1e-12)


def test_one_run_of_a_stack_is_that_run():
    learner = cases.sine_maml()
    meta = start(learner, 3)
    assert all(torch.equal(tensor, meta[name][2]) for name, tensor in run_of(meta, 2).items())


def test_a_run_that_diverged_is_an_outlier_as_long_as_few_did():
    scores = torch.linspace(0.4, 0.5, 8)[:, None].repeat(1, 5)
    scores[3] = torch.inf
    found = median_of_runs(scores)
    usable = scores[[0, 1, 2, 4, 5, 6, 7], 0].double()
    assert found.count == 7 and found.value == pytest.approx(float(usable.mean()))
    scores[:3] = torch.nan
    assert math.isnan(median_of_runs(scores).value) and median_of_runs(scores).count == 4
    one_of_three = median_of_runs(torch.tensor([[0.4], [0.5], [torch.inf]]))
    assert math.isnan(one_of_three.value) and one_of_three.count == 2
