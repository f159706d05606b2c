"""What paper 004 says that its figure 2 shows, checked on the codes themselves: claims, and the answers they make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from mlkit.chapters.claims import Claim, Found, above
from mlkit.chapters.latent_embeddings import Setting
from mlkit.chapters.latent_space import by_task, change, of_class
from mlkit.evaluation import Summary, over_tasks
from mlkit.records import Result, Unit
from mlkit.seeding import seeded
from mlkit.stored import Record

RULES = 1  # grows with every change of a rule, so that a stored verdict is decided anew
STAGES, CLASSES, PICKED = "004/F2a", "004/F2b", ("004/F2c", "004/F2d")
OWN = "mini_imagenet"  # the paper's data
FAR = "adaptation moves codes farther than they lie apart at first"
APART = "adapted codes do not belong to the cluster of the encoder's"
BETTER = "adapted codes are better separated by class than the encoder's"
EVERYWHERE = f"{BETTER}: in other classes, too"
LOCAL = "neighbors among adapted codes share their class"


def claims(records: Mapping[Setting, Record]) -> Iterator[Claim]:
    """Yield what figure 2 claims of the codes of each setting, with the numbers that decide it."""
    for setting, record in records.items():
        pairs = (
            (STAGES, FAR, moves_far(record)),
            (STAGES, APART, lies_apart(record)),
            (CLASSES, BETTER, separates(record)),
            (CLASSES, EVERYWHERE, separates_classes(record)),
            (CLASSES, LOCAL, clusters(record)),
            *((PICKED[k], f"{BETTER}: one class", found) for k, found in enumerate(separates_picked(record))),
        )
        for figure, says, found in pairs:
            yield Claim(figure, says, str(setting), record, found)


def moves_far(record: Record) -> Found:
    """Check that codes end farther from where they started than these starts lie from their mean."""
    spread = float(record.arrays["spread"])
    moved = _over(record.arrays["moved"][-1])
    ratio, reach = (part / spread if spread else math.inf for part in (moved.value, moved.ci95))
    words = f"{moved.value:.3g} moved, spread {spread:.3g}: {ratio:.2f} ± {reach:.2f} times as far"
    return Found(above(ratio - 1 - reach, ratio - 1 + reach), ratio, words)


def lies_apart(record: Record) -> Found:
    """Check that most adapted codes are farther from the middle of the encoder's codes than 99 % of these are."""
    share = _over(record.arrays["outside"])
    words = f"{100 * share.value:.1f} ± {100 * share.ci95:.1f} % lie farther out than 99 % of the encoder's codes"
    return Found(above(share.value - 0.5 - share.ci95, share.value - 0.5 + share.ci95), share.value, words)


def separates(record: Record) -> Found:
    """Check that the silhouette of codes rises with adaptation, task by task, beyond the interval over tasks."""
    ends = (float(by_task(record.arrays["separation"][step]).mean()) for step in (0, -1))
    rise = change(record)
    before, after = ends
    words = f"silhouette {before:+.3f}, then {after:+.3f}; {_signed(rise)} over {rise.count} tasks"
    return Found(above(rise.value - rise.ci95, rise.value + rise.ci95), rise.value, words)


def separates_classes(record: Record) -> Found:
    """Check that the mean silhouette of a class rises, class by class, beyond the interval over classes (Student's t).

    The classes are few and tasks share them: this says what other classes would show.
    """
    rises = np.array([after - before for before, after, _ in of_class(record).values()])
    if len(rises) < 2:
        return Found(None, math.nan, "fewer than two classes")
    reach = float(stdtrit(len(rises) - 1, 0.975)) * float(rises.std(ddof=1)) / math.sqrt(len(rises))
    words = f"{rises.mean():+.3f} ± {reach:.3f} over {len(rises)} classes, up in {(rises > 0).sum()}"
    return Found(above(rises.mean() - reach, rises.mean() + reach), float(rises.mean()), words)


def clusters(record: Record) -> Found:
    """Check that more of an adapted code's nearest are of its class than chance would have, beyond the interval."""
    before, after = record.arrays["neighbors"].astype(float)
    more = _over(after - record.arrays["chance"])
    shares = [100 * float(np.nanmean(each)) for each in (before, after, record.arrays["chance"])]
    words = "{:.0f} % before, {:.0f} % adapted, {:.0f} % by chance; ".format(*shares)
    words += f"{100 * more.value:+.1f} ± {100 * more.ci95:.1f} points over chance"
    return Found(above(more.value - more.ci95, more.value + more.ci95), shares[1] / 100, words)


def separates_picked(record: Record) -> list[Found]:
    """Check two classes drawn by lot, as the paper shows two: does the silhouette of their codes rise?"""
    names, found = sorted(of_class(record)), []
    chosen = torch.randperm(len(names), generator=seeded("highlighted"))[: len(PICKED)].tolist()
    values, classes = record.arrays["separation"].astype(float), record.arrays["classes"]
    for name in (names[number] for number in chosen):
        here = classes == record.arrays["names"].tolist().index(name)
        rise = _over((values[-1] - values[0])[here])
        before, after, count = of_class(record)[name]
        words = f"{name}: {before:+.3f}, then {after:+.3f}; {_signed(rise)} over {count} codes"
        found.append(Found(above(rise.value - rise.ci95, rise.value + rise.ci95), rise.value, words))
    return found


def answer(unit: Unit, made: Sequence[Claim], drawn: Sequence[Record], data: Mapping[Setting, Record]) -> Record:
    """Store what the claims about v1 answer, which is the version that the paper's figure is of; v3 is another."""
    told = {str(setting): setting for setting in data}
    figures: dict[str, list[Claim]] = {}
    for each in made:
        if told[each.where].version == "v1" and math.isfinite(each.found.value):
            figures.setdefault(each.figure, []).append(each)
    found = [_answer(figure, members) for figure, members in figures.items()]
    about = ", ".join(dict.fromkeys(setting.data for setting in data))
    return unit.record(
        "answers",
        {"of": sorted({record.key for record in drawn}), "rules": RULES},
        lambda _: Result({"answers": len(found)}, answers=found, data={"data": about}),
    )


def _answer(figure: str, members: Sequence[Claim]) -> dict[str, Any]:
    first, names = members[0], list(dict.fromkeys(each.record.data["data"] for each in members))
    stand_in = names != [OWN] or any(each.record.data["stand_in"] for each in members)
    holds = all(each.found.holds for each in members)
    words = (f"{each.says}: {each.found.note}{'' if each.found.holds else f' ({each.found.word})'}" for each in members)
    return {
        "id": figure,
        "value": first.found.value,
        "tasks": first.record.evidence["tasks"],
        "seeds": 1,
        "verdict": "other data" if stand_in else "same direction" if holds else "not reached",
        "stand_in": stand_in,
        "data": ", ".join(names),
        "note": "; ".join(words),
    }


def _over(values: np.ndarray) -> Summary:
    """Average what is a number, with its interval."""
    known = torch.from_numpy(np.asarray(values, dtype=float).ravel())
    return over_tasks(known[known.isfinite()][None])


def _signed(found: Summary) -> str:
    return f"{found.value:+.3f} ± {found.ci95:.3f}"
