"""From which number of shots on two initializations come to the same, with an interval; what paper 000 says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 2000
MARGIN = 0.01  # one point of IoU: less than that counts as the same
Array = np.ndarray
Agreement = Literal["agrees", "open", "contradicts"]


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % bootstrap interval; infinite where it is beyond what was measured."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gains:
    """What one initialization gains over another, on the same tasks.

    shots: numbers of pictures (shots,); value, low, high (shots,): mean difference of scores with its 95 % interval;
    matched: the number of shots from which on the difference stays at most `margin`; margin: in units of the score.
    """

    shots: tuple[int, ...]
    value: Array
    low: Array
    high: Array
    matched: Estimate
    margin: float

    @property
    def sure_up_to(self) -> int:
        """The largest number of shots up to which every interval lies above 0; 0 for none."""
        last = 0
        for shots, low in zip(self.shots, self.low, strict=True):
            if not low > 0:
                break
            last = shots
        return last

    def __str__(self) -> str:
        one = self.matched
        return f"{self._words(one.value)} (95 % interval {self._words(one.low)} to {self._words(one.high)})"

    def _words(self, shots: float) -> str:
        return f"more than {self.shots[-1]}" if math.isinf(shots) else f"{shots:.0f}"


def gains(
    ours: Array,
    theirs: Array,
    shots: Sequence[int],
    *,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gains:
    r"""Compare two initializations by the scores of the same tasks.

    The initializations match from $k^* = \min \{k : \bar d_{k'} \le \text{margin for all } k' \ge k\}$ on, where
    $\bar d_k$ is the mean difference at k shots, linear in log k between the numbers that were measured. Intervals are
    percentiles of a bootstrap that resamples classes, then the repeats of each.

    Args:
        ours: scores (classes, repeats, shots), higher is better; NaN where a class has too few pictures, which leaves
            it out of that mean.
        theirs: those of the other initialization.
        shots: numbers of pictures (shots,).
        margin: difference that counts as none.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: the scores are not of the same tasks.
    """
    if ours.shape != theirs.shape or ours.ndim != 3 or ours.shape[2] != len(shots):
        raise ValueError(
            f"expected scores (classes, repeats, {len(shots)}) of the same tasks, got {ours.shape} and {theirs.shape}"
        )
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    drawn = resampled(difference, resamples, seed)
    found = [matched_from(row, shots, margin) for row in drawn]
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")  # never between a number and infinity
    value = _mean(difference)
    matched = Estimate(matched_from(value, shots, margin), float(low), float(high))
    return Gains(tuple(shots), value, *_ends(drawn), matched, margin)


def means(scores: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return the mean over tasks of scores (classes, repeats, shots), and the ends of its interval, (shots,) each."""
    return (_mean(scores), *_ends(resampled(np.asarray(scores, dtype=float), resamples, seed)))


def resampled(values: Array, resamples: int, seed: int) -> Array:
    """Return means (resamples, shots) of values (classes, repeats, shots): classes are redrawn, then their repeats."""
    rng, (classes, repeats, _) = np.random.default_rng(seed), values.shape
    rows = rng.integers(classes, size=(resamples, classes, 1))
    columns = rng.integers(repeats, size=(resamples, classes, repeats))
    return _mean(values[rows, columns])


def matched_from(difference: Array, shots: Sequence[int], margin: float) -> float:
    """Return the number of shots from which on a mean difference (shots,) stays at most `margin`; infinity for none.

    Example:
        >>> round(matched_from(np.array([0.2, 0.1, 0.0]), (1, 10, 100), margin=0.05), 1)
        31.6
    """
    known = np.isfinite(difference)
    d, k = np.asarray(difference)[known], np.asarray(shots, dtype=float)[known]
    above = np.flatnonzero(d > margin)
    if not len(above):
        return float(k[0]) if len(k) else math.inf
    last = above[-1]
    if last == len(d) - 1:
        return math.inf
    share = (d[last] - margin) / (d[last] - d[last + 1])
    return float(k[last] * (k[last + 1] / k[last]) ** share)


def _mean(values: Array) -> Array:
    """Return the mean over classes and repeats, the axes before the last; NaN is left out, and the mean of nothing."""
    known = np.isfinite(values)
    count = known.sum((-3, -2))
    total = np.where(known, values, 0.0).sum((-3, -2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _ends(drawn: Array) -> tuple[Array, Array]:
    """Return the ends of 95 % intervals (shots,) of resampled means (resamples, shots)."""
    ends = [np.quantile(c[np.isfinite(c)], [0.025, 0.975]) if np.isfinite(c).any() else [np.nan] * 2 for c in drawn.T]
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])


@dataclass(frozen=True)
class Statement:
    """What paper 000 says somewhere of the number of shots from which on transfer is as good.

    ahead: the largest number of shots up to which the meta-learned initialization is said to be ahead, 0 for none;
    equal: the number beyond which both are said to be equal, infinity for none.
    """

    where: str
    words: str
    ahead: float = 0
    equal: float = math.inf

    def ends(self, shots: Sequence[int]) -> tuple[float, float]:
        """Return the bounds [low, high) of that number, seen with these numbers of shots.

        Ahead up to 99 is ahead at the largest number that was measured below; equal beyond 10 is equal at the next one.

        Example:
            >>> STATEMENTS[2].ends((1, 5, 10, 50, 100))
            (10, 50)
        """
        low = max((k for k in shots if k <= self.ahead), default=0)
        return low, min((k for k in shots if k > self.equal), default=math.inf)

    def judge(self, matched: Estimate, shots: Sequence[int]) -> Agreement:
        """Tell whether an interval lies inside what is said, outside, or partly.

        Args:
            matched: number of shots with its interval.
            shots: numbers that were measured; of an infinite end is known that it lies beyond the largest.
        """
        low, high = self.ends(shots)
        least, bounded = min(matched.low, shots[-1]), math.isfinite(high)
        if matched.high < low or (bounded and least >= high):
            return "contradicts"
        return "agrees" if least >= low and (matched.high < high or self.equal == math.inf) else "open"


STATEMENTS = (
    Statement("abstract", "performance being equal beyond 10 labeled examples", equal=10),
    Statement("section 1", "outperform ... when the number of labeled examples is less than 10^2", ahead=99),
    Statement("section 5.5", "reliably outperformed ... but only up to 10 training examples", ahead=10, equal=10),
)
