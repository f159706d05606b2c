"""The fast path of layers whose weights are stacked over tasks: convolution and batch statistics of images.

Images are (tasks, examples, channels, height, width) and lie channels last in memory. What is elementwise runs over all
tasks at once, convolutions run task by task, and each backward pass is again differentiable, to any order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from mlkit.models import first_layer
from mlkit.models.blocks import blocks, pick, unpool

Pair = tuple[int, int]


def conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Convolve each task's images (tasks, examples, C, H, W) with its own weights (tasks, filters, C, k, k)."""
    if x.is_cuda:
        return _grouped(x, weight, stride, padding)
    if x.shape[2] == 1:
        how = stride, padding
        return first_layer.convolution(first_layer.unfold(x, weight, how), weight, first_layer.size(x, weight, how))
    return _Convolution.apply(_channels_last(x), _channels_last(weight), stride, padding)


def _grouped(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """One kernel launch for all tasks: a task is a group of channels."""
    tasks = len(weight)
    y = F.conv2d(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), None, stride, padding, groups=tasks)
    return y.unflatten(1, (tasks, -1)).transpose(0, 1)


def _channels_last(images: Tensor) -> Tensor:
    """Lay (..., C, H, W) out channels last; the shape stays."""
    return images.movedim(-3, -1).contiguous().movedim(-1, -3)


def _stack(images: list[Tensor]) -> Tensor:
    if len(images) == 1:
        return images[0].unsqueeze(0)
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


# A convolution is one trilinear form <g, x * w>. Its three partial gradients are the three functions below, and so the
# gradients of each are the other two: they are closed under differentiation.


class _Convolution(Function):
    """(x, w) -> x * w, the gradient with respect to g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = stride, padding
        return _stack([F.conv2d(*task, None, stride, padding) for task in zip(x, w, strict=True)])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        of_x, of_w, *_ = ctx.needs_input_grad
        g = _channels_last(g)
        return (
            _InputGradient.apply(g, w, x.shape, *ctx.how) if of_x else None,
            _WeightGradient.apply(x, g, w.shape, *ctx.how) if of_w else None,
            None,
            None,
        )


class _InputGradient(Function):
    """(g, w) -> the gradient with respect to x, which is `shape`."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, shape: torch.Size, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.how = stride, padding
        like = torch.empty(shape[1:], dtype=g.dtype, memory_format=torch.channels_last)  # its numbers are not read
        return _stack([_partial(a, like, b, ctx.how, 0) for a, b in zip(g, w, strict=True)])

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        of_g, of_w, *_ = ctx.needs_input_grad
        x = _channels_last(x)
        return (
            _Convolution.apply(x, w, *ctx.how) if of_g else None,
            _WeightGradient.apply(x, g, w.shape, *ctx.how) if of_w else None,
            None,
            None,
            None,
        )


class _WeightGradient(Function):
    """(x, g) -> the gradient with respect to w, which is `shape`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, shape: torch.Size, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.how = stride, padding
        like = torch.empty(shape[1:], dtype=g.dtype, memory_format=torch.channels_last)
        return _stack([_partial(b, a, like, ctx.how, 1) for a, b in zip(x, g, strict=True)])

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        of_x, of_g, *_ = ctx.needs_input_grad
        w = _channels_last(w)
        return (
            _InputGradient.apply(g, w, x.shape, *ctx.how) if of_x else None,
            _Convolution.apply(x, w, *ctx.how) if of_g else None,
            None,
            None,
            None,
        )


def _partial(g: Tensor, x: Tensor, w: Tensor, how: tuple[Pair, Pair], of: int) -> Tensor:
    """Return one partial gradient of <g, x * w>: at x (`of` 0) or at w (`of` 1), of which only the shape counts."""
    wanted = [of == 0, of == 1, False]
    return torch.ops.aten.convolution_backward(g, x, w, None, *how, (1, 1), False, (0, 0), 1, wanted)[of]


def summarize(x: Tensor, *, pool: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return x or its 2x2 max-pool; mean and biased variance (tasks, channels) of x itself.

    x is (tasks, examples, channels, ...). Two passes keep the variance accurate in float32.
    """
    return _Summary.apply(x, pool)


def summarize_convolution(
    x: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `summarize(conv2d(x, weight, stride, padding), pool=pool)`."""
    if not first_layer.serves(x):
        return summarize(conv2d(x, weight, stride, padding), pool=pool)
    patches, size = first_layer.unfold(x, weight, (stride, padding)), first_layer.size(x, weight, (stride, padding))
    y = (first_layer.pooled_convolution if pool else first_layer.convolution)(patches, weight, size)
    return y, *first_layer.statistics(patches, weight)


def scale_shift_relu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return max(x * scale + shift, 0); scale and shift (tasks, channels)."""
    return _ScaleShiftRelu.apply(x, scale, shift)


def over(values: Tensor, x: Tensor) -> Tensor:
    """Shape `values` (..., channels) to broadcast over x (..., examples, channels, ...)."""
    space = (1,) * (x.dim() - values.dim() - 1)
    return values.unsqueeze(-2).reshape(*values.shape[:-1], 1, values.shape[-1], *space)


def _dims(x: Tensor) -> tuple[int, ...]:
    """What statistics of x (tasks, examples, channels, ...) are taken over."""
    return 1, *range(3, x.dim())


class _Summary(Function):
    """X -> x or its 2x2 max-pool, mean and variance (tasks, channels), in two passes that keep float32 accurate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: bool) -> tuple[Tensor, ...]:
        mean, count = x.mean(_dims(x)), x[0].numel() // x.shape[2]
        center, total = over(mean, x), torch.zeros_like(mean)
        for tasks, examples in blocks(x.shape):  # small temporaries stay in the cache
            block = x[tasks, examples]
            total[tasks] += (block - center[tasks]).square_().sum(_dims(x))
        where = x.new_empty(0, dtype=torch.int64)
        y = x
        if pool:
            y, where = F.max_pool2d(x.flatten(0, 1), 2, return_indices=True)
            y = y.unflatten(0, x.shape[:2])
        ctx.save_for_backward(x, mean, where)
        return y, mean, total / count

    @staticmethod
    def backward(ctx: Any, of_y: Tensor, of_mean: Tensor, of_variance: Tensor) -> tuple[Tensor, None]:
        x, mean, where = ctx.saved_tensors
        return _SummaryGradient.apply(x, mean.detach(), where, of_y, of_mean, of_variance), None


class _SummaryGradient(Function):
    """Spread of_y over x, add of_mean / n + 2 (x - mean) of_variance / n."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, where: Tensor, of_y: Tensor, of_mean: Tensor, of_variance: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, mean, where, of_variance)
        count = x[0].numel() // x.shape[2]
        slope = of_variance * (2 / count)
        if where.numel():
            spread = unpool(of_y.flatten(0, 1), where, x.shape[-2:]).unflatten(0, x.shape[:2])
        else:
            spread = of_y.clone()
        return spread.addcmul_(x, over(slope, x)).add_(over(of_mean / count - mean * slope, x))

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, where, of_variance = ctx.saved_tensors
        count, dims = x[0].numel() // x.shape[2], _dims(x)
        slope = of_variance * (2 / count)
        average = h.mean(dims)
        centered = h - over(average, x)
        of_variance = 2 * ((x - over(mean, x)) * centered).mean(dims)
        of_y = pick(h.flatten(0, 1), where).unflatten(0, h.shape[:2]) if where.numel() else h
        return centered * over(slope, x), None, None, of_y, average, of_variance


class _ScaleShiftRelu(Function):
    """(x, scale, shift) -> max(x * scale + shift, 0), block by block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        y = torch.empty_like(x)
        for tasks, examples in blocks(x.shape):
            part = x[tasks, examples]
            torch.addcmul(over(shift[tasks], part), part, over(scale[tasks], part), out=y[tasks, examples]).relu_()
        ctx.save_for_backward(x, scale, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        x, scale, y = ctx.saved_tensors
        return _ScaleShiftReluGradient.apply(g, x, scale, y.detach())


class _ScaleShiftReluGradient(Function):
    """(g, x, scale) -> the gradients at x, scale and shift; y > 0 says where g passes."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, scale: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(g, x, scale, y)
        of_x, (of_scale, of_shift) = torch.empty_like(x), scale.new_zeros(2, *scale.shape)
        for tasks, examples in blocks(x.shape):
            passed = torch.ops.aten.threshold_backward(g[tasks, examples], y[tasks, examples], 0)
            torch.mul(passed, over(scale[tasks], passed), out=of_x[tasks, examples])
            of_shift[tasks] += passed.sum(_dims(passed))
            of_scale[tasks] += passed.mul_(x[tasks, examples]).sum(_dims(passed))
        return of_x, of_scale, of_shift

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, of_scale: Tensor, of_shift: Tensor) -> tuple[Tensor | None, ...]:
        g, x, scale, y = ctx.saved_tensors
        passes = y > 0
        passed, of_x = g * passes, of_x * passes
        of_g = of_x * over(scale, x) + (x * over(of_scale, x) + over(of_shift, x)) * passes
        return of_g, passed * over(of_scale, x), (passed * of_x).sum(_dims(x)), None
