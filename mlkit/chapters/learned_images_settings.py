"""Paper 002 on images: the columns and rows of its tables, as the parameters cell of the chapter names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.chapters.columns import settings_of

METHODS = {  # rows of table 3.1: what the paper calls them, as ids have it
    "from scratch": "TrainFromScratch",
    "finetuning": "Finetuning",
    "Baseline++": "Baseline++",
    "LSTM": "Meta-learner-LSTM",
    "LSTM (enhanced)": "Meta-learner-LSTM-enhanced",
    "FOMAML": "FO-MAML",
    "MAML": "MAML",
    "TURTLE (first order)": "First-order-TURTLE",
    "TURTLE": "TURTLE",
}
TRANSFER, DESCENT = ("from scratch", "finetuning", "Baseline++"), ("FOMAML", "MAML")
RULES = ("LSTM", "LSTM (enhanced)", "TURTLE (first order)", "TURTLE")  # whose update is learned
OWN = ("mini_imagenet", "cub", "cub_100_50_50")  # the paper's data
COLUMNS = {  # name of a parameter: the field of a setting that one of its entries is
    "data": "data",
    "elsewhere": "elsewhere",
    "shots": "shots",
    "networks": "network",
    "training_tasks": "training_tasks",
    "meta_batches": "meta_batch",
    "lstm_steps": "lstm_steps",
    "watched_tasks": "watched_tasks",
}


@dataclass(frozen=True)
class Setting:
    """A column of table 3.1, with the other data of table 3.4 that the same networks are tested on."""

    data: str
    elsewhere: str
    shots: int
    network: str
    training_tasks: int
    meta_batch: int
    lstm_steps: int
    watched_tasks: int

    def __str__(self) -> str:
        return f"{Path(self.data).name}, {self.shots}-shot"

    @property
    def away(self) -> str:
        """Name the way of table 3.4."""
        return f"{Path(self.data).name} → {Path(self.elsewhere).name}, {self.shots}-shot"


def settings(parameters: Any) -> list[Setting]:
    """Return one setting for each entry of the columns `data`, `elsewhere`, ... of the parameters cell.

    Raises:
        ValueError: the columns differ in length.
    """
    return settings_of(parameters, COLUMNS, Setting)
