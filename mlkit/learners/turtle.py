"""TURTLE: a feed-forward network, the same for every weight, reads the gradient and says how the weight moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mlkit.adaptation import Update, Weights
from mlkit.learners import common
from mlkit.learners.common import Meta
from mlkit.learners.coordinates import LearnedRule, check_steps, flatten, unflatten
from mlkit.learners.rule_network import rule_network
from mlkit.losses import TaskLoss, cross_entropy
from mlkit.models import MLP
from mlkit.tasks.base import TaskBatch

Input = Literal["gradient", "loss", "time", "history"]
History = Literal["gradients", "past gradients", "past updates"]
INPUTS: tuple[Input, ...] = get_args(Input)
HISTORIES: tuple[History, ...] = get_args(History)


@dataclass(frozen=True)
class Turtle(LearnedRule):
    r"""Learn an initialization and a stateless update rule $g_\phi$ that every coordinate shares.

    $$\theta^{(t+1)} = \theta^{(t)} + \alpha \odot g_\phi(I^{(t)})$$ (paper 002, eq. 3.7.) The meta-network is an MLP
    with ReLU, its examples are the n coordinates of theta. Of a coordinate it may see its gradient, the support loss,
    the time step t = 0, 1, ..., and a moving average h, whose weight of the past is `decay`:

    | history | h at step t | source |
    |---|---|---|
    | gradients | $h_0 = g_0$, $h_t = \beta h_{t-1} + (1 - \beta) g_t$ | the authors' code |
    | past gradients, past updates | $h_0 = 0$, $h_{t+1} = \beta h_t + (1 - \beta) v_t$, v what is named | eq. 3.6 |

    An update is $\alpha \odot g_\phi$. The paper's best setting, found on sine tasks, is the default; for its study
    of order, steps and layers (figure 3.2) take inputs=("gradient",) and learn_inner_lr=False. With no hidden layer,
    weight -lr and bias 0 it is MAML: `mlkit.learners.gradient_descent`.

    Args:
        model: any module; its own weights are not used.
        inner_steps: T, in training; `adapt` may take another number.
        loss: loss of a task, by default the mean cross-entropy.
        first_order: treat all that the meta-network reads as constants; it learns from what it answers alone.
        inputs: what it reads, out of INPUTS.
        history: which moving average.
        decay: beta.
        hidden_layers: of the meta-network; 0 for a linear rule.
        width: of each hidden layer.
        learn_inner_lr: meta-learn alpha, one per coordinate, of either sign, drawn from U[0, 1); else it is 1.
        clip_inner: clip the values of the inner gradients to [-clip, clip] (the authors: 10 where T > 1).
        checkpoint: recompute inner steps in the backward pass: memory nearly flat in `inner_steps`.

    Raises:
        ValueError: an unknown or no input, an unknown history, or a number out of its range.

    Example:
        >>> turtle = Turtle(MLP())  # the sine regressor; its rule happens to have as many weights
        >>> sum(tensor.numel() for tensor in turtle.network.parameters())
        1761
    """

    model: nn.Module
    inner_steps: int = 5
    loss: TaskLoss = cross_entropy
    first_order: bool = False
    inputs: tuple[Input, ...] = ("gradient", "history")
    history: History = "gradients"
    decay: float = 0.9
    hidden_layers: int = 5
    width: int = 20
    learn_inner_lr: bool = True
    clip_inner: float | None = None
    checkpoint: bool = False

    def __post_init__(self) -> None:
        check_steps(self.inner_steps)
        if not self.inputs or set(self.inputs) - set(INPUTS) or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"expected some of the inputs {', '.join(INPUTS)}, each once; got {self.inputs}")
        if self.history not in HISTORIES:
            raise ValueError(f"expected a history out of {', '.join(HISTORIES)}; got {self.history!r}")
        if not 0 <= self.decay <= 1 or self.hidden_layers < 0 or self.width < 1:
            raise ValueError(
                f"expected decay from 0 to 1, hidden_layers >= 0 and width >= 1, got {self.decay}, "
                f"{self.hidden_layers}, {self.width}"
            )

    @cached_property
    def network(self) -> MLP:
        """The meta-network: inputs of a coordinate -> its move, before alpha; its own weights are not used."""
        return MLP((len(self.inputs), *[self.width] * self.hidden_layers, 1))

    def init(self, generator: torch.Generator) -> Meta:
        """Draw an initialization, a meta-network by torch's default with zero biases, and alpha."""
        meta = common.initialize(self.model, generator)
        theta, phi = (common.role(of, "theta") for of in (meta, common.initialize(self.network, generator)))
        dtype = next(iter(theta.values())).dtype
        meta |= {f"phi.{name}": tensor.to(dtype) for name, tensor in phi.items()}
        if self.learn_inner_lr:
            rates = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in theta.items()}
            meta |= {f"inner_lr.{name}": rate.to(dtype) for name, rate in rates.items()}
        return meta

    def describe(self) -> dict[str, Any]:
        """Say what a record must say; history and width only where there is one."""
        kept = ["inner_steps", "first_order", "hidden_layers", "learn_inner_lr", "clip_inner"]
        kept += ["history", "decay"] if "history" in self.inputs else []
        kept += ["width"] if self.hidden_layers else []
        return {
            "learner": "TURTLE",
            "loss": self.loss.__name__,
            "inputs": list(self.inputs),
            **{name: getattr(self, name) for name in kept},
            **common.describe_model(self.model),
        }

    def propose(self, phi: Weights, read: Tensor) -> Tensor:
        """Return g_phi: what the coordinates read (tasks, inputs, n) -> their moves before alpha (tasks, n)."""
        names = [*(f"body.{layer}" for layer in range(self.hidden_layers)), "head"]
        weights, biases = ([phi[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        return rule_network(read, weights, biases).squeeze(1)

    def rule(self, meta: Meta, tasks: TaskBatch) -> tuple[Update, Any]:
        """Return the update of each inner step, and the state it starts from: the time, and no history."""
        phi, rates = common.role(meta, "phi"), common.role(meta, "inner_lr")
        alpha = flatten(rates) if rates else None

        def update(weights: Weights, slopes: Weights, losses: Tensor, state: Any) -> tuple[Weights, Any]:
            time, past = state
            gradient = flatten(slopes)
            if self.clip_inner is not None:
                gradient = gradient.clamp(-self.clip_inner, self.clip_inner)
            history = self._history(past, gradient)
            move = self.propose(phi, self._read(gradient, losses, time, history))
            move = move if alpha is None else alpha * move
            moves = unflatten(move, weights)
            new = {name: weights[name] + moves[name] for name in weights}
            return new, (time + 1, self._remembered(history, gradient, move))

        return update, (0, None)

    def _read(self, gradient: Tensor, losses: Tensor, time: int, history: Tensor) -> Tensor:
        """Put the inputs of each coordinate side by side: (tasks, inputs, n)."""
        seen = {
            "gradient": gradient,
            "loss": losses[:, None].expand_as(gradient),
            "time": torch.full_like(gradient, time),
            "history": history,
        }
        return torch.stack([seen[name] for name in self.inputs], 1)

    def _history(self, past: Tensor | None, gradient: Tensor) -> Tensor:
        """Return what is read as history at this step."""
        if self.history == "gradients":
            return gradient if past is None else torch.lerp(gradient, past, self.decay)
        return torch.zeros_like(gradient) if past is None else past

    def _remembered(self, history: Tensor, gradient: Tensor, move: Tensor) -> Tensor:
        """Return what the next step builds its history on."""
        if self.history == "gradients":
            return history
        new = gradient if self.history == "past gradients" else move
        return torch.lerp(new.detach() if self.first_order else new, history, self.decay)
