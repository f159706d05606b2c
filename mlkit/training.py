"""The outer loop: meta-batches, optimizer, schedule, validation, checkpoints. Several seeds train side by side."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from tqdm.auto import tqdm

from mlkit import checkpoint
from mlkit.driver import Learner, Meta, average_over_processes, meta_gradient
from mlkit.losses import Metric
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.tasks.base import TaskBatch, TaskDistribution
from mlkit.tracking import Tracker, observe, recorded
from mlkit.training_state import TrainingState, start


@dataclass(frozen=True)
class Trained:
    """What training leaves: stacked meta-parameters (runs, ...), and the history of each quantity.

    best: state of each run at its best validation (the last one where there is no validation); last: final state;
    best_iteration (runs,); history: name -> tensor (points, runs, ...), and `iteration` (points,);
    seconds: wall time spent training and validating, tracking_seconds: wall time spent in trackers, both over all
    sessions of the run; diverged_at (runs,): the step at which a run was frozen, -1 where it never diverged. Such a
    run's history is NaN from there on, its last state is that before the step; skipped (runs,): steps that were left
    out, whose train_loss is NaN in the history.
    """

    best: Meta
    last: Meta
    best_iteration: Tensor
    history: dict[str, Tensor]
    seconds: float
    tracking_seconds: float
    diverged_at: Tensor
    skipped: Tensor

    def accidents(self) -> dict[str, list[int]]:
        """Return what a record says of steps that were not finite: `diverged_at` and `skipped`, where there was any."""
        told = {"diverged_at": self.diverged_at, "skipped": self.skipped}
        least = {"diverged_at": 0, "skipped": 1}
        return {name: runs.tolist() for name, runs in told.items() if (runs >= least[name]).any()}


def train(
    learner: Learner,
    tasks: TaskDistribution,
    outer: OuterLoop,
    *,
    seeds: Sequence[int],
    metric: Metric,
    validation: Validation | None = None,
    trackers: Mapping[str, Tracker] | None = None,
    execution: Execution | None = None,
    folder: Path | None = None,
) -> Trained:
    """Meta-train `learner` on fresh tasks, one run a seed, all runs side by side.

    With a folder the state is saved there every `execution.checkpoint_seconds`; the same call goes on from it, and ends
    bit-identical to a run that was never stopped. Under `torchrun`, with an initialized process group, each process
    takes its share of every meta-batch.

    Args:
        learner: what is trained.
        tasks: where training tasks come from.
        outer: the outer loop.
        seeds: one run each; initialization and tasks of a run depend on its seed alone.
        metric: score of the query sets while training, recorded as `train_<name>`, beside `train_loss`.
        validation: picks the best state; recorded as `validation`.
        trackers: further quantities to record at the same points, as functions of the stacked meta-parameters and the
            iteration; one that returns several by name records them under those names.
        execution: device, chunks, workers.
        folder: where checkpoints go; None to keep none.

    Raises:
        FloatingPointError: a loss or meta-gradient is not finite, and the outer loop stops on divergence; names the
            step, the learner, the last checkpoint.
        checkpoint.Interrupted: Ctrl-C or SIGTERM came; the state is saved.
        ValueError: the folder holds a run with other settings, a meta-batch cannot be shared out evenly, or trackers
            disagree about names.
    """
    execution = execution or Execution()
    trackers = trackers or {}
    state = start(learner, outer, seeds, validation, execution)
    fingerprint = _fingerprint(learner, tasks, outer, seeds, validation, recorded(metric, trackers))
    look = {"validation": validation, "trackers": trackers, "execution": execution}
    keeper = _Keeper(folder, fingerprint, execution.checkpoint_seconds)
    keeper.resume(state)
    clock = time.monotonic()
    quiet = not execution.progress or _rank() > 0
    with (
        execution.arithmetic(),
        checkpoint.deferred_signals() as signals,
        tqdm(total=outer.iterations, initial=state.iteration, unit="step", disable=quiet) as bar,
    ):
        if not state.history:
            observe(state, learner, metric, **look)
            state.seconds, clock = state.seconds + time.monotonic() - clock, time.monotonic()
        while not state.ended(outer):
            batch = _next_batch(state, tasks, outer.meta_batch, execution)
            _step(state, learner, outer, batch, metric, execution, keeper)
            last = state.ended(outer)
            if last or state.iteration % outer.validate_every == 0:
                observe(state, learner, metric, **look)
            state.seconds, clock = state.seconds + time.monotonic() - clock, time.monotonic()
            _report(bar, state, outer.meta_batch * len(seeds), metric)
            keeper.save(state, now=last or bool(signals))
            if signals:
                raise checkpoint.Interrupted(f"stopped at step {state.iteration} of {outer.iterations}; {keeper}")
    return _finish(state, validation)


def _next_batch(state: TrainingState, tasks: TaskDistribution, meta_batch: int, execution: Execution) -> TaskBatch:
    """Draw every run's tasks, each from its own generator, and gather this process's share of them."""
    world = _world()
    if meta_batch % world:
        raise ValueError(f"expected a meta_batch that {world} processes can share evenly, got {meta_batch}")
    mine = slice(_rank() * meta_batch // world, (_rank() + 1) * meta_batch // world)
    draws = [tasks.draw(meta_batch, generator) for generator in state.generators]
    batch = tasks.gather({name: torch.cat([draw[name][mine] for draw in draws]) for name in draws[0]})
    batch = batch.to(execution.device, execution.dtype)
    return batch.map(_channels_last) if execution.channels_last else batch


def _channels_last(tensor: Tensor) -> Tensor:
    """Lay images (tasks, examples, channels, height, width) out channels last; other tensors stay."""
    return tensor.movedim(2, -1).contiguous().movedim(-1, 2) if tensor.dim() == 5 else tensor


def _step(
    state: TrainingState,
    learner: Learner,
    outer: OuterLoop,
    batch: TaskBatch,
    metric: Metric,
    execution: Execution,
    keeper: _Keeper,
) -> None:
    meta = state.frozen_meta()
    how = {"chunk_size": execution.chunk_size, "query_chunk": execution.query_chunk, "workers": execution.workers}
    found = meta_gradient(learner, meta, batch, **how)
    scores = metric.score(found.outputs.flatten(0, 1), batch.query.y).view(found.losses.shape).mean(1)
    numbers = torch.stack([found.losses.mean(1), scores]).double()
    average_over_processes([*found.gradients.values(), *found.buffers.values(), numbers])
    for name, parameter in state.parameters.items():
        parameter.grad = found.gradients[name]
    _clip([tensor for name, tensor in state.parameters.items() if name.startswith(outer.clipped)], outer)
    broken = _broken_runs(numbers[0], state.parameters) & ~state.frozen
    if outer.on_divergence == "skip":
        state.skipped += broken
    elif broken.any():
        state.diverged_at[broken] = state.iteration + 1
        if outer.on_divergence == "stop":
            raise FloatingPointError(
                f"the loss or meta-gradient of run {broken.nonzero().flatten().tolist()} is not finite at step "
                f"{state.iteration + 1} of {learner.describe()}; {keeper}; lower the inner or outer learning rate, or "
                "clip the meta-gradient, in a new folder"
            )
    with state.keeping(state.frozen | broken):
        state.optimizer.step()
        for name, buffer in found.buffers.items():
            state.meta[name].copy_(buffer)
    if state.scheduler:
        state.scheduler.step()
    state.sums += state.but_frozen(numbers.cpu().T).T
    state.summed += 1
    state.iteration += 1


def _broken_runs(losses: Tensor, parameters: Meta) -> Tensor:
    """Tell whose loss or clipped meta-gradient is not finite (runs,): one step on, their weights would be lost."""
    sums = [losses, *(parameter.grad.flatten(1).sum(1).to(losses.dtype) for parameter in parameters.values())]
    return ~torch.stack(sums).isfinite().all(0).cpu()


def _clip(parameters: list[Tensor], outer: OuterLoop) -> None:
    """Clip values, then the norm of each run's gradient: axis 0 of every parameter counts runs."""
    if outer.clip_value is not None:
        for parameter in parameters:
            parameter.grad.clamp_(-outer.clip_value, outer.clip_value)
    if outer.clip_norm is not None:
        norms = torch.stack([parameter.grad.flatten(1).norm(dim=1) for parameter in parameters]).norm(dim=0)
        factors = (outer.clip_norm / norms.clamp_min(1e-30)).clamp_max(1)
        for parameter in parameters:
            parameter.grad.mul_(factors.view(-1, *[1] * (parameter.dim() - 1)))


def _report(bar: tqdm, state: TrainingState, tasks_per_step: int, metric: Metric) -> None:
    shown = {"tasks/s": f"{state.iteration * tasks_per_step / max(state.seconds - state.tracking_seconds, 1e-9):.0f}"}
    if state.summed:
        shown["loss"] = f"{float(state.sums[0].mean()) / state.summed:.4f}"
        shown[metric.name] = f"{float(state.sums[1].mean()) / state.summed:.4f}"
    if "validation" in state.history:
        shown["best"] = f"{float(state.best_score.mean()):.4f}"
    if state.frozen.any():
        shown["diverged"] = f"{int(state.frozen.sum())} of {len(state.frozen)}"
    bar.set_postfix(shown, refresh=False)
    bar.update(1)


def _finish(state: TrainingState, validation: Validation | None) -> Trained:
    last = {name: tensor.clone() for name, tensor in state.frozen_meta().items()}
    if validation is None:
        best, iterations = last, torch.where(state.frozen, state.diverged_at - 1, state.iteration)
    else:
        best, iterations = state.best, state.best_iteration
    history = {name: torch.tensor(values, dtype=torch.float64) for name, values in state.history.items()}
    seconds = state.seconds - state.tracking_seconds, state.tracking_seconds
    return Trained(best, last, iterations, history, *seconds, state.diverged_at, state.skipped)


@dataclass
class _Keeper:
    """Saves and restores the state of one run in its folder."""

    folder: Path | None
    fingerprint: str
    every_seconds: float
    saved_at: float = 0.0
    saved_step: int | None = None

    def __str__(self) -> str:
        if self.saved_step is None:
            return "no checkpoint was kept"
        return f"the last good checkpoint is of step {self.saved_step} in {self.folder}; the same call goes on from it"

    def resume(self, state: TrainingState) -> None:
        self.saved_at = time.monotonic()
        saved = checkpoint.load(self.folder) if self.folder is not None else None
        if saved is None:
            return
        if saved["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"expected the checkpoint in {self.folder} to be of this run, got one with other settings; "
                "pass another folder, or delete it to start again"
            )
        state.restore(saved["state"])
        self.saved_step = state.iteration

    def save(self, state: TrainingState, *, now: bool) -> None:
        due = now or time.monotonic() - self.saved_at > self.every_seconds
        if self.folder is None or not due or _rank() > 0:
            return
        checkpoint.save(self.folder, {"fingerprint": self.fingerprint, "state": state.to_dict()})
        self.saved_at, self.saved_step = time.monotonic(), state.iteration


def _fingerprint(
    learner: Learner,
    tasks: TaskDistribution,
    outer: OuterLoop,
    seeds: Sequence[int],
    validation: Validation | None,
    recorded: list[Any],
) -> str:
    """Return a hash of all that decides the result and what is `recorded` of it."""
    judged = [validation.tasks.content_hash, validation.metric.name, validation.steps] if validation else None
    settings = [learner.describe(), tasks.describe(), outer.describe(), list(seeds), judged, recorded]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _world() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
