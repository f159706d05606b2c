"""Table 1 of paper 000: what the decoder is worth. Four networks, meta-trained alike."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from mlkit.augmentation import Augmentation
from mlkit.chapters.encoders import encoder_weights
from mlkit.chapters.pairs import gain
from mlkit.experiment import Experiment, run
from mlkit.learners import Displacement
from mlkit.models import EfficientLab
from mlkit.outer import Execution, OuterLoop, linear
from mlkit.papers import row
from mlkit.records import Unit
from mlkit.segmentation_losses import IOU, segmentation_loss
from mlkit.stored import Record
from mlkit.tasks.segmentation import SegmentationSpec

BASE = "RSD 3"
RULES = 1  # grows with every change of a rule, so that a stored verdict is decided anew
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class Architecture(NamedTuple):
    """A row of table 1: its id in the papers' tables, and the options of `EfficientLab` that make it."""

    row: str
    options: Mapping[str, str]


ARCHITECTURES = {
    "Auto-DeepLab": Architecture("000/T1/Auto-DeepLab-decoder", {"decoder": "auto_deeplab"}),
    "RSD 3, no residual": Architecture("000/T1/RSD-at-Stage-3-without-residual", {"decoder": "rsd_no_residual"}),
    BASE: Architecture("000/T1/RSD-at-Stage-3", {}),
    "RSD 6-3": Architecture("000/T1/RSD-at-Stages-6-3", {"variant": "6-3"}),
}


def execution(parameters: Any) -> Execution:
    """Return how to compute, as the parameters say."""
    p = parameters
    return Execution(p.chunk_size, workers=p.workers, device=p.device, evaluation_chunk=p.chunk_size)


def experiment(name: str, parameters: Any) -> Experiment:
    """Return the meta-training of one architecture by FOMAML*, as the parameters of the chapter say.

    Raises:
        ValueError: an unknown architecture or optimizer.
    """
    p = parameters
    if name not in ARCHITECTURES:
        raise ValueError(f"expected architectures out of {', '.join(ARCHITECTURES)}; got {name!r}")
    start = {"width": p.width, "size": p.size, "iterations": p.pretraining}
    weights = encoder_weights(p.encoder, **start, execution=execution(p))
    model = EfficientLab(width=p.width, encoder_weights=weights, **ARCHITECTURES[name].options)
    learner = Displacement(
        model,
        "fomaml_star",
        p.inner_lr,
        p.inner_steps,
        batch_size=p.batch_size,
        loss=segmentation_loss,
        augment=Augmentation(p.augmentation),
        l2=p.l2,
    )
    return Experiment(
        learner,
        SegmentationSpec(p.data, p.shots, p.query, p.size, train_shots=5, train_query=5),
        outer_loop(parameters),
        IOU,
        p.seeds,
        validation_tasks=p.validation_tasks,
        test_tasks=p.test_tasks,
        tracked_test_tasks=p.watched_tasks,
    )


def outer_loop(parameters: Any) -> OuterLoop:
    """Return the outer loop: a meta step size that falls linearly to a ten-thousandth.

    Raises:
        ValueError: an unknown optimizer.
    """
    p = parameters
    if p.optimizer not in OPTIMIZERS:
        raise ValueError(f"expected an optimizer out of {', '.join(OPTIMIZERS)}; got {p.optimizer!r}")
    optimizer = partial(OPTIMIZERS[p.optimizer], lr=p.meta_lr)
    schedule = linear(p.iterations, end=1e-4)
    return OuterLoop(p.iterations, p.meta_batch, optimizer, schedule, validate_every=p.validate_every)


def trainings(unit: Unit, parameters: Any) -> dict[str, Record]:
    """Return the record of every architecture of the parameters; compute those that are missing."""
    return {
        name: run(unit, f"fomaml-star-{_stem(name)}", experiment(name, parameters), execution(parameters))
        for name in parameters.architectures
    }


def answers(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Answer the rows of table 1: mean IoU in percent, and what each architecture is against RSD 3, EfficientLab-3.

    The comparison that the paper draws holds for a row if it lies on the same side of RSD 3 as in the paper, by
    more than the 95 % interval of the paired difference; for that row itself, if it holds for all others.
    """
    against = {name: gain(records[BASE], record) for name, record in records.items() if BASE in records}
    found = []
    for name, record in records.items():
        others = [other for other in against if other != BASE] if name == BASE else [name]
        told = [f"{other}: {against[other]}" for other in others if other in against]
        found.append(
            {
                "id": ARCHITECTURES[name].row,
                "value": 100 * record.scores["mean"],
                "ci95": 100 * record.scores["ci95"],
                "tasks": record.evidence["tasks"],
                "seeds": len(record.settings["seeds"]),
                "same_direction": bool(told) and all(_as_printed(other, against) for other in others),
                "note": "; ".join(told) + (f" against {BASE}" if told else ""),
            }
        )
    return found


def _as_printed(name: str, against: Mapping[str, Any]) -> bool:
    """Tell whether a row lies on the paper's side of RSD 3, surely."""
    printed = row(ARCHITECTURES[name].row).value - row(ARCHITECTURES[BASE].row).value
    difference = against[name]
    reach = difference.seeds.ci95 if difference.seeds.count > 1 else difference.tasks.ci95
    return difference.tasks.value * printed > 0 and abs(difference.tasks.value) > reach


def _stem(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")
