"""Segment pictures after a few labeled ones: `mlkit.segment(images, masks, query)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from mlkit.initializations import Initialization


def segment(
    images: Sequence[Any],
    masks: Sequence[Any],
    query: Sequence[Any],
    *,
    initialization: Initialization | str | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> list[np.ndarray]:
    """Adapt a meta-learned initialization to a few labeled pictures, then find the same kind of thing in others.

    A picture is the path of a file, a Pillow image, or an array (height, width) or (height, width, 3) of bytes, or of
    floating point in [0, 1]; a mask is likewise, without channels, high where the thing is. Sizes may differ; the
    network sees everything in one size.

    Args:
        images: pictures to adapt to, one to ten of them.
        masks: their masks.
        query: pictures to segment.
        initialization: what to start from: None for the one that ships with the book, the path of a record, or what
            `mlkit.initializations.read` returned.
        steps: inner steps; None for as many as in training.
        seed: of mini-batches, augmentation and dropout while adapting.
        device: where to compute.

    Returns:
        For each picture of `query` how likely each of its pixels shows the thing, (height, width), float32 in [0, 1];
        `> 0.5` is the mask.

    Raises:
        ValueError: there is no picture, numbers do not match, or something is no picture or no mask.
        FileNotFoundError: no initialization is there; the message says how to make one.

    Example:
        >>> found = mlkit.segment(["a.jpg", "b.jpg"], ["a.png", "b.png"], ["c.jpg"])  # doctest: +SKIP
    """
    from mlkit.initializations import Initialization, published, read  # here, so that `import mlkit` needs no torch

    if initialization is None:
        initialization = published()
    elif not isinstance(initialization, Initialization):
        initialization = read(initialization)
    return initialization.segment(images, masks, query, steps=steps, seed=seed, device=device)
