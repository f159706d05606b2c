"""The seam to whatever proposes the next trial: ask, tell, and what it believes by now."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mlkit.uho.space import WHOLE, Space, Values

Array = np.ndarray


@dataclass(frozen=True)
class Belief:
    """What an engine believes of settings, each (settings,).

    mean, deviation: of the score; improvement: expected, over the best score so far.
    """

    mean: Array
    deviation: Array
    improvement: Array


class Engine(Protocol):
    """Proposes settings and learns from their scores; higher is better. Equal seeds and answers: equal proposals."""

    def ask(self, count: int) -> list[Values]:
        """Propose `count` settings, to be told before the next question."""

    def tell(self, values: Sequence[Values], scores: Sequence[float]) -> None:
        """Learn the scores of what was proposed."""

    def believe(self, values: Sequence[Values]) -> Belief | None:
        """Say what is expected of settings; None while there are too few scores."""


class GaussianProcess:
    r"""Bayesian optimization by scikit-optimize: half of the trials at random, then expected improvement.

    A Gaussian process with a Matern kernel ($\nu = 2.5$, a length scale a dimension) and noise is fitted to normalized
    scores (paper 000, appendix D). Several proposals at once are made by the constant liar strategy.

    Args:
        space: what is tuned.
        trials: how many there will be; the first half of them is drawn at random.
        seed: of everything random.
        xi: least improvement that counts, in units of the score.
    """

    def __init__(self, space: Space, *, trials: int, seed: int, xi: float = 0.01) -> None:
        from skopt import Optimizer

        self.space = space
        self.xi = xi
        self._optimizer = Optimizer(
            [_dimension(space, name) for name in space.searched],
            base_estimator="GP",
            n_initial_points=max(1, trials // 2),
            acq_func="EI",
            acq_func_kwargs={"xi": xi},
            acq_optimizer="lbfgs",
            acq_optimizer_kwargs={"n_points": 10_000, "n_restarts_optimizer": 5},
            random_state=seed,
        )

    def ask(self, count: int) -> list[Values]:
        """Propose `count` settings."""
        with _quiet():
            points = [self._optimizer.ask()] if count == 1 else self._optimizer.ask(n_points=count)
        return [self.space.values(dict(zip(self.space.searched, point, strict=True))) for point in points]

    def tell(self, values: Sequence[Values], scores: Sequence[float]) -> None:
        """Learn the scores of what was proposed."""
        with _quiet():
            self._optimizer.tell([self._point(each) for each in values], [-score for score in scores])

    def believe(self, values: Sequence[Values]) -> Belief | None:
        """Say what is expected of settings; None while no process is fitted."""
        if not self._optimizer.models:
            return None
        from skopt.acquisition import gaussian_ei

        model = self._optimizer.models[-1]
        points = self._optimizer.space.transform([self._point(each) for each in values])
        with _quiet():
            mean, deviation = model.predict(points, return_std=True)
            gain = gaussian_ei(points, model, y_opt=np.min(self._optimizer.yi), xi=self.xi)
        return Belief(-mean, deviation, gain)

    def _point(self, values: Values) -> list[Any]:
        return [values[name] for name in self.space.searched]


def _dimension(space: Space, name: str) -> Any:
    from skopt.space import Integer, Real

    bounds = space.ranges[name]
    kind = {"prior": "log-uniform" if bounds.log else "uniform", "transform": "normalize", "name": name}
    if name in WHOLE:
        return Integer(int(bounds.low), int(bounds.high), base=2, **kind)
    return Real(float(bounds.low), float(bounds.high), base=2, **kind)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what scikit-optimize and scikit-learn say of their own fits; nothing in it concerns the caller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
