"""Few-shot segmentation: a task is one class, some pictures of it with their masks, others to be segmented."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mlkit.tasks.base import Draw, Examples, TaskBatch, TaskDistribution
from mlkit.tasks.class_folders import distinct
from mlkit.tasks.segmentation_datasets import class_count, load


class Pairs(Protocol):
    """Pictures with masks, by class: pairs of class k are offsets[k]:offsets[k+1]."""

    name: str
    size: int
    stand_in: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def offsets(self) -> Tensor:
        """Where classes begin (classes + 1,), int64, on the CPU."""

    @property
    def content_hash(self) -> str:
        """Sixteen hex digits that change with any pixel."""

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures (..., 3, size, size) and masks (..., size, size), uint8, of the pairs `index` (...)."""

    def labeled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures as `pairs` does, and int64 labels (..., size, size): c + 1 for class c, 0 for none."""

    def to(self, device: torch.device | str) -> Pairs:
        """Move the pixels to `device`."""


@dataclass(frozen=True, eq=False)
class SegmentationTasks:
    """Tasks of one class each, drawn uniformly: `shots` + `query` distinct pairs of a picture and its mask.

    x is (tasks, examples, 3, size, size), float32 in [0, 1]; y is (tasks, examples, size, size), the share of each
    pixel that shows the class.

    Args:
        source: pictures and masks.
        split: its name.
        shots: pairs to adapt to.
        query: pairs to be judged on.
        fixed_support: the support set is always the first `shots` pairs of its class, the query set is drawn from the
            rest (Reptile with 5 train-shots in the code of paper 000).

    Raises:
        ValueError: a number is below 1, or a class has too few pairs.
    """

    source: Pairs
    split: str
    shots: int = 5
    query: int = 5
    fixed_support: bool = False

    def __post_init__(self) -> None:
        if min(self.shots, self.query) < 1:
            raise ValueError(f"expected shots, query >= 1, got {self.shots}, {self.query}")
        sizes = self.source.offsets.diff()
        few, needed = int(sizes.argmin()), self.shots + self.query
        if int(sizes[few]) < needed:
            raise ValueError(
                f"class {self.source.names[few]!r} of {self.source.name}/{self.split} has {int(sizes[few])} pictures, "
                f"expected at least shots + query = {self.shots} + {self.query} = {needed}; lower them or remove the "
                "class"
            )

    @property
    def classes(self) -> int:
        """How many classes tasks are drawn from."""
        return len(self.source.names)

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose a class for each task, then its pairs."""
        return self._of(torch.randint(self.classes, (count,), generator=generator), generator)

    def draw_fixed(self, index: int, generator: torch.Generator) -> Draw:
        """Choose task `index` of a frozen set: its class is the index modulo the number of classes.

        So twice as many tasks as classes are every class with two random splits of its pairs, and every prefix is
        balanced: the protocol of paper 000, section 5.
        """
        return self._of(torch.tensor([index % self.classes]), generator)

    def _of(self, classes: Tensor, generator: torch.Generator) -> Draw:
        sizes, start = self.source.offsets.diff()[classes], self.source.offsets[classes, None]
        if self.fixed_support:
            first = torch.arange(self.shots).expand(len(classes), -1)
            within = torch.cat([first, self.shots + distinct(sizes - self.shots, self.query, generator)], 1)
        else:
            within = distinct(sizes, self.shots + self.query, generator)
        return {
            "classes": classes,  # (tasks,)
            "pairs": start + within,  # (tasks, shots + query)
            "seeds": torch.randint(2**62, (len(classes),), generator=generator),
        }

    def gather(self, draw: Draw) -> TaskBatch:
        """Look pictures and masks up on the device where they live; `seeds` stay with the draw."""
        pictures, masks = self.source.pairs(draw["pairs"])
        examples = Examples(pictures / 255, masks / 255)
        support = examples.map(lambda tensor: tensor[:, : self.shots])
        query = examples.map(lambda tensor: tensor[:, self.shots :])
        return TaskBatch(support, query, draw["seeds"])

    def to(self, device: torch.device | str) -> SegmentationTasks:
        """Move pictures and masks to `device`: tasks are then gathered there."""
        return replace(self, source=self.source.to(device))

    def describe(self) -> dict[str, Any]:
        """Return what a record says about the data."""
        return describe_pairs(self.source, self.split) | {
            "shots": self.shots,
            "query": self.query,
            **({"fixed_support": True} if self.fixed_support else {}),
        }


def describe_pairs(source: Pairs, split: str) -> dict[str, Any]:
    """Return what a record says about pictures and masks."""
    return {
        "data": source.name,
        "split": split,
        "classes": len(source.names),
        "images": int(source.offsets[-1]),
        "shape": [3, source.size, source.size],
        "content_hash": source.content_hash,
        "stand_in": source.stand_in,
    }


@dataclass(frozen=True, eq=False)
class SupervisedMasks:
    """Batches of pictures of all classes, each a pseudo task, to train one network on every class at once.

    x is (tasks, batch_size, 3, size, size), float32 in [0, 1]; y is (tasks, batch_size, size, size), int64: 0 where
    the rounded masks show background, c + 1 where they show class c. A picture that shows several classes carries all
    their labels. As in tasks, every class is equally likely, then every picture of it; the classes of a batch are
    distinct. Support and query are the same examples.

    Raises:
        ValueError: there are fewer than `batch_size` classes.
    """

    source: Pairs
    split: str = "train"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.classes:
            raise ValueError(
                f"expected a batch_size from 1 to the {self.classes} classes of {self.source.name}/{self.split}, "
                f"got {self.batch_size}"
            )

    @property
    def classes(self) -> int:
        """How many classes there are, background not counted."""
        return len(self.source.names)

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose the pairs of `count` batches."""
        classes = distinct(torch.full((count,), self.classes), self.batch_size, generator)
        sizes = self.source.offsets.diff()[classes]
        pairs = self.source.offsets[classes] + distinct(sizes, 1, generator)[..., 0]
        return {"pairs": pairs, "seeds": torch.randint(2**62, (count,), generator=generator)}

    def gather(self, draw: Draw) -> TaskBatch:
        """Look pictures and labels up on the device where they live; `seeds` stay with the draw."""
        pictures, labels = self.source.labeled(draw["pairs"])
        batch = Examples(pictures / 255, labels)
        return TaskBatch(batch, batch, draw["seeds"])

    def to(self, device: torch.device | str) -> SupervisedMasks:
        """Move pictures and masks to `device`: batches are then gathered there."""
        return replace(self, source=self.source.to(device))

    def describe(self) -> dict[str, Any]:
        """Return what a record says about the data."""
        return describe_pairs(self.source, self.split) | {"batch_size": self.batch_size}


@dataclass(frozen=True)
class SegmentationSpec:
    """A data set of pictures with masks by name, and the shape of its tasks; nothing is loaded.

    Args:
        name: shapes, fss1000, ...; see `mlkit.tasks.segmentation_datasets.load`; or a folder of your own.
        shots: pairs to adapt to.
        query: pairs to be judged on.
        size: side of the pictures, in pixels.
        train_shots: shots of training tasks (default: `shots`).
        train_query: query pairs of training tasks (default: `query`).
        train_on: "train+val" also trains on the validation classes, as paper 000 does for its final models.
        train_fixed_support: see `SegmentationTasks`; for training tasks only.

    Example:
        >>> SegmentationSpec("shapes", shots=1).split("test").describe()["classes"]
        240
    """

    name: str = "shapes"
    shots: int = 5
    query: int = 5
    size: int = 64
    train_shots: int | None = None
    train_query: int | None = None
    train_on: Literal["train", "train+val"] = "train"
    train_fixed_support: bool = False

    def split(self, split: str) -> TaskDistribution:
        """Load the tasks of one split.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
        """
        if split != "train":
            return SegmentationTasks(load(self.name, split, size=self.size), split, self.shots, self.query)
        shots = self.shots if self.train_shots is None else self.train_shots
        query = self.query if self.train_query is None else self.train_query
        source = load(self.name, self.train_on, size=self.size)
        return SegmentationTasks(source, self.train_on, shots, query, self.train_fixed_support)

    def describe(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class SupervisedSegmentationSpec:
    """Batches of every training class at once to train on, tasks of new classes to be judged on.

    Paper 000 trains jointly on batches of 8 and replaces the head at meta-test (section 5).

    Args:
        tasks: names the data and the tasks.
        batch_size: pairs of a batch.

    Example:
        >>> SupervisedSegmentationSpec(SegmentationSpec("shapes")).classes
        560
    """

    tasks: SegmentationSpec
    batch_size: int = 8

    @property
    def classes(self) -> int:
        """How many training classes there are; real pictures are read to know."""
        return class_count(self.tasks.name, self.tasks.train_on, size=self.tasks.size)

    def split(self, split: str) -> TaskDistribution:
        """Load one split: supervised batches of "train", few-shot tasks of any other.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
        """
        if split != "train":
            return self.tasks.split(split)
        source = load(self.tasks.name, self.tasks.train_on, size=self.tasks.size)
        return SupervisedMasks(source, self.tasks.train_on, self.batch_size)

    def describe(self) -> dict[str, Any]:
        """Return the fields of the tasks that are set, and the size of the supervised batches."""
        return self.tasks.describe() | {"supervised_batch": self.batch_size}
