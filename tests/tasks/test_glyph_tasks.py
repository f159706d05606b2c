from __future__ import annotations

import pytest
import torch

from mlkit.seeding import seeded
from mlkit.tasks import glyphs, sample


def test_splits_hold_a_thousand_disjoint_classes_of_twenty():
    parts = [glyphs(split).source for split in ("train", "val", "test")]
    names = [name for part in parts for name in part.names]
    assert len(names) == len(set(names)) == 1000
    assert all(set(part.sizes.tolist()) == {20} and part.images.shape[1:] == (1, 28, 28) for part in parts)
    pixels = {digest for part in parts for digest in part.digests}
    assert len(pixels) == 1000


def test_every_machine_draws_the_same_pixels():
    # published records carry these hashes: a change here makes them results on other data
    assert glyphs("test").describe()["content_hash"] == "b12eac97ddf0da23"


def test_drawings_are_ink_on_an_empty_page():
    images = glyphs("val").source.images.float()
    coverage = (images > 127).float().mean((1, 2, 3))
    assert float(coverage.min()) > 0.02 and float(coverage.max()) < 0.5
    assert float(images.amax((1, 2, 3)).min()) == 255
    edges = ((images > 20) & (images < 235)).float().sum() / (images > 20).float().sum()
    assert 0.1 < float(edges) < 0.8, "strokes should be smooth at their edges, and solid inside"


def test_nearest_pixels_are_better_than_chance_and_far_from_enough():
    batch = sample(glyphs("test"), 300, seeded("nearest"))
    nearest = torch.cdist(batch.query.x.flatten(2), batch.support.x.flatten(2)).argmin(-1)
    accuracy = float((batch.support.y.gather(1, nearest) == batch.query.y).float().mean())
    assert 0.40 < accuracy < 0.75


def test_what_is_not_there():
    with pytest.raises(ValueError, match="train, val, test"):
        glyphs("dev")
    with pytest.raises(ValueError, match="20 images"):
        glyphs("val", shots=6, query=15)
