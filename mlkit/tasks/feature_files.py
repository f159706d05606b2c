"""Files of features by class: a reader for files of any origin, and a cache that knows whose features it holds.

The layout, without pickle, for files of any origin:

| array | shape | what it holds |
|---|---|---|
| features | (examples, features), floating point | one row an example |
| labels | (examples,), integers | number of its class |
| names | (classes,), text | of the classes; may be left out |
| splits | (classes,), text | train, val or test; may be left out of files called <split>.npz in one folder |
| network | (), text | hash of the weights that computed the features; may be left out |
| stand_in | (), boolean | whether the data stands in for a paper's; may be left out, then it does |
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlkit.project import staged
from mlkit.tasks.features import FeatureClasses

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class FeatureFile:
    """Features of any origin: an .npz of all splits, or a folder of train.npz, val.npz and test.npz."""

    path: Path | str

    @property
    def features(self) -> int:
        """How many numbers describe an example; reads the file."""
        return read_features(self.path, "train").rows.shape[1]

    def classes(self, split: str) -> FeatureClasses:
        """Read one split; see `read_features`."""
        return read_features(self.path, split)

    def describe(self) -> dict[str, Any]:
        """Name the file and hash what it holds; it has to be there."""
        path = Path(self.path).expanduser()
        files = [path] if path.suffix == ".npz" else [path / f"{split}.npz" for split in SPLITS]
        digests = [_digest(file, file.stat().st_mtime_ns) for file in map(_there, files)]
        return {"file": path.name, "sha256": hashlib.sha256("".join(digests).encode()).hexdigest()[:16]}


def cached(path: Path, key: str, make: Callable[[], Mapping[str, FeatureClasses]], *, split: str) -> FeatureClasses:
    """Return one split of the features at `path`; those of another network than `key` are made again, all splits."""
    if not path.exists() or _network(path) != key:
        write_features(path, make())
    return read_features(path, split)


def write_features(path: Path, splits: Mapping[str, FeatureClasses]) -> None:
    """Write the features of all splits into one file, whole or not at all; see the module for its layout."""
    parts = list(splits.values())
    sizes = torch.cat([part.sizes for part in parts])
    arrays = {
        "features": np.concatenate([part.rows.cpu().numpy() for part in parts]),
        "labels": torch.arange(len(sizes)).repeat_interleave(sizes).numpy(),
        "names": np.array([name for part in parts for name in part.names]),
        "splits": np.array([split for split, part in splits.items() for _ in part.names]),
        "network": np.array(parts[0].network),
        "stand_in": np.array(any(part.stand_in for part in parts)),
    }
    with staged(path, lambda file: np.savez(file, **arrays)) as written:
        written.replace(path)


def read_features(path: Path | str, split: str) -> FeatureClasses:
    """Read one split of a file of features, or <split>.npz of a folder; see the module for the layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the layout is another, or the split is not known or holds no class.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}; got {split!r}")
    path = Path(path).expanduser()
    whole = path.suffix == ".npz"
    file = _there(path if whole else path / f"{split}.npz")
    arrays = _checked(file)
    labels = arrays["labels"]
    names = arrays.get("names", np.array([f"class{k:03d}" for k in range(int(labels.max()) + 1)])).tolist()
    if "splits" not in arrays and whole:
        raise ValueError(f"expected an array `splits` in {file}, got none; add it, or name a folder of <split>.npz")
    chosen = [k for k in range(len(names)) if "splits" not in arrays or arrays["splits"][k] == split]
    if not chosen:
        raise ValueError(f"expected classes of the split {split} in {file}, found none; `splits` says where each goes")
    parts = [arrays["features"][labels == k] for k in chosen]
    how = {"network": str(arrays.get("network", "")), "stand_in": bool(arrays.get("stand_in", True))}
    return FeatureClasses.build((path if whole else file.parent).stem, parts, names=[names[k] for k in chosen], **how)


def _there(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(
            f"expected features in {file}, found no such file; write one with the arrays `features` (examples, "
            "features), `labels` (examples,), `names` and `splits` (classes,)"
        )
    return file


def _checked(file: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file and compare their shapes."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"expected an .npz of plain arrays in {file}, got: {error}; write it with numpy.savez"
        ) from error
    missing = {"features", "labels"} - arrays.keys()
    if missing:
        raise ValueError(f"expected arrays features and labels in {file}, got {', '.join(arrays)}; add what is missing")
    features, labels = arrays["features"], arrays["labels"]
    if (
        features.ndim != 2
        or features.dtype.kind != "f"
        or labels.shape != features.shape[:1]
        or labels.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"expected features (examples, features) in floating point and integer labels (examples,) in {file}, got "
            f"{features.shape} {features.dtype} and {labels.shape} {labels.dtype}"
        )
    classes = len(arrays["names"]) if "names" in arrays else int(labels.max(initial=0)) + 1
    counts = np.bincount(labels, minlength=classes) if labels.size and labels.min() >= 0 else np.zeros(1)
    if len(counts) != classes or (counts == 0).any() or len(arrays.get("splits", counts)) != classes:
        raise ValueError(
            f"expected labels 0 to {classes - 1} in {file}, each at least once, and a split for each class; got "
            f"{len(counts)} classes and {len(arrays.get('splits', counts))} splits"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"expected finite features in {file}, got some that are not; leave those examples out")
    return arrays


def _network(path: Path) -> str:
    with np.load(path, allow_pickle=False) as stored:
        return str(stored["network"]) if "network" in stored.files else ""


@cache
def _digest(file: Path, modified: int) -> str:
    del modified  # only tells when to read it again
    return hashlib.sha256(file.read_bytes()).hexdigest()
