"""What the chapter on learned optimizers and images draws besides its tables: learning, cost, and coherence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from IPython.display import Markdown

from mlkit.chapters.claims import ACCURACY, Claim, Found, above
from mlkit.chapters.epochs import curves
from mlkit.chapters.learned_images_settings import RULES, Setting
from mlkit.chapters.learned_images_tables import Records, run_seconds
from mlkit.chapters.panels import SHORT
from mlkit.figures import Bar, Timed
from mlkit.landscape.study import Correlation, across_runs, over_epochs
from mlkit.stored import Record

COHERENCE = {  # name in a record: what it is called in a claim
    "gradient_product": "the gradient product goes with accuracy",
    "trajectory_cosine": "the trajectory cosine goes with accuracy",
}


def of(records: Records, setting: Setting) -> dict[str, Record]:
    """Return the methods of one setting."""
    return {method: record for (where, method), record in records.items() if where == setting}


def learning(records: Records, setting: Setting) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return validation accuracy in percent, method -> (seeds, points), and the tasks seen (points,).

    Methods take their outer steps in batches of their own; points are read off at equal numbers of tasks. A method that
    is never trained before a task comes is left out.
    """
    rows = {method: record for method, record in of(records, setting).items() if "history_validation" in record.arrays}
    seen = {m: r.arrays["history_iteration"] * r.settings["outer"]["meta_batch"] for m, r in rows.items()}
    if not seen:
        return {}, np.empty(0)
    last, most = min(tasks[-1] for tasks in seen.values()), min(map(len, seen.values()))
    shared = np.linspace(0, last, most)
    read = {
        method: 100 * np.stack([np.interp(shared, seen[method], run) for run in record.arrays["history_validation"].T])
        for method, record in rows.items()
    }
    return read, shared


def descents(records: Records, setting: Setting) -> list[Bar]:
    """Return the accuracy in percent of each learned rule, and of its initialization under plain gradient descent."""
    found = []
    for method, record in of(records, setting).items():
        if method in RULES:
            for where, words in (("test", "by its rule"), ("descent", "by gradient descent")):
                scores = record.scores[where]
                found.append(Bar(f"{method}, {words}", 100 * scores["mean"], 100 * scores["ci95"]))
    return found


def times(records: Records, data: str) -> dict[str, dict[str, Timed]]:
    """Return the panels of figure 3.4 for one data set: setting -> method -> seconds of a run, accuracy in percent."""
    shown = [setting for setting in dict.fromkeys(key[0] for key in records) if setting.data == data]
    return {
        f"{setting}: test accuracy (%)": {
            method: Timed(run_seconds(record), 100 * record.scores["test"]["mean"], 100 * record.scores["test"]["ci95"])
            for method, record in of(records, setting).items()
        }
        for setting in shown
    }


def cost(records: Records) -> Markdown:
    """Show what every method took: seconds of a meta-task and of a test task, minutes of a run; and on what."""
    lines = ["| setting | method | ms a meta-task | ms a test task | minutes a run |", "|---|---|---:|---:|---:|"]
    for (setting, method), record in records.items():
        scores, seeds = record.scores, len(record.settings["seeds"])
        learned = f"{1000 * scores['task_seconds']:,.0f}" if scores["task_seconds"] else "–"
        judged = 1000 * scores["test_seconds"] / (2 * record.settings["test_tasks"] * seeds)
        lines.append(f"| {setting} | {method} | {learned} | {judged:,.0f} | {run_seconds(record) / 60:.1f} |")
    shown = list(records.values())
    total = sum(record.evidence["seconds"] for record in shown) / 60
    where = sorted({_machine(record) for record in shown})
    words = f"In all {total:.1f} minutes on {' and '.join(where)}, measuring the landscape included."
    return Markdown("\n".join([*lines, "", words]))


def _machine(record: Record) -> str:
    hardware = record.evidence["hardware"]
    return hardware["gpu"] or f"{hardware['cores']} cores of {hardware['cpu']}"


def coherence(record: Record, name: str) -> Correlation | None:
    """Correlate a metric with accuracy on new classes over the points of a training; None where it is not known.

    Several runs are independent of one another, so that their interval is over runs; that of a single one allows for
    neighbors in time that tell much the same.
    """
    drawn = curves(record)
    if (np.isfinite(drawn.mean(name)) & np.isfinite(drawn.mean(ACCURACY))).sum() < 3:
        return None
    found = over_epochs(drawn, name, ACCURACY)
    known = [value for value in found.runs if np.isfinite(value)]
    found = across_runs(known) if len(known) > 1 else found
    return found if np.isfinite(found.value) else None


def relations(records: Records) -> Iterator[Claim]:
    """Yield, for every training that was measured, whether coherence goes with accuracy: what no paper asks."""
    for (setting, method), record in records.items():
        for name, words in COHERENCE.items():
            if f"history_{name}" in record.arrays and (found := coherence(record, name)):
                note = f"{found} over {found.count} {'runs' if len(record.settings['seeds']) > 1 else 'points'}"
                decided = Found(above(found.low, found.high), found.value, note)
                yield Claim("ours", words, f"{setting}, {method}", record, decided)


def relation_bars(records: Records, setting: Setting) -> list[Bar]:
    """Return the correlations of one setting with their intervals."""
    bars = []
    for method, record in of(records, setting).items():
        for name in COHERENCE:
            if f"history_{name}" in record.arrays and (found := coherence(record, name)):
                bars.append(Bar(f"{method}, {SHORT[name]}", found.value, low=found.low, high=found.high))
    return bars


def counted(claims: list[Claim]) -> Markdown:
    """Say of how many trainings coherence goes with accuracy, learned updates apart from gradient descent."""
    lines = ["| | update | goes with accuracy | goes against it | open |", "|---|---|---:|---:|---:|"]
    for words in COHERENCE.values():
        for update, is_learned in (("gradient descent", False), ("learned", True)):
            about = [c.found.holds for c in claims if c.says == words and (_method(c) in RULES) is is_learned]
            cells = [str(about.count(value)) for value in (True, False, None)]
            lines.append(
                f"| {words.removeprefix('the ').removesuffix(' goes with accuracy')} | {update} | {' | '.join(cells)} |"
            )
    return Markdown("\n".join(lines))


def _method(claim: Claim) -> str:
    return claim.record.settings["method"]
