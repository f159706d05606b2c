"""The meta-learner LSTM: the weights of the network are the cell state of an LSTM, whose gates are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlkit.adaptation import Adapted, Update, Weights
from mlkit.driver import TaskGradients, is_buffer
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.coordinates import LearnedRule, check_steps, flatten, preprocess, unflatten
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.tasks.base import TaskBatch


@dataclass(frozen=True)
class MetaLSTM(LearnedRule):
    r"""Learn an initialization, and how much each weight forgets and how fast it learns at every step.

    $$\theta^{(t+1)} = \sigma(f^{(t)}) \odot \theta^{(t)} - \sigma(i^{(t)}) \odot \nabla^{(t)},$$
    $$f^{(t)} = W_f\,[h^{(t)}, \theta^{(t)}, f^{(t-1)}] + b_f,\quad
    i^{(t)} = W_i\,[h^{(t)}, \theta^{(t)}, i^{(t-1)}] + b_i,\quad
    h^{(t)} = \mathrm{LSTM}(\text{input}^{(t)}, h^{(t-1)})$$
    (Ravi and Larochelle 2017; paper 002, eq. 3.3, which leaves out the LSTM below and prints the gates where their code
    feeds back f and i before the sigmoid: so do we.) All coordinates of theta share one LSTM and one pair of gates;
    each has a state of its own.

    | variant | input of a coordinate | order | T |
    |---|---|---|---|
    | original | gradient and loss, preprocessed: 4 numbers | first | 12 (1 shot), 5 or 8 (5 shots) |
    | enhanced: preprocessed=False, first_order=False | the gradient as it is | second | 8 |

    Both are trained with `OuterLoop(meta_batch=1, clip_norm=0.25)`. Gates of finite bias always forget a little:
    sigmoid(5) = 0.993 a step.

    Args:
        model: any module; its own weights are not used.
        inner_steps: T, in training; `adapt` may take another number.
        loss: loss of a task, by default the mean cross-entropy.
        first_order: treat gradients and losses as constants; the graph runs through gates and cell states.
        preprocessed: read gradient and loss by size and sign, see `preprocess`; else the gradient alone.
        scale_gradient: divide the gradient, of a mean loss, by the size of the support set once more, as the authors'
            code does; then no learning rate of 1 / size or above can be represented, see `inner_lr_limit`.
        width: of the LSTM.
        forget_bias: range that b_f is drawn from (Ravi and Larochelle: 4 to 5; paper 002: 4 to 6).
        input_bias: range that b_i is drawn from; sigmoid(-4.5) = 0.011 is the first learning rate.
        checkpoint: recompute inner steps in the backward pass: of a step are held its weights and the states of the
            LSTM, about a third.
        reset_statistics: begin the running averages of the normalization anew with every task, as Ravi and Larochelle's
            code does; of use under the policy "running", with averages that a task's few steps can fill (a momentum
            near 1). Paper 002 normalizes by batch statistics instead.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> from mlkit.models import MLP
        >>> meta = MetaLSTM(MLP()).init(torch.Generator())
        >>> sum(tensor.numel() for name, tensor in meta.items() if name.startswith("phi.lstm."))
        2080
    """

    model: nn.Module
    inner_steps: int = 8
    loss: TaskLoss = cross_entropy
    first_order: bool = True
    preprocessed: bool = True
    scale_gradient: bool = True
    width: int = 20
    forget_bias: tuple[float, float] = (4.0, 6.0)
    input_bias: tuple[float, float] = (-5.0, -4.0)
    checkpoint: bool = False
    reset_statistics: bool = False

    def __post_init__(self) -> None:
        check_steps(self.inner_steps)
        for name, (low, high) in {"forget_bias": self.forget_bias, "input_bias": self.input_bias}.items():
            if not low <= high:
                raise ValueError(f"expected {name} as a range (low, high), got {(low, high)}")
        if self.width < 1:
            raise ValueError(f"expected width >= 1, got {self.width}")

    def init(self, generator: torch.Generator) -> Meta:
        """Draw an initialization, weights of the rule from U(-0.01, 0.01), and the biases of the gates."""
        meta = common.initialize(self.model, generator)
        dtype = next(tensor.dtype for name, tensor in meta.items() if name.startswith("theta."))

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return (low + (high - low) * torch.rand(*shape, generator=generator)).to(dtype)

        width, inputs = self.width, 4 if self.preprocessed else 1
        shapes = {"weight_ih": (4 * width, inputs), "weight_hh": (4 * width, width)}
        shapes |= dict.fromkeys(("bias_ih", "bias_hh"), (4 * width,))
        meta |= {f"phi.lstm.{name}": uniform(-0.01, 0.01, *shape) for name, shape in shapes.items()}
        for gate, bias in (("forget", self.forget_bias), ("input", self.input_bias)):
            meta[f"phi.{gate}.weight"] = uniform(-0.01, 0.01, width + 2)  # of h, theta and the gate before
            meta[f"phi.{gate}.bias"] = uniform(*bias, 1)
        return meta

    def adapt(self, meta: Meta, tasks: TaskBatch, *, steps: int | None = None, trajectory: bool = False) -> Adapted:
        """Adapt to the support sets without a graph; `steps` defaults to the training value."""
        return super().adapt(self._afresh(meta), tasks, steps=steps, trajectory=trajectory)

    def gradients(self, meta: Meta, tasks: TaskBatch, *, query_chunk: int | None = None) -> TaskGradients:
        """Return each task's gradient of its query loss, through the adaptation, at everything that is meta-learned."""
        return super().gradients(self._afresh(meta), tasks, query_chunk=query_chunk)

    def _afresh(self, meta: Meta) -> Meta:
        """Let the statistics of the normalization begin anew, where that is asked for."""
        if not self.reset_statistics:
            return meta
        new = common.initialize(self.model, torch.Generator())
        return meta | {
            name: tensor.to(meta[name]).expand_as(meta[name]) for name, tensor in new.items() if is_buffer(name)
        }

    def describe(self) -> dict[str, Any]:
        """Say what a record must say."""
        kept = ("inner_steps", "first_order", "preprocessed", "scale_gradient", "width", "forget_bias", "input_bias")
        return {
            "learner": "meta-learner LSTM",
            "loss": self.loss.__name__,
            **{name: getattr(self, name) for name in kept},
            "forget_bias": list(self.forget_bias),
            "input_bias": list(self.input_bias),
            **({"reset_statistics": True} if self.reset_statistics else {}),
            **common.describe_model(self.model),
        }

    def rule(self, meta: Meta, tasks: TaskBatch) -> tuple[Update, Any]:
        """Return the update of each inner step, and the state it starts from: h, c and the two gates, all zero."""
        phi, theta = common.role(meta, "phi"), flatten(common.role(meta, "theta"))
        examples = tasks.support.y.shape[1] if self.scale_gradient else 1
        zeros = theta.new_zeros(len(theta), self.width, theta.shape[1])

        def update(weights: Weights, slopes: Weights, losses: Tensor, state: Any) -> tuple[Weights, Any]:
            hidden, cell, forget, learn = state
            gradient, at = flatten(slopes) / examples, flatten(weights)
            hidden, cell = lstm_cell(common.role(phi, "lstm"), self._read(gradient, losses), hidden, cell)
            forget, learn = (
                gate(common.role(phi, name), hidden, at, before)
                for name, before in (("forget", forget), ("input", learn))
            )
            at = forget.sigmoid() * at - learn.sigmoid() * gradient
            return unflatten(at, weights), (hidden, cell, forget, learn)

        return update, (zeros, zeros, zeros[:, 0], zeros[:, 0])

    def _read(self, gradient: Tensor, losses: Tensor) -> Tensor:
        """Put the inputs of each coordinate side by side: (tasks, inputs, n)."""
        if not self.preprocessed:
            return gradient.unsqueeze(1)
        loss = preprocess(losses).unsqueeze(2).expand(-1, -1, gradient.shape[1])
        return torch.cat([preprocess(gradient), loss], 1)


def lstm_cell(weights: Weights, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state (tasks, width, n) after reading x (tasks, inputs, n); weights as `nn.LSTMCell`'s.

    Each weight has a leading task axis; the n coordinates of a task share it.
    """
    bias = weights["bias_ih"] + weights["bias_hh"]
    read = torch.bmm(weights["weight_ih"], x).add_(bias.unsqueeze(2))
    learn, forget, new, shown = torch.baddbmm(read, weights["weight_hh"], hidden).chunk(4, 1)
    cell = forget.sigmoid() * cell + learn.sigmoid() * new.tanh()
    return shown.sigmoid() * cell.tanh(), cell


def gate(weights: Weights, hidden: Tensor, theta: Tensor, before: Tensor) -> Tensor:
    """Return W [h, theta, the gate before] + b of each coordinate (tasks, n), before the sigmoid.

    h is (tasks, width, n), theta and the gate are (tasks, n).
    """
    of_hidden, of_theta, of_before = weights["weight"].split([hidden.shape[1], 1, 1], 1)
    read = torch.bmm(of_hidden.unsqueeze(1), hidden).squeeze(1)
    return read + of_theta * theta + of_before * before + weights["bias"]
