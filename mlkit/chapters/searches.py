"""From a search over update hyperparameters, or its record, to figures, numbers and a question to the reader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlkit.figures.questions import Question
from mlkit.figures.searches import Search
from mlkit.records import Record
from mlkit.uho import Study, Trial, arrays

NEAR = 1.25  # factor within which two values of a hyperparameter count as the same
SCORES = {
    "scores": "trial_score",
    "curves": "trial_curve",
    "mean": "mean",
    "deviation": "deviation",
}  # of a Search, in units of the score


def summary(study: Study) -> dict[str, Any]:
    """Return what a record of a search keeps as its scores; its arrays are `mlkit.uho.arrays(study)`.

    `along`, `higher_is_better`, `trials`, `diverged`; of `training` and of the `best` observed trial (None where all
    diverged) `values`, `score` and `steps`.
    """
    lost = sum(trial.diverged for trial in study.trials)
    return {
        "along": study.along,
        "higher_is_better": study.higher_is_better,
        "trials": len(study.trials),
        "diverged": lost,
        "training": _told(study.training),
        "best": _told(study.best) if lost < len(study.trials) else None,
    }


def _told(trial: Trial) -> dict[str, Any]:
    return {"values": dict(trial.values), "score": trial.score, "steps": trial.steps}


def as_search(found: Study | Record, label: str, *, scale: float = 1.0) -> Search:
    """Return a search as figures need it, of a study in memory or of a record with `summary` and `uho.arrays` in it.

    Args:
        found: the study or its record.
        label: initialization and shots, begins with a method's name.
        scale: what scores are multiplied by; 100 for percent.

    Raises:
        ValueError: the record is not that of a search.

    Example:
        >>> search_curves([as_search(record, "FOMAML*, 5-shot", scale=100)], ...)  # doctest: +SKIP
    """
    scores = summary(found) if isinstance(found, Study) else found.scores
    try:
        along, training = scores["along"], scores["training"]
        held = _arrays(found)
        return Search(
            label=label,
            values=held[f"trial_{along}"],
            steps=held["trial_steps"],
            grid=held["grid"],
            improvement=scale * held["improvement"],
            training=(training["values"][along], scale * _number(training["score"])),
            higher_is_better=scores["higher_is_better"],
            along=along,
            **{to: scale * held[name] for to, name in SCORES.items()},
        )
    except KeyError as error:
        raise ValueError(
            f"expected the record of a search, got {getattr(found, 'path', found)} without {error}; "
            "store `summary(study)` as its scores and `mlkit.uho.arrays(study)` as its arrays"
        ) from error


def _arrays(found: Study | Record) -> Mapping[str, np.ndarray]:
    if isinstance(found, Study):
        return {name: values.numpy() for name, values in arrays(found).items()}
    return found.arrays


def _number(score: float | None) -> float:
    return math.nan if score is None else score


def prediction(search: Search, *, name: str = "learning rate", unit: str = "") -> Question:
    """Ask where the best value lies, seen from that of meta-training; the answer is what the search found.

    Values within a factor of 1.25 are near.

    Raises:
        ValueError: every trial diverged.
    """
    best = search.best(len(search.scores))
    if best is None:
        raise ValueError(f"expected a trial with a score, got {len(search.scores)} that diverged")
    value, (trained, score) = float(search.values[best]), search.training
    factor = value / trained
    choices = ["Below it", "Near it", "Above it"]
    answer = choices[1 if 1 / NEAR <= factor <= NEAR else 0 if factor < 1 else 2]
    apart = f"{factor:.3g} times" if factor >= 1 else f"a factor of {1 / factor:.3g} below"
    why = (
        f"The best of {len(search.scores)} trials has {name} {value:.3g}, {apart} the {trained:.3g} of meta-training; "
        f"it scores {search.scores[best]:.3g}{unit} after {int(search.steps[best])} inner steps, that of meta-training "
        f"{f'{score:.3g}{unit}' if math.isfinite(score) else 'diverges'}."
    )
    asked = f"{search.label}: where does the best {name} for adapting lie, seen from that of meta-training?"
    return Question(asked, choices, answer, why)
