"""Losses and score of image segmentation (paper 000, section 4): logits and masks in, one number a task out.

Logits are (tasks, examples, channels, height, width), channel 0 is the background. Masks of a few-shot task are
(tasks, examples, height, width) in [0, 1], the share of each pixel that is foreground; masks of joint training are
int64, 0 for the background and c + 1 for training class c.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.losses import Metric

EPS = 1e-7  # of every intersection over union: two empty masks agree


def segmentation_loss(outputs: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy minus the log of the modified Dice score, by which paper 000 adapts and meta-learns.

    $$L = H - \ln J,\quad J = \frac{2\,\mathrm{IoU}}{\mathrm{IoU} + 1}$$ (eqs 13-15), H the mean binary cross-entropy of
    all pixels. As in the paper's code, and not as in its eq 16, IoU is that of each image, a ratio of sums over its
    pixels, averaged over the images. The third term, L2, is the learner's.

    Args:
        outputs: logits (tasks, examples, 2, height, width).
        y: masks (tasks, examples, height, width) in [0, 1].

    Returns:
        Losses (tasks,).

    Example:
        >>> mask = torch.ones(1, 1, 4, 4)
        >>> float(segmentation_loss(torch.stack([-9 * mask, 9 * mask], 2), mask)) < 0.001
        True
    """
    margin = _margin(outputs)
    foreground = torch.sigmoid(margin)
    both, either = _overlap(foreground, y)
    return _cross_entropy(margin, y) - _log_dice(_ratio(both.sum((-2, -1)), either.sum((-2, -1))).mean(1))


def segmentation_loss_as_printed(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the same loss with IoU as printed in eq 16 of paper 000: a ratio for each pixel, averaged over all pixels.

    Where soft predictions agree with empty background the printed ratio is far below 1. The arguments are those of
    `segmentation_loss`.
    """
    margin = _margin(outputs)
    ratios = _ratio(*_overlap(torch.sigmoid(margin), y))
    return _cross_entropy(margin, y) - _log_dice(ratios.flatten(1).mean(1))


def joint_segmentation_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the loss of joint training: `segmentation_loss` of many classes, all channels in one IoU an image.

    Args:
        outputs: logits (tasks, examples, classes + 1, height, width).
        y: int64 masks (tasks, examples, height, width); 0 is the background, c + 1 is class c.
    """
    losses = F.cross_entropy(outputs.flatten(0, 1), y.flatten(0, 1), reduction="none").unflatten(0, y.shape[:2])
    right, pixels = losses.neg().exp().sum((-2, -1)), y.shape[-1] * y.shape[-2]
    return losses.flatten(1).mean(1) - _log_dice(_ratio(right, 2 * pixels - right).mean(1))


def intersection_over_union(outputs: Tensor, y: Tensor) -> Tensor:
    """Return |A and B| / |A or B|, A where the target is likelier than not, B the mask, averaged over a task's images.

    Soft masks are rounded half to even; two empty masks score 1 (paper 000's code). The arguments are those of
    `segmentation_loss`; those of `joint_segmentation_loss` give the form over all channels, background included.
    """
    if y.is_floating_point():
        predicted, true = _margin(outputs) > 0, y.round() > 0.5
        both, either = (predicted & true).sum((-2, -1)), (predicted | true).sum((-2, -1))
    else:
        both = (outputs.argmax(-3) == y).sum((-2, -1))
        either = 2 * y.shape[-1] * y.shape[-2] - both
    return _ratio(both.to(outputs.dtype), either.to(outputs.dtype)).mean(1)


IOU = Metric("iou", intersection_over_union, higher_is_better=True)


def _margin(outputs: Tensor) -> Tensor:
    """By how much the target's logit exceeds the background's: softmax over the two is the sigmoid of it."""
    return outputs[..., 1, :, :] - outputs[..., 0, :, :]


def _cross_entropy(margin: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(margin, y, reduction="none").flatten(1).mean(1)


def _overlap(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    both = p * y
    return both, p + y - both


def _ratio(both: Tensor, either: Tensor) -> Tensor:
    return (both + EPS) / (either + EPS)


def _log_dice(iou: Tensor) -> Tensor:
    return (2 * iou / (iou + 1)).log()
