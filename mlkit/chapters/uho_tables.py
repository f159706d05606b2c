"""Tables 4 and 5 of paper 000 and table 2's rows with UHO: the paper's beside ours, and the answers they make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from IPython.display import Markdown

from mlkit.chapters.claims import Claim
from mlkit.chapters.methods import Setting
from mlkit.chapters.table2 import JOINT, STAR, TABLE, escaped
from mlkit.chapters.tuning import Tunable, is_there
from mlkit.chapters.update_hyperparameters import DEEP, DEEPER, Case, told
from mlkit.evaluation import over_tasks
from mlkit.figures import Bar, Series
from mlkit.papers import row
from mlkit.status import printed
from mlkit.stored import Record
from mlkit.uho import Range

NAMES = {  # of a hyperparameter: in table 4, in table 5
    "inner_lr": "learning-rate",
    "steps": "steps",
    "dropout": "dropout-rate",
    "augmentation_rate": "augmentation-rate",
    "batch_size": "batch-size",
}
WITH_UHO = {  # method: shots: row of table 2
    JOINT: {1: "Joint-trained+UHO", 5: "Joint-trained-on-FSS-1000+UHO"},
    STAR: {1: "FOMAML*+UHO", 5: "FOMAML*+UHO"},
    DEEP: {5: "EffLab-6-3-FOMAML*+UHO"},
}


def result(case: Case) -> str | None:
    """Return the id of the row of table 2 that a search leads to, where the paper has one."""
    name = WITH_UHO.get(case.method, {}).get(case.shots)
    return f"{TABLE[case.shots]}/{name}" if name else None


def found_values(case: Case) -> dict[str, tuple[float, str | None]]:
    """Return what a search found: hyperparameter -> its value and the id of the paper's row, where it has one."""
    values = {**case.best["values"], "steps": case.best["steps"]}
    if case.method == DEEP:
        return {name: (values[name], f"000/T5/{NAMES[name]}" if case.shots == 5 else None) for name in values}
    known = case.method in (JOINT, STAR) and case.shots in (1, 5)
    method = case.method.capitalize() if case.method == JOINT else case.method
    place = f"000/T4/{case.shots}-shot/{method}"
    return {name: (value, f"{place}/{NAMES[name]}" if known else None) for name, value in values.items()}


def routines(cases: Iterable[Case]) -> Markdown:
    """Show tables 4 and 5: every value that a search found, beside the paper's and that of meta-training.

    A value at a bound of its range says so.
    """
    lines = ["| initialization | tuned | in meta-training | ours | the paper |", "|---|---|---:|---:|---:|"]
    for case in cases:
        for name, (value, paper) in found_values(case).items():
            before, says = case.tunable.routine[name], row(paper).printed if paper else "–"
            ours = f"{value:.4g}" + " (at a bound)" * _bounds(case, name).borders(value)
            lines.append(f"| {escaped(case.label)} | {name.replace('_', ' ')} | {before:.4g} | {ours} | {says} |")
    return Markdown("\n".join(lines))


def _bounds(case: Case, name: str) -> Range:
    """Return the range of a hyperparameter; that of a number of steps that was found on the way ends at the largest."""
    return case.tunable.space.ranges.get(name, Range(1, case.tunable.max_steps))


def gains(cases: Iterable[Case]) -> Markdown:
    """Show the rows of table 2 with UHO: IoU before and after on the same test tasks, their difference, the paper's.

    In front what the search believed to have gained, on its validation tasks.
    """
    head = "| initialization | in validation | before | after UHO | difference | the paper, after |"
    lines = [head, "|---|---|---:|---:|---|---:|"]
    for case in cases:
        first, best = (100 * number(each["score"]) for each in (case.search.scores["training"], case.best))
        paper, after = result(case), case.judged.scores
        ours = f"{100 * after['mean']:.1f} ± {100 * number(after['ci95']):.1f}"
        says = printed(row(paper)) if paper else "–"
        before = f"{100 * case.tunable.before.mean():.1f}"
        judged = f"{before} | {ours} | {told(case.gain)}"
        lines.append(f"| {escaped(case.label)} | {first:.1f} → {best:.1f} | {judged} | {says} |")
    return Markdown("\n".join(lines))


def bars(cases: Iterable[Case]) -> list[Bar]:
    """Return IoU on test tasks before and after UHO for `figures.score_bars`."""
    found = []
    for case in cases:
        scores = over_tasks(100 * torch.from_numpy(case.tunable.before).double()[None])
        found.append(Bar(f"{case.label}", scores.value, scores.ci95))
        after = case.judged.scores
        found.append(Bar(f"{case.label}, UHO", 100 * after["mean"], 100 * number(after["ci95"])))
    return found


def number(value: float | None) -> float:
    """Return a number of a record; NaN where it had none."""
    return math.nan if value is None else value


def believed(found: Record, scale: float = 1.0) -> Series:
    """Return what a search believed in the end: the mean of the Gaussian process and its 95 % band, (grid,)."""
    mean, half = (scale * found.arrays[name][-1] for name in ("mean", "deviation"))
    return Series(mean, mean - 1.96 * half, mean + 1.96 * half)


def fixed_or_not(rows: Iterable[tuple[Tunable, Record, Record]]) -> Markdown:
    """Show, for each learner, the routine of meta-training, the best found, and what it gains on test tasks."""
    lines = [
        "| learner | in meta-training | score | tuned | score | gain | is there |",
        "|---|---|---:|---|---:|---|---|",
    ]
    for one, search, judged in rows:
        best, gain = search.scores["best"] or search.scores["training"], one.gain(judged)
        before = f"{one.routine['steps']} steps of {one.routine['inner_lr']:.3g} | {one.before.mean():.4g}"
        after = f"{best['steps']} steps of {best['values']['inner_lr']:.3g} | {judged.scores['mean']:.4g}"
        sure = {True: "yes", False: "no, it is worse", None: "open"}[is_there(gain)]
        lines.append(f"| {escaped(one.label)} | {before} | {after} | {gain} | {sure} |")
    return Markdown("\n".join(lines))


def answers(cases: list[Case], claims: list[Claim], parameters: Any) -> list[dict[str, Any]]:
    """Answer figure 3, tables 4 and 5, table 2's rows with UHO and the text, in the setting nearest to the paper's."""
    setting = min({case.setting for case in cases}, key=lambda s: (s.data != "fss1000", s.is_drawn))
    mine = [case for case in cases if case.setting == setting]
    return [*_figure(setting, claims), *_values(mine), *_results(mine), *_text(mine, parameters)]


def _figure(setting: Setting, claims: list[Claim]) -> Iterator[dict[str, Any]]:
    members = [claim for claim in claims if claim.figure == "F3" and claim.where == str(setting)]
    if not members:
        return
    holds, data = all(claim.found.holds for claim in members), _data(members[0].record)
    verdict = "other data" if data["stand_in"] else "same direction" if holds else "not reached"
    note = "; ".join(f"{c.says}: {c.found.note}{'' if c.found.holds else f' ({c.found.word})'}" for c in members)
    yield {"id": "000/F3", "value": float(np.mean([c.found.value for c in members])), "verdict": verdict,
           "note": note, **data}  # fmt: skip


def _values(cases: list[Case]) -> Iterator[dict[str, Any]]:
    """Answer tables 4 and 5; as in the paper is what lies on its side of the value of meta-training."""
    for case in cases:
        for name, (value, paper) in found_values(case).items():
            if paper:
                before, says = case.tunable.routine[name], row(paper).value
                alike = (value - before) * (says - before) > 0 or value == says
                tasks = case.search.evidence["tasks"]
                yield {"id": paper, "value": value, "same_direction": alike, "tasks": tasks, **_data(case.trained)}


def _results(cases: list[Case]) -> Iterator[dict[str, Any]]:
    for case in cases:
        if paper := result(case):
            after, note = case.judged.scores, f"against the routine of meta-training: {told(case.gain)}"
            yield {
                "id": paper, "value": 100 * after["mean"], "ci95": 100 * number(after["ci95"]), "note": note,
                "tasks": case.gain.count, "seeds": 1, "same_direction": is_there(case.gain) is True,
                **_data(case.trained),
            }  # fmt: skip


def _text(cases: list[Case], parameters: Any) -> Iterator[dict[str, Any]]:
    first = cases[0]
    span = first.tunable.space.ranges["inner_lr"]
    said = f"{span.low:g}..{span.high:g}"
    key = "000/text/UHO-search-range/learning-rate-range"
    yield {"id": key, "value": said, "same_direction": said == row(key).value, **_data(first.trained)}
    yield {"id": "000/text/UHO/number-of-configurations", "value": parameters.trials, **_data(first.trained)}
    yield {"id": "000/text/UHO-EfficientLab-3/max-steps", "value": parameters.max_steps, **_data(first.trained)}
    if any(case.method == DEEP for case in cases):
        steps = DEEPER * parameters.max_steps
        yield {"id": "000/text/UHO-EfficientLab-6-3/max-steps", "value": steps, **_data(first.trained)}


def _data(record: Record) -> dict[str, Any]:
    return {"stand_in": record.data["stand_in"], "data": record.data["data"]}


def cost(cases: Iterable[Case]) -> Markdown:
    """Say what searches took: trials, how many of them diverged, inner steps in all, minutes, hardware."""
    lines = ["| setting | search | trials | diverged | inner steps | minutes |", "|---|---|---:|---:|---:|---:|"]
    shown = list(cases)
    for case in shown:
        asked, seconds = case.search.settings, case.search.evidence["seconds"]
        steps = 2 * asked["tasks"] * asked["max_steps"] * asked["trials"]
        told_of = f"{asked['trials']} | {case.search.scores['diverged']} | {steps:,} | {seconds / 60:.1f}"
        lines.append(f"| {case.setting} | {escaped(case.label)} | {told_of} |")
    hardware = [case.search.evidence["hardware"] for case in shown]
    where = " and ".join(sorted({h["gpu"] or f"{h['cores']} CPU cores" for h in hardware}))
    total = sum(case.search.evidence["seconds"] + case.judged.evidence["seconds"] for case in shown) / 60
    return Markdown("\n".join([*lines, "", f"In all {total:.1f} minutes on {where}, test tasks included."]))
