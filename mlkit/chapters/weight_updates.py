"""Appendix G of paper 000: how far five steps move the weights of a joint-trained and of a meta-learned network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mlkit.chapters.claims import Claim, Found, above
from mlkit.chapters.segmentation import Records, Training
from mlkit.chapters.table2 import JOINT, STAR, percent
from mlkit.evaluation import Summary, over_tasks
from mlkit.figures import Series
from mlkit.landscape.displacement import MEASURES, WHOLE, displacement
from mlkit.models import block_of
from mlkit.records import Result, Unit, Work
from mlkit.stored import Record

TITLES = {  # measure: what an axis calls it
    "distance": "distance d₁",
    "unit_distance": "distance of unit vectors d₂",
    "mean_absolute": "mean absolute change d₃",
}
HEAD = "head"
LAST = 2  # blocks that count as the final layers: the last decoder and the head
RATIO = "000/text/App.-G-5-gradient-steps/error-rate-ratio"


def moves(unit: Unit, training: Training) -> Record:
    """Return how far each test task moves the weights; measure where it is missing.

    Scores: `blocks`, "all" first. Arrays: for each measure (blocks, tasks).
    """
    trained, shots = training.record(), training.parameters.shots[0]

    def compute(work: Work) -> Result:
        how = training.execution
        found = displacement(
            training.learner,
            {name: tensor.to(how.device) for name, tensor in training.weights().items()},
            training.test(shots),
            block=block_of,
            chunk_size=how.evaluation_chunk,
            device=how.device,
        )
        blocks = list(next(iter(found.values())))
        arrays = {name: torch.stack([values[block] for block in blocks]).float() for name, values in found.items()}
        return Result({"blocks": blocks}, arrays, trained.data, tasks=training.setting.test_tasks)

    settings = {"of": [trained.key], "shots": shots, "measures": sorted(MEASURES)}
    return unit.record(f"moves-{training.stem}", settings, compute)


def blocks(record: Record) -> list[str]:
    """Return the names of the blocks, from the image to the logits."""
    return [name for name in record.scores["blocks"] if name != WHOLE]


def whole(record: Record, *, head: bool = True) -> np.ndarray:
    """Return how far each task moves all weights, d1 (tasks,); without the head, if asked."""
    names, values = record.scores["blocks"], record.arrays["distance"].astype(float)
    every = values[names.index(WHOLE)]
    return every if head else np.sqrt(np.maximum(every**2 - values[names.index(HEAD)] ** 2, 0))


def by_block(record: Record, measure: str) -> Series:
    """Return the mean over tasks of each block, with its 95 % interval."""
    rows = [record.scores["blocks"].index(name) for name in blocks(record)]
    found = [mean(record.arrays[measure][row]) for row in rows]
    value, reach = (np.array([getattr(one, name) for one in found]) for name in ("value", "ci95"))
    return Series(value, value - reach, value + reach)


def panels(records: Mapping[str, Record]) -> dict[str, dict[str, Series]]:
    """Return the panels of figure 7 for `figures.block_bars`: d1, d2 and d3 of each method, block by block."""
    return {
        title: {method: by_block(record, measure) for method, record in records.items()}
        for measure, title in TITLES.items()
    }


def ratios(records: Mapping[str, Record], measure: str = "distance") -> dict[str, float]:
    """Return, block by block, how many times as far joint-trained weights move as meta-learned ones."""
    joint, star = (by_block(records[method], measure).value for method in (JOINT, STAR))
    return dict(zip(blocks(records[STAR]), (joint / np.maximum(star, 1e-30)).tolist(), strict=True))


def claims(moved: Records, trained: Records) -> Iterator[Claim]:
    """Yield what figures 6 and 7 show, checked on the same tasks under both initializations."""
    for setting in dict.fromkeys(setting for setting, _ in moved):
        if {(setting, STAR), (setting, JOINT)} <= moved.keys():
            pair = {method: moved[setting, method] for method in (STAR, JOINT)}
            for figure, says, found in _findings(pair):
                yield Claim(f"000/{figure}", says, str(setting), trained[setting, STAR], found)


def _findings(pair: Mapping[str, Record]) -> Iterator[tuple[str, str, Found]]:
    """Yield figure, claim and finding."""
    star, joint = (whole(pair[method]) for method in (STAR, JOINT))
    difference, ratio = mean(joint - star), float(np.nanmean(joint) / np.nanmean(star))
    bare = np.nanmean(whole(pair[JOINT], head=False)) / np.nanmean(whole(pair[STAR], head=False))
    note = (
        f"{np.nanmean(joint):.3g} against {np.nanmean(star):.3g}, {ratio:.2f} times as far; {bare:.2f} without the head"
    )
    yield "F6-left", "joint-trained weights move further", Found(_above(difference), ratio, note)
    share = mean(np.where(np.isfinite(joint - star), joint > star, np.nan))
    note = f"in {share.value:.1%} of the tasks"
    yield "F6-right", "they do so in nearly all tasks", Found(_above(share, 0.9), share.value, note)
    for figure, measure in (("F7-left", "distance"), ("F7-middle", "unit_distance"), ("F7-right", "mean_absolute")):
        yield figure, "joint-trained weights move further in every block", _everywhere(pair, measure)
    yield "F7-middle", "direction changes most in the final layers", _largest(pair, "unit_distance", last=True)
    yield "F7-right", "single weights change most in early layers", _largest(pair, "mean_absolute", last=False)


def _everywhere(pair: Mapping[str, Record], measure: str) -> Found:
    names, index = blocks(pair[STAR]), pair[STAR].scores["blocks"].index
    star, joint = (pair[method].arrays[measure].astype(float) for method in (STAR, JOINT))
    told = [_above(mean(joint[index(name)] - star[index(name)])) for name in names]
    most, times = max(ratios(pair, measure).items(), key=lambda item: item[1])
    holds = True if all(told) else False if False in told else None
    note = f"surely in {told.count(True)} of {len(names)}; at most {times:.1f} times, in {most}"
    return Found(holds, times, note)


def _largest(pair: Mapping[str, Record], measure: str, *, last: bool) -> Found:
    """Check in which block the mean is largest; early layers are the first half of those before the head."""
    names = [name for name in blocks(pair[STAR]) if last or name != HEAD]
    wanted = names[-LAST:] if last else names[: len(names) // 2]
    tops = {}
    for method, record in pair.items():
        series = dict(zip(blocks(record), by_block(record, measure).value, strict=True))
        tops[method] = max(names, key=lambda name: series[name])
    note = ", ".join(f"{method}: {top}" for method, top in tops.items())
    return Found(all(top in wanted for top in tops.values()), float(len(set(tops.values()))), note)


def answers(found: list[Claim], trained: Records) -> list[dict[str, Any]]:
    """Answer each figure by the setting nearest to the paper's, and the ratio of errors that the text prints."""
    setting = min((setting for setting, _ in trained), key=lambda s: (s.data != "fss1000", s.is_drawn))
    said = [claim for claim in found if claim.where == str(setting)]
    given = [
        _answer(figure, [c for c in said if c.figure == figure]) for figure in dict.fromkeys(c.figure for c in said)
    ]
    if given:
        star, joint = (percent(trained[setting, method], 5)[0] for method in (STAR, JOINT))
        value = (100 - joint) / max(100 - star, 1e-9)
        evidence = said[0].record.data
        note = "1 - IoU of both at five shots; the paper divides its 1-shot value by its 5-shot value"
        given.append({"id": RATIO, "value": value, "same_direction": value > 1, "note": note, **_data(evidence)})
    return given


def _answer(figure: str, members: list[Claim]) -> dict[str, Any]:
    first, holds = members[0], all(claim.found.holds for claim in members)
    stand_in = first.record.data["stand_in"]
    note = "; ".join(f"{c.says}: {c.found.note}{'' if c.found.holds else f' ({c.found.word})'}" for c in members)
    verdict = "other data" if stand_in else "same direction" if holds else "not reached"
    tasks, seeds = first.record.evidence["tasks"], len(first.record.settings["seeds"])
    return {"id": figure, "value": first.found.value, "tasks": tasks, "seeds": seeds, "verdict": verdict, "note": note,
            **_data(first.record.data)}  # fmt: skip


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"stand_in": data["stand_in"], "data": data["data"]}


def _above(found: Summary, level: float = 0.0) -> bool | None:
    """Tell whether a mean lies above a level, with its interval; None where that leaves it open."""
    return above(found.value - found.ci95 - level, found.value + found.ci95 - level)


def mean(values: np.ndarray) -> Summary:
    """Average what is finite over tasks (tasks,), with the 95 % interval."""
    return over_tasks(torch.from_numpy(values[np.isfinite(values)].astype(float))[None])
