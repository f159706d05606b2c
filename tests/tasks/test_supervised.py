"""Supervised batches: each image with its global label; trained on, judged and recorded like any tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from marked import marked_images

from mlkit import Unit
from mlkit.evaluation import evaluate
from mlkit.experiment import Experiment, run, weights_of
from mlkit.learners import Finetuning
from mlkit.losses import ACCURACY
from mlkit.models import Conv4
from mlkit.outer import Execution, OuterLoop
from mlkit.seeding import seeded
from mlkit.tasks import (
    ClassTasks,
    SupervisedBatches,
    SupervisedSpec,
    TaskSpec,
    class_count,
    frozen,
    glyphs,
    sample,
    sine,
)

SIZES = [3, 6, 4, 5]


def batches(batch_size: int = 6, rotations: str = "none") -> SupervisedBatches:
    return SupervisedBatches(ClassTasks(marked_images(SIZES), "train", 2, 1, 1, rotations), batch_size)


def test_a_batch_holds_distinct_images_with_the_labels_of_their_classes():
    batch = sample(batches(), 20, seeded(1))
    assert batch.query.x.shape == (20, 6, 1, 4, 4) and batch.query.x.dtype == torch.float32
    assert batch.query.y.shape == (20, 6) and batch.query.y.dtype == torch.int64 and len(batch.seeds.unique()) == 20
    assert batch.support is batch.query
    marks = (batch.query.x[..., 0, 0, :2] * 255).round().long()  # class and number of each image
    assert torch.equal(marks[..., 0], batch.query.y)
    assert all(len(task.unique(dim=0)) == 6 for task in marks)


def test_every_image_is_equally_likely():
    draw = batches(3).draw(6000, seeded(2))
    shares = torch.bincount(draw["images"].flatten(), minlength=sum(SIZES)) / draw["images"].numel()
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / sum(SIZES)), atol=0.006, rtol=0)


@pytest.mark.parametrize(("rotations", "classes"), [("classes", 16), ("random", 4)])
def test_turned_images_are_classes_of_their_own_or_stay_in_their_class(rotations, classes):
    tasks = batches(4, rotations)
    draw = tasks.draw(200, seeded(3))
    turned, upright = tasks.gather(draw).query, batches(4).gather(draw).query
    assert tasks.classes == classes and set(turned.y.unique().tolist()) == set(range(classes))
    assert set(draw["turns"].unique().tolist()) == {0, 1, 2, 3}
    assert torch.equal(turned.y, 4 * upright.y + draw["turns"] if rotations == "classes" else upright.y)
    for turn in range(4):
        here = draw["turns"] == turn
        assert torch.equal(turned.x[here], torch.rot90(upright.x[here], turn, (-2, -1)))


def test_batches_are_a_function_of_the_generator_alone():
    assert frozen(batches(), 3, 0).content_hash == frozen(batches().to("cpu"), 3, 0).content_hash
    assert frozen(batches(), 3, 0).content_hash != frozen(batches(5), 3, 0).content_hash
    said = batches(rotations="classes").describe()
    assert said["batch_size"] == 6 and said["classes"] == 16 and not {"ways", "shots", "query"} & set(said)
    assert said["content_hash"] == marked_images(SIZES).content_hash


def test_a_spec_names_batches_for_training_and_tasks_for_judging():
    spec = SupervisedSpec(TaskSpec("glyphs", shots=1, query=5), batch_size=8)
    assert spec.describe() == TaskSpec("glyphs", shots=1, query=5).describe() | {"supervised_batch": 8}
    train, val = spec.split("train"), spec.split("val")
    assert isinstance(train, SupervisedBatches) and train.batch_size == 8 and train.classes == spec.classes == 640
    assert val.describe() == glyphs("val", shots=1, query=5).describe()


def test_classes_are_counted_without_data(monkeypatch, tmp_path, make_folder):
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path / "nothing"))
    turned = SupervisedSpec(TaskSpec("omniglot", train_rotations="classes"))
    assert turned.classes == 4400 and SupervisedSpec(TaskSpec("cifar_fs")).classes == 64
    folder = make_folder("own/train", {"cat": 3, "dog": 2}).parent
    make_folder("own/test", {"fox": 2})
    assert class_count(str(folder), "train") == 2


def test_what_cannot_be_batched_is_refused():
    with pytest.raises(ValueError, match="batch_size from 1 to the 18 images of marked/train, got 19"):
        batches(19)
    with pytest.raises(ValueError, match="expected tasks of images by class, got SineTasks"):
        SupervisedBatches(sine("huisman"))
    with pytest.raises(ValueError, match="expected a data set of images by class, got 'sine'"):
        class_count("sine", "train")


def experiment(**changes: object) -> Experiment:
    tasks = SupervisedSpec(TaskSpec("glyphs", ways=3, shots=1, query=2), batch_size=8)
    net = Conv4(3, size=28, channels=1, filters=4, downsample="stride", head="mean", init="xavier")
    learner = Finetuning(net, tasks.classes, inner_lr=0.1, inner_steps=2)
    settled = Experiment(
        learner, tasks, OuterLoop(6, 1, validate_every=3), ACCURACY, [0, 1], validation_tasks=6, test_tasks=8,
        keep_weights=True,
    )  # fmt: skip
    return replace(settled, **changes)


def test_finetuning_is_trained_resumed_judged_and_recorded_as_any_learner(tmp_path, monkeypatch):
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    quiet = Execution(progress=False, checkpoint_seconds=0)
    asked = experiment(tracked_test_tasks=4)
    record = run(Unit("unit", {}, root=tmp_path / "whole"), "finetuning", asked, quiet)
    assert record.arrays["history_iteration"].tolist() == [0, 3, 6] and record.arrays["history_test"].shape == (3, 2)
    assert np.isfinite(record.arrays["history_train_loss"][1:]).all()
    tested, kept = frozen(asked.tasks.split("test"), 8, seed=0), weights_of(record)
    assert kept["theta.head.weight"].shape == (1, 640, 4)
    scores = evaluate(asked.learner, kept, tested, metric=ACCURACY)
    assert np.allclose(record.arrays["test_scores"][0], scores[0])

    unit, gather = Unit("unit", {}, root=tmp_path / "killed"), SupervisedBatches.gather
    monkeypatch.setattr(SupervisedBatches, "gather", _interrupted_at(4, gather))
    with pytest.raises(KeyboardInterrupt):
        run(unit, "finetuning", asked, quiet)
    monkeypatch.setattr(SupervisedBatches, "gather", gather)
    resumed = run(unit, "finetuning", asked, quiet)
    for name, array in record.arrays.items():
        assert np.array_equal(resumed.arrays[name], array, equal_nan=True), name


def _interrupted_at(step: int, gather):
    steps = iter(range(1, step + 1))

    def gathered(self, draw):
        if next(steps) == step:
            raise KeyboardInterrupt
        return gather(self, draw)

    return gathered
