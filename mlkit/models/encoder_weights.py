"""Weights for the encoder of EfficientLab: those that ImageNet gave, or a stand-in trained here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from efficientnet_pytorch.utils import url_map
from torch import Tensor, nn

from mlkit.catalogue import data_root
from mlkit.models.noise import is_noise

URL = url_map["efficientnet-b0"]
FILE = URL.rpartition("/")[2]
DIGEST = FILE.removesuffix(".pth").rpartition("-")[2]  # the name ends in the first digits of the sha256
OURS = {"_conv_stem.": "stem.0.", "_bn0.": "stem.1.", "_blocks.": "blocks."}  # how the package calls them
STATISTICS = {"running_mean": "mean", "running_var": "variance"}


@dataclass(frozen=True)
class EncoderWeights:
    """Weights of an encoder, named now and read when a network first needs them.

    So an experiment can be looked up on a machine that does not hold them. `imagenet` and `pretrained` make them.

    Args:
        name: what a record calls them.
        key: the first digits of a hash of what they are.
        stand_in: whether they stand in for ImageNet's.
        read: returns the tensors, by the names that they have in `Encoder`.
    """

    name: str
    key: str
    stand_in: bool
    read: Callable[[], Mapping[str, Tensor]]

    def __deepcopy__(self, _memo: dict) -> EncoderWeights:
        return self

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return {"name": self.name, "key": self.key, "stand_in": self.stand_in}

    def copy_to(self, encoder: nn.Module) -> None:
        """Copy weights and running statistics into `encoder`.

        Raises:
            FileNotFoundError: they are not there; the message says how to get them.
            ValueError: they are those of another encoder.
        """
        tensors = self.read()
        own = {name: tensor for name, tensor in encoder.state_dict().items() if not is_noise(name)}
        for name, tensor in own.items():
            given = tuple(tensors[name].shape) if name in tensors else "none"
            if given != tuple(tensor.shape):
                raise ValueError(
                    f"expected weights {name} of shape {tuple(tensor.shape)}, got {given} from {self.name!r}; build "
                    "the network with the width that the weights have"
                )
            tensor.copy_(tensors[name])


def imagenet(path: Path | str | None = None) -> EncoderWeights:
    """Return the weights that EfficientNet-B0 got from ImageNet (1.28 million photographs), for width 1.

    Args:
        path: a file of the package's format; by default `efficientnet/efficientnet-b0-355c32eb.pth` under the data
            root (MLKIT_DATA). Where there is none it is downloaded, 21 MB, when the weights are first read.

    Raises:
        FileNotFoundError: there is no file at `path`.
    """
    if path is None:
        return EncoderWeights("ImageNet", DIGEST, False, _published)
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"expected weights of EfficientNet-B0 at {path}, found no file; {_remedy()}")
    digest = _sha256(path)
    if digest.startswith(DIGEST):
        return EncoderWeights("ImageNet", DIGEST, False, lambda: _read(path))
    return EncoderWeights(path.name, digest[:8], True, lambda: _read(path))


def pretrained(name: str, meta: Mapping[str, Tensor], *, key: str) -> EncoderWeights:
    """Return the encoder inside trained meta-parameters, as a stand-in for ImageNet's.

    Args:
        name: what they were trained on.
        meta: stacked meta-parameters of one run (1, ...) of an `EncoderClassifier` or an `EfficientLab`.
        key: of the record that holds them.

    Example:
        >>> weights = pretrained("cifar_fs", weights_of(record), key=record.key)  # doctest: +SKIP
    """
    parts = [(name.partition(".encoder."), tensor[0]) for name, tensor in meta.items()]
    tensors = {inner: tensor for (role, _, inner), tensor in parts if role in ("theta", "buffers") and inner}
    return EncoderWeights(name, key[:8], True, lambda: tensors)


def _published() -> dict[str, Tensor]:
    """Read ImageNet's weights from where they lie, or download them there."""
    path = data_root() / "efficientnet" / FILE
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=DIGEST)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"expected ImageNet weights at {path}, found none, and {URL} did not deliver them: {error}; {_remedy()}"
            ) from error
    if not _sha256(path).startswith(DIGEST):
        raise ValueError(f"expected a file whose sha256 begins with {DIGEST} at {path}; remove it and try again")
    return _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    """Read a state of the package's EfficientNet; keep what the encoder has, by its names for it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names a damaged file in many ways
        raise ValueError(f"expected a state_dict saved by torch at {path}, got {error}; {_remedy()}") from error
    found = {}
    for name, tensor in state.items():
        start = next((start for start in OURS if name.startswith(start)), None)
        if start is not None:
            inner, _, last = (OURS[start] + name.removeprefix(start)).rpartition(".")
            found[f"{inner}.{STATISTICS.get(last, last)}"] = tensor
    return found


def _remedy() -> str:
    return f"put {FILE} there (from {URL}), or choose random weights: encoder_weights=None"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
