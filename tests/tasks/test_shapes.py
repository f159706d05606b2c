"""`shapes`: pictures that can be segmented by who has seen the class, and by no one else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mlkit.seeding import seeded
from mlkit.tasks.painting import pixel_centers
from mlkit.tasks.shapes import CLASSES, PAINTER, PICTURES, SPLITS, _scenes, objects, paint, shapes

SIZE, COUNT = 32, 40


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """Return 40 test classes: pictures (40, 10, 3, 32, 32) and masks (40, 10, 32, 32), in [0, 1]."""
    pictures, masks = shapes("test", size=SIZE).pairs(torch.arange(COUNT * PICTURES).view(COUNT, PICTURES))
    return pictures / 255, masks / 255


@pytest.fixture(scope="module")
def covers() -> Tensor:
    """Return where each object of these pictures would be seen if it were alone (40, 10, objects, 32, 32), bool."""
    first = SPLITS["test"][0]
    scenes = {name: tensor[first : first + COUNT].flatten(0, 1) for name, tensor in _scenes().items()}
    cover, _ = objects(scenes, *pixel_centers(SIZE))
    return (cover > 0.5).view(COUNT, PICTURES, -1, SIZE, SIZE)


def iou(predicted: Tensor, masks: Tensor) -> float:
    """Return the mean IoU of boolean predictions with rounded masks (..., H, W)."""
    truth = masks.round().bool().expand_as(predicted)
    both, either = (predicted & truth).sum((-2, -1)), (predicted | truth).sum((-2, -1))
    return float((both / either.clamp(min=1)).mean())


def best_threshold(score: Tensor, masks: Tensor) -> float:
    return max(iou((score > level).expand_as(masks), masks) for level in torch.linspace(0.02, 0.5, 25))


def test_the_foreground_covers_3_to_40_percent_more_often_little(pairs):
    share = pairs[1].mean((-2, -1)).flatten()
    assert share.min() > 0.03 and share.max() < 0.4
    low, middle, high = share.quantile(torch.tensor([0.1, 0.5, 0.9]))
    assert high - middle > 1.3 * (middle - low) > 0.05


def test_a_mask_that_does_not_see_the_picture_stays_below_25_percent(pairs):
    masks = pairs[1]
    assert 0.1 < best_threshold(masks.mean((0, 1)), masks) < 0.25
    assert best_threshold(masks[:, :5].mean(1, keepdim=True), masks[:, 5:]) < 0.25  # the mean of its own support set


def test_what_stands_out_is_not_the_target(pairs, covers):
    masks = pairs[1]
    everything = covers.any(2)
    sizes = covers.sum((-2, -1))
    largest = covers.gather(2, sizes.argmax(2)[..., None, None, None].expand(-1, -1, 1, SIZE, SIZE))[:, :, 0]
    at_center = covers[..., SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4].sum((-2, -1))
    central = covers.gather(2, at_center.argmax(2)[..., None, None, None].expand(-1, -1, 1, SIZE, SIZE))[:, :, 0]
    rules = [iou(found, masks) for found in (everything, largest, central)]
    assert max(rules) < 0.45 and iou(covers[:, :, 0], masks) > max(rules) + 0.3


def test_five_pictures_of_a_class_tell_more_than_any_rule_for_all(pairs, covers):
    """A histogram of colors, the plainest thing that adapts, beats the rule that knows where every object is."""
    pictures, masks = pairs
    color = ((pictures * 7.999).long() * torch.tensor([64, 8, 1]).view(3, 1, 1)).sum(2)  # (40, 10, 32, 32)

    def counts(weights: Tensor) -> Tensor:
        empty = torch.zeros(COUNT, 512)
        return empty.scatter_add(1, color[:, :5].flatten(1), weights[:, :5].flatten(1))

    inside, outside = counts(masks) + 0.05, counts(1 - masks) + 0.4
    likely = (inside / (inside + outside)).gather(1, color[:, 5:].flatten(1)).view(COUNT, 5, SIZE, SIZE)
    found = torch.nn.functional.avg_pool2d(likely, 3, 1, 1) > 0.4
    assert iou(found, masks[:, 5:]) > iou(covers.any(2)[:, 5:], masks[:, 5:]) + 0.1


def test_the_same_pictures_for_ever_and_no_class_in_two_splits(pairs):
    again = replace(shapes("test", size=SIZE), painted={})
    some = torch.tensor([[399, 3], [10, 3]])
    pictures, masks = again.pairs(some)
    assert torch.equal(pictures, (pairs[0] * 255).round().byte().flatten(0, 1)[some])
    assert torch.equal(masks, (pairs[1] * 255).round().byte().flatten(0, 1)[some])
    assert sorted(again.painted) == [0, 1, 39]  # no class is painted that was not asked for
    assert shapes("test", size=SIZE).to("cpu").to("cpu") is shapes("test", size=SIZE, device="cpu")
    parts = [shapes(split).classes for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == CLASSES
    assert shapes("train+val").classes == parts[0] + parts[1]
    hashes = {shapes(split, size=size).content_hash for split in SPLITS for size in (32, 64)}
    assert len(hashes) == 6 and again.content_hash in hashes


def test_pictures_are_those_that_records_were_computed_on():
    """If this fails, a record would be judged on other pictures under the same hash: change PAINTER with the pixels."""
    pictures, masks = shapes("test", size=16).pairs(torch.arange(20))
    colors = pictures.double().mean((0, 2, 3)) / 255
    shares = masks.double().view(2, -1).mean(1) / 255
    expected = torch.tensor([0.3662, 0.4210, 0.4050, 0.0910, 0.1391], dtype=torch.float64)
    torch.testing.assert_close(torch.cat([colors, shares]), expected, atol=5e-4, rtol=0)
    assert PAINTER == 1


def test_a_scene_is_the_same_at_every_size():
    scenes = {name: tensor[7] for name, tensor in _scenes().items()}
    small, large = paint(scenes, 24, seeded(0)), paint(scenes, 96, seeded(0))
    for coarse, fine in zip(small, large, strict=True):
        difference = torch.nn.functional.avg_pool2d(fine.float(), 4) - coarse
        assert difference.abs().mean() < 16  # of 255
    assert (torch.nn.functional.avg_pool2d(large[1].float(), 4) - small[1]).abs().mean() < 4


def test_masks_are_soft_at_the_border_only(pairs):
    soft = (pairs[1] > 0.02) & (pairs[1] < 0.98)
    assert 0.01 < soft.double().mean() < 0.08


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"a split of train, val, test, train\+val and size >= 16; got 'all', size 64"):
        shapes("all")
    with pytest.raises(ValueError, match="size 8"):
        shapes("test", size=8)
