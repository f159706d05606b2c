"""Convolving before resizing is the same as after, its gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

from mlkit.models.resized import convolve_joined, convolve_resized
from mlkit.seeding import seeded


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded("resized", *shape), dtype=torch.float64, requires_grad=True)


def straight(x: torch.Tensor, weight: torch.Tensor, size: tuple[int, int], dilation: int = 1) -> torch.Tensor:
    large = F.interpolate(x, size, mode="bilinear", align_corners=True)
    return F.conv2d(large, weight, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)


@pytest.mark.parametrize("small", [(4, 5), (1, 1), (7, 9), (1, 3)])
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (3, 1), (3, 2)])
def test_it_is_the_convolution_of_the_resized_map_to_second_order(small, k, dilation):
    x, weight, size = drawn(2, 3, *small), drawn(4, 3, k, k), (7, 9)
    found = []
    for y in (straight(x, weight, size, dilation), convolve_resized(x, weight, size, dilation=dilation)):
        first = torch.autograd.grad(y.pow(3).sum(), [x, weight], create_graph=True)
        second = torch.autograd.grad(sum(gradient.pow(2).sum() for gradient in first), [x, weight])
        found.append([y, *first, *second])
    assert found[0][0].shape == (2, 4, 7, 9)
    for expected, other in zip(*found, strict=True):
        assert torch.allclose(other, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max()))


def test_it_can_be_mapped_over_tasks():
    x, weight = drawn(3, 2, 3, 4, 4), drawn(3, 5, 3, 3, 3)
    mapped = vmap(lambda x, weight: convolve_resized(x, weight, (8, 8), dilation=2))(x, weight)
    singly = [straight(*pair, (8, 8), 2) for pair in zip(x, weight, strict=True)]
    assert torch.allclose(mapped, torch.stack(singly), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_joined_parts_are_convolved_as_if_of_one_size(bias):
    convolution = nn.Conv2d(6, 4, 3, padding=2, dilation=2, bias=bias).double()
    large, small, pixel = drawn(2, 3, 8, 6), drawn(2, 2, 2, 3), drawn(2, 1, 1, 1)
    joined = [F.interpolate(part, (8, 6), mode="bilinear", align_corners=True) for part in (small, large, pixel)]
    expected = convolution(torch.cat(joined, 1))
    assert torch.allclose(convolve_joined(convolution, [small, large, pixel]), expected, rtol=0, atol=1e-12)
