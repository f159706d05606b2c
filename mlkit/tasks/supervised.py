"""Supervised batches of all training classes, each as one pseudo task: what the finetuning baseline trains on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from mlkit.tasks.base import Draw, Examples, TaskBatch, TaskDistribution
from mlkit.tasks.class_folders import ClassTasks
from mlkit.tasks.datasets import class_count
from mlkit.tasks.spec import TaskSpec


@dataclass(frozen=True, eq=False)
class SupervisedBatches:
    """Batches of images of all classes of a split, each a pseudo task whose labels count the classes: 0..classes-1.

    x is (tasks, batch_size, channels, height, width), float32 in [0, 1]; y is (tasks, batch_size), int64. Support and
    query are the same examples: nothing adapts to a pseudo task. The images of a batch are distinct, drawn uniformly
    from the whole split; so a batch depends on its generator alone, and training resumes at any step.

    Args:
        tasks: few-shot tasks on the same images; their source, split and rotations are taken. With rotations "classes"
            each quarter turn of a class is a class of its own.
        batch_size: images of a batch.

    Raises:
        ValueError: the tasks are not of images by class, or have fewer than `batch_size` of them.
    """

    tasks: ClassTasks
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, ClassTasks):
            raise ValueError(
                f"expected tasks of images by class, got {type(self.tasks).__name__}; name a data set of them"
            )
        images = len(self.tasks.source.images)
        if not 1 <= self.batch_size <= images:
            raise ValueError(
                f"expected a batch_size from 1 to the {images} images of {self.tasks.source.name}/{self.tasks.split}, "
                f"got {self.batch_size}"
            )

    @property
    def classes(self) -> int:
        """How many classes there are to tell apart."""
        return self.tasks.classes

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose the images of `count` batches, and how each is turned."""
        every = len(self.tasks.source.images)
        images = [torch.randperm(every, generator=generator)[: self.batch_size] for _ in range(count)]
        ways_up = 1 if self.tasks.rotations == "none" else 4
        return {
            "images": torch.stack(images),  # (tasks, batch_size)
            "turns": torch.randint(ways_up, (count, self.batch_size), generator=generator),
            "seeds": torch.randint(2**62, (count,), generator=generator),
        }

    def gather(self, draw: Draw) -> TaskBatch:
        """Look the images up on the device where they live; `seeds` stay with the draw."""
        images, turns = draw["images"], draw["turns"]
        labels = torch.searchsorted(self.tasks.source.offsets, images, right=True) - 1
        if self.tasks.rotations == "classes":
            labels = 4 * labels + turns
        x = self.tasks.pixels(images.unsqueeze(-1), turns)
        batch = Examples(x, labels.to(x.device))
        return TaskBatch(batch, batch, draw["seeds"])

    def to(self, device: torch.device | str) -> SupervisedBatches:
        """Move the images to `device`: batches are then gathered there."""
        return replace(self, tasks=self.tasks.to(device))

    def describe(self) -> dict[str, Any]:
        """Return what a record says about the data."""
        of_tasks = ("ways", "shots", "query")
        data = {name: value for name, value in self.tasks.describe().items() if name not in of_tasks}
        return data | {"batch_size": self.batch_size}


@dataclass(frozen=True)
class SupervisedSpec:
    """Supervised batches to train on and few-shot tasks to be judged on, named without loading them.

    Paper 003 trains on batches of 64 for its 1-shot study (25 an epoch), of 128 for its 5-shot study (12 an epoch).

    Args:
        tasks: names the data and the few-shot tasks; its `train_rotations` hold for the batches.
        batch_size: images of a batch.

    Example:
        >>> SupervisedSpec(TaskSpec("cifar_fs"), batch_size=64).classes
        64
    """

    tasks: TaskSpec
    batch_size: int = 64

    @property
    def classes(self) -> int:
        """How many training classes there are to tell apart; a folder of one's own is read to know."""
        return class_count(self.tasks.name, "train") * (4 if self.tasks.train_rotations == "classes" else 1)

    def split(self, split: str) -> TaskDistribution:
        """Load one split: supervised batches of "train", few-shot tasks of any other.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
        """
        tasks = self.tasks.split(split)
        return SupervisedBatches(tasks, self.batch_size) if split == "train" else tasks

    def describe(self) -> dict[str, Any]:
        """Return the fields of the few-shot tasks that are set, and the size of the supervised batches."""
        return self.tasks.describe() | {"supervised_batch": self.batch_size}
