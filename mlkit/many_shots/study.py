"""One initialization over all tasks and numbers of shots: stored task by task, so that a killed study goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from mlkit.driver import Meta
from mlkit.learners import Displacement, JointTraining
from mlkit.losses import Metric
from mlkit.many_shots.adapting import adapt
from mlkit.many_shots.protocol import Protocol
from mlkit.outer import Execution
from mlkit.project import write_whole
from mlkit.records import Result, Unit, Work
from mlkit.stored import Record
from mlkit.tasks.base import TaskBatch, content_hash
from mlkit.tasks.many_shots import ManyShots, ManyShotsSpec
from mlkit.uho import Values


@dataclass(frozen=True)
class Start:
    """An initialization with what adapts it.

    Args:
        learner: returns the learner whose routine adapts; called where something is to be computed.
        meta: returns its meta-parameters of one run (1, ...), likewise.
        few: update hyperparameters by number of shots, for few of them; see `mlkit.many_shots.adapt`.
        of: keys of the records that they come from, which tell what the learner is; without any, it is described and
            its meta-parameters are hashed.
    """

    learner: Callable[[], Displacement | JointTraining]
    meta: Callable[[], Meta]
    few: Mapping[int, Values] = field(default_factory=dict)
    of: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        few = {str(shots): dict(values) for shots, values in self.few.items()}
        if self.of:
            return {"few": few, "of": list(self.of)}
        return {"few": few, "learner": self.learner().describe(), "weights": content_hash({}, self.meta())}


@dataclass(frozen=True)
class Study:
    """Scores and numbers of steps (rules, classes, repeats, shots), float64, NaN where a class has too few pictures."""

    rules: tuple[str, ...]
    shots: tuple[int, ...]
    scores: Tensor
    steps: Tensor

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean score over tasks, by rule and number of shots."""
        rows = self.scores.flatten(1, 2).nanmean(1).tolist()
        return {
            rule: {str(shots): value for shots, value in zip(self.shots, row, strict=True)}
            for rule, row in zip(self.rules, rows, strict=True)
        }

    def arrays(self) -> dict[str, Tensor]:
        """Return the arrays of a record."""
        return {"scores": self.scores.float(), "steps": self.steps.float()}


def study(
    start: Start,
    tasks: ManyShots,
    protocol: Protocol,
    *,
    metric: Metric,
    execution: Execution | None = None,
    jobs: int | None = None,
    folder: Path | None = None,
) -> Study:
    """Adapt an initialization to every task with every number of shots.

    Args:
        start: the initialization.
        tasks: what it is adapted to and judged on.
        protocol: how.
        metric: the score.
        execution: `chunk_size` tasks are adapted at once (default 1) on its device; `autocast` and `progress` count.
        jobs: processes that share the tasks; None for one, or as `joblib.parallel_config` says.
        folder: where each task is stored as it ends, which all processes must reach; a killed study goes on there.

    Raises:
        ValueError: update hyperparameters of few shots are missing, or `folder` holds another study.
    """
    how = execution or Execution()
    settings = start.describe() | {"tasks": tasks.describe(), "protocol": protocol.describe(), "metric": metric.name}
    if folder:
        _claim(folder, settings)
    asked = [(shots, task) for shots in tasks.shots for task in tasks.having(shots)]
    known = {pair: found for pair in asked if (found := _stored(folder, *pair))}
    chunks = list(_chunks(tasks, [pair for pair in asked if pair not in known], how.chunk_size or 1))
    if chunks:
        worker = _Worker(start.learner(), start.few, start.meta(), protocol, metric, how, folder)
        with tqdm(chunks, "many shots", unit="chunk", disable=not how.progress) as bar:
            parts = Parallel(n_jobs=jobs)(delayed(worker)(*some, tasks.gather(*some[::-1])) for some in bar)
        for part in parts:
            known |= part
    return _assembled(tasks, protocol, known)


def record(
    unit: Unit,
    name: str,
    start: Start,
    tasks: ManyShotsSpec,
    protocol: Protocol,
    *,
    metric: Metric,
    execution: Execution | None = None,
    jobs: int | None = None,
) -> Record:
    """Return the record of a study; compute it where it is missing, going on where a killed one stopped.

    Scores: of each rule the mean over the tasks by number of shots. Arrays: `scores` and `steps` as those of `Study`.
    """
    how = execution or Execution()

    def compute(work: Work) -> Result:
        loaded = tasks.load()
        found = study(start, loaded, protocol, metric=metric, execution=how, jobs=jobs, folder=work.folder)
        scores = {"metric": metric.name, "mean": found.means()}
        return Result(scores, found.arrays(), loaded.describe(), tasks=len(loaded))

    settings = start.describe() | {
        "tasks": tasks.describe(),
        "protocol": protocol.describe(),
        "metric": metric.name,
        "device": how.device,
        "chunk_size": how.chunk_size,
        **({"autocast": str(how.autocast)} if how.autocast else {}),
    }
    return unit.record(name, settings, compute)


Numbers = dict[str, list[float]]  # of one task: scores and steps, by rule


@dataclass(frozen=True)
class _Worker:
    """What a process needs to adapt to some tasks with the same number of shots, and to store each."""

    learner: Displacement | JointTraining
    few: Mapping[int, Values]
    meta: Meta
    protocol: Protocol
    metric: Metric
    how: Execution
    folder: Path | None

    def __call__(self, shots: int, tasks: list[int], batch: TaskBatch) -> dict[tuple[int, int], Numbers]:
        dtype = next(tensor.dtype for tensor in self.meta.values() if tensor.is_floating_point())
        meta, batch = {n: t.to(self.how.device) for n, t in self.meta.items()}, batch.to(self.how.device, dtype)
        with self.how.arithmetic():
            scores, steps = adapt(self.learner, meta, batch, self.protocol, few=self.few, metric=self.metric)
        found: dict[tuple[int, int], Numbers] = {}
        for column, task in enumerate(tasks):
            found[shots, task] = {"scores": scores[:, column].tolist(), "steps": steps[:, column].tolist()}
            if self.folder:
                write_whole(_path(self.folder, shots, task), json.dumps(found[shots, task]).encode())
        return found


def _chunks(tasks: ManyShots, missing: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, list[int]]]:
    for shots in tasks.shots:
        those = [task for count, task in missing if count == shots]
        yield from ((shots, those[start : start + size]) for start in range(0, len(those), size))


def _path(folder: Path, shots: int, task: int) -> Path:
    return folder / f"shots-{shots}-task-{task}.json"


def _stored(folder: Path | None, shots: int, task: int) -> Numbers | None:
    path = _path(folder, shots, task) if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write down whose study is in a folder."""
    path, text = folder / "study.json", json.dumps(settings, sort_keys=True, default=str)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"expected the study of {path} to be this one, got another; give it a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _assembled(tasks: ManyShots, protocol: Protocol, known: Mapping[tuple[int, int], Numbers]) -> Study:
    classes, shape = len(tasks.names), (len(protocol.rules), len(tasks.names), tasks.repeats, len(tasks.shots))
    scores, steps = (torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(2))
    for (shots, task), numbers in known.items():
        repeat, k = divmod(task, classes)
        for array, name in ((scores, "scores"), (steps, "steps")):
            array[:, k, repeat, tasks.shots.index(shots)] = torch.tensor(numbers[name], dtype=torch.float64)
    return Study(tuple(protocol.rules), tasks.shots, scores, steps)
