"""Predicted masks of chosen test tasks, for galleries: some by lot, and those that every reader asks for, the worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.chapters.methods import Setting
from mlkit.chapters.segmentation import Training
from mlkit.driver import for_tasks
from mlkit.figures import Segmented, Tile
from mlkit.records import Result, Unit, Work
from mlkit.seeding import seeded
from mlkit.segmentation_losses import intersection_over_union
from mlkit.stored import Record
from mlkit.tasks.base import FrozenTasks, TaskBatch

FAILURES = 4  # tasks with the lowest IoU


@dataclass(frozen=True)
class Pictured:
    """Test tasks with what several methods predict for one query picture of each; the last FAILURES are the worst.

    record: `query` (tasks,), which picture; `predicted` (methods, tasks, size, size) and `iou` (methods, tasks).
    """

    tasks: FrozenTasks
    record: Record

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the record, the first is the one that the gallery shows."""
        return self.record.settings["methods"]

    def gallery(self) -> dict[str, list[Tile]]:
        """Return the tiles of `figures.mask_gallery`: predictions of the first method, by lot and the worst."""
        tiles = [self._tile(batch, index, 0) for index, batch in self._batches()]
        return {
            "test tasks drawn by lot": tiles[:-FAILURES],
            f"failures: the lowest of {self.record.settings['of_tasks']} tasks": tiles[-FAILURES:],
        }

    def choices(self) -> list[Segmented]:
        """Return the choices of `figures.mask_chooser`: support, query picture, truth, and what each method says."""
        found = []
        for index, batch in self._batches():
            query = int(self.record.arrays["query"][index])
            picture, truth = _bytes(batch.query.x[0, query]), batch.query.y[0, query].numpy()
            support = [Tile(_bytes(x), y.numpy()) for x, y in zip(batch.support.x[0], batch.support.y[0], strict=True)]
            said = {method: self._tile(batch, index, row) for row, method in enumerate(self.methods)}
            panels = {"picture": Tile(picture), "truth": Tile(picture, truth), **said}
            name = self._name(index)
            is_failure = index >= len(self.tasks) - FAILURES
            found.append(Segmented(f"{name} (a failure)" if is_failure else name, support, panels))
        return found

    def answers(self) -> list[dict[str, Any]]:
        """Answer figures 2 and 5, which print pictures and no numbers: by the mean IoU of what is shown, in percent.

        "Same direction" if most of those by lot are more right than wrong, and all failures more wrong than right.
        """
        iou, data = 100 * self.record.arrays["iou"][0].astype(float), self.record.data
        parts = {"000/F2": iou[:-FAILURES], "000/F5": iou[-FAILURES:]}
        as_printed = {"000/F2": float(np.median(iou[:-FAILURES])) > 50, "000/F5": bool((iou[-FAILURES:] < 50).all())}
        told = {key: "same direction" if holds else "not reached" for key, holds in as_printed.items()}
        return [
            {
                "id": key, "value": float(values.mean()), "tasks": len(values), "stand_in": data["stand_in"],
                "verdict": "other data" if data["stand_in"] else told[key],
                "note": f"mean IoU in percent of {len(values)} pictures, {values.min():.0f} to {values.max():.0f}",
            }
            for key, values in parts.items()
        ]  # fmt: skip

    def _batches(self) -> list[tuple[int, TaskBatch]]:
        return [(index, self.tasks[index : index + 1]) for index in range(len(self.tasks))]

    def _tile(self, batch: TaskBatch, index: int, row: int) -> Tile:
        arrays = self.record.arrays
        iou, mask = float(arrays["iou"][row, index]), arrays["predicted"][row, index]
        picture = _bytes(batch.query.x[0, int(arrays["query"][index])])
        return Tile(picture, mask, f"{iou:.0%}".replace("%", " %"), f"{self._name(index)}: IoU {iou:.2f}")

    def _name(self, index: int) -> str:
        return self.tasks.tasks.source.names[int(self.tasks.draws["classes"][index])]


def pictured(unit: Unit, setting: Setting, methods: Sequence[str], parameters: Any, *, count: int) -> Pictured:
    """Return what methods predict at `count` test tasks drawn by lot and at those where the first method is worst.

    Args:
        unit: whose record it is.
        setting: which trainings; their weights are read, where the record is missing.
        methods: the first is the one whose failures are shown.
        parameters: the parameters cell.
        count: tasks by lot, each of another class where there are enough.
    """
    trainings = [Training(setting, method, parameters) for method in methods]
    records = [training.record() for training in trainings]
    shots = parameters.shots[0]
    scores, all_tasks = records[0].arrays[f"iou_{shots}_shot"][0], trainings[0].test(shots)
    chosen = _chosen(scores, min(count, len(scores)), len(all_tasks.tasks.source.names))
    tasks = FrozenTasks(all_tasks.tasks, {k: v[chosen] for k, v in all_tasks.draws.items()}, all_tasks.seed)

    def compute(work: Work) -> Result:
        outputs = [_predicted(training, tasks) for training in trainings]
        iou = torch.stack([_by_picture(output, tasks) for output in outputs])  # (methods, tasks, queries)
        query = torch.zeros(len(tasks), dtype=torch.int64)
        query[-FAILURES:] = iou[0, -FAILURES:].argmin(1)
        rows = torch.arange(len(tasks))
        masks = torch.stack([output[rows, query, 1] > output[rows, query, 0] for output in outputs])
        arrays = {"query": query, "predicted": masks, "iou": iou[:, rows, query].float()}
        return Result({"mean": float(iou[0, :-FAILURES].mean())}, arrays, records[0].data, tasks=len(tasks))

    settings = {
        "of": [record.key for record in records],
        "methods": list(methods),
        "tasks": chosen.tolist(),
        "of_tasks": len(scores),
    }
    return Pictured(tasks, unit.record(f"pictures-{trainings[0].stem}", settings, compute))


def _chosen(scores: np.ndarray, count: int, classes: int) -> Tensor:
    """Return numbers of frozen tasks: `count` by lot among the first split of the classes, then the worst of all."""
    lot = torch.randperm(min(classes, len(scores)), generator=seeded("pictured"))[:count]
    worst = np.argsort(scores, kind="stable")[:FAILURES]
    return torch.cat([lot, torch.from_numpy(worst[::-1].copy())])


@torch.no_grad()
def _predicted(training: Training, tasks: FrozenTasks) -> Tensor:
    """Return the logits of the query pictures (tasks, queries, 2, size, size)."""
    how, meta, learner = training.execution, training.weights(), training.learner
    meta = {name: tensor.to(how.device) for name, tensor in meta.items()}
    parts = []
    for start in range(0, len(tasks), how.evaluation_chunk):
        batch = tasks[start : start + how.evaluation_chunk].to(how.device)
        own = for_tasks(meta, torch.zeros_like(batch.seeds))
        parts.append(learner.predict(learner.adapt(own, batch), batch.query.x).cpu())
    return torch.cat(parts)


def _by_picture(outputs: Tensor, tasks: FrozenTasks) -> Tensor:
    """Return the IoU of every query picture (tasks, queries)."""
    truth = tasks[: len(tasks)].query.y.flatten(0, 1)[:, None]
    return intersection_over_union(outputs.flatten(0, 1)[:, None], truth).unflatten(0, outputs.shape[:2])


def _bytes(picture: Tensor) -> np.ndarray:
    """Return a picture (3, height, width) in [0, 1] as bytes (height, width, 3)."""
    return (255 * picture.permute(1, 2, 0)).round().byte().numpy()
