"""Adapting to k pictures: step by step, so that every step can be judged and none has to be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mlkit.adaptation import Adapted, Descent, Weights, descend
from mlkit.driver import Learner, Meta, for_tasks
from mlkit.learners import Displacement, JointTraining, common
from mlkit.learners.reptile import mini_batches
from mlkit.losses import Metric
from mlkit.many_shots.protocol import Protocol, StepDecay, best_step
from mlkit.tasks.base import Examples, TaskBatch
from mlkit.uho import Values, tuned

PREDICTED = 20  # pictures of a task that are predicted at once


def walk(
    learner: Displacement | JointTraining, meta: Meta, tasks: TaskBatch, *, steps: int, decay: StepDecay | None = None
) -> Iterator[Adapted]:
    """Yield what `learner.adapt` comes to after 1, 2, ..., `steps` steps, one at a time.

    Args:
        learner: whose routine adapts.
        meta: each task's copy of the meta-parameters (tasks, ...).
        tasks: whose support sets are adapted to.
        steps: the largest number.
        decay: of the learning rate; None for a fixed one, as the learner has.
    """
    routine = getattr(learner, "adaptation", learner)
    here = learner.adapt(meta, tasks, steps=0)  # with a new head, where the learner gives one
    batches = mini_batches(tasks.support, tasks.seeds, routine.batch_size, steps)
    loss, norms = common.support_loss(routine.model, routine.loss, {}), common.of_norms(routine.model)
    for step in range(steps):
        batch = batches(step)
        if routine.augment is not None:
            batch = routine.augment(batch, tasks.seeds, step)
        rate = decay.rate(routine.inner_lr, step) if decay else routine.inner_lr
        update = partial(_update, rate=rate, l2=routine.l2, norms=norms)
        feed = partial(_same, batch)
        here = descend(here.weights, here.buffers, feed, loss=loss, update=update, state=None, how=Descent(1))
        yield common.with_support_statistics(routine.model, here, tasks.support)


def _same(batch: Examples, _step: int) -> Examples:
    return batch


def _update(
    weights: Weights, gradients: Weights, _losses: Tensor, state: None, *, rate: float, l2: float, norms: set[str]
) -> tuple[Weights, None]:
    return common.moved(weights, gradients, rate, l2=l2, but=norms), state


def score(learner: Learner, adapted: Adapted, examples: Examples, metric: Metric) -> Tensor:
    """Return each task's score (tasks,), a mean over its examples, some of which are predicted at once."""
    parts = zip(examples.x.split(PREDICTED, 1), examples.y.split(PREDICTED, 1), strict=True)
    total = sum(metric.score(learner.predict(adapted, x), y).double() * x.shape[1] for x, y in parts)
    return (total / examples.x.shape[1]).cpu()


@torch.no_grad()
def adapt(
    learner: Displacement | JointTraining,
    meta: Meta,
    tasks: TaskBatch,
    protocol: Protocol,
    *,
    few: Mapping[int, Values],
    metric: Metric,
) -> tuple[Tensor, Tensor]:
    """Adapt to tasks as the protocol says for their number of shots, and judge each by its query set.

    Args:
        learner: whose routine adapts, by its own learning rate where `few` has none.
        meta: meta-parameters of one run (1, ...).
        tasks: all with the same number of shots.
        protocol: what is done.
        few: update hyperparameters by number of shots, `steps` among them, for fewer than `protocol.few_below`.
        metric: the score.

    Returns:
        Scores (rules, tasks), and the numbers of steps that led there (rules, tasks), int64.

    Raises:
        ValueError: `few` lacks this number of shots, or its steps.
    """
    meta, shots = for_tasks(meta, torch.zeros_like(tasks.seeds)), tasks.support.x.shape[1]
    if shots < protocol.few_below:
        learner, count = _tuned(learner, few, shots)
        steps, decays = torch.full((len(protocol.rules), len(tasks)), count), [None] * len(protocol.rules)
    else:
        steps = early_stopped(learner, meta, tasks, protocol, metric=metric)
        decays = [rule.decay for rule in protocol.rules.values()]
    scores = torch.full(steps.shape, torch.nan, dtype=torch.float64)
    for decay in dict.fromkeys(decays):
        rows = torch.tensor([other == decay for other in decays])[:, None]
        last = int(steps[rows[:, 0]].max())
        for step, adapted in enumerate(walk(learner, meta, tasks, steps=last, decay=decay), 1):
            reached = rows & (steps == step)
            if reached.any():
                scores = torch.where(reached, score(learner, adapted, tasks.query, metric), scores)
    return scores, steps


def early_stopped(learner: Any, meta: Meta, tasks: TaskBatch, protocol: Protocol, *, metric: Metric) -> Tensor:
    """Return the number of steps (rules, tasks) that is best on the held-out pictures of the support sets.

    Patience changes nothing until it ends, so the most patient rule walks for all of them.
    """
    held, rules = protocol.held(tasks.support.x.shape[1]), list(protocol.rules.values())
    learned, judged = (tasks.support.map(lambda t, r=rows: t[:, r]) for rows in (slice(-held), slice(-held, None)))
    part, every = TaskBatch(learned, judged, tasks.seeds), protocol.check_every
    decays = [rule.decay if protocol.decays_while_stopping else None for rule in rules]
    steps = torch.zeros(len(rules), len(tasks), dtype=torch.int64)
    for decay in dict.fromkeys(decays):
        rows = [row for row, other in enumerate(decays) if other == decay]
        patience = max(rules[row].patience for row in rows)
        curves: list[list[float]] = [[] for _ in range(len(tasks))]
        for step, adapted in enumerate(walk(learner, meta, part, steps=protocol.max_steps, decay=decay), 1):
            if step % every == 0:
                now = score(learner, adapted, judged, metric) * (1 if metric.higher_is_better else -1)
                for curve, value in zip(curves, now.tolist(), strict=True):
                    curve.append(value)
                if all(best_step(curve, patience, every)[1] for curve in curves):
                    break
        for row in rows:
            steps[row] = torch.tensor([best_step(curve, rules[row].patience, every)[0] for curve in curves])
    return steps


def _tuned(learner: Any, few: Mapping[int, Values], shots: int) -> tuple[Any, int]:
    if "steps" not in few.get(shots, {}):
        raise ValueError(
            f"expected update hyperparameters for {shots} shots, steps among them, got some for {sorted(few)}; add "
            f"few={{{shots}: {{'steps': ..., 'inner_lr': ...}}}}"
        )
    return tuned(learner, few[shots]), int(few[shots]["steps"])
