"""Normalization as a named policy: which statistics a network is normalized by, on support and on query."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.models import fused
from mlkit.models.layers import Conv2d, batch_norm, normalize

Policy = Literal["transductive", "support", "running", "group", "none"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Phase = Literal["adapt", "learn", "predict"]


class BatchNorm(nn.Module):
    """Batch normalization whose statistics follow a named policy; gamma and beta are `weight` and `bias`.

    While adapting, all use the statistics of the support batch. They differ on the query set:

    | policy | the query set is normalized by |
    |---|---|
    | transductive | its own statistics: a prediction depends on the other queries |
    | support | the statistics of the support set under the adapted weights |
    | running | averages that each adaptation step moves on (when meta-learning, its own statistics) |

    Input (examples, channels, ...) or, with weights stacked over tasks, (tasks, examples, channels, ...).

    Args:
        channels: number of channels.
        policy: "transductive", "support" or "running".
        eps: added to the variance.
        momentum: weight of the new batch in the running averages (torch's convention).
    """

    stacks_tasks = True

    def __init__(self, channels: int, policy: Policy, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.policy, self.eps, self.momentum = policy, eps, momentum
        self.phase: Phase = "adapt"
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if policy != "transductive":
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("variance", torch.ones(channels))

    def reset_parameters(self) -> None:
        """Gamma 1, beta 0, mean 0, variance 1."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.policy != "transductive":
            self.mean.zero_()
            self.variance.fill_(1)

    def forward(
        self, x: Tensor, *, after: Conv2d | None = None, pool: bool = False, rectify: bool = False, swish: bool = False
    ) -> Tensor:
        """Normalize each channel, then scale and shift it.

        `after` convolves x first; its bias is never added, since batch statistics would take it away again. With `pool`
        the result is reduced by a 2x2 max-pool, before the shift where that is the same; with `rectify` ReLU follows;
        with `swish` that follows.
        """
        then = {"pool": pool, "rectify": rectify}
        lacking = 0 if after is None or after.bias is None else after.bias
        if self._uses_stored_statistics():
            x, mean = x if after is None else after.convolve(x), self.mean - lacking
            y = normalize(x, mean, self.variance, self.weight, self.bias, self.eps, **then)
            return F.silu(y) if swish else y
        if self.policy != "support" and self.weight.dim() == 1 and after is None and not (pool or rectify):
            y, mean, variance = fused.batch_norm(x, self.weight, self.bias, self.eps, swish=swish)
        else:
            y, mean, variance = batch_norm(x, self.weight, self.bias, self.eps, after=after, **then)
            y = F.silu(y) if swish else y
        if self.phase == "adapt":
            self._store(mean + lacking, variance)
        return y

    def _uses_stored_statistics(self) -> bool:
        if self.policy == "support":
            return self.phase != "adapt"
        return self.policy == "running" and self.phase == "predict"

    def _store(self, mean: Tensor, variance: Tensor) -> None:
        """Assign, never write in place: under `functional_call` the new tensors belong to the caller."""
        if self.policy == "support":
            self.mean, self.variance = mean, variance
        elif self.policy == "running":
            self.mean = torch.lerp(self.mean, mean.detach(), self.momentum)
            self.variance = torch.lerp(self.variance, variance.detach(), self.momentum)

    def extra_repr(self) -> str:
        """Show the policy."""
        return f"{self.weight.shape[-1]}, policy={self.policy!r}, eps={self.eps}"


def normalization(
    policy: Policy, channels: int, *, groups: int = 8, eps: float = 1e-5, momentum: float = 0.1
) -> nn.Module:
    """Return the normalization layer that `policy` names.

    Raises:
        ValueError: the policy is not one of POLICIES.
    """
    if policy == "none":
        return nn.Identity()
    if policy == "group":
        return nn.GroupNorm(min(groups, channels), channels, eps=eps)
    if policy not in POLICIES:
        raise ValueError(f"expected a normalization policy out of {', '.join(POLICIES)}; got {policy!r}")
    return BatchNorm(channels, policy, eps=eps, momentum=momentum)


def policy_of(model: nn.Module) -> Policy:
    """Name the policy that `model` follows, for the record; plain torch batch norm counts as "running".

    Raises:
        ValueError: the model mixes policies.
    """
    found: set[Policy] = set()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            found.add(module.policy)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            found.add("running" if module.track_running_stats else "transductive")
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            found.add("group")
    if len(found) > 1:
        raise ValueError(f"expected one normalization policy in a model, got {sorted(found)}; build it with one policy")
    return found.pop() if found else "none"


def collects_support_statistics(model: nn.Module) -> bool:
    """Tell whether predicting needs one more pass over the support set, under the adapted weights."""
    return any(isinstance(module, BatchNorm) and module.policy == "support" for module in model.modules())


def set_phase(model: nn.Module, phase: Phase) -> None:
    """Set `model` for "adapt" (support passes), "learn" (query pass of meta-training) or "predict" (evaluation)."""
    model.train(phase != "predict")
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.phase = phase
