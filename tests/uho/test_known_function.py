"""On a function of one learning rate whose best is known: 30 evaluations are enough, and better than chance.

Twenty searches take 36 seconds of processor time, nearly all of it in the fits of scikit-optimize.
"""

from __future__ import annotations

import math

import joblib
import numpy as np

from mlkit.uho import GaussianProcess, along_range
from tests.uho.cases import RATES

SEEDS, EVALUATIONS = 20, 30


def two_hills(rate: float) -> float:
    """A broad hill that is easily found, and a narrow one beside it that is better: 1 at a rate of 0.003."""
    place = math.log10(rate)
    return 0.8 * math.exp(-((place + 0.8) ** 2) / 1.5) + 0.9 * math.exp(-((place + 2.5) ** 2) / 0.06)


def searched(seed: int) -> float:
    """Return the best score that the engine of a search finds."""
    engine, found = GaussianProcess(RATES, trials=EVALUATIONS, seed=seed), []
    for _ in range(EVALUATIONS):
        settings = engine.ask(1)
        found.append(two_hills(settings[0]["inner_lr"]))
        engine.tell(settings, found[-1:])
    return max(found)


def by_chance(seed: int) -> float:
    """Return the best score of as many learning rates drawn evenly in the logarithm."""
    bounds = np.log([RATES.ranges["inner_lr"].low, RATES.ranges["inner_lr"].high])
    return max(map(two_hills, np.exp(np.random.default_rng(seed).uniform(*bounds, EVALUATIONS))))


def test_the_best_is_found_within_a_percent_and_sooner_than_by_chance():
    optimum = max(map(two_hills, along_range(RATES, "inner_lr", 20_000)))
    found = np.array(joblib.Parallel(n_jobs=2)(joblib.delayed(searched)(seed) for seed in range(SEEDS)))
    joblib.externals.loky.get_reusable_executor().shutdown()
    drawn = np.array([by_chance(seed) for seed in range(SEEDS)])
    assert (found >= 0.99 * optimum).sum() >= 18
    assert np.median(found) > np.median(drawn)
    assert np.median(drawn) < 0.99 * optimum, "else it were no test"
