"""All metrics of the landscape at one state of meta-training, so that one training yields every figure over epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from mlkit.adaptation import call
from mlkit.driver import Learner, Meta
from mlkit.landscape.coherence import Coherence, coherence
from mlkit.landscape.curvature import spectral_norm
from mlkit.landscape.directions import batches, copies, flatten, gradients, representations
from mlkit.losses import Metric
from mlkit.project import nearest
from mlkit.seeding import seeded
from mlkit.tasks.base import FrozenTasks, TaskDistribution, frozen

METRICS = (
    "support_loss",
    "displacement_norm",
    "trajectory_cosine",
    "gradient_product",
    "representation_product",
    "curvature",
)
GROUPS = 50  # of tasks, for the bootstrap: so many vectors of memory
NAN = Coherence(*[float("nan")] * 4, 0, 0)
Numbers = dict[str, Tensor]


@dataclass(frozen=True)
class Watch:
    """What to measure on meta-test tasks at each point of the history; the learner adapts by its own number of steps.

    Always: `test_<metric>`, the mean score of the query sets, and `diverged`, how many tasks left the finite numbers
    (means are over the others). By name, and with the ends `_low` and `_high` of a 95 % interval over tasks (by the
    bootstrap where pairs are compared) wherever it is a mean over tasks:

    - `support_loss` after adapting; `displacement_norm`, the mean |theta~_i - theta^s| (paper 003, figure 15);
    - `trajectory_cosine` (eq. 5) and `gradient_product` (eq. 6);
    - `representation_product` (section 6), over images of the test classes, without an interval: images of one class
      are no independent draws;
    - `curvature` (eq. 3): mean spectral norm; `curvature_by_task`; `curvature_sign`, mean sign of the dominant
      eigenvalue; `curvature_loss`; `curvature_converged` and `curvature_diverged`, numbers of tasks.

    All runs are measured on the same tasks. Where fewer than two tasks can be compared a number is NaN.

    Args:
        metrics: which of these.
        tasks: how many, drawn afresh at each point (as in paper 003), for all but curvature.
        curvature_tasks: how many for curvature, the same at every point.
        images: how many for representations, the same at every point; None for all.
        seed: of the tasks and images.
        tolerance: relative error of curvature at which to stop, see `spectral_norm`.
        chunk_size: tasks adapted at once; it changes time and memory only, as does
        curvature_chunk: tasks whose curvature is measured at once.

    Raises:
        ValueError: a metric is unknown, or a number is too small.
    """

    metrics: tuple[str, ...] = METRICS
    tasks: int = 500
    curvature_tasks: int = 60
    images: int | None = None
    seed: int = 0
    tolerance: float = 1e-5
    chunk_size: int = field(default=25, metadata={"execution": True})
    curvature_chunk: int = field(default=4, metadata={"execution": True})

    def __post_init__(self) -> None:
        for name in set(self.metrics) - set(METRICS):
            raise ValueError(f"unknown metric {name!r}; {nearest(name, METRICS)}valid: {', '.join(METRICS)}")
        counts = self.curvature_tasks, self.chunk_size, self.curvature_chunk
        if self.tasks < 2 or min(counts) < 1 or (self.images is not None and self.images < 2):
            raise ValueError(
                "expected tasks and images of at least 2, curvature_tasks, chunk_size and curvature_chunk of at least "
                f"1, got {self.tasks}, {self.images}, {', '.join(map(str, counts))}; pairs need two"
            )

    def describe(self) -> dict[str, Any]:
        """Say what a record must say: all but what changes time and memory only."""
        kept = {part.name: getattr(self, part.name) for part in fields(self) if not part.metadata}
        return kept | {"metrics": sorted(set(self.metrics))}

    def on(
        self, learner: Learner, tasks: TaskDistribution, *, metric: Metric, workers: int = 1, device: str = "cpu"
    ) -> Watcher:
        """Return the tracker that measures `learner` on `tasks` while it is trained; arguments as for `measure`."""
        return Watcher(self, learner, tasks, metric, workers, device)

    def measure(
        self,
        learner: Learner,
        meta: Meta,
        tasks: TaskDistribution,
        *,
        metric: Metric,
        iteration: int = 0,
        workers: int = 1,
        device: str = "cpu",
    ) -> Numbers:
        """Measure one state.

        Args:
            learner: what adapts.
            meta: stacked meta-parameters (runs, ...).
            tasks: what the tasks are drawn from: those of the test split.
            metric: score of the query sets.
            iteration: tells one point's fresh tasks from another's.
            workers: threads that share the tasks of curvature.
            device: where to compute.

        Returns:
            name -> (runs,), for `curvature_by_task` (runs, tasks); float64, on the CPU.

        Raises:
            TypeError: representations are asked of a model without `features` or of tasks without images.
        """
        split = tasks.describe().get("split", "")
        fresh = tasks.draw(self.tasks, seeded("watch", split, self.seed, iteration))
        look = _Look(self, learner, FrozenTasks(tasks, fresh, self.seed), metric, workers, device)
        runs = len(next(iter(meta.values())))
        found = [look.at({name: tensor[run : run + 1] for name, tensor in meta.items()}) for run in range(runs)]
        return {name: torch.stack([numbers[name] for numbers in found]) for name in found[0]}


@dataclass(frozen=True)
class Watcher:
    """A tracker for `mlkit.training.train`: measures all that its watch names on the tasks of a split."""

    watch: Watch
    learner: Learner
    tasks: TaskDistribution
    metric: Metric
    workers: int = 1
    device: str = "cpu"

    def __call__(self, meta: Meta, iteration: int) -> Numbers:
        """Measure the stacked meta-parameters (runs, ...): name -> (runs, ...)."""
        how = {"metric": self.metric, "workers": self.workers, "device": self.device}
        return self.watch.measure(self.learner, meta, self.tasks, iteration=iteration, **how)

    def describe(self) -> dict[str, Any]:
        """Say what decides the numbers."""
        return {"watch": self.watch.describe(), "watched": self.tasks.describe(), "metric": self.metric.name}


@dataclass(frozen=True)
class _Look:
    """One watch on tasks that are drawn; `at` measures one run's meta-parameters (1, ...)."""

    watch: Watch
    learner: Learner
    tasks: FrozenTasks
    metric: Metric
    workers: int
    device: str

    def at(self, meta: Meta) -> Numbers:
        asked = self.watch.metrics
        found = self._adaptation(meta)
        if "gradient_product" in asked:
            how = {"chunk_size": self.watch.chunk_size, "device": self.device}
            found |= _named("gradient_product", _coherence(gradients(self.learner, meta, self.tasks, **how)))
        if "representation_product" in asked:
            images, seed = _images(self.tasks.tasks, self.watch.images, self.watch.seed), self.watch.seed
            vectors = representations(self.learner, meta, images, seed=seed, device=self.device)
            found["representation_product"] = _coherence(vectors).value
        if "curvature" in asked:
            found |= self._curvature(meta)
        return {name: torch.as_tensor(number, dtype=torch.float64) for name, number in found.items()}

    def _adaptation(self, meta: Meta) -> dict[str, Any]:
        """Adapt to each task once, and read off all that this tells."""
        rows: list[Tensor] = []
        cosine = _coherence(self._displacements(meta, rows), directions=True)
        whole = torch.cat(rows, 1)
        kept = whole.isfinite().all(0)
        scores, losses, norms = whole[:, kept]
        found = {
            "diverged": int((~kept).sum()),
            **_with_ends(f"test_{self.metric.name}", scores),
            **_with_ends("support_loss", losses),
            **_with_ends("displacement_norm", norms),
            **_named("trajectory_cosine", cosine),
        }
        left_out = set(METRICS) - set(self.watch.metrics)
        return {name: number for name, number in found.items() if not name.startswith(tuple(left_out))}

    def _displacements(self, meta: Meta, rows: list[Tensor]) -> Iterator[Tensor]:
        """Yield the displacements (n, d); leave each task's score, support loss and norm in `rows` (3, n)."""
        for batch in batches(meta, self.tasks, chunk_size=self.watch.chunk_size, device=self.device):
            yield self._adapted(meta, batch, rows)

    @torch.no_grad()
    def _adapted(self, meta: Meta, batch: Any, rows: list[Tensor]) -> Tensor:
        learner, own = self.learner, copies(meta, batch)
        adapted, start = learner.adapt(own, batch), learner.adapt(own, batch, steps=0).weights
        moved = flatten({name: tensor - start[name] for name, tensor in adapted.weights.items()})
        outputs, _ = call(learner.model, adapted.weights, adapted.buffers, batch.support.x, "adapt")
        losses = learner.loss(outputs, batch.support.y)
        scores = self.metric.score(learner.predict(adapted, batch.query.x), batch.query.y)
        rows.append(torch.stack([scores, losses, torch.linalg.vector_norm(moved, dim=1)]).double().cpu())
        return moved.cpu()

    def _curvature(self, meta: Meta) -> dict[str, Any]:
        watch = self.watch
        found = spectral_norm(
            self.learner,
            meta,
            frozen(self.tasks.tasks, watch.curvature_tasks, watch.seed),
            tolerance=watch.tolerance,
            chunk_size=watch.curvature_chunk,
            workers=self.workers,
            seed=watch.seed,
            device=self.device,
        )
        return {
            **_with_ends("curvature", found.value),
            "curvature_by_task": found.value,
            "curvature_sign": _mean(found.sign),
            "curvature_loss": _mean(found.loss),
            "curvature_converged": int(found.converged.sum()),
            "curvature_diverged": int(found.diverged.sum()),
        }


def _named(name: str, found: Coherence) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _with_ends(name: str, values: Tensor) -> dict[str, Tensor]:
    """Average what is finite over tasks, with the ends of the mean's 95 % interval; NaN where there is too little."""
    known = values[values.isfinite()].double()
    mean, half = known.mean(), 1.96 * known.std() / len(known) ** 0.5 if len(known) > 1 else torch.tensor(torch.nan)
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def _mean(values: Tensor) -> Tensor:
    """Average what is finite; NaN where nothing is."""
    return values[values.isfinite()].double().mean()


def _coherence(chunks: Iterable[Tensor], *, directions: bool = False) -> Coherence:
    """Return the coherence of the vectors, or NaN where fewer than two can be compared."""
    usable, is_read = 0, False

    def counted(chunk: Tensor) -> Tensor:
        nonlocal usable
        lengths = torch.linalg.vector_norm(chunk, dim=1)
        usable += int((lengths.isfinite() & (lengths > 0)).sum())
        return chunk

    def read() -> Iterator[Tensor]:
        nonlocal is_read
        yield from map(counted, chunks)
        is_read = True

    try:
        return coherence(read(), directions=directions, groups=GROUPS)
    except ValueError:
        if usable >= 2 or not is_read:
            raise
        return NAN


def _images(tasks: TaskDistribution, count: int | None, seed: int) -> Tensor:
    """Return images of all classes (images, channels, height, width) as tasks show them; `count` of them by lot."""
    if not hasattr(tasks, "pixels"):
        raise TypeError(
            f"expected tasks of images, with a method `pixels`, got {type(tasks).__name__}; "
            "leave representation_product out of the watch's metrics"
        )
    chosen = torch.randperm(len(tasks.source.images), generator=seeded("watched images", seed))[:count]
    return tasks.pixels(chosen.sort().values.view(1, 1, -1), torch.zeros(1, 1, dtype=torch.int64))[0]
