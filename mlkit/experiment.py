"""One experiment from end to end: tasks, learner, meta-training, meta-test on frozen tasks, record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.driver import Learner, Meta
from mlkit.evaluation import evaluate, over_seeds, over_tasks
from mlkit.landscape.watch import Watch, Watcher
from mlkit.learners.linear_scores import accuracy_of_linear, judges_linear
from mlkit.losses import Metric
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.records import Record, Result, Unit, Work
from mlkit.tasks.base import FrozenTasks, TaskBatch, TaskDistribution, frozen
from mlkit.tasks.spec import TaskSpec
from mlkit.training import Tracker, Trained, train


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a result; what is not here (device, chunks) changes only time and memory.

    Args:
        learner: what is trained.
        tasks: names the data; loaded only when the record is missing.
        outer: the outer loop.
        metric: score of a task.
        seeds: one run each.
        validation_tasks: frozen tasks that pick the state to be tested; 0 tests the last one.
        test_tasks: frozen meta-test tasks that judge it.
        test_steps: inner steps after which test tasks are scored, the first is the reported one; None: the learner's.
        tracked_test_tasks: so many of the test tasks are also scored at every validation (history `test`); they are
            only watched, never used to choose.
        keep_weights: store the tested meta-parameters of the first run (small nets only).
        watch: landscape metrics to measure on tasks of the test split, at every validation and of the tested state.
    """

    learner: Learner
    tasks: TaskSpec
    outer: OuterLoop
    metric: Metric
    seeds: Sequence[int]
    validation_tasks: int = 600
    test_tasks: int = 600
    test_steps: Sequence[int] | None = None
    tracked_test_tasks: int = 0
    keep_weights: bool = False
    watch: Watch | None = None

    def describe(self) -> dict[str, Any]:
        """Return the settings that identify the record; no data is read."""
        kept = ("validation_tasks", "test_tasks", "tracked_test_tasks", "keep_weights")
        watch = {"watch": self.watch.describe()} if self.watch else {}  # where there is none, keys stay what they were
        return {
            "learner": self.learner.describe(),
            "tasks": self.tasks.describe(),
            "outer": self.outer.describe(),
            "metric": self.metric.name,
            "seeds": list(self.seeds),
            "test_steps": list(self.test_steps) if self.test_steps else None,
            **{name: getattr(self, name) for name in kept},
            **watch,
        }


@dataclass(frozen=True)
class _Loaded:
    """The tasks of an experiment, in memory."""

    train: TaskDistribution
    validation: FrozenTasks | None
    test: FrozenTasks


def _load(experiment: Experiment, device: str) -> _Loaded:
    def split(name: str) -> TaskDistribution:
        tasks = experiment.tasks.split(name)
        return tasks.to(device) if hasattr(tasks, "to") else tasks  # images live where they are used

    count = experiment.validation_tasks
    return _Loaded(
        split("train"),
        frozen(split("val"), count, seed=0) if count else None,
        frozen(split("test"), experiment.test_tasks, seed=0),
    )


def run(unit: Unit, name: str, experiment: Experiment, execution: Execution | None = None) -> Record:
    """Return the record of `experiment`; compute it where it is missing, resuming a run that was killed.

    Scores of the record, with the metric of the experiment:

    - `mean`, `ci95`: over test tasks, each averaged over the seeds; `seed_mean`, `seed_ci95`: over the seeds' means;
      `median`, `median_ci95`: over the seeds' medians over tasks;
    - `best_iteration`: of each seed; `train_seconds`, validation included, and `tasks_per_second`: training
      tasks of all seeds over them; with a watch `watch_seconds`, those that its history took (and tracked test tasks);
    - `diverged_at`: the step at which each seed was frozen, -1 where it was not; `skipped`: how many steps each left
      out because they were not finite; each only where there was any.

    Arrays: `test_scores` (seeds, tasks), after the first of `test_steps`; with several of them also
    `test_scores_last` (seeds, tasks), after the last, and `test_by_step` (seeds, steps), means over tasks;
    `history_*` (points, seeds); with a watch its numbers are among these, and `watch_*` (seeds,) are those of the
    tested state.
    """
    execution = execution or Execution()

    def compute(work: Work) -> Result:
        tasks = _load(experiment, execution.device)
        trained = _train(experiment, tasks, execution, work)
        judge = _judge(experiment, execution)
        scores = judge(trained.best, tasks.test, experiment.test_steps)
        return Result(
            scores=_summaries(experiment, trained, scores),
            arrays=_arrays(experiment, trained, scores) | _watched(experiment, tasks, trained.best, execution),
            data=_evidence(tasks),
            tasks=len(tasks.test),
        )

    how = {"device": execution.device, "chunk_size": execution.chunk_size, "workers": execution.workers}
    how |= {"autocast": str(execution.autocast)} if execution.autocast else {}
    return unit.record(name, experiment.describe() | how, compute)


def _judge(experiment: Experiment, execution: Execution) -> Callable[..., Tensor]:
    def scores(meta: Meta, tasks: FrozenTasks | TaskBatch, steps: Sequence[int] | None = None) -> Tensor:
        how = {"chunk_size": execution.evaluation_chunk, "device": execution.device}
        with execution.arithmetic():
            if steps is None and judges_linear(experiment.learner, tasks, experiment.metric):
                return accuracy_of_linear(experiment.learner, meta, tasks, chunk_size=execution.evaluation_chunk)
            return evaluate(experiment.learner, meta, tasks, metric=experiment.metric, steps=steps, **how)

    return scores


def _train(experiment: Experiment, tasks: _Loaded, execution: Execution, work: Work) -> Trained:
    trackers: dict[str, Tracker] = {}
    if experiment.watch:
        trackers["watch"] = _watcher(experiment, tasks, execution)
    if experiment.tracked_test_tasks:
        judge, watched = _judge(experiment, execution), tasks.test[: experiment.tracked_test_tasks]
        trackers["test"] = lambda meta, _: judge(meta, watched).double().mean(1)
    return train(
        experiment.learner,
        tasks.train,
        experiment.outer,
        seeds=experiment.seeds,
        metric=experiment.metric,
        validation=Validation(tasks.validation, experiment.metric) if tasks.validation else None,
        trackers=trackers,
        execution=execution,
        folder=work.folder,
    )


def _watcher(experiment: Experiment, tasks: _Loaded, execution: Execution) -> Watcher:
    how = {"metric": experiment.metric, "workers": execution.workers, "device": execution.device}
    return experiment.watch.on(experiment.learner, tasks.test.tasks, **how)


def _watched(experiment: Experiment, tasks: _Loaded, meta: Meta, execution: Execution) -> dict[str, np.ndarray]:
    """Measure the tested state, on the tasks of the last point of the history."""
    if experiment.watch is None:
        return {}
    found = _watcher(experiment, tasks, execution)(meta, experiment.outer.iterations)
    return {f"watch_{name}": _small(values) for name, values in found.items()}


def _evidence(tasks: _Loaded) -> dict[str, Any]:
    """Describe the test tasks, by whose hash two results are known to be judged alike, and the other sets' hashes."""
    validation = tasks.validation.content_hash if tasks.validation else None
    return tasks.test.tasks.describe() | {
        "content_hash": tasks.test.content_hash,
        "training_data_hash": tasks.train.describe()["content_hash"],
        "validation_hash": validation,
    }


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
        "tasks_per_second": trained_on / trained.seconds if trained_on else 0.0,
        **({"watch_seconds": trained.tracking_seconds} if experiment.watch else {}),
        **trained.accidents(),
    }


def _arrays(experiment: Experiment, trained: Trained, scores: Tensor) -> dict[str, np.ndarray]:
    arrays = {f"history_{name}": _small(values) for name, values in trained.history.items()}
    arrays["test_scores"] = _small(scores[:, 0] if experiment.test_steps else scores)
    if experiment.test_steps:
        arrays["test_scores_last"] = _small(scores[:, -1])
        arrays["test_by_step"] = _small(scores.double().mean(-1))
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
