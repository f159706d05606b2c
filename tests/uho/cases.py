"""Objectives that cost nothing, and a learner small enough to be tuned in a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mlkit.driver import stack
from mlkit.learners import MAML
from mlkit.losses import ACCURACY, MEAN_SQUARED_ERROR, Metric, mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks import frozen, sine
from mlkit.uho import Objective, Range, Space, Values, Worth

RATES = Space({"inner_lr": Range(1e-4, 1.0, log=True)})
LEARNER = MAML(MLP((1, 8, 1)), 0.01, 1, mean_squared_error)
META = stack([LEARNER.init(seeded("uho"))])


def bump(rate: float) -> float:
    """A smooth score with its best, 1, at a rate of 0.01."""
    return math.exp(-(math.log10(rate / 0.01) ** 2))


@dataclass
class Known:
    """A score that is a formula of the settings; counts how often it is asked."""

    function: Callable[[float], float] = bump
    metric: Metric = ACCURACY
    asked: list[Values] = field(default_factory=list)

    def each(self, settings: Sequence[Values], *, jobs: int | None = None) -> Iterator[Worth]:
        """Evaluate the formula."""
        for values in settings:
            self.asked.append(values)
            score, unadapted = self.function(values["inner_lr"]), 0.0 if self.metric.higher_is_better else 1.0
            yield Worth(score, 1, torch.tensor([unadapted, score]).double(), torch.tensor([1]))

    def describe(self) -> dict[str, Any]:
        """Name the formula."""
        return {"function": self.function.__name__}


def waves(**changes: Any) -> Objective:
    """Return the objective of tuning an untrained network on waves."""
    tasks = sine("finn", "val", shots=5, query=10)
    kept = {"meta": META, "max_steps": 4, "chunk_size": 3} | changes
    both = {"stopping": frozen(tasks, 6, 0), "judging": frozen(tasks, 6, 1)}
    return Objective(LEARNER, metric=MEAN_SQUARED_ERROR, **both | kept)
