"""What every method costs, measured in turns and apart from what it learns: to be done where nothing else runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from mlkit.chapters.all_methods import Records, Training
from mlkit.chapters.all_methods_settings import METHODS, SCRATCH, Setting, settings
from mlkit.costs import peak_bytes, seconds_of
from mlkit.driver import Meta, for_tasks, stack
from mlkit.losses import ACCURACY
from mlkit.records import Result, Unit, Work
from mlkit.seeding import seeded
from mlkit.stored import Record
from mlkit.tasks import frozen
from mlkit.training import train

STEPS, TURNS = 3, 3  # outer steps that are timed together, and how often all methods take turns
EMBEDDED = 64  # images that are described at once
Costs = Mapping[Setting, Record]


def costs(unit: Unit, parameters: Any) -> dict[Setting, Record]:
    """Return the costs of all methods in every setting; measure what is missing.

    Remove the records `costs-...` to measure anew; no method is trained again for that.
    """
    chosen = parameters.methods or METHODS
    return {
        setting: _record(unit, setting, [Training(setting, method, parameters) for method in chosen])
        for setting in settings(parameters)
    }


def with_costs(records: Records, measured: Costs) -> Records:
    """Return the records of trainings with what they cost among their scores."""
    return {
        (setting, method): replace(
            record, body=record.body | {"scores": record.scores | measured[setting].scores[method]}
        )
        for (setting, method), record in records.items()
    }


def _record(unit: Unit, setting: Setting, trainings: list[Training]) -> Record:
    """Return the costs of one setting.

    Scores, by method: `iteration_seconds` and `iteration_bytes` of an outer step of one run, drawing its tasks and the
    optimizer's step included, None where there is none; `adapt_seconds` to one task; `feature_seconds` of LEO's body
    and of describing every training image by it, 0 for others.
    """
    first = trainings[0]
    how = {name: getattr(first.parameters, name) for name in ("chunk_size", "workers", "device")}
    asked = {
        "setting": asdict(setting),
        "methods": {one.method: one.describe() for one in trainings},
        "steps": STEPS,
        "turns": TURNS,
        "computed": how,  # which for once is part of what is measured
    }

    def compute(work: Work) -> Result:
        return Result(_measured(trainings), data=first.image_spec.split("test").describe())

    return unit.record(setting.stem("costs"), asked, compute)


def _measured(trainings: list[Training]) -> dict[str, dict[str, float | None]]:
    """Measure all methods in turns, so that what the machine does meanwhile meets all of them."""
    ready = {one.method: Measured(one) for one in trainings}
    turns = [{method: one.turn() for method, one in ready.items()} for _ in range(TURNS)]
    found = {}
    for method, one in ready.items():
        mine = [turn[method] for turn in turns]
        found[method] = one.memory() | {
            name: None if mine[0][name] is None else statistics.median(turn[name] for turn in mine) for name in mine[0]
        }
    return found


class Measured:
    """One method, ready to be timed: its tasks are loaded, LEO's features are there."""

    def __init__(self, one: Training) -> None:
        self.one, self.device = one, one.parameters.device
        self.learns = one.method != SCRATCH
        self.tasks = one.spec.split("train").to(self.device)
        self.first = frozen(one.spec.split("test").to(self.device), 1, seed=0)[:1].to(self.device)
        self.body: Training | None = one.body.training if one.method == "LEO" else None

    def turn(self) -> dict[str, float | None]:
        """Return the seconds of an outer step, of adapting to a task, and of LEO's features."""
        return {
            "iteration_seconds": _step_seconds(self.one, self.tasks) if self.learns else None,
            "adapt_seconds": seconds_of(self._adaptation(), self.device),
            "feature_seconds": self._feature_seconds(),
        }

    def memory(self) -> dict[str, float | None]:
        """Return the most that tensors hold in an outer step on one thread, of LEO or of its body."""
        if not self.learns:
            return {"iteration_bytes": None}
        held = [_step_bytes(self.one, self.tasks)]
        if self.body:
            held.append(_step_bytes(self.body, self.body.spec.split("train").to(self.device)))
        return {"iteration_bytes": max(held)}

    def _adaptation(self) -> Callable[[], object]:
        """Return what is done when a task comes; LEO sees images first, too."""
        meta: Meta = stack([self.one.learner.init(seeded("costs"))])
        own = {name: tensor.to(self.device) for name, tensor in meta.items()}
        own = for_tasks(own, torch.zeros(1, dtype=torch.int64))
        tester = self.one.tester
        if not self.body:
            return lambda: tester.adapt(own, self.first)
        shown = frozen(self.one.image_spec.split("test"), 1, seed=0)[:1].to(self.device)
        return lambda: (self.one.body(shown.support.x[0]), tester.adapt(own, self.first))

    def _feature_seconds(self) -> float:
        """Return the seconds of training LEO's body, and of describing all training images by it; 0 for others."""
        if not self.body:
            return 0.0
        tasks = self.body.spec.split("train").to(self.device)
        images = replace(self.body.spec, batch_size=None).split("train").source
        some = torch.zeros(EMBEDDED, self.body.spec.channels, self.body.spec.size, self.body.spec.size)
        each = seconds_of(lambda: self.one.body(some.to(self.device)), self.device) / EMBEDDED
        return self.body.outer.iterations * _step_seconds(self.body, tasks) + len(images.images) * each


def _step_seconds(one: Training, tasks: Any) -> float:
    """Return the seconds of an outer step: those of a few steps, less what the first of them alone takes."""
    alone, together = (_seconds(one, tasks, count) for count in (1, 1 + STEPS))
    return max(together - alone, 0.0) / STEPS


def _seconds(one: Training, tasks: Any, iterations: int) -> float:
    outer = replace(one.outer, iterations=iterations, validate_every=iterations, on_divergence="skip")
    execution = replace(one.execution, progress=False)
    return train(one.learner, tasks, outer, seeds=[0], metric=ACCURACY, execution=execution).seconds


def _step_bytes(one: Training, tasks: Any) -> int:
    outer = replace(one.outer, iterations=1, validate_every=1, on_divergence="skip")
    execution = replace(one.execution, progress=False, workers=1)
    how = {"seeds": [0], "metric": ACCURACY, "execution": execution}
    return peak_bytes(lambda: train(one.learner, tasks, outer, **how), one.parameters.device)
