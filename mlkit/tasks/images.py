"""Images by class: uint8 in memory once, and how they get there from folders of image files."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images (images, channels, height, width) uint8, sorted by class: those of class k are offsets[k]:offsets[k+1].

    `digests` holds the sha256 of each class's pixels. With `ink`, dark strokes on white paper become 1 on 0.
    """

    name: str
    images: Tensor = field(repr=False)
    offsets: Tensor = field(repr=False)  # (classes + 1,), int64, on the CPU
    names: tuple[str, ...] = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)
    ink: bool = False
    stand_in: bool = False

    @classmethod
    def build(
        cls, name: str, arrays: Sequence[np.ndarray], *, names: Sequence[str], ink: bool = False, stand_in: bool = False
    ) -> ImageClasses:
        """Join one array (images, channels, height, width) uint8 a class."""
        offsets = torch.tensor([0, *np.cumsum([len(array) for array in arrays])])
        images = torch.from_numpy(np.concatenate(arrays))
        digests = tuple(hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for array in arrays)
        return cls(name, images, offsets, tuple(names), digests, ink, stand_in)

    @cached_property
    def sizes(self) -> Tensor:
        """Images of each class (classes,), int64."""
        return self.offsets.diff()

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of the sha256 over class names, scaling and pixels."""
        parts = [str(tuple(self.images.shape[1:])), str(self.ink)]
        parts += [f"{name} {digest}" for name, digest in zip(self.names, self.digests, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def select(self, names: Sequence[str]) -> ImageClasses:
        """Return a copy with these classes only, in this order.

        Raises:
            ValueError: A class is not there.
        """
        index = {name: k for k, name in enumerate(self.names)}
        missing = [name for name in names if name not in index]
        if missing:
            raise ValueError(
                f"{self.name}: expected {len(names)} classes, {len(missing)} are not there, the first is "
                f"{missing[0]!r}; complete the folder, then `mlkit data check {self.name}`"
            )
        chosen = [index[name] for name in names]
        parts = [self.images[int(self.offsets[k]) : int(self.offsets[k + 1])] for k in chosen]
        offsets = torch.tensor([0, *np.cumsum([len(part) for part in parts])])
        digests = tuple(self.digests[k] for k in chosen)
        return replace(self, images=torch.cat(parts), offsets=offsets, names=tuple(names), digests=digests)

    def first(self, count: int) -> ImageClasses:
        """Return a copy with the first `count` images of each class only.

        Raises:
            ValueError: a class has fewer.
        """
        few = int(self.sizes.argmin())
        if not 1 <= count <= int(self.sizes[few]):
            raise ValueError(
                f"expected from 1 to {int(self.sizes[few])} images a class, as many as class {self.names[few]!r} of "
                f"{self.name} has; got {count}"
            )
        images = self.images.cpu().numpy()
        arrays = [images[start : start + count] for start in self.offsets[:-1].tolist()]
        return ImageClasses.build(self.name, arrays, names=self.names, ink=self.ink, stand_in=self.stand_in)

    def to(self, device: torch.device | str) -> ImageClasses:
        """Move the pixels to `device`, if they fit; offsets stay where tasks are drawn, on the CPU."""
        try:
            return replace(self, images=self.images.to(device))
        except torch.OutOfMemoryError:
            size = self.images.numel() / 2**30
            warnings.warn(
                f"{self.name} ({size:.1f} GiB) does not fit on {device}: its images stay where they are", stacklevel=3
            )
            return self
