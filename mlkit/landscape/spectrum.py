"""More readings of the Hessian: both ends of its spectrum, its trace, and how its eigenvalues are spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlkit.landscape.lanczos import FEWEST, Operator, Tridiagonal, lanczos, random_start, settle
from mlkit.seeding import seeded


@dataclass(frozen=True)
class Extremes:
    """Both ends of each spectrum, on the CPU in float64; not a number where the operator is not finite.

    largest: (tasks, k), descending; smallest: (tasks, k), ascending; residual: the largest of these 2 k (tasks,);
    iterations: products (tasks,); converged: residual <= tolerance times the spectral norm (tasks,).
    """

    largest: Tensor
    smallest: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def done(self) -> Tensor:
        """Converged, or not finite."""
        return self.converged | self.residual.isnan()


def extremes(
    operator: Operator, k: int = 5, *, tolerance: float = 1e-3, max_iterations: int = 200, seed: int = 0
) -> Extremes:
    """Find the k largest and the k smallest eigenvalues of each operator by Lanczos.

    An eigenvalue that occurs several times is seen once, unless the eigenvectors seen before it end.

    Args:
        operator: symmetric, batched over tasks, such as `Hessian`.
        k: eigenvalues at each end.
        tolerance: residual at which to stop, as a part of the spectral norm.
        max_iterations: products a task at most.
        seed: of the vector to start from.

    Raises:
        ValueError: there are fewer than k eigenvalues, or `max_iterations` is below k.
    """
    most = min(operator.shape[1], max_iterations)
    if not 1 <= k <= most:
        raise ValueError(f"expected k from 1 to {most}, the parameters or max_iterations, whichever is less; got {k}")

    def judge(state: Tridiagonal) -> Extremes:
        ritz = state.ritz()
        residual = torch.cat([ritz.residuals[:, :k], ritz.residuals[:, -k:]], 1).amax(1)
        converged = residual <= tolerance * ritz.values.abs().amax(1)
        iterations = torch.full(residual.shape, state.steps)
        return Extremes(ritz.values[:, -k:].flip(1), ritz.values[:, :k], residual, iterations, converged)

    start = random_start(operator, "extremes", seed)
    return settle(operator, start, judge, max_iterations=max_iterations, fewest=max(FEWEST, 2 * k))


@dataclass(frozen=True)
class Trace:
    """value: estimated trace (tasks,); error: its standard error (tasks,); both float64, on the CPU."""

    value: Tensor
    error: Tensor


def trace(operator: Operator, *, products: int = 60, seed: int = 0) -> Trace:
    r"""Estimate the trace of each operator.

    $$\mathrm{tr}(Q^T H Q) + \frac{1}{m} \sum_j g_j^T P H P g_j, \quad P = I - Q Q^T$$ with Q an orthonormal basis of
    H times m random sign vectors, and g_j m fresh ones. (Hutch++, Meyer et al. 2021, algorithm 1.) Exact if the rank
    of H is at most m; the error then falls as 1 / m, where plain averaging has 1 / sqrt(m).

    Args:
        operator: symmetric, batched over tasks, such as `Hessian`.
        products: products with each operator in all, 3 m; at least 6.
        seed: of the random signs, the same for each task.

    Raises:
        ValueError: `products` is below 6.
    """
    if products < 6:
        raise ValueError(
            f"expected at least 6 products, got {products}; a third of them sketches the large eigenvalues"
        )
    tasks, size = operator.shape
    count, generator = min(products // 3, size), seeded("trace", seed)

    def signs() -> Tensor:
        drawn = torch.randint(0, 2, (count, size), generator=generator) * 2 - 1
        return drawn.to(operator.device, operator.dtype).T.expand(tasks, size, count)

    basis, _ = torch.linalg.qr(_times(operator, signs()))  # (tasks, d, m)
    probes = signs()
    probes = probes - basis @ (basis.mT @ probes)
    large = (basis * _times(operator, basis)).double().sum((1, 2))
    rest = (probes * _times(operator, probes)).double().sum(1)  # (tasks, m)
    error = rest.std(1) / math.sqrt(count) if count > 1 else torch.zeros_like(large)  # one parameter: exact
    return Trace((large + rest.mean(1)).cpu(), error.cpu())


def _times(operator: Operator, columns: Tensor) -> Tensor:
    """Multiply each column of (tasks, d, m)."""
    return torch.stack([operator(column.contiguous()) for column in columns.unbind(2)], 2)


@dataclass(frozen=True)
class Density:
    """Eigenvalues stand at `nodes` with probability `weights`: both (tasks, points), float64, on the CPU."""

    nodes: Tensor
    weights: Tensor

    def at(self, values: Tensor, *, width: float) -> Tensor:
        """Return the density at `values` (n,), each node a Gaussian of standard deviation `width`: (tasks, n)."""
        away = (values.double()[:, None] - self.nodes[:, None, :]) / width
        bells = torch.exp(-0.5 * away.square()) / (width * math.sqrt(2 * math.pi))
        return (bells * self.weights[:, None, :]).sum(2)


def density(operator: Operator, *, probes: int = 4, steps: int = 40, seed: int = 0) -> Density:
    r"""Estimate how the d eigenvalues of each operator are spread, by stochastic Lanczos quadrature.

    $$\frac{1}{d} \sum_k \delta(t - \lambda_k) \approx \frac{1}{p} \sum_{j=1}^p \sum_m \tau_{jm}^2\, \delta(t -
    \theta_{jm})$$ with Ritz values theta and squared first components tau^2 of p random starts (Lin et al. 2016). Each
    start v matches v^T H^q v / v^T v for all q < 2 `steps`.

    Args:
        operator: symmetric, batched over tasks, such as `Hessian`.
        probes: number p of random starts.
        steps: Lanczos steps from each.
        seed: of the starts, the same for each task.

    Raises:
        ValueError: `probes` or `steps` is below 1.
    """
    if probes < 1 or steps < 1:
        raise ValueError(f"expected at least one probe of at least one step, got probes={probes}, steps={steps}")
    found = []
    for probe in range(probes):
        *_, state = lanczos(operator, random_start(operator, "density", seed, probe), max_iterations=steps)
        found.append(state.ritz())
    return Density(
        torch.cat([ritz.values for ritz in found], 1), torch.cat([ritz.weights for ritz in found], 1) / probes
    )
