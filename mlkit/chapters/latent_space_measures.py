"""Distances between codes: which belong together, who their neighbors are, how much of that a flat map keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROWS = 1000  # points whose distances to all others are in memory at once
PAIRS, MOST = 4000, 2000  # pairs of points whose distances are ranked; points that a map is judged on


def separation(points: Tensor, classes: Tensor, groups: Tensor) -> Tensor:
    r"""Return the silhouette of every point (points,), in [-1, 1]; NaN where its class has no other point to compare.

    $$s = \frac{b - a}{\max(a, b)}$$
    a is the mean distance to the other points of its class, b that to the points of the nearest other class (Rousseeuw
    1987). Multiplying all points by one number changes nothing. Unlike scikit-learn's, pairs that share a group do not
    count: two codes of one image are alike whatever the encoder learned.

    Args:
        points: (points, numbers).
        classes: of each point (points,), int64.
        groups: (points, kinds) int64, e.g. the task and the image of each point.

    Example:
        >>> separation(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([0, 0, 1]), torch.arange(3)[:, None])[:2]
        tensor([0.8889, 0.8750], dtype=torch.float64)
    """
    members = torch.nn.functional.one_hot(classes).double()  # (points, classes)
    found = []
    for rows, distances, counted in _distances(points, groups):
        means = (distances * counted) @ members / (counted.double() @ members)  # 0 / 0 where there is no pair
        own = members[rows].bool()
        a, b = means[own], means.masked_fill(own, torch.inf).nan_to_num(torch.inf).amin(1)
        found.append((b - a) / torch.maximum(a, b).clamp_min(1e-300))
    return torch.cat(found)


def alike(points: Tensor, labels: Tensor, groups: Tensor, *, count: int) -> Tensor:
    """Return which share of each point's `count` nearest points has its label (points,); see `separation` for groups.

    Where there are fewer, all of them are asked; NaN where there is none.
    """
    found = []
    for rows, distances, counted in _distances(points, groups):
        nearest = distances.masked_fill(~counted, torch.inf).topk(min(count, len(points)), largest=False)
        there = nearest.values.isfinite()
        same = (labels[nearest.indices] == labels[rows, None]) & there
        found.append(same.sum(1) / there.sum(1))
    return torch.cat(found)


def _distances(points: Tensor, groups: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield some points, their distances to all, and which of these count: pairs that share no group."""
    points = points.double()
    for rows in torch.arange(len(points), device=points.device).split(ROWS):
        counted = (groups[rows, None] != groups).all(-1)
        yield rows, torch.cdist(points[rows], points), counted


def charts(points: np.ndarray, perplexities: list[float], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw points (points, numbers) flat (points, 2): by t-SNE, once a perplexity, and by the two main directions.

    t-SNE (van der Maaten and Hinton 2008) starts from the main directions; on one core the same points give the same
    map every time.

    Raises:
        ValueError: a perplexity is not below the number of points.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if perplexities and not 0 < min(perplexities) <= max(perplexities) < len(points):
        raise ValueError(f"expected perplexities above 0 and below {len(points)} points, got {perplexities}")
    with threadpool_limits(1):
        found = {
            f"t-SNE, perplexity {perplexity:g}": TSNE(perplexity=perplexity, random_state=seed).fit_transform(points)
            for perplexity in perplexities
        }
        return found | {"PCA": PCA(2, svd_solver="full").fit_transform(points)}


@dataclass(frozen=True)
class Kept:
    """What a map keeps: the share of nearest neighbors, and the rank correlation of distances between any points."""

    neighbors: float
    distances: float


def kept(points: np.ndarray, chart: np.ndarray, *, count: int) -> Kept:
    """Compare a map (points, 2) with the space (points, numbers) it is of: the `count` nearest, and distances.

    At most 2,000 points are compared, spread evenly over the given order, and 4,000 pairs. Points that are the same
    should be given once: which of them is nearest is up to chance.
    """
    from scipy.stats import spearmanr

    some = np.unique(np.linspace(0, len(points) - 1, min(MOST, len(points))).round().astype(int))
    count = min(count, len(some) - 1)
    near = []
    for place in (points[some], chart[some]):
        each = torch.from_numpy(np.ascontiguousarray(place, dtype=float))
        near.append(torch.cdist(each, each).fill_diagonal_(torch.inf).topk(count, largest=False).indices.numpy())
    shared = np.mean([len(np.intersect1d(*both)) for both in zip(*near, strict=True)]) / count
    first, second = np.random.default_rng(0).integers(len(points), size=(2, PAIRS))
    lengths = (np.linalg.norm(place[first] - place[second], axis=1) for place in (points, chart))
    return Kept(float(shared), float(spearmanr(*lengths).statistic))
