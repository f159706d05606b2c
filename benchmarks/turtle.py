"""One meta-iteration of second-order TURTLE next to a straightforward loop over tasks in plain torch: time and error.

    python benchmarks/turtle.py [--device cuda] [--repeats 5] [--tasks 25]

The same network, rule, tasks and process; the two take turns; the median counts. The loop is what one writes with
`torch.nn.functional` and `torch.autograd.grad`: a task after the other, its graph kept through all inner steps, and
backward; the accuracy of both is taken against the loop in float64.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep, or a busy core stalls all

import torch
import torch.nn.functional as F
from cases import PlainMLP
from measuring import distance, seconds
from store import store
from torch import Tensor
from torch.func import functional_call

from mlkit.driver import Meta, meta_gradient, stack
from mlkit.learners import Turtle
from mlkit.losses import mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks import TaskBatch, sample, sine

TASKS, STEPS, BAR = 25, 5, 5.0
CORES = os.cpu_count() or 1
Method = Callable[[Meta, TaskBatch], Meta]


def ours(meta: Meta, batch: TaskBatch, *, workers: int = 1) -> Meta:
    """Return mlkit's meta-gradient, the mean over the tasks, by so many threads."""
    learner = Turtle(MLP(), STEPS, mean_squared_error)
    found = meta_gradient(learner, stack([meta]), batch, workers=workers).gradients
    return {name: gradient[0] for name, gradient in found.items()}


def loop(meta: Meta, batch: TaskBatch) -> Meta:
    """Return the same, task by task."""
    learned = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    start, phi, alpha = (_role(learned, name) for name in ("theta", "phi", "inner_lr"))
    model = PlainMLP()
    for x, y, query_x, query_y in zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True):
        theta, history = start, None
        for _ in range(STEPS):
            loss = F.mse_loss(functional_call(model, theta, (x,)), y)
            slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            gradient = torch.cat([slope.flatten() for slope in slopes])
            history = gradient if history is None else 0.9 * history + 0.1 * gradient
            moves = _rule(phi, torch.stack([gradient, history], 1)).split([t.numel() for t in theta.values()])
            theta = {
                name: tensor + alpha[name] * move.view_as(tensor)
                for (name, tensor), move in zip(theta.items(), moves, strict=True)
            }
        (F.mse_loss(functional_call(model, theta, (query_x,)), query_y) / len(batch)).backward()
    return {name: tensor.grad for name, tensor in learned.items()}


def _role(meta: Meta, role: str) -> Meta:
    return {name.removeprefix(f"{role}."): tensor for name, tensor in meta.items() if name.startswith(f"{role}.")}


def _rule(phi: Meta, read: Tensor) -> Tensor:
    """Apply the meta-network to what each coordinate reads (n, 2) -> (n,)."""
    for layer in range(5):
        read = F.relu(F.linear(read, phi[f"body.{layer}.weight"], phi[f"body.{layer}.bias"]))
    return F.linear(read, phi["head.weight"], phi["head.bias"]).squeeze(1)


def case(tasks: int, device: str, dtype: torch.dtype) -> tuple[Meta, TaskBatch]:
    """Return an initialization, a rule and tasks of the published sine study: 5 shots, 50 queries."""
    meta = Turtle(MLP(), STEPS, mean_squared_error).init(seeded("benchmark"))
    batch = sample(sine("huisman"), tasks, seeded("benchmark")).to(device, dtype)
    return {name: tensor.to(device, dtype) for name, tensor in meta.items()}, batch


def measure(tasks: int, device: str, repeats: int, workers: int) -> dict[str, Any]:
    """Return the row of so many threads, which the loop cannot use."""
    methods: dict[str, Method] = {"mlkit": partial(ours, workers=workers), "loop": loop}
    exact, single = case(tasks, device, torch.float64), case(tasks, device, torch.float32)
    truth = loop(*exact)
    errors = {name: distance(method(*single), truth) for name, method in methods.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            times[name].append(seconds(method, *single))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ratio": medians["loop"] / medians["mlkit"],
        "bar": BAR,
        "case": f"meta-iteration of second-order TURTLE, sine MLP, {tasks} tasks, {STEPS} steps"
        + (f", tasks dealt to {workers} threads" if workers > 1 else ""),
        "seconds": medians,
        "repeats": times,
        "float32_error": errors,
        "float64_distance": distance(methods["mlkit"](*exact), truth),
        "execution": {"workers": workers, "threads": torch.get_num_threads()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=TASKS)
    options = parser.parse_args()
    rows = []
    for workers in dict.fromkeys((1, CORES if options.device == "cpu" else 1)):
        row = measure(options.tasks, options.device, options.repeats, workers)
        times = ", ".join(f"{name} {value * 1e3:.1f}" for name, value in row["seconds"].items())
        print(
            f"{row['case']}: {times} ms; {row['ratio']:.2f} x the loop (bar {BAR:g}); float32 error "
            f"{row['float32_error']['mlkit']:.1e}; float64 distance {row['float64_distance']:.1e}"
        )
        rows.append(row)
    store("turtle", rows, device=options.device, partial=options.tasks != TASKS)


if __name__ == "__main__":
    main()
