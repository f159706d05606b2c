"""Tasks and learners that adapt in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlkit.losses import Metric
from mlkit.many_shots import Protocol, Rule, Start, StepDecay
from mlkit.seeding import seeded
from mlkit.tasks.many_shots import ManyShots
from mlkit.tasks.masked_images import MaskedImages

from ..learners.test_displacement_options import joint, of_all_options, start

LEARNERS = {"FOMAML*": of_all_options(inner_lr=0.3), "joint": joint()}
FEW = {1: {"inner_lr": 0.2, "steps": 2}, 3: {"inner_lr": 0.4, "steps": 3}}
RULES = {"decaying": Rule(6, StepDecay(every=2)), "impatient": Rule(1), "patient": Rule(6)}
PROTOCOL = Protocol(RULES, few_below=4, held_out=0.25, max_steps=12)


def closeness(outputs: Tensor, y: Tensor) -> Tensor:
    """Return 1 - |p - y| averaged over pixels and pictures: it moves with every step, where IoU of noise may not."""
    return 1 - ((outputs[..., 1, :, :] - outputs[..., 0, :, :]).sigmoid() - y).abs().flatten(1).mean(1)


CLOSE = Metric("closeness", closeness, higher_is_better=True)


def bright(*sizes: int, size: int = 6) -> MaskedImages:
    """Return noise whose masks are its bright pixels."""
    pictures = torch.randint(256, (sum(sizes), 3, size, size), generator=seeded("bright")).byte()
    masks = ((pictures.double().mean(1) > 127) * 255).byte()
    names = tuple(f"class{k}" for k in range(len(sizes)))
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return MaskedImages("bright", pictures, masks, torch.arange(sum(sizes)), offsets, names)


def many(**changes: Any) -> ManyShots:
    return ManyShots(bright(12, 11), **{"shots": (1, 3, 8), "query": 3, "repeats": 2} | changes)


def begin(name: str = "FOMAML*", **changes: Any) -> Start:
    return Start(lambda: LEARNERS[name], lambda: start(LEARNERS[name]), **{"few": FEW, "of": ["a key"]} | changes)


def counting(stop_at: int = -1) -> tuple[Metric, Callable[[], int]]:
    """Return closeness that is interrupted when it is asked for the `stop_at`th time, and how often it was asked."""
    asked = 0

    def counted(outputs, y):
        nonlocal asked
        asked += 1
        if asked == stop_at:
            raise KeyboardInterrupt
        return closeness(outputs, y)

    return Metric(CLOSE.name, counted, higher_is_better=True), lambda: asked
