"""Symmetric matrices with given spectra, and the dense Hessian of a small network: what the estimates are held to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from mlkit.adaptation import Adapted
from mlkit.driver import Meta, stack
from mlkit.landscape.directions import copies
from mlkit.learners import MAML
from mlkit.losses import mean_squared_error
from mlkit.models import MLP
from mlkit.seeding import seeded
from mlkit.tasks import TaskBatch, sample, sine

SEPARATED = [10.0, *[index / 300 for index in range(300)]]
CLUSTERED = [1.0, 0.98, *[0.9] * 200]
INDEFINITE = [1.0, -0.99, *[index / 500 - 0.2 for index in range(200)]]
SADDLE = [-2.0, 1.5, *[index / 400 for index in range(200)]]


class Matrices:
    """Dense matrices (tasks, d, d) as an operator."""

    def __init__(self, matrices: Tensor) -> None:
        self.matrices = matrices
        self.shape, self.dtype, self.device = tuple(matrices.shape[:2]), matrices.dtype, matrices.device
        self.products = 0

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        return torch.bmm(self.matrices, v.unsqueeze(2)).squeeze(2)


def with_spectra(*spectra: list[float]) -> Matrices:
    """Return matrices with these eigenvalues in random bases."""

    def one(eigenvalues: list[float], index: int) -> Tensor:
        gaussian = torch.randn(
            len(eigenvalues), len(eigenvalues), generator=seeded("basis", index), dtype=torch.float64
        )
        basis, _ = torch.linalg.qr(gaussian)
        matrix = (basis * torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
        return (matrix + matrix.T) / 2

    return Matrices(torch.stack([one(eigenvalues, index) for index, eigenvalues in enumerate(spectra)]))


def sine_setting(count: int, sizes: tuple[int, ...] = (1, 40, 40, 1)) -> tuple[MAML, Meta, TaskBatch]:
    """Return a learner in float64, one run's meta-parameters, and sine tasks."""
    learner = MAML(MLP(sizes).double(), 0.01, 3, mean_squared_error)
    meta = stack([learner.init(seeded("sine setting"))])
    return learner, meta, sample(sine("finn"), count, seeded("sine setting")).to(dtype=torch.float64)


def adapt(learner: MAML, meta: Meta, tasks: TaskBatch) -> Adapted:
    return learner.adapt(copies(meta, tasks), tasks)


def dense_hessian(learner: MAML, adapted: Adapted, tasks: TaskBatch, task: int) -> Tensor:
    """Return one task's Hessian (d, d) row by row, by torch's own function on the plain network."""
    weights = {name: tensor[task] for name, tensor in adapted.weights.items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        outputs = functional_call(learner.model, named, (tasks.support.x[task],))
        return learner.loss(outputs[None], tasks.support.y[task][None])[0]

    return torch.autograd.functional.hessian(loss, torch.cat([tensor.flatten() for tensor in weights.values()]))
