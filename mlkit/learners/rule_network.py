"""The meta-network of TURTLE: a small MLP for very many coordinates, quick on a CPU because it stays in its cache.

Coordinates lie last, (tasks, features, coordinates): so layers are the quickest matrix products. On a CPU a block of
one task's coordinates goes through all layers in buffers that are used again and again, and the backward pass computes
the activations once more: nothing but the input is kept, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

BLOCK = 2048  # coordinates: the activations of so many, six times 20 each, fit the cache of a core
Layers = Sequence[Tensor]  # of one task: weights (out, in), or biases (out, 1)


def rule_network(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Apply linear layers with ReLU between them: x (tasks, inputs, n) -> (tasks, outputs, n).

    Each task has its own weights (tasks, out, in) and biases (tasks, out); hidden layers are of one width.
    """
    return _at_once(x, *weights, *biases) if x.is_cuda else _InBlocks.apply(x, *weights, *biases)


def _at_once(x: Tensor, *layers: Tensor) -> Tensor:
    """Apply all weights, then all biases, by ordinary operations on all tasks."""
    depth = len(layers) // 2
    for index, (weight, bias) in enumerate(zip(layers[:depth], layers[depth:], strict=True)):
        x = torch.baddbmm(bias.unsqueeze(2), weight, x.relu() if index else x)
    return x


class _InBlocks(Function):
    """(x, weights, biases) -> the output of the network."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        ctx.save_for_backward(x, *layers)
        y = x.new_empty(len(x), layers[len(layers) // 2 - 1].shape[1], x.shape[2])
        room = _room(x, layers)
        for weights, biases, (x_part, y_part) in _blocks(layers, x, y):
            inputs = _inputs(x_part, weights, biases, room)
            torch.addmm(biases[-1], weights[-1], inputs[-1], out=y_part)
        return y

    @staticmethod
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:
        x, *layers = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            wanted = [tensor for tensor in (x, *layers) if tensor.requires_grad]
            found = iter(torch.autograd.grad(_at_once(x, *layers), wanted, of_y, create_graph=True))
            return tuple(next(found) if tensor.requires_grad else None for tensor in (x, *layers))
        of_x, of_layers = torch.empty_like(x), [torch.zeros_like(layer) for layer in layers]
        room, spare = _room(x, layers), _room(x, layers)[:1]
        sums = (own[:2] for own in _blocks(of_layers, x))
        for (weights, biases, (x_part, slope, end)), own in zip(_blocks(layers, x, of_y, of_x), sums, strict=True):
            inputs = _inputs(x_part, weights, biases, room)
            for weight, seen, of_weight, of_bias in reversed(list(zip(weights, inputs, *own, strict=True))):
                of_weight.addmm_(slope, seen.T)
                of_bias.add_(slope.sum(1, keepdim=True))
                if seen is x_part:
                    torch.mm(weight.T, slope, out=end)
                else:  # the slope takes the place of the activations, which are needed no more
                    before = torch.mm(weight.T, slope, out=spare[0][:, : seen.shape[1]])
                    slope = torch.ops.aten.threshold_backward.grad_input(before, seen, 0, grad_input=seen)
        return of_x, *of_layers


def _inputs(x: Tensor, weights: Layers, biases: Layers, room: Sequence[Tensor]) -> list[Tensor]:
    """Return what every layer reads: x (inputs, block), then the activations behind the layer before, in `room`."""
    inputs = [x]
    for weight, bias, buffer in zip(weights, biases, room, strict=False):
        inputs.append(torch.addmm(bias, weight, inputs[-1], out=buffer[:, : x.shape[1]]).relu_())
    return inputs


def _room(x: Tensor, layers: Sequence[Tensor]) -> list[Tensor]:
    """Return a buffer for the activations of a block behind each layer but the last."""
    hidden = layers[: len(layers) // 2 - 1]
    return [x.new_empty(weight.shape[1], min(BLOCK, x.shape[2])) for weight in hidden]


def _blocks(layers: Sequence[Tensor], *tensors: Tensor) -> Iterator[tuple[Layers, Layers, tuple[Tensor, ...]]]:
    """Yield each task's weights and biases with a block of coordinates of each of `tensors` (tasks, features, n)."""
    depth = len(layers) // 2
    weights = zip(*(weight.unbind() for weight in layers[:depth]), strict=True)
    biases = zip(*(bias.unsqueeze(2).unbind() for bias in layers[depth:]), strict=True)
    for *own, rows in zip(weights, biases, zip(*(tensor.unbind() for tensor in tensors), strict=True), strict=True):
        for parts in zip(*(row.split(BLOCK, 1) for row in rows), strict=True):
            yield *own, parts
