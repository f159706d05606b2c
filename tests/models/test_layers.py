"""Stacked weights give what a loop over the tasks gives: values, gradients, gradients of gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from mlkit.models import blocks, stacked
from mlkit.models.layers import Conv2d, Linear, batch_norm, max_pool, normalize
from mlkit.seeding import seeded

TASKS, EXAMPLES = 3, 4


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=seeded("layers", name, *shape), dtype=torch.float64)


def layer_cases() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    return {
        "linear": (Linear(5, 3), (5,)),
        "linear without bias": (Linear(5, 3, bias=False), (5,)),
        "one channel": (Conv2d(1, 4, 3, padding=1), (1, 6, 7)),
        "one channel, stride 2": (Conv2d(1, 4, 3, stride=2, padding=1), (1, 7, 6)),
        "three channels": (Conv2d(3, 4, 3, padding=1), (3, 6, 7)),
        "no padding": (Conv2d(3, 4, 3), (3, 6, 7)),
        "stride 2, no bias": (Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (3, 6, 7)),
    }


def derivatives(function, inputs: list[Tensor], order: int = 3) -> list[Tensor]:
    """Values, gradients, gradients of a nonlinear function of the gradients, and so on."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    found, now = [], [function(*inputs)]
    for _ in range(order):
        found += now
        now = torch.autograd.grad(sum(tensor.sin().sum() for tensor in now), inputs, create_graph=True)
    return [*found, *now]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() <= 1e-12 * (1 + b.norm())


@pytest.mark.parametrize("case", layer_cases())
def test_stacked_layer_equals_the_loop_over_tasks(case: str) -> None:
    layer, shape = layer_cases()[case]
    weights = {name: normal(TASKS, *p.shape, name=name) for name, p in layer.named_parameters()}

    def at_once(x: Tensor, *tensors: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(weights, tensors, strict=True)), (x,))

    def one_by_one(x: Tensor, *tensors: Tensor) -> Tensor:
        return torch.stack([at_once(*task) for task in zip(x, *tensors, strict=True)])

    inputs = [normal(TASKS, EXAMPLES, *shape), *weights.values()]
    assert_same(derivatives(at_once, inputs), derivatives(one_by_one, inputs))


def reference(x: Tensor, weight: Tensor, bias: Tensor, *, pool: bool) -> Tensor:
    """Batch norm, then the pool, of one task, by definition. (torch's own is wrong from the third derivative on.)"""
    over = (1, -1, *(1,) * (x.dim() - 2))
    axes = (0, *range(2, x.dim()))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    y = (x - mean) / (variance + 1e-5).sqrt() * weight.view(over) + bias.view(over)
    return F.max_pool2d(y, 2) if pool else y


@pytest.mark.parametrize("signs", ["positive", "mixed"])
@pytest.mark.parametrize(
    ("shape", "pool"), [((5,), False), ((5, 4, 7), False), ((5, 4, 7), True)], ids=["features", "images", "pooled"]
)
def test_stacked_batch_norm_equals_the_definition_task_by_task(shape: tuple[int, ...], pool: bool, signs: str) -> None:
    weight = normal(TASKS, 5, name="gamma")
    weight = weight.abs() + 0.1 if signs == "positive" else weight
    inputs = [normal(TASKS, EXAMPLES, *shape), weight, normal(TASKS, 5, name="beta")]

    def at_once(*tensors: Tensor) -> Tensor:
        return batch_norm(*tensors, pool=pool)[0]

    def one_by_one(*tensors: Tensor) -> Tensor:
        return torch.stack([reference(*task, pool=pool) for task in zip(*tensors, strict=True)])

    assert_same(derivatives(at_once, inputs), derivatives(one_by_one, inputs))


@pytest.mark.parametrize("pool", [False, True], ids=["whole", "pooled"])
def test_plain_batch_norm_equals_torch(pool: bool) -> None:
    inputs = [normal(EXAMPLES, 5, 4, 6), normal(5, name="gamma"), normal(5, name="beta")]

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.batch_norm(x, None, None, weight, bias, training=True)
        return F.max_pool2d(y, 2) if pool else y

    ours = derivatives(lambda *tensors: batch_norm(*tensors, pool=pool)[0], inputs, order=2)
    assert_same(ours, derivatives(torchs, inputs, order=2))


@pytest.mark.parametrize("pool", [False, True], ids=["whole", "pooled"])
def test_statistics_are_differentiable_to_second_order(pool: bool) -> None:
    weight, bias = torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)

    def statistics(x: Tensor) -> tuple[Tensor, ...]:
        return batch_norm(x, weight, bias, pool=pool)

    x = normal(2, 3, 3, 4, 2).requires_grad_()
    assert gradcheck(statistics, x)
    assert gradgradcheck(statistics, x)


def test_statistics_are_biased_and_belong_to_one_task() -> None:
    x = normal(TASKS, EXAMPLES, 5, 4, 6)
    _, mean, variance = batch_norm(x, torch.ones(TASKS, 5), torch.zeros(TASKS, 5))
    assert torch.allclose(mean, x.mean((1, 3, 4)))
    assert torch.allclose(variance, x.var((1, 3, 4), correction=0))


def test_variance_stays_accurate_in_float32_far_from_zero() -> None:
    x = (100 + normal(2, 40, 64, 28, 28)).float()  # more than one block
    _, mean, variance = batch_norm(x, torch.ones(2, 64), torch.zeros(2, 64))
    exact = x.double()
    assert torch.allclose(mean.double(), exact.mean((1, 3, 4)), rtol=1e-6)
    assert torch.allclose(variance.double(), exact.var((1, 3, 4), correction=0), rtol=1e-5)


@pytest.mark.parametrize("pool", [False, True], ids=["whole", "pooled"])
@pytest.mark.parametrize("size", [2**18, 64], ids=["one block", "many blocks"])
def test_a_first_convolution_is_the_convolution_then_its_summary(
    pool: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SIZE", size)
    x, weight = normal(2, 5, 2, 5, 7), normal(2, 3, 2, 3, 3, name="weight").requires_grad_()

    def direct(w: Tensor) -> tuple[Tensor, ...]:
        return stacked.summarize_convolution(x, w, (1, 1), (1, 1), pool=pool)

    z = torch.stack([F.conv2d(*task, None, 1, 1) for task in zip(x, weight, strict=True)])
    expected = max_pool(z) if pool else z, z.mean((1, 3, 4)), z.var((1, 3, 4), correction=0)
    for actual, exact in zip(direct(weight), expected, strict=True):
        assert torch.allclose(actual, exact, rtol=1e-10, atol=1e-12)
    assert gradcheck(direct, weight)
    assert gradgradcheck(direct, weight)


def test_statistics_of_a_first_convolution_stay_accurate_in_float32_far_from_zero() -> None:
    x, weight = (100 + normal(2, 5, 1, 28, 28)).float(), normal(2, 8, 1, 3, 3, name="weight").float()
    _, mean, variance = stacked.summarize_convolution(x, weight, (1, 1), (0, 0), pool=True)
    z = torch.stack([F.conv2d(*task) for task in zip(x.double(), weight.double(), strict=True)])
    assert torch.allclose(mean.double(), z.mean((1, 3, 4)), rtol=1e-5)
    assert torch.allclose(variance.double(), z.var((1, 3, 4), correction=0), rtol=1e-5)


@pytest.mark.parametrize("size", [2**18, 64], ids=["one block", "many blocks"])
def test_scale_shift_relu_is_differentiable_to_second_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SIZE", size)
    x, scale, shift = (normal(*shape, name=str(shape)).requires_grad_() for shape in ((2, 5, 3, 3, 2), (2, 3), (2, 3)))
    assert torch.equal(
        stacked.scale_shift_relu(x, scale, shift),
        torch.relu(torch.addcmul(stacked.over(shift, x), x, stacked.over(scale, x))),
    )
    assert gradcheck(stacked.scale_shift_relu, (x, scale, shift))
    assert gradgradcheck(stacked.scale_shift_relu, (x, scale, shift))


@pytest.mark.parametrize("signs", ["positive", "mixed"])
def test_normalize_by_own_statistics_is_batch_norm(signs: str) -> None:
    x, weight, bias = normal(TASKS, EXAMPLES, 5, 4, 6), normal(TASKS, 5, name="gamma"), normal(TASKS, 5, name="beta")
    weight = weight.abs() + 0.1 if signs == "positive" else weight
    y, mean, variance = batch_norm(x, weight, bias, pool=True)
    assert torch.allclose(normalize(x, mean, variance, weight, bias, pool=True), y, atol=1e-12)


def test_of_equal_numbers_the_first_in_reading_order_takes_the_gradient() -> None:
    x = torch.ones(1, 1, 1, 2, 4, dtype=torch.float64)
    x[0, 0, 0, 0, 0] = 0  # the window on the left has three equal maxima, that on the right four
    inputs = [x, torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)]
    one = [tensor[0] for tensor in inputs]
    expected = derivatives(lambda *tensors: reference(*tensors, pool=True), one)
    actual = derivatives(lambda *tensors: batch_norm(*tensors, pool=True)[0], inputs)
    assert_same([tensor[0] for tensor in actual], expected)


def test_max_pool_keeps_leading_axes_and_drops_odd_borders() -> None:
    x = normal(2, 3, 4, 5, 7)
    assert torch.equal(max_pool(x), torch.stack([F.max_pool2d(task, 2) for task in x]))


def test_the_grouped_convolution_of_accelerators_equals_the_loop() -> None:
    x, weight = normal(TASKS, EXAMPLES, 3, 6, 7), normal(TASKS, 4, 3, 3, 3, name="weight")
    how = (2, 2), (1, 1)
    expected = derivatives(lambda x, weight: stacked.conv2d(x, weight, *how), [x, weight])
    assert_same(derivatives(lambda x, weight: stacked._grouped(x, weight, *how), [x, weight]), expected)


def test_images_stay_channels_last_through_forward_and_backward() -> None:
    x, weight = normal(2, 3, 4, 6, 6).requires_grad_(), normal(2, 5, 4, 3, 3, name="weight")
    y = stacked.conv2d(x, weight, (1, 1), (1, 1))
    z, *_ = batch_norm(y, torch.ones(2, 5, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64), pool=True)
    (g,) = torch.autograd.grad(z.sum(), x)
    assert all(tensor.stride(2) == 1 for tensor in (y, z, g))
