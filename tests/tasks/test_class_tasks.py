from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marked import marked_images

from mlkit.seeding import seeded
from mlkit.tasks import ClassTasks, TaskSpec, concatenate, frozen, glyphs, grid, sample
from mlkit.tasks.base import Draw


def identities(x: torch.Tensor) -> torch.Tensor:
    """Class and number of marked images (..., 1, H, W) -> (..., 2)."""
    return (x[..., 0, 0, :2] * 255).round().long()


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(6, 11), min_size=3, max_size=8),
    ways=st.integers(1, 3),
    shots=st.integers(1, 3),
    query=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_tasks_are_sound(sizes: list[int], ways: int, shots: int, query: int, seed: int):
    tasks = ClassTasks(marked_images(sizes), "train", ways, shots, query)
    batch = sample(tasks, 5, seeded(seed))
    assert batch.support.x.shape == (5, ways * shots, 1, 4, 4) and batch.support.x.dtype == torch.float32
    assert batch.query.y.shape == (5, ways * query) and batch.query.y.dtype == torch.int64
    assert len(batch.seeds.unique()) == 5
    for task in range(5):
        support, asked = identities(batch.support.x[task]), identities(batch.query.x[task])
        pictures = [tuple(row) for row in torch.cat([support, asked]).tolist()]
        assert len(set(pictures)) == len(pictures), "an image is twice in one task"
        classes = {int(y): int(c) for y, c in zip(batch.support.y[task], support[:, 0], strict=True)}
        assert sorted(classes) == list(range(ways)) and len(set(classes.values())) == ways
        for examples, rows in ((batch.support, support), (batch.query, asked)):
            assert [classes[int(y)] for y in examples.y[task]] == rows[:, 0].tolist()
        assert batch.support.y[task].tolist() == [y for y in range(ways) for _ in range(shots)]
        assert all(number < sizes[k] for k, number in pictures)


def test_every_class_image_and_label_is_reachable():
    sizes = [3, 5, 4, 6]
    batch = sample(ClassTasks(marked_images(sizes), "train", 2, 1, 2), 600, seeded(3))
    for examples in (batch.support, batch.query):
        rows, labels = identities(examples.x).flatten(0, 1).tolist(), examples.y.flatten().tolist()
        seen = {(*row, y) for row, y in zip(rows, labels, strict=True)}
        assert seen == {(k, i, y) for k, size in enumerate(sizes) for i in range(size) for y in range(2)}


def test_classes_and_images_are_equally_likely():
    draw = ClassTasks(marked_images([4] * 5), "train", 2, 1, 1).draw(5000, seeded(4))
    counts = torch.bincount(draw["images"].flatten(), minlength=20) / draw["images"].numel()
    torch.testing.assert_close(counts, torch.full((20,), 0.05), atol=0.006, rtol=0)


def test_frozen_tasks_do_not_depend_on_how_many_or_in_which_order():
    tasks = ClassTasks(marked_images([7] * 6), "test", 3, 1, 2)
    many, few = frozen(tasks, 9, seed=5), frozen(tasks, 4, seed=5)
    assert torch.equal(many[2:4].query.x, few[2:4].query.x)
    backwards = concatenate([many[i : i + 1] for i in reversed(range(9))])
    assert torch.equal(backwards.support.x.flip(0), many[0:9].support.x)
    assert many.content_hash == frozen(tasks, 9, seed=5).content_hash
    assert many.content_hash != frozen(tasks, 9, seed=6).content_hash


class InTurn(ClassTasks):
    """Its frozen task i is of class i mod classes."""

    def draw_fixed(self, index: int, generator: torch.Generator) -> Draw:
        first = self.source.offsets[index % self.classes]
        return self.draw(1, generator) | {"images": first + torch.randperm(3, generator=generator).view(1, 1, 3)}


def test_a_distribution_may_decide_what_its_frozen_tasks_are():
    images = marked_images([7] * 6)
    tasks, drawn = (frozen(kind(images, "test", 1, 1, 2), 9, seed=5) for kind in (InTurn, ClassTasks))
    assert identities(tasks[:9].support.x)[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert torch.equal(tasks.draws["seeds"], drawn.draws["seeds"])
    assert tasks.content_hash != drawn.content_hash


def test_frozen_tasks_are_the_same_in_another_process():
    code = (
        "import torch; torch.set_num_threads(1); from mlkit.tasks import *;"
        "print(frozen(glyphs('val'), 3, 7).content_hash, frozen(sine('huisman', 'test'), 3, 7).content_hash)"
    )
    from mlkit.tasks import sine

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == [frozen(glyphs("val"), 3, 7).content_hash, frozen(sine("huisman", "test"), 3, 7).content_hash]


def test_hash_changes_with_one_pixel_one_name_and_the_scaling():
    images = marked_images([3, 3])
    changed = [array.copy() for array in np.split(images.images.numpy(), 2)]
    changed[1][0, 0, 3, 3] = 1
    others = [
        type(images).build("marked", changed, names=images.names),
        type(images).build("marked", np.split(images.images.numpy(), 2), names=("class0", "other")),
        type(images).build("marked", np.split(images.images.numpy(), 2), names=images.names, ink=True),
    ]
    assert len({images.content_hash, *(other.content_hash for other in others)}) == 4
    again = type(images).build("renamed set", np.split(images.images.numpy(), 2), names=images.names)
    assert again.content_hash == images.content_hash


@pytest.mark.parametrize("rotations", ["classes", "random"])
def test_rotations_turn_whole_classes_by_quarters(rotations: str):
    tasks = ClassTasks(marked_images([4] * 3), "train", 2, 1, 2, rotations)
    draw = tasks.draw(300, seeded(6))
    batch, upright = tasks.gather(draw), ClassTasks(tasks.source, "train", 2, 1, 2).gather(draw)
    assert set(draw["turns"].flatten().tolist()) == {0, 1, 2, 3}
    for task in range(20):
        for label in range(2):
            turn = int(draw["turns"][task, label])
            for turned, plain in ((batch.support, upright.support), (batch.query, upright.query)):
                mine = turned.y[task] == label
                assert torch.equal(turned.x[task][mine], torch.rot90(plain.x[task][mine], turn, (-2, -1)))
    assert tasks.classes == (12 if rotations == "classes" else 3)
    same = (draw["images"][:, 0, 0] // 4) == (draw["images"][:, 1, 0] // 4)
    assert bool(same.any()) == (rotations == "classes")  # only as classes can a character meet itself turned
    assert not bool((same & (draw["turns"][:, 0] == draw["turns"][:, 1])).any())


def test_ink_is_one_and_else_pixels_are_fractions_of_255():
    source = marked_images([3, 3])
    plain = ClassTasks(source, "train", 2, 1, 1)
    ink = ClassTasks(
        type(source).build("i", np.split(source.images.numpy(), 2), names="ab", ink=True), "train", 2, 1, 1
    )
    draw = plain.draw(4, seeded(8))
    torch.testing.assert_close(ink.gather(draw).query.x, 1 - plain.gather(draw).query.x)


def test_errors_say_what_is_too_small():
    source = marked_images([9, 4, 9])
    with pytest.raises(ValueError, match=r"class 'class1' of marked/test has 4 images, expected at least .* = 5"):
        ClassTasks(source, "test", 2, 2, 3)
    with pytest.raises(ValueError, match="3 classes, too few for 5 ways"):
        ClassTasks(source, "test", 5, 1, 1)
    with pytest.raises(ValueError, match="rotations"):
        ClassTasks(source, "test", 2, 1, 1, "upside down")
    with pytest.raises(ValueError, match="'nobody'"):
        source.select(["class0", "nobody"])


def test_the_first_images_of_every_class_are_left():
    few = marked_images([9, 4, 6]).first(4)
    assert few.sizes.tolist() == [4, 4, 4] and few.names == ("class0", "class1", "class2")
    assert identities(few.images.float() / 255).tolist() == [[k, i] for k in range(3) for i in range(4)]
    with pytest.raises(ValueError, match="from 1 to 4 images a class, as many as class 'class1' of marked has; got 5"):
        marked_images([9, 4, 6]).first(5)


def test_a_spec_may_leave_few_training_images_but_all_others():
    few = TaskSpec("glyphs", query=2, train_images=4)
    assert few.split("train").source.sizes.unique().tolist() == [4]
    assert few.split("test").source.sizes.unique().tolist() == [20]
    assert few.describe() == TaskSpec("glyphs", query=2).describe() | {"train_images": 4}


def test_grid_shows_support_then_query():
    batch = sample(glyphs("val", ways=3, shots=2, query=6), 2, seeded(9))
    image = grid(batch, task=1, query=4, gap=2, invert=True)
    assert image.shape == (3 * 30 - 2, 6 * 30 + 6 - 2, 3) and image.dtype == np.uint8
    first = (255 - batch.support.x[1, 0, 0] * 255).round().byte().numpy()
    assert np.array_equal(image[:28, :28, 0], first)
    last = (255 - batch.query.x[1, 2 * 6 + 3, 0] * 255).round().byte().numpy()
    assert np.array_equal(image[-28:, -28:, 2], last)


def test_moving_the_images_leaves_the_tasks_as_they_are():
    tasks = ClassTasks(marked_images([7] * 6), "test", 3, 1, 2, "classes")
    assert frozen(tasks.to("cpu"), 3, 0).content_hash == frozen(tasks, 3, 0).content_hash


def test_images_that_do_not_fit_on_the_device_stay():
    class TooLarge(torch.Tensor):
        def to(self, *_: object, **__: object) -> torch.Tensor:
            raise torch.OutOfMemoryError

    source = marked_images([3, 3])
    large = dataclasses.replace(source, images=source.images.as_subclass(TooLarge))
    with pytest.warns(UserWarning, match=r"marked \(0.0 GiB\) does not fit on cuda"):
        assert large.to("cuda") is large
