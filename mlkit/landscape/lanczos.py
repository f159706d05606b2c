"""Lanczos with full reorthogonalization, for a batch of symmetric operators at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

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

    def errors(self) -> Tensor:
        r"""Bound how far each value is from an eigenvalue.

        $$|\theta - \lambda| \le \min(r, r^2 / \delta)$$ with the residual r and the distance delta from the other
        eigenvalues (Temple 1928, Kato 1949), which are taken to lie within their residuals. (tasks, m).
        """
        if self.values.shape[1] == 1:
            return self.residuals  # nothing is known of the others
        apart, none = self.values.diff(dim=1), self.values.new_full((len(self.values), 1), torch.inf)
        above = torch.cat([apart - self.residuals[:, 1:], none], 1)
        below = torch.cat([none, apart - self.residuals[:, :-1]], 1)
        gap = torch.minimum(above, below)
        return torch.where(gap > self.residuals, self.residuals.square() / gap, self.residuals)


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
    diagonal, below = torch.zeros(2, tasks, steps, dtype=torch.float64)
    tiny = 100 * torch.finfo(start.dtype).eps
    vector, before, length = start / start.norm(dim=1, keepdim=True), start, torch.zeros_like(start[:, :1])
    for step in range(steps):
        basis[:, step] = vector
        rest = operator(vector)
        along = (vector * rest).sum(1, keepdim=True)
        rest = torch.addcmul(rest, along, vector, value=-1).addcmul_(length, before, value=-1)
        rest = _outside(rest, basis[:, : step + 1])
        length = rest.norm(dim=1, keepdim=True)
        diagonal[:, step], below[:, step] = along[:, 0].cpu(), length[:, 0].cpu()
        scale = torch.cat([diagonal, below[:, :step]], 1).abs().amax(1)
        ended = (below[:, step] <= tiny * scale) | (step + 1 == size)
        below[ended, step] = 0
        yield Tridiagonal(diagonal[:, : step + 1], below[:, : step + 1])
        before, vector = vector, rest.div_(length)
        if ended.any() and step + 1 < steps:
            starts_anew = ended.to(vector.device)[:, None]
            length = length.masked_fill(starts_anew, 0)
            vector = torch.where(starts_anew, _fresh(operator, basis[:, : step + 1]), vector)


def _outside(vectors: Tensor, basis: Tensor) -> Tensor:
    """Project `vectors` (tasks, d) out of `basis` (tasks, m, d)."""
    inside = torch.bmm(vectors.unsqueeze(1), basis.mT)  # a row times a matrix: far faster here than a column
    return torch.baddbmm(vectors.unsqueeze(1), inside, basis, alpha=-1).squeeze(1)


def _fresh(operator: Operator, basis: Tensor) -> Tensor:
    """Return a random unit vector outside `basis`."""
    vector = random_start(operator, "fresh", basis.shape[1])
    for _ in range(2):  # once leaves rounding errors that count where little else is left
        vector = _outside(vector, basis)
        vector = vector / vector.norm(dim=1, keepdim=True)
    return vector


class Answer(Protocol):
    """What is asked of the operators, task by task: a dataclass of tensors (tasks, ...) that knows what is done."""

    @property
    def done(self) -> Tensor:
        """Which tasks have their answer, or never will (tasks,)."""


Found = TypeVar("Found", bound=Answer)


def settle(
    operator: Operator,
    start: Tensor,
    judge: Callable[[Tridiagonal], Found],
    *,
    max_iterations: int,
    fewest: int = FEWEST,
) -> Found:
    """Go on until `judge` is content with every task; a task keeps its first good answer however long others take.

    Args:
        operator: symmetric, batched over tasks.
        start: first vectors (tasks, d).
        judge: what is known after some steps.
        max_iterations: steps at most.
        fewest: steps before the first judgment.

    Raises:
        ValueError: `max_iterations` is below 1.
    """
    if max_iterations < 1:
        raise ValueError(
            f"expected max_iterations of at least 1, got {max_iterations}; it counts products with the matrix"
        )
    found: Found | None = None
    last, due = min(max_iterations, operator.shape[1]), fewest
    for state in lanczos(operator, start, max_iterations=max_iterations):
        if state.steps < due and state.steps < last:
            continue
        due = state.steps + 1 + state.steps // 16  # judging costs, too
        found = judge(state) if found is None else _keep(found, judge(state))
        if found.done.all():
            break
    return found


def _keep(old: Found, new: Found) -> Found:
    """Take the new answer of every task that lacked one."""

    def chosen(before: Tensor, after: Tensor) -> Tensor:
        return torch.where(old.done.view(-1, *[1] * (before.dim() - 1)), before, after)

    return type(old)(*(chosen(getattr(old, field.name), getattr(new, field.name)) for field in fields(old)))


@dataclass(frozen=True)
class Dominant:
    """The eigenvalue of largest magnitude of each operator; every tensor is (tasks,), on the CPU.

    value: signed, not a number where the operator is not finite; residual: see `Ritz`; iterations: products it took;
    converged: its error is at most tolerance * |value|, and the other end of the spectrum is not about to overtake.
    """

    value: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor

    @property
    def done(self) -> Tensor:
        """Converged, or not finite."""
        return self.converged | self.value.isnan()


def dominant(operator: Operator, start: Tensor, *, tolerance: float = 1e-5, max_iterations: int = 100) -> Dominant:
    """Find each operator's eigenvalue of largest magnitude; the residual says when to stop: see `Ritz.errors`.

    Args:
        operator: symmetric, batched over tasks.
        start: first vectors (tasks, d), with a part along every eigenvector: see `random_start`.
        tolerance: bound of the error at which to stop, as a part of |value|. A loose one, 1e-3, may stop at an
            eigenvalue that shows before a larger one does.
        max_iterations: products at most.

    Raises:
        ValueError: `max_iterations` is below 1.
    """

    def judge(state: Tridiagonal) -> Dominant:
        ritz = state.ritz()
        ends, residuals, errors = (_ends(tensor) for tensor in (ritz.values, ritz.residuals, ritz.errors()))
        larger = ends.abs().argmax(1, keepdim=True)
        value, residual, error = (tensor.gather(1, larger).squeeze(1) for tensor in (ends, residuals, errors))
        rival = (ends.abs() + residuals).gather(1, 1 - larger).squeeze(1)
        near = tolerance * value.abs()
        converged = (error <= near) & (rival <= value.abs() + near)
        return Dominant(value, residual, torch.full(value.shape, state.steps), converged)

    return settle(operator, start, judge, max_iterations=max_iterations)


def _ends(tensor: Tensor) -> Tensor:
    return tensor[:, [0, -1]]
