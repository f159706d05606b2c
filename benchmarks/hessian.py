"""Spectral norms of the Hessians of 60 tasks by mlkit, PyHessian and curvlinops: time, and error against float64.

    python benchmarks/hessian.py [--tasks 60] [--repeats 3] [--only sine]

The same network, tasks and adapted weights in one process; the methods take turns; the median counts. mlkit stops where
its residual bounds the error by 1e-4. PyHessian runs with its defaults (power iteration until two estimates agree to
1e-3) and, since speed counts only at equal accuracy, until they agree to 1e-6; curvlinops with SciPy's `eigsh` to 1e-3.
Both take a task at a time, as their own examples do. Exact values are mlkit's in float64, bounded to 1e-10; the tests
hold these to dense eigenvalues.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep, or a busy core stalls all

import numpy
import torch
import torch.nn.functional as F
from cases import PlainConv4, PlainMLP, drawings, sines
from libraries import FOLDER, install, load_hessian
from scipy.sparse.linalg import eigsh
from store import store
from torch import Tensor, nn

from mlkit.adaptation import Adapted
from mlkit.driver import Meta, stack
from mlkit.landscape import dominant, random_start, spectral_norm
from mlkit.landscape.directions import copies
from mlkit.learners import MAML
from mlkit.losses import TaskLoss, cross_entropy, mean_squared_error
from mlkit.models import MLP, Conv4
from mlkit.seeding import seeded
from mlkit.tasks import TaskBatch

TASKS = 60
Values = list[float]


@dataclass(frozen=True)
class Case:
    """What is measured. `learner` and `plain` compute the same function of the same parameters."""

    name: str
    learner: MAML
    plain: Callable[[], nn.Module]
    draw: Callable[[int], TaskBatch]
    loss: Callable[[Tensor, Tensor], Tensor]
    chunk_size: int
    workers: int = 1
    bars: bool = False


def cases() -> list[Case]:
    """Return a tiny network, and the two conv4 of 64 filters."""
    cores, form = os.cpu_count() or 1, {"size": 28, "channels": 1}

    def conv4(name: str, **changes: Any) -> Case:
        plain = {key: value for key, value in changes.items() if key != "head"}
        model = Conv4(5, **form, **changes)
        learner = MAML(model, 0.1, 5, cross_entropy)
        return Case(
            name, learner, lambda: PlainConv4(5, **form, **plain), drawings, F.cross_entropy, 4, cores, bars=True
        )

    sine = MAML(MLP(), 0.01, 5, mean_squared_error)
    return [
        Case("sine MLP", sine, PlainMLP, sines, F.mse_loss, TASKS),
        conv4("Omniglot conv4-64 stride 2", downsample="stride", head="mean"),
        conv4("Omniglot conv4-64 max-pool"),
    ]


@dataclass(frozen=True)
class Problem:
    """A case with its tasks and their adapted weights (tasks, ...) in float32. Serves mlkit as a learner that knows."""

    case: Case
    batch: TaskBatch
    adapted: Adapted

    @property
    def model(self) -> nn.Module:
        """What `spectral_norm` differentiates."""
        return self.case.learner.model

    @property
    def loss(self) -> TaskLoss:
        """What it is judged by."""
        return self.case.learner.loss

    def adapt(self, _meta: Meta, tasks: TaskBatch) -> Adapted:
        """Look the weights up by the numbers of the tasks."""
        return replace(self.adapted, weights={name: t[tasks.seeds] for name, t in self.adapted.weights.items()})

    def models(self) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Yield each task's plain network at its adapted weights, its support inputs and targets."""
        for task, (x, y) in enumerate(zip(self.batch.support.x, self.batch.support.y, strict=True)):
            model = self.case.plain()
            model.load_state_dict({name: tensor[task] for name, tensor in self.adapted.weights.items()})
            yield model, x, y


def problem(case: Case, tasks: int) -> Problem:
    meta, batch = stack([case.learner.init(seeded("benchmark"))]), replace(case.draw(tasks), seeds=torch.arange(tasks))
    return Problem(case, batch, case.learner.adapt(copies(meta, batch), batch))


def mlkit(problem: Problem, **how: Any) -> Tensor:
    case = problem.case
    run = {name: torch.zeros_like(tensor[:1]) for name, tensor in problem.adapted.weights.items()}
    how = {"chunk_size": case.chunk_size, "workers": case.workers, "tolerance": 1e-4} | how
    found = spectral_norm(problem, run, problem.batch, **how)
    if not found.converged.all():
        raise RuntimeError(f"expected every task of {case.name} to converge; residuals {found.residual.tolist()}")
    return found.value


def pyhessian(problem: Problem, **how: Any) -> Values:
    library, _ = load_hessian()
    torch.manual_seed(0)
    values = []
    for model, x, y in problem.models():
        found, _ = library.hessian(model, problem.case.loss, data=(x, y), cuda=False).eigenvalues(**how)
        values.append(abs(found[0]))
    return values


def curvlinops(problem: Problem) -> Values:
    _, library = load_hessian()
    loss = {F.mse_loss: nn.MSELoss, F.cross_entropy: nn.CrossEntropyLoss}[problem.case.loss]()
    values = []
    for model, x, y in problem.models():
        operator = library.HessianLinearOperator(
            model, loss, list(model.parameters()), [(x, y)], check_deterministic=False
        )
        values.append(largest(operator.to_scipy(), operator.shape[1]))
    return values


def largest(operator: Any, size: int) -> float:
    start = numpy.random.default_rng(0).standard_normal(size).astype(operator.dtype)
    return float(abs(eigsh(operator, k=1, which="LM", tol=1e-3, v0=start, return_eigenvectors=False)[0]))


METHODS: dict[str, Callable[[Problem], Any]] = {
    "mlkit": mlkit,
    "pyhessian": pyhessian,
    "pyhessian to 1e-6": partial(pyhessian, maxIter=1000, tol=1e-6),
    "curvlinops": curvlinops,
}
BARS = {"pyhessian to 1e-6": 3.0, "curvlinops": 8.0}  # where the error is below 1e-4, as that of mlkit


def measure(case: Case, tasks: int, repeats: int) -> dict[str, Any]:
    """Return the row of one case."""
    given = problem(case, tasks)
    exact = mlkit(given, dtype=torch.float64, tolerance=1e-10, max_iterations=300)
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    errors: dict[str, float] = {}
    for _ in range(repeats):
        for name, method in METHODS.items():
            start = time.perf_counter()
            found = method(given)
            times[name].append(time.perf_counter() - start)
            errors[name] = float((torch.as_tensor(found).double() / exact - 1).abs().max())
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "case": f"{case.name}, {tasks} tasks",
        "parameters": sum(parameter.numel() for parameter in case.learner.model.parameters()),
        "seconds": medians,
        "repeats": times,
        "ratios": {name: medians[name] / medians["mlkit"] for name in METHODS if name != "mlkit"},
        "bars": BARS if case.bars else {},
        "eigenvalue_errors": errors,
        "execution": {
            "chunk_size": case.chunk_size,
            "workers": case.workers,
            "threads": torch.get_num_threads(),
        },
    }


SPECTRA = {
    "10, and 300 below 1": [10.0, *[index / 300 for index in range(300)]],
    "1, 0.98, and 200 times 0.9": [1.0, 0.98, *[0.9] * 200],
    "1, -0.99, and 200 within 0.2": [1.0, -0.99, *[index / 500 - 0.2 for index in range(200)]],
}


class Quadratic(nn.Module):
    """1/2 w A w, whose Hessian is A."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix, self.w = matrix, nn.Parameter(torch.ones(len(matrix), dtype=matrix.dtype))

    def forward(self, _x: Tensor) -> Tensor:
        """Return the loss."""
        return 0.5 * self.w @ self.matrix @ self.w


class Product:
    """A as an operator for `dominant`."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.shape, self.dtype, self.device = matrix, (1, len(matrix)), matrix.dtype, matrix.device

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply v (1, d)."""
        return v @ self.matrix


def on_spectra() -> list[dict[str, Any]]:
    """Return the error of each method, with its defaults, on matrices whose eigenvalues are known; no network."""
    library, _ = load_hessian()
    rows = []
    for name, eigenvalues in SPECTRA.items():
        size, nothing = len(eigenvalues), torch.zeros(1)
        basis, _ = torch.linalg.qr(torch.randn(size, size, generator=seeded("spectrum"), dtype=torch.float64))
        matrix = (basis * torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)  # PyHessian draws its vectors in the default precision
        theirs = library.hessian(Quadratic(matrix), lambda loss, _: loss, data=(nothing, nothing), cuda=False)
        found = {"pyhessian": abs(theirs.eigenvalues()[0][0]), "curvlinops": largest(matrix.numpy(), size)}
        torch.set_default_dtype(torch.float32)
        product = Product(matrix)
        found["mlkit"] = abs(float(dominant(product, random_start(product, "benchmark")).value))
        exact = max(map(abs, eigenvalues))
        rows.append({"spectrum": name, "spectrum_errors": {key: abs(v / exact - 1) for key, v in found.items()}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    options = parser.parse_args()
    install()
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")  # what PyHessian does
    rows = on_spectra()
    print(*rows, sep="\n", flush=True)
    for case in cases():
        if options.only in case.name:
            rows.append(measure(case, options.tasks, options.repeats))
            print(summary(rows[-1]), flush=True)
    store("hessian", rows, device="cpu", libraries=FOLDER, partial=bool(options.only) or options.tasks != TASKS)


def summary(row: dict[str, Any]) -> str:
    times = ", ".join(
        f"{name} {value:.2f} s (error {row['eigenvalue_errors'][name]:.0e})" for name, value in row["seconds"].items()
    )
    bars = {name: f" (bar {bar:g})" for name, bar in row["bars"].items()}
    ratios = ", ".join(f"{value:.1f} x {name}{bars.get(name, '')}" for name, value in row["ratios"].items())
    return f"{row['case']}: {times}; {ratios}"


if __name__ == "__main__":
    main()
