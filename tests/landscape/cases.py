"""Small learners and tasks in float64 that the landscape is measured on, and the memory that a computation takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mlkit.driver import stack
from mlkit.learners import MAML, Displacement
from mlkit.losses import mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch

from ..learners.cases import conv4_of, image_tasks, regression_tasks

Case = tuple[MAML | Displacement, dict[str, Tensor], TaskBatch]


def started(learner: MAML | Displacement, seed: int = 0) -> dict[str, Tensor]:
    return stack([{name: tensor.double() for name, tensor in learner.init(seeded("landscape", seed)).items()}])


def regressor() -> MLP:
    return MLP((1, 8, 8, 1)).double()


def every_case(steps: int = 3, count: int = 5) -> dict[str, Case]:
    """One case for each kind of learner; ANIL adapts its head alone."""
    descents = {
        "MAML, sine": MAML(regressor(), 0.05, steps, mean_squared_error),
        "Reptile": Displacement(regressor(), "reptile", 0.05, steps, loss=mean_squared_error),
        "ANIL": MAML(regressor(), 0.05, steps, mean_squared_error, adapted="head."),
    }
    found = {name: (learner, started(learner), regression_tasks(count)) for name, learner in descents.items()}
    images = MAML(conv4_of("transductive"), 0.1, steps)
    return {**found, "MAML, images": (images, started(images), image_tasks(count))}


NAMES = tuple(every_case())


def with_targets(tasks: TaskBatch, y: Tensor) -> TaskBatch:
    return TaskBatch(Examples(tasks.support.x, y), tasks.query, tasks.seeds)


def diverging(tasks: TaskBatch, index: int) -> TaskBatch:
    """Make targets of one task so large that its loss overflows."""
    y = tasks.support.y.clone()
    y[index] = 1e200
    return with_targets(tasks, y)


def solved(learner: MAML, meta: dict[str, Tensor], tasks: TaskBatch, index: int) -> TaskBatch:
    """Let one task ask for what the initialization answers: its gradient is exactly zero."""
    own = {name: tensor.expand(len(tasks), *tensor.shape[1:]) for name, tensor in meta.items()}
    y = tasks.support.y.clone()
    y[index] = learner.predict(learner.adapt(own, tasks, steps=0), tasks.support.x)[index]
    return with_targets(tasks, y)


def peak_bytes(compute: Callable[[], object], folder: Path) -> int:
    """Run `compute` and return the most memory that torch held meanwhile, by its allocator's own account."""
    return max(_memory(compute, folder))


def held_bytes(compute: Callable[[], object], folder: Path) -> int:
    """Run `compute` and return the memory that torch holds more afterwards."""
    return _memory(compute, folder)[-1]


def _memory(compute: Callable[[], object], folder: Path) -> list[int]:
    """Return the bytes that torch holds above those at the start, after each change."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    profiled.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = [event["args"] for event in events if event["name"] == "[memory]"]
    before = changes[0]["Total Allocated"] - changes[0]["Bytes"]
    return [change["Total Allocated"] - before for change in changes]


def some(count: int, d: int, *words: str | int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, d, generator=seeded("some vectors", *words), dtype=dtype)
