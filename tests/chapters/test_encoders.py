"""Where an encoder starts from: ImageNet's file, a stand-in that is trained once and shared, or nowhere."""

from __future__ import annotations

import pytest
import torch
from efficientnet_pytorch import EfficientNet

from mlkit.catalogue import data_root
from mlkit.chapters.encoders import encoder_weights, stand_in
from mlkit.learners.common import initialize
from mlkit.models import EfficientLab
from mlkit.models.noise import is_noise
from mlkit.outer import Execution
from mlkit.seeding import seeded
from mlkit.tasks.base import sample
from mlkit.tasks.datasets import split_classes
from mlkit.tasks.pretraining import PretrainingSpec
from mlkit.tasks.segmentation_datasets import listed

SMALL = {"width": 0.25, "size": 16, "iterations": 2, "execution": Execution(progress=False, evaluation_chunk=10)}


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    return tmp_path


def test_a_stand_in_is_trained_once_and_goes_into_the_network(project):
    weights = encoder_weights("shapes", **SMALL)
    record = stand_in("shapes", **SMALL)
    assert record.path.parent == project / "runs" / "encoders"
    assert len(list(record.path.parent.glob("*.json"))) == 1
    assert weights.describe() == {"name": "shapes", "key": record.key[:8], "stand_in": True}
    assert record.settings["learner"]["classes"] == 560
    begun = initialize(EfficientLab(width=0.25, encoder_weights=weights), seeded(0))
    trained = {name: array for name, array in record.arrays.items() if ".encoder." in name and not is_noise(name)}
    assert len(trained) > 100
    for name, array in trained.items():
        assert torch.equal(begun[name.removeprefix("meta/")], torch.from_numpy(array[()]))
    drawn = initialize(EfficientLab(width=0.25), seeded(0))
    assert not torch.equal(begun["theta.encoder.stem.0.weight"], drawn["theta.encoder.stem.0.weight"])


def test_other_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path))
    assert encoder_weights("random") is None
    assert encoder_weights("imagenet").describe()["name"] == "ImageNet"
    assert list(tmp_path.iterdir()) == []  # named, not read
    torch.save(EfficientNet.from_name("efficientnet-b0").state_dict(), tmp_path / "own.pth")
    assert encoder_weights(str(tmp_path / "own.pth")).name == "own.pth"


def test_batches_hold_images_of_all_training_classes_and_no_other():
    spec = PretrainingSpec(("shapes",), size=16, per_class=6, batch_size=200)
    batches, tasks = spec.split("train"), spec.split("test")
    batch = sample(batches, 1, seeded(0)).query
    assert batch.x.shape == (1, 200, 3, 16, 16)
    assert spec.classes == batches.classes == 560
    assert int(batch.y.max()) > 500
    assert len(batches.tasks.source.images) == 6 * 560
    assert not set(batches.tasks.source.names) & set(tasks.source.names)
    assert sample(tasks, 2, seeded(0)).support.x.shape == (2, 5, 3, 16, 16)


def test_no_class_like_one_that_is_tested_later_is_learned():
    said = listed("pretraining")["overlaps"]
    tested = {*listed("voc_ccp_eth80")["test"], *listed("voc_rest")["test"]}
    train = {f"cifar_fs/{name}" for name in split_classes("cifar_fs")["train"]}
    assert set(said) <= train and all(alike and set(alike) <= tested for alike in said.values())
    assert {f"cifar_fs/{name}" for name in tested} & train <= set(said)
    spec = PretrainingSpec(("shapes", "cifar_fs"), size=16, per_class=6)
    assert spec.without == list(said) == spec.describe()["without"] and spec.classes == 560 + 64 - len(said)
    assert "without" not in PretrainingSpec(("shapes",)).describe()
    if (data_root() / "cifar100").is_dir():
        names = set(spec.split("train").tasks.source.names)
        assert len(names) == spec.classes and not names & set(said)


def test_drawings_are_no_photographs():
    with pytest.raises(ValueError, match=r"expected images in color to pre-train on, got 'omniglot' with 1 channel"):
        PretrainingSpec(("omniglot",)).split("train")
