"""Batch normalization and swish in few passes: the formula, its gradients to second order, and no digit lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from efficientnet_pytorch import EfficientNet
from torch import Tensor

from mlkit.models import fused
from mlkit.models.encoder import MBConv, Stem, pointwise
from mlkit.models.noise import DropConnect
from mlkit.models.normalization import BatchNorm, set_phase
from mlkit.seeding import seeded

EPS = 1e-3


def drawn(*shape: int, last: bool = True, seed: int = 0, dtype=torch.float64) -> Tensor:
    x = torch.randn(*shape, generator=seeded("fused", seed), dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x


def formula(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, swish: bool) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean((0, 2, 3))
    offset = x - mean[:, None, None]
    variance = offset.square().mean((0, 2, 3))
    y = offset * torch.rsqrt(variance + eps)[:, None, None] * weight[:, None, None] + bias[:, None, None]
    return F.silu(y) if swish else y, mean, variance


def inputs(shape, *, last: bool = True, dtype=torch.float64) -> list[Tensor]:
    x = drawn(*shape, last=last, dtype=dtype) * 2 + 3
    gamma, beta = (drawn(shape[1], seed=seed, dtype=dtype) for seed in (1, 2))
    return [tensor.detach().requires_grad_() for tensor in (x, gamma, beta)]


def close(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("swish", [True, False])
@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("shape", [(8, 5, 16, 16), (3, 4, 13, 21), (2, 3, 4, 4)])
def test_it_is_the_formula_to_second_order(shape, last, swish):
    given, found, twice = inputs(shape, last=last), [], []
    cotangents = [drawn(*shape, seed=3), *(drawn(*tensor.shape, seed=4) for tensor in given)]
    for function in (fused.batch_norm, formula):
        y, mean, variance = function(*given, EPS, swish=swish)
        first = torch.autograd.grad(y, given, cotangents[0], retain_graph=True)
        graph = torch.autograd.grad(y, given, cotangents[0], create_graph=True)
        close(first, graph)
        found.append([y, mean, variance, *first])
        pushed = sum((g * c).sum() for g, c in zip(graph, cotangents[1:], strict=True))
        twice.append(torch.autograd.grad(pushed, given, allow_unused=True, materialize_grads=True))
    close(*found)
    close(*twice)
    assert not found[0][1].requires_grad and not found[0][2].requires_grad


def test_only_what_is_asked_for_has_a_gradient():
    x, gamma, beta = inputs((8, 5, 16, 16))
    y, *_ = fused.batch_norm(x, gamma.detach(), beta, EPS, swish=True)
    expected, *_ = formula(x, gamma.detach(), beta, EPS, swish=True)
    close(*(torch.autograd.grad(tensor.square().sum(), (x, beta)) for tensor in (y, expected)))


def test_tasks_at_once_are_tasks_one_by_one():
    tasks = [inputs((4, 3, 16, 16)), [tensor.detach() * 1.5 for tensor in inputs((4, 3, 16, 16))]]
    stacked = [torch.stack(tensors).detach().requires_grad_() for tensors in zip(*tasks, strict=True)]
    together = torch.vmap(lambda *one: fused.batch_norm(*one, EPS, swish=True))(*stacked)
    alone = [torch.stack(parts) for parts in zip(*(formula(*one, EPS, swish=True) for one in tasks), strict=True)]
    close(together, alone)
    slopes = torch.autograd.grad(together[0].square().sum(), stacked)
    for index, one in enumerate(tasks):
        own = [tensor.detach().requires_grad_() for tensor in one]
        close(
            [slope[index] for slope in slopes],
            torch.autograd.grad(formula(*own, EPS, swish=True)[0].square().sum(), own),
        )


def test_single_precision_is_as_exact_as_torch_with_channels_first():
    shape, found = (8, 16, 64, 64), {}
    start, slope = inputs(shape, dtype=torch.float32), drawn(*shape, seed=3, dtype=torch.float32)

    def results(function, given, slope) -> list[Tensor]:
        y = function(*given)[0]
        return [y.detach().double(), *(g.double() for g in torch.autograd.grad(y, given, slope))]

    exact = [tensor.detach().double().requires_grad_() for tensor in start]
    truth = results(lambda *given: formula(*given, EPS, swish=True), exact, slope.double())
    found["ours"] = results(lambda *given: fused.batch_norm(*given, EPS, swish=True), start, slope)
    first = [start[0].detach().contiguous().requires_grad_(), *start[1:]]
    found["torch"] = results(lambda *given: fused._ordinary(*given, EPS, True), first, slope)
    errors = {
        name: [float((a - b).norm() / b.norm()) for a, b in zip(r, truth, strict=True)] for name, r in found.items()
    }
    for ours, theirs in zip(errors["ours"], errors["torch"], strict=True):
        assert ours < 3 * theirs + 1e-7


@pytest.mark.parametrize("policy", ["running", "transductive", "support"])
@pytest.mark.parametrize("phase", ["adapt", "learn", "predict"])
def test_swish_follows_whatever_the_statistics_are(policy, phase):
    layers = [BatchNorm(5, policy).double() for _ in range(2)]
    x = drawn(8, 5, 16, 16)
    for layer in layers:
        set_phase(layer, phase)
    close([layers[0](x, swish=True)], [F.silu(layers[1](x))])
    close(dict(layers[0].named_buffers()).values(), dict(layers[1].named_buffers()).values())


def test_running_averages_are_those_of_torch():
    ours, theirs = BatchNorm(5, "running", momentum=0.1).double(), torch.nn.BatchNorm2d(5).double()
    for seed in range(3):
        x = drawn(8, 5, 16, 16, seed=seed)
        ours(x)
        theirs(x)
    biased = (theirs.running_var - 0.9**3) * (8 * 256 - 1) / (8 * 256) + 0.9**3
    close([ours.mean, ours.variance], [theirs.running_mean, biased])


@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_block_is_the_packages(index):
    theirs = EfficientNet.from_name("efficientnet-b0", image_size=None, width_coefficient=0.25).double()._blocks[index]
    theirs.set_swish(memory_efficient=False)
    ours = MBConv(theirs)
    x = drawn(3, theirs._block_args.input_filters, 16, 16).requires_grad_()
    found = []
    for block in (lambda: theirs(x), lambda: ours(x, DropConnect(0.0)) if ours.skips else ours(x)):
        y = block()
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *theirs.parameters()])])
    assert (ours.skips, ours.keeps_shape) == {0: (False, True), 1: (False, False), 4: (True, True)}[index]
    close(*found)


def test_a_convolution_of_one_pixel_is_a_product_of_matrices():
    convolution, x = torch.nn.Conv2d(6, 4, 1).double(), drawn(2, 6, 5, 7)
    close([pointwise(convolution, x)], [convolution(x)])


def test_a_stem_is_its_layers_in_a_row():
    convolution, norm = torch.nn.Conv2d(3, 4, 3).double(), torch.nn.GroupNorm(2, 4).double()
    x = drawn(2, 3, 8, 8)
    close([Stem(convolution, norm)(x)], [F.silu(norm(convolution(x)))])
