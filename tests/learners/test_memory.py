"""Checkpointed inner steps keep the weights after each step and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlkit.driver import for_tasks, stack
from mlkit.learners import MAML
from mlkit.learners.common import trainable
from mlkit.models import Conv4
from mlkit.seeding import seeded
from mlkit.tasks import glyphs, sample
from tests.landscape.cases import held_bytes

TASKS = 2


def held(steps: int, folder: Path, *, checkpoint: bool) -> int:
    """Return the bytes that stay allocated for the backward pass after adapting by `steps` steps."""
    learner = MAML(Conv4(5, size=28, channels=1, filters=8), inner_steps=steps, checkpoint=checkpoint)
    batch = sample(glyphs("train", shots=2, query=1), TASKS, seeded("memory"))
    meta = trainable(for_tasks(stack([learner.init(seeded("memory"))]), torch.zeros(TASKS, dtype=torch.int64)))
    for tensor in meta.values():
        tensor.requires_grad_()
    kept = []
    return held_bytes(lambda: kept.append(learner.adapt_with_graph(meta, batch)), folder)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_checkpointed_step_holds_its_weights_alone(tmp_path: Path, checkpoint: bool) -> None:
    numbers = sum(parameter.numel() for parameter in Conv4(5, size=28, channels=1, filters=8).parameters())
    a_step = (held(6, tmp_path, checkpoint=checkpoint) - held(2, tmp_path, checkpoint=checkpoint)) / 4
    weights = 4 * numbers * TASKS
    random_state = 8192  # bytes at most, which torch's checkpoint keeps too
    assert (a_step < weights + random_state) if checkpoint else (a_step > 5 * weights), (a_step, weights)
