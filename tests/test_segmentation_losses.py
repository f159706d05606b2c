"""The loss and the score of segmentation against their formulas, a pixel at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mlkit.seeding import seeded
from mlkit.segmentation_losses import (
    EPS,
    IOU,
    joint_segmentation_loss,
    segmentation_loss,
    segmentation_loss_as_printed,
)


def drawn(tasks: int = 2, examples: int = 3, size: int = 4, channels: int = 2) -> tuple[Tensor, Tensor]:
    generator = seeded("masks", tasks, examples)
    outputs = torch.randn(tasks, examples, channels, size, size, generator=generator, dtype=torch.float64)
    return outputs, torch.rand(tasks, examples, size, size, generator=generator, dtype=torch.float64)


def by_pixels(outputs: Tensor, y: Tensor, *, printed: bool) -> float:
    """Equations 13-16 of paper 000 for one task, in plain Python; eq 16 as in its code, or as printed."""
    entropies, ious = [], []
    for image, mask in zip(outputs, y, strict=True):
        p, t = image.softmax(0)[1].flatten().tolist(), mask.flatten().tolist()
        entropies += [-t_ * math.log(p_) - (1 - t_) * math.log(1 - p_) for p_, t_ in zip(p, t, strict=True)]
        both, either = (
            [p_ * t_ for p_, t_ in zip(p, t, strict=True)],
            [p_ + t_ - p_ * t_ for p_, t_ in zip(p, t, strict=True)],
        )
        if printed:
            ious += [(b + EPS) / (e + EPS) for b, e in zip(both, either, strict=True)]
        else:
            ious.append((sum(both) + EPS) / (sum(either) + EPS))
    iou = sum(ious) / len(ious)
    return sum(entropies) / len(entropies) - math.log(2 * iou / (iou + 1))


@pytest.mark.parametrize(("loss", "printed"), [(segmentation_loss, False), (segmentation_loss_as_printed, True)])
def test_the_loss_is_its_formula(loss, printed):
    outputs, y = drawn()
    expected = [by_pixels(*task, printed=printed) for task in zip(outputs, y, strict=True)]
    assert loss(outputs, y).tolist() == pytest.approx(expected, rel=1e-12)


def test_both_forms_agree_on_single_hard_pixels():
    y = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64).view(4, 1, 1, 1)
    outputs = torch.tensor([30.0, -30.0, -30.0, 30.0], dtype=torch.float64).view(4, 1, 1, 1, 1) * torch.tensor(
        [-0.5, 0.5], dtype=torch.float64
    ).view(1, 1, 2, 1, 1)
    coded, printed = segmentation_loss(outputs, y), segmentation_loss_as_printed(outputs, y)
    assert torch.allclose(coded, printed, rtol=1e-12)
    assert (coded[:2] < 1e-5).all() and (coded[2:] > 30).all()


def test_the_gradient_of_the_soft_iou_term():
    """d(-ln J) / d IoU = -1 / (IoU (IoU + 1)); IoU moves with a pixel's p by its ratio of sums."""
    outputs, y = drawn(1, 1)
    margin = (outputs[:, :, 1] - outputs[:, :, 0]).requires_grad_()
    logits = torch.stack([torch.zeros_like(margin), margin], 2)
    found = torch.autograd.grad(segmentation_loss(logits, y).sum(), margin)[0]
    p = margin.detach().sigmoid()
    both, either = (p * y).sum() + EPS, (p + y - p * y).sum() + EPS
    iou = both / either
    of_iou = -1 / (iou * (iou + 1))
    of_p = y / either - both / either**2 * (1 - y)
    assert torch.allclose(found, (p - y) / y.numel() + of_iou * of_p * p * (1 - p), rtol=1e-10, atol=1e-14)


def test_with_one_class_the_joint_loss_is_the_cross_entropy_and_an_iou_over_both_channels():
    outputs, soft = drawn()
    y = soft.round().long()
    p = outputs.softmax(2)
    right = torch.where(y == 1, p[:, :, 1], p[:, :, 0])
    one_hot = torch.stack([1 - y, y], 2)
    both = (p * one_hot).sum((2, 3, 4)) + EPS
    either = (p + one_hot - p * one_hot).sum((2, 3, 4)) + EPS
    iou = (both / either).mean(1)
    expected = -right.log().mean((1, 2, 3)) - torch.log(2 * iou / (iou + 1))
    assert torch.allclose(joint_segmentation_loss(outputs, y), expected, rtol=1e-12)


def test_the_loss_of_an_image_without_foreground_is_finite():
    outputs, y = drawn(1, 1)
    logits = (outputs * 100).requires_grad_()
    loss = segmentation_loss(logits, torch.zeros_like(y)).sum()
    assert loss.isfinite() and torch.autograd.grad(loss, logits)[0].isfinite().all()


@pytest.mark.parametrize(
    ("margins", "mask", "score"),
    [
        ([1, 1, -1, -1], [1, 0, 1, 0], 1 / 3),
        ([-1, -1, -1, -1], [0, 0, 0, 0], 1.0),  # nothing there, nothing found
        ([-1, -1, -1, 1], [0, 0, 0, 0], 0.0),
        ([0, 1, -1, -1], [1, 1, 0, 0], 1 / 2),  # as likely as not is not found
        ([1, 1, -1, -1], [0.5, 0.6, 0.4, 0.5], 1 / 2),  # one half rounds to even, to 0
    ],
)
def test_iou_of_an_image(margins, mask, score):
    margin = torch.tensor(margins, dtype=torch.float64).view(1, 1, 2, 2)
    outputs = torch.stack([-margin / 2, margin / 2], 2)
    y = torch.tensor(mask, dtype=torch.float64).view(1, 1, 2, 2)
    assert float(IOU.score(outputs, y)) == pytest.approx(score, abs=1e-6)


def test_iou_of_a_task_is_the_mean_over_its_images():
    outputs, y = drawn(2, 5)
    single = torch.stack([IOU.score(outputs[:, i : i + 1], y[:, i : i + 1]) for i in range(5)])
    assert torch.allclose(IOU.score(outputs, y), single.mean(0))
    assert IOU.better(torch.tensor(0.6), torch.tensor(0.5))


def test_iou_of_joint_training_counts_every_channel():
    outputs, _ = drawn(1, 1, channels=3)
    best = outputs.argmax(2)
    wrong = best.clone()
    wrong[..., 0, :] = (wrong[..., 0, :] + 1) % 3
    assert float(IOU.score(outputs, best)) == pytest.approx(1)
    assert float(IOU.score(outputs, wrong)) == pytest.approx(12 / 20)
