"""What displacement learners may do to mini-batches and weights; noise of the task's own; in float64."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mlkit.adaptation import call
from mlkit.driver import for_tasks, meta_gradient, stack
from mlkit.evaluation import evaluate
from mlkit.learners import MAML, Displacement, JointTraining
from mlkit.models import EfficientLab, normalization
from mlkit.models.noise import DropConnect, Dropout, is_noise, scrambled
from mlkit.seeding import seeded
from mlkit.segmentation_losses import IOU, segmentation_loss
from mlkit.tasks.base import Examples, TaskBatch

from .test_gradients import Quadratic, finite_difference, quadratic_loss, quadratic_tasks

RATES = {"dropout": 0.3, "drop_connect": 0.4}


class SmallSegmenter(nn.Module):
    """EfficientLab's parts: running statistics, a residual block under drop-connect, dropout, a head of 1x1."""

    def __init__(self, *, dropout: float = 0.0, drop_connect: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), normalization("running", 4, momentum=0.01), nn.SiLU())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), normalization("running", 4, momentum=0.01), nn.SiLU())
        self.connect, self.dropout = DropConnect(drop_connect), Dropout(dropout)
        self.head = nn.Conv2d(4, 2, 1)

    def new_head(self, channels: int, generator: torch.Generator) -> dict[str, Tensor]:
        weight = torch.randn(channels, 4, 1, 1, generator=generator)
        return {"head.weight": weight, "head.bias": torch.zeros(channels)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.dropout(self.connect(x, self.block(x))))


def tasks_of(count: int, *, shots: int = 3, query: int = 3, size: int = 6, classes: int = 0) -> TaskBatch:
    """Random pictures whose masks follow their brightness; with `classes` labels of joint training."""
    generator = seeded("segmentation", count, size)

    def examples(each: int) -> Examples:
        x = torch.rand(count, each, 3, size, size, generator=generator, dtype=torch.float64)
        y = x.mean(2)
        return Examples(x, (y * (classes + 1)).long() if classes else y)

    seeds = torch.randint(2**62, (count,), generator=generator)
    support = examples(shots)
    return TaskBatch(support, support if classes else examples(query), seeds)


def darkened(examples: Examples, seeds: Tensor, step: int) -> Examples:
    """Augment by the task's own seed and the step: what a test can follow."""
    factors = torch.cat([scrambled(seed, 1) % 7 + 1 for seed in seeds])
    shade = factors.to(examples.x.dtype) / (8 + step)
    return replace(examples, x=examples.x * shade.view(-1, 1, 1, 1, 1))


def start(learner, seed: int = 0) -> dict[str, Tensor]:
    meta = learner.init(seeded("test", seed))
    return stack([{name: t.double() if t.is_floating_point() else t for name, t in meta.items()}])


def of_all_options(variant: str = "fomaml_star", **changes: object) -> Displacement:
    settings = {"inner_lr": 0.1, "inner_steps": 3, "batch_size": 4, "loss": segmentation_loss, "augment": darkened}
    return Displacement(SmallSegmenter(**RATES), variant, **settings | {"l2": 5e-4} | changes)


def joint(**changes: object) -> JointTraining:
    return JointTraining(of_all_options(), 3, **{"augment": darkened} | changes)


LEARNERS = {
    "FOMAML*": of_all_options(),
    "FOMAML disjoint, last augmented": of_all_options("fomaml_disjoint", last_augmented=True),
    "Reptile": of_all_options("reptile", pool="all"),
    "MAML": MAML(SmallSegmenter(**RATES), 0.1, 2, segmentation_loss),
    "joint": joint(),
}


def tasks_for(name: str, count: int) -> TaskBatch:
    return tasks_of(count, classes=3 if name == "joint" else 0)


@pytest.mark.parametrize("name", LEARNERS)
def test_noise_and_augmentation_are_the_same_in_any_chunk_size_and_number_of_workers(name):
    learner, tasks = LEARNERS[name], tasks_for(name, 5)
    meta = start(learner)
    loop = meta_gradient(learner, meta, tasks, chunk_size=1)
    weights = [gradient for key, gradient in loop.gradients.items() if key.endswith("weight")]
    assert all(float(gradient.abs().max()) > 1e-6 for gradient in weights)
    for how in ({"chunk_size": 2}, {}, {"chunk_size": 1, "workers": 2}, {"chunk_size": 2, "workers": 2}):
        torch.manual_seed(5)  # the global generator has no say
        other = meta_gradient(learner, meta, tasks, **how)
        assert torch.allclose(other.outputs, loop.outputs, rtol=0, atol=1e-10), how
        for key, value in (loop.gradients | loop.buffers).items():
            assert torch.allclose((other.gradients | other.buffers)[key], value, rtol=0, atol=1e-10), (how, key)


@pytest.mark.parametrize("name", LEARNERS)
def test_noise_is_on_in_training_and_its_state_is_not_learned(name):
    learner, tasks = LEARNERS[name], tasks_for(name, 3)
    meta = start(learner)
    once, again = (meta_gradient(learner, meta, batch) for batch in (tasks, replace(tasks, seeds=tasks.seeds + 1)))
    weight = "theta.head.weight"
    assert not torch.allclose(once.gradients[weight], again.gradients[weight], rtol=1e-6)
    noise = [value for key, value in once.buffers.items() if is_noise(key)]
    assert len(noise) == 2 and all(not value.any() for value in noise)
    assert any(not torch.equal(value, meta[key]) for key, value in once.buffers.items() if not is_noise(key))


@pytest.mark.parametrize("name", LEARNERS)
def test_evaluation_leaves_every_tensor_bit_identical(name):
    learner, tasks = LEARNERS[name], tasks_of(3)
    meta = start(learner)
    before = {key: tensor.clone() for key, tensor in meta.items()}
    own = {key: tensor.clone() for key, tensor in learner.model.state_dict().items()}
    scores = evaluate(learner, meta, tasks, metric=IOU, steps=[1, 3])
    assert scores.shape == (1, 2, 3) and scores.isfinite().all()
    assert all(torch.equal(before[key], meta[key]) for key in before)
    assert all(torch.equal(own[key], tensor) for key, tensor in learner.model.state_dict().items())
    assert torch.equal(scores, evaluate(learner, meta, tasks, metric=IOU, steps=[1, 3])), "not the same twice"


def test_l2_on_a_quadratic_is_a_spring_to_zero():
    """FOMAML disjoint: each step subtracts alpha (A (w - m) + l2 w); the meta-gradient is the last such step."""
    tasks, a, b = quadratic_tasks()
    w = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    alpha, l2 = 0.2, 0.05
    learner = Displacement(Quadratic(), "fomaml_disjoint", alpha, 4, loss=quadratic_loss, l2=l2)
    at = w.expand(len(tasks), 3)
    for _ in range(3):
        at = at - alpha * (a * (at - tasks.support.y[:, 0, :, 1]) + l2 * at)
    expected = alpha * (b * (at - tasks.query.y[:, 0, :, 1]) + l2 * at)
    found = meta_gradient(learner, {"theta.w": w[None]}, tasks).gradients["theta.w"][0]
    assert torch.allclose(found, expected.mean(0), atol=1e-12)


def test_l2_spares_gamma_and_beta_and_no_other_weight():
    tasks = tasks_of(2)
    bare = of_all_options("reptile", inner_steps=1, l2=0.0)
    meta = start(bare)
    without, found = (meta_gradient(learner, meta, tasks).gradients for learner in (bare, replace(bare, l2=0.5)))
    for name, gradient in without.items():
        spared = ".1." in name  # the second layers of stem and block are normalizations
        expected = gradient if spared else gradient + 0.1 * 0.5 * meta[name]
        assert torch.allclose(found[name], expected, rtol=0, atol=1e-12), name


def recorded_batches(learner: Displacement, tasks: TaskBatch) -> list[Tensor]:
    """The pictures that each inner step of meta-training sees."""
    seen = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return segmentation_loss(outputs, y)

    meta_gradient(replace(learner, loss=loss), start(learner), tasks, chunk_size=None)
    return seen


def marked(examples: Examples, seeds: Tensor, step: int) -> Examples:
    """Augment so that the masks tell: the first row is the step, as a small number."""
    y = examples.y.clone()
    y[:, :, 0] = (step + 1) / 100
    return replace(examples, y=y)


@pytest.mark.parametrize(
    ("variant", "last", "expected"),
    [
        ("fomaml_star", False, [1, 2, None]),
        ("fomaml_disjoint", False, [1, 2, None]),
        ("fomaml_star", True, [1, 2, 3]),
        ("reptile", False, [1, 2, 3]),
        ("fomaml_no_tail", False, [1, 2, 3]),
    ],
)
def test_every_mini_batch_is_augmented_but_the_last_of_fomaml(variant, last, expected):
    learner = of_all_options(variant, augment=marked, last_augmented=last)
    found = recorded_batches(learner, tasks_of(2, query=5))
    assert [y.shape[1] for y in found] == [4, 4, 5 if variant in ("fomaml_star", "fomaml_disjoint") else 4]
    for y, step in zip(found, expected, strict=True):
        assert bool((y[:, :, 0] == step / 100).all() if step else (y[:, :, 0] > 0.04).any())


def test_adaptation_at_meta_test_is_augmented():
    learner, tasks = of_all_options(), tasks_of(2)
    meta = for_tasks(start(learner), torch.zeros(2, dtype=torch.int64))
    with_it, without = (a.adapt(meta, tasks).weights for a in (learner, replace(learner, augment=None)))
    assert not torch.allclose(with_it["head.weight"], without["head.weight"])


def test_options_are_recorded_only_where_they_are_set():
    plain = of_all_options(augment=None, l2=0.0).describe()
    assert not {"augment", "l2", "last_augmented"} & plain.keys()
    full = of_all_options(last_augmented=True).describe()
    assert {name: full[name] for name in ("augment", "l2", "last_augmented")} == {
        "augment": "darkened", "l2": 5e-4, "last_augmented": True,
    }  # fmt: skip


def test_second_order_maml_through_noise_is_the_derivative_of_the_query_loss():
    learner, tasks = LEARNERS["MAML"], tasks_of(3)
    meta = start(learner)
    found = meta_gradient(learner, meta, tasks).gradients
    direction = {
        key: torch.randn(tensor.shape, generator=seeded(key), dtype=torch.float64) for key, tensor in found.items()
    }
    expected = finite_difference(learner, meta, tasks, direction)
    assert abs(sum(float((found[key] * direction[key]).sum()) for key in found) - expected) < 1e-6


def test_joint_training_follows_the_gradient_of_its_loss_and_l2():
    learner = joint(augment=None)
    learner = replace(learner, adaptation=replace(learner.adaptation, model=SmallSegmenter()))
    tasks, meta = tasks_of(1, classes=3), start(learner)
    found = meta_gradient(learner, meta, tasks)
    weights = {name[6:]: tensor.requires_grad_() for name, tensor in meta.items() if name.startswith("theta.")}
    buffers = {name[8:]: tensor for name, tensor in meta.items() if name.startswith("buffers.")}
    outputs, _ = call(learner.model, weights, buffers, tasks.query.x, "adapt")
    assert outputs.shape == (1, 3, 4, 6, 6), "a channel for the background and for each class"
    loss = learner.loss(outputs, tasks.query.y)
    decay = sum(5e-4 / 2 * tensor.square().sum() for name, tensor in weights.items() if ".1." not in name)
    gradients = torch.autograd.grad(loss.sum() + decay, list(weights.values()))
    assert torch.allclose(found.outputs[0], outputs) and torch.allclose(found.losses[0], loss)
    for name, gradient in zip(weights, gradients, strict=True):
        assert torch.allclose(found.gradients[f"theta.{name}"], gradient, rtol=0, atol=1e-12), name


def test_joint_training_gives_each_task_its_own_new_head_of_two_channels():
    learner, tasks = joint(), tasks_of(3)
    meta = for_tasks(start(learner), torch.zeros(3, dtype=torch.int64))
    before = learner.adapt(meta, tasks, steps=0)
    assert before.weights["head.weight"].shape == (3, 2, 4, 1, 1)
    assert not torch.allclose(before.weights["head.weight"][0], before.weights["head.weight"][1])
    again = learner.adapt(for_tasks(start(learner, 1), torch.zeros(3, dtype=torch.int64)), tasks, steps=0)
    assert torch.equal(before.weights["head.weight"], again.weights["head.weight"]), "the same head under every run"
    assert torch.equal(before.weights["stem.0.weight"], meta["theta.stem.0.weight"])
    after = learner.adapt(meta, tasks)
    assert after.losses.shape == (3, 3) and not torch.allclose(
        after.weights["stem.0.weight"], before.weights["stem.0.weight"]
    )


def test_joint_training_needs_a_model_that_draws_heads():
    with pytest.raises(
        ValueError, match=r"expected a model with a method new_head\(channels, generator\), got Quadrat"
    ):
        JointTraining(Displacement(Quadratic()), 3)
    with pytest.raises(ValueError, match="expected classes >= 1, got 0"):
        JointTraining(of_all_options(), 0)


def test_a_single_job_left_over_has_all_cores_to_itself(monkeypatch):
    seen = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        seen.append(threading.current_thread() is threading.main_thread())
        return segmentation_loss(outputs, y)

    learner, tasks = of_all_options(loss=loss), tasks_of(3)
    meta = start(learner)
    loop = meta_gradient(learner, meta, tasks, chunk_size=1)
    assert all(seen)
    for threads, on_main in ((1, 0), (2, 3)):  # three inner steps of the third task
        seen.clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        other = meta_gradient(learner, meta, tasks, chunk_size=1, workers=2)
        assert (len(seen), sum(seen)) == (9, on_main)
        for key, value in loop.gradients.items():
            assert torch.allclose(other.gradients[key], value, rtol=0, atol=1e-12), key


def test_second_order_maml_of_a_narrow_efficientlab():
    learner = MAML(EfficientLab(width=0.25), 1e-4, 1, segmentation_loss)
    tasks = tasks_of(1, shots=2, query=2, size=32)
    meta = start(learner)
    second, first = (
        meta_gradient(other, meta, tasks).gradients for other in (learner, replace(learner, first_order=True))
    )
    norm = sum(gradient.square().sum() for gradient in second.values()).sqrt()
    direction = {name: gradient / norm for name, gradient in second.items()}
    expected = finite_difference(learner, meta, tasks, direction, step=1e-6)
    along = [sum(float((found[name] * direction[name]).sum()) for name in found) for found in (second, first)]
    assert along[0] == pytest.approx(expected, rel=1e-5)
    assert along[1] != pytest.approx(expected, rel=0.1)
