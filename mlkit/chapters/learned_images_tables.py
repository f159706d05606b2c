"""Tables 3.1 to 3.5 and figure 3.4 of paper 002 from records: ours beside the paper's, its claims, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from IPython.display import Markdown

from mlkit import papers
from mlkit.chapters.claims import Claim, Found
from mlkit.chapters.learned_images_settings import METHODS, OWN, Setting
from mlkit.chapters.pairs import Gain
from mlkit.evaluation import over_seeds, over_tasks
from mlkit.figures import Bar
from mlkit.papers import row
from mlkit.status import printed
from mlkit.stored import Record

Records = Mapping[tuple[Setting, str], Record]
PLACES = {  # data: the column of the paper that it stands in
    "mini_imagenet": "miniImageNet",
    "cub": "CUB",
    "cub_100_50_50": "CUB",
    "cifar_fs": "miniImageNet",
    "omniglot": "CUB",
}
TABLES = {"test": ("3.1", "3.2", "3.3"), "elsewhere": ("3.4", "3.5")}  # each holds rows of the first once more
ENHANCED = "002/text/enhanced-LSTM-vs-original/accuracy-gain"
SHARE = "002/text/share-of-image-settings-won/share"
FIGURE = {1: "002/F3.4-left", 5: "002/F3.4-right"}


class Said(NamedTuple):
    """What the paper says of two rows, on the data of training or elsewhere; `weak`: the first is not the worse one."""

    better: str
    worse: str
    words: str
    where: str = "test"
    weak: bool = False

    def holds(self, found: Gain) -> bool | None:
        """Tell whether a difference bears it out, beyond its 95 % interval; None where that leaves it open."""
        return found.is_there is not False if self.weak else found.is_there


SECOND, FIRST = ("TURTLE", "MAML"), ("TURTLE (first order)", "FOMAML")
CLAIMS = (
    Said("TURTLE", "TURTLE (first order)", "the second order helps TURTLE"),
    Said("LSTM (enhanced)", "LSTM", "raw gradients and the second order help the LSTM"),
    Said("TURTLE", "LSTM", "TURTLE is better than the LSTM"),
    Said("MAML", "Baseline++", "MAML is better than Baseline++"),
    Said("Baseline++", "finetuning", "a cosine head is no worse than a linear one", weak=True),
    Said("finetuning", "from scratch", "pre-training helps"),
    Said("TURTLE", "TURTLE (first order)", "elsewhere the second order does not hurt TURTLE", "elsewhere", weak=True),
    Said("LSTM (enhanced)", "LSTM", "elsewhere, too, raw gradients and the second order help the LSTM", "elsewhere"),
    Said("TURTLE", "LSTM", "elsewhere, too, TURTLE is better than the LSTM", "elsewhere"),
)
FASTER = (
    ("FOMAML", "MAML", "the first order is faster for MAML"),
    ("TURTLE (first order)", "TURTLE", "the first order is faster for TURTLE"),
    ("TURTLE", "LSTM (enhanced)", "TURTLE is faster than the enhanced LSTM"),
    ("TURTLE", "MAML", "TURTLE is not slower than MAML"),
)


def is_own(setting: Setting, where: str = "test") -> bool:
    """Say whether a result is on the paper's own data."""
    return setting.data in OWN and (where == "test" or setting.elsewhere in OWN)


def identities(setting: Setting, method: str, where: str = "test") -> list[str]:
    """Return the ids of the paper's cells that a training answers, the first table's first; none for made-up data."""
    places = [PLACES.get(name) for name in (setting.data, setting.elsewhere)]
    if where == "elsewhere" and (None in places or places[0] == places[1]):
        return []
    place = "-to-".join(map(str, places)) if where == "elsewhere" else places[0]
    found = [f"002/T{table}/{place}/5-way-{setting.shots}-shot/{METHODS[method]}" for table in TABLES[where]]
    return [identity for identity in found if identity in papers.rows()]


def ahead(records: Records, setting: Setting, better: str, worse: str, where: str = "test") -> Gain:
    """Return by how many points of accuracy one method is ahead of another, task by task and run by run."""
    after, before = (torch.from_numpy(records[setting, m].arrays[f"{where}_scores"]) for m in (better, worse))
    points = 100 * (after.double() - before.double())
    return Gain(over_tasks(points), over_seeds(points))


def claims(records: Records) -> Iterator[Claim]:
    """Yield what the paper says of tables 3.1 and 3.4 and of figure 3.4, with the numbers that decide it."""
    for setting in dict.fromkeys(setting for setting, _ in records):
        there = {method for where, method in records if where == setting}
        for said in CLAIMS:
            if {said.better, said.worse} <= there:
                yield _compared(records, setting, said)
        if {*SECOND, *FIRST} <= there:
            yield _order(records, setting)
        for quick, slow, words in FASTER:
            if {quick, slow} <= there:
                yield _faster(records, setting, quick, slow, words)


def _compared(records: Records, setting: Setting, said: Said) -> Claim:
    found = ahead(records, setting, said.better, said.worse, said.where)
    scores = [100 * records[setting, method].scores[said.where]["mean"] for method in said[:2]]
    note = f"{' against '.join(f'{score:.1f}' for score in scores)} %: {found}"
    table, where = ("T3.1", setting) if said.where == "test" else ("T3.4", setting.away)
    decided = Found(said.holds(found), found.tasks.value, note)
    return Claim(table, said.words, str(where), records[setting, said.better], decided)


def _order(records: Records, setting: Setting) -> Claim:
    """Compare what the second order gains TURTLE with what it gains MAML, task by task."""
    rule, plain, rule_first, plain_first = (
        torch.from_numpy(records[setting, method].arrays["test_scores"]).double() for method in (*SECOND, *FIRST)
    )
    points = 100 * ((rule - rule_first) - (plain - plain_first))
    found = Gain(over_tasks(points), over_seeds(points))
    words = "the second order gains TURTLE more than MAML"
    return Claim(
        "T3.1", words, str(setting), records[setting, SECOND[0]], Found(found.is_there, found.tasks.value, str(found))
    )


def _faster(records: Records, setting: Setting, quick: str, slow: str, words: str) -> Claim:
    ours, theirs = (run_seconds(records[setting, method]) for method in (quick, slow))
    note = f"{ours:.3g} against {theirs:.3g} s a run"
    return Claim("F3.4", words, str(setting), records[setting, quick], Found(ours <= theirs, ours / theirs, note))


def run_seconds(record: Record) -> float:
    """Return what a run took: training, validation, tests on both data sets; runs side by side share the time."""
    whole = record.scores["train_seconds"] + record.scores["test_seconds"]
    return whole / len(record.settings["seeds"])


def answers(records: Records) -> list[dict[str, Any]]:
    """Answer every cell of tables 3.1 to 3.5, what the text adds, and figure 3.4.

    The comparison that the paper draws holds for a cell if every claim about it does.
    """
    checked = list(claims(records))
    found = [answer for key in records for where in TABLES for answer in _cells(records, *key, where, checked)]
    return [*found, *_text(records, checked), *_figure(records, checked)]


def _cells(
    records: Records, setting: Setting, method: str, where: str, checked: list[Claim]
) -> Iterator[dict[str, Any]]:
    record, place = records[setting, method], str(setting) if where == "test" else setting.away
    named = {said.words for said in CLAIMS if method in said[:2]}
    about = [claim.found.holds for claim in checked if claim.where == place and claim.says in named]
    for identity in identities(setting, method, where):
        yield {
            "id": identity,
            "value": record.scores[where]["median"],
            "ci95": record.scores[where]["median_ci95"],
            "same_direction": bool(about) and all(about),
            "note": f"{about.count(True)} of {len(about)} comparisons as in the paper",
            "tasks": record.evidence["tasks"],
            "seeds": len(record.settings["seeds"]),
            "stand_in": not is_own(setting, where),
            "data": record.data["data"] if where == "test" else f"{record.data['data']} to {setting.elsewhere}",
        }


def _text(records: Records, checked: list[Claim]) -> Iterator[dict[str, Any]]:
    """Answer the two numbers of the text, over the settings that stand in a column of table 3.1."""
    shown = [setting for setting in dict.fromkeys(key[0] for key in records) if setting.data in PLACES]
    about = [claim for claim in checked if claim.says == CLAIMS[1].words and claim.where in map(str, shown)]
    data = {
        "stand_in": not all(map(is_own, shown)),
        "data": ", ".join(dict.fromkeys(setting.data for setting in shown)),
    }
    if about:
        mean, holds = sum(claim.found.value for claim in about) / len(about), all(claim.found.holds for claim in about)
        yield {"id": ENHANCED, "value": mean, "same_direction": holds, **data}
    wins = [won for setting in shown if (won := _wins(records, setting)) is not None]
    if wins:
        yield {"id": SHARE, "value": 100 * sum(wins) / len(wins), "note": f"of {len(wins)} settings", **data}


def _wins(records: Records, setting: Setting) -> bool | None:
    """Say whether TURTLE is ahead of every row but the enhanced LSTM; None where it was not compared."""
    means = {method: record.scores["test"]["mean"] for (where, method), record in records.items() if where == setting}
    ours, others = means.pop("TURTLE", None), [mean for method, mean in means.items() if method != "LSTM (enhanced)"]
    return None if ours is None or not others else ours > max(others)


def _figure(records: Records, checked: list[Claim]) -> Iterator[dict[str, Any]]:
    """Answer figure 3.4: the share of MAML's running time that TURTLE takes, and the comparisons of times."""
    for setting in dict.fromkeys(key[0] for key in records):
        about = [claim for claim in checked if claim.figure == "F3.4" and claim.where == str(setting)]
        lead = [claim for claim in about if claim.says == FASTER[-1][-1]]
        if PLACES.get(setting.data) == "miniImageNet" and setting.shots in FIGURE and lead:
            holds, record = all(claim.found.holds for claim in about), lead[0].record
            verdict = "same direction" if holds else "not reached"
            yield {
                "id": FIGURE[setting.shots],
                "value": lead[0].found.value,
                "verdict": verdict if is_own(setting) else "other data",
                "note": "; ".join(f"{claim.says}: {claim.found.note}, {claim.found.word}" for claim in about),
                "seeds": len(record.settings["seeds"]),
                "stand_in": not is_own(setting),
                "data": setting.data,
            }


def table(records: Records, where: str = "test") -> Markdown:
    """Show table 3.1, or with where="elsewhere" table 3.4: medians over tasks, averaged over runs, and the paper's."""
    shown = list(dict.fromkeys(setting for setting, _ in records))
    columns = [str(setting) if where == "test" else setting.away for setting in shown]
    printed_of = [_place(setting, where) for setting in shown]
    head = [word for pair in zip(columns, printed_of, strict=True) for word in pair if word]
    lines = [f"| method | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
    for method in dict.fromkeys(method for _, method in records):
        cells = []
        for setting, place in zip(shown, printed_of, strict=True):
            cells.append(_cell(records[setting, method].scores[where]))
            if place:
                cells.append(printed(row(identities(setting, method, where)[0])))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return Markdown("\n".join(lines))


def _place(setting: Setting, where: str) -> str:
    """Return the heading of the paper's column beside ours; nothing where it has none."""
    cells = identities(setting, "MAML", where)
    return f"the paper, {row(cells[0]).dataset}" if cells else ""


def _cell(scores: Mapping[str, Any]) -> str:
    reach = scores["median_ci95"]
    return f"{scores['median']:.3f}" + ("" if reach is None else f" ± {reach:.3f}")


def bars(records: Records, setting: Setting, where: str = "test") -> list[Bar]:
    """Return the mean accuracy of every method in percent, with its interval over tasks."""
    found = []
    for (place, method), record in records.items():
        if place == setting:
            scores = record.scores[where]
            found.append(Bar(method, 100 * scores["mean"], 100 * scores["ci95"]))
    return found
