"""What a setting of the update hyperparameters is worth: adapt validation tasks once, score after every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from joblib import Parallel, delayed
from torch import Tensor

from mlkit.driver import Learner, Meta
from mlkit.evaluation import evaluate
from mlkit.losses import Metric
from mlkit.tasks.base import FrozenTasks, TaskBatch, content_hash
from mlkit.uho.space import Values, tuned

Counted = Literal["median", "best"]


@dataclass(frozen=True)
class Worth:
    """What one setting is worth.

    score: the objective, in units of the metric; NaN where adaptation left the finite numbers; steps: number of inner
    steps that goes with it; curve (max_steps + 1,): mean score of the judging tasks after 0, 1, ... steps; unadapted:
    mean score before the first step; stopped (tasks,): each stopping task's own best number of steps.
    """

    score: float
    steps: int
    curve: Tensor
    stopped: Tensor

    @property
    def diverged(self) -> bool:
        """Whether there is no score."""
        return math.isnan(self.score)


@dataclass(frozen=True)
class Objective:
    """Mean score over tasks, at the number of steps at which half of the validation tasks have passed their best.

    Every stopping task is adapted for `max_steps` steps and scored after each; the *median* over tasks of the best
    number of steps (of an even number of tasks the lower of the two in the middle) is then applied to the judging
    tasks, other splits of the same classes (paper 000, appendix D).
    With counted="best" the mean of every stopping task's own best score is the objective instead: cheaper, and
    optimistic.

    Args:
        learner: what was meta-trained.
        meta: its stacked meta-parameters of one run (1, ...).
        stopping: validation tasks that find the number of steps.
        judging: as many others that judge it; unused by counted="best".
        metric: the score.
        max_steps: largest number of inner steps.
        counted: which of the two objectives.
        chunk_size: tasks adapted at once; memory grows with it and with `max_steps`.
        device: where to compute.

    Raises:
        ValueError: there are no tasks, or no step.
    """

    learner: Learner
    meta: Meta
    stopping: FrozenTasks
    judging: FrozenTasks
    metric: Metric
    max_steps: int = 20
    counted: Counted = "median"
    chunk_size: int = 25
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not (len(self.stopping) and len(self.judging)):
            raise ValueError(
                f"expected validation tasks, got {len(self.stopping)} to stop on and {len(self.judging)} to judge by"
            )
        if self.max_steps < 1 or self.counted not in ("median", "best"):
            raise ValueError(
                f"expected max_steps >= 1 and counted 'median' or 'best', got {self.max_steps} and {self.counted!r}"
            )

    def worth(self, settings: Sequence[Values], *, jobs: int | None = None) -> list[Worth]:
        """Evaluate several settings; all their tasks are dealt to `jobs` processes, or as joblib is configured."""
        return list(self.each(settings, jobs=jobs))

    def each(self, settings: Sequence[Values], *, jobs: int | None = None) -> Iterator[Worth]:
        """Yield what `worth` returns, each as soon as it is known."""
        stopping = self._scores(settings, self.stopping, jobs)
        if self.counted == "best":
            yield from (self._best(scores, values) for scores, values in zip(stopping, settings, strict=True))
            return
        firsts = list(stopping)
        for first, second, values in zip(firsts, self._scores(settings, self.judging, jobs), settings, strict=True):
            yield self._median(first, second, values)

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return {
            "learner": self.learner.describe(),
            "metric": self.metric.name,
            "max_steps": self.max_steps,
            "counted": self.counted,
            "stopping": self.stopping.content_hash,
            "judging": self.judging.content_hash,
            "weights": content_hash({}, self.meta),
        }

    def _median(self, stopping: Tensor, judging: Tensor, values: Values) -> Worth:
        stopped = self._stopped(stopping)
        steps = int(values.get("steps", int(stopped.double().median())))
        curve = judging.double().mean(1)
        return Worth(_finite(curve[steps]), steps, curve, stopped)

    def _best(self, scores: Tensor, values: Values) -> Worth:
        stopped = self._stopped(scores)
        taken = stopped if "steps" not in values else torch.full_like(stopped, int(values["steps"]))
        best = scores.gather(0, taken[None])[0].double().mean()
        return Worth(_finite(best), int(taken.double().median()), scores.double().mean(1), stopped)

    def _stopped(self, scores: Tensor) -> Tensor:
        """Return each task's first best number of steps (tasks,), of scores (steps + 1, tasks); at least one step."""
        worst = -math.inf if self.metric.higher_is_better else math.inf
        usable = scores[1:].nan_to_num(worst, posinf=worst, neginf=worst)
        return 1 + (usable.argmax(0) if self.metric.higher_is_better else usable.argmin(0))

    def _scores(self, settings: Sequence[Values], tasks: FrozenTasks, jobs: int | None) -> Iterator[Tensor]:
        """Yield the scores of each setting on every task after each number of steps: (max_steps + 1, tasks)."""
        starts = range(0, len(tasks), self.chunk_size)
        pieces = (
            delayed(_measure)(learner, self.meta, batch, self.metric, steps, self.device)
            for learner, steps in [
                (tuned(self.learner, values), int(values.get("steps", self.max_steps))) for values in settings
            ]
            for batch in (tasks[start : start + self.chunk_size] for start in starts)
        )
        found = iter(Parallel(n_jobs=jobs, return_as="generator")(pieces))  # in order
        for _ in settings:
            yield torch.cat(list(islice(found, len(starts))), 1)


def _measure(learner: Learner, meta: Meta, batch: TaskBatch, metric: Metric, steps: int, device: str) -> Tensor:
    own = copy.deepcopy(learner)  # threads must not share a module: functional_call lends it weights while it runs
    return evaluate(own, meta, batch, metric=metric, steps=range(steps + 1), chunk_size=len(batch), device=device)[0]


def _finite(value: Tensor) -> float:
    return float(value) if bool(value.isfinite()) else math.nan
