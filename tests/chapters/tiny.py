"""Parameters of the chapters on segmentation, so small that a training takes a second; records that never ran."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mlkit.chapters.methods import METHODS, Setting
from mlkit.stored import Record, write

SHAPES = Setting("shapes", 16, 0.25, "random", 2, 0, 4)
_count = itertools.count()


def parameters(**changed: Any) -> SimpleNamespace:
    """Return the parameters of a chapter with one setting of shapes."""
    given = {
        "data": ["shapes"], "sizes": [16], "widths": [0.25], "encoders": ["random"], "iterations": [2],
        "joint_iterations": [0], "test_tasks": [4], "methods": list(METHODS), "shots": [5, 1], "inner_lr": 0.005,
        "inner_steps": 2, "batch_size": 2, "meta_batch": 2, "optimizer": "adam", "meta_lr": 0.001, "augmentation": 0.5,
        "l2": 0.0005, "pretraining": 1, "train_on": "train+val", "watched_tasks": 1, "seeds": [0], "chunk_size": 2,
        "workers": 1, "device": "cpu",
    }  # fmt: skip
    return SimpleNamespace(**given | changed)


def record(folder: Path, scores: dict[str, Any], arrays: dict[str, Any], **body: Any) -> Record:
    """Store a record of the chapters on segmentation with numbers that a test chooses."""
    whole = {
        "unit": "initializations", "name": "made-up", "key": f"{next(_count):064d}", "scores": scores,
        "settings": {"seeds": [0], "shots": [5, 1], "tasks": {"name": "shapes"}},
        "data": {"data": "shapes", "stand_in": True},
        "evidence": {"tasks": 50, "seconds": 60.0, "hardware": {"gpu": None, "cores": 2}, "seeds": [0]},
    } | body  # fmt: skip
    kept = {name: np.asarray(values, dtype=float) for name, values in arrays.items()}
    return write(whole, kept, folder / f"made-up-{whole['key'][-8:]}.json")


def scored(folder: Path, five: np.ndarray, one: np.ndarray | None = None, **body: Any) -> Record:
    """Store a training with the IoU (seeds, tasks) of 5-shot and of 1-shot tasks."""
    arrays = {"iou_5_shot": np.atleast_2d(five), "iou_1_shot": np.atleast_2d(five if one is None else one)}
    scores = {f"{k}-shot": {"mean": float(arrays[f"iou_{k}_shot"].mean()), "ci95": 0.01} for k in (5, 1)}
    scores |= {"mini_batches": 100, "train_seconds": 50.0}
    history = {"history_iteration": [0, 5, 10], "history_test": [[0.0], [0.5], [1.0]]}
    return record(folder, scores, arrays | history, **body)
