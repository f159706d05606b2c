"""One experiment from end to end: tasks, learner, meta-training, meta-test on frozen tasks, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.driver import Learner, Meta
from mlkit.evaluation import evaluate, over_seeds, over_tasks
from mlkit.losses import Metric
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.records import Record, Result, Unit, Work
from mlkit.tasks.base import FrozenTasks, TaskDistribution
from mlkit.training import Tracker, Trained, train


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a result; what is not here (device, chunks) changes only time and memory.

    Args:
        learner: what is trained.
        tasks: training tasks.
        outer: the outer loop.
        test: frozen meta-test tasks.
        metric: score of a task.
        seeds: one run each.
        validation: picks the state that is tested; None tests the last one.
        test_steps: inner steps after which test tasks are scored, the first is the reported one; None: the learner's.
        trackers: further quantities recorded while training.
        keep_weights: store the tested meta-parameters of the first run (small nets only).
    """

    learner: Learner
    tasks: TaskDistribution
    outer: OuterLoop
    test: FrozenTasks
    metric: Metric
    seeds: Sequence[int]
    validation: Validation | None = None
    test_steps: Sequence[int] | None = None
    trackers: Mapping[str, Tracker] = field(default_factory=dict)
    keep_weights: bool = False

    def describe(self) -> dict[str, Any]:
        """Return the settings that identify the record."""
        judged = self.validation
        return {
            "learner": self.learner.describe(),
            "tasks": self.tasks.describe(),
            "outer": self.outer.describe(),
            "test": _describe_frozen(self.test),
            "validation": _describe_frozen(judged.tasks) | {"steps": judged.steps} if judged else None,
            "metric": self.metric.name,
            "seeds": list(self.seeds),
            "test_steps": list(self.test_steps) if self.test_steps else None,
            "trackers": sorted(self.trackers),
            "keep_weights": self.keep_weights,
        }


def _describe_frozen(tasks: FrozenTasks) -> dict[str, Any]:
    return {"tasks": len(tasks), "seed": tasks.seed, "content_hash": tasks.content_hash}


def run(unit: Unit, name: str, experiment: Experiment, execution: Execution | None = None) -> Record:
    """Return the record of `experiment`; compute it where it is missing, resuming a run that was killed.

    Scores of the record, with the metric of the experiment:

    - `mean`, `ci95`: over test tasks of all seeds; `seed_mean`, `seed_ci95`: over the seeds' means;
      `median`, `median_ci95`: over the seeds' medians over tasks;
    - `best_iteration`: of each seed; `tasks_per_second`: training tasks of all seeds; `train_seconds`.

    Arrays: `test_scores` (seeds, tasks) or (seeds, test_steps, tasks), and `history_*` (points, seeds, ...).
    """
    execution = execution or Execution()

    def compute(work: Work) -> Result:
        trained = _train(experiment, execution, work)
        scores = evaluate(
            experiment.learner,
            trained.best,
            experiment.test,
            metric=experiment.metric,
            steps=experiment.test_steps,
            chunk_size=experiment.validation.chunk_size if experiment.validation else 100,
            device=execution.device,
        )
        data = experiment.test.tasks.describe() | {"content_hash": experiment.test.content_hash}
        return Result(
            scores=_summaries(experiment, trained, scores),
            arrays=_arrays(experiment, trained, scores),
            data=data,
            tasks=len(experiment.test),
        )

    how = {"device": execution.device, "chunk_size": execution.chunk_size, "workers": execution.workers}
    return unit.record(name, experiment.describe() | how, compute)


def _train(experiment: Experiment, execution: Execution, work: Work) -> Trained:
    return train(
        experiment.learner,
        experiment.tasks,
        experiment.outer,
        seeds=experiment.seeds,
        metric=experiment.metric,
        validation=experiment.validation,
        trackers=experiment.trackers,
        execution=execution,
        folder=work.folder,
    )


def _summaries(experiment: Experiment, trained: Trained, scores: Tensor) -> dict[str, Any]:
    reported = scores[:, 0] if experiment.test_steps else scores
    tasks, means, medians = over_tasks(reported), over_seeds(reported), over_seeds(reported, statistic="median")
    trained_on = experiment.outer.iterations * experiment.outer.meta_batch * len(experiment.seeds)
    return {
        "metric": experiment.metric.name,
        "mean": tasks.value,
        "ci95": tasks.ci95,
        "seed_mean": means.value,
        "seed_ci95": means.ci95,
        "median": medians.value,
        "median_ci95": medians.ci95,
        "best_iteration": trained.best_iteration.tolist(),
        "train_seconds": trained.seconds,
        "tasks_per_second": trained_on / trained.seconds,
    }


def _arrays(experiment: Experiment, trained: Trained, scores: Tensor) -> dict[str, np.ndarray]:
    arrays = {f"history_{name}": _small(values) for name, values in trained.history.items()}
    arrays["test_scores"] = _small(scores)
    if experiment.keep_weights:
        arrays |= {f"meta/{name}": tensor[0].cpu().numpy() for name, tensor in trained.best.items()}
    return arrays


def _small(values: Tensor) -> np.ndarray:
    """Store scores in single precision: records ship with the project."""
    return values.to(torch.float32).cpu().numpy()


def weights_of(record: Record) -> Meta:
    """Return the tested meta-parameters that a record kept, as a stack of one run (1, ...).

    Raises:
        KeyError: the experiment was not asked to keep them.
    """
    kept = {key.removeprefix("meta/"): array for key, array in record.arrays.items() if key.startswith("meta/")}
    if not kept:
        raise KeyError(f"expected weights in {record.path}, got none; run the experiment with keep_weights=True")
    return {name: torch.from_numpy(np.array(array))[None] for name, array in kept.items()}
