"""What paper 002 says of its sine figures, checked on records; medians and intervals over runs that may diverge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import fdtri, stdtrit

from mlkit import verdicts
from mlkit.chapters.claims import Claim, Found, above
from mlkit.evaluation import Summary, median_of_runs
from mlkit.figures import Series
from mlkit.papers import row, verdict
from mlkit.records import Result, Unit
from mlkit.stored import Record

RULES = 2  # grows with every change of a rule, so that a stored verdict is decided anew
SIZES = "002/text/sine-regression-split-sizes/train-val-test-tasks"
Grid = Mapping[tuple[str, int, int | None], Record]  # method, inner steps, hidden layers -> a training of figure 3.2
DEEP = (5, 6)  # hidden layers that the paper finds best
TASKS = 70_000  # that the paper trains each run on
ANCHORS = {  # best validation errors in the authors' notebook, read off its plots, of 30 runs
    ("MAML", 1, None): (0.66, 0.68),
    ("FOMAML", 1, None): (0.69, 0.71),
    ("MAML", 5, None): (0.50, 0.55),
    ("TURTLE", 1, 0): (0.74, 0.76),
    ("TURTLE", 1, 2): (0.59, 0.61),
    ("TURTLE", 5, 6): (0.36, 0.38),
    ("TURTLE (first order)", 1, 5): (1.2, 2.1),
}


def median(record: Record) -> Summary:
    """Return the median test error, as figure 3.3 has it: per run over tasks, then the mean, outlying runs left out."""
    return _of_few(median_of_runs(torch.from_numpy(_known(record.arrays["test_scores"]))))


def best_validation(record: Record) -> Summary:
    """Return the best validation error of each run, averaged over runs."""
    return _of_few(verdicts.best_validation(record))


def _of_few(found: Summary) -> Summary:
    """Widen a 95 % interval over runs by Student's t, which few runs need: 4.30 standard errors of three."""
    wider = float(stdtrit(found.count - 1, 0.975)) / 1.96 if found.count > 1 else math.nan
    return replace(found, ci95=found.ci95 * wider)


def diverged_at(record: Record) -> np.ndarray:
    """Return the outer steps at which runs of a record diverged, in ascending order; none where none did."""
    steps = np.array(record.scores.get("diverged_at", []), dtype=int)
    return np.sort(steps[steps >= 0])


def median_over_runs(values: np.ndarray) -> Series:
    """Return the median over runs (..., runs) with its 95 % interval, which assumes no distribution.

    Its ends are order statistics: below the k-th lowest of n runs the true median lies with a probability of
    P(Binomial(n, 1/2) < k), at most 2.5 %. With five runs or fewer no interval is that sure, and the ends are the
    lowest and the highest. What is not a number is a run that diverged, and counts as worse than all others.

    Example:
        >>> median_over_runs(np.arange(30.0)[None]).low, median_over_runs(np.arange(30.0)[None]).high
        (array([9.]), array([20.]))
    """
    ordered = np.sort(_known(values), axis=-1)
    runs = ordered.shape[-1]
    chances = np.cumsum([math.comb(runs, k) / 2**runs for k in range(runs)])
    k = max(1, int((chances <= 0.025).sum()))
    ends = np.median(ordered, axis=-1), ordered[..., k - 1], ordered[..., runs - k]
    return Series(*(np.where(np.isfinite(end), end, np.nan) for end in ends))


def curves(records: Mapping[str, Record], name: str) -> tuple[np.ndarray, dict[str, Series]]:
    """Return training tasks seen by a run (points,), and a quantity of the history, the median over runs.

    A record whose runs have all diverged has no more points; it goes on as not a number.
    """
    longest = max(records.values(), key=lambda record: len(record.arrays["history_iteration"]))
    at = longest.arrays["history_iteration"] * longest.settings["outer"]["meta_batch"]
    found = {}
    for label, record in records.items():
        values = record.arrays[f"history_{name}"].astype(float)
        missing = np.full((len(at) - len(values), values.shape[1]), np.nan)
        found[label] = median_over_runs(np.concatenate([values, missing]))
    return at, found


def depths(records: Grid) -> tuple[list[int], dict[str, dict[str, Series]]]:
    """Return the panels of figure 3.2, one for each T: method -> best validation error over hidden layers.

    The value is the median over runs with its 95 % interval; MAML, which has no such layers, is a level line.
    """
    layers = sorted({depth for _, _, depth in records if depth is not None})
    panels: dict[str, dict[str, Series]] = {}
    for method, steps, _ in records:
        title = f"T = {steps}: best validation error (MSE)"
        asked = [(method, steps, depth if method.startswith("TURTLE") else None) for depth in layers]
        runs = np.stack([_known(records[key].arrays["history_validation"]).min(0) for key in asked])
        panels.setdefault(title, {}).setdefault(method, median_over_runs(runs))
    return layers, panels


def lower(ours: Summary, theirs: Summary) -> Found:
    """Check that an error is below another, their intervals apart."""
    gap, reach = theirs.value - ours.value, ours.ci95 + theirs.ci95
    words = f"{ours} against {theirs}, over {ours.count} and {theirs.count} runs"
    return Found(above(gap - reach, gap + reach), ours.value, words)


def compared(records: Mapping[str, Record]) -> Iterator[Claim]:
    """Yield the claims of figure 3.3, of medians over test tasks: TURTLE is below MAML, LSTM and its first order."""
    ours = records.get("TURTLE")
    others = {"MAML": "MAML's", "LSTM": "the LSTM's", "TURTLE (first order)": "that of its first order"}
    for method, words in others.items():
        if ours and method in records:
            where = f"{_scale(ours)}, T = {ours.settings['learner']['inner_steps']}"
            found = lower(median(ours), median(records[method]))
            figure = "ours" if method == "TURTLE (first order)" else "002/F3.3"  # which has no first-order TURTLE
            yield Claim(figure, f"TURTLE's median error is below {words}", where, ours, found)


def swept(records: Grid) -> Iterator[Claim]:
    """Yield the claims of figure 3.2: order matters to TURTLE, less to MAML; depth helps; more steps, less stable."""
    numbers = {cell: best_validation(record) for cell, record in records.items()}
    for steps in dict.fromkeys(steps for _, steps, _ in records):
        best = {
            name: min((cell for cell in records if cell[:2] == (name, steps)), key=lambda cell: numbers[cell].value)
            for name in dict.fromkeys(method for method, *_ in records)
        }
        where, record = f"{_scale(records[best['TURTLE']])}, T = {steps}", records[best["TURTLE"]]
        found = lower(numbers[best["TURTLE"]], numbers[best["TURTLE (first order)"]])
        yield Claim("002/F3.2", "first-order TURTLE does not reach second-order TURTLE, each at its best depth", where,
                    record, found)  # fmt: skip
        found = _order_matters_more({name: numbers[cell] for name, cell in best.items()})
        yield Claim("002/F3.2", "the order matters less to MAML", where, record, found)
        deep, other = (
            [cell for cell in records if cell[:2] == ("TURTLE", steps) and (cell[2] in DEEP) is wanted]
            for wanted in (True, False)
        )
        if deep and other:
            found = _deep_is_best(
                *(min(those, key=lambda cell: numbers[cell].value) for those in (deep, other)), numbers
            )
            yield Claim("002/F3.2", "5 or 6 hidden layers are best", where, record, found)
    yield from _stability(records)


def _order_matters_more(best: Mapping[str, Summary]) -> Found:
    gaps = [
        (best[first].value - best[second].value, math.hypot(best[first].ci95, best[second].ci95))
        for first, second in (("TURTLE (first order)", "TURTLE"), ("FOMAML", "MAML"))
    ]
    (ours, our_reach), (theirs, their_reach) = gaps
    reach = math.hypot(our_reach, their_reach)
    words = f"first order is worse by {ours:.3g} ± {our_reach:.2g}, MAML's by {theirs:.3g} ± {their_reach:.2g}"
    return Found(above(ours - theirs - reach, ours - theirs + reach), ours, words)


def _deep_is_best(deep: Any, other: Any, numbers: Mapping[Any, Summary]) -> Found:
    """Check that the best of the paper's depths is below the best of the others, their intervals apart."""
    found = lower(numbers[deep], numbers[other])
    return found._replace(note=f"{deep[2]} layers against {other[2]}: {found.note}")


def _stability(records: Grid) -> Iterator[Claim]:
    """Yield the claim that runs differ more with more inner steps.

    Compared is the variance over runs relative to the squared mean, averaged over depths; the 95 % interval of the
    ratio is that of Fisher's F. Runs without any finite validation are counted and left out.
    """
    by_steps = {
        steps: [record for (method, own, _), record in records.items() if (method, own) == ("TURTLE", steps)]
        for steps in sorted({steps for _, steps, _ in records})
    }
    if len(by_steps) < 2:
        return
    first, last = min(by_steps), max(by_steps)
    (small, few), (large, many) = (_relative_variance(by_steps[steps]) for steps in (first, last))
    ratio = large / small if few and many and small > 0 else math.nan
    ends = (ratio / fdtri(many, few, 0.975), ratio / fdtri(many, few, 0.025)) if few and many else (math.nan, math.nan)
    lost = {steps: sum(len(diverged_at(record)) for record in by_steps[steps]) for steps in (first, last)}
    said = f"relative variance over runs {ratio:.2g} times as large with T = {last} ({ends[0]:.2g} to {ends[1]:.2g}); "
    said += ", ".join(f"{count} runs diverged with T = {steps}" for steps, count in lost.items())
    record = by_steps[last][0]
    holds = above(ends[0] - 1, ends[1] - 1)
    yield Claim("002/F3.2", "TURTLE is less stable with more steps", _scale(record), record, Found(holds, ratio, said))


def _relative_variance(records: Iterable[Record]) -> tuple[float, int]:
    """Return the variance over runs of the best validation error over its squared mean, pooled, and its freedom."""
    total, freedom = 0.0, 0
    for record in records:
        best = _known(record.arrays["history_validation"]).min(0)
        best = best[np.isfinite(best)]
        if len(best) > 1:
            total += (len(best) - 1) * float(best.var(ddof=1) / best.mean() ** 2)
            freedom += len(best) - 1
    return (total / freedom if freedom else math.nan), freedom


def anchored(records: Grid) -> list[dict[str, Any]]:
    """Compare best validation errors with those in the authors' notebook, as rows of `mlkit.verdicts.table`.

    "Reproduced" where the intervals meet, after as many training tasks as theirs; "same direction" clearly below;
    else "not reached".
    """
    rows = []
    for cell, (low, high) in ANCHORS.items():
        if cell not in records:
            continue
        method, steps, depth = cell
        ours = best_validation(records[cell])
        reach = 0.0 if math.isnan(ours.ci95) else ours.ci95
        middle, half, is_below = (low + high) / 2, (high - low) / 2, ours.value + reach < low
        paper = middle if _tasks(records[cell]) >= TASKS else None
        decided = verdict(paper, ours.value, ci95=reach, rounding=half, better="equal", same_direction=is_below)
        layers = "" if depth is None else f", {depth} hidden layers"
        note = f"{_scale(records[cell])}; theirs {TASKS:,} and 30" + (
            "; clearly better than theirs" if is_below else ""
        )
        rows.append({"item": f"{method}, T = {steps}{layers}: best validation error", "paper": f"{low:g} to {high:g}",
                     "ours": str(ours), "verdict": decided, "note": note})  # fmt: skip
    return rows


def answer(unit: Unit, claims: Iterable[Claim], drawn: Iterable[Record], parameters: Any) -> Record:
    """Store what the claims answer, one answer a figure, and the sizes of the splits; anew when a training changes."""
    p, figures = parameters, {}
    for each in (claim for claim in claims if claim.figure != "ours"):
        figures.setdefault(each.figure, []).append(each)
    found = [_answer(figure, members) for figure, members in figures.items()]
    sizes = f"{p.iterations * p.meta_batch}/{p.validation_tasks}/{p.test_tasks}"
    same = "reproduced" if sizes == row(SIZES).printed else "not reached"
    found.append({"id": SIZES, "value": sizes, "verdict": same, "note": "training tasks are drawn fresh for each run"})
    keys = sorted({record.key for record in drawn})
    data = {"data": "sine", "stand_in": False}
    return unit.record("answers", {"of": keys, "sizes": sizes, "rules": RULES},
                       lambda _: Result({"answers": len(found)}, answers=found, data=data))  # fmt: skip


def _answer(figure: str, claims: list[Claim]) -> dict[str, Any]:
    record, holds = claims[0].record, all(each.found.holds for each in claims)
    note = "; ".join(f"{each.says} ({each.where}): {each.found.word}, {each.found.note}" for each in claims)
    return {"id": figure, "value": claims[0].found.value, "tasks": record.evidence["tasks"],
            "seeds": len(record.settings["seeds"]), "verdict": "same direction" if holds else "not reached",
            "note": note}  # fmt: skip


def _scale(record: Record) -> str:
    return f"{_tasks(record):,} tasks, {len(record.settings['seeds'])} runs"


def _tasks(record: Record) -> int:
    return record.settings["outer"]["iterations"] * record.settings["outer"]["meta_batch"]


def _known(values: np.ndarray) -> np.ndarray:
    """Return values in double precision, infinite where they are not a number: a run that diverged."""
    return np.nan_to_num(np.asarray(values, dtype=float), nan=np.inf, posinf=np.inf)
