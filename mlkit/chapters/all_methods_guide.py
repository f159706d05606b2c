"""Which method when: sentences that the records write, each with the rows that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from IPython.display import Markdown

from mlkit.chapters.all_methods import Records
from mlkit.chapters.all_methods_settings import MEASURES, SCRATCH, Setting
from mlkit.chapters.all_methods_table import number, of, settings_of
from mlkit.chapters.pairs import Gain
from mlkit.evaluation import over_seeds, over_tasks

COSTS = {"training": "training time", "adapting": "time to adapt", "memory": "memory"}


class Question(NamedTuple):
    """A choice between two methods, and the cost that it is weighed by, out of COSTS."""

    asks: str
    more: str
    less: str
    cost: str = "training"


QUESTIONS = (
    Question("Learn anything before a task comes?", "finetuning", SCRATCH, "adapting"),
    Question("Meta-learn, or train a classifier and give it new heads?", "MAML", "finetuning"),
    Question("Compare directions in that head?", "Baseline++", "finetuning"),
    Question("Second order or first?", "MAML", "FOMAML"),
    Question("Adapt all weights, or the head alone?", "MAML", "ANIL", "adapting"),
    Question("Learn the rates too?", "Meta-SGD", "MAML", "memory"),
    Question("Judge by a query set, or go where adaptation goes?", "FOMAML", "Reptile"),
    Question("Turn tasks towards one another?", "regularized MAML", "MAML", "memory"),
    Question("Learn gates for the update?", "LSTM", "MAML"),
    Question("Learn the update itself?", "TURTLE", "MAML"),
    Question("Adapt codes, or a head on the same kind of body?", "LEO", "finetuning", "adapting"),
)


class Advice(NamedTuple):
    """What is asked, what to take, and the rows that say so."""

    asks: str
    take: str
    because: str


def ahead(records: Records, setting: Setting, more: str, less: str) -> Gain:
    """Return by how many points of accuracy one method is ahead of another, on the same test tasks."""
    ours, theirs = (torch.from_numpy(records[setting, m].arrays["test_scores"]).double() for m in (more, less))
    points = 100 * (ours - theirs)
    return Gain(over_tasks(points), over_seeds(points))


def choose(records: Records, question: Question) -> Advice | None:
    """Answer a question by the settings that have both methods; None where there is no such setting.

    A difference counts where it lies beyond its interval, of 95 % for all settings of the question together; where it
    counts is said. If it counts nowhere, the method that costs less is taken, on average over settings.
    """
    both = [s for s in settings_of(records) if {question.more, question.less} <= of(records, s).keys()]
    if not both:
        return None
    gains = {setting: ahead(records, setting, question.more, question.less) for setting in both}
    won = {setting: gain.is_there_among(len(both)) for setting, gain in gains.items()}
    sides = {value: [str(setting) for setting, what in won.items() if what is value] for value in (True, False)}
    if sides[True] or sides[False]:
        named = ((question.more, sides[True]), (question.less, sides[False]))
        take = ". ".join(f"{method} for {'; '.join(where)}" for method, where in named if where)
    else:
        cheaper = _cheaper(records, both, question)
        take = f"not told apart: {cheaper}" + (", which costs less" if cheaper != "either" else "")
    parts = [
        f"{setting}: {_points(gain)}{'' if won[setting] is not None else ', open'}{_price(records, setting, question)}"
        for setting, gain in gains.items()
    ]
    return Advice(question.asks, take, f"{question.more} against {question.less}. " + "; ".join(parts))


def _points(gain: Gain) -> str:
    return f"{gain.tasks.value:+.1f} ± {gain.reach:.1f} points"


def _price(records: Records, setting: Setting, question: Question) -> str:
    more, less = (number(records, setting, m, question.cost).value for m in (question.more, question.less))
    return f", {more / less:.2g} × the {COSTS[question.cost]}" if more and less else ""


def _title(name: str) -> str:
    return {"training": "training time", "adapting": "time to adapt", "memory": "memory"}.get(
        name, MEASURES[name].title
    )


def _cheaper(records: Records, both: list[Setting], question: Question) -> str:
    prices = [[number(records, s, m, question.cost).value for s in both] for m in (question.more, question.less)]
    if any(value is None for side in prices for value in side):
        return "either"
    more, less = map(sum, prices)
    return question.less if less <= more else question.more


def as_good(records: Records, setting: Setting) -> list[str]:
    """Return the most accurate method, then all that it is not ahead of beyond the interval on the same tasks."""
    ranked = sorted(of(records, setting), key=lambda method: -records[setting, method].scores["mean"])
    best, *others = ranked
    return [best, *(m for m in others if ahead(records, setting, best, m).is_there is not True)]


def needs(records: Records, setting: Setting) -> Iterator[Advice]:
    """Yield what to take in one setting when one thing counts: accuracy, the clock, memory, or time at the test."""
    good = as_good(records, setting)
    best = good[0]
    with_it = f"; not told apart from it: {', '.join(good[1:])}" if good[1:] else "; ahead of all others"
    yield Advice("accuracy alone", best, f"{_shown(records, setting, best, 'accuracy')}{with_it}")
    quick = _least(records, setting, "at_equal_time", list(of(records, setting)), most=True)
    if quick:
        yield Advice("training time", quick, f"{_shown(records, setting, quick, 'at_equal_time')}, the most of all")
    for words, name in (("memory in training", "memory"), ("time when a task comes", "adapting")):
        found = _least(records, setting, name, good)
        if found:
            of_good = "the least of those not told apart from the best" if good[1:] else "the price of the best"
            yield Advice(words, found, f"{_shown(records, setting, found, name)}, {of_good}")


def _least(records: Records, setting: Setting, name: str, methods: list[str], *, most: bool = False) -> str | None:
    known = {m: value for m in methods if (value := number(records, setting, m, name).value) is not None}
    pick: Callable = max if most else min
    return pick(known, key=known.get) if known else None


def _shown(records: Records, setting: Setting, method: str, name: str) -> str:
    return f"{MEASURES[name].title} {number(records, setting, method, name).cell.text}"


def guide(records: Records) -> Markdown:
    """Show the choices between two methods: what to take, and the rows that say so."""
    found = [advice for question in QUESTIONS if (advice := choose(records, question))]
    if not found:
        return Markdown("No two methods that a question is about were compared.")
    lines = ["| question | take | because |", "|---|---|---|"]
    return Markdown("\n".join([*lines, *(f"| {a.asks} | **{a.take}** | {a.because} |" for a in found)]))


def by_need(records: Records) -> Markdown:
    """Show for each setting what to take when one thing counts most."""
    lines = ["| setting | what counts | take | row |", "|---|---|---|---|"]
    for setting in settings_of(records):
        lines += [f"| {setting} | {a.asks} | **{a.take}** | {a.because} |" for a in needs(records, setting)]
    return Markdown("\n".join(lines))
