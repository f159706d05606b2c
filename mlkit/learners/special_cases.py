"""MAML as a special case of learned update rules: theorem 1 of paper 002 with its bias corrected, and TURTLE's."""

from __future__ import annotations

import math

import torch

from mlkit.driver import Meta
from mlkit.learners.meta_lstm import MetaLSTM
from mlkit.learners.turtle import Turtle

SATURATED = 40.0  # sigmoid(40) is 1 in float32 (from 16.7 on) and in float64 (from 36.8 on): nothing is forgotten


def inner_lr_limit(learner: MetaLSTM, examples: int) -> float:
    r"""Return what all learning rates that the rule can represent stay below: 1, or 1 / `examples`.

    The learning rate of a coordinate is $\sigma(i)$ < 1; with `scale_gradient` the gradient is divided by the number of
    support examples (ways times shots) on top of the mean, so that $\sigma(i) / NK$ is what remains. MAML's usual 0.05
    (Finn et al. 2017, for a mean loss) is out of reach of a rule for 5-way 5-shot tasks: 1/25 = 0.04.

    Example:
        >>> from mlkit.models import MLP
        >>> [inner_lr_limit(MetaLSTM(MLP(), scale_gradient=scaled), examples=25) for scaled in (False, True)]
        [1.0, 0.04]
    """
    return 1 / examples if learner.scale_gradient else 1.0


def gradient_descent(learner: MetaLSTM | Turtle, meta: Meta, inner_lr: float, *, examples: int | None = None) -> Meta:
    r"""Return `meta` with a rule that is gradient descent: the same initialization then adapts as by MAML.

    For the LSTM (paper 002, theorem 1) $W_f = W_i = 0$, $b_f$ so large that its sigmoid is 1, and

    $$b_i = -\ln \frac{1 - \alpha}{\alpha}, \quad 0 < \alpha < 1$$ (the paper prints it as $b_f$, and includes
    alpha = 1, which like a forget gate of 1 is but a limit that only rounding reaches). For TURTLE without
    hidden layers: weight -alpha of the gradient, 0 of other inputs, bias 0, learning rates 1.

    Args:
        learner: the learned rule.
        meta: meta-parameters of one run, as from `learner.init`, or stacked.
        inner_lr: alpha, of a mean loss.
        examples: support examples of a task, ways times shots, which an LSTM that scales the gradient must know.

    Raises:
        ValueError: the rule cannot represent gradient descent with this learning rate, or `examples` is missing.

    Example:
        >>> from mlkit.models import MLP
        >>> lstm = MetaLSTM(MLP(), scale_gradient=False)
        >>> gradient_descent(lstm, lstm.init(torch.Generator()), 0.01)["phi.input.bias"]
        tensor([-4.5951])
    """
    rule = _of_turtle(learner, meta, inner_lr) if isinstance(learner, Turtle) else _of_lstm(learner, inner_lr, examples)
    changed = {name for name in meta if name.startswith(("phi.forget.", "phi.input.", "phi.head.", "inner_lr."))}
    return meta | {name: torch.zeros_like(meta[name]) + rule.get(name, 0.0) for name in changed}


def _of_lstm(learner: MetaLSTM, inner_lr: float, examples: int | None) -> dict[str, float]:
    if learner.scale_gradient and examples is None:
        raise ValueError(
            "expected the number of support examples of a task, got none: scale_gradient=True divides by it; "
            "pass examples=ways * shots"
        )
    limit = inner_lr_limit(learner, examples or 1)
    if not 0 < inner_lr < limit:
        raise ValueError(
            f"expected a learning rate between 0 and {limit:g}, got {inner_lr}: it is a sigmoid"
            + (f" over {examples} support examples; take scale_gradient=False" if limit < 1 else "")
        )
    share = inner_lr / limit
    return {"phi.forget.bias": SATURATED, "phi.input.bias": math.log(share) - math.log1p(-share)}


def _of_turtle(learner: Turtle, meta: Meta, inner_lr: float) -> dict[str, float | torch.Tensor]:
    if learner.hidden_layers or "gradient" not in learner.inputs:
        raise ValueError(
            f"expected hidden_layers=0 and 'gradient' among the inputs, got {learner.hidden_layers} and "
            f"{learner.inputs}; without hidden layers the rule is linear in the gradient"
        )
    weight = torch.zeros_like(meta["phi.head.weight"])
    weight[..., learner.inputs.index("gradient")] = -inner_lr
    return {
        "phi.head.weight": weight,
        **{n: 1.0 for n in meta if n.startswith("inner_lr.")},
    }
