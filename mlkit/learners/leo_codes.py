"""The codes of LEO looked at: where they start, where adaptation takes them, and whether they all became one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mlkit.driver import Meta, for_tasks
from mlkit.learners.leo import LEO
from mlkit.losses import Metric
from mlkit.tasks.base import FrozenTasks, TaskBatch, TaskDistribution, frozen

ACTIVE = 0.01  # variance above which a number of the code is in use (Burda et al. 2016)


@dataclass(frozen=True)
class Codes:
    """Codes along the adaptation to some tasks; codes of one class (v3 has one an example) are averaged.

    codes (tasks, steps + 1, ways, latents): after 0, 1, ... steps; deviations (tasks, ways, latents): of what the first
    were drawn from, 1 for a prior; classifiers (tasks, steps + 1, ways, features): what the codes are decoded into;
    tuned (tasks, steps of fine-tuning + 1, ways, features): the last of these, then after each step of fine-tuning;
    losses (tasks, all steps): mean support losses before each step.
    """

    codes: Tensor
    deviations: Tensor
    classifiers: Tensor
    tuned: Tensor
    losses: Tensor


@torch.no_grad()
def codes_along(learner: LEO, meta: Meta, tasks: TaskBatch, *, steps: int | None = None) -> Codes:
    """Adapt to tasks as at meta-test and return every code on the way.

    Args:
        learner: LEO.
        meta: one run's stacked meta-parameters (1, ...).
        tasks: what is adapted to.
        steps: as for `LEO.adapt`.

    Example:
        >>> from mlkit.driver import stack
        >>> from mlkit.tasks import Examples
        >>> leo = LEO(features=8, ways=2, latents=3)
        >>> support = Examples(torch.randn(4, 6, 8), torch.tensor([[0, 0, 0, 1, 1, 1]] * 4))
        >>> tasks = TaskBatch(support, support, torch.arange(4))
        >>> codes_along(leo, stack([leo.init(torch.Generator())]), tasks).codes.shape
        torch.Size([4, 6, 2, 3])
    """
    own = for_tasks(meta, torch.zeros(len(tasks), dtype=torch.int64, device=tasks.seeds.device))
    walk = learner.walk(own, tasks, steps=steps)
    first = walk.codes[0]
    deviations = torch.ones_like(first) if walk.start is None else walk.start.std
    classifiers = [learner.coder.decode(own, codes) for codes in walk.codes]
    return Codes(
        torch.stack([codes.mean(2) for codes in walk.codes], 1),
        deviations.mean(2),
        torch.stack(classifiers, 1),
        torch.stack(walk.tuned, 1),
        walk.losses.mT if walk.losses.dim() == 2 else walk.losses.new_zeros(len(first), 0),
    )


@dataclass(frozen=True)
class CodeWatch:
    """A tracker that tells when codes collapse: when every class of every task gets the same code.

    Of the codes of meta-test tasks, before and after adaptation (`adapted_`), for each run:

    - `code_variance`: over tasks and classes, averaged over the numbers of a code; 0 where all codes are one;
    - `active_latents`: how many of these numbers have a variance above 0.01;
    - `code_deviation`: mean standard deviation of what the codes are drawn from, before adaptation only.

    Args:
        tasks: how many, the same at every point.
        seed: of the tasks.

    Raises:
        ValueError: fewer than 2 tasks.

    Example:
        >>> watched = {"codes": CodeWatch().on(leo, test_tasks)}  # doctest: +SKIP
        >>> train(leo, tasks, outer, seeds=[0], metric=ACCURACY, trackers=watched)  # doctest: +SKIP
    """

    tasks: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tasks < 2:
            raise ValueError(f"expected at least 2 tasks to compare codes of, got {self.tasks}")

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return {"watch": "codes", **asdict(self)}

    def on(
        self, learner: LEO, tasks: TaskDistribution, *, metric: Metric | None = None, workers: int = 1, device: str = ""
    ) -> CodeWatcher:
        """Return the tracker; it serves `train` and, as `Experiment(watch=...)`, an experiment.

        `metric` and `workers` are not used; the device is that of the meta-parameters.
        """
        del metric, workers, device
        return CodeWatcher(self, learner, frozen(tasks, self.tasks, self.seed))


@dataclass(frozen=True)
class CodeWatcher:
    """`CodeWatch` on a learner and frozen tasks: stacked meta-parameters (runs, ...) -> numbers (runs,) by name."""

    watch: CodeWatch
    learner: LEO
    tasks: FrozenTasks

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        return self.watch.describe() | {"tasks": self.tasks.content_hash}

    def __call__(self, meta: Meta, iteration: int = 0) -> dict[str, Tensor]:
        """Measure the present state; it does not depend on the iteration."""
        del iteration
        some = next(tensor for tensor in meta.values() if tensor.is_floating_point())
        batch = self.tasks[:].to(some.device, some.dtype)
        runs = [
            self._of({name: tensor[run : run + 1] for name, tensor in meta.items()}, batch) for run in range(len(some))
        ]
        return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}

    def _of(self, meta: Meta, batch: TaskBatch) -> dict[str, Tensor]:
        found = codes_along(self.learner, meta, batch)
        numbers = {"code_deviation": found.deviations.double().mean().cpu()}
        for prefix, codes in (("", found.codes[:, 0]), ("adapted_", found.codes[:, -1])):
            variance = codes.flatten(0, 1).double().var(0).cpu()
            numbers |= {f"{prefix}code_variance": variance.mean()}
            numbers |= {f"{prefix}active_latents": (variance > ACTIVE).double().sum()}
        return numbers
