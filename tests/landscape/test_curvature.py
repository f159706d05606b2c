from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted
from mlkit.driver import Meta, stack
from mlkit.landscape.curvature import Curvature, spectral_norm
from mlkit.learners import MAML
from mlkit.losses import mean_squared_error
from mlkit.seeding import seeded
from mlkit.tasks import TaskBatch, frozen, sine
from mlkit.tasks.base import Examples
from tests.landscape.operators import adapt, dense_hessian, sine_setting
from tests.learners.cases import conv4_of, image_tasks


def image_setting() -> tuple[MAML, Meta, TaskBatch]:
    learner = MAML(conv4_of("transductive"), 0.1, 2)
    return learner, stack([learner.init(seeded("curvature"))]), image_tasks(5)


def agree(one: Curvature, other: Curvature, rtol: float = 1e-9) -> bool:
    """Compare everything but the residual, which is what rounding is seen in."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(Curvature) if f.name != "residual"]
    return all(torch.allclose(a.double(), b.double(), rtol=rtol, equal_nan=True) for a, b in pairs)


def test_the_sine_network_of_1761_parameters_agrees_with_its_dense_hessian() -> None:
    learner, meta, tasks = sine_setting(2)
    found = spectral_norm(learner, meta, tasks, tolerance=1e-6)
    adapted = adapt(learner, meta, tasks)
    for task in range(2):
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(learner, adapted, tasks, task))
        assert len(eigenvalues) == 1761
        dominant = eigenvalues[eigenvalues.abs().argmax()]
        assert float(found.value[task] / dominant.abs() - 1) == pytest.approx(0, abs=1e-6)
        assert found.sign[task] == dominant.sign()
    assert found.converged.all() and not found.diverged.any()
    assert torch.allclose(found.loss, learner.loss(learner.predict(adapted, tasks.support.x), tasks.support.y))


@pytest.mark.parametrize("how", [{"chunk_size": 1}, {"chunk_size": 5}, {"chunk_size": 2, "workers": 2}], ids=str)
def test_neither_chunks_nor_workers_change_the_answer(how: dict[str, int]) -> None:
    learner, meta, tasks = image_setting()
    assert agree(spectral_norm(learner, meta, tasks, **how), spectral_norm(learner, meta, tasks, chunk_size=3))


def test_the_seed_of_the_first_vector_does_not_change_the_answer() -> None:
    learner, meta, tasks = image_setting()
    one, other = (spectral_norm(learner, meta, tasks, seed=seed, tolerance=1e-10) for seed in (0, 1))
    assert torch.allclose(one.value, other.value, rtol=1e-8)
    assert one.converged.all()


def test_single_precision_reaches_the_default_tolerance() -> None:
    learner, meta, tasks = image_setting()
    exact = spectral_norm(learner, meta, tasks, tolerance=1e-10)
    single = spectral_norm(learner, meta, tasks, dtype=torch.float32)
    assert single.converged.all()
    assert torch.allclose(single.value, exact.value, rtol=1e-4)
    assert exact.converged.all()


def test_the_parameters_of_normalization_can_be_left_out() -> None:
    learner, meta, tasks = image_setting()
    whole, part = (spectral_norm(learner, meta, tasks, parameters=which) for which in ("all", "no_norm"))
    assert (part.value < whole.value).all()  # of a part of a symmetric matrix


@dataclass(frozen=True)
class Bowl:
    """A loss of the weights alone, 1/2 w diag(curvatures) w, that `spectral_norm` takes for a learner."""

    model: nn.Module
    curvatures: Tensor  # (tasks, d)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs.square() * targets).flatten(1).sum(1)

    def tasks(self) -> TaskBatch:
        tasks, size = self.curvatures.shape
        units = torch.eye(size, dtype=torch.float64).repeat(tasks, 1, 1)
        support = Examples(units, self.curvatures[..., None])
        return TaskBatch(support, support, torch.arange(len(self.curvatures)))

    def adapt(self, meta: Meta, tasks: TaskBatch, **_: object) -> Adapted:
        return Adapted({"weight": meta["theta.weight"]}, {}, torch.empty(0))

    @classmethod
    def of(cls, *curvatures: list[float], weight: float = 1.0) -> tuple[Bowl, Meta, TaskBatch]:
        bowl = cls(nn.Linear(len(curvatures[0]), 1, bias=False).double(), torch.tensor(curvatures, dtype=torch.float64))
        meta = {"theta.weight": torch.full((1, 1, len(curvatures[0])), weight, dtype=torch.float64)}
        return bowl, meta, bowl.tasks()


def test_a_saddle_that_bends_down_most_has_a_negative_sign() -> None:
    found = spectral_norm(*Bowl.of([1.0, -3.0, 0.5], [3.0, -1.0, 0.5]))
    assert torch.allclose(found.value, torch.full((2,), 3.0, dtype=torch.float64))
    assert found.sign.tolist() == [-1, 1]
    assert found.converged.all()


def test_a_zero_hessian_and_a_zero_gradient_are_defined() -> None:
    flat = spectral_norm(*Bowl.of([0.0, 0.0, 0.0]))
    assert (float(flat.value), float(flat.sign), bool(flat.converged)) == (0, 0, True)
    assert not flat.diverged
    bottom = spectral_norm(*Bowl.of([2.0, 1.0, 0.5], weight=0.0))  # where the gradient is zero, the Hessian is not
    assert float(bottom.loss) == 0
    assert float(bottom.value) == pytest.approx(2)


def test_a_task_that_diverged_has_no_value_and_leaves_the_others_alone() -> None:
    learner, meta, tasks = sine_setting(4, (1, 8, 8, 1))
    wild = tasks.support.y.clone()
    wild[1] *= 1e200
    spoiled = TaskBatch(Examples(tasks.support.x, wild), tasks.query, tasks.seeds)
    found, sound = (spectral_norm(learner, meta, batch) for batch in (spoiled, tasks))
    assert found.diverged.tolist() == [False, True, False, False]
    assert found.value[1].isnan() and found.residual[1].isnan() and not found.converged[1]
    rest = torch.tensor([0, 2, 3])
    assert torch.allclose(found.value[rest], sound.value[rest], rtol=1e-9)
    assert found.converged[rest].all()
    assert spectral_norm(learner, meta, spoiled[1:2]).diverged.all()


def test_a_diverged_task_does_not_touch_the_convolutions_of_the_others() -> None:
    learner, meta, tasks = image_setting()
    x = tasks.support.x.clone()
    x[2] = torch.inf
    spoiled = TaskBatch(Examples(x, tasks.support.y), tasks.query, tasks.seeds)
    found, sound = (spectral_norm(learner, meta, batch) for batch in (spoiled, tasks))
    rest = torch.tensor([0, 1, 3, 4])
    assert found.diverged.tolist() == [False, False, True, False, False]
    assert torch.allclose(found.value[rest], sound.value[rest], rtol=1e-9)


def test_one_task_and_fewer_parameters_than_iterations_are_exact() -> None:
    learner, meta, tasks = sine_setting(1, (1, 2, 1))
    found = spectral_norm(learner, meta, tasks, tolerance=1e-13)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(learner, adapt(learner, meta, tasks), tasks, 0))
    assert len(found) == 1
    assert found.converged and found.iterations <= 7
    assert float(found.value) == pytest.approx(float(eigenvalues.abs().max()), rel=1e-12)


def test_too_few_iterations_are_reported_not_hidden() -> None:
    learner, meta, tasks = image_setting()
    found = spectral_norm(learner, meta, tasks, max_iterations=2)
    assert not found.converged.any()
    assert found.iterations.tolist() == [2] * 5
    assert (found.residual > 0.01 * found.value).all()


def test_frozen_tasks_serve_as_well() -> None:
    learner, meta, _ = sine_setting(1)
    tasks = frozen(sine("finn"), 3, 0)
    assert agree(spectral_norm(learner, meta, tasks, chunk_size=2), spectral_norm(learner, meta, tasks[0:3]))


def test_misuse_is_explained() -> None:
    learner, meta, tasks = sine_setting(2, (1, 4, 1))
    with pytest.raises(ValueError, match="at least one task, got none"):
        spectral_norm(learner, meta, tasks[0:0])
    two_runs = {name: torch.cat([tensor, tensor]) for name, tensor in meta.items()}
    with pytest.raises(ValueError, match=r"one run .*, got 2 runs"):
        spectral_norm(learner, two_runs, tasks)
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    dropping = MAML(model, 0.01, 1, mean_squared_error)
    with pytest.raises(ValueError, match=r"likely cause is dropout \(1\)"):
        spectral_norm(dropping, stack([dropping.init(seeded(""))]), tasks)
