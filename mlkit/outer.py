"""Settings of the outer loop: what is learned how (science), and how it is computed (time and memory)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlkit.losses import Metric
from mlkit.tasks.base import FrozenTasks

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)  # what all four papers use for gradients


def linear(iterations: int, end: float) -> Callable[[Optimizer], LRScheduler]:
    """Return the schedule (1 - i/N) lr + (i/N) end lr of outer step i out of N, linear down to the share `end`.

    Paper 000: meta step size 0.1 to 1e-5 for meta-learning, learning rate 0.005 to 5e-7 for joint training.

    Example:
        >>> outer = OuterLoop(50_000, 5, functools.partial(torch.optim.SGD, lr=0.1), linear(50_000, end=1e-4))
    """
    return functools.partial(
        torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=end, total_iters=iterations
    )


@dataclass(frozen=True)
class OuterLoop:
    """How the meta-parameters are learned.

    Args:
        iterations: outer steps; 0 to test the initialization itself.
        meta_batch: tasks of an outer step, for each seed.
        optimizer: any torch optimizer, as a function of the parameters; for displacement learners SGD whose learning
            rate is the meta step size.
        schedule: any torch learning-rate scheduler, as a function of the optimizer.
        clip_value: clip the entries of the meta-gradient to [-clip, clip].
        clip_norm: scale each seed's meta-gradient down to this norm.
        clipped: clip meta-parameters whose name starts with this alone, e.g. "theta." for the initialization.
        validate_every: outer steps between validations; also how often trackers and the history are updated.
        on_divergence: what a loss or meta-gradient that is not finite does: "stop" the training with an error;
            "freeze" its seed, whose state stays as it was and is judged no more, while the others go on as long as
            there are any; or "skip" the step: its seed goes on with the next tasks from where it was.
    """

    iterations: int
    meta_batch: int
    optimizer: Callable[[list[Tensor]], Optimizer] = ADAM
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    validate_every: int = 500
    clipped: str = ""
    on_divergence: Literal["stop", "freeze", "skip"] = "stop"

    def __post_init__(self) -> None:
        if self.iterations < 0 or min(self.meta_batch, self.validate_every) < 1:
            raise ValueError(
                f"expected iterations of at least 0, meta_batch and validate_every of at least 1, got "
                f"{self.iterations}, {self.meta_batch}, {self.validate_every}"
            )
        if self.on_divergence not in ("stop", "freeze", "skip"):
            raise ValueError(f"expected on_divergence 'stop', 'freeze' or 'skip', got {self.on_divergence!r}")

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        kept = ("iterations", "meta_batch", "clip_value", "clip_norm", "validate_every")
        added = {"clipped": self.clipped} if self.clipped else {}  # named where they are set
        added |= {"on_divergence": self.on_divergence} if self.on_divergence != "stop" else {}
        return {
            **{name: getattr(self, name) for name in kept},
            **added,
            "optimizer": _describe(self.optimizer),
            "schedule": _describe(self.schedule) if self.schedule else None,
        }


@dataclass(frozen=True)
class Validation:
    """The tasks that pick the best state: the same throughout; `steps` None for the learner's own number."""

    tasks: FrozenTasks
    metric: Metric
    steps: int | None = None


@dataclass(frozen=True)
class Execution:
    """How to compute: changes time and memory, not the result beyond rounding (`autocast` rounds much more).

    chunk_size: tasks adapted at once while training (None: the whole meta-batch), evaluation_chunk: while evaluating;
    query_chunk: tasks of a chunk whose query sets are judged at once; workers: threads that share the chunks;
    device: of torch; dtype: of all floating point numbers;
    autocast: mixed precision, e.g. torch.bfloat16 on a GPU, of tasks that are adapted one at a time (chunk_size=1);
    channels_last: lay training images out so in memory, as convolutions of a GPU in mixed precision like them;
    progress: show a bar; checkpoint_seconds: between two checkpoints, where there is a folder for them.
    """

    chunk_size: int | None = None
    query_chunk: int | None = None
    workers: int = 1
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    progress: bool = True
    checkpoint_seconds: float = 30.0
    evaluation_chunk: int = 100
    autocast: torch.dtype | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.autocast and (self.chunk_size, self.workers) != (1, 1):
            raise ValueError(
                f"expected chunk_size=1 and workers=1 with autocast, got {self.chunk_size} and {self.workers}: neither "
                "torch.vmap nor threads take it over"
            )

    def arithmetic(self) -> torch.autocast:
        """Return the context in which to compute."""
        kind, on = torch.device(self.device).type, self.autocast is not None
        return torch.autocast(kind, self.autocast, enabled=on, cache_enabled=False)  # a cache would outlive the step


def _describe(made_by: Callable[..., Any]) -> dict[str, Any]:
    """Name a function and its fixed arguments, as far as JSON can hold them."""
    if isinstance(made_by, functools.partial):
        fixed = {name: _describe(value) if callable(value) else value for name, value in made_by.keywords.items()}
        return {"name": getattr(made_by.func, "__name__", str(made_by.func)), **fixed}
    return {"name": getattr(made_by, "__name__", str(made_by))}
