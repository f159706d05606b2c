"""Table 2 of paper 000 from records: its rows beside ours, what the paper says of them, and the answers they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython.display import Markdown

from mlkit.chapters.claims import Claim, Found
from mlkit.chapters.methods import Setting
from mlkit.chapters.pairs import Gain
from mlkit.chapters.segmentation import DROPOUT, POINTS, Records
from mlkit.evaluation import over_seeds, over_tasks
from mlkit.papers import row
from mlkit.status import printed
from mlkit.stored import Record

TABLE = {1: "000/T2a", 5: "000/T2b"}
STAR, REPTILE, JOINT, ENCODER = "FOMAML*", "Reptile", "joint-trained", "transfer (encoder alone)"
DISJOINT, BARE, TEN, SCRATCH = "FOMAML (disjoint)", "FOMAML* (no regularization)", "Reptile (10 shots)", "from scratch"
IDS = {  # method: shots: the row of the paper
    ENCODER: {1: "ImageNet-trained-encoder", 5: "ImageNet-trained-encoder"},
    JOINT: {1: "Joint-trained", 5: "Joint-trained-on-FSS-1000"},
    REPTILE: {1: "Reptile", 5: "Reptile"},
    DISJOINT: {5: "FOMAML-D_tr-and-D_val-disjoint"},
    BARE: {5: "FOMAML*-regularization"},
    STAR: {1: "FOMAML*", 5: "FOMAML*"},
}


class Said(NamedTuple):
    """What the paper says of two rows; `weak` where its own intervals overlap: the first is not the worse one.

    words: empty where only this book asks.
    """

    better: str
    worse: str
    shots: tuple[int, ...]
    words: str
    weak: bool = False

    def holds(self, found: Gain) -> bool | None:
        """Tell whether a difference bears it out, beyond its 95 % interval; None where that leaves it open."""
        return found.is_there is not False if self.weak else found.is_there


CLAIMS = (
    Said(STAR, REPTILE, (1,), "FOMAML* is better than Reptile"),
    Said(STAR, REPTILE, (5,), "FOMAML* is no worse than Reptile", weak=True),
    Said(REPTILE, ENCODER, (1, 5), "Reptile is better than a pre-trained encoder"),
    Said(REPTILE, JOINT, (1, 5), "Reptile is better than joint training"),
    Said(STAR, ENCODER, (1, 5), "FOMAML* is better than a pre-trained encoder"),
    Said(STAR, JOINT, (1, 5), "FOMAML* is better than joint training"),
    Said(ENCODER, JOINT, (1, 5), "a pre-trained encoder is better than joint training"),
    Said(STAR, DISJOINT, (5,), "drawing both sets with replacement is better than disjoint sets"),
    Said(STAR, BARE, (5,), "regularization helps"),
    Said(REPTILE, TEN, (5,), "Reptile on 5 pictures of a class is better than on 10"),
    Said(STAR, SCRATCH, (1, 5), ""),
)
TEXT = {  # rows of the text: better and worse at five shots
    "000/text/FOMAML-disjoint-to-sampling-with-replacement/mean_IoU-gain": (STAR, DISJOINT),
    "000/text/Reptile-train-shots-10-to-5/mean_IoU-gain": (REPTILE, TEN),
}
SETTINGS = {  # row of table 3 and of the text: name of a parameter
    "000/T3/Meta-batch-size": "meta_batch",
    "000/T3/Inner-batch-size": "batch_size",
    "000/T3/Inner-steps": "inner_steps",
    "000/T3/Inner-learning-rate": "inner_lr",
    "000/T3/Augmentation-rate": "augmentation",
    "000/text/loss/L2-coefficient-lambda": "l2",
}
SGD = {"000/T3/Initial-meta-learning-rate": 1.0, "000/T3/Final-meta-learning-rate": 1e-4}  # shares of meta_lr


def identity(method: str, shots: int) -> str | None:
    """Return the id of the paper's row, where it has one."""
    name = IDS.get(method, {}).get(shots)
    return f"{TABLE[shots]}/{name}" if name else None


def ahead(records: Records, setting: Setting, better: str, worse: str, shots: int) -> Gain:
    """Return by how many points of IoU one method is ahead of another, task by task and run by run."""
    name = f"iou_{shots}_shot"
    after, before = (torch.from_numpy(records[setting, m].arrays[name]).double() for m in (better, worse))
    points = 100 * (after - before)
    return Gain(over_tasks(points), over_seeds(points))


def claims(records: Records) -> Iterator[Claim]:
    """Yield what the paper says of every two rows, with the difference on the same tasks that decides it."""
    for setting in dict.fromkeys(setting for setting, _ in records):
        for said in CLAIMS:
            for shots in said.shots:
                pair = [records.get((setting, method)) for method in (said.better, said.worse)]
                if None not in pair and all(f"{shots}-shot" in record.scores for record in pair):
                    found = ahead(records, setting, said.better, said.worse, shots)
                    note = f"{' against '.join(f'{percent(record, shots)[0]:.1f}' for record in pair)} %: {found}"
                    words = said.words or f"{said.better} is better than the same network {said.worse}"
                    figure = TABLE[shots][4:] if said.words else "ours"
                    result = Found(said.holds(found), found.tasks.value, note)
                    yield Claim(figure, words, f"{setting}, {shots}-shot", pair[0], result)


def answers(records: Records, parameters: Any) -> list[dict[str, Any]]:
    """Answer tables 2 and 3 and what the text adds, from the setting that is nearest to the paper's.

    The comparison that the paper draws holds for a row if every claim about it does.
    """
    known = [setting for setting, _ in records]
    if not known:
        return []
    setting = min(known, key=lambda s: (s.data != "fss1000", s.is_drawn))
    mine = {key: record for key, record in records.items() if key[0] == setting}
    return [*_rows(mine, setting), *_gains(mine, setting), *_settings(mine, setting, parameters)]


def _rows(records: Records, setting: Setting) -> Iterator[dict[str, Any]]:
    for (_, method), record in records.items():
        for shots in record.settings["shots"]:
            if (found := identity(method, shots)) is None:
                continue
            about = [
                said.holds(ahead(records, setting, said.better, said.worse, shots))
                for said in CLAIMS
                if said.words and shots in said.shots and method in said[:2]
                if all((setting, other) in records for other in said[:2])
            ]
            value, ci95 = percent(record, shots)
            yield {
                "id": found, "value": value, "ci95": ci95, "same_direction": bool(about) and all(about),
                "note": f"{about.count(True)} of {len(about)} comparisons as in the paper",
                "tasks": record.evidence["tasks"], "seeds": len(record.settings["seeds"]), **_data(record),
            }  # fmt: skip


def _gains(records: Records, setting: Setting) -> Iterator[dict[str, Any]]:
    for identity_, (better, worse) in TEXT.items():
        if {(setting, better), (setting, worse)} <= records.keys() and 5 in records[setting, better].settings["shots"]:
            found = ahead(records, setting, better, worse, 5)
            yield {
                "id": identity_, "value": found.tasks.value, "ci95": found.tasks.ci95, "same_direction": found.is_sure,
                "tasks": found.tasks.count, "seeds": found.seeds.count, **_data(records[setting, better]),
            }  # fmt: skip


def _settings(records: Records, setting: Setting, parameters: Any) -> Iterator[dict[str, Any]]:
    if (setting, STAR) not in records:
        return
    data, values = _data(records[setting, STAR]), _values(setting, parameters)
    if parameters.optimizer == "sgd":
        values |= {key: share * parameters.meta_lr for key, share in SGD.items()}
    values["000/text/evaluation-size/task-splits-per-method"] = setting.test_tasks
    for key, value in values.items():
        yield {"id": key, "value": value, **data}


def _values(setting: Setting, parameters: Any) -> dict[str, Any]:
    values = {key: getattr(parameters, name) for key, name in SETTINGS.items()}
    return values | {"000/T3/Meta-steps": setting.iterations, "000/T3/Final-layer-dropout-rate": DROPOUT}


def _data(record: Record) -> dict[str, Any]:
    return {"stand_in": record.data["stand_in"], "data": record.data["data"]}


def table(records: Records, setting: Setting) -> Markdown:
    """Show table 2: every row of ours beside the paper's, which is of other data where ours is a stand-in."""
    mine = {method: record for (where, method), record in records.items() if where == setting}
    shots = sorted(next(iter(mine.values())).settings["shots"])
    columns = [f"{source}, {k}-shot" for k in shots for source in ("ours", "the paper")]
    lines = ["| initialization | mini-batches | " + " | ".join(columns) + " |", "|---|" + "---:|" * (1 + len(columns))]
    for method, record in mine.items():
        cells = [escaped(method), f"{record.scores['mini_batches']:,}"]
        for k in shots:
            found = identity(method, k)
            cells += ["{:.1f} ± {:.1f}".format(*percent(record, k)), printed(row(found)) if found else "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return Markdown("\n".join(lines))


def hyperparameters(parameters: Any, setting: Setting) -> Markdown:
    """Show table 3: the paper's settings beside ours."""
    values = _values(setting, parameters) | {key: share * parameters.meta_lr for key, share in SGD.items()}
    lines = ["| setting | the paper | ours |", "|---|---:|---:|"]
    for key, value in sorted(values.items()):
        ours = f"{value:,}" if isinstance(value, int) else f"{value:g}"
        if key in SGD and parameters.optimizer != "sgd":
            ours += f" ({parameters.optimizer})"
        lines.append(f"| {row(key).metric} | {row(key).printed} | {ours} |")
    return Markdown("\n".join(lines))


def curves(records: Records, setting: Setting, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a quantity of the history in percent, method -> (seeds, points), and the share of the training (points,).

    Trainings differ in their number of outer steps; points are read off at equal shares.
    """
    share, found = np.linspace(0, 1, POINTS + 1), {}
    for (where, method), record in records.items():
        iterations = record.arrays["history_iteration"]
        if where == setting and iterations[-1] > 0:
            at, runs = iterations / iterations[-1], record.arrays[f"history_{name}"].T
            found[method] = 100 * np.stack([np.interp(share, at, run) for run in runs])
    return found, 100 * share


def percent(record: Record, shots: int) -> tuple[float, float]:
    """Return mean IoU over test tasks and its 95 % half width, in percent."""
    found = record.scores[f"{shots}-shot"]
    return 100 * found["mean"], 100 * (np.nan if found["ci95"] is None else found["ci95"])


def cost(records: Records) -> Markdown:
    """Say what trainings took: minutes, hardware, and mini-batches a second, by which longer ones can be reckoned."""
    lines = [
        "| setting | initialization | mini-batches | minutes | mini-batches a second |",
        "|---|---|---:|---:|---:|",
    ]
    for (setting, method), record in records.items():
        count, seconds = record.scores["mini_batches"], record.scores["train_seconds"]
        if count:
            told = f"{count:,} | {seconds / 60:.1f} | {count / seconds:.1f}"
            lines.append(f"| {setting} | {escaped(method)} | {told} |")
    shown = list(records.values())
    total = sum(record.evidence["seconds"] for record in shown) / 60
    where = sorted({r.evidence["hardware"]["gpu"] or f"{r.evidence['hardware']['cores']} CPU cores" for r in shown})
    words = f"In all {total:.1f} minutes on {' and '.join(where)}, watching and testing included."
    return Markdown("\n".join([*lines, "", words]))


def escaped(method: str) -> str:
    """Return a method's name as Markdown shows it."""
    return method.replace("*", "\\*")
