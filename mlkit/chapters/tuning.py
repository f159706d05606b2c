"""Tuning after meta-training, as chapters store it: a search on validation tasks, then scores on test tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mlkit.chapters.claims import above
from mlkit.chapters.searches import summary
from mlkit.driver import Learner, Meta
from mlkit.evaluation import Summary, evaluate, over_tasks
from mlkit.losses import Metric
from mlkit.records import Result, Unit, Work
from mlkit.stored import Record
from mlkit.tasks import FrozenTasks
from mlkit.uho import Objective, Range, Space, Values, arrays, tune, tuned

TEST, STOPPING, JUDGING = 0, 1, 2  # seeds of frozen tasks: those of the test split, and two sets of validation tasks
REACH = 10.0  # factor below and above the learning rate of meta-training that is searched (paper 000, section 5.5)


def around(inner_lr: float) -> dict[str, Range]:
    """Return the range of learning rates from 10 times below that of meta-training to 10 times above it.

    Example:
        >>> around(0.005)["inner_lr"]
        Range(low=0.0005, high=0.05, log=True)
    """
    return {"inner_lr": Range(inner_lr / REACH, inner_lr * REACH, log=True)}


@dataclass(frozen=True)
class Tunable:
    """A meta-trained learner: its routine is tuned on validation tasks, and judged on test tasks.

    Nothing is loaded before it is needed: a page is drawn from records alone.

    label: begins with a method's name and says what else tells it apart, such as its shots; stem: its part of a
    record's name; of: keys of the trainings that it comes from; routine: the update hyperparameters of meta-training,
    `steps` among them; space: what may be tuned; tasks: split, count, seed -> frozen tasks; searched, tested: load the
    learner with meta-parameters (1, ...) that never saw the validation tasks, and those that are tested; before (test
    tasks,): scores of the tested ones after the routine of meta-training; data: of records; max_steps: largest number
    of steps.
    """

    label: str
    stem: str
    of: tuple[str, ...]
    routine: Values
    space: Space
    metric: Metric
    tasks: Callable[[str, int, int], FrozenTasks]
    searched: Callable[[], tuple[Learner, Meta]]
    tested: Callable[[], tuple[Learner, Meta]]
    before: np.ndarray
    max_steps: int = 20
    data: Mapping[str, Any] = field(default_factory=dict)
    chunk_size: int = 25
    jobs: int = 1
    device: str = "cpu"

    def objective(self, tasks: int) -> Objective:
        """Return what a setting is worth: the mean score of validation tasks at their median best number of steps."""
        learner, meta = self.searched()
        stopping, judging = (self.tasks("val", tasks, seed) for seed in (STOPPING, JUDGING))
        how = {"max_steps": self.max_steps, "chunk_size": self.chunk_size, "device": self.device}
        return Objective(learner, self._there(meta), stopping, judging, self.metric, **how)

    def search(self, unit: Unit, *, trials: int, tasks: int, seed: int = 0) -> Record:
        """Return the search over `trials` settings on `tasks` validation tasks; go on with it where it was killed.

        Scores of the record: `mlkit.chapters.searches.summary`; arrays: `mlkit.uho.arrays`.
        """

        def compute(work: Work) -> Result:
            objective = self.objective(tasks)
            how = {"trials": trials, "seed": seed, "jobs": self.jobs, "folder": work.folder}
            study = tune(objective, self.space, self.routine, **how)
            data = {**self.data, "split": "val", "content_hash": objective.stopping.content_hash}
            return Result(summary(study), arrays(study), data, tasks=tasks)

        asked = {"trials": trials, "tasks": tasks, "max_steps": self.max_steps, "seeds": [seed]}
        return unit.record(f"search-{self.stem}", self._settings(asked), compute)

    def judge(self, unit: Unit, found: Record) -> Record:
        """Return what the best routine of a search is worth on test tasks; `scores` (tasks,) is its array."""
        best = found.scores["best"] or found.scores["training"]

        def compute(work: Work) -> Result:
            scores = self._test(best["values"], best["steps"], len(self.before))
            mean = over_tasks(scores[None])
            return Result({"mean": mean.value, "ci95": mean.ci95}, {"scores": scores}, self.data, tasks=len(scores))

        asked = {"values": best["values"], "steps": best["steps"], "tasks": len(self.before), "search": found.key}
        return unit.record(f"tuned-{self.stem}", self._settings(asked), compute)

    def sweep(self, unit: Unit, *, rates: int, tasks: int) -> Record:
        """Return test scores after as many steps as in meta-training, at learning rates 10 times below to 10 above.

        Arrays: `rates` (rates,) and `scores` (rates, tasks).
        """
        span = self.space.ranges["inner_lr"]
        values, count = np.geomspace(span.low, span.high, rates), min(tasks, len(self.before))

        def compute(work: Work) -> Result:
            scores = [self._test({"inner_lr": float(rate)}, self.routine["steps"], count) for rate in values]
            found = {"rates": values, "scores": torch.stack(scores)}
            return Result({"steps": self.routine["steps"]}, found, self.data, tasks=count)

        asked = {"rates": values.tolist(), "steps": self.routine["steps"], "tasks": count}
        return unit.record(f"sweep-{self.stem}", self._settings(asked), compute)

    def gain(self, judged: Record) -> Summary:
        """Return by how much the tuned routine is better than that of meta-training on the same test tasks."""
        sign = 1 if self.metric.higher_is_better else -1
        return over_tasks(sign * torch.from_numpy(judged.arrays["scores"] - self.before).double()[None])

    def _settings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        space = self.space.describe()
        how = {"device": self.device, "chunk_size": self.chunk_size, "workers": self.jobs}
        return {"of": sorted(self.of), "label": self.label, "space": space, "routine": self.routine, **asked, **how}

    def _test(self, values: Values, steps: int, count: int) -> torch.Tensor:
        learner, meta = self.tested()
        how = {"metric": self.metric, "steps": steps, "chunk_size": self.chunk_size, "device": self.device}
        return evaluate(tuned(learner, values), self._there(meta), self.tasks("test", count, TEST), **how)[0].float()

    def _there(self, meta: Meta) -> Meta:
        return {name: tensor.to(self.device) for name, tensor in meta.items()}


def is_there(found: Summary) -> bool | None:
    """Say whether a mean lies above zero with its 95 % interval; None where that leaves it open."""
    return above(found.value - found.ci95, found.value + found.ci95)


def by_limit(found: Record) -> np.ndarray:
    """Return the learning rate that is best if at most 1, 2, ... steps are allowed (max_steps,), of a search's trials.

    No task is adapted anew: each trial knows its mean score after every step. NaN where all diverged.
    """
    better = 1 if found.scores["higher_is_better"] else -1
    curves = better * found.arrays["trial_curve"][:, 1:]  # (trials, max_steps)
    reached = np.fmax.accumulate(np.where(np.isfinite(curves), curves, -np.inf), axis=1)
    best = found.arrays["trial_inner_lr"][reached.argmax(0)]
    return np.where(np.isfinite(reached.max(0)), best, np.nan)
