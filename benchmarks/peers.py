"""One meta-iteration of mlkit next to higher, torchopt and learn2learn: time, memory and accuracy.

    python benchmarks/peers.py [--device cuda] [--repeats 5] [--only sine]

The same network, tasks and process; the libraries take turns; the median counts. Each peer is written as its own
examples write it: a loop over the tasks, backward on each. First order in torchopt, whose MetaSGD is always of second
order, goes through its functional interface.

Accuracy is the median over several meta-batches: float32 errors come in jumps, since every now and then a ReLU or a
max-pool sees two numbers in another order than float64 does, and takes the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep, or a busy core stalls all

import torch
from cases import Case, cases, ours
from libraries import FOLDER, install, load
from measuring import distance, seconds
from store import store
from torch import Tensor
from torch.func import functional_call

from mlkit.evidence import Meter
from mlkit.tasks import TaskBatch

KEEP = {  # tells glibc to keep freed memory; by default it gives much of it back and fetches it anew at every step
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
}
DRAWS = 3  # meta-batches whose float32 errors are compared
Weights = dict[str, Tensor]
Method = Callable[[Case, Weights, TaskBatch], Weights]


def each_task(batch: TaskBatch) -> zip:
    """Yield support x, support y, query x, query y of each task."""
    return zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True)


def plain_model(case: Case, weights: Weights) -> torch.nn.Module:
    model = case.plain().to(next(iter(weights.values())))
    model.load_state_dict(weights)
    return model


def mean_gradients(model: torch.nn.Module, tasks: int) -> Weights:
    return {name: parameter.grad / tasks for name, parameter in model.named_parameters()}


def learn2learn(case: Case, weights: Weights, batch: TaskBatch) -> Weights:
    _, _, maml = load()
    model = plain_model(case, weights)
    learner = maml(model, lr=case.inner_lr, first_order=case.first_order)
    for x, y, query_x, query_y in each_task(batch):
        clone = learner.clone()
        for _ in range(case.steps):
            clone.adapt(case.loss(clone(x), y))
        case.loss(clone(query_x), query_y).backward()
    return mean_gradients(model, len(batch))


def higher(case: Case, weights: Weights, batch: TaskBatch) -> Weights:
    library, *_ = load()
    model = plain_model(case, weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.inner_lr)
    how = {"copy_initial_weights": False, "track_higher_grads": not case.first_order}
    sums = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for x, y, query_x, query_y in each_task(batch):
        with library.innerloop_ctx(model, optimizer, **how) as (fast, differentiable):
            for _ in range(case.steps):
                differentiable.step(case.loss(fast(x), y))
            loss = case.loss(fast(query_x), query_y)
            if not case.first_order:
                loss.backward()
                continue
            gradients = torch.autograd.grad(loss, list(fast.parameters()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient
    if case.first_order:
        return {name: total / len(batch) for name, total in sums.items()}
    return mean_gradients(model, len(batch))


def torchopt(case: Case, weights: Weights, batch: TaskBatch) -> Weights:
    _, library, _ = load()
    if case.first_order:
        return _torchopt_first_order(library, case, weights, batch)
    model = plain_model(case, weights)
    optimizer = library.MetaSGD(model, lr=case.inner_lr)
    start = library.extract_state_dict(model, by="reference", detach_buffers=True)
    optimizer_start = library.extract_state_dict(optimizer, by="reference")
    parameters = dict(model.named_parameters())  # MetaSGD puts other tensors into the model
    for x, y, query_x, query_y in each_task(batch):
        for _ in range(case.steps):
            optimizer.step(case.loss(model(x), y))
        case.loss(model(query_x), query_y).backward()
        library.recover_state_dict(model, start)
        library.recover_state_dict(optimizer, optimizer_start)
    return {name: parameter.grad / len(batch) for name, parameter in parameters.items()}


def _torchopt_first_order(library: Any, case: Case, weights: Weights, batch: TaskBatch) -> Weights:
    model, optimizer = plain_model(case, weights), library.sgd(lr=case.inner_lr)
    sums = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for x, y, query_x, query_y in each_task(batch):
        fast = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        state = optimizer.init(fast)
        for _ in range(case.steps):
            gradients = _gradients(case, model, fast, x, y)
            updates, state = optimizer.update(gradients, state, inplace=False)
            fast = library.apply_updates(fast, updates, inplace=False)
            fast = {name: tensor.detach().requires_grad_() for name, tensor in fast.items()}
        for name, gradient in _gradients(case, model, fast, query_x, query_y).items():
            sums[name] += gradient
    return {name: total / len(batch) for name, total in sums.items()}


def _gradients(case: Case, model: torch.nn.Module, weights: Weights, x: Tensor, y: Tensor) -> Weights:
    loss = case.loss(functional_call(model, weights, (x,)), y)
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


METHODS: dict[str, Method] = {"mlkit": ours, "learn2learn": learn2learn, "higher": higher, "torchopt": torchopt}


def measure(case: Case, device: str, repeats: int) -> dict[str, Any]:
    """Return the row of one case."""
    exact_weights, weights = case.weights(torch.float64, device), case.weights(torch.float32, device)
    batches = list(case.draw(DRAWS * case.tasks).to(device).chunks(case.tasks))
    exact_batch, batch = batches[0].to(dtype=torch.float64), batches[0]
    exact = {name: method(case, exact_weights, exact_batch) for name, method in METHODS.items()}
    errors = {name: [distance(method(case, weights, batch), exact["mlkit"])] for name, method in METHODS.items()}
    times = turns(case, weights, batch, repeats)
    for name, values in float32_errors(case, weights, exact_weights, batches[1:]).items():
        errors[name] += values
    drawn = list(case.drawings(DRAWS * case.tasks).to(device).chunks(case.tasks)) if case.drawings else []
    on_drawings = float32_errors(case, weights, exact_weights, drawn)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min((name for name in METHODS if name != "mlkit"), key=medians.get)
    return {
        "case": case.name,
        "order": 1 if case.first_order else 2,
        "seconds": medians,
        "repeats": times,
        "best_peer": best,
        "ratio": medians[best] / medians["mlkit"],
        "seconds_keeping_memory": keeping_memory(case, best, repeats, device) if case.drawings else {},
        "bar": case.bar,
        "float32_error": {name: statistics.median(values) for name, values in errors.items()},
        "float32_errors": errors,
        "float32_errors_on_drawings": on_drawings,
        "float64_distance": {name: distance(exact[name], exact["mlkit"]) for name in METHODS if name != "mlkit"},
        "peak_bytes": {name: peak(case, name, device) for name in METHODS},
        "execution": {
            "chunk_size": case.chunk_size,
            "query_chunk": case.query_chunk,
            "workers": case.workers,
            "threads": torch.get_num_threads(),
        },
    }


def float32_errors(
    case: Case, weights: Weights, exact_weights: Weights, batches: list[TaskBatch]
) -> dict[str, list[float]]:
    """Return the relative float32 errors of mlkit and learn2learn on each meta-batch."""
    errors: dict[str, list[float]] = {"mlkit": [], "learn2learn": []}
    for batch in batches:
        exact = ours(case, exact_weights, batch.to(dtype=torch.float64))
        for name, values in errors.items():
            values.append(distance(METHODS[name](case, weights, batch), exact))
    return errors


def turns(
    case: Case, weights: Weights, batch: TaskBatch, repeats: int, names: Sequence[str] = METHODS
) -> dict[str, list[float]]:
    """Time every method `repeats` times, in turn."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            times[name].append(seconds(METHODS[name], case, weights, batch))
    return times


def peak(case: Case, method: str, device: str) -> int:
    """Return the memory that a meta-iteration takes above what was there before it, in a process of its own."""
    return _in_a_process("--peak", str(_index(case, device)), method, device=device)


def keeping_memory(case: Case, peer: str, repeats: int, device: str) -> dict[str, float]:
    """Return the median seconds of mlkit and `peer` in a process whose allocator keeps what is freed."""
    options = ("--turns", str(_index(case, device)), peer, "--repeats", str(repeats))
    return _in_a_process(*options, device=device, environment=KEEP)


def _index(case: Case, device: str) -> int:
    return [(other.name, other.first_order) for other in cases(device)].index((case.name, case.first_order))


def _in_a_process(*options: str, device: str, environment: dict[str, str] | None = None) -> Any:
    command = [sys.executable, Path(__file__), "--device", device, *options]
    environment = os.environ | (environment or {})
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def report_turns(index: int, peer: str, repeats: int, device: str) -> None:
    load()
    case = cases(device)[index]
    weights, batch = case.weights(torch.float32, device), case.draw(case.tasks).to(device)
    times = turns(case, weights, batch, repeats + 1, ("mlkit", peer))  # the first turn warms up
    json.dump({name: statistics.median(values[1:]) for name, values in times.items()}, sys.stdout)


def report_peak(index: int, method: str, device: str) -> None:
    case = cases(device)[index]
    if method != "mlkit":
        load()
    weights, batch = case.weights(torch.float32, device), case.draw(case.tasks).to(device)
    tiny = cases(device)[-1]
    METHODS[method](tiny, tiny.weights(torch.float32, device), tiny.draw(1).to(device))  # loads what loads once
    before = _resident()
    with Meter() as meter:
        METHODS[method](case, weights, batch)
    json.dump(meter.gpu_memory_bytes or meter.memory_bytes - before, sys.stdout)


def _resident() -> int:
    with Meter() as meter:
        pass
    return meter.memory_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--turns", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return report_peak(int(options.peak[0]), options.peak[1], options.device)
    if options.turns:
        return report_turns(int(options.turns[0]), options.turns[1], options.repeats, options.device)
    install()
    rows = []
    for case in cases(options.device):
        if options.only in case.name:
            rows.append(measure(case, options.device, options.repeats))
            print(summary(rows[-1]), flush=True)
    store("peers", rows, device=options.device, libraries=FOLDER, partial=bool(options.only))
    return None


def summary(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {value * 1e3:.1f}" for name, value in row["seconds"].items())
    bar = f" (bar {row['bar']})" if row["bar"] else ""
    return (
        f"{row['case']}, order {row['order']}: {times} ms; {row['ratio']:.2f} x {row['best_peer']}{bar}; float32 error "
        f"{row['float32_error']['mlkit']:.1e}; float64 distance {max(row['float64_distance'].values()):.1e}; "
        f"peak {row['peak_bytes']['mlkit'] / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
