"""Images of several data sets in one classification problem: what the encoder of EfficientLab is pre-trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mlkit.tasks.base import TaskDistribution
from mlkit.tasks.class_folders import ClassTasks
from mlkit.tasks.datasets import class_count, image_form, load_images
from mlkit.tasks.images import ImageClasses
from mlkit.tasks.segmentation_datasets import listed
from mlkit.tasks.shapes import PICTURES, shapes
from mlkit.tasks.shapes import SPLITS as SHAPES
from mlkit.tasks.supervised import SupervisedBatches
from mlkit.vision import transforms


@dataclass(frozen=True)
class PretrainingSpec:
    """Supervised batches of the training classes of some data sets, 5-way tasks of the other classes to judge by.

    Training classes that are like a class that the network is tested on later are left out, as an encoder that had
    learned them would make a test class a known one; `splits/pretraining.json` holds the rule and the list.

    Args:
        names: `shapes` and color data sets of the catalogue, such as `cifar_fs`.
        size: all images are resized to it, in pixels.
        per_class: images of a class at most, so that classes weigh about alike.
        batch_size: images of a batch.

    Example:
        >>> PretrainingSpec(("shapes", "cifar_fs")).classes
        612
    """

    names: tuple[str, ...] = ("shapes",)
    size: int = 64
    per_class: int = 100
    batch_size: int = 64

    @property
    def classes(self) -> int:
        """How many training classes there are to tell apart."""
        there = (len(SHAPES["train"]) if name == "shapes" else class_count(name, "train") for name in self.names)
        return sum(there) - len(self.without)

    @property
    def without(self) -> list[str]:
        """The training classes that are left out, as <data set>/<class>."""
        return [name for name in listed("pretraining")["overlaps"] if name.partition("/")[0] in self.names]

    def split(self, split: str) -> TaskDistribution:
        """Load one split: supervised batches of "train", 5-way 1-shot tasks of any other.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
            ValueError: images without color.
        """
        left_out = self.without if split == "train" else ()
        images = _joined(self.names, split, self.size, self.per_class, frozenset(left_out))
        tasks = ClassTasks(images, split, ways=5, shots=1, query=5)
        return SupervisedBatches(tasks, self.batch_size) if split == "train" else tasks

    def describe(self) -> dict[str, Any]:
        """Return the fields, and what is left out."""
        return asdict(self) | {"names": list(self.names)} | ({"without": self.without} if self.without else {})


@cache
def _joined(names: tuple[str, ...], split: str, size: int, per_class: int, without: frozenset[str]) -> ImageClasses:
    parts = [_images(name, split, size) for name in names]
    found = {
        f"{part.name}/{kind}": part.images[start : min(end, start + per_class)]
        for part in parts
        for kind, start, end in zip(part.names, part.offsets.tolist(), part.offsets[1:].tolist(), strict=False)
        if f"{part.name}/{kind}" not in without
    }
    arrays = [_resized(images, size).numpy() for images in found.values()]
    return ImageClasses.build("+".join(names), arrays, names=list(found), stand_in=True)


def _images(name: str, split: str, size: int) -> ImageClasses:
    if name == "shapes":
        source = shapes(split, size=size)
        pictures, _ = source.pairs(torch.arange(int(source.offsets[-1])).view(-1, PICTURES))
        return ImageClasses.build(name, list(pictures.numpy()), names=source.names, stand_in=True)
    if (channels := image_form(name)[1]) != 3:
        raise ValueError(
            f"expected images in color to pre-train on, got {name!r} with {channels} channel; leave it out"
        )
    return load_images(name, split)


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize images (n, 3, height, width), uint8, bilinearly, to `size` x `size`."""
    return transforms.functional.resize(images, [size, size], antialias=True)
