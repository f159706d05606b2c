"""From records of watched trainings to statements: aligned curves, correlation with generalization, what changed.

Several units draw from one training: `shared` keeps its record in a store that belongs to none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import stdtrit

from mlkit.evaluation import Summary, over_seeds
from mlkit.experiment import Experiment, run
from mlkit.outer import Execution
from mlkit.records import Unit
from mlkit.stored import Record

STORE = "landscapes"  # beside the folders of the units: book/records/landscapes, runs/landscapes
LARGEST = 1 - 1e-12  # an R of 1 has no finite transform
Array = np.ndarray


def shared(
    name: str, experiment: Experiment, execution: Execution | None = None, *, root: Path | str | None = None
) -> Record:
    """Return the record of a training that several units draw from; compute it where it is missing.

    As `mlkit.experiment.run`, but whichever unit asks first computes it: units that give the same name and the same
    experiment, its watch included, share it. A unit that publishes names what it drew in its own record, by settings
    such as {"of": [record.key, ...]}.
    """
    return run(Unit(STORE, root=root), name, experiment, execution)


@dataclass(frozen=True)
class Curves:
    """What a training recorded: epochs and iterations (points,), values by name (points, seeds, ...), float64."""

    epochs: Array
    iterations: Array
    values: dict[str, Array]

    def mean(self, name: str) -> Array:
        """Average a quantity over the seeds, (points, ...); NaN where a seed's number is not finite."""
        return self.values[name].mean(1)


def curves(record: Record) -> Curves:
    """Return the history of a record; an epoch is what lies between two validations (500 iterations in paper 003)."""
    arrays = {name.removeprefix("history_"): a for name, a in record.arrays.items() if name.startswith("history_")}
    iterations = arrays.pop("iteration").astype(np.int64)
    epochs = iterations / record.settings["outer"]["validate_every"]
    return Curves(epochs, iterations, {name: array.astype(float) for name, array in arrays.items()})


def outcomes(records: Iterable[Record], name: str) -> Array:
    """Return a number of the watch at each record's tested state, (records, seeds): figures 8e and 10 of paper 003.

    Raises:
        KeyError: a record does not hold it.
    """
    found = []
    for record in records:
        if f"watch_{name}" not in record.arrays:
            there = sorted(key.removeprefix("watch_") for key in record.arrays if key.startswith("watch_"))
            raise KeyError(
                f"expected {name!r} in {record.path}, got {', '.join(there) or 'no watch'}; name one of these"
            )
        found.append(record.arrays[f"watch_{name}"].astype(float))
    return np.stack(found)


@dataclass(frozen=True)
class Correlation:
    """Pearson's R with its 95 % interval, over `count` points that are worth `effective` independent ones.

    value: NaN where a series is constant; low, high: -1 and 1 where nothing is known; runs: R of each seed alone.
    """

    value: float
    low: float
    high: float
    count: int
    effective: float
    runs: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"R = {self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def correlation(x: Array, y: Array, *, series: bool = False) -> Correlation:
    r"""Correlate two quantities over points that are both finite: Pearson's R, interval by Fisher's transformation.

    $$\tanh\big(\operatorname{artanh} R \pm 1.96 / \sqrt{n - 3}\big)$$

    Args:
        x: (points,).
        y: (points,).
        series: the points follow one another, as epochs do, and neighbors tell much the same. Then n is the effective
            number $n (1 - r_x r_y) / (1 + r_x r_y)$, r the correlation of neighbors (Bretherton et al. 1999). It does
            not cure that any two quantities that only grow are correlated.

    Raises:
        ValueError: the lengths differ, or fewer than three points are finite.

    Example:
        >>> print(correlation([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 5.0, 4.0]))
        R = 0.90 [0.09, 0.99]
    """
    x, y = (np.asarray(values, dtype=float) for values in (x, y))
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"expected two series of one length (points,), got {x.shape} and {y.shape}")
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3:
        raise ValueError(f"expected at least 3 points where both are finite, got {len(x)} of {len(known)}; record more")
    r, effective = _pearson(x, y), float(len(x))
    if series:
        together = max(0.0, _neighbors(x) * _neighbors(y))
        effective *= (1 - together) / (1 + together)
    return Correlation(r, *_fisher(r, effective), len(x), effective)


def over_epochs(curves: Curves, metric: str, generalization: str) -> Correlation:
    """Correlate a metric with generalization through training: both averaged over seeds, and for each seed alone.

    Epochs where a seed's number is not finite are left out, as is what fewer than three points remain of (NaN).
    """
    x, y = curves.values[metric], curves.values[generalization]
    runs = tuple(_of_run(x[:, seed], y[:, seed]) for seed in range(x.shape[1]))
    found = correlation(curves.mean(metric), curves.mean(generalization), series=True)
    return Correlation(found.value, found.low, found.high, found.count, found.effective, runs)


def across_runs(runs: Iterable[float]) -> Correlation:
    r"""Average the correlations of independent runs: a run is one point, so that neighbors in time need no allowance.

    $$\tanh\big(\bar z \pm t_{n-1}\, s / \sqrt n\big), \quad z_i = \operatorname{artanh} R_i$$

    Args:
        runs: R of each run; those that are not finite are left out. One run has an interval of -1 to 1.

    Raises:
        ValueError: no run is finite.

    Example:
        >>> print(across_runs([0.5, 0.6, 0.7]))
        R = 0.61 [0.30, 0.80]
    """
    runs = tuple(runs)
    known = np.array([value for value in runs if math.isfinite(value)])
    if not len(known):
        raise ValueError(f"expected at least one finite correlation, got {len(runs)} runs without any")
    z = np.arctanh(np.clip(known, -LARGEST, LARGEST))
    reach = float(stdtrit(len(z) - 1, 0.975) * z.std(ddof=1) / math.sqrt(len(z))) if len(z) > 1 else math.inf
    middle = float(z.mean())
    return Correlation(*map(math.tanh, (middle, middle - reach, middle + reach)), len(z), float(len(z)), runs)


def peak(values: Array, *, higher_is_better: bool = True) -> int:
    """Return the point (points, seeds) where the mean over the seeds is best: where meta-overfitting may begin.

    Raises:
        ValueError: no point is finite.
    """
    mean = np.asarray(values, dtype=float).mean(1)
    if not np.isfinite(mean).any():
        raise ValueError(f"expected at least one finite point to find the best of, got {len(mean)} that are not")
    return int(np.nanargmax(mean) if higher_is_better else np.nanargmin(mean))


def change(values: Array, start: int, *, width: int = 3) -> Summary:
    """Return how much a quantity (points, seeds) changes from point `start` to the end, averaged over seeds.

    Each end is the mean of `width` points, those around `start` and the last ones, so that one lucky point decides
    little. The interval is over seeds, NaN for a single one.

    Raises:
        ValueError: `start` is no point, or `width` is not in 1..points.
    """
    values = np.asarray(values, dtype=float)
    if not (0 <= start < len(values) and 1 <= width <= len(values)):
        raise ValueError(f"expected a start and a width within {len(values)} points, got {start} and {width}")
    first = min(max(0, start - width // 2), len(values) - width)
    difference = values[-width:].mean(0) - values[first : first + width].mean(0)
    return over_seeds(torch.from_numpy(difference)[:, None])


def _of_run(x: Array, y: Array) -> float:
    known = np.isfinite(x) & np.isfinite(y)
    return _pearson(x[known], y[known]) if known.sum() >= 3 else math.nan


def _pearson(x: Array, y: Array) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1, 1))


def _neighbors(x: Array) -> float:
    """Return the correlation of each point with the next; 0 where it is not known."""
    r = _pearson(x[:-1], x[1:])
    return 0.0 if math.isnan(r) else r


def _fisher(r: float, count: float) -> tuple[float, float]:
    if math.isnan(r) or count <= 3:
        return -1.0, 1.0
    if abs(r) == 1:
        return r, r
    reach = 1.96 / math.sqrt(count - 3)
    return math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
