"""Checkpointed inner steps keep the weights after each step, and what a learned rule remembers, and nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from mlkit.adaptation import Descent
from mlkit.driver import for_tasks, stack
from mlkit.learners import MAML, MetaLSTM, coordinates
from mlkit.learners.common import trainable
from mlkit.models import Conv4
from mlkit.seeding import seeded
from mlkit.tasks import glyphs, sample
from tests.landscape.cases import held_bytes

TASKS = 2


def held(steps: int, folder: Path, *, checkpoint: bool, kind: type[MAML | MetaLSTM] = MAML) -> int:
    """Return the bytes that stay allocated for the backward pass after adapting by `steps` steps."""
    learner = kind(Conv4(5, size=28, channels=1, filters=8), inner_steps=steps, checkpoint=checkpoint)
    batch = sample(glyphs("train", shots=2, query=1), TASKS, seeded("memory"))
    meta = trainable(for_tasks(stack([learner.init(seeded("memory"))]), torch.zeros(TASKS, dtype=torch.int64)))
    for tensor in meta.values():
        tensor.requires_grad_()
    how = Descent(steps, differentiable=True, second_order=False, checkpoint=checkpoint)
    adapt = learner.adapt_with_graph if isinstance(learner, MAML) else partial(coordinates._descend, learner, how=how)
    kept = []
    return held_bytes(lambda: kept.append(adapt(meta, batch)), folder)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_checkpointed_step_holds_its_weights_alone(tmp_path: Path, checkpoint: bool) -> None:
    numbers = sum(parameter.numel() for parameter in Conv4(5, size=28, channels=1, filters=8).parameters())
    a_step = (held(6, tmp_path, checkpoint=checkpoint) - held(2, tmp_path, checkpoint=checkpoint)) / 4
    weights = 4 * numbers * TASKS
    random_state = 8192  # bytes at most, which torch's checkpoint keeps too
    assert (a_step < weights + random_state) if checkpoint else (a_step > 5 * weights), (a_step, weights)


def test_a_checkpointed_step_of_the_lstm_holds_about_a_third(tmp_path: Path) -> None:
    kept, whole = (
        held(5, tmp_path, checkpoint=checkpoint, kind=MetaLSTM)
        - held(2, tmp_path, checkpoint=checkpoint, kind=MetaLSTM)
        for checkpoint in (True, False)
    )
    assert 0.2 < kept / whole < 0.4, "weights and the states of the LSTM stay, the rest is recomputed"
