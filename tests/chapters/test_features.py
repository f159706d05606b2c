"""Features of a network that is trained once on the training classes, and kept under the hash of its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlkit.chapters.features import NetworkFeatures
from mlkit.experiment import weights_of
from mlkit.learners import LEO
from mlkit.outer import Execution
from mlkit.tasks import FeatureSpec, glyphs
from mlkit.tasks.features import weights_hash

SMALL = NetworkFeatures(network="10-1", iterations=1, batch_size=8, execution=Execution(progress=False))


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("MLKIT_ROOT", str(tmp_path))
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLKIT_RECORDS", "publish")
    monkeypatch.setattr("mlkit.chapters.features.SPLITS", ("test",))  # the fewest images
    return tmp_path


def test_the_network_sees_training_classes_alone_and_its_features_are_kept_on_this_machine(project, monkeypatch):
    spec = FeatureSpec(SMALL, shots=1, query=5)
    record = SMALL.record()
    assert record.path.parent == project / "runs" / "encoders", "too large to publish"
    assert record.settings["learner"]["classes"] == 640
    test = spec.split("test")
    key = weights_hash({name: tensor[0] for name, tensor in weights_of(record).items()})
    assert test.features == SMALL.features == 64 and test.classes == 200 and test.source.network == key
    assert test.source.names == glyphs("test").source.names and test.source.stand_in
    assert np.isfinite(test.source.rows.numpy()).all()
    kept = [path.name for path in (project / "data" / "features").iterdir()]
    assert kept == [f"wide-resnet-10-1-glyphs-{record.key[:8]}.npz"]
    monkeypatch.setattr("mlkit.chapters.features.embed", lambda *_, **__: pytest.fail("computed again"))
    assert spec.split("test").source.content_hash == test.source.content_hash
    assert LEO.v1(features=SMALL.features).coder.networks["encoder"] == (64, 128)


def test_features_are_described_without_training_anything(project):
    said = FeatureSpec(SMALL).describe()
    assert said["features"]["network"] == "10-1" and "execution" not in said["features"]
    assert replace(SMALL, iterations=2).describe()["training"] != SMALL.describe()["training"]
    assert replace(SMALL, execution=Execution(workers=2)).describe() == SMALL.describe()
    assert not (project / "runs").exists()
    assert NetworkFeatures("cifar_fs", "28-10").features == 640
