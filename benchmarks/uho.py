"""What reuse of work saves in a search over update hyperparameters: one adaptation a task that scores every step.

    python benchmarks/uho.py [--tasks 200] [--trials 30] [--compared 8] [--repeats 3]

A trial needs the score of every task after 1, 2, ..., 20 steps. `mlkit.uho` adapts once and scores on the way; the
other way adapts anew for every number of steps. The same tasks, weights and process; the two take turns; the median
counts; their scores are compared. The network is the quick one of the chapters on segmentation, untrained.

Then a whole search is timed, on all cores: so many trials, each on so many tasks, half of which find the number of
steps, at most 5, while the other half judges it. Its network is smaller, that of a demonstration on two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: as `mlkit run` does

import torch
from store import store
from torch import Tensor

from mlkit.augmentation import Augmentation
from mlkit.driver import stack
from mlkit.evaluation import evaluate
from mlkit.learners import Displacement
from mlkit.models import EfficientLab
from mlkit.seeding import seeded
from mlkit.segmentation_losses import IOU, segmentation_loss
from mlkit.tasks import SegmentationSpec, frozen
from mlkit.uho import EFFICIENTLAB_3, Objective, tune

BAR = 5.0  # times as fast as without reuse
SEPARATE = "every number of steps by itself"
QUICK = 180.0  # seconds: what the quick preset of a chapter may take
SHOTS = 5
TRAINING = {"inner_lr": 0.005, "steps": 5}


@dataclass(frozen=True)
class Case:
    """Side of the pictures in pixels, factor of the network's channels, most steps, tasks adapted at once."""

    size: int
    width: float
    steps: int
    chunk_size: int


COMPARED, WHOLE = Case(32, 0.25, 20, 8), Case(16, 0.1, 5, 50)


def objective(tasks: int, case: Case) -> Objective:
    """Return what a search asks of so many tasks of made-up shapes, and of as many others."""
    model = EfficientLab(width=case.width, dropout=0.2)
    how = {"batch_size": 8, "loss": segmentation_loss, "augment": Augmentation(0.5), "l2": 5e-4}
    learner = Displacement(model, "fomaml_star", TRAINING["inner_lr"], TRAINING["steps"], **how)
    meta = stack([learner.init(seeded("benchmark"))])
    new = SegmentationSpec("shapes", SHOTS, 5, case.size).split("val")
    stopping, judging = (frozen(new, tasks, seed) for seed in (1, 2))
    return Objective(learner, meta, stopping, judging, IOU, max_steps=case.steps, chunk_size=case.chunk_size)


def reused(asked: Objective) -> Tensor:
    """Score every step of one adaptation a task: (steps, tasks)."""
    how = {"metric": IOU, "steps": range(1, asked.max_steps + 1), "chunk_size": asked.chunk_size}
    return evaluate(asked.learner, asked.meta, asked.judging, **how)[0]


def separate(asked: Objective) -> Tensor:
    """Adapt every task anew for every number of steps: (steps, tasks)."""
    how, every = {"metric": IOU, "chunk_size": asked.chunk_size}, range(1, asked.max_steps + 1)
    return torch.stack([evaluate(asked.learner, asked.meta, asked.judging, steps=n, **how)[0] for n in every])


def named(case: Case) -> str:
    return f"EfficientLab-3 of width {case.width:g}, {case.size} px"


def timed(method: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = method(*arguments)
    return time.perf_counter() - start, found


def compared(tasks: int, repeats: int) -> dict[str, Any]:
    """Return the row of what reuse saves."""
    asked = objective(tasks, COMPARED)
    times: dict[str, list[float]] = {"mlkit": [], SEPARATE: []}
    apart = 0.0
    for _ in range(repeats):
        (quick, ours), (slow, theirs) = timed(reused, asked), timed(separate, asked)
        times["mlkit"].append(quick)
        times[SEPARATE].append(slow)
        apart = max(apart, float((ours - theirs).abs().max()))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ratio": medians[SEPARATE] / medians["mlkit"],
        "bar": BAR,
        "case": f"a trial with {named(COMPARED)}, {tasks} tasks, 1 to {COMPARED.steps} steps",
        "seconds": medians,
        "repeats": times,
        "largest_difference_in_score": apart,
    }


def whole(tasks: int, trials: int) -> dict[str, Any]:
    """Return the row of a whole search over so many tasks a trial."""
    jobs = os.cpu_count() or 1
    seconds, study = timed(
        lambda: tune(objective(tasks // 2, WHOLE), EFFICIENTLAB_3, TRAINING, trials=trials, jobs=jobs, progress=False)
    )
    return {
        "measure": "seconds of a whole search",
        "value": seconds,
        "bar": QUICK,
        "case": f"{len(study.trials)} trials of {tasks} tasks with {named(WHOLE)}, at most {WHOLE.steps} steps",
        "execution": {"chunk_size": WHOLE.chunk_size, "jobs": jobs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--compared", type=int, default=8, help="tasks by which the two ways are compared")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for measure in (
        lambda: compared(options.compared, options.repeats),
        lambda: whole(options.tasks, options.trials),
    ):
        rows.append(measure())
        number = rows[-1].get("ratio", rows[-1].get("value"))
        print(f"{rows[-1]['case']}: {number:.3g} (bar {rows[-1]['bar']:g})", flush=True)
    small = (options.tasks, options.trials, options.compared) != (200, 30, 8)
    store("uho", rows, device="cpu", partial=small)


if __name__ == "__main__":
    main()
