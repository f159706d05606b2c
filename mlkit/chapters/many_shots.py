"""Figure 4 of paper 000: what initializations are worth with few and with many labeled pictures of a new class.

The data that an initialization learned from decides which classes it is adapted to: those that are held out there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from IPython.display import Markdown

from mlkit.chapters.claims import Claim, Found, above
from mlkit.chapters.methods import Setting, settings
from mlkit.chapters.segmentation import Training
from mlkit.chapters.table2 import STAR, escaped
from mlkit.chapters.update_hyperparameters import tunable
from mlkit.driver import for_tasks
from mlkit.figures import Series
from mlkit.many_shots import STATEMENTS, Gains, Protocol, Start, StepDecay, gains, means, record, score, walk
from mlkit.records import Result, Unit, Work
from mlkit.segmentation_losses import IOU
from mlkit.stored import Record
from mlkit.tasks.many_shots import FP_K, PASCAL, SHOTS, ManyShotsSpec
from mlkit.uho import Values

Records = Mapping[tuple[Setting, str], Record]
TARGETS = {"shapes": "shapes", "voc_rest": "voc", "fss1000_rest": "fp_k"}  # learned from: classes that it holds out
PANELS = {  # panel of figure 4: what it is called
    "left": "falling learning rate, patience 100",
    "middle": "fixed learning rate, patience 50",
    "right": "fixed learning rate, patience 100",
}
TEXT = "right"  # the panel that the paper's text speaks of
SEARCHES = "update_hyperparameters"  # the unit that keeps searches, so that both chapters share them
MARGIN = 1.0  # points of IoU: less than that counts as the same
TEN = 10  # pictures up to which meta-learning is ahead, as the paper finds
WALKED = 50  # most pictures of the tasks whose every step is shown


def target(setting: Setting, parameters: Any) -> ManyShotsSpec:
    """Name the classes that an initialization of a setting has not seen, and how many pictures of them it gets.

    A folder of one's own has them in its part `test`.
    """
    name = TARGETS.get(setting.data) or str(Path(setting.data) / "test")
    p = parameters
    return ManyShotsSpec(name, tuple(p.labeled), repeats=p.repeats, size=setting.size, classes=p.classes)


def protocol(parameters: Any) -> Protocol:
    """Return the paper's protocol, with early stopping that looks as often and walks as far as the parameters say."""
    return Protocol(max_steps=parameters.max_steps, check_every=parameters.check_every)


def routine(training: Training) -> tuple[dict[int, Values], list[str]]:
    """Return update hyperparameters for fewer than 10 pictures, and the keys of the searches that found them.

    Those of meta-training; where the parameters ask for `trials`, the best of a search, for every initialization alike.

    Raises:
        ValueError: a search is asked for numbers of pictures that the trainings were not tested on.
    """
    p, few, keys = training.parameters, {}, []
    for shots in (k for k in p.labeled if k < protocol(p).few_below):
        few[shots] = {"inner_lr": p.inner_lr, "steps": p.inner_steps}
        if p.trials:
            found = search(training, shots)
            best = found.scores["best"] or found.scores["training"]
            few[shots] = {**best["values"], "steps": best["steps"]}
            keys.append(found.key)
    return few, keys


def search(training: Training, shots: int) -> Record:
    """Return the search over how to adapt to so many pictures, as `update_hyperparameters` has it and stores it.

    What is searched with has learned from the training classes alone: validation classes are new to it.
    """
    p = training.parameters
    if shots not in p.shots:
        raise ValueError(
            f"expected what is searched for among shots = {p.shots}, got labeled = {p.labeled}; add {shots} to shots"
        )
    theirs = SimpleNamespace(**vars(p) | {"max_steps": p.search_steps, "search_on": "train"})
    one = tunable(training.setting, training.method, shots, theirs)
    return one.search(Unit(SEARCHES), trials=p.trials, tasks=p.validation_tasks)


def trained(parameters: Any) -> dict[tuple[Setting, str], Training]:
    """Return the trainings behind the initializations, in every setting."""
    asked = [Training(setting, method, parameters) for setting in settings(parameters) for method in parameters.methods]
    return {(one.setting, one.method): one for one in asked if one.is_told_apart}


def adapted(unit: Unit, training: Training) -> Record:
    """Return the scores of an initialization on every task, number of pictures and panel; compute what is missing.

    Arrays: `scores` and `steps` (panels, classes, repeats, shots), NaN where a class has too few pictures.
    """
    few, keys = routine(training)
    start = Start(lambda: training.learner, training.weights, few, [training.record().key, *keys])
    spec, p = target(training.setting, training.parameters), training.parameters
    how = {"metric": IOU, "execution": training.execution, "jobs": p.workers}
    return record(unit, f"adapted-{training.stem}", start, spec, protocol(p), **how)


def walked(unit: Unit, training: Training) -> Record:
    """Return the score after every look, while one task of each class is adapted to up to 50 pictures.

    Arrays: `steps` (looks,), and `fixed` and `falling` (looks, classes), by what the learning rate does.
    """
    p, how = training.parameters, training.execution
    whole = target(training.setting, p)
    shots = max([k for k in whole.shots if k <= WALKED], default=whole.shots[0])
    spec, steps = replace(whole, shots=(shots,), repeats=1), range(p.check_every, p.max_steps + 1, p.check_every)

    @torch.no_grad()
    def compute(work: Work) -> Result:
        tasks, learner = spec.load(), training.learner
        batch = tasks.gather(range(len(tasks)), shots).to(how.device)
        start = {name: tensor.to(how.device) for name, tensor in training.weights().items()}
        start, arrays = for_tasks(start, torch.zeros_like(batch.seeds)), {"steps": np.array(steps)}
        for name, decay in {"fixed": None, "falling": StepDecay()}.items():
            walking = enumerate(walk(learner, start, batch, steps=p.max_steps, decay=decay), 1)
            looks = [score(learner, now, batch.query, IOU) for step, now in walking if step in steps]
            arrays[name] = torch.stack(looks).float()
        return Result({"shots": shots}, arrays, tasks.describe(), tasks=len(tasks))

    asked = {"of": [training.record().key], "tasks": spec.describe(), "steps": list(steps)}
    return unit.record(f"walked-{training.stem}", {**asked, "device": how.device}, compute)


def shots_of(found: Record) -> list[int]:
    """Return the numbers of pictures of a record."""
    return list(found.settings["tasks"]["shots"])


def scores(found: Record, panel: str, name: str = "scores") -> np.ndarray:
    """Return the IoU in percent (classes, repeats, shots) of a panel; or, with `name`, the numbers of steps."""
    row = list(found.settings["protocol"]["rules"]).index(panel)
    return found.arrays[name][row].astype(float) * (100 if name == "scores" else 1)


def curves(records: Records, setting: Setting, name: str = "scores") -> dict[str, dict[str, Series]]:
    """Return the panels of figure 4 for `figures.shots_curves`: mean and interval of each initialization."""
    mine = {method: found for (where, method), found in records.items() if where == setting}
    unit = "IoU (%)" if name == "scores" else "steps"
    return {
        f"{title}: {unit}": {method: Series(*means(scores(found, panel, name))) for method, found in mine.items()}
        for panel, title in PANELS.items()
    }


def ahead(records: Records, setting: Setting, panel: str = TEXT) -> dict[str, Gains]:
    """Return by how many points of IoU the meta-learned initialization is ahead of each other one, task by task."""
    if (setting, STAR) not in records:
        return {}
    star = records[setting, STAR]
    others = {method: found for (where, method), found in records.items() if where == setting and method != STAR}
    return {
        method: gains(scores(star, panel), scores(found, panel), shots_of(star), margin=MARGIN)
        for method, found in others.items()
    }


def walks(found: Mapping[str, Record]) -> dict[str, dict[str, Series]]:
    """Return the panels of what happens step by step, for `figures.stacked_curves`."""
    titles = {"fixed": "fixed learning rate: IoU (%)", "falling": "falling learning rate: IoU (%)"}
    return {
        title: {method: Series(100 * one.arrays[name].mean(1)) for method, one in found.items()}
        for name, title in titles.items()
    }


def answer_in_words(records: Records) -> Iterator[str]:
    """Yield one sentence for every setting and initialization: from how many pictures on it is as good."""
    for setting in dict.fromkeys(setting for setting, _ in records):
        for method, found in ahead(records, setting).items():
            yield f"{setting}: to match {STAR} within {MARGIN:g} point of IoU, {method} needs {found} labeled pictures"


def statements(records: Records) -> Markdown:
    """Show what the paper says in three places beside what was found."""
    found = {
        f"{setting}: {escaped(method)}": one
        for setting in dict.fromkeys(setting for setting, _ in records)
        for method, one in ahead(records, setting).items()
    }
    head = "| where | the paper says | that is, $k^*$ | "
    lines = [head + " | ".join(found) + " |", "|---|---|---|" + "---|" * len(found)]
    shots = next(iter(found.values())).shots if found else ()
    for said in STATEMENTS:
        judged = (said.judge(one.matched, shots) for one in found.values())
        cells = (f"**{word}**" if word == "contradicts" else word for word in judged)
        lines.append(f"| {said.where} | “{said.words}” | {_between(*said.ends(shots))} | {' | '.join(cells)} |")
    lines.append(f"| here | as good from so many pictures on | | {' | '.join(map(str, found.values()))} |")
    return Markdown("\n".join(lines))


def _between(low: float, high: float) -> str:
    """Say in which bounds a number of pictures lies, the upper one not included."""
    if math.isinf(high):
        return f"{low:g} or more" if low else "any"
    return f"from {low:g} to below {high:g}" if low else f"below {high:g}"


def claims(records: Records) -> Iterator[Claim]:
    """Yield what the paper says of figure 4, with the difference on the same tasks that decides it."""
    for setting in dict.fromkeys(setting for setting, _ in records):
        for panel in PANELS:
            for method, found in ahead(records, setting, panel).items():
                if min(found.shots) <= TEN:
                    says = f"FOMAML* is better than {method} with up to {TEN} pictures"
                    yield Claim(f"000/F4-{panel}", says, str(setting), records[setting, STAR], up_to_ten(found))
        for method in dict.fromkeys(method for where, method in records if where == setting):
            found = patient(records[setting, method])
            if found:
                says = "early stopping had better be patient: 100 steps rather than 50"
                yield Claim("000/F4-right", says, f"{setting}, {method}", records[setting, method], found)


def up_to_ten(found: Gains) -> Found:
    """Check that every interval up to ten pictures lies above zero; there is one at least."""
    few = [index for index, shots in enumerate(found.shots) if shots <= TEN]
    told = [above(found.low[index], found.high[index]) for index in few]
    holds = True if all(told) else False if False in told else None
    note = ", ".join(
        f"{found.shots[i]}: {found.value[i]:+.1f} ({found.low[i]:+.1f} to {found.high[i]:+.1f})" for i in few
    )
    return Found(holds, float(found.value[few[-1]]), f"points of IoU with {note}")


def patient(found: Record) -> Found | None:
    """Check that more patience gives better scores where early stopping is used; None where it never is."""
    few_below, shots = found.settings["protocol"]["few_below"], shots_of(found)
    many = [index for index, k in enumerate(shots) if k >= few_below]
    if not many:
        return None
    difference = (scores(found, "right") - scores(found, "middle"))[..., many]
    value, low, high = (float(each[0]) for each in means(np.nanmean(difference, axis=-1, keepdims=True)))
    most = found.settings["protocol"]["max_steps"]
    note = f"{value:+.2f} points of IoU ({low:+.2f} to {high:+.2f}) from {shots[many[0]]} on, of {most} steps at most"
    return Found(above(low, high), value, note)


def table6(parameters: Any) -> Markdown:
    """Show the classes of FP-k, and those that stand in for them."""
    lines = ["| PASCAL-5ⁱ | FSS-1000 |", "|---|---|", *(f"| {ours} | {theirs} |" for ours, theirs in FP_K.items())]
    return Markdown(
        "\n".join([*lines, "", *(f"{setting}: {classes(setting, parameters)}.  " for setting in settings(parameters))])
    )


def classes(setting: Setting, parameters: Any) -> str:
    """Say which classes are judged in a setting."""
    name, count = target(setting, parameters).name, parameters.classes
    named = {"voc": PASCAL, "fp_k": FP_K}.get(name)
    if named is None:
        return f"{count} classes of `{Path(setting.data).name}` that nothing was trained on"
    return f"{', '.join(list(named)[:count])} of {'FP-k' if name == 'fp_k' else 'PASCAL VOC'}"


def answers(records: Records, found: list[Claim]) -> list[dict[str, Any]]:
    """Answer figure 4 and table 6 from the setting that is nearest to the paper's; FP-k alone is the paper's data."""
    known = list(dict.fromkeys(setting for setting, method in records if method == STAR))
    if not known:
        return []
    setting = min(known, key=lambda s: (s.data != "fss1000_rest", s.is_drawn))
    star, own = records[setting, STAR], setting.data == "fss1000_rest" and setting.encoder == "imagenet"
    stand_in = star.data["stand_in"] or not own
    given = [_panel(panel, star, [c for c in found if c.where.startswith(str(setting))], stand_in) for panel in PANELS]
    shots, data = shots_of(star), {"stand_in": stand_in, "data": star.data["data"]}
    same = {} if stand_in else {"verdict": "reproduced"}
    note = "the reader of FP-k unites these two classes" + (f"; judged here: {star.data['data']}" if stand_in else "")
    for ours, theirs in FP_K.items():
        row = {"pottedplant": "potted_plant"}.get(ours, ours)
        given.append({"id": f"000/T6/{row}", "value": theirs, "note": note, **data, **same})
    decided = {} if stand_in else {"verdict": "reproduced" if tuple(shots) == SHOTS else "not reached"}
    row = {"id": "000/text/FP-k-training-set-sizes/k-values", "value": ";".join(map(str, shots))}
    return [*given, {**row, **data, **decided}]


def _panel(panel: str, star: Record, found: list[Claim], stand_in: bool) -> dict[str, Any]:
    mine = [claim for claim in found if claim.figure == f"000/F4-{panel}"]
    at = max((index for index, k in enumerate(shots_of(star)) if k <= TEN), default=0)
    holds = bool(mine) and all(claim.found.holds for claim in mine)
    verdict = "other data" if stand_in else "same direction" if holds else "not reached"
    note = "; ".join(f"{claim.says}: {claim.found.word}, {claim.found.note}" for claim in mine)
    return {"id": f"000/F4-{panel}", "value": float(means(scores(star, panel))[0][at]), "verdict": verdict,
            "note": f"value: FOMAML*, {shots_of(star)[at]} pictures. {note}", "tasks": star.evidence["tasks"],
            "stand_in": stand_in, "data": star.data["data"]}  # fmt: skip
