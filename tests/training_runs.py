"""One small training run with everything in it, and the ways to end it.

`python -m tests.training_runs FOLDER SIGNAL STEPS [watched]` trains in FOLDER and gets SIGNAL within 10 ms of that many
steps;
`torchrun -m tests.training_runs FOLDER` shares each meta-batch, and rank 0 leaves its result in FOLDER/trained.pt.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, distributed, nn

from mlkit.landscape.watch import METRICS, Watch, Watcher
from mlkit.learners import MAML
from mlkit.losses import MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import normalization
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.tasks import frozen
from mlkit.tasks.base import Draw, TaskBatch, TaskDistribution
from mlkit.tasks.sine import sine
from mlkit.training import Tracker, Trained, train

TASKS = sine("huisman", query=4)
ITERATIONS = 150
QUIET = Execution(progress=False)
EXACT = Execution(progress=False, dtype=torch.float64)


def learner(**switches: object) -> MAML:
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), normalization("running", 6), nn.Linear(6, 1))
    return MAML(net, 0.05, 2, mean_squared_error, **switches)


def outer(iterations: int = ITERATIONS, **settings: object) -> OuterLoop:
    schedule = functools.partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[iterations // 2], gamma=0.1)
    adam = functools.partial(torch.optim.Adam, lr=0.01)
    return OuterLoop(iterations, **{"meta_batch": 2, "optimizer": adam, "schedule": schedule} | settings)


def validation() -> Validation:
    return Validation(frozen(sine("huisman", "val", query=4), 5, seed=0), MEAN_SQUARED_ERROR)


def bias_norm(meta: dict[str, Tensor], _iteration: int = 0) -> Tensor:
    """Track one number a run."""
    return meta["theta.0.bias"].double().norm(dim=1)


@dataclass
class Deadly:
    """Training tasks that, after some steps, send this process a signal at a moment it cannot choose."""

    tasks: TaskDistribution
    number: int
    steps: int

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        return self.tasks.draw(count, generator)

    def gather(self, draw: Draw) -> TaskBatch:
        self.steps -= 1
        if self.steps == 0:
            threading.Timer(random.uniform(0, 0.01), os.kill, [os.getpid(), self.number]).start()
        return self.tasks.gather(draw)

    def describe(self) -> dict[str, object]:
        return self.tasks.describe()


WATCH = Watch(METRICS[:4] + METRICS[5:], tasks=6, curvature_tasks=2)


def watcher() -> Watcher:
    """Track the landscape at test tasks; what needs images apart."""
    return WATCH.on(learner(), sine("huisman", "test", query=4), metric=MEAN_SQUARED_ERROR)


def whole_run(
    folder: Path | None = None,
    *,
    tasks: TaskDistribution = TASKS,
    seconds_between: float = 30.0,
    trackers: Mapping[str, Tracker] = MappingProxyType({"bias": bias_norm}),
) -> Trained:
    """Validation, schedule, running statistics, clipping, a tracker, two seeds."""
    return train(
        learner(),
        tasks,
        outer(clip_norm=1.0, validate_every=30),
        seeds=[0, 1],
        metric=MEAN_SQUARED_ERROR,
        validation=validation(),
        trackers=trackers,
        execution=Execution(progress=False, checkpoint_seconds=seconds_between),
        folder=folder,
    )


def shared_run(meta_batch: int = 4) -> Trained:
    """A run whose meta-batch several processes can share."""
    return train(
        learner(),
        TASKS,
        outer(8, meta_batch=meta_batch, clip_norm=0.5, validate_every=4),
        seeds=[0, 1],
        metric=MEAN_SQUARED_ERROR,
        validation=validation(),
        execution=EXACT,
    )


def results(trained: Trained) -> dict[str, Tensor]:
    """Flatten all that a run leaves, save the seconds it took."""
    flat = {
        f"{name}/{key}": value for name in ("best", "last", "history") for key, value in asdict(trained)[name].items()
    }
    return flat | {"best_iteration": trained.best_iteration}


def short_run(**changes):
    """Train a few steps; every argument of `train` can be changed."""
    settings = {
        "learner": learner(),
        "tasks": TASKS,
        "outer": outer(6, validate_every=2),
        "seeds": [0, 1, 2],
        "metric": MEAN_SQUARED_ERROR,
        "execution": QUIET,
    } | changes
    return train(**settings)


def assert_same(one, other, *, tolerance: float = 0.0, pick=slice(None)) -> None:
    """Compare everything two runs leave; `pick` chooses runs of the first."""
    left, right = results(one), results(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        value = value[:, pick] if name.startswith("history") and value.dim() > 1 else value
        value = value if name.startswith("history") else value[pick]
        assert torch.allclose(value, right[name], rtol=0, atol=tolerance, equal_nan=True), name


def child(*arguments: str, module: tuple[str, ...] = ("tests.training_runs",)) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *module, *arguments]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment, stderr=subprocess.PIPE, text=True)


def _one_of_several(folder: Path) -> None:
    distributed.init_process_group("gloo")
    found = results(shared_run())
    try:
        shared_run(meta_batch=3)
    except ValueError as error:
        found["refusal"] = str(error)
    if distributed.get_rank() == 0:
        torch.save(found, folder / "trained.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        _one_of_several(Path(sys.argv[1]))
    else:
        number, steps = map(int, sys.argv[2:4])
        settings = {"trackers": {"watch": watcher()}} if "watched" in sys.argv else {}
        whole_run(Path(sys.argv[1]), tasks=Deadly(TASKS, number, steps), seconds_between=0, **settings)
