"""Tasks named, not loaded: what a record is looked up by, on a machine that may not hold the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlkit.tasks.base import TaskDistribution
from mlkit.tasks.datasets import load


@dataclass(frozen=True)
class TaskSpec:
    """A data set by name with the shape of its tasks; see `mlkit.tasks.load` for names and defaults.

    Training tasks may differ: `train_query` query examples (default: `query`), and `train_rotations` of the classes
    (Omniglot); validation and test classes stay upright.
    """

    name: str
    ways: int = 5
    shots: int | None = None
    query: int | None = None
    train_query: int | None = None
    train_rotations: Literal["none", "classes", "random"] = "none"

    def split(self, split: str) -> TaskDistribution:
        """Load the tasks of one split.

        Raises:
            FileNotFoundError: the data is not there; the message says how to get it.
        """
        training = split == "train"
        query = self.train_query if training and self.train_query is not None else self.query
        rotations = self.train_rotations if training else "none"
        return load(self.name, split, ways=self.ways, shots=self.shots, query=query, rotations=rotations)

    def describe(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}
