"""The Hessian of each task's support loss at its adapted weights: never built, only multiplied by."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Weights, call, leaves
from mlkit.driver import Learner
from mlkit.landscape.directions import flatten
from mlkit.seeding import seeded
from mlkit.tasks.base import Examples

Parameters = Literal["all", "no_norm"]


class Hessian:
    r"""Exact Hessian-vector products of many tasks at once, by differentiating the gradient again.

    $$H_i v = \nabla_\theta \big( \nabla_\theta L_{S_i}(\theta) \cdot v \big) \big|_{\theta = \tilde\theta_i}$$
    (Pearlmutter 1994.) Tasks share nothing, so that one backward pass of the summed losses serves all of them. The
    graph of the gradient is built once and kept: memory is that of one support pass, its gradient, and no more.

    Vectors are (tasks, d), the parameters flattened in the order of `adapted.weights`. The weights in front of a batch
    normalization have no scale: L(c w) = L(w), so that H(c w) = H(w) / c^2. Curvatures of two networks are comparable
    only if their weights are of one size.

    Args:
        learner: gives the model and the loss.
        adapted: weights and buffers (tasks, ...), as `learner.adapt` returns them.
        support: the examples that the loss is taken on.
        parameters: "all", those too that adaptation leaves alone, or "no_norm", without those of normalization layers.
        dtype: precision of everything; None for that of the weights.
        check: compare two products, each with a graph of its own, on the first task with finite weights.

    Attributes:
        losses: support losses at the adapted weights (tasks,).
        gradient: of each loss (tasks, d).

    Raises:
        ValueError: `parameters` is unknown, no parameter is left, or two products with one vector differ.

    Example:
        >>> from mlkit.learners import MAML
        >>> from mlkit.losses import mean_squared_error
        >>> from mlkit.models import MLP
        >>> learner, x = MAML(MLP((1, 1)), loss=mean_squared_error), torch.tensor([[[1.0], [2.0]]])
        >>> weights = {name: p.detach()[None] for name, p in learner.model.named_parameters()}
        >>> hessian = Hessian(learner, Adapted(weights, {}, torch.empty(0)), Examples(x, x))
        >>> hessian(torch.tensor([[1.0, 0.0]]))  # of the weight: mean of 2 x^2 and of 2 x
        tensor([[5., 3.]])
    """

    def __init__(
        self,
        learner: Learner,
        adapted: Adapted,
        support: Examples,
        *,
        parameters: Parameters = "all",
        dtype: torch.dtype | None = None,
        check: bool = True,
    ) -> None:
        def cast(tensor: Tensor) -> Tensor:
            return tensor.detach().to(dtype if tensor.is_floating_point() else None)

        weights = {name: cast(tensor) for name, tensor in adapted.weights.items()}
        buffers = {name: cast(tensor) for name, tensor in adapted.buffers.items()}
        names = _selected(learner.model, weights, parameters)
        if check:
            _check_repeats(learner, weights, buffers, support.map(cast), names)
        self._weights = leaves({name: weights[name] for name in names})
        examples = support.map(cast)
        with torch.enable_grad():
            outputs, _ = call(learner.model, weights | self._weights, buffers, examples.x, "adapt")
            losses = learner.loss(outputs, examples.y)
            self._gradients = torch.autograd.grad(
                losses.sum(), self._tensors, create_graph=True, allow_unused=True, materialize_grads=True
            )
        self.losses, self.gradient = losses.detach(), self._flat(self._gradients).detach()

    @property
    def _tensors(self) -> list[Tensor]:
        return list(self._weights.values())

    @property
    def shape(self) -> tuple[int, int]:
        """Tasks and number of parameters d."""
        return self.gradient.shape[0], self.gradient.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the vectors."""
        return self.gradient.dtype

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.gradient.device

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply v (tasks, d) by each task's Hessian."""
        pieces = v.split([tensor[0].numel() for tensor in self._tensors], 1)
        pairs = [pair for pair in zip(self._gradients, pieces, strict=True) if pair[0].requires_grad]
        if not pairs:  # the loss is linear in the parameters
            return torch.zeros_like(v)
        products = torch.autograd.grad(
            [gradient for gradient, _ in pairs],
            self._tensors,
            [piece.view(gradient.shape) for gradient, piece in pairs],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return self._flat(products)

    def _flat(self, tensors: tuple[Tensor, ...]) -> Tensor:
        return flatten(dict(zip(self._weights, tensors, strict=True)))


def _selected(model: nn.Module, weights: Weights, parameters: Parameters) -> list[str]:
    if parameters not in ("all", "no_norm"):
        raise ValueError(f"expected parameters 'all' or 'no_norm', got {parameters!r}")
    of_norms = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    names = [name for name in weights if parameters == "all" or name not in of_norms]
    if not names:
        raise ValueError("expected parameters outside the normalization layers, got none; use parameters='all'")
    return names


def _check_repeats(learner: Learner, weights: Weights, buffers: Weights, support: Examples, names: list[str]) -> None:
    """Raise if two products with one vector, each from a forward pass of its own, differ by more than rounding."""
    finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in weights.values()]).all(0)
    if not finite.any():
        return
    row = int(finite.nonzero()[0])
    one = slice(row, row + 1)
    adapted = Adapted(
        {name: tensor[one] for name, tensor in weights.items()},
        {name: tensor[one] for name, tensor in buffers.items()},
        torch.empty(0),
    )
    kept: Parameters = "all" if len(names) == len(weights) else "no_norm"
    twice = [
        Hessian(learner, adapted, support.map(lambda tensor: tensor[one]), parameters=kept, check=False)
        for _ in range(2)
    ]
    v = torch.randn(twice[0].shape, generator=seeded("repeats"), dtype=twice[0].dtype).to(twice[0].device)
    first, second = (hessian(v) for hessian in twice)
    difference = float((first - second).norm() / first.norm().clamp_min(torch.finfo(v.dtype).tiny))
    if difference > torch.finfo(v.dtype).eps ** 0.5:
        raise ValueError(
            f"expected the same Hessian-vector product twice, got a relative difference of {difference:.1e}; "
            f"{_likely_cause(learner.model)}"
        )


def _likely_cause(model: nn.Module) -> str:
    """Name what makes `model` answer differently from one pass to the next, and what to do about it."""
    modules = list(model.named_modules())
    random = [path or type(module).__name__ for path, module in modules if "drop" in type(module).__name__.lower()]
    if random:
        return f"the likely cause is dropout ({', '.join(random)}); build the model without it, or with p=0"
    moving = [
        path or type(module).__name__ for path, module in modules if getattr(module, "running_mean", None) is not None
    ]
    if moving:
        return (
            f"the likely cause is running statistics ({', '.join(moving)}) that each pass moves on; "
            "use another normalization policy"
        )
    return (
        "the likely cause is the order of batches: a model or loss that draws at random; "
        "make both a function of weights and support set alone"
    )
