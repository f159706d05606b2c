"""Runs in pairs: what a regularizer gains over the same seeds, the same tasks, the same number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri, stdtrit

from mlkit.chapters.claims import Claim, Found, Records, above
from mlkit.chapters.epochs import curves
from mlkit.chapters.settings import Setting
from mlkit.evaluation import Summary, over_seeds, over_tasks
from mlkit.figures import Series
from mlkit.papers import row
from mlkit.stored import Record

TEXT = "003/text/Omniglot-20-way-1-shot"
IDS = {
    "MAML": f"{TEXT}/MAML-second-order/target_accuracy",
    "regularized MAML": f"{TEXT}/Regularized-MAML/target_accuracy",
}


@dataclass(frozen=True)
class Gain:
    """Accuracy of one method minus another's on the same frozen tasks, in points, run by run.

    tasks: runs averaged, interval over tasks: how well the difference of these networks is known; seeds: interval over
    runs: whether other runs would show it.
    """

    tasks: Summary
    seeds: Summary

    @property
    def reach(self) -> float:
        """Half of its 95 % interval: over seeds where there are several, else over tasks."""
        return self.seeds.ci95 if self.seeds.count > 1 else self.tasks.ci95

    @property
    def is_there(self) -> bool | None:
        """Whether it is above 0 with its interval, over seeds where there are several, else over tasks; or open."""
        return above(self.tasks.value - self.reach, self.tasks.value + self.reach)

    def is_there_among(self, settings: int) -> bool | None:
        """Whether it is above 0 where it is one of several chances: 95 % for all of them together (Bonferroni).

        Over few seeds by Student's t.
        """
        share = 1 - 0.025 / settings
        wider = stdtrit(self.seeds.count - 1, share) if self.seeds.count > 1 else ndtri(share)
        reach = self.reach * float(wider) / 1.96
        return above(self.tasks.value - reach, self.tasks.value + reach)

    @property
    def is_sure(self) -> bool:
        """Whether it is above 0 with its interval."""
        return self.is_there is True

    def __str__(self) -> str:
        over = f", ± {self.seeds.ci95:.2f} over {self.seeds.count} seeds" if self.seeds.count > 1 else " (one seed)"
        return f"{self.tasks.value:+.2f} points, ± {self.tasks.ci95:.2f} over {self.tasks.count} tasks{over}"


def gain(before: Record, after: Record) -> Gain:
    """Return what `after` gains over `before`, of records with the same seeds, data and test tasks.

    Raises:
        ValueError: the runs are no pairs.
    """
    for what, ours, theirs in (
        ("seeds", after.settings["seeds"], before.settings["seeds"]),
        ("test tasks", after.data.get("content_hash"), before.data.get("content_hash")),
    ):
        if ours != theirs:
            raise ValueError(f"expected runs in pairs, got other {what}: {theirs} and {ours}; train both alike")
    scores = (100.0 * torch.from_numpy(np.array(each.arrays["test_scores"])).double() for each in (after, before))
    points = next(scores) - next(scores)
    return Gain(over_tasks(points), over_seeds(points))


def difference(after: Record, before: Record, name: str) -> Series:
    """Return a quantity of `after` minus that of `before` through training, band 95 % over paired runs."""
    scale = 100.0 if name.endswith("accuracy") else 1.0
    runs = scale * (curves(after).values[name] - curves(before).values[name])
    if runs.shape[1] == 1:
        return Series(runs[:, 0])
    half = 1.96 * runs.std(1, ddof=1) / math.sqrt(runs.shape[1])
    return Series(runs.mean(1), runs.mean(1) - half, runs.mean(1) + half)


def is_of_the_paper(setting: Setting) -> bool:
    """Say whether a setting is that of figure 11: Omniglot, 20-way 1-shot."""
    return (setting.data, setting.ways, setting.shots) == ("omniglot", 20, 1)


def printed(setting: Setting, method: str) -> float | None:
    """Return the accuracy that the paper prints, in percent; None in settings that are not its own."""
    return row(IDS[method]).value if is_of_the_paper(setting) else None


def regularized(records: Records) -> Iterator[Claim]:
    """Yield the claim of figure 11: the regularizer raises accuracy."""
    for setting in dict.fromkeys(setting for setting, _ in records):
        pair = [records[setting, method] for method in IDS]
        found = gain(*pair)
        figure = "003/F11" if is_of_the_paper(setting) else "Algorithm 1"
        value = 100 * pair[1].scores["mean"]
        yield Claim(
            figure, "the regularizer raises accuracy", str(setting), pair[1], Found(found.is_there, value, str(found))
        )


def numbers(records: Records, gamma: float) -> list[dict[str, Any]]:
    """Return the answers to the numbers that the paper prints; none for settings that are not its own."""
    found = []
    for setting in filter(is_of_the_paper, dict.fromkeys(setting for setting, _ in records)):
        pair = {method: records[setting, method] for method in IDS}
        won = gain(*pair.values())
        counts = {"seeds": won.seeds.count, "same_direction": won.tasks.value > 0}
        for method, record in pair.items():
            mean, reach = 100 * record.scores["mean"], 100 * record.scores["ci95"]
            found.append({"id": IDS[method], "value": mean, "ci95": reach, "tasks": won.tasks.count, **counts})
        error = 100 * (1 - pair["MAML"].scores["mean"])
        less = 100 * won.tasks.value / error
        reduction = {"value": less, "ci95": 100 * won.tasks.ci95 / error}
        found.append({"id": f"{TEXT}/Regularized-MAML-vs-MAML/relative-error-reduction", **reduction, **counts})
        found.append({"id": f"{TEXT}/Regularized-MAML/gamma", "value": gamma})
    return found
