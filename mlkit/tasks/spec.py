"""Tasks named, not loaded: what a record is looked up by, on a machine that may not hold the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mlkit.tasks.base import TaskDistribution
from mlkit.tasks.datasets import load


@dataclass(frozen=True)
class TaskSpec:
    """A data set by name with the shape of its tasks; see `mlkit.tasks.load` for names and defaults.

    Training tasks may differ: `train_query` query examples (default: `query`), and `train_rotations` of the classes
    (Omniglot); validation and test classes stay upright. `train_images` leaves only so many images of each training
    class, so that meta-training overfits soon; for classes of images only.
    """

    name: str
    ways: int = 5
    shots: int | None = None
    query: int | None = None
    train_query: int | None = None
    train_rotations: Literal["none", "classes", "random"] = "none"
    train_images: int | None = None

    def split(self, split: str) -> TaskDistribution:
        """Load the tasks of one split.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
            ValueError: a class is too small for the task, or for `train_images`.
        """
        training = split == "train"
        query = self.train_query if training and self.train_query is not None else self.query
        rotations = self.train_rotations if training else "none"
        tasks = load(self.name, split, ways=self.ways, shots=self.shots, query=query, rotations=rotations)
        if training and self.train_images is not None:
            return replace(tasks, source=tasks.source.first(self.train_images))
        return tasks

    def describe(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
