"""Table 1 of paper 000: what the decoder is worth. Four networks, meta-trained alike by FOMAML*."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlkit.chapters.columns import settings_of
from mlkit.chapters.methods import COLUMNS, Setting
from mlkit.chapters.pairs import Gain
from mlkit.chapters.segmentation import Training
from mlkit.chapters.table2 import Records, ahead, percent
from mlkit.papers import row
from mlkit.records import Result, Unit
from mlkit.stored import Record

BASE = "FOMAML*"
RULES = 1  # grows with every change of a rule, so that a stored verdict is decided anew


class Row(NamedTuple):
    """A row of table 1: its id in the papers' tables, and its decoder in words."""

    id: str
    decoder: str


ROWS = {
    "FOMAML* (Auto-DeepLab)": Row(
        "000/T1/Auto-DeepLab-decoder", "pyramid pooling, then depthwise separable layers on the joined features"
    ),
    "FOMAML* (no residual)": Row("000/T1/RSD-at-Stage-3-without-residual", "one RSD, at stage 3, without its addition"),
    BASE: Row("000/T1/RSD-at-Stage-3", "one RSD, at stage 3: EfficientLab-3"),
    "FOMAML* (6-3)": Row("000/T1/RSD-at-Stages-6-3", "two of them, at stages 6 and 3: EfficientLab-6-3"),
}


def trainings(parameters: Any) -> dict[tuple[Setting, str], Record]:
    """Return the records of every row in every setting of the parameters; compute those that are missing.

    Raises:
        ValueError: a method is no row of table 1, or the columns of the settings differ in length.
    """
    for method in parameters.methods:
        if method not in ROWS:
            raise ValueError(f"expected methods out of {', '.join(ROWS)}; got {method!r}")
    return {
        (setting, method): Training(setting, method, parameters).record()
        for setting in settings(parameters)
        for method in parameters.methods
    }


def settings(parameters: Any) -> list[Setting]:
    """Return one setting for each entry of the columns `data`, `sizes`, ... of a parameters cell.

    Raises:
        ValueError: the columns differ in length.
    """
    columns = {name: field for name, field in COLUMNS.items() if field != "joint_iterations"}
    return settings_of(parameters, columns, Setting, joint_iterations=0)


def answers(records: Records, setting: Setting, shots: int) -> list[dict[str, Any]]:
    """Answer the rows of table 1: mean IoU in percent, and what each network is against EfficientLab-3.

    The comparison that the paper draws holds for a row if it lies on the same side of EfficientLab-3 as in the paper,
    by more than the 95 % interval of the paired difference; for EfficientLab-3 itself, if it holds for all others.
    """
    mine = {method: record for (where, method), record in records.items() if where == setting}
    against = {m: ahead(records, setting, m, BASE, shots) for m in mine if BASE in mine and m != BASE}
    found = []
    for method, record in mine.items():
        compared = against if method == BASE else {m: points for m, points in against.items() if m == method}
        value, ci95 = percent(record, shots)
        found.append(
            {
                "id": ROWS[method].id,
                "value": value,
                "ci95": ci95,
                "tasks": record.evidence["tasks"],
                "seeds": len(record.settings["seeds"]),
                "same_direction": bool(compared) and all(_as_printed(*pair) for pair in compared.items()),
                "note": "; ".join(f"{_short(m)} against EfficientLab-3: {points}" for m, points in compared.items()),
            }
        )
    return found


def verdict(unit: Unit, records: Records, setting: Setting, shots: int) -> Record:
    """Store the answers of one setting, beside the keys of the records that they come from."""
    mine = [record for (where, _), record in records.items() if where == setting]
    found, of = answers(records, setting, shots), sorted(record.key for record in mine)
    result = Result({"answers": len(found)}, answers=found, data=mine[0].data)
    return unit.record("table-1", {"of": of, "shots": shots, "rules": RULES}, lambda _work: result)


def _as_printed(method: str, points: Gain) -> bool:
    """Tell whether a row lies on the paper's side of EfficientLab-3, surely."""
    printed = row(ROWS[method].id).value - row(ROWS[BASE].id).value
    over = points.seeds if points.seeds.count > 1 else points.tasks
    return over.value * printed > 0 and abs(over.value) > over.ci95


def _short(method: str) -> str:
    return method.partition("(")[2].rstrip(")")
