"""Where the encoder of a chapter on segmentation starts from: ImageNet, a stand-in for it, or nowhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from mlkit.experiment import Experiment, run, weights_of
from mlkit.learners import Finetuning
from mlkit.losses import ACCURACY
from mlkit.models import EncoderClassifier, EncoderWeights, imagenet, pretrained
from mlkit.outer import Execution, OuterLoop
from mlkit.records import Unit
from mlkit.stored import Record
from mlkit.tasks.pretraining import PretrainingSpec

STORE = "encoders"  # beside the folders of the units, which share its records


def encoder_weights(
    start: str, *, width: float = 1.0, size: int = 64, iterations: int = 1000, execution: Execution | None = None
) -> EncoderWeights | None:
    """Return what a chapter's encoder starts from.

    | start | weights |
    |---|---|
    | random | none |
    | imagenet | those of the package, from the data root or by download; width 1 |
    | a file | those of a file of the package's format |
    | shapes, cifar_fs, or such names joined by + | a stand-in, trained to tell the training classes apart |

    Args:
        start: see the table.
        width: of the encoder.
        size: of the images that a stand-in learns from, in pixels.
        iterations: steps of its training.
        execution: how to compute it, where its record is missing.
    """
    if start == "random":
        return None
    if start == "imagenet":
        return imagenet()
    if Path(start).expanduser().is_file():
        return imagenet(start)
    record = stand_in(start, width=width, size=size, iterations=iterations, execution=execution)
    return pretrained(start, weights_of(record), key=record.key)


def stand_in(names: str, *, width: float, size: int, iterations: int, execution: Execution | None = None) -> Record:
    """Return the record of an encoder that learned to classify; compute it where it is missing."""
    experiment = pretraining(tuple(names.split("+")), width=width, size=size, iterations=iterations)
    name = f"{names.replace('+', '-').lower()}-{size}px-width-{width:g}"
    return run(Unit(STORE), name, experiment, execution)


def pretraining(names: tuple[str, ...], *, width: float, size: int, iterations: int) -> Experiment:
    """Return the supervised training of an encoder: Adam from 0.001, falling to 0 along a cosine, batches of 64."""
    data = PretrainingSpec(names, size)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=iterations)
    outer = OuterLoop(iterations, 1, schedule=cosine, validate_every=max(1, iterations // 10))
    learner = Finetuning(EncoderClassifier(5, width=width), data.classes, inner_lr=0.01, inner_steps=5)
    return Experiment(learner, data, outer, ACCURACY, [0], validation_tasks=0, test_tasks=100, keep_weights=True)
