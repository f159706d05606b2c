"""LEO judged on 10,000 tasks of features, next to a straightforward loop over tasks in plain torch: time and scores.

    python benchmarks/leo.py [--device cuda] [--repeats 5] [--tasks 10000] [--shots 1]

The paper's protocol on made-up features of CIFAR-FS's test split: 20 classes of 600 examples, 640 numbers each; 5 ways,
every example that is left of a class is a query. The two take turns on the first 500 tasks, the median counts; then
mlkit alone draws and judges all of them. The loop is what one writes with `torch.nn.functional` and
`torch.autograd.grad`; the scores of both are compared in float64.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep, or a busy core stalls all

import torch
import torch.nn.functional as F
from measuring import seconds
from store import store
from torch import Tensor

from mlkit.driver import Meta, stack
from mlkit.learners import LEO
from mlkit.learners.linear_scores import accuracy_of_linear
from mlkit.seeding import seeded
from mlkit.tasks import FeatureClasses, FeatureTasks, FrozenTasks, frozen

TASKS, COMPARED, BAR = 10_000, 500, 60.0
CHUNK = 100
CLASSES, IMAGES = 20, 600
Case = tuple[LEO, Meta, FeatureTasks]


def ours(learner: LEO, meta: Meta, tasks: FrozenTasks) -> Tensor:
    """Return the accuracy of each task."""
    return accuracy_of_linear(learner, stack([meta]), tasks, chunk_size=CHUNK)[0]


def loop(learner: LEO, meta: Meta, tasks: FrozenTasks) -> Tensor:
    """Return the same, task by task."""
    rows = tasks.tasks.source.rows.to(next(iter(meta.values())))
    images, shots = tasks.draws["images"].to(rows.device), tasks.tasks.shots
    return torch.stack([_accuracy(learner, meta, rows[index[:, :shots]], rows[index[:, shots:]]) for index in images])


def _accuracy(learner: LEO, meta: Meta, support: Tensor, query: Tensor) -> Tensor:
    """Judge one task (ways, examples, features): every pair of codes concatenated, a weight vector a code."""
    ways, shots = support.shape[:2]
    flat, labels = support.flatten(0, 1), torch.arange(ways, device=support.device)
    codes = F.linear(flat, meta["phi.encoder.0"])
    read = torch.cat([codes.repeat_interleave(len(flat), 0), codes.repeat(len(flat), 1)], 1)
    for layer in range(3):
        read = F.linear(read, meta[f"phi.relation.{layer}"])
        read = F.relu(read) if layer < 2 else read
    means = read.view(len(flat), len(flat), -1).mean(1).view(ways, shots, -1).mean(1, keepdim=True)
    z = means[..., : learner.latents].expand(-1, shots, -1).clone().requires_grad_()

    def loss(w: Tensor) -> Tensor:
        scores = torch.einsum("nd,wkd->nwk", flat, w).mean(-1)
        return F.cross_entropy(scores, labels.repeat_interleave(shots), reduction="sum")

    def decode(z: Tensor) -> Tensor:
        return F.linear(z, meta["phi.decoder.0"])[..., : learner.features]

    for _ in range(learner.inner_steps):
        z = (z - meta["inner_lr.codes"] * torch.autograd.grad(loss(decode(z)), z)[0]).detach().requires_grad_()
    w = decode(z).detach().requires_grad_()
    for _ in range(learner.finetuning_steps):
        w = (w - meta["inner_lr.weights"] * torch.autograd.grad(loss(w), w)[0]).detach().requires_grad_()
    with torch.no_grad():
        scores = torch.einsum("nd,wkd->nwk", query.flatten(0, 1), w).mean(-1)
        return (scores.argmax(-1) == labels.repeat_interleave(query.shape[1])).to(scores.dtype).mean()


def case(shots: int, device: str, dtype: torch.dtype) -> Case:
    """Return LEO as it starts, and tasks of unit-length features around 20 made-up means."""
    generator, learner = seeded("benchmark"), LEO.v3(shots)
    means = torch.randn(CLASSES, 1, learner.features, generator=generator)
    rows = means + 2 * torch.randn(CLASSES, IMAGES, learner.features, generator=generator)
    source = FeatureClasses.build("made up", list(rows.numpy()), names=[f"class{k}" for k in range(CLASSES)])
    tasks = FeatureTasks(source.scaled(), "test", learner.ways, shots, IMAGES - shots).to(device)
    meta = {name: tensor.to(device, dtype) for name, tensor in learner.init(generator).items()}
    return learner, meta, tasks


def measure(count: int, shots: int, device: str, repeats: int) -> list[dict[str, Any]]:
    """Return the rows: next to the loop, and all tasks with what it takes to draw them."""
    learner, meta, tasks = case(shots, device, torch.float32)
    exact = {name: tensor.double() for name, tensor in meta.items()}
    few = frozen(tasks, min(20, count), seed=0)
    differs = (ours(learner, exact, few) - loop(learner, exact, few).cpu()).abs().max()  # warms up, too
    compared = frozen(tasks, min(COMPARED, count), seed=0)
    times: dict[str, list[float]] = {"mlkit": [], "loop": []}
    for _ in range(repeats):
        for name, method in (("mlkit", ours), ("loop", loop)):
            times[name].append(seconds(method, learner, meta, compared))
    medians = {name: statistics.median(values) for name, values in times.items()}
    protocol = f"LEO v3, 5-way {shots}-shot, {IMAGES - shots} queries a class"
    beside = {
        "ratio": medians["loop"] / medians["mlkit"],
        "bar": None,
        "case": f"evaluation of {protocol}, {len(compared)} tasks",
        "seconds": medians,
        "repeats": times,
        "largest_difference_of_a_score": float(differs),
        "execution": {"chunk_size": CHUNK, "threads": torch.get_num_threads()},
    }
    whole = seconds(lambda: ours(learner, meta, frozen(tasks, count, seed=0)))
    every = {"measure": f"seconds to draw and judge {count:,} tasks", "case": protocol, "value": whole, "bar": BAR}
    return [beside, every]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--shots", type=int, default=1)
    options = parser.parse_args()
    beside, every = rows = measure(options.tasks, options.shots, options.device, options.repeats)
    times = ", ".join(f"{name} {value:.2f}" for name, value in beside["seconds"].items())
    print(
        f"{beside['case']}: {times} s, {beside['ratio']:.2f} x the loop; scores differ by "
        f"{beside['largest_difference_of_a_score']:.1e} at most; {every['measure']}: {every['value']:.1f} "
        f"(bar {BAR:g} for {TASKS:,})"
    )
    store("leo", rows, device=options.device, partial=(options.tasks, options.shots) != (TASKS, 1))


if __name__ == "__main__":
    main()
