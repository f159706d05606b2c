"""Tasks on features, their files of any origin, the cache that knows whose features it holds."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from marked import marked_images

from mlkit.seeding import seeded
from mlkit.tasks import ClassTasks, FeatureClasses, FeatureFile, FeatureSpec, FeatureTasks, frozen, sample
from mlkit.tasks.feature_files import cached, read_features, write_features
from mlkit.tasks.features import embed, weights_hash

SIZES = [5, 8, 6, 7]


def marked(sizes: list[int] = SIZES, *, start: int = 0, width: int = 3, **how) -> FeatureClasses:
    """Features that say who they are: class, number in the class, and a constant."""
    arrays = [
        np.stack([np.full(n, start + k), np.arange(n), *[np.ones(n)] * (width - 2)], 1) for k, n in enumerate(sizes)
    ]
    return FeatureClasses.build("marked", arrays, names=[f"c{start + k}" for k in range(len(sizes))], **how)


def splits(**how) -> dict[str, FeatureClasses]:
    return {"train": marked(**how), "val": marked([6, 6, 6], start=4, **how), "test": marked([7, 7, 7], start=7, **how)}


def tasks(**changes) -> FeatureTasks:
    return replace(FeatureTasks(marked(), "train", 3, 2, 3), **changes)


def test_a_task_holds_distinct_examples_of_distinct_classes_under_its_own_labels():
    batch = sample(tasks(), 50, seeded(1))
    assert batch.support.x.shape == (50, 6, 3) and batch.query.x.shape == (50, 9, 3)
    assert batch.support.x.dtype == torch.float32 and batch.query.y.dtype == torch.int64
    assert batch.support.y[0].tolist() == [0, 0, 1, 1, 2, 2] and len(batch.seeds.unique()) == 50
    for support, query in zip(batch.support.x, batch.query.x, strict=True):
        whole = torch.cat([support.view(3, 2, 3), query.view(3, 3, 3)], 1)  # by label
        assert all(len(label[:, 0].unique()) == 1 and len(label[:, 1].unique()) == 5 for label in whole)
        assert len(whole[:, 0, 0].unique()) == 3
    assert set(batch.support.x[:, 0, 0].tolist()) == {0, 1, 2, 3}


def test_the_same_generator_draws_the_same_examples_as_of_the_images():
    images = ClassTasks(marked_images(SIZES), "train", 3, 2, 3)
    ours, theirs = (frozen(source, 20, 7).draws for source in (tasks(), images))
    assert torch.equal(ours["images"], theirs["images"])


def test_the_class_behind_each_label_is_known():
    draw = tasks().draw(9, seeded(2))
    x = tasks().gather(draw).support.x.view(9, 3, 2, 3)
    assert torch.equal(tasks().classes_of(draw), x[:, :, 0, 0].long())


def test_frozen_tasks_and_descriptions_tell_data_apart():
    assert frozen(tasks(), 3, 0).content_hash == frozen(tasks().to("cpu"), 3, 0).content_hash
    other = tasks(source=marked(width=4))
    assert frozen(other, 3, 0).content_hash != frozen(tasks(), 3, 0).content_hash
    said = tasks().describe()
    assert said["classes"] == 4 and said["images"] == 26 and said["shape"] == [3] and said["stand_in"] is True
    assert marked().content_hash == said["content_hash"] != marked([5, 8, 6, 8]).content_hash


def test_features_of_length_one():
    scaled = marked().scaled()
    assert torch.allclose(scaled.rows.norm(dim=1), torch.ones(26)) and scaled.names == marked().names
    assert torch.allclose(scaled.rows * marked().rows.norm(dim=1, keepdim=True), marked().rows)
    assert scaled.content_hash != marked().content_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": 5}, "marked/train has 4 classes, too few for 5 ways; lower ways"),
        ({"shots": 3}, r"class 'c0' of marked/train has 5 examples, expected at least shots \+ query = 3 \+ 3 = 6"),
        ({"query": 0}, "expected ways, shots, query >= 1, got 3, 2, 0"),
    ],
)
def test_tasks_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tasks(**changes)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "below" / "features.npz"
    write_features(path, splits(network="abc", stand_in=False))
    for split, expected in splits().items():
        found = read_features(path, split)
        assert torch.equal(found.rows, expected.rows) and torch.equal(found.offsets, expected.offsets)
        assert (found.names, found.digests) == (expected.names, expected.digests)
        assert (found.name, found.network, found.stand_in) == ("features", "abc", False)
    assert [file.name for file in path.parent.iterdir()] == ["features.npz"], "nothing temporary is left"


def test_a_folder_of_plain_arrays_of_any_origin_is_read(tmp_path):
    rows = np.arange(24, dtype=np.float64).reshape(6, 4)
    np.savez(tmp_path / "val.npz", features=rows, labels=np.array([1, 0, 1, 2, 0, 2]))
    found = read_features(tmp_path, "val")
    assert found.names == ("class000", "class001", "class002") and found.stand_in is True and found.network == ""
    assert torch.equal(found.rows, torch.from_numpy(rows[[1, 4, 0, 2, 3, 5]]).float())
    assert found.offsets.tolist() == [0, 2, 4, 6]


def stored(path: Path, **changes) -> Path:
    arrays = {
        "features": np.ones((4, 2), np.float32),
        "labels": np.array([0, 0, 1, 1]),
        "splits": np.array(["train", "val"]),
    }
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "expected arrays features and labels in .*, got features, splits; add what is missing"),
        ({"features": np.ones((4, 2), int)}, r"in floating point and integer labels .* got \(4, 2\) int64"),
        ({"labels": np.array([0, 1])}, r"labels \(examples,\) in .*, got \(4, 2\) float32 and \(2,\) int64"),
        ({"labels": np.array([0, 0, 2, 2])}, "expected labels 0 to 2 in .*, each at least once"),
        ({"splits": np.array(["train"])}, "and a split for each class; got 2 classes and 1 splits"),
        ({"splits": None}, "expected an array `splits` in"),
        ({"features": np.full((4, 2), np.nan, np.float32)}, "expected finite features in"),
        ({"names": np.array(["a", "b"], object)}, "expected an .npz of plain arrays in"),
    ],
)
def test_another_layout_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_features(stored(tmp_path / "own.npz", **changes), "train")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no such file; write one with the arrays `features`"):
        read_features(tmp_path / "none.npz", "train")
    with pytest.raises(FileNotFoundError, match=r"test\.npz"):
        read_features(tmp_path, "test")
    with pytest.raises(ValueError, match=r"expected classes of the split test in .*, found none"):
        read_features(stored(tmp_path / "own.npz"), "test")
    with pytest.raises(ValueError, match="expected a split of train, val, test; got 'dev'"):
        read_features(tmp_path, "dev")
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"expected an \.npz of plain arrays"):
        read_features(tmp_path / "broken.npz", "train")


def test_the_cache_serves_the_features_of_one_network_and_makes_those_of_another_again(tmp_path):
    path, made = tmp_path / "features.npz", []

    def make(key: str):
        made.append(key)
        return splits(network=key, width=3 if key == "one" else 4)

    for key in ("one", "one", "two", "two", "one"):
        found = cached(path, key, lambda key=key: make(key), split="val")
        assert found.network == key and found.rows.shape == (18, 3 if key == "one" else 4)
    assert made == ["one", "two", "one"]


def test_a_network_is_known_by_its_weights():
    weights = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert weights_hash(weights) == weights_hash(dict(reversed(weights.items())))
    assert weights_hash(weights) != weights_hash(weights | {"b": torch.tensor([1.0, 1.0001])})


@pytest.mark.parametrize("ink", [False, True])
def test_features_of_images_keep_their_order_whatever_the_batches(ink):
    images = replace(marked_images(SIZES), ink=ink)
    found = embed(lambda x: x.flatten(1)[:, :2], images, key="abc", batch=4)
    shown = ClassTasks(images, "train", 1, 1, 1).pixels(torch.arange(26).view(1, 1, -1), torch.zeros(1, 1).long())
    assert torch.allclose(found.rows, shown[0].flatten(1)[:, :2])
    assert found.names == images.names and torch.equal(found.offsets, images.offsets) and found.network == "abc"


def test_a_spec_names_features_without_loading_them(tmp_path):
    path = tmp_path / "features.npz"
    write_features(path, splits())
    spec = FeatureSpec(FeatureFile(path), ways=2, shots=2, query=None, train_query=1)
    assert spec.split("train").query == 1 and spec.split("test").query == 5, "all that are left"
    assert float(spec.split("test").source.rows.norm(dim=1).max()) == pytest.approx(1)
    assert torch.equal(replace(spec, unit_length=False).split("test").source.rows, splits()["test"].rows)
    said = spec.describe()
    digest = hashlib.sha256(hashlib.sha256(path.read_bytes()).hexdigest().encode()).hexdigest()[:16]
    assert said["features"] == {"file": "features.npz", "sha256": digest} and said["query"] is None
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        FeatureSpec(FeatureFile(tmp_path / "none.npz")).describe()
