"""Searches made up for tests of what shows them: no trial is run."""

from __future__ import annotations

import math

import numpy as np

from mlkit.uho import Study, Trial

TRIALS, STEPS, POINTS = 5, 3, 7


def study(seed: int, *, trials: int = TRIALS) -> Study:
    """Return a study whose third trial diverged and whose first has no belief yet; a shorter one is its beginning."""
    rng = np.random.default_rng(seed)
    rates = rng.permutation(np.geomspace(1e-3, 1.0, TRIALS))
    curves = rng.uniform(0.2, 0.8, (TRIALS, STEPS + 1))
    steps = rng.integers(1, STEPS + 1, TRIALS)
    believed = rng.uniform(0.2, 0.8, (3, TRIALS, POINTS))
    believed[:, 0] = np.nan
    found = [
        Trial(
            {"inner_lr": float(rate)}, math.nan if n == 2 else float(curve[step]), int(step), tuple(curve), (int(step),)
        )
        for n, (rate, curve, step) in enumerate(zip(rates, curves, steps, strict=True))
    ]
    training = Trial({"inner_lr": 0.05}, 0.5, 2, (0.1, 0.3, 0.5, 0.4), (2,))
    beliefs = (each[:trials] for each in believed)
    return Study(tuple(found[:trials]), training, "inner_lr", np.geomspace(1e-3, 1.0, POINTS), *beliefs)
