"""A learned update rule seen at work: the move it makes of a gradient after what it has met, and the waves it bends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlkit.driver import Learner, Meta, for_tasks
from mlkit.evaluation import predict_along
from mlkit.figures import Wave
from mlkit.learners import MAML, common
from mlkit.learners.coordinates import LearnedRule, flatten
from mlkit.tasks import SineTasks, TaskBatch
from mlkit.tasks.base import Draw

HISTORIES = {  # gradients that a weight met in earlier steps, as multiples of a large one; None: the present one
    "first step": (),
    "after 4 gradients of +g": (1.0,) * 4,
    "after 4 gradients of −g": (-1.0,) * 4,
    "after 4 times this gradient": (None,) * 4,
}
POINTS = torch.linspace(-5.0, 5.0, 81)  # where waves are drawn


class Met(NamedTuple):
    """What every weight of a trained initialization meets at the first step, (tasks, n) each, and the support losses.

    gradients: of the support loss; moves: what the rule makes of them.
    """

    gradients: Tensor
    moves: Tensor
    losses: Tensor


def met(learner: LearnedRule, meta: Meta, tasks: TaskBatch) -> Met:
    """Return gradients and moves of the first step on `tasks`, with one run's stacked `meta` (1, ...)."""
    own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64))
    theta = {name: tensor for name, tensor in own.items() if name.startswith("theta.")}
    start = flatten(common.role(own, "theta"))
    slope = start - flatten(MAML(learner.model, 1.0, 1, learner.loss).adapt(theta, tasks).weights)
    adapted = learner.adapt(own, tasks, steps=1)
    return Met(slope, flatten(adapted.weights) - start, adapted.losses[0])


@torch.no_grad()
def response(
    learner: LearnedRule, meta: Meta, tasks: TaskBatch, gradients: Tensor, past: tuple[Tensor, ...], *, weight: float,
    loss: float,
) -> Tensor:  # fmt: skip
    """Return the move that the rule makes of each of `gradients` (points,) after it has met those of `past`.

    Args:
        learner: what has the rule.
        meta: one run's stacked meta-parameters (1, ...). Learning rates of single weights are replaced by their mean.
        tasks: say how large a support set is.
        gradients: one a coordinate.
        past: what each coordinate met before, (points,) each, the earliest first.
        weight: value of the coordinate at every step; the LSTM reads it, and forgets a share of it.
        loss: support loss at every step.
    """
    at = torch.full((1, len(gradients)), weight)
    row = {name: tensor for name, tensor in meta.items() if name.startswith("phi.")} | {"theta.row": at}
    if rates := common.role(meta, "inner_lr"):
        row["inner_lr.row"] = torch.full_like(at, float(flatten(rates).mean()))
    update, state = learner.rule(row, tasks[:1])
    for each in (*past, gradients):
        new, state = update({"row": at}, {"row": each[None]}, torch.tensor([loss]), state)
    return (new["row"] - at)[0]


class Responses(NamedTuple):
    """What `figures.update_rules` draws of each rule, by its label.

    gradients: (points,), the same for all; curves: label of a line -> moves (points,); met: gradients and moves of
    weights of the network, (weights,) each.
    """

    gradients: np.ndarray
    curves: dict[str, dict[str, np.ndarray]]
    met: dict[str, tuple[np.ndarray, np.ndarray]]


def responses(
    learners: Mapping[str, tuple[LearnedRule, Meta]], tasks: TaskBatch, *, inner_lr: float, shown: int = 300
) -> Responses:
    """Return the moves of each learned rule over gradients as large as its weights meet, beside -inner_lr * gradient.

    Args:
        learners: label -> learner and one run's stacked meta-parameters.
        tasks: tasks whose gradients set the scale: g is their 95 % quantile, the axis goes to their 99 %.
        inner_lr: of MAML.
        shown: so many weights are drawn as they really moved.
    """
    if not learners:
        return Responses(np.zeros(0), {}, {})
    found = {label: met(*each, tasks) for label, each in learners.items()}
    sizes = torch.cat([each.gradients.abs().flatten()[:100_000] for each in found.values()])
    large, end = (float(quantile) for quantile in torch.quantile(sizes, torch.tensor([0.95, 0.99])))
    at = torch.linspace(-end, end, 81)
    curves, points = {}, {}
    for label, (learner, meta) in learners.items():
        how = {"weight": typical_weight(meta), "loss": float(found[label].losses.median())}
        curves[label] = {}
        for history, shares in HISTORIES.items():
            past = tuple(at if share is None else torch.full_like(at, share * large) for share in shares)
            moves = response(learner, meta, tasks, at, past, **how)
            curves[label][f"{label}, {history}"] = moves.numpy()
        curves[label][f"MAML, −{inner_lr:g} × gradient"] = (-inner_lr * at).numpy()
        stride = max(1, found[label].gradients.numel() // shown)
        points[label] = tuple(each.flatten()[::stride].numpy() for each in found[label][:2])
    return Responses(at.numpy(), curves, points)


def typical_weight(meta: Meta) -> float:
    """Return the mean absolute value of an initialization."""
    return float(flatten(common.role(meta, "theta")).abs().mean())


def waves(
    learners: Mapping[str, tuple[Learner, Meta]], tasks: SineTasks, draw: Draw, *, steps: int
) -> tuple[np.ndarray, list[Wave]]:
    """Adapt each learner to each drawn wave; return where curves are drawn (points,), and what there is to draw."""
    batch = tasks.gather(draw)
    x = POINTS[None, :, None].expand(len(batch), -1, -1)
    truth, curves, errors = tasks.wave(draw, x)[..., 0], {}, {}
    for label, (learner, meta) in learners.items():
        found = predict_along(learner, meta, batch, torch.cat([x, batch.query.x], 1), steps=steps)[..., 0]
        curves[label], predicted = found.split([len(POINTS), batch.query.x.shape[1]], 2)
        errors[label] = (predicted - batch.query.y[:, None, :, 0]).square().mean(2)
    return POINTS.numpy(), [
        Wave(
            f"{i + 1}: amplitude {float(draw['amplitude'][i]):.1f}, phase {float(draw['phase'][i]):.1f}",
            truth[i].numpy(),
            (batch.support.x[i].flatten().numpy(), batch.support.y[i].flatten().numpy()),
            {label: curve[i].numpy() for label, curve in curves.items()},
            {label: error[i].numpy() for label, error in errors.items()},
        )
        for i in range(len(batch))
    ]
