"""Two data sets in one form of images, so that a network trained on either can be tested on the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from mlkit.tasks import (
    ClassTasks,
    ImageClasses,
    SupervisedBatches,
    TaskDistribution,
    TaskSpec,
    class_count,
    image_form,
    load,
)
from mlkit.vision import transforms

NEGATIVE = "-negative"  # ends the name of drawings that are shown with ink and paper swapped


def plain(name: str) -> str:
    """Return the name of the data set itself.

    Example:
        >>> plain("glyphs-negative")
        'glyphs'
    """
    return name.removesuffix(NEGATIVE)


def common_form(*names: str) -> tuple[int, int]:
    """Return size in pixels and channels of a form that loses nothing of any of the data sets.

    Example:
        >>> common_form("cifar_fs", "omniglot")
        (32, 3)
    """
    sizes, channels = zip(*(image_form(plain(name)) for name in names), strict=True)
    return max(sizes), max(channels)


@dataclass(frozen=True)
class ShownSpec:
    """Few-shot tasks on images of one form, named without loading them.

    Images of another size are resized bilinearly, drawings in one channel repeated in three. A name that ends in
    "-negative" swaps ink and paper. With `batch_size` the split "train" is of supervised batches.

    Args:
        tasks: names the data and the shape of the tasks, `shots` and `query` among it.
        size: of the images, in pixels.
        channels: 1 or 3.
        batch_size: images of a supervised batch; None for few-shot tasks.

    Example:
        >>> ShownSpec(TaskSpec("glyphs-negative"), 28, 1).classes
        640
    """

    tasks: TaskSpec
    size: int
    channels: int
    batch_size: int | None = None

    @property
    def classes(self) -> int:
        """How many training classes there are to tell apart."""
        return class_count(plain(self.tasks.name), "train")

    def split(self, split: str) -> TaskDistribution:
        """Load one split.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
        """
        given, training = self.tasks, split == "train"
        query = given.train_query if training and given.train_query is not None else given.query
        images = _images(given.name, split, self.size, self.channels)
        tasks = ClassTasks(images, split, given.ways, given.shots, query)
        return SupervisedBatches(tasks, self.batch_size) if training and self.batch_size else tasks

    def describe(self) -> dict[str, Any]:
        """Return what is set."""
        batch = {"supervised_batch": self.batch_size} if self.batch_size else {}
        return self.tasks.describe() | {"size": self.size, "channels": self.channels} | batch


@cache
def _images(name: str, split: str, size: int, channels: int) -> ImageClasses:
    """Read images once, however many trainings ask for them."""
    source = load(plain(name), split, ways=1, query=1).source
    return shown(source, size, channels, negative=name.endswith(NEGATIVE))


def shown(source: ImageClasses, size: int, channels: int, *, negative: bool = False) -> ImageClasses:
    """Return images by class in another form; the same object where there is nothing to change.

    Raises:
        ValueError: images in color are to be shown in one channel.
    """
    if tuple(source.images.shape[1:]) == (channels, size, size) and not negative:
        return source
    if source.images.shape[1] > channels:
        raise ValueError(f"expected at least {source.images.shape[1]} channels for {source.name}, got {channels}")
    images = _in_form(255 - source.images if negative else source.images, size, channels).numpy()
    arrays = [images[start:end] for start, end in zip(source.offsets, source.offsets[1:], strict=False)]
    name = source.name + NEGATIVE * negative
    return ImageClasses.build(name, arrays, names=source.names, ink=source.ink, stand_in=source.stand_in)


def _in_form(images: Tensor, size: int, channels: int) -> Tensor:
    if images.shape[-1] != size:
        images = transforms.functional.resize(images, [size, size], antialias=True)
    return images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images
