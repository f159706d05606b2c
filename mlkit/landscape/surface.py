"""The loss over a plane through parameter space: around one adapted solution, or through those of three tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlkit.adaptation import Adapted, Weights
from mlkit.driver import Learner
from mlkit.landscape.directions import flatten
from mlkit.learners.common import support_loss, with_support_statistics
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples, TaskBatch


@dataclass(frozen=True)
class Plane:
    """origin + a across + b up, for a and b in given ranges.

    origin, across, up: one set of weights each (1, ...); x, y: lowest and highest a, and b; points: coordinates (n, 2)
    of the solutions that lie on it.
    """

    origin: Weights
    across: Weights
    up: Weights
    x: tuple[float, float]
    y: tuple[float, float]
    points: Tensor

    def at(self, coordinates: Tensor) -> Weights:
        """Return the weights at (n, 2) coordinates: (n, ...)."""

        def scaled(factors: Tensor, direction: Tensor) -> Tensor:
            return factors.to(direction).view(-1, *[1] * (direction.dim() - 1)) * direction

        a, b = coordinates.unbind(1)
        return {
            name: start + scaled(a, self.across[name]) + scaled(b, self.up[name]) for name, start in self.origin.items()
        }


def around(adapted: Adapted, *, task: int = 0, reach: float = 1.0, seed: int = 0) -> Plane:
    r"""Return the plane through a task's solution along two random directions, normalized filter by filter.

    $$d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|} \|\theta_{ij}\|$$ for filter j of layer i (Li et al. 2018): one unit
    changes every filter by its own length, so that surfaces of networks whose weights differ in size are comparable,
    also in front of batch normalization. Biases, and gamma and beta of normalization, stay.

    Args:
        adapted: as `learner.adapt` returns it.
        task: index of the solution.
        reach: how far to go in each direction, in lengths of a filter.
        seed: of the directions.
    """
    origin = _one(adapted, task)
    across, up = (_random(origin, seed, axis) for axis in ("across", "up"))
    return Plane(origin, across, up, (-reach, reach), (-reach, reach), torch.zeros(1, 2, dtype=torch.float64))


def _one(adapted: Adapted, task: int) -> Weights:
    return {name: tensor[task : task + 1] for name, tensor in adapted.weights.items()}


def _random(weights: Weights, *words: str | int) -> Weights:
    def direction(name: str, tensor: Tensor) -> Tensor:
        if tensor.dim() < 3:  # (1, units)
            return torch.zeros_like(tensor)
        drawn = torch.randn(tensor.shape, generator=seeded("surface", *words, name), dtype=torch.float64).to(tensor)
        length, own = (filters.flatten(2).norm(dim=2) for filters in (drawn, tensor))  # (1, filters)
        return drawn * (own / length).view(1, -1, *[1] * (tensor.dim() - 2))

    return {name: direction(name, tensor) for name, tensor in weights.items()}


def through(adapted: Adapted, *, tasks: tuple[int, int, int] = (0, 1, 2), margin: float = 0.3) -> Plane:
    """Return the plane through the solutions of three tasks, with orthonormal directions: distances are true.

    The origin is the first solution; the second lies at (a, 0) with a > 0, the third above.

    Args:
        adapted: as `learner.adapt` returns it.
        tasks: indices of the three solutions.
        margin: what to show around them, as a part of their extent.

    Raises:
        ValueError: the three solutions lie on one line, or are not finite.
    """
    first, second, third = (_one(adapted, task) for task in tasks)
    edges = [flatten({name: end[name] - first[name] for name in first})[0].double() for end in (second, third)]
    width = edges[0].norm()
    across = edges[0] / width
    shift = edges[1] @ across
    rest = edges[1] - shift * across
    height = rest.norm()
    if not (width > 0 and height > 1e-6 * edges[1].norm()):  # not a number is neither
        raise ValueError(
            f"expected three solutions that span a plane, got distances {width:.3g} along and {height:.3g} across; "
            "choose other tasks"
        )
    points = torch.tensor([[0.0, 0.0], [width, 0.0], [shift, height]], dtype=torch.float64)
    low, high = points.amin(0), points.amax(0)
    pad = margin * (high - low)
    x, y = zip((low - pad).tolist(), (high + pad).tolist(), strict=True)
    return Plane(first, _unflatten(across, first), _unflatten(rest / height, first), x, y, points)


def _unflatten(vector: Tensor, like: Weights) -> Weights:
    pieces = vector.split([tensor.numel() for tensor in like.values()])
    return {
        name: piece.view(tensor.shape).to(tensor) for piece, (name, tensor) in zip(pieces, like.items(), strict=True)
    }


@dataclass(frozen=True)
class Surface:
    """Losses over a plane: x (columns,), y (rows,); support and query losses of each task (tasks, rows, columns)."""

    x: Tensor
    y: Tensor
    support: Tensor
    query: Tensor


@torch.no_grad()
def surface(
    learner: Learner, adapted: Adapted, tasks: TaskBatch, plane: Plane, *, resolution: int = 31, chunk_size: int = 50
) -> Surface:
    """Compute every task's support and query loss over `plane`; the points of the grid run as tasks do, side by side.

    Args:
        learner: gives the model and the loss.
        adapted: the buffers of each task come from here.
        tasks: whose losses.
        plane: see `around` and `through`.
        resolution: points along each axis; an odd number meets the middle.
        chunk_size: points at once.

    Raises:
        ValueError: `resolution` is below 2.
    """
    if resolution < 2:
        raise ValueError(f"expected a resolution of at least 2 points along each axis, got {resolution}")
    x, y = (torch.linspace(*ends, resolution, dtype=torch.float64) for ends in (plane.x, plane.y))
    grid = torch.cartesian_prod(y, x).flip(1)  # row by row
    losses = [
        torch.cat([_losses(learner, adapted, tasks, task, plane.at(points)) for points in grid.split(chunk_size)])
        for task in range(len(tasks))
    ]
    support, query = torch.stack(losses).view(len(tasks), resolution, resolution, 2).cpu().unbind(3)
    return Surface(x, y, support, query)


def _losses(learner: Learner, adapted: Adapted, tasks: TaskBatch, task: int, weights: Weights) -> Tensor:
    """Return support and query loss (n, 2) of one task at n sets of weights."""
    count = len(next(iter(weights.values())))

    def repeated(tensor: Tensor) -> Tensor:
        return tensor[task].expand(count, *tensor.shape[1:])

    support, query = (Examples(repeated(part.x), repeated(part.y)) for part in (tasks.support, tasks.query))
    buffers = {name: repeated(tensor) for name, tensor in adapted.buffers.items()}
    on_support, _ = support_loss(learner.model, learner.loss, {})(weights, buffers, support)
    there = with_support_statistics(learner.model, Adapted(weights, buffers, torch.empty(0)), support)
    on_query = learner.loss(learner.predict(there, query.x), query.y)
    return torch.stack([on_support, on_query], 1)
