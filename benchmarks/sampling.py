"""Overheads that must stay small: drawing tasks, importing the library, training several seeds side by side.

python benchmarks/sampling.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from cases import cases, ours
from store import store

REPEATS = 5
META_BATCHES = {1: 3.0, 10: 3.0, 25: 3.0}  # meta-batch: bar; the published sine study takes one task a step


def median_seconds(*functions: Callable[[], object]) -> list[float]:
    """Return the median time of each function; they take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(REPEATS):
        for function, seen in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def sampling() -> dict[str, object]:
    """Share of a second-order meta-iteration that drawing its tasks takes, for image tasks."""
    import torch

    case = next(case for case in cases() if case.bar and not case.regression and not case.first_order)
    weights, batch, learner = case.weights(torch.float32, "cpu"), case.drawings(case.tasks), case.learner()
    drawing, learning = median_seconds(lambda: case.drawings(case.tasks), lambda: ours(case, weights, batch, learner))
    share = drawing / (drawing + learning)
    return {
        "measure": "share of a second-order meta-iteration spent drawing tasks",
        "value": share,
        "bar": 0.05,
        "case": case.name,
        "seconds": {"drawing": drawing, "learning": learning},
    }


def importing() -> dict[str, object]:
    """Seconds that `import mlkit` and its parts take beyond `import torch`, in fresh processes."""

    def fresh(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    parts = "mlkit, mlkit.learners, mlkit.models, mlkit.tasks, mlkit.training, mlkit.evaluation"
    torch_alone, library = median_seconds(fresh("import torch"), fresh(f"import torch, {parts}"))
    return {
        "measure": "seconds of import beyond torch",
        "value": library - torch_alone,
        "bar": 2.0,
        "seconds": {"torch": torch_alone, "torch and mlkit": library},
    }


def seeds_side_by_side(meta_batch: int, bar: float | None) -> dict[str, object]:
    """Time of a meta-gradient for ten sine seeds side by side over that for one, `meta_batch` tasks for each."""
    import torch

    from mlkit.driver import meta_gradient, stack
    from mlkit.tasks import concatenate

    case = next(case for case in cases() if case.regression and case.steps == 5 and not case.first_order)
    learner, batch = case.learner(), case.draw(meta_batch)
    meta = {f"theta.{name}": tensor for name, tensor in case.weights(torch.float32, "cpu").items()}

    def step(seeds: int) -> Callable[[], object]:
        metas, tasks = stack([meta] * seeds), concatenate([batch] * seeds)
        return lambda: [meta_gradient(learner, metas, tasks) for _ in range(10)]

    one, ten = (seconds / 10 for seconds in median_seconds(step(1), step(10)))
    return {
        "measure": "ten sine seeds side by side, times one",
        "value": ten / one,
        "bar": bar,
        "case": f"{case.name.split(',')[0]}, {meta_batch} task{'s' * (meta_batch > 1)} a seed, {case.steps} steps",
        "seconds": {"one": one, "ten": ten},
    }


if __name__ == "__main__":
    rows = [sampling(), importing(), *(seeds_side_by_side(*pair) for pair in META_BATCHES.items())]
    for row in rows:
        print(f"{row['measure']}: {row['value']:.3g} (bar {row['bar']})")
    store("sampling", rows, device="cpu")
