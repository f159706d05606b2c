"""Layers for plain and task-stacked weights (placeholder by the lead; the SPEED helper replaces it, names as used by mlp/conv4/normalization)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    def forward(self, x):
        if self.weight.dim() == 2:
            return F.linear(x, self.weight, self.bias)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class Conv2d(nn.Conv2d):
    def forward(self, x):
        if self.weight.dim() == 4:
            return super().forward(x)
        return torch.stack([F.conv2d(a, w, b, self.stride, self.padding) for a, w, b in zip(x, self.weight, self.bias)])


def relu(x):
    return torch.relu(x)


def max_pool_relu(x):
    y = F.max_pool2d(x.flatten(0, -4) if x.dim() == 5 else x, 2)
    y = torch.relu(y)
    return y.unflatten(0, x.shape[:-3]) if x.dim() == 5 else y


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5):
    """x (..., examples, channels[, h, w]) -> y, mean (..., channels), biased variance (..., channels)"""
    stacked = weight.dim() == 2
    first = 1 if stacked else 0
    dims = (first, *range(first + 2, x.dim()))
    variance, mean = torch.var_mean(x, dims, correction=0)
    return normalize(x, mean, variance, weight, bias, eps), mean, variance


def normalize(x, mean, variance, weight, bias, eps):
    stacked = weight.dim() == 2
    def wide(t):
        t = t.unsqueeze(1) if stacked else t
        return t.view(*t.shape, *([1] * (x.dim() - (3 if stacked else 2))))
    scale = weight * torch.rsqrt(variance + eps)
    return x * wide(scale) + wide(bias - mean * scale)
