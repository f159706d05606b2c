"""One driver batches tasks: it gives each task its copy of the meta-parameters and averages what comes back.

`chunk_size` is the dial between time and memory; `workers` deals the chunks to threads. Neither changes the result
beyond rounding. A run axis (several seeds side by side) is nothing but more tasks.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from inspect import isgeneratorfunction
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from mlkit.adaptation import Adapted, Weights
from mlkit.tasks.base import TaskBatch

Meta = dict[str, Tensor]
Job, Done = TypeVar("Job"), TypeVar("Done")


@dataclass(frozen=True)
class TaskGradients:
    """What one chunk of tasks says of the meta-parameters; axis 0 of every tensor counts tasks.

    gradients: of each task's loss; losses: query losses (tasks,); outputs: query predictions (tasks, examples, ...);
    buffers: state that is averaged over tasks instead of learned, such as running statistics.
    """

    gradients: Weights
    losses: Tensor
    outputs: Tensor
    buffers: Weights


Rounds = Generator[Tensor, Tensor, TaskGradients]  # yields numbers of each task, is sent their mean over the run


class Learner(Protocol):
    """A family of meta-learners, as functions. Every tensor carries a leading task axis, save in `init`."""

    def init(self, generator: torch.Generator) -> Meta:
        """Return the meta-parameters of one run, by role: `theta.<name>`, `inner_lr.<name>`, `buffers.<name>`, ..."""

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets without a graph, as at meta-test."""

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict the targets of x (tasks, examples, ...)."""

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients | Rounds:
        """Return each task's meta-gradient (or negative displacement); `query_chunk` query sets are judged at once.

        Where the tasks of a meta-batch depend on one another, it is a generator: it yields numbers of each of its tasks
        (tasks, ...) and is sent, in the same shape, their mean over all tasks of the run, as often as it asks.
        """

    def describe(self) -> dict[str, Any]:
        """Say what a record must say: family, hyperparameters, model, normalization policy."""


@dataclass(frozen=True)
class MetaGradient:
    """Means over each run's tasks of gradients and buffers (runs, ...); losses and outputs (runs, tasks, ...)."""

    gradients: Meta
    buffers: Meta
    losses: Tensor
    outputs: Tensor


def stack(metas: list[Meta]) -> Meta:
    """Stack the meta-parameters of several runs along a new leading run axis."""
    return {name: torch.stack([meta[name] for meta in metas]) for name in metas[0]}


def run_of(meta: Meta, index: int) -> Meta:
    """Take one run's meta-parameters out of a stack."""
    return {name: tensor[index] for name, tensor in meta.items()}


def for_tasks(meta: Meta, runs: Tensor) -> Meta:
    """Give each task its copy of the meta-parameters of its run: `runs` (tasks,) -> (tasks, ...)."""
    return {name: tensor[runs] for name, tensor in meta.items()}


def meta_gradient(
    learner: Learner,
    meta: Meta,
    tasks: TaskBatch,
    *,
    chunk_size: int | None = None,
    query_chunk: int | None = None,
    workers: int = 1,
) -> MetaGradient:
    """Average the tasks' meta-gradients, run by run.

    Args:
        learner: what adapts.
        meta: stacked meta-parameters (runs, ...); see `stack`.
        tasks: runs * tasks of them, run after run.
        chunk_size: tasks that are adapted at once; None for all. 1 is the plain loop.
        query_chunk: of these, tasks whose query sets are judged at once; None for all.
        workers: threads that share the chunks, each with its own copy of the learner.

    Raises:
        ValueError: the tasks cannot be shared out evenly among the runs.
    """
    runs = next(iter(meta.values())).shape[0]
    if len(tasks) % runs:
        raise ValueError(f"expected the same number of tasks for each of {runs} runs, got {len(tasks)} tasks in all")
    run_of_task = torch.arange(len(tasks), device=tasks.seeds.device) // (len(tasks) // runs)
    sums: Meta = {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
    losses, outputs = [], []
    size = min(chunk_size or len(tasks), -(-len(tasks) // workers))  # no worker idles
    chunks = [slice(first, first + size) for first in range(0, len(tasks), size)]

    def work(learner: Learner, rows: slice) -> TaskGradients | Rounds:
        return learner.gradients(for_tasks(meta, run_of_task[rows]), tasks[rows], query_chunk=query_chunk)

    parts = _in_order(learner, work, chunks, workers)
    if isgeneratorfunction(learner.gradients):
        parts = _in_rounds(list(parts), run_of_task.split(size), workers)
    for rows, part in zip(chunks, parts, strict=True):
        for name, values in {**part.gradients, **part.buffers}.items():
            sums[name].index_add_(0, run_of_task[rows], values)
        losses.append(part.losses)
        outputs.append(part.outputs)
    means = {name: total / (len(tasks) // runs) for name, total in sums.items()}
    return MetaGradient(
        {name: mean for name, mean in means.items() if not is_buffer(name)},
        {name: mean for name, mean in means.items() if is_buffer(name)},
        torch.cat(losses).view(runs, -1),
        torch.cat(outputs).unflatten(0, (runs, -1)),
    )


def is_buffer(name: str) -> bool:
    """Tell state that is carried along from what the outer optimizer learns."""
    return name.startswith("buffers.")


def average_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes of the group, where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for tensor in tensors:
        distributed.all_reduce(tensor)
        tensor /= distributed.get_world_size()


def _in_rounds(parts: list[Rounds], run_of_task: Sequence[Tensor], workers: int) -> list[TaskGradients]:
    """Let every chunk go on until it yields, answer all of them with the means over the tasks of their runs, and again.

    A chunk stays with the worker that began it, so no copy of the learner is ever used by two threads at once.
    """
    answers: list[Tensor | None] = [None] * len(parts)

    def go_on(_: None, index: int) -> Tensor | TaskGradients:
        try:
            return parts[index].send(answers[index])
        except StopIteration as end:
            return end.value

    runs = int(run_of_task[-1][-1]) + 1
    while True:
        said = list(_in_order(None, go_on, range(len(parts)), workers))
        if isinstance(said[0], TaskGradients):
            return said
        means = torch.cat(said).unflatten(0, (runs, -1)).mean(1)
        average_over_processes([means])
        answers = [means[rows] for rows in run_of_task]


def _in_order(
    learner: Learner | None, work: Callable[[Any, Job], Done], jobs: Sequence[Job], workers: int
) -> Iterator[Done]:
    """Yield what each job gives, in order whichever thread was first; one job left over has all cores to itself."""
    left_over = 1 if len(jobs) % workers == 1 and torch.get_num_threads() > 1 else 0
    dealt = jobs[: len(jobs) - left_over]
    if workers == 1 or len(jobs) == 1:
        yield from (work(learner, job) for job in jobs)
        return

    def one_worker(worker: int) -> list[Done]:
        own = copy.deepcopy(learner)  # functional_call lends its weights to the module while it runs
        return [work(own, job) for job in dealt[worker::workers]]

    parts = list(_threads(workers).map(one_worker, range(workers)))
    for index in range(len(dealt)):
        yield parts[index % workers][index // workers]
    yield from (work(learner, job) for job in jobs[len(dealt) :])


@cache
def _threads(workers: int) -> ThreadPoolExecutor:
    """Return threads that stay: new ones would fetch their memory anew at every step. The caller's own number stays."""
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork
