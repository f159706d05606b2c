"""What paper 003 says its figures show, checked on records: claims, and the answers that they make.

Each check says by numbers whether the claim holds in one training; nothing is decided beforehand. The figures print no
numbers, so that none can be "reproduced": "same direction" where the claim holds in every training of a figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from IPython.display import Markdown

from mlkit.chapters.epochs import curves
from mlkit.chapters.settings import Setting
from mlkit.landscape.study import over_epochs, peak
from mlkit.records import Result, Unit
from mlkit.stored import Record

RULES = 3  # grows with every change of a rule, so that a stored verdict is decided anew
ROLES = {"omniglot": "omniglot", "mini_imagenet": "mini", "cifar_fs": "mini", "fc100": "mini", "sine_guiroy": "sine"}
OWN = ("omniglot", "mini_imagenet", "sine_guiroy")  # the paper's own data
ACCURACY = "test_accuracy"
Records = Mapping[tuple[Setting, str], Record]


class Found(NamedTuple):
    """Whether a claim holds in a training, the number that a record keeps of it, and the numbers in words.

    holds: None where the interval leaves it open.
    """

    holds: bool | None
    value: float
    note: str

    @property
    def word(self) -> str:
        """Say whether it holds."""
        return {True: "yes", False: "no", None: "open"}[self.holds]


def above(low: float, high: float) -> bool | None:
    """Say whether an interval lies above zero; None where it holds zero, or nothing is known."""
    return True if low > 0 else False if high < 0 else None


@dataclass(frozen=True)
class Claim:
    """What a figure (its id in the papers' tables) says of a training, and what was found there."""

    figure: str
    says: str
    where: str
    record: Record
    found: Found

    @property
    def data(self) -> str:
        """What it was trained on."""
        return self.record.settings["tasks"]["name"]


def flattens(record: Record) -> Found:
    """Check that curvature peaks during training and is lower at the end, on the same tasks, beyond the interval.

    One half of the tasks says where the peak is, the other how far it falls from there: the highest of several noisy
    points is too high.
    """
    drawn = curves(record)
    by_task = drawn.values["curvature_by_task"]
    top = peak(np.nanmean(by_task[:, :, ::2], axis=2))
    fall, reach = paired(by_task[:, :, 1::2], top)
    words = (
        f"{drawn.mean('curvature')[top]:.3g} at its peak, epoch {drawn.epochs[top]:g}, then {fall:+.3g} ± {reach:.2g}"
    )
    passed = 0 < top < len(by_task) - 1
    return Found(above(-fall - reach, reach - fall) if passed else False, float(drawn.mean("curvature")[-1]), words)


def paired(by_task: np.ndarray, start: int) -> tuple[float, float]:
    """Return the mean change of (points, seeds, tasks) from point `start` to the last, and its 95 % half width.

    The tasks are the same at every point, so that each is compared with itself.
    """
    tasks = (by_task[-1] - by_task[start]).mean(0)
    tasks = tasks[np.isfinite(tasks)]
    if len(tasks) < 2:
        return math.nan, math.nan
    return float(tasks.mean()), 1.96 * float(tasks.std(ddof=1)) / math.sqrt(len(tasks))


def moved(values: np.ndarray, start: Sequence[int]) -> tuple[float, float]:
    """Return how much (points, seeds) changes from the mean of the points `start` to that of the last two.

    The 95 % half width is over seeds. With one seed it comes from how far points lie off the line through their
    neighbors; the median, so that the quick rise at the beginning is no noise.
    """
    change = values[-2:].mean(0) - values[list(start)].mean(0)
    if len(change) > 1:
        return float(change.mean()), 1.96 * float(change.std(ddof=1)) / math.sqrt(len(change))
    off = np.abs(np.diff(values[:, 0], n=2))
    noise = float(np.nanmedian(off)) / (0.6745 * math.sqrt(6)) if np.isfinite(off).any() else math.nan
    return float(change[0]), 1.96 * noise * math.sqrt(1 / len(start) + 1 / 2)


def beside(point: int, count: int) -> list[int]:
    """Return the neighbors of a point: they tell its level without the luck that made it the best of all."""
    return [each for each in (point - 1, point + 1) if 0 <= each < count]


def overfits(record: Record) -> Found:
    """Check that accuracy on new classes falls after its best epoch, beyond the interval."""
    drawn = curves(record)
    best = peak(drawn.values[ACCURACY])
    fall, reach = moved(drawn.values[ACCURACY], beside(best, len(drawn.epochs)))
    top, change = 100 * drawn.mean(ACCURACY)[best], f"{100 * fall:+.1f} ± {100 * reach:.1f}"
    words = f"best {top:.1f} % at epoch {drawn.epochs[best]:g}; from beside it to the end {change}"
    return Found(above(-fall - reach, reach - fall), 100 * float(drawn.mean(ACCURACY)[-1]), words)


def falls_after_the_best(record: Record, name: str) -> Found:
    """Check that a quantity goes on falling after the epoch of best accuracy, beyond the interval."""
    drawn = curves(record)
    best = peak(drawn.values[ACCURACY])
    by_task = drawn.values.get(f"{name}_by_task")
    fall, reach = moved(drawn.values[name], [best]) if by_task is None else paired(by_task, best)
    words = f"{drawn.mean(name)[best]:.3g} at the best epoch, then {fall:+.3g} ± {reach:.2g}"
    return Found(above(-fall - reach, reach - fall), float(drawn.mean(name)[-1]), words)


def correlates(record: Record, metric: str, generalization: str = ACCURACY) -> Found:
    """Check that a metric goes up and down with generalization over epochs: R above 0 with its whole interval."""
    found = over_epochs(curves(record), metric, generalization)
    return Found(
        above(found.low, found.high), found.value, f"{found} over {found.count} epochs, worth {found.effective:.1f}"
    )


def grows(record: Record, name: str) -> Found:
    """Check that a quantity is larger at the end of training than at its beginning, beyond the interval."""
    drawn = curves(record)
    rise, reach = moved(drawn.values[name], [0, 1])
    words = f"{drawn.mean(name)[0]:.3g} at first, {drawn.mean(name)[-1]:.3g} at the end; {rise:+.3g} ± {reach:.2g}"
    return Found(above(rise - reach, rise + reach), float(drawn.mean(name)[-1]), words)


def below(record: Record, other: Record, name: str) -> Found:
    """Check that a quantity is lower at the end of one training than of another, their intervals apart."""
    scale = 100 if name == ACCURACY else 1  # percent
    ours, theirs = (_at_end(each, name, scale) for each in (record, other))
    words = f"{ours.value:.3g}, MAML {theirs.value:.3g}"
    return Found(above(theirs.low - ours.high, theirs.high - ours.low), ours.value, words)


class _End(NamedTuple):
    value: float
    low: float
    high: float


def _at_end(record: Record, name: str, scale: float) -> _End:
    """Return a quantity at the end of a training with the ends of its interval, where it has one."""
    drawn = curves(record)
    keys = (key if (key := f"{name}{end}") in drawn.values else name for end in ("", "_low", "_high"))
    return _End(*(scale * float(drawn.mean(key)[-1]) for key in keys))


def answers(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """Return one answer a figure: of the claims on data that the figure, or a stand-in of its data, is about.

    It is "same direction" if all of them hold; its value is the mean of theirs.
    """
    figures: dict[str, list[Claim]] = {}
    for each in claims:
        if each.data in ROLES and each.figure.startswith("003/") and math.isfinite(each.found.value):
            figures.setdefault(each.figure, []).append(each)
    return [_answer(figure, members) for figure, members in figures.items()]


def _answer(figure: str, claims: list[Claim]) -> dict[str, Any]:
    stand_in = any(each.data not in OWN for each in claims)
    holds = all(each.found.holds for each in claims)
    numbers = "; ".join(
        f"{each.where}: {each.found.note}{'' if each.found.holds else f' ({each.found.word})'}" for each in claims
    )
    evidence = claims[0].record.evidence
    return {
        "id": figure,
        "value": sum(each.found.value for each in claims) / len(claims),
        "tasks": claims[0].record.settings["watch"]["tasks"],
        "seeds": len(evidence["seeds"]) if evidence["seeds"] else None,
        "verdict": "other data" if stand_in else "same direction" if holds else "not reached",
        "stand_in": stand_in,
        "data": ", ".join(dict.fromkeys(each.data for each in claims)),
        "note": f"{claims[0].says}: {numbers}",
    }


def answer(
    unit: Unit,
    claims: Sequence[Claim],
    drawn: Iterable[Record],
    *,
    numbers: Sequence[dict[str, Any]] = (),
) -> Record:
    """Store the answers that claims make, as a record of the unit; decided anew when a training or a rule changes.

    Args:
        unit: whose record it is.
        claims: what was checked.
        drawn: every training that the unit shows, also those of which nothing is claimed.
        numbers: answers to numbers that the paper prints.
    """
    found = [*answers(claims), *numbers]
    keys = sorted({record.key for record in drawn})
    data = ", ".join(dict.fromkeys(claim.data for claim in claims))
    return unit.record(
        "answers",
        {"of": keys, "rules": RULES},
        lambda work: Result({"answers": len(found)}, answers=found, data={"data": data}),
    )


def table(claims: Iterable[Claim]) -> Markdown:
    """Show every claim with the numbers that decide it: one row a training and claim, whose figures stand together."""
    rows: dict[tuple[str, str, Found], list[str]] = {}
    for each in claims:
        rows.setdefault((each.says, each.where, each.found), []).append(each.figure)
    if not rows:
        return Markdown("No claim can be checked with these parameters.")
    lines = ["| figure | the paper says | training | ours | holds |", "|---|---|---|---|---|"]
    for (says, where, found), figures in rows.items():
        word = f"**{found.word}**" if found.holds is False else found.word
        cells = (cell.replace("*", r"\*") for cell in (", ".join(figures), says, where, found.note))
        lines.append(f"| {' | '.join(cells)} | {word} |")
    return Markdown("\n".join([*lines, "", "*open*: the interval leaves it undecided."]))
