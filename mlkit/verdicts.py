"""Rules that turn records into answers to the papers' figures, which print no numbers; and the table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from IPython.display import Markdown

from mlkit.evaluation import Summary, over_seeds
from mlkit.papers import row, verdict
from mlkit.stored import Record

RULES = 2  # grows with every change of a rule, so that a stored verdict is decided anew
FIGURE_12 = {"omniglot": "003/F12a", "mini_imagenet": "003/F12b", "cifar_fs": "003/F12b", "fc100": "003/F12b"}


def learns_and_generalizes(records: Mapping[tuple[str, int, str], Record], *, ways: int) -> list[dict[str, Any]]:
    """Answer paper 003, figure 12: meta-train and meta-test accuracy through training.

    The shape is there if, in every setting of a panel, meta-test accuracy ends above chance by more than its interval
    and above where it started, and meta-train accuracy ends no lower than the interval below meta-test accuracy.

    Args:
        records: (data set, shots, method) -> record of an accuracy experiment that tracked test tasks.
        ways: classes of a task.

    Returns:
        One answer a panel, its value the mean final meta-test accuracy in percent; none for data of no panel.
    """
    panels: dict[tuple[str, str], list[tuple[str, Record]]] = {}
    for (data, shots, method), record in records.items():
        if data in FIGURE_12:
            panels.setdefault((FIGURE_12[data], data), []).append((f"{method} {shots}-shot", record))
    return [_panel(panel, data, shown, 1 / ways) for (panel, data), shown in panels.items()]


def _panel(panel: str, data: str, shown: list[tuple[str, Record]], chance: float) -> dict[str, Any]:
    failed = [label for label, record in shown if not _has_shape(record, chance)]
    first = shown[0][1]
    stand_in = data != "omniglot" and data != "mini_imagenet"
    decided = "other data" if stand_in else "not reached" if failed else "same direction"
    numbers = ", ".join(f"{label} {100 * record.scores['mean']:.1f}" for label, record in shown)
    without = f"; without the shape: {', '.join(failed)}" if failed else ""
    return {
        "id": panel,
        "value": 100 * sum(record.scores["mean"] for _, record in shown) / len(shown),
        "tasks": first.evidence["tasks"],
        "seeds": len(first.settings["seeds"]),
        "verdict": decided,
        "stand_in": stand_in,
        "data": data,
        "note": f"test accuracy in percent: {numbers}{without}",
    }


def _has_shape(record: Record, chance: float) -> bool:
    train, test = (record.arrays[f"history_{name}"].mean(1) for name in ("train_accuracy", "test"))
    watched = record.settings["tracked_test_tasks"]
    interval = record.scores["ci95"] * math.sqrt(record.evidence["tasks"] / watched)  # of the fewer tasks of the curve
    return bool(test[-1] > chance + interval and test[-1] > test[0] and train[-1] > test[-1] - interval)


def best_validation(record: Record) -> Summary:
    """Return the best validation error of each seed, averaged over seeds: what paper 002's authors plot for sine waves.

    Points at which a run had diverged do not count.
    """
    history = torch.from_numpy(record.arrays["history_validation"]).double().nan_to_num(nan=math.inf)
    return over_seeds(history.min(0).values[:, None])


def against_anchor(label: str, record: Record, low: float, high: float) -> dict[str, Any]:
    """Compare the best validation error with a range [low, high] read off a plot.

    "Reproduced" within the intervals of it; "same direction" clearly below it, for a better error with the same
    settings means that something else differs; "not reached" above it.
    """
    ours = best_validation(record)
    reach = 0.0 if math.isnan(ours.ci95) else ours.ci95
    middle, half = (low + high) / 2, (high - low) / 2
    below = ours.value + reach < low
    decided = verdict(middle, ours.value, ci95=reach, rounding=half, better="equal", same_direction=below)
    printed = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    note = f"{ours.count} seeds" + ("; clearly better, so the settings cannot be quite the same" if below else "")
    return {"item": label, "paper": printed, "ours": str(ours), "verdict": decided, "note": note}


def keeps_improving(label: str, record: Record) -> dict[str, Any]:
    """Check that the mean error is lower after the last of a record's test steps than after the first.

    The note counts single tasks, because one that diverges decides a mean.
    """
    first, last = (record.arrays[name].astype(float) for name in ("test_scores", "test_scores_last"))
    seeds = np.sort(np.median(last, axis=1))
    diverged = int((~(last < 100 * first.max())).sum())
    return {
        "item": label,
        "paper": "falls further",
        "ours": f"mean {first.mean():.3g}, then {last.mean():.3g} "
        f"(median {np.median(first):.3g}, then {np.median(last):.3g})",
        "verdict": "same direction" if last.mean() < first.mean() else "not reached",
        "note": f"{100 * (last < first).mean():.1f} % of {first.size} task scores improve, {diverged} diverge; "
        f"the seeds' medians at the end go from {seeds[0]:.2g} to {seeds[-1]:.2g}",
    }


def of_answers(record: Record) -> list[dict[str, Any]]:
    """Return the rows of `table` for a record's answers."""
    shown = []
    for answer in record.answers:
        paper = row(answer["id"])
        shown.append(
            {
                "item": f"{answer['id']}: {paper.metric}, {paper.dataset}",
                "paper": "no number" if paper.value is None else f"{paper.value}",
                "ours": _shown(answer["value"]),
                "verdict": answer["verdict"],
                "note": answer["note"],
            }
        )
    return shown


def _shown(value: float | str | None) -> str:
    """Show two decimals; a value too small for them with two digits of its own; a dash where there is no number."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:.2g}" if 0 < abs(value) < 0.1 else f"{value:.2f}"


def table(rows: Sequence[Mapping[str, Any]]) -> Markdown:
    """Show verdicts: what, the paper's value, ours, the verdict and why."""
    if not rows:
        return Markdown("No figure of a paper is answered with these parameters.")
    lines = ["| what | paper | ours | verdict | note |", "|---|---|---|---|---|"]
    lines += [f"| {r['item']} | {r['paper']} | {r['ours']} | **{r['verdict']}** | {r['note']} |" for r in rows]
    return Markdown("\n".join(lines))
