"""Lanczos with full reorthogonalization, for a batch of symmetric operators at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mlkit.seeding import seeded

FEWEST = 5  # steps before an answer is trusted: in a wide cluster a random vector nearly is an eigenvector


class Operator(Protocol):
    """Symmetric matrices (tasks, d, d) known by their products; see `Hessian`."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply v (tasks, d)."""


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs after m steps, eigenvalues ascending; all (tasks, m), float64, on the CPU.

    residuals: |H x - value x| of the unit vector x: an eigenvalue lies within it; weights: squared part of the
    start vector along x. Not a number throughout where an operator is not finite.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Tridiagonal:
    """The operators within their Krylov spaces: `diagonal` (tasks, m), `below` (tasks, m), whose last leads out."""

    diagonal: Tensor
    below: Tensor

    @property
    def steps(self) -> int:
        """Dimension m of the Krylov spaces."""
        return self.diagonal.shape[1]

    def ritz(self) -> Ritz:
        """Diagonalize."""
        matrices = torch.diag_embed(self.diagonal) + torch.diag_embed(self.below[:, :-1], -1)  # eigh reads half
        finite = matrices.isfinite().all(2).all(1) & self.below[:, -1].isfinite()
        values, vectors = torch.linalg.eigh(matrices.where(finite[:, None, None], 0))
        unknown = torch.where(finite, 0.0, float("nan"))[:, None]
        residuals = (self.below[:, -1:] * vectors[:, -1]).abs()
        return Ritz(values + unknown, residuals + unknown, vectors[:, 0].square() + unknown)


def random_start(operator: Operator, *words: str | int) -> Tensor:
    """Draw a Gaussian vector from the seed `words`, the same for every task: (tasks, d)."""
    tasks, size = operator.shape
    drawn = torch.randn(size, generator=seeded(*words), dtype=torch.float64)
    return drawn.to(operator.device, operator.dtype).expand(tasks, -1)


def lanczos(operator: Operator, start: Tensor, *, max_iterations: int) -> Iterator[Tridiagonal]:
    r"""Grow an orthonormal basis Q of the Krylov space, one product a step, and yield T = Q^T H Q after each.

    $$\beta_m q_{m+1} = H q_m - Q_m Q_m^T H q_m, \quad \alpha_m = q_m \cdot H q_m$$ (Lanczos 1950; the projection onto
    all of Q is the full reorthogonalization.) Where the space is invariant, beta is zero, and a random direction
    orthogonal to it starts the next block; after d steps nothing is left.

    Args:
        operator: symmetric, batched over tasks.
        start: first vectors (tasks, d), of any length but zero.
        max_iterations: steps at most; never more than d.
    """
    tasks, size = operator.shape
    steps = min(max_iterations, size)
    basis = start.new_empty(tasks, steps, size)
    diagonal = torch.zeros(tasks, steps, dtype=torch.float64)
    below = torch.zeros(tasks, steps, dtype=torch.float64)
    scale = torch.zeros(tasks, dtype=torch.float64)
    vector = start / start.norm(dim=1, keepdim=True)
    for step in range(steps):
        basis[:, step] = vector
        known = basis[:, : step + 1]
        product = operator(vector)
        scale = torch.maximum(scale, product.norm(dim=1).cpu().double())
        product, along = _outside(product, known)
        diagonal[:, step] = along[:, -1].cpu()
        length = product.norm(dim=1)
        ended = length.cpu() <= 100 * torch.finfo(start.dtype).eps * scale
        below[:, step] = torch.where(ended, 0.0, length.cpu().double()) if step + 1 < size else 0.0
        yield Tridiagonal(diagonal[:, : step + 1], below[:, : step + 1])
        vector = product / length[:, None]
        if ended.any() and step + 1 < steps:
            fresh = _outside(random_start(operator, "restart", step).clone(), known)[0]
            fresh = fresh / fresh.norm(dim=1, keepdim=True)
            vector = torch.where(ended.to(vector.device)[:, None], fresh, vector)


def _outside(vectors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Project `vectors` (tasks, d) out of `basis` (tasks, m, d); return what is left, and what was along it (tasks, m).

    Once more where little is left of a vector: rounding is then no longer small next to it.
    """
    before, along = vectors.norm(dim=1), torch.zeros_like(basis[..., 0])
    for _ in range(2):
        inside = torch.bmm(vectors.unsqueeze(1), basis.mT)  # a row times a matrix: far faster here than a column
        vectors = torch.baddbmm(vectors.unsqueeze(1), inside, basis, alpha=-1).squeeze(1)
        along = along + inside.squeeze(1)
        if (vectors.norm(dim=1) > 0.1 * before).all():
            break
    return vectors, along


@dataclass(frozen=True)
class Dominant:
    """The eigenvalue of largest magnitude of each operator; every tensor is (tasks,), on the CPU.

    value: signed, not a number where the operator is not finite; residual: see `Ritz`; iterations: products it took;
    converged: residual <= tolerance * |value|, and no other eigenvalue is about to overtake.
    """

    value: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor


def dominant(operator: Operator, start: Tensor, *, tolerance: float = 1e-3, max_iterations: int = 100) -> Dominant:
    """Find each operator's eigenvalue of largest magnitude; the residual says when to stop.

    The value lies within `residual` of an eigenvalue, and in practice much closer: its error is of the order of
    residual^2 over the distance to the next eigenvalue. A task's answer does not depend on how long others take.
    """
    found: Dominant | None = None
    last, due = min(max_iterations, operator.shape[1]), FEWEST
    for state in lanczos(operator, start, max_iterations=max_iterations):
        if state.steps < due and state.steps < last:
            continue
        due = state.steps + 1 + state.steps // 16  # diagonalizing costs, too
        found = _keep(found, _judge(state, tolerance))
        if bool((found.converged | found.value.isnan()).all()):
            break
    if found is None:
        raise ValueError(f"expected max_iterations of at least 1, got {max_iterations}")
    return found


def _judge(state: Tridiagonal, tolerance: float) -> Dominant:
    ritz = state.ritz()
    ends, residuals = (tensor[:, [0, -1]] for tensor in (ritz.values, ritz.residuals))
    larger = ends.abs().argmax(1, keepdim=True)
    (value, residual), (rival, doubt) = (
        (ends.gather(1, end).squeeze(1), residuals.gather(1, end).squeeze(1)) for end in (larger, 1 - larger)
    )
    settled = rival.abs() + doubt <= (1 + tolerance) * value.abs()
    converged = (residual <= tolerance * value.abs()) & settled
    return Dominant(value, residual, torch.full_like(larger.squeeze(1), state.steps), converged)


def _keep(old: Dominant | None, new: Dominant) -> Dominant:
    """Let a task that has converged, or never will, keep its answer."""
    if old is None:
        return new
    done = old.converged | old.value.isnan()
    return Dominant(
        *(torch.where(done, getattr(old, name), getattr(new, name)) for name in Dominant.__dataclass_fields__)
    )
