"""Coherence: how much the gradients, trajectories or representations of different tasks agree.

The three metrics of paper 003 are one statistic of vectors, the mean inner product over pairs of different ones. It is
unbiased, and needs the sum of the vectors alone: they are streamed, a chunk at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlkit.seeding import seeded

PAIRWISE_LIMIT = 1000  # tasks of a heat map
RESAMPLES = 2000  # of the bootstrap
FEWEST_GROUPS = 8  # of tasks, however small a chunk is


@dataclass(frozen=True)
class Coherence:
    """The mean inner product (or cosine) of pairs of vectors, with its 95 % bootstrap interval over tasks.

    value: unbiased over pairs; low, high: the interval, NaN for two vectors; norm: mean length of the finite vectors,
    as they came; count: vectors that entered; skipped: those left out.
    """

    value: float
    low: float
    high: float
    norm: float
    count: int
    skipped: int


def coherence(
    chunks: Iterable[Tensor], *, directions: bool = False, groups: int | None = None, seed: int = 0
) -> Coherence:
    r"""Average the inner products of all pairs of different vectors, in one pass.

    $$E[v_i \cdot v_j] = \frac{1}{n(n-1)} \Big( \big\|\textstyle\sum_i v_i\big\|^2 - \sum_i \|v_i\|^2 \Big)$$

    With `gradients` it is the gradient coherence of paper 003 (eq. 6), with `displacements` and `directions=True` its
    trajectory coherence (eq. 5), with `representations` that of section 6. Sums are kept in float64. Besides one chunk
    they take the memory of two thirds of a chunk, or of 8 vectors where that is more, whatever the number of tasks.

    Args:
        chunks: vectors (n, d), a few at a time. Those that are not finite (a diverged task) are left out.
        directions: divide each vector by its length first: the mean cosine. Vectors of length zero are left out.
        groups: task i belongs to group i mod `groups`, and the bootstrap draws groups. More groups know the interval
            better and take one vector of memory each; with as many as tasks it is the bootstrap over tasks itself.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two vectors are left, or fewer than two groups are asked for.

    Example:
        >>> found = coherence([torch.tensor([[3.0, 4.0], [5.0, 0.0]]), torch.tensor([[0.0, 0.0]])], directions=True)
        >>> round(found.value, 6), found.count, found.skipped
        (0.6, 2, 1)
    """
    if groups is not None and groups < 2:
        raise ValueError(f"expected at least 2 groups of tasks, got {groups}; pass groups=None for the default")
    sums: _Sums | None = None
    for chunk in chunks:
        sums = sums or _Sums(groups or _affordable(chunk), chunk, directions)
        sums.add(chunk)
        del chunk  # or it would be held while the next one is made
    if sums is None or sums.count < 2:
        kept, seen = (sums.count, sums.seen) if sums else (0, 0)
        raise ValueError(
            f"expected at least two vectors to compare, got {kept} of {seen}: those that are not finite"
            f"{' or have no length' if directions else ''} are left out; measure more tasks, or lower inner_lr"
        )
    return sums.summary(seed)


def pairwise(chunks: Iterable[Tensor], *, directions: bool = False) -> Tensor:
    """Return every inner product v_i . v_j (n, n) in float64, for a heat map of at most 1,000 tasks.

    Rows and columns keep the order of the tasks; those of a vector that is not finite (with `directions`: or has no
    length) are NaN. All vectors are held at once.

    Args:
        chunks: vectors (n, d), a few at a time.
        directions: return cosines.

    Raises:
        ValueError: no vectors, or more than 1,000.
    """
    parts: list[Tensor] = []
    for chunk in chunks:
        parts.append(chunk.detach())
        if (count := sum(map(len, parts))) > PAIRWISE_LIMIT:
            raise ValueError(
                f"expected at most {PAIRWISE_LIMIT:,} tasks for all their pairs, got {count:,} or more; "
                "pass fewer, or use coherence() for the mean alone"
            )
    if not parts:
        raise ValueError("expected at least one task to compare, got none; pass chunks of vectors (n, d)")
    products = torch.cat([torch.cat([a.double() @ b.double().mT for b in parts], 1) for a in parts])
    lengths = products.diagonal().sqrt()
    left_out = ~lengths.isfinite() | (directions & (lengths == 0))
    if directions:
        products = products / (lengths[:, None] * lengths)
    return products.masked_fill(left_out[:, None] | left_out, math.nan)


def _affordable(chunk: Tensor) -> int:
    """Return the number of float64 vectors that two thirds of a chunk's memory hold."""
    return max(FEWEST_GROUPS, chunk.nbytes * 2 // 3 // (8 * chunk.shape[1]))


class _Sums:
    """What one pass keeps of each group of vectors: their sum, the sum of their squared lengths, their number."""

    def __init__(self, groups: int, like: Tensor, directions: bool) -> None:
        self.sums = torch.zeros(groups, like.shape[1], dtype=torch.float64, device=like.device)
        self.squares, self.counts = torch.zeros(2, groups, dtype=torch.float64)
        self.directions, self.seen, self.finite, self.length = directions, 0, 0, 0.0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def add(self, chunk: Tensor) -> None:
        for vector in chunk.detach():
            vector = vector.double()  # one at a time: a whole chunk would take twice its memory
            self._add(vector, float(torch.linalg.vector_norm(vector)), self.seen % len(self.sums))
            self.seen += 1

    def _add(self, vector: Tensor, length: float, group: int) -> None:
        if not math.isfinite(length):
            return
        self.finite, self.length = self.finite + 1, self.length + length
        if self.directions and length == 0:
            return
        self.sums[group].add_(vector, alpha=1 / length if self.directions else 1)
        self.squares[group] += 1 if self.directions else length**2
        self.counts[group] += 1

    def summary(self, seed: int) -> Coherence:
        gram, filled = (self.sums @ self.sums.mT).cpu(), self.counts > 0
        groups = gram[filled][:, filled], self.squares[filled], self.counts[filled]
        value = float(_pair_mean(*groups, torch.ones_like(groups[-1])))
        low, high = _interval(value, groups, seed)
        return Coherence(value, low, high, self.length / self.finite, self.count, self.seen - self.count)


def _pair_mean(gram: Tensor, squares: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Average over pairs of different tasks, where those of group g count `weights[..., g]` times.

    gram (groups, groups): inner products of the groups' sums; squares, counts (groups,).
    """
    doubled = weights.square()
    total = ((weights @ gram) * weights).sum(-1) - doubled @ squares
    return total / ((weights @ counts).square() - doubled @ counts)


def _interval(value: float, groups: tuple[Tensor, Tensor, Tensor], seed: int) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % points of the bootstrap, moved outward for the small number of groups."""
    count = len(groups[-1])
    if count < 3:
        return math.nan, math.nan
    drawn = torch.randint(count, (RESAMPLES, count), generator=seeded("coherence", seed))
    weights = torch.zeros(RESAMPLES, count, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    values = _pair_mean(*groups, weights)  # 0 / 0 where one task was drawn throughout
    low, high = values.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # the bootstrap's variance is (count - 1) / count of the unbiased one; Student's t over the normal, to first order
    widened = math.sqrt(count / (count - 1)) * (1 + (1.96**2 + 1) / (4 * (count - 1)))
    return value + widened * (low - value), value + widened * (high - value)
