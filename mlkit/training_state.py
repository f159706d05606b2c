"""All that changes while training: what a checkpoint holds, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mlkit.driver import Learner, Meta, is_buffer, stack
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.seeding import seeded


@dataclass
class TrainingState:
    """Meta-parameters (runs, ...), optimizer, generators, the best so far, and the history."""

    meta: Meta
    best: Meta
    best_score: Tensor  # (runs,)
    best_iteration: Tensor  # (runs,)
    diverged_at: Tensor  # (runs,): the step whose loss or meta-gradient was not finite; -1 where there was none
    skipped: Tensor  # (runs,): how many steps were left out because they were not finite
    generators: list[torch.Generator]  # one a run, for its training tasks
    optimizer: Optimizer
    scheduler: LRScheduler | None
    sums: Tensor  # (2, runs): losses and scores of the steps since the last point of the history
    summed: int = 0
    iteration: int = 0
    seconds: float = 0.0  # of all, and of these in trackers
    tracking_seconds: float = 0.0
    history: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What the outer optimizer learns."""
        return {name: tensor for name, tensor in self.meta.items() if not is_buffer(name)}

    @property
    def frozen(self) -> Tensor:
        """Which runs have diverged: they stay as they are (runs,)."""
        return self.diverged_at >= 0

    def ended(self, outer: OuterLoop) -> bool:
        """Tell whether all steps are made, or nobody is left to make any."""
        return self.iteration == outer.iterations or bool(self.frozen.all())

    def but_frozen(self, values: Tensor) -> Tensor:
        """Return a quantity of each run (runs, ...) with NaN for those that have diverged."""
        if not (self.frozen.any() and values.is_floating_point()):
            return values
        return values.masked_fill(self.frozen.to(values.device).view(-1, *[1] * (values.dim() - 1)), torch.nan)

    @contextmanager
    def keeping(self, runs: Tensor) -> Iterator[None]:
        """Keep some runs (runs,) out of a step of the optimizer: those that have diverged, or skip it."""
        rows = runs.nonzero().flatten()
        kept = {name: tensor[rows.to(tensor.device)] for name, tensor in self.frozen_meta().items() if len(rows)}
        for name in kept.keys() & self.parameters.keys():
            self.meta[name].grad[rows] = 0.0
        yield
        for name, tensor in kept.items():
            self.frozen_meta()[name][rows] = tensor

    def frozen_meta(self) -> Meta:
        """Return the meta-parameters, cut from training."""
        return {name: tensor.detach() for name, tensor in self.meta.items()}

    def keep_best(self, scores: Tensor, better: Tensor) -> None:
        """Where `better` (runs,) holds, the present state is the run's best."""
        self.best_score = torch.where(better, scores, self.best_score)
        self.best_iteration = torch.where(better, torch.tensor(self.iteration), self.best_iteration)
        for name, tensor in self.frozen_meta().items():
            self.best[name][better.to(tensor.device)] = tensor[better.to(tensor.device)]

    def to_dict(self) -> dict[str, Any]:
        """Return a copyable picture of the state: tensors, numbers, lists and dicts only."""
        return {
            "meta": self.frozen_meta(),
            "best": self.best,
            "best_score": self.best_score,
            "best_iteration": self.best_iteration,
            "diverged_at": self.diverged_at,
            "skipped": self.skipped,
            "generators": [generator.get_state() for generator in self.generators],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "sums": self.sums,
            "summed": self.summed,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "tracking_seconds": self.tracking_seconds,
            "history": self.history,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Become the saved state, whole."""
        with torch.no_grad():
            for name, tensor in self.meta.items():
                tensor.copy_(saved["meta"][name])
                self.best[name].copy_(saved["best"][name])
        for generator, state in zip(self.generators, saved["generators"], strict=True):
            generator.set_state(state)
        self.diverged_at = saved.get("diverged_at", self.diverged_at)  # older checkpoints have none
        self.skipped = saved.get("skipped", self.skipped)  # nor do they have these
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(saved["scheduler"])
        for name in ("best_score", "best_iteration", "sums", "summed", "iteration", "seconds", "history"):
            setattr(self, name, saved[name])
        self.tracking_seconds = saved.get("tracking_seconds", 0.0)  # older checkpoints do not know it


def start(
    learner: Learner, outer: OuterLoop, seeds: Sequence[int], validation: Validation | None, execution: Execution
) -> TrainingState:
    """Return the state before the first step; each run's initialization depends on its seed alone.

    Raises:
        ValueError: there is no seed.
    """
    if not seeds:
        raise ValueError("expected at least one seed, got none; pass seeds=[0]")
    stacked = stack([learner.init(seeded("initialization", seed)) for seed in seeds])
    meta = {
        name: tensor.to(execution.device, execution.dtype if tensor.is_floating_point() else None)
        for name, tensor in stacked.items()
    }
    optimizer = outer.optimizer([tensor.requires_grad_() for name, tensor in meta.items() if not is_buffer(name)])
    worst = validation.metric.worst if validation else float("nan")
    return TrainingState(
        meta=meta,
        best={name: tensor.detach().clone() for name, tensor in meta.items()},
        best_score=torch.full((len(seeds),), worst, dtype=torch.float64),
        best_iteration=torch.zeros(len(seeds), dtype=torch.int64),
        diverged_at=torch.full((len(seeds),), -1),
        skipped=torch.zeros(len(seeds), dtype=torch.int64),
        generators=[seeded("training tasks", seed) for seed in seeds],
        optimizer=optimizer,
        scheduler=outer.schedule(optimizer) if outer.schedule else None,
        sums=torch.zeros(2, len(seeds), dtype=torch.float64),
    )
