"""Few-shot tasks on features: what a trained network computed of images once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.tasks.base import Draw, Examples, TaskBatch, content_hash
from mlkit.tasks.class_folders import distinct
from mlkit.tasks.images import ImageClasses


@dataclass(frozen=True, eq=False)
class FeatureClasses:
    """Features (examples, features) float32, sorted by class: those of class k are offsets[k]:offsets[k+1].

    `digests` holds the sha256 of each class's rows; `network` the hash of the weights that computed them, if known.
    """

    name: str
    rows: Tensor = field(repr=False)
    offsets: Tensor = field(repr=False)  # (classes + 1,), int64, on the CPU
    names: tuple[str, ...] = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)
    network: str = ""
    stand_in: bool = True

    @classmethod
    def build(
        cls, name: str, arrays: Sequence[np.ndarray], *, names: Sequence[str], network: str = "", stand_in: bool = True
    ) -> FeatureClasses:
        """Join one array (examples, features) a class."""
        ready = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
        offsets = torch.tensor([0, *np.cumsum([len(array) for array in ready])])
        digests = tuple(hashlib.sha256(array).hexdigest() for array in ready)
        return cls(name, torch.from_numpy(np.concatenate(ready)), offsets, tuple(names), digests, network, stand_in)

    @cached_property
    def sizes(self) -> Tensor:
        """Examples of each class (classes,), int64."""
        return self.offsets.diff()

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of the sha256 over class names and features."""
        parts = [f"{name} {digest}" for name, digest in zip(self.names, self.digests, strict=True)]
        return hashlib.sha256("\n".join([str(self.rows.shape[1]), *parts]).encode()).hexdigest()[:16]

    def arrays(self) -> list[np.ndarray]:
        """Return one array (examples, features) a class."""
        return np.split(self.rows.cpu().numpy(), self.offsets[1:-1].tolist())

    def scaled(self) -> FeatureClasses:
        """Return a copy whose features have length 1, as the public code of paper 004 takes them."""
        arrays = [F.normalize(torch.from_numpy(array), dim=1).numpy() for array in self.arrays()]
        how = {"names": self.names, "network": self.network, "stand_in": self.stand_in}
        return FeatureClasses.build(self.name, arrays, **how)

    def to(self, device: torch.device | str) -> FeatureClasses:
        """Move the features to `device`; offsets stay where tasks are drawn, on the CPU."""
        return replace(self, rows=self.rows.to(device))


@dataclass(frozen=True, eq=False)
class FeatureTasks:
    """Tasks of `ways` classes, `shots` + `query` distinct examples each; labels 0..ways-1 follow a random class order.

    x is (tasks, ways * shots, features), float32; y is (tasks, ways * shots), int64; both in class order. The same
    generator draws the same examples as `ClassTasks` does of the images, so that methods share their tasks.
    """

    source: FeatureClasses
    split: str
    ways: int
    shots: int
    query: int

    def __post_init__(self) -> None:
        where = f"{self.source.name}/{self.split}"
        if min(self.ways, self.shots, self.query) < 1:
            raise ValueError(f"expected ways, shots, query >= 1, got {self.ways}, {self.shots}, {self.query}")
        if self.ways > self.classes:
            raise ValueError(f"{where} has {self.classes} classes, too few for {self.ways} ways; lower ways")
        few = int(self.source.sizes.argmin())
        size, needed = int(self.source.sizes[few]), self.shots + self.query
        if size < needed:
            raise ValueError(
                f"class {self.source.names[few]!r} of {where} has {size} examples, expected at least shots + query = "
                f"{self.shots} + {self.query} = {needed}; lower them or remove the class"
            )

    @property
    def classes(self) -> int:
        """How many classes a task can be made of."""
        return len(self.source.names)

    @property
    def features(self) -> int:
        """How many numbers describe an example."""
        return self.source.rows.shape[1]

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Choose classes without replacement, then examples of each without replacement."""
        chosen = distinct(torch.full((count,), self.classes), self.ways, generator)
        within = distinct(self.source.sizes[chosen], self.shots + self.query, generator)
        return {
            "images": self.source.offsets[chosen].unsqueeze(-1) + within,  # (tasks, ways, shots + query)
            "seeds": torch.randint(2**62, (count,), generator=generator),
        }

    def gather(self, draw: Draw) -> TaskBatch:
        """Look the features up on the device where they live; `seeds` stay with the draw."""
        device = self.source.rows.device
        labels = torch.arange(self.ways, device=device).view(1, -1, 1).expand(draw["images"].shape)

        def examples(part: slice) -> Examples:
            index = draw["images"][:, :, part].flatten(1)
            x = self.source.rows.index_select(0, index.flatten().to(device)).view(*index.shape, -1)
            return Examples(x, labels[:, :, part].flatten(1))

        return TaskBatch(examples(slice(self.shots)), examples(slice(self.shots, None)), draw["seeds"])

    def classes_of(self, draw: Draw) -> Tensor:
        """Return which class each label of each task stands for: (tasks, ways), numbers into `source.names`."""
        return torch.searchsorted(self.source.offsets, draw["images"][:, :, 0].contiguous(), right=True) - 1

    def to(self, device: torch.device | str) -> FeatureTasks:
        """Move the features to `device`: tasks are then gathered there."""
        return replace(self, source=self.source.to(device))

    def describe(self) -> dict[str, Any]:
        """Return what a record says about the data."""
        return {
            "data": self.source.name,
            "split": self.split,
            "ways": self.ways,
            "shots": self.shots,
            "query": self.query,
            "classes": self.classes,
            "images": len(self.source.rows),
            "shape": [self.features],
            "network": self.source.network,
            "content_hash": self.source.content_hash,
            "stand_in": self.source.stand_in,
        }


class FeatureSource(Protocol):
    """Where features come from, named without loading them."""

    def classes(self, split: str) -> FeatureClasses:
        """Load the features of one split."""

    def describe(self) -> dict[str, Any]:
        """Say what identifies them."""


@dataclass(frozen=True)
class FeatureSpec:
    """Tasks on features, named without loading them: what an experiment asks for, as `TaskSpec` does of images.

    Args:
        source: where the features come from, for example `FeatureFile("features.npz")`.
        ways: classes of a task.
        shots: support examples of a class.
        query: query examples of a class; None for all that are left (paper 004, at validation and test).
        train_query: likewise in training.
        unit_length: scale each example's features to length 1, as the public code of paper 004 does.
    """

    source: FeatureSource
    ways: int = 5
    shots: int = 1
    query: int | None = 15
    train_query: int = 15
    unit_length: bool = True

    def split(self, split: str) -> FeatureTasks:
        """Load the tasks of one split.

        Raises:
            FileNotFoundError: the features are not there.
            ValueError: a class is too small for the task, or a file has another layout.
        """
        found = self.source.classes(split)
        found = found.scaled() if self.unit_length else found
        query = self.train_query if split == "train" else self.query
        query = int(found.sizes.min()) - self.shots if query is None else query
        return FeatureTasks(found, split, self.ways, self.shots, query)

    def describe(self) -> dict[str, Any]:
        """Return all fields; those of the source as it says them."""
        kept = ("ways", "shots", "query", "train_query", "unit_length")
        return {**{name: getattr(self, name) for name in kept}, "features": self.source.describe()}


@torch.no_grad()
def embed(
    network: Callable[[Tensor], Tensor], images: ImageClasses, *, key: str, batch: int = 200, device: str = "cpu"
) -> FeatureClasses:
    """Compute features of all images, in their order.

    Args:
        network: images (n, channels, height, width) in [0, 1] -> features (n, features), without regard to the others.
        images: what to describe.
        key: hash of the network's weights; see `weights_hash`.
        batch: images at a time.
        device: where to compute.
    """
    parts = []
    for pixels in images.images.split(batch):
        shown = (255 - pixels if images.ink else pixels).to(device) / 255
        parts.append(network(shown).float().cpu())
    arrays = np.split(torch.cat(parts).numpy(), images.offsets[1:-1].tolist())
    return FeatureClasses.build(images.name, arrays, names=images.names, network=key, stand_in=images.stand_in)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits that change with any weight."""
    return content_hash({}, weights)
