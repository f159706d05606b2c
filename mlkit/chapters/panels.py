"""From records to what figures draw: series with their bands, panels of a setting, histories for the linked view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from IPython.display import Markdown

from mlkit.chapters.epochs import curves
from mlkit.chapters.settings import Setting
from mlkit.figures import Cloud, History, Series
from mlkit.landscape.study import over_epochs
from mlkit.stored import Record

ACCURACY = "test_accuracy"
NAMES = {  # name in a record: what an axis calls it
    "test_accuracy": "target accuracy (%)",
    "support_loss": "support loss after adapting",
    "curvature": "curvature E‖H‖",
    "trajectory_cosine": "trajectory cosine",
    "displacement_norm": "trajectory length",
    "gradient_product": "gradient product",
    "representation_product": "representation product",
    "test_mean_squared_error": "target error (MSE)",
}
SHORT = {  # likewise, where there is little room
    "test_accuracy": "accuracy",
    "support_loss": "loss",
    "curvature": "curvature",
    "trajectory_cosine": "cosine",
    "displacement_norm": "length",
    "gradient_product": "gradients",
    "representation_product": "features",
}
EVERY = tuple(name for name in NAMES if not name.startswith("test_"))


def band(record: Record, name: str) -> Series:
    """Return a quantity of a record through training, with its 95 % band.

    With several seeds the band is over seeds; with one, over the tasks that it was measured on, where that is known.
    Accuracies are in percent.
    """
    values = curves(record).values
    scale = 100.0 if name.endswith("accuracy") else 1.0
    runs = scale * values[name]  # (points, seeds)
    if runs.shape[1] > 1:
        half = 1.96 * runs.std(1, ddof=1) / np.sqrt(runs.shape[1])
    elif f"{name}_low" in values:
        return Series(runs[:, 0], scale * values[f"{name}_low"][:, 0], scale * values[f"{name}_high"][:, 0])
    else:
        return Series(runs[:, 0])
    return Series(runs.mean(1), runs.mean(1) - half, runs.mean(1) + half)


def panels(
    records: Mapping[tuple[Setting, str], Record], setting: Setting, names: Sequence[str]
) -> dict[str, dict[str, Series]]:
    """Return the panels of a setting for `figures.stacked_curves`: axis title -> method -> series."""
    methods = {method: record for (where, method), record in records.items() if where == setting}
    return {NAMES[name]: {method: band(record, name) for method, record in methods.items()} for name in names}


def clouds(records: Mapping[tuple[Setting, str], Record], metric: str, generalization: str) -> dict[str, Cloud]:
    """Return a cloud for each method, a point an epoch, seeds averaged; accuracies in percent."""
    found = {}
    for (_, method), record in records.items():
        drawn = curves(record)
        x, y = ((100.0 if name.endswith("accuracy") else 1.0) * drawn.mean(name) for name in (metric, generalization))
        names = [f"epoch {epoch:g}" for epoch in drawn.epochs]
        found[method] = Cloud(x, y, names, str(over_epochs(drawn, metric, generalization)))
    return found


def histories(records: Mapping[tuple[Setting, str], Record], *, remark: str = "") -> list[History]:
    """Return every seed of every record as the linked view shows it; `remark` follows the method's name."""
    found = []
    for (setting, method), record in records.items():
        drawn = curves(record)
        names = [name for name in EVERY if name in drawn.values]
        notes = {NAMES[name]: str(over_epochs(drawn, name, ACCURACY)) for name in names}
        for column, seed in enumerate(record.settings["seeds"]):
            label = ", ".join(
                filter(None, [method, remark, f"seed {seed}" if len(record.settings["seeds"]) > 1 else ""])
            )
            metrics = {NAMES[name]: drawn.values[name][:, column] for name in names}
            accuracy = 100 * drawn.values[ACCURACY][:, column]
            found.append(History(label, str(setting), drawn.epochs, accuracy, metrics, notes))
    return found


@dataclass(frozen=True)
class Together:
    """Correlation of every two quantities: what they are called, and R (quantities, quantities)."""

    names: list[str]
    matrix: np.ndarray


def together(records: Sequence[Record], names: Sequence[str]) -> Together:
    """Correlate every two quantities over the epochs of all records, each centered and scaled within its record.

    Seeds are averaged; a quantity that a record has not, or that does not change, is left out there.
    """
    rows = []
    for record in records:
        drawn = curves(record)
        columns = [drawn.mean(name) if name in drawn.values else np.full(len(drawn.epochs), np.nan) for name in names]
        rows.append(np.stack([_scaled(column) for column in columns], 1))  # (epochs, quantities)
    values = np.ma.masked_invalid(np.concatenate(rows))
    matrix = np.ma.corrcoef(values, rowvar=False).filled(np.nan)
    return Together([SHORT[name] for name in names], np.asarray(matrix, dtype=float))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return (values - mean) / standard deviation; NaN where they do not change."""
    spread = np.nanstd(values) if np.isfinite(values).any() else 0.0
    return (values - np.nanmean(values)) / spread if spread > 0 else np.full(len(values), np.nan)


def cost(records: Iterable[Record]) -> Markdown:
    """Say what trainings took, and how much of it was measuring."""
    shown = list(records)
    total, watching = (
        sum(part) for part in zip(*((r.evidence["seconds"], r.scores["watch_seconds"]) for r in shown), strict=True)
    )
    where = sorted({r.evidence["hardware"]["gpu"] or f"{r.evidence['hardware']['cores']} CPU cores" for r in shown})
    return Markdown(
        f"{len(shown)} trainings took {total / 60:.1f} minutes on {' and '.join(where)}, of which measuring the "
        f"landscape after every epoch took {watching / 60:.1f}. Records that another chapter computed first are shared."
    )
