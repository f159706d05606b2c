"""The watch: each number by its definition, on the tasks it should be on, whatever diverges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mlkit import Unit
from mlkit.driver import run_of, stack
from mlkit.evaluation import evaluate
from mlkit.experiment import Experiment, run
from mlkit.landscape import gradients, representations
from mlkit.landscape.curvature import spectral_norm
from mlkit.landscape.directions import displacements
from mlkit.landscape.watch import METRICS, Watch
from mlkit.learners import MAML, Displacement, Finetuning, RegularizedMAML
from mlkit.losses import ACCURACY, MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import Conv4
from mlkit.outer import Execution, OuterLoop
from mlkit.seeding import seeded
from mlkit.tasks import SupervisedSpec, TaskSpec, glyphs
from mlkit.tasks.base import Draw, FrozenTasks, TaskBatch, TaskDistribution, frozen
from mlkit.tasks.sine import sine

from .cases import regressor, started

REGRESSION = tuple(name for name in METRICS if name != "representation_product")
WATCH = Watch(REGRESSION, tasks=9, curvature_tasks=3, chunk_size=4, curvature_chunk=2)
TEST = sine("guiroy", "test", shots=4, query=6)
LEARNER = MAML(regressor(), 0.05, 2, mean_squared_error)
META = stack([run_of(started(LEARNER, seed), 0) for seed in (0, 1)])  # two runs


def measured(watch: Watch = WATCH, learner: MAML = LEARNER, tasks: TaskDistribution = TEST, **how) -> dict[str, Tensor]:
    return watch.measure(learner, META, tasks, metric=MEAN_SQUARED_ERROR, **how)


def fresh(iteration: int) -> FrozenTasks:
    return FrozenTasks(TEST, TEST.draw(9, seeded("watch", "test", 0, iteration)), 0)


def pair_mean(vectors: Tensor) -> float:
    products = vectors @ vectors.T
    return float((products.sum() - products.diagonal().sum()) / (len(vectors) * (len(vectors) - 1)))


@pytest.mark.parametrize("run", [0, 1])
def test_every_number_is_what_its_definition_says(run):
    found = {name: values[run] for name, values in measured(iteration=7).items()}
    meta, tasks = {name: tensor[run : run + 1] for name, tensor in META.items()}, fresh(7)
    moved, slopes = (torch.cat(list(of(LEARNER, meta, tasks))) for of in (displacements, gradients))
    batch = tasks[:9].to(dtype=torch.float64)
    adapted = LEARNER.adapt({name: tensor.expand(9, *tensor.shape[1:]) for name, tensor in meta.items()}, batch)
    fit = mean_squared_error(LEARNER.predict(adapted, batch.support.x), batch.support.y)
    curvature = spectral_norm(LEARNER, meta, frozen(TEST, 3, seed=0), tolerance=WATCH.tolerance)
    expected = {
        "test_mean_squared_error": evaluate(LEARNER, meta, tasks, metric=MEAN_SQUARED_ERROR).mean(),
        "support_loss": fit.mean(),
        "displacement_norm": moved.norm(dim=1).mean(),
        "trajectory_cosine": pair_mean(moved / moved.norm(dim=1, keepdim=True)),
        "gradient_product": pair_mean(slopes),
        "curvature": curvature.value.mean(),
        "curvature_sign": curvature.sign.double().mean(),
        "curvature_loss": curvature.loss.mean(),
        "curvature_converged": 3,
        "curvature_diverged": 0,
        "diverged": 0,
    }
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6), name
    assert torch.allclose(found["curvature_by_task"], curvature.value, rtol=1e-6)
    means = ("test_mean_squared_error", "support_loss", "displacement_norm", "curvature")
    for name in ("trajectory_cosine", "gradient_product", *means):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    half = 1.96 * float(curvature.value.std()) / len(curvature.value) ** 0.5
    assert float(found["curvature_high"] - found["curvature"]) == pytest.approx(half, rel=1e-6)
    ends = {f"{name}_{end}" for name in ("trajectory_cosine", "gradient_product", *means) for end in ("low", "high")}
    assert found.keys() == expected.keys() | ends | {"curvature_by_task"}


def test_tasks_are_fresh_at_each_point_but_those_of_curvature_stay():
    first, again, later = measured(iteration=0), measured(iteration=0), measured(iteration=500)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in first:
        stays = name.startswith("curvature") or name == "diverged"
        assert torch.equal(first[name], later[name]) == stays, name
    assert not torch.equal(first["curvature"], measured(replace(WATCH, seed=1))["curvature"])


def test_chunks_and_runs_side_by_side_change_nothing():
    found, alone = measured(), WATCH.measure(LEARNER, started(LEARNER, 1), TEST, metric=MEAN_SQUARED_ERROR)
    other = measured(replace(WATCH, chunk_size=2, curvature_chunk=3), workers=2)
    for name, values in found.items():
        assert torch.allclose(values, other[name], rtol=0, atol=1e-10), name
        assert torch.equal(values[1:], alone[name]), name


def test_only_what_is_asked_for_is_measured(monkeypatch):
    monkeypatch.setattr("mlkit.landscape.watch.gradients", lambda *_, **__: pytest.fail("took gradients"))
    monkeypatch.setattr("mlkit.landscape.watch.spectral_norm", lambda *_, **__: pytest.fail("took curvature"))
    found = measured(replace(WATCH, metrics=("trajectory_cosine",)))
    asked = {
        f"{name}{end}" for name in ("trajectory_cosine", "test_mean_squared_error") for end in ("", "_low", "_high")
    }
    assert found.keys() == asked | {"diverged"}


@dataclass(frozen=True)
class Spoiled:
    """Sine tasks of which the first few ask for what no number can hold."""

    count: int

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        return TEST.draw(count, generator) | {
            "amplitude": (torch.arange(count) < self.count) * 1e38 + torch.ones(count)
        }

    def gather(self, draw: Draw) -> TaskBatch:
        return TEST.gather(draw).map(lambda tensor: tensor.double() ** 9 if tensor.is_floating_point() else tensor)

    def describe(self) -> dict[str, object]:
        return TEST.describe()


def test_a_task_that_diverged_is_counted_and_left_out():
    watch = replace(WATCH, metrics=("support_loss", "displacement_norm", "trajectory_cosine", "gradient_product"))
    found = measured(watch, tasks=Spoiled(2))
    assert found["diverged"].tolist() == [2, 2]
    means = {name: values for name, values in found.items() if not name.endswith(("_low", "_high"))}
    assert [name for name, values in means.items() if not values.isfinite().all()] == []


@pytest.mark.parametrize("spoiled", [8, 9])
def test_where_fewer_than_two_tasks_are_left_the_numbers_are_nan(spoiled):
    found = measured(tasks=Spoiled(spoiled))
    assert found["diverged"].tolist() == [spoiled] * 2
    for name in ("trajectory_cosine", "gradient_product", "gradient_product_low"):
        assert bool(found[name].isnan().all())
    assert bool(found["support_loss"].isnan().all()) == (spoiled == 9)
    assert found["curvature_diverged"].tolist() == [3, 3]


def test_without_a_step_nothing_moves():
    found = measured(learner=replace(LEARNER, inner_steps=0))
    assert found["displacement_norm"].tolist() == [0, 0]
    assert bool(found["trajectory_cosine"].isnan().all())
    assert bool(found["gradient_product"].isfinite().all())


def test_an_error_of_the_learner_is_no_number():
    class Broken(MAML):
        def adapt(self, *_, **__):
            raise ValueError("broken learner")

    with pytest.raises(ValueError, match="broken learner"):
        measured(learner=Broken(regressor(), 0.05, 2, mean_squared_error))


def small_net() -> Conv4:
    return Conv4(5, size=28, channels=1, filters=3, downsample="stride", head="mean", init="xavier")


@pytest.mark.parametrize("family", ["Finetuning", "RegularizedMAML", "Displacement"])
def test_any_learner_can_be_watched_in_an_experiment(family, tmp_path, monkeypatch):
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    spec, supervised = TaskSpec("glyphs", query=2), SupervisedSpec(TaskSpec("glyphs", query=2), batch_size=8)
    learner, tasks = {
        "Finetuning": (Finetuning(small_net(), supervised.classes, 0.1, 2), supervised),
        "RegularizedMAML": (RegularizedMAML(MAML(small_net(), 0.1, 2)), spec),
        "Displacement": (Displacement(small_net(), "reptile", 0.1, 2), spec),
    }[family]
    watch = Watch(tasks=4, curvature_tasks=2, images=20)
    experiment = Experiment(
        learner,
        tasks,
        OuterLoop(2, 2, validate_every=1),
        ACCURACY,
        [0, 1],
        validation_tasks=0,
        test_tasks=2,
        watch=watch,
    )
    record = run(Unit("some_unit", root=tmp_path), "watched", experiment, Execution(progress=False))
    for name in (*METRICS, "test_accuracy"):
        assert record.arrays[f"history_{name}"].shape == (3, 2)
        assert np.isfinite(record.arrays[f"history_{name}"]).all()
    assert record.arrays["history_diverged"].sum() == 0


@pytest.fixture(scope="module")
def classifier():
    learner = MAML(small_net().double(), 0.1, 1)
    return learner, started(learner), glyphs("test")


def test_representations_are_those_of_test_images(classifier):
    learner, meta, tasks = classifier
    watch = Watch(("representation_product",), tasks=2, images=150)
    found = watch.measure(learner, meta, tasks, metric=ACCURACY)
    chosen = torch.randperm(len(tasks.source.images), generator=seeded("watched images", 0))[:150].sort().values
    h = torch.cat(list(representations(learner, meta, tasks.source.images[chosen].double() / 255)))
    assert float(found["representation_product"]) == pytest.approx(pair_mean(h), rel=1e-6)
    accuracy = {"test_accuracy", "test_accuracy_low", "test_accuracy_high"}
    assert found.keys() == {"representation_product", "diverged"} | accuracy
    again = watch.measure(learner, meta, tasks, metric=ACCURACY, iteration=1)
    assert torch.equal(found["representation_product"], again["representation_product"])


def test_representations_need_images_and_a_body(classifier):
    with pytest.raises(TypeError, match=r"expected tasks of images.*got SineTasks; leave representation_product out"):
        measured(replace(WATCH, metrics=("representation_product",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("curvatur",)}, "unknown metric 'curvatur'; did you mean 'curvature'"),
        ({"tasks": 1}, "tasks and images of at least 2"),
        ({"images": 1}, "tasks and images of at least 2"),
        ({"curvature_tasks": 0}, "of at least 1"),
        ({"chunk_size": 0}, "of at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Watch(**settings)


def test_the_description_holds_what_decides_the_numbers():
    same = [replace(WATCH, chunk_size=1, curvature_chunk=9), replace(WATCH, metrics=REGRESSION[::-1])]
    assert all(watch.describe() == WATCH.describe() for watch in same)
    changes = {"metrics": REGRESSION[1:], "tasks": 10, "curvature_tasks": 4, "images": 5, "seed": 1, "tolerance": 1e-3}
    for name, value in changes.items():
        assert replace(WATCH, **{name: value}).describe() != WATCH.describe(), name
