"""The history of a training: what is recorded at each of its points, and the best state so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mlkit.driver import Learner, Meta
from mlkit.evaluation import evaluate
from mlkit.losses import Metric
from mlkit.outer import Execution, Validation
from mlkit.training_state import TrainingState

# Stacked meta-parameters (runs, ...) and the iteration -> numbers (runs, ...), or several of them by name. One that has
# a `describe()` says by it what else decides its numbers.
Tracker = Callable[[Meta, int], Tensor | Mapping[str, Tensor]]


def observe(
    state: TrainingState,
    learner: Learner,
    metric: Metric,
    *,
    validation: Validation | None,
    trackers: Mapping[str, Tracker],
    execution: Execution,
) -> None:
    """Add one point to the history; keep what is best. The training numbers are means since the last point.

    Raises:
        ValueError: two quantities have one name, or the names are not those of the points before.
    """
    training = (state.sums / state.summed).tolist() if state.summed else [[float("nan")] * state.sums.shape[1]] * 2
    point: dict[str, Any] = {"iteration": state.iteration, "train_loss": training[0]}
    point[f"train_{metric.name}"] = training[1]
    if validation is not None:
        scores = state.but_frozen(_validated(state, learner, validation, execution))
        state.keep_best(scores, validation.metric.better(scores, state.best_score))
        point["validation"] = scores.tolist()
    start = time.monotonic()
    for name, values in _tracked(state, trackers):
        if name in point:
            raise ValueError(f"expected every quantity of the history to have its own name, got {name!r} twice")
        point[name] = state.but_frozen(values).tolist()
    state.tracking_seconds += time.monotonic() - start
    if state.history and point.keys() != state.history.keys():
        changed = ", ".join(sorted(point.keys() ^ state.history.keys()))
        raise ValueError(f"expected trackers to return the same names at every point, got a change in: {changed}")
    for name, value in point.items():
        state.history.setdefault(name, []).append(value)
    state.sums, state.summed = torch.zeros_like(state.sums), 0


def _validated(state: TrainingState, learner: Learner, validation: Validation, execution: Execution) -> Tensor:
    """Score the present state of each run on the validation tasks: (runs,)."""
    scores = evaluate(
        learner,
        state.frozen_meta(),
        validation.tasks,
        metric=validation.metric,
        steps=validation.steps,
        chunk_size=execution.evaluation_chunk,
        device=execution.device,
    )
    return scores.double().mean(1)


def _tracked(state: TrainingState, trackers: Mapping[str, Tracker]) -> Iterator[tuple[str, Tensor]]:
    for name, tracker in trackers.items():
        found = tracker(state.frozen_meta(), state.iteration)
        yield from found.items() if isinstance(found, Mapping) else [(name, found)]


def recorded(metric: Metric, trackers: Mapping[str, Tracker]) -> list[Any]:
    """Return what identifies the history: the metric, the trackers' names, and how those that say so describe it."""
    described = [tracker.describe() for _, tracker in sorted(trackers.items()) if hasattr(tracker, "describe")]
    return [metric.name, *sorted(trackers), *described]
