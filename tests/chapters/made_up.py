"""Records of trainings that never ran, with numbers that a test chooses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.chapters import Setting
from mlkit.stored import Record, write

GLYPHS = Setting("glyphs", 5, 1, "small", "none", 0.1, 4, 4, 30)
_count = itertools.count()


def setting(data: str = "glyphs", shots: int = 1, ways: int = 5) -> Setting:
    return Setting(data, ways, shots, "small", "none", 0.1, 4, 4, 30)


def training(
    folder: Path, curves: dict[str, Any], *, data: str = "glyphs", scores: Any = None, content: str = "a"
) -> Record:
    """Store a record: `curves` name -> (epochs,), (epochs, seeds) or (epochs, seeds, tasks); epoch 0 goes before."""
    arrays = {}
    for name, values in curves.items():
        values = np.asarray(values, dtype=float)
        values = values[:, None] if values.ndim == 1 else values
        arrays[f"history_{name}"] = np.concatenate([np.full_like(values[:1], 1e3), values])  # untrained: far off
    points, seeds = next(iter(arrays.values())).shape[:2]
    arrays["history_iteration"] = np.arange(points) * 10
    arrays["test_scores"] = np.zeros((seeds, 2)) if scores is None else np.asarray(scores, dtype=float)
    body = {
        "unit": "landscapes",
        "name": "training",
        "key": f"{next(_count):064d}",
        "settings": {
            "outer": {"validate_every": 10},
            "seeds": list(range(seeds)),
            "tasks": {"name": data},
            "watch": {"tasks": 50},
        },
        "scores": {"mean": float(arrays["test_scores"].mean()), "ci95": 0.01, "watch_seconds": 30.0},
        "data": {"content_hash": content},
        "evidence": {"seeds": list(range(seeds)), "seconds": 90.0, "hardware": {"gpu": None, "cores": 2}},
    }
    return write(body, arrays, folder / f"training-{body['key'][-8:]}.json")
