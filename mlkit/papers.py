"""The rows that the four papers print, and what our answer to one of them may be called."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlkit.project import nearest
from mlkit.project import root as project_root

VERDICTS = ("reproduced", "same direction", "not reached", "other data")
LOWER = ("mse", "error", "time", "loss")  # metrics that are better when lower
GAINS = ("gain", "reduction", "ratio")  # how much one method is ahead of another: better when higher, whatever of
EXACT = ("hyperparameter", "count", "epochs", "class_name", "range", "list")  # units of what a paper states, not scores


class AnswerError(ValueError):
    """An answer names no row of the papers, or contradicts the row or the data."""


@dataclass(frozen=True)
class Row:
    """One table cell or one figure (panel) of a paper, with the value it prints; a figure has none."""

    id: str
    source: str
    item: str
    shape: str
    detail: str
    method: str
    dataset: str
    metric: str
    printed: str = ""
    printed_ci95: str = ""
    unit: str = ""
    note: str = ""

    @property
    def setting(self) -> str:
        """Ways and shots, then what else the paper says of the setting."""
        return "; ".join(filter(None, [self.shape, self.detail]))

    @property
    def value(self) -> float | str | None:
        """The printed value: a number where it is one."""
        try:
            return float(self.printed) if self.printed else None
        except ValueError:
            return self.printed

    @property
    def ci95(self) -> float | None:
        """The printed half-width of the 95 % interval."""
        return float(self.printed_ci95) if self.printed_ci95 else None

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        if not isinstance(self.value, float):
            return 0.0
        mantissa, _, exponent = self.printed.lower().partition("e")
        return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))

    @property
    def better(self) -> str:
        """Which way is better: `higher`, `lower`, or `equal` for what is not a score."""
        if self.unit in EXACT:
            return "equal"
        return "lower" if self._is_any(LOWER) and not self.is_gain else "higher"

    @property
    def is_gain(self) -> bool:
        """Whether it is the lead of one method over another, which may turn out negative."""
        return self._is_any(GAINS)

    def _is_any(self, words: tuple[str, ...]) -> bool:
        return any(word in self.metric.lower() for word in words)


def rows(root: Path | None = None) -> dict[str, Row]:
    """Return every row of the papers by its id: tables, then numbers in the text, then figures, paper by paper.

    Raises:
        AnswerError: there is no `book/paper/` in the project.
    """
    return _read((root or project_root()).resolve())


@cache
def _read(root: Path) -> dict[str, Row]:
    checkout = Path(__file__).resolve().parents[1]
    for folder in (root / "book/paper", checkout / "book/paper"):
        if folder.is_dir():
            break
    else:
        raise AnswerError(
            f"expected the papers' numbers in {root / 'book/paper'}; run inside a checkout of the project"
        )
    found = [_table_row(line) for line in _lines(folder / "results.csv")]
    found += [_figure_row(line) for line in _lines(folder / "figures.csv")]
    return {row.id: row for row in sorted(found, key=lambda row: row.source)}


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table_row(line: Mapping[str, str]) -> Row:
    item = "text" if line["table"] == "text" else f"Table {line['table']}"
    ways = f"{line['ways']}-way" if line["ways"].isdigit() else line["ways"]
    shots = f"{line['shots']}-shot" if line["shots"] else ""
    return Row(
        line["id"],
        line["source"],
        item,
        " ".join(filter(None, [ways, shots])),
        line["setting"],
        line["method"],
        line["dataset"],
        line["metric"],
        line["value"],
        line["ci95"],
        line["unit"],
        line["note"],
    )


def _figure_row(line: Mapping[str, str]) -> Row:
    return Row(
        line["id"],
        line["source"],
        f"Figure {line['figure']}{' ' * (len(line['panel']) > 1)}{line['panel']}",
        "",
        "; ".join(filter(None, [line["title"], line["shows"]])),
        line["method"],
        line["dataset"],
        line["metric"],
    )


def row(identity: str, root: Path | None = None) -> Row:
    """Return the row called `identity`.

    Raises:
        AnswerError: there is none; the message names the nearest.
    """
    known = rows(root)
    if identity not in known:
        raise AnswerError(
            f"unknown row {identity!r} of the papers; {nearest(identity, known)}the ids are in book/paper/*.csv"
        )
    return known[identity]


def verdict(
    paper: float | None,
    ours: float | None,
    *,
    ci95: float | None = None,
    paper_ci95: float | None = None,
    rounding: float = 0.0,
    better: str = "higher",
    same_direction: bool = False,
    stand_in: bool = False,
) -> str:
    """Say what our value is to the paper's, by the weakest evidence that applies.

    - `other data`: measured on a stand-in, whatever the value.
    - `reproduced`: |ours - paper| <= sqrt(ci95^2 + paper_ci95^2) + rounding, or ours is better than the paper's.
    - `same direction`: short of that, but the comparison that the paper draws holds (`same_direction`).
    - `not reached`: anything else, also where there is no value to compare.

    Args:
        paper: the printed value; None for a figure, of which a number alone reproduces nothing.
        ours: our value in the same unit.
        ci95: half-width of our 95 % interval.
        paper_ci95: half-width of the paper's.
        rounding: half a unit of the paper's last printed digit.
        better: `higher` or `lower` for scores, `equal` where being above or below is no merit.
        same_direction: the ordering or trend that the paper reports holds in our results too.
        stand_in: our data is not the paper's.

    Example:
        >>> verdict(63.11, 62.4, ci95=0.6, paper_ci95=0.92)
        'reproduced'
    """
    if stand_in:
        return "other data"
    if paper is not None and ours is not None:
        margin = math.hypot(ci95 or 0.0, paper_ci95 or 0.0) + rounding
        ahead = {"higher": ours > paper, "lower": ours < paper, "equal": False}[better]
        if ahead or abs(ours - paper) <= margin + 1e-9 * abs(paper):  # the bound itself counts
            return "reproduced"
    return "same direction" if same_direction else "not reached"


def judged(answer: Mapping[str, Any], *, data: Mapping[str, Any], root: Path | None = None) -> dict[str, Any]:
    """Complete an answer: look its row up, check its value, and give it the verdict that its data allows.

    Args:
        root: the project's folder.
        answer: `id` and `value` (in the row's unit); optional `ci95`, `tasks`, `seeds`, `note`, `same_direction`,
            `stand_in` and `data` (where they differ from the record's), and `verdict`, which is computed where a row
            prints a number and must be given for a figure.
        data: `describe()` of the record's tasks; its `stand_in` decides for the whole record.

    Returns:
        The keys id, value, ci95, tasks, seeds, verdict, note, stand_in, data.

    Raises:
        AnswerError: unknown id or key, a value outside the row's unit, or a verdict that the data does not allow.
    """
    optional = ("ci95", "tasks", "seeds", "note", "same_direction", "stand_in", "data", "verdict")
    if missing := {"id", "value"} - answer.keys():
        raise AnswerError(f"expected an answer with id and value, got none of {', '.join(sorted(missing))} in {answer}")
    for key in answer.keys() - {"id", "value", *optional}:
        raise AnswerError(f"unknown key {key!r} in the answer {answer['id']!r}; {nearest(key, optional)}")
    given = dict.fromkeys(optional) | dict(answer)
    paper = row(given["id"], root)
    _check_unit(paper, given["value"])
    stand_in = bool(given["stand_in"] if given["stand_in"] is not None else data.get("stand_in", False))
    return {
        **{key: given[key] for key in ("id", "value", "ci95", "tasks", "seeds")},
        "verdict": _decided(paper, given, stand_in),
        "note": given["note"] or "",
        "stand_in": stand_in,
        "data": given["data"] or data.get("data"),
    }


def _decided(paper: Row, given: Mapping[str, Any], stand_in: bool) -> str:
    claimed = given["verdict"]
    if claimed is not None and claimed not in VERDICTS:
        raise AnswerError(
            f"unknown verdict {claimed!r} for {paper.id}; {nearest(claimed, VERDICTS)}valid: {', '.join(VERDICTS)}"
        )
    if stand_in:
        if claimed not in (None, "other data"):
            raise AnswerError(
                f"{paper.id}: expected the verdict 'other data' for a stand-in, got {claimed!r}; leave it out"
            )
        return "other data"
    if claimed is not None:
        return claimed
    if paper.value is None and not given["same_direction"]:
        raise AnswerError(f"{paper.id} prints no number: expected a verdict with the answer, got none")
    numeric = isinstance(paper.value, float)
    return verdict(
        paper.value if numeric else None,
        given["value"] if numeric else None,
        ci95=given["ci95"],
        paper_ci95=paper.ci95,
        rounding=paper.rounding,
        better=paper.better,
        same_direction=bool(given["same_direction"]),
    )


def _check_unit(paper: Row, value: Any) -> None:
    limit = {"fraction": 1.0, "percent": 100.0}.get(paper.unit)
    least = -math.inf if paper.is_gain else 0
    if limit and isinstance(value, (int, float)) and not least <= value <= limit:
        raise AnswerError(f"{paper.id}: expected a {paper.unit} in [{least:g}, {limit:g}], got {value}; convert it")
