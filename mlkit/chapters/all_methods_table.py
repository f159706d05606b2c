"""All methods side by side, from records: the sortable table with its chart, and accuracy against the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from IPython.display import Markdown

from mlkit.chapters.all_methods import Records
from mlkit.chapters.all_methods_settings import LANDSCAPE, MEASURES, WITHOUT, Setting
from mlkit.figures import Bar
from mlkit.figures.linked import Choice, Linked, linked
from mlkit.figures.sortable import Cell, Column
from mlkit.landscape.study import correlation
from mlkit.stored import Record

UNMEASURED = "not measured with these parameters, or not finite"


@dataclass(frozen=True)
class Number:
    """A number of the table with the ends of its 95 % interval, where it has one; or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    remark: str = ""
    why: str = ""

    @property
    def cell(self) -> Cell:
        """What the table shows."""
        if self.value is None:
            return Cell("–", why=self.why)
        reach = f" ± {(self.high - self.low) / 2:.2g}" if self.low is not None and self.high is not None else ""
        size = abs(self.value)
        text = f"{self.value:,.0f}" if size >= 1000 else f"{self.value:.1f}" if size >= 10 else f"{self.value:.3g}"
        return Cell(text + reach + self.remark, self.value)


def of(records: Records, setting: Setting) -> dict[str, Record]:
    """Return the methods of one setting."""
    return {method: record for (where, method), record in records.items() if where == setting}


def settings_of(records: Records) -> list[Setting]:
    """Return the settings, in their order."""
    return list(dict.fromkeys(setting for setting, _ in records))


def iterations(record: Record) -> int:
    """Return how many outer steps a run took."""
    return record.settings["outer"]["iterations"]


def training_seconds(record: Record) -> float:
    """Return what the training of one run takes, features included and validation left out; 0 from scratch."""
    return record.scores["feature_seconds"] + iterations(record) * (record.scores["iteration_seconds"] or 0.0)


def clock(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds of training, and the best validation accuracy so far in percent, at every validation (points,).

    Seeds are averaged; nothing for a method that learns nothing beforehand.
    """
    if not iterations(record) or "history_validation" not in record.arrays:
        return np.empty(0), np.empty(0)
    step = record.scores["iteration_seconds"]
    seconds = record.scores["feature_seconds"] + step * record.arrays["history_iteration"].astype(float)
    accuracy = np.nan_to_num(record.arrays["history_validation"].astype(float))
    return seconds, 100 * np.maximum.accumulate(accuracy, axis=0).mean(1)


def equal_time(records: Records, setting: Setting) -> float | None:
    """Return the seconds that the quickest method learned for: what all have had; None where none learned."""
    return min((s for r in of(records, setting).values() if (s := training_seconds(r)) > 0), default=None)


def reached(record: Record, seconds: float | None) -> float | None:
    """Return the best validation accuracy in percent within so many seconds; None before a method's first point."""
    at, accuracy = clock(record)
    if seconds is None or not len(at) or seconds < at[0]:
        return None
    return float(np.interp(seconds, at, accuracy))


def number(records: Records, setting: Setting, method: str, name: str) -> Number:
    """Return one number of the table; names are those of MEASURES."""
    record, why = records[setting, method], WITHOUT.get(name, {}).get(method)
    if why:
        return Number(None, why=why)
    scores = record.scores
    if name == "accuracy":
        return _around(100 * scores["mean"], scores["ci95"])
    if name == "at_equal_time":
        value = reached(record, equal_time(records, setting))
        return Number(value, why="its features were not done by then")
    if name == "training":
        return Number(training_seconds(record))
    if name == "iteration":
        batch = record.settings["outer"]["meta_batch"]
        return Number(1000 * scores["iteration_seconds"], remark=f" ({batch})")
    if name == "memory":
        return Number(scores["iteration_bytes"] / 2**20)
    if name == "adapting":
        return Number(1000 * scores["adapt_seconds"])
    found = scores.get(name) or {}
    value = found.get("value")
    return Number(value, found.get("low"), found.get("high"), why="" if value is not None else UNMEASURED)


def _around(percent: float, ci95: float | None) -> Number:
    half = None if ci95 is None else 100 * ci95
    return Number(percent) if half is None else Number(percent, percent - half, percent + half)


def view(records: Records) -> Linked:
    """Return the linked chart and table of all records."""
    columns = [Column("method"), Column("setting")]
    columns += [Column(m.title, m.says, descending=bool(m.more_is_better)) for m in MEASURES.values()]
    choices = []
    for setting, method in records:
        numbers = {name: number(records, setting, method, name) for name in MEASURES}
        cells = [Cell(method, is_words=True), Cell(str(setting), is_words=True), *(n.cell for n in numbers.values())]
        accuracy = numbers["accuracy"]
        half = 0.0 if accuracy.low is None else accuracy.value - accuracy.low
        quantities = {MEASURES[name].title: n.value for name, n in numbers.items() if name != "accuracy"}
        choices.append(Choice(method, str(setting), accuracy.value, half, cells, quantities))
    costs = [measure.title for measure in MEASURES.values() if measure.is_cost]
    return linked(choices, columns, y_title=MEASURES["accuracy"].title, log=[*costs, MEASURES["curvature"].title])


def missing(records: Records) -> Markdown:
    """List what is not in the table, and why: one line for each reason."""
    there, lines = {method for _, method in records}, {}
    for name, methods in WITHOUT.items():
        for method, why in methods.items():
            if method in there:
                lines.setdefault(why, ({}, {}))
                lines[why][0][MEASURES[name].title], lines[why][1][method] = None, None
    said = [f"- *{', '.join(titles)}* of {', '.join(methods)}: {why}." for why, (titles, methods) in lines.items()]
    return Markdown("\n".join(said) or "Every number of these methods means something.")


def bars(records: Records, setting: Setting) -> list[Bar]:
    """Return the accuracy of every method in percent, the best first."""
    found = [
        Bar(method, 100 * r.scores["mean"], 100 * (r.scores["ci95"] or 0.0))
        for method, r in of(records, setting).items()
    ]
    return sorted(found, key=lambda bar: -bar.value)


def curves(records: Records, setting: Setting) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Return accuracy against the clock: method -> seconds, best validation accuracy so far in percent."""
    found = {method: clock(record) for method, record in of(records, setting).items()}
    return {method: curve for method, curve in found.items() if len(curve[0])}


def relations(records: Records) -> Markdown:
    """Correlate each metric of the landscape with accuracy over the methods of a setting.

    The product of gradients is left out: it grows with their length, which methods do not share.
    """
    compared = [name for name in LANDSCAPE if name != "gradient_product"]
    titles = " | ".join(MEASURES[name].title for name in compared)
    lines = [f"| setting | {titles} |", "|---" * (len(compared) + 1) + "|"]
    for setting in settings_of(records):
        cells = []
        for name in compared:
            pairs = [
                (n.value, records[setting, method].scores["mean"])
                for method in of(records, setting)
                if (n := number(records, setting, method, name)).value is not None
            ]
            x, y = np.array(pairs).reshape(-1, 2).T
            if len(x) < 4:
                cells.append("too few methods")
                continue
            found = correlation(x, y)
            known = math.isfinite(found.value)
            cells.append(f"{found}, {found.count} methods" if known else "does not change")
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return Markdown("\n".join(lines))


def cost(records: Records) -> Markdown:
    """Say what all of this took."""
    shown = list(records.values())
    total = sum(record.evidence["seconds"] for record in shown) / 3600
    hard = [record.evidence["hardware"] for record in shown]
    where = sorted({h["gpu"] or f"{h['cores']} cores of {h['cpu']}" for h in hard})
    took = f"{total:.1f} hours" if total >= 1 else f"{60 * total:.1f} minutes"
    return Markdown(f"{len(shown)} trainings with all that was measured of them took {took} on {' and '.join(where)}.")
