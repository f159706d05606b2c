"""Reproduction status: every row that the papers print, joined with the best answer found in the records."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit import papers, project
from mlkit.records import SHIPPED, records
from mlkit.stored import Record

TITLES = {
    "000": "Meta-learning initializations for image segmentation",
    "002": "Stateless neural meta-learning using second-order gradients",
    "003": "Towards understanding generalization in gradient-based meta-learning",
    "004": "Meta-learning with latent embedding optimization",
}


@dataclass(frozen=True)
class Status:
    """A row of a paper with our answer to it, where there is one, and the record that holds the answer."""

    row: papers.Row
    answer: Mapping[str, Any] | None = None
    record: Record | None = None
    place: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as `mlkit status --json` prints it; what has no answer yet is None."""
        answer = self.answer or {}
        return {
            "source": self.row.source,
            "item": self.row.item,
            "setting": self.row.setting,
            "method": self.row.method,
            "dataset": self.row.dataset,
            "stand_in": answer.get("stand_in"),
            "metric": self.row.metric,
            "paper": self.row.value,
            "ours": answer.get("value"),
            "ci95": answer.get("ci95"),
            "tasks": answer.get("tasks"),
            "seeds": answer.get("seeds"),
            "verdict": answer.get("verdict"),
            "record": self.place,
        }


def rows(root: Path | None = None) -> list[Status]:
    """Return every row of the papers, answered or not, in the papers' order.

    Of several answers to a row the one on the paper's data counts before a stand-in's, a shipped record before a local
    one, then more seeds, more tasks, the later date.

    Raises:
        AnswerError: a record answers a row that no paper has.
        RecordError: a record is damaged.
    """
    top = (root or project.root()).resolve()
    best: dict[str, tuple[tuple[Any, ...], Status]] = {}
    for record in records(top):
        place = record.path.relative_to(top).as_posix()
        for answer in record.answers:
            try:
                status = Status(papers.row(answer["id"], top), answer, record, place)
            except papers.AnswerError as error:
                raise papers.AnswerError(f"{place}: {error}") from None
            rank = _rank(status)
            if status.row.id not in best or rank > best[status.row.id][0]:
                best[status.row.id] = (rank, status)
    return [best[row.id][1] if row.id in best else Status(row) for row in papers.rows(top).values()]


def _rank(status: Status) -> tuple[Any, ...]:
    answer = status.answer
    shipped = status.place.startswith(SHIPPED)
    counts = (answer["seeds"] or 0, answer["tasks"] or 0)
    return (not answer["stand_in"], shipped, *counts, status.record.evidence["date"])


def number(value: float | str | None, ci95: float | None = None, digits: int = 4) -> str:
    """Return a value with its interval as text: `0.612 ± 0.0050`; nothing for None."""
    if value is None or isinstance(value, str):
        return value or ""
    text = f"{value:.{digits}g}"
    return text if ci95 is None else f"{text} ± {ci95:.2g}"


def printed(row: papers.Row) -> str:
    """Return a paper's value as the paper prints it."""
    return f"{row.printed} ± {row.printed_ci95}" if row.printed_ci95 else row.printed


def what(row: papers.Row) -> str:
    """Return what tells a row from its neighbors: the method, or the quantity where the paper states one."""
    is_quantity = row.unit in papers.EXACT and row.unit != "class_name"
    return row.metric if is_quantity or not row.method else row.method


def summary(statuses: Iterable[Status]) -> str:
    """Return one line that counts the verdicts."""
    verdicts = [(status.answer or {}).get("verdict") for status in statuses]
    counts = [f"{verdicts.count(word)} {word}" for word in papers.VERDICTS]
    return f"{len(verdicts)} rows: {', '.join(counts)}, {verdicts.count(None)} not answered yet"


def table(statuses: Sequence[Status], width: int = 120) -> str:
    """Return the rows as text at most `width` columns wide (80 to 200), one block a paper."""
    width = min(max(width, 80), 200)
    blocks = []
    for source, members in _grouped(statuses, _source).items():
        lines = [_cells(status) for status in members]
        blocks.append(_cut(f"{source} {TITLES.get(source, '')}", width) + "\n" + _aligned(lines, width))
    return "\n\n".join([*blocks, textwrap.fill(summary(statuses), width)])


def _cells(status: Status) -> tuple[str, ...]:
    answer = status.answer or {}
    row = status.row
    ours = number(answer.get("value"), answer.get("ci95"))
    item = row.item.replace("Table ", "T").replace("Figure ", "F")
    setting = row.shape or row.detail
    return item, what(row), row.dataset, setting, _cut(printed(row), 13), ours, answer.get("verdict") or ""


def _aligned(lines: Sequence[tuple[str, ...]], width: int) -> str:
    """Set the columns; what does not fit is taken from the texts (method, data, setting), never from the numbers."""
    head = ("item", "method", "data", "setting", "paper", "ours", "verdict")
    sizes = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    spare = width - 2 * (len(head) - 1) - sum(sizes[i] for i in (0, 4, 5, 6))
    for column, share in ((2, 0.3), (1, 0.55), (3, 1.0)):
        sizes[column] = min(sizes[column], int(spare * share))
        spare -= sizes[column]
    return "\n".join(
        "  ".join(_cut(cell, size).ljust(size) for cell, size in zip(line, sizes, strict=True) if size).rstrip()
        for line in (head, *lines)
    )


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: max(size - 1, 0)] + "…"


def _source(status: Status) -> str:
    return status.row.source


def _grouped(statuses: Iterable[Status], key: Callable[[Status], str]) -> dict[str, list[Status]]:
    groups: dict[str, list[Status]] = {}
    for status in statuses:
        groups.setdefault(key(status), []).append(status)
    return groups


def reproduction_markdown(root: Path | None = None) -> str:
    """Return the page `book/reproduction.md`: one table a paper, one line a figure or table row, verdicts in words.

    Raises:
        AnswerError: a record answers a row that no paper has.
        RecordError: a record is damaged.
    """
    statuses = rows(root)
    parts = [_PREFACE.format(summary=summary(statuses))]
    for source, members in _grouped(statuses, _source).items():
        parts.append(f"## {TITLES.get(source, source)}\n\n{summary(members)}.\n")
        for heading, lines in _grouped(members, _heading).items():
            details = {status.row.detail for status in lines}
            shared = _escaped(details.pop()) if len(details) == 1 and heading != "Figures" else ""
            parts.append(
                "\n\n".join(filter(None, [f"### {heading}", shared, _markdown_table(lines, bool(shared))])) + "\n"
            )
    return "\n".join(parts)


def _heading(status: Status) -> str:
    item = status.row.item
    return "Figures" if item.startswith("Figure") else {"text": "Numbers in the text"}.get(item, item)


def _markdown_table(statuses: Sequence[Status], is_shared: bool) -> str:
    head = ("what", "data", "paper", "ours", "tasks × seeds", "verdict", "record")
    lines = [head, ("---",) * len(head), *(_markdown_cells(status, is_shared) for status in statuses)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cells(status: Status, is_shared: bool) -> tuple[str, ...]:
    row, answer = status.row, status.answer or {}
    is_figure = row.item.startswith("Figure")
    label = ", ".join(filter(None, [row.item if is_figure else what(row), row.shape, "" if is_shared else row.detail]))
    if what(row) == row.metric and row.method and not is_figure:
        label = f"{label} ({row.method})"
    data = f"{row.dataset} (ours: {answer['data'] or 'a stand-in'})" if answer.get("stand_in") else row.dataset
    unit = " %" if row.unit == "percent" else ""
    paper = "a figure" if is_figure else printed(row) + unit if row.printed else "not reported"
    ours = number(answer.get("value"), answer.get("ci95"))
    counts = " × ".join(str(answer[key]) for key in ("tasks", "seeds") if answer.get(key))
    verdict = answer.get("verdict") or "not answered yet"
    note = f": {answer['note']}" if answer.get("note") else ""
    texts = (label, data, paper, ours + unit if ours else "", counts, verdict + note)
    return (*map(_escaped, texts), f"`{status.place}`" if status.place else "")


def _escaped(text: str) -> str:
    return re.sub(r"([*_$|<\\])", r"\\\1", text)


_PREFACE = textwrap.dedent("""\
    # Reproduction

    Every table row and every figure of the four papers, with what our records say about it. This page is generated
    from them.

    {summary}.

    - **reproduced**: measured on the paper's data, and the difference lies within the combined 95 % intervals (and
      the paper's rounding), or ours is better.
    - **same direction**: the paper's data; the value is not reached, but the comparison that the paper draws holds.
    - **not reached**: the paper's data, and neither of the two.
    - **other data**: measured on a stand-in for the paper's data; never called a reproduction, whatever the value.

    Intervals (±) are the half-width of a 95 % interval: the paper's as it prints them, ours over tasks. A figure
    prints no number to compare; its verdict says whether our figure shows what the paper's text says it shows.
    """)
