"""Segmenting one's own pictures: any form of them, exactly what the learner predicts, errors that say what to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import mlkit
from mlkit import initializations
from mlkit.augmentation import Augmentation
from mlkit.driver import stack
from mlkit.initializations import Initialization, described, packed, published, read
from mlkit.learners import Displacement
from mlkit.models import EfficientLab
from mlkit.seeding import seeded
from mlkit.segmentation_losses import segmentation_loss
from mlkit.stored import RecordError
from mlkit.tasks import Examples, TaskBatch, shapes

SIZE = 32
LEARNER = Displacement(
    EfficientLab(width=0.25), "fomaml_star", 1e-4, 2, batch_size=8, loss=segmentation_loss, augment=Augmentation(0.5),
    l2=5e-4,
)  # fmt: skip
META = stack([LEARNER.init(seeded("segment"))])


@pytest.fixture(scope="module")
def start() -> Initialization:
    return Initialization(LEARNER, META, SIZE)


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (5, size, size, 3) and masks (5, size, size) of one class, as bytes."""
    pictures, masks = shapes("test", size=SIZE).pairs(torch.arange(5))
    return pictures.permute(0, 2, 3, 1).numpy(), masks.numpy()


def test_a_prediction_is_that_of_the_learner(start, pairs):
    pictures, masks = pairs
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2)[None] / 255
    y = torch.from_numpy(masks)[None] / 255
    support = Examples(x[:, :3], y[:, :3])
    task = TaskBatch(support, Examples(x[:, 3:], y[:, 3:]), torch.tensor([7]))
    outputs = LEARNER.predict(LEARNER.adapt(META, task), task.query.x)[0]
    found = start.segment(pictures[:3], masks[:3], pictures[3:], seed=7)
    np.testing.assert_allclose(np.stack(found), outputs.softmax(1)[:, 1], atol=2e-4)
    other = start.segment(pictures[:3], masks[:3], pictures[3:], seed=8)
    assert np.abs(found[0] - other[0]).max() > 1e-3, "the seed decides mini-batches and augmentation"
    still = start.segment(pictures[:3], masks[:3], pictures[3:], steps=0)
    assert np.abs(found[0] - still[0]).max() > 1e-3


def test_pictures_come_in_many_forms(start, pairs, tmp_path):
    pictures, masks = pairs
    asked = {"steps": 1, "initialization": start}
    bytes_ = mlkit.segment(pictures[:1], masks[:1], pictures[1:2], **asked)
    floats = mlkit.segment(pictures[:1] / 255, masks[:1] / 255, pictures[1:2] / 255, **asked)
    np.testing.assert_array_equal(bytes_, floats)
    images = [Image.fromarray(picture) for picture in pictures[:2]]
    pillow = mlkit.segment(images[:1], [Image.fromarray(masks[0])], images[1:], **asked)
    np.testing.assert_array_equal(bytes_, pillow)
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
    Image.fromarray(masks[0]).save(tmp_path / "mask.png")
    files = mlkit.segment([tmp_path / "0.png"], [str(tmp_path / "mask.png")], [str(tmp_path / "1.png")], **asked)
    np.testing.assert_array_equal(bytes_, files)
    hard = masks[:1] > 127
    np.testing.assert_array_equal(
        mlkit.segment(pictures[:1], hard, pictures[1:2], **asked),
        mlkit.segment(pictures[:1], hard.astype(np.uint8), pictures[1:2], **asked),
    )


def test_every_picture_gets_a_map_of_its_own_size(start, pairs):
    pictures, masks = pairs
    large = np.asarray(Image.fromarray(pictures[1]).resize((60, 40)))
    gray = pictures[2][..., 0]
    found = start.segment([large, gray], [np.zeros((20, 30), np.uint8), masks[2]], [large, gray, pictures[3]])
    assert [each.shape for each in found] == [(40, 60), (SIZE, SIZE), (SIZE, SIZE)]
    assert all(each.dtype == np.float32 and 0 <= each.min() <= each.max() <= 1 for each in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "expected 1 to 10 pictures, as many masks, .* got 0, 1 and 1"),
        ({"query": []}, "at least one picture to segment; got 1, 1 and 0"),
        ({"masks": [np.zeros((16, 9))]}, "expected a mask in the frame of its picture, 32 x 32 pixels .* got 9 x 16"),
        ({"masks": [np.zeros((16, 16, 3))]}, r"expected a mask \(height, width\), got an array \(16, 16, 3\)"),
        (
            {"query": [np.full((16, 16), 3.0)]},
            r"expected bytes, or floating point in \[0, 1\], got float64, 3.0 to 3.0",
        ),
        ({"query": [np.zeros((16, 16, 2), np.uint8)]}, r"expected a picture .* got an array \(16, 16, 2\)"),
    ],
)
def test_what_cannot_be_used_is_refused(start, pairs, change, message):
    pictures, masks = pairs
    given = {"images": pictures[:1], "masks": masks[:1], "query": pictures[1:2]} | change
    with pytest.raises(ValueError, match=message):
        start.segment(**given)


def stored(root, place: str = "runs", learner: Displacement = LEARNER):
    (root / "notebooks").mkdir(exist_ok=True)
    unit = mlkit.Unit(initializations.UNIT, {}, root=root)
    if place == "book/records":
        unit.modes.add("publish")
    return unit.record(initializations.NAME, described(learner, SIZE), lambda work: packed(learner, META))


def test_a_record_gives_the_learner_back(tmp_path, pairs):
    pictures, masks = pairs
    back = read(stored(tmp_path))
    assert (
        back.learner.describe()
        == Displacement(
            LEARNER.model, "reptile", 1e-4, 2, batch_size=8, loss=segmentation_loss, augment=Augmentation(0.5), l2=5e-4
        ).describe()
    ), "but for the variant, which does not matter any more"
    ours, theirs = (
        each.segment(pictures[:2], masks[:2], pictures[2:]) for each in (Initialization(LEARNER, META, SIZE), back)
    )
    assert np.abs(np.array(ours) - theirs).mean() < 0.02
    size = (tmp_path / "runs/segmentation").glob("*.npz").__next__().stat().st_size
    assert size < 2.5 * sum(tensor.numel() for tensor in META.values())


def test_the_shipped_one_counts_before_a_local_one(tmp_path, monkeypatch, pairs):
    pictures, masks = pairs
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"expected an initialization .* found none; run `mlkit run segment"):
        mlkit.segment(pictures[:1], masks[:1], pictures[1:2])
    slow = Displacement(LEARNER.model, "reptile", 2e-4, 3, batch_size=8, loss=segmentation_loss)
    stored(tmp_path, "book/records", slow)
    stored(tmp_path)
    assert published().learner.inner_lr == 2e-4
    (found,) = mlkit.segment(pictures[:1], masks[:1], pictures[1:2])
    assert found.shape == (SIZE, SIZE)


def test_another_record_is_no_initialization(tmp_path):
    (tmp_path / "notebooks").mkdir()
    other = mlkit.Unit("segmentation", {}, root=tmp_path).record("scores", {"a": 1}, lambda work: mlkit.Result({}))
    with pytest.raises(ValueError, match=r"expected the record of an initialization in .*, got one of 'scores'"):
        read(other.path)
    with pytest.raises(RecordError):
        read(tmp_path / "nothing.json")
