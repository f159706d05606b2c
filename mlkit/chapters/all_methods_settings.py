"""Every method of the book on the same tasks: the columns of settings, the methods, what is measured of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mlkit.chapters.columns import settings_of

DESCENT = ("MAML", "FOMAML", "ANIL", "Meta-SGD", "Reptile", "regularized MAML")  # adapt by gradient descent
FROZEN = ("finetuning", "Baseline++")  # train a new head on a body that stays as it is
SCRATCH = "from scratch"
METHODS = (*DESCENT, "LSTM", "TURTLE", "LEO", *FROZEN, SCRATCH)
COLUMNS = {  # name of a parameter: the field of a setting that one of its entries is
    "data": "data",
    "shots": "shots",
    "networks": "network",
    "inner_lrs": "inner_lr",
    "training_tasks": "training_tasks",
    "meta_batches": "meta_batch",
    "lstm_steps": "lstm_steps",
}


@dataclass(frozen=True)
class Setting:
    """Data and shots, the network that all methods share, and the budget: how many tasks each of them learns from."""

    data: str
    shots: int
    network: str
    inner_lr: float
    training_tasks: int
    meta_batch: int
    lstm_steps: int

    def __str__(self) -> str:
        return f"{Path(self.data).name}, {self.shots}-shot"

    def stem(self, method: str) -> str:
        """Name the record of a method."""
        return re.sub("[^a-z0-9]+", "-", f"{method} {self}".lower().replace("++", " plus")).strip("-")


def settings(parameters: Any) -> list[Setting]:
    """Return one setting for each entry of the columns `data`, `shots`, ... of the parameters cell.

    Raises:
        ValueError: the columns differ in length.
    """
    return settings_of(parameters, COLUMNS, Setting)


class Measure(NamedTuple):
    """A column of the table: title, what it says, whether more is better (None: neither), whether it is a cost."""

    title: str
    says: str
    more_is_better: bool | None
    is_cost: bool = False


MEASURES = {
    "accuracy": Measure("accuracy (%)", "on frozen tasks of new classes, the same for every method", True),
    "training": Measure("training (s)", "of a run, without validation; of LEO with its features", False, True),
    "at_equal_time": Measure("at equal time (%)", "best validation accuracy when the quickest method is done", True),
    "iteration": Measure("meta-iteration (ms)", "one outer step, with the number of its tasks", False, True),
    "memory": Measure("memory (MiB)", "the most that tensors held in a meta-iteration, above the start", False, True),
    "adapting": Measure("adapting (ms)", "to one new task, alone", False, True),
    "gradient_product": Measure("gradient product", "mean inner product of the gradients of two test tasks", None),
    "gradient_cosine": Measure("gradient cosine", "likewise, of their directions", None),
    "trajectory_cosine": Measure("trajectory cosine", "mean cosine of the ways that two tasks go", None),
    "curvature": Measure("curvature", "mean spectral norm of the Hessian at the adapted weights", None),
}
LANDSCAPE = ("gradient_product", "gradient_cosine", "trajectory_cosine", "curvature")

_NO_TRAINING = "nothing is learned before a task comes"
_OWN_HEADS = "every task starts from a random head of its own: there is no common point where tasks could agree"
_OWN_CODES = "every task starts from a classifier decoded from its own examples: there is no common point"
_FROZEN = (
    "the body is frozen, and normalized by running averages that a support loss in training does not see: "
    "the loss that the other rows bend is none that this method walks on"
)
_DECODED = "only a linear classifier of features is left to bend: other coordinates, on which curvature depends"
WITHOUT: dict[str, dict[str, str]] = {  # measure: the methods it means nothing for, and why
    **{name: {SCRATCH: _NO_TRAINING} for name in ("at_equal_time", "iteration", "memory")},
    **{name: {"LEO": _OWN_CODES, **dict.fromkeys(FROZEN, _OWN_HEADS)} for name in LANDSCAPE[:3]},
    "curvature": {"LEO": _DECODED, **dict.fromkeys(FROZEN, _FROZEN)},
}
