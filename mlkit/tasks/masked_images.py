"""Pictures with masks by class, in memory once: a picture that shows several classes is kept once, its masks apart."""

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
class MaskedImages:
    """Pictures (pictures, 3, size, size) and masks (pairs, size, size), uint8.

    Pair i is masks[i] on pictures[shown[i]]; pairs of class k are offsets[k]:offsets[k+1].
    """

    name: str
    pictures: Tensor = field(repr=False)
    masks: Tensor = field(repr=False)
    shown: Tensor = field(repr=False)  # (pairs,), int64, on the CPU, as are the offsets
    offsets: Tensor = field(repr=False)  # (classes + 1,), int64
    names: tuple[str, ...] = field(repr=False)
    stand_in: bool = False

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return self.pictures.shape[-1]

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of the sha256 over class names, pictures and masks."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for tensor in (self.offsets, self.shown, self.pictures, self.masks):
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()[:16]

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures (..., 3, size, size) and masks (..., size, size), uint8, of the pairs `index` (...)."""
        device = self.pictures.device
        return self.pictures[self.shown[index].to(device)], self.masks[index.to(device)]

    def labeled(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures of the pairs `index` (...) and the label of every pixel (..., size, size), int64.

        Label c + 1 is class c, 0 none; all classes that a picture shows are labeled, not the pair's own alone.
        """
        shown = self.shown[index].to(self.pictures.device)
        return self.pictures[shown], self._labels[shown].long()

    @cached_property
    def _labels(self) -> Tensor:
        labels = torch.zeros(len(self.pictures), self.size, self.size, dtype=torch.int16, device=self.pictures.device)
        for k in range(len(self.names)):
            pairs = slice(int(self.offsets[k]), int(self.offsets[k + 1]))
            shown = self.shown[pairs].to(labels.device)
            labels[shown] = labels[shown].masked_fill(self.masks[pairs] > 127, k + 1)
        return labels

    def of(self, name: str) -> Tensor:
        """Return the numbers of a class's pairs.

        Raises:
            ValueError: there is no such class.
        """
        if name not in self.names:
            raise ValueError(f"expected a class of {self.name}, got {name!r}; complete the data or choose another")
        k = self.names.index(name)
        return torch.arange(int(self.offsets[k]), int(self.offsets[k + 1]))

    def select(self, names: Sequence[str], *, without: Sequence[str] = (), least: int = 0) -> MaskedImages:
        """Return a copy with these classes, in this order, free of pictures that show a class of `without`.

        Classes of which fewer than `least` pairs remain are left out.

        Raises:
            ValueError: a class of `names` is not there.
        """
        banned = torch.cat([self.shown[self.of(name)] for name in without if name in self.names] or [self.shown[:0]])
        free = ~torch.isin(self.shown, banned)
        kept = {name: chosen for name in names if len(chosen := (rows := self.of(name))[free[rows]]) >= least}
        rows = torch.cat([*kept.values(), self.shown[:0]])
        used, shown = self.shown[rows].unique(return_inverse=True)
        offsets = torch.tensor([0, *map(len, kept.values())]).cumsum(0)
        return replace(
            self, pictures=self.pictures[used], masks=self.masks[rows], shown=shown, offsets=offsets, names=tuple(kept)
        )

    def to(self, device: torch.device | str) -> MaskedImages:
        """Move the pixels to `device`, if they fit."""
        try:
            return replace(self, pictures=self.pictures.to(device), masks=self.masks.to(device))
        except torch.OutOfMemoryError:
            size = (self.pictures.numel() + self.masks.numel()) / 2**30
            warnings.warn(
                f"{self.name} ({size:.1f} GiB) does not fit on {device}: its images stay where they are", stacklevel=3
            )
            return self


def joined(name: str, parts: Sequence[MaskedImages]) -> MaskedImages:
    """Put several sets into one; class c of the set s is called s/c."""
    pictures = torch.tensor([0, *(len(part.pictures) for part in parts)]).cumsum(0)
    pairs = torch.tensor([0, *(len(part.masks) for part in parts)]).cumsum(0)
    return MaskedImages(
        name,
        torch.cat([part.pictures for part in parts]),
        torch.cat([part.masks for part in parts]),
        torch.cat([part.shown + before for part, before in zip(parts, pictures, strict=False)]),
        torch.cat([torch.tensor([0]), *(p.offsets[1:] + before for p, before in zip(parts, pairs, strict=False))]),
        tuple(f"{part.name}/{k}" for part in parts for k in part.names),
        any(part.stand_in for part in parts),
    )
