"""Rules that turn records into answers to the papers' figures, which print no numbers; and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.display import Markdown

from mlkit.papers import row
from mlkit.stored import Record

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
    verdict = "other data" if stand_in else "not reached" if failed else "same direction"
    numbers = ", ".join(f"{label} {100 * record.scores['mean']:.1f}" for label, record in shown)
    without = f"; without the shape: {', '.join(failed)}" if failed else ""
    return {
        "id": panel,
        "value": 100 * sum(record.scores["mean"] for _, record in shown) / len(shown),
        "tasks": first.evidence["tasks"],
        "seeds": len(first.settings["seeds"]),
        "verdict": verdict,
        "stand_in": stand_in,
        "data": data,
        "note": f"test accuracy in percent: {numbers}{without}",
    }


def _has_shape(record: Record, chance: float) -> bool:
    train, test = (record.arrays[f"history_{name}"].mean(1) for name in ("train_accuracy", "test"))
    interval = record.scores["ci95"]
    return bool(test[-1] > chance + interval and test[-1] > test[0] and train[-1] > test[-1] - interval)


def table(record: Record) -> Markdown:
    """Show a record's answers: the paper's item, its value, ours, the verdict and why."""
    lines = ["| paper | shows | its value | ours | verdict | note |", "|---|---|---|---|---|---|"]
    for answer in record.answers:
        paper = row(answer["id"])
        printed = "none printed" if paper.value is None else f"{paper.value}"
        lines.append(
            f"| {answer['id']} | {paper.metric}, {paper.dataset} | {printed} | {answer['value']:.2f} "
            f"| **{answer['verdict']}** | {answer['note']} |"
        )
    return Markdown("\n".join(lines) if record.answers else "No figure of a paper is answered with these parameters.")
