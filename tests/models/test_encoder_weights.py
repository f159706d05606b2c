"""Weights for the encoder: read by the package's names, checked, named before they are read, refused with a remedy."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from efficientnet_pytorch import EfficientNet

from mlkit.driver import stack
from mlkit.learners.common import describe_model, initialize
from mlkit.models import EfficientLab, EncoderClassifier, EncoderWeights, encoder_weights, imagenet, pretrained
from mlkit.models.encoder import Encoder
from mlkit.models.noise import is_noise
from mlkit.models.normalization import set_phase
from mlkit.seeding import seeded


@pytest.fixture(scope="module")
def package():
    """Return the package's network with statistics that are not those of a fresh one."""
    torch.manual_seed(0)
    model = EfficientNet.from_name("efficientnet-b0", image_size=None).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    return model


@pytest.fixture(scope="module")
def saved(package, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(package.state_dict(), path)
    return path


@pytest.fixture
def mirror(saved, tmp_path, monkeypatch):
    """Let the published address lead to a file of ours, and the data root to an empty folder."""
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()[:8]
    address = tmp_path / "mirror" / f"efficientnet-b0-{digest}.pth"
    address.parent.mkdir()
    address.write_bytes(saved.read_bytes())
    for name, value in (("URL", address.as_uri()), ("FILE", address.name), ("DIGEST", digest)):
        monkeypatch.setattr(encoder_weights, name, value)
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path / "data"))
    return address


def same(weights: EncoderWeights, package: EfficientNet) -> bool:
    """Tell whether an encoder with these weights computes what the package's network does."""
    encoder = Encoder()
    weights.copy_to(encoder)
    set_phase(encoder, "predict")
    x = torch.rand(1, 3, 64, 64, generator=seeded("x"))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        theirs = package.extract_endpoints((x - mean) / std)
        ours = encoder(x)
    return all(
        torch.allclose(one, theirs[name], rtol=1e-3, atol=1e-4 * float(theirs[name].abs().max()))
        for one, name in zip(ours, ("reduction_2", "reduction_4"), strict=True)
    )


def test_a_file_of_the_package_gives_what_the_package_computes(saved, package):
    weights = imagenet(saved)
    assert weights.describe() == {"name": "mine.pth", "key": weights.key, "stand_in": True}
    assert hashlib.sha256(saved.read_bytes()).hexdigest().startswith(weights.key)
    assert same(weights, package)


def test_imagenet_is_downloaded_once_and_checked(mirror, package, tmp_path, monkeypatch, capfd):
    assert imagenet().describe() == {"name": "ImageNet", "key": encoder_weights.DIGEST, "stand_in": False}
    assert not (tmp_path / "data").exists()  # named, not read
    assert same(imagenet(), package)
    mirror.unlink()
    assert same(imagenet(), package)
    kept = tmp_path / "data" / "efficientnet" / mirror.name
    assert imagenet(kept).describe() == imagenet().describe()
    kept.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"expected a file whose sha256 begins with .*; remove it and try again"):
        same(imagenet(), package)
    capfd.readouterr()


def test_where_there_are_no_weights_the_message_says_what_to_do(mirror, tmp_path):
    mirror.unlink()
    model = EfficientLab(width=0.25, encoder_weights=imagenet())
    with pytest.raises(FileNotFoundError, match=r"found none.*; put .*pth there .*, or choose random weights: encoder"):
        initialize(model, seeded(0))
    with pytest.raises(FileNotFoundError, match=r"expected weights .*nowhere\.pth, found no file; put"):
        imagenet(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(ValueError, match=r"expected a state_dict saved by torch at .*text\.pth"):
        initialize(EfficientLab(width=0.25, encoder_weights=imagenet(tmp_path / "text.pth")), seeded(0))


def test_weights_of_another_width_are_refused(saved):
    with pytest.raises(
        ValueError, match=r"expected weights stem\.0\.weight of shape \(8, 3, 3, 3\), got \(32, 3, 3, 3"
    ):
        imagenet(saved).copy_to(Encoder(0.25))
    with pytest.raises(ValueError, match=r"expected weights stem\.0\.weight .*, got none from 'nothing'"):
        EncoderWeights("nothing", "0", True, dict).copy_to(Encoder(0.25))


def test_a_pretrained_encoder_goes_into_every_initialization():
    meta = stack([initialize(EncoderClassifier(5, width=0.25), seeded(1))])
    meta = {name: t + 0.5 if t.is_floating_point() else t + 7 for name, t in meta.items()}
    weights = pretrained("made up", meta, key="0123456789abcdef")
    model = EfficientLab(width=0.25, encoder_weights=weights)
    first, second = (initialize(model, seeded(seed)) for seed in (2, 3))
    for name, tensor in first.items():
        if is_noise(name):
            assert int(tensor) == 0
        elif ".encoder." in name:
            assert torch.equal(tensor, meta[name][0])
            assert torch.equal(tensor, second[name])
    assert not torch.equal(first["theta.decoder.stage3.wide.0.weight"], second["theta.decoder.stage3.wide.0.weight"])
    said = describe_model(model)["encoder_weights"]
    assert said == {"name": "made up", "key": "01234567", "stand_in": True}


def test_naming_weights_reads_nothing():
    def read():
        raise AssertionError("nobody asked for them")

    model = EfficientLab(width=0.25, encoder_weights=EncoderWeights("later", "0", True, read))
    assert copy.deepcopy(model).describe()["encoder_weights"]["name"] == "later"
    assert copy.deepcopy(model).encoder_weights is model.encoder_weights
