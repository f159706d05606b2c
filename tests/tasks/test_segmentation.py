"""Segmentation tasks: one class, pictures with soft masks; and all classes at once for joint training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mlkit.seeding import seeded
from mlkit.tasks import (
    SegmentationSpec,
    SegmentationTasks,
    SupervisedMasks,
    SupervisedSegmentationSpec,
    frozen,
    sample,
    shapes,
)
from mlkit.tasks.masked_images import MaskedImages, joined
from mlkit.tasks.segmentation_datasets import class_count

SIZE = 4


def marked(sizes: tuple[int, ...] = (6, 9, 7), name: str = "marked") -> MaskedImages:
    """Return pictures whose first pixel says class and number, and whose masks say the same."""
    count = sum(sizes)
    pictures = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    number = torch.cat([torch.arange(size) for size in sizes])
    pictures[:, 0, 0, 0], pictures[:, 1, 0, 0] = label.byte(), number.byte()
    masks = torch.zeros(count, SIZE, SIZE, dtype=torch.uint8)
    masks[:, 0, 0], masks[:, 0, 1], masks[:, 1] = label.byte(), number.byte(), 255
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return MaskedImages(name, pictures, masks, torch.arange(count), offsets, ("ant", "bee", "cat")[: len(sizes)])


def tasks(**changes: object) -> SegmentationTasks:
    return replace(SegmentationTasks(marked(), "train", 2, 3), **changes)


def test_a_task_is_distinct_pairs_of_one_class():
    batch = sample(tasks(), 300, seeded(0))
    assert batch.support.x.shape == (300, 2, 3, SIZE, SIZE) and batch.query.y.shape == (300, 3, SIZE, SIZE)
    assert batch.support.x.dtype == batch.query.y.dtype == torch.float32 and len(batch.seeds.unique()) == 300
    pixels = torch.cat([batch.support.x, batch.query.x], 1)[:, :, :2, 0, 0] * 255
    masks = torch.cat([batch.support.y, batch.query.y], 1)[:, :, 0, :2] * 255
    torch.testing.assert_close(pixels, masks)  # each picture has its own mask
    assert (pixels[:, :, 0] == pixels[:, :1, 0]).all() and batch.query.y.max() == 1
    assert all(len(task.unique()) == 5 for task in pixels[:, :, 1])
    counts = torch.bincount(pixels[:, 0, 0].round().long())
    assert counts.min() > 70  # every class is equally likely, however many pairs it has


def test_frozen_tasks_take_the_classes_in_turn():
    source = tasks()
    classes = frozen(source, 7, 0).draws["classes"]
    assert classes.tolist() == [0, 1, 2, 0, 1, 2, 0]
    twice = frozen(source, 6, 0)
    assert not torch.equal(twice.draws["pairs"][:3], twice.draws["pairs"][3:])  # another split of the same class
    assert frozen(source, 3, 0).content_hash == frozen(tasks(), 3, 0).content_hash
    assert len({frozen(source, 3, seed).content_hash for seed in (0, 1)} | {twice.content_hash}) == 3


def test_the_support_set_can_be_fixed():
    numbers = sample(tasks(fixed_support=True), 50, seeded(1))
    assert (numbers.support.y[:, :, 0, 1] * 255 == torch.tensor([0.0, 1.0])).all()
    asked = (numbers.query.y[:, :, 0, 1] * 255).round()
    assert asked.min() == 2 and len(asked.unique()) > 4 and all(len(row.unique()) == 3 for row in asked)
    assert tasks(fixed_support=True).describe()["fixed_support"] is True


def test_it_says_what_a_record_must_say():
    said = tasks().describe()
    assert said["classes"] == 3 and said["images"] == 22 and said["shape"] == [3, SIZE, SIZE]
    assert (said["data"], said["split"], said["shots"], said["query"], said["stand_in"]) == (
        "marked", "train", 2, 3, False,
    )  # fmt: skip
    other = marked()
    other.masks[0, 3, 3] = 1
    assert said["content_hash"] == marked().content_hash != other.content_hash


def test_what_cannot_make_a_task_is_refused():
    with pytest.raises(ValueError, match=r"class 'ant' of marked/train has 6 pictures, expected at least shots \+ "):
        tasks(query=5)
    with pytest.raises(ValueError, match="expected shots, query >= 1, got 0, 3"):
        tasks(shots=0)
    with pytest.raises(ValueError, match="a batch_size from 1 to the 3 classes of marked/train, got 4"):
        SupervisedMasks(marked(), batch_size=4)


def shared() -> MaskedImages:
    """Return two classes on three pictures; the second picture shows both, on the left and on the right."""
    masks = torch.zeros(4, SIZE, SIZE, dtype=torch.uint8)
    masks[:2, :, :2], masks[2:, :, 2:] = 255, 200
    pictures = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(-1, 3, SIZE, SIZE).contiguous()
    return MaskedImages("shared", pictures, masks, torch.tensor([0, 1, 1, 2]), torch.tensor([0, 2, 4]), ("ant", "bee"))


def test_joint_batches_carry_the_labels_of_every_class_that_a_picture_shows():
    batch = sample(SupervisedMasks(shared(), batch_size=2), 100, seeded(2))
    assert batch.support is batch.query and batch.query.y.dtype == torch.int64
    which = (batch.query.x[..., 0, 0, 0] * 255).round().long()
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 2, 2], [0, 0, 2, 2]])
    assert torch.equal(batch.query.y, expected[which][:, :, None].expand(-1, -1, SIZE, -1))
    assert set(which.unique().tolist()) == {0, 1, 2} and ((which == 1).sum(1) < 2).any()


def test_classes_of_a_joint_batch_are_distinct_and_equally_likely():
    draw = SupervisedMasks(marked(), batch_size=2).draw(900, seeded(3))
    labels = torch.searchsorted(marked().offsets, draw["pairs"], right=True) - 1
    assert (labels[:, 0] != labels[:, 1]).all() and (torch.bincount(labels.flatten()) - 600).abs().max() < 60
    soft = sample(SupervisedMasks(shapes("val", size=16), batch_size=3), 2, seeded(4)).query
    foreground = soft.y.flatten(2).amax(2)
    assert (foreground > 0).all() and all(len(set(row) - {0}) == 1 for row in soft.y.flatten(2)[0].tolist())


def test_classes_are_chosen_without_what_other_classes_show():
    kept = shared().select(["bee"], without=["ant"])
    assert kept.shown.tolist() == [0] and kept.pictures[0, 0, 0, 0] == 2 and kept.offsets.tolist() == [0, 1]
    assert shared().select(["bee", "ant"], without=["ant"], least=1).names == ("bee",)
    assert shared().select(["bee", "ant"]).pairs(torch.tensor([2]))[0].unique().item() == 0
    with pytest.raises(ValueError, match="expected a class of shared, got 'cow'"):
        shared().select(["cow"])
    both = joined("both", [shared(), marked()])
    assert both.names == ("shared/ant", "shared/bee", "marked/ant", "marked/bee", "marked/cat")
    for index in range(26):
        one, k = (shared(), index) if index < 4 else (marked(), index - 4)
        for found, expected in zip(both.pairs(torch.tensor(index)), one.pairs(torch.tensor(k)), strict=True):
            assert torch.equal(found, expected)


def test_a_spec_names_tasks_without_loading_them():
    spec = SegmentationSpec("shapes", shots=1, query=2, size=16, train_shots=5, train_fixed_support=True)
    assert spec.describe() == {
        "name": "shapes", "shots": 1, "query": 2, "size": 16, "train_shots": 5, "train_on": "train",
        "train_fixed_support": True,
    }  # fmt: skip
    train, test = spec.split("train"), spec.split("test")
    assert (train.shots, train.query, train.fixed_support) == (5, 2, True)
    assert (test.shots, test.query, test.fixed_support) == (1, 2, False)
    every = SupervisedSegmentationSpec(replace(spec, train_on="train+val"), batch_size=4)
    assert every.classes == every.split("train").classes == 760 and every.split("test").describe() == test.describe()
    assert every.describe() == replace(spec, train_on="train+val").describe() | {"supervised_batch": 4}
    assert class_count("fss1000", "train") == 560 and class_count("fss1000", "train+val") == 760
