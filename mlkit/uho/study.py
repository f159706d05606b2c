"""One search over update hyperparameters: trials in order, each stored as it ends, and what was believed after each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mlkit.uho.engine import Array, Belief, Engine, GaussianProcess
from mlkit.uho.objective import Objective, Worth
from mlkit.uho.space import Space, Values

GRID = 60  # settings along the curves


@dataclass(frozen=True)
class Trial:
    """One evaluated setting.

    values: by name; score: in units of the metric, NaN where it diverged; steps: number of inner steps that goes with
    it; curve (max_steps + 1,): mean score after 0, 1, ... steps; stopped (tasks,): each task's own best steps.
    """

    values: Values
    score: float
    steps: int
    curve: tuple[float, ...]
    stopped: tuple[int, ...]

    @property
    def diverged(self) -> bool:
        """Whether there is no score; the engine was told one no better than not adapting."""
        return math.isnan(self.score)


@dataclass(frozen=True)
class Study:
    """What a search found. Axis 0 of the arrays counts trials.

    trials: in order; training: the same evaluation of the hyperparameters of meta-training; grid: the settings that the
    engine was asked about, along `along`, everything else as in the best trial so far; mean, deviation, improvement
    (trials, grid): what it believed after each trial, NaN before it was fitted and while others were in flight with it.
    """

    trials: tuple[Trial, ...]
    training: Trial
    along: str
    grid: Array
    mean: Array
    deviation: Array
    improvement: Array
    higher_is_better: bool = True

    @property
    def best(self) -> Trial:
        """The best *observed* trial, the first of equals; not the optimum of the fitted curve.

        Raises:
            ValueError: every trial diverged.
        """
        usable = [trial for trial in self.trials if not trial.diverged]
        if not usable:
            raise ValueError(f"expected a trial with a score, got {len(self.trials)} that diverged; lower the range")
        return max(usable, key=lambda trial: trial.score if self.higher_is_better else -trial.score)

    def best_so_far(self) -> Array:
        """Return the best score after each trial (trials,); NaN before the first that did not diverge."""
        scores = np.array([trial.score for trial in self.trials])
        running = np.fmax.accumulate if self.higher_is_better else np.fmin.accumulate
        return running(scores)


def tune(
    objective: Objective,
    space: Space,
    training: Values,
    *,
    trials: int = 30,
    seed: int = 0,
    in_flight: int = 1,
    jobs: int | None = None,
    folder: Path | None = None,
    engine: Callable[..., Engine] = GaussianProcess,
    progress: bool = True,
    on_trial: Callable[[Study], None] | None = None,
) -> Study:
    """Search `space` for the update hyperparameters that make adapting best (paper 000, section 3.3 and appendix D).

    Args:
        objective: what a setting is worth.
        space: what may be tuned.
        training: the hyperparameters of meta-training, `inner_lr` and so on, evaluated for comparison only.
        trials: how many settings are tried; the engine draws the first half at random.
        seed: of the engine.
        in_flight: settings proposed and evaluated at once. It changes what is proposed.
        jobs: processes for the tasks of all of them; None for one, or as `joblib.parallel_config` says.
        folder: where each trial is stored as it ends; a search that was killed goes on there, with the same results.
        engine: what proposes, called as `engine(space, trials=, seed=)`.
        progress: show a bar with the best score so far.
        on_trial: called with the search so far each time that the engine was told, to look on while it goes on.

    Raises:
        ValueError: no trial is asked for, or `folder` holds another search.
    """
    if trials < 1 or in_flight < 1:
        raise ValueError(f"expected trials and in_flight of at least 1, got {trials} and {in_flight}")
    book = _Book(folder, {"objective": objective.describe(), "space": space.describe(), "seed": seed})
    proposes, better = engine(space, trials=trials, seed=seed), 1 if objective.metric.higher_is_better else -1

    def evaluated(asked: Sequence[Values]) -> Iterator[Worth]:
        return objective.each(asked, jobs=jobs)

    (reference,) = book.read(["training"], [training], evaluated)
    done: list[Trial] = []
    beliefs: list[Belief | None] = []
    along = space.searched[0]
    grid = along_range(space, along)

    def so_far() -> Study:
        return Study(tuple(done), reference, along, grid, *_stacked(beliefs, better, len(grid)), better > 0)

    with tqdm(total=trials, desc="tuning", unit="trial", disable=not progress) as bar:
        while len(done) < trials:
            settings = proposes.ask(min(in_flight, trials - len(done)))
            names = [f"trial-{number:03d}" for number in range(len(done), len(done) + len(settings))]
            found = book.read(names, settings, evaluated)
            done += found
            floor = better * reference.curve[0]
            proposes.tell(settings, [_told(better * trial.score, floor) for trial in found])
            best = _best(done, better)
            beliefs += [None] * (len(found) - 1)
            beliefs.append(proposes.believe([best.values | {along: float(value)} for value in grid]))
            bar.set_postfix({"best": f"{best.score:.4f}", **{k: f"{v:.3g}" for k, v in best.values.items()}})
            bar.update(len(found))
            if on_trial:
                on_trial(so_far())
    return so_far()


def along_range(space: Space, name: str, count: int = GRID) -> Array:
    """Return `count` values across the range of `name`, evenly, or evenly in the logarithm."""
    bounds = space.ranges[name]
    return (np.geomspace if bounds.log else np.linspace)(bounds.low, bounds.high, count)


def _told(score: float, floor: float) -> float:
    """Return what the engine hears: what diverged, or is worse than not adapting, counts as not adapting."""
    return floor if math.isnan(score) else max(score, floor)


def _best(trials: Sequence[Trial], better: int) -> Trial:
    return max(trials, key=lambda trial: -math.inf if trial.diverged else better * trial.score)


def _stacked(beliefs: Sequence[Belief | None], better: int, count: int) -> tuple[Array, Array, Array]:
    nothing = np.full(count, np.nan)
    unknown = Belief(nothing, nothing, nothing)
    known = [belief or unknown for belief in beliefs]
    return (
        np.stack([better * belief.mean for belief in known]),
        np.stack([belief.deviation for belief in known]),
        np.stack([belief.improvement for belief in known]),
    )


class _Book:
    """Trials on disk: a file each, written whole; the first one says which search they belong to."""

    def __init__(self, folder: Path | None, search: dict[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path, text = folder / "search.json", json.dumps(search, sort_keys=True)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"expected the search of {path} to be this one, got another; give it a folder of its own")
        _write(path, text)

    def read(
        self, names: Sequence[str], settings: Sequence[Values], compute: Callable[[list[Values]], Iterator[Worth]]
    ) -> list[Trial]:
        """Return the trials stored by these names, if they are of these settings; compute the others, store each."""
        known = {name: trial for name, values in zip(names, settings, strict=True) if (trial := self._at(name, values))}
        missing = [(name, values) for name, values in zip(names, settings, strict=True) if name not in known]
        if missing:
            worths = compute([values for _, values in missing])
            for (name, values), worth in zip(missing, worths, strict=True):
                known[name] = _as_trial(values, worth)
                if self.folder:
                    _write(self.folder / f"{name}.json", json.dumps(_plain(known[name]), allow_nan=False))
        return [known[name] for name in names]

    def _at(self, name: str, values: Values) -> Trial | None:
        path = self.folder / f"{name}.json" if self.folder else None
        if path is None or not path.exists():
            return None
        trial = _trial(json.loads(path.read_text(encoding="utf-8")))
        return trial if trial.values == values else None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _plain(trial: Trial) -> dict[str, Any]:
    """Return a trial as JSON knows it: null for what is no number."""
    score, *curve = [value if math.isfinite(value) else None for value in (trial.score, *trial.curve)]
    return {"values": trial.values, "score": score, "steps": trial.steps, "curve": curve, "stopped": trial.stopped}


def _trial(body: dict[str, Any]) -> Trial:
    score, *curve = [math.nan if value is None else value for value in (body["score"], *body["curve"])]
    return Trial(body["values"], score, body["steps"], tuple(curve), tuple(body["stopped"]))


def _as_trial(values: Values, worth: Worth) -> Trial:
    return Trial(dict(values), worth.score, worth.steps, tuple(worth.curve.tolist()), tuple(worth.stopped.tolist()))


def arrays(study: Study) -> dict[str, torch.Tensor]:
    """Return the numbers of a study as arrays of a record.

    `trial_<name>`, `trial_score`, `trial_steps` (trials,), `trial_curve` (trials, max_steps + 1), shorter ones filled
    with NaN; `training_curve`; `grid`, `mean`, `deviation`, `improvement`.
    """
    longest = max(len(trial.curve) for trial in (*study.trials, study.training))

    def filled(trial: Trial) -> list[float]:
        return [*trial.curve, *[math.nan] * (longest - len(trial.curve))]

    values = {f"trial_{name}": [trial.values[name] for trial in study.trials] for name in study.trials[0].values}
    numbers = {
        **values,
        "trial_score": [trial.score for trial in study.trials],
        "trial_steps": [trial.steps for trial in study.trials],
        "trial_curve": [filled(trial) for trial in study.trials],
        "training_curve": filled(study.training),
    }
    belief = {name: getattr(study, name) for name in ("grid", "mean", "deviation", "improvement")}
    return {name: torch.as_tensor(np.asarray(value, dtype=np.float64)) for name, value in (numbers | belief).items()}
