"""Curvature at adapted solutions: the spectral norm of the Hessian of each task's support loss (paper 003)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mlkit.driver import Learner, Meta
from mlkit.landscape.directions import copies
from mlkit.landscape.hessian import Hessian, Parameters
from mlkit.landscape.lanczos import dominant, random_start
from mlkit.tasks.base import FrozenTasks, TaskBatch


@dataclass(frozen=True)
class Curvature:
    """The Hessian's eigenvalue of largest magnitude, task by task; every tensor is (tasks,), on the CPU.

    value: |lambda|, the spectral norm; sign: of lambda, -1 at a saddle that bends down most, 0 where the Hessian is
    zero; residual: |H x - lambda x| of the unit vector x found; iterations: Hessian-vector products; converged: the
    residual bounds the error by tolerance * |lambda|; loss: support loss at the adapted weights; diverged: the
    adaptation left the finite numbers: value and the like are not numbers there.
    """

    value: Tensor
    sign: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    loss: Tensor
    diverged: Tensor

    def __len__(self) -> int:
        return len(self.value)


def spectral_norm(
    learner: Learner,
    meta: Meta,
    tasks: FrozenTasks | TaskBatch,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    chunk_size: int = 4,
    workers: int = 1,
    seed: int = 0,
    parameters: Parameters = "all",
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Curvature:
    r"""Adapt to each task and measure how sharply its support loss bends at the adapted weights.

    $$\|H_i\|_\sigma = \max_k |\lambda_k|, \quad H_i = \nabla^2 L_{S_i}(\tilde\theta_i)$$ (paper 003, eq. 3, whose last
    equality holds where the eigenvalue of largest magnitude is positive: see `sign`.) By Lanczos on exact
    Hessian-vector products, until the residual says that the value is exact enough. In front of batch normalization
    the value depends on the size of the weights: see `Hessian`.

    Args:
        learner: what adapts.
        meta: stacked meta-parameters of one run (1, ...).
        tasks: where to measure.
        tolerance: bound of the error of |lambda| at which to stop, as a part of it; the bound comes from the residual
            (see `Ritz.errors`). Below 1e-6 use dtype=torch.float64.
        max_iterations: Hessian-vector products a task at most.
        chunk_size: tasks at once. A few keep activations in the cache of a core; a tiny network likes more.
        workers: threads that share the chunks, each with its own copy of the learner.
        seed: of the vector that Lanczos starts from, the same for each task.
        parameters: "all", or "no_norm": without those of normalization layers.
        dtype: precision of the Hessian; None for that of `meta`. The adaptation keeps its own.
        device: where to compute.

    Raises:
        ValueError: there is no task, `meta` has several runs, or the support loss is not a function of the weights
            alone (dropout).
    """
    if not len(tasks):
        raise ValueError("expected at least one task, got none; freeze some with mlkit.tasks.frozen")
    given = next(tensor.dtype for tensor in meta.values() if tensor.is_floating_point())
    size = min(chunk_size, -(-len(tasks) // workers))  # no worker idles
    starts = list(range(0, len(tasks), size))

    def measure(learner: Learner, first: int) -> Curvature:
        batch = tasks[first : first + size].to(device, given)
        adapted = learner.adapt(copies(meta, batch), batch)
        hessian = Hessian(learner, adapted, batch.support, parameters=parameters, dtype=dtype, check=first == 0)
        start = random_start(hessian, "lanczos", seed)
        found = dominant(hessian, start, tolerance=tolerance, max_iterations=max_iterations)
        loss = hessian.losses.cpu()
        return Curvature(
            found.value.abs(), found.value.sign(), found.residual, found.iterations, found.converged, loss,
            found.value.isnan() | ~loss.isfinite(),
        )  # fmt: skip

    return _joined(_in_turn(learner, measure, starts, workers))


def _in_turn(
    learner: Learner, measure: Callable[[Learner, int], Curvature], starts: Sequence[int], workers: int
) -> list[Curvature]:
    """Measure every chunk; the answers come in the order of the tasks, whichever thread was first."""
    if workers == 1:
        return [measure(learner, first) for first in starts]

    def one_worker(worker: int) -> list[Curvature]:
        torch.set_num_threads(1)  # the caller's own number stays
        own = copy.deepcopy(learner)  # functional_call lends its weights to the module while it runs
        return [measure(own, first) for first in starts[worker::workers]]

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(one_worker, range(workers)))
    return [parts[index % workers][index // workers] for index in range(len(starts))]


def _joined(parts: Sequence[Curvature]) -> Curvature:
    return Curvature(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Curvature)))
