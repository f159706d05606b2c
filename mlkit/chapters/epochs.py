"""The history of a training as paper 003 draws it."""

from __future__ import annotations

from mlkit.landscape import study
from mlkit.landscape.study import Curves
from mlkit.stored import Record


def curves(record: Record) -> Curves:
    """Return the history from the first epoch on: the paper measures after each, not before the first."""
    whole = study.curves(record)
    trained = whole.iterations > 0
    values = {name: array[trained] for name, array in whole.values.items()}
    return Curves(whole.epochs[trained], whole.iterations[trained], values)
