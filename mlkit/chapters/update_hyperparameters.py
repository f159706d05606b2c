"""Paper 000, question 2: what is tuned, on which initializations, and what the paper says of it, checked on records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from mlkit.chapters.claims import Claim, Found
from mlkit.chapters.methods import Setting
from mlkit.chapters.searches import as_search
from mlkit.chapters.segmentation import DROPOUT, Training
from mlkit.chapters.table2 import JOINT, REPTILE, STAR
from mlkit.chapters.tuning import REACH, Tunable, around, by_limit, is_there
from mlkit.driver import Learner, Meta
from mlkit.evaluation import Summary
from mlkit.figures import Search, Series, stacked_curves
from mlkit.records import Unit
from mlkit.segmentation_losses import IOU
from mlkit.stored import Record
from mlkit.tasks import frozen
from mlkit.theme import NEUTRAL
from mlkit.uho import EFFICIENTLAB_6_3, Space

if TYPE_CHECKING:
    from mlkit.widgets import UHOExplorer

DEEP = "FOMAML* (6-3)"
DEEPER = 4  # times as many steps may be taken by EfficientLab-6-3: 80 instead of 20 in the paper
RATES = 9  # learning rates of the sweep, an odd number: that of meta-training is in the middle
EITHER = 2.2414  # quantile of the normal distribution for two intervals of 97.5 %
NEAR = 1.25  # factor within which two learning rates count as the same
TITLES = {"x_title": "learning rate of adaptation", "y_title": "IoU (%)", "words": "initialization, shots"}


@dataclass(frozen=True)
class Case:
    """One search: what was tuned, the record of its trials, and that of its best routine on test tasks."""

    setting: Setting
    method: str
    shots: int
    tunable: Tunable
    trained: Record
    search: Record
    judged: Record

    @property
    def label(self) -> str:
        """Its initialization and shots."""
        return self.tunable.label

    @property
    def best(self) -> Mapping[str, Any]:
        """The best trial: `values`, `score` and `steps`; the routine of meta-training where all trials diverged."""
        return self.search.scores["best"] or self.search.scores["training"]

    @property
    def gain(self) -> Summary:
        """By how many points of IoU it is better than meta-training's routine on test tasks."""
        found = self.tunable.gain(self.judged)
        return Summary(100 * found.value, 100 * found.ci95, found.count)

    def search_drawn(self) -> Search:
        """Return the search as figures need it, in percent."""
        return as_search(self.search, self.label, scale=100)


def tunable(setting: Setting, method: str, shots: int, parameters: Any) -> Tunable:
    """Return an initialization of table 2 as something to tune.

    It is searched with weights that were trained on `search_on`, and tested with those of the parameters' `train_on`:
    the paper tunes on classes held out from meta-training, and tests what was trained on those classes, too.
    """
    p, deep = parameters, method == DEEP
    tested = Training(setting, method, p)
    searched = Training(setting, method, SimpleNamespace(**vars(p) | {"train_on": p.search_on}))
    routine = {"inner_lr": p.inner_lr, "steps": p.inner_steps}
    if deep:
        routine |= {"dropout": DROPOUT, "augmentation_rate": p.augmentation, "batch_size": p.batch_size}
    ranges = (dict(EFFICIENTLAB_6_3.ranges) if deep else {}) | around(p.inner_lr)
    record = tested.record()
    return Tunable(
        f"{method}, {shots}-shot",
        f"{tested.stem}-{shots}-shot",
        (record.key, searched.record().key),
        routine,
        Space({"inner_lr": ranges.pop("inner_lr"), **ranges}),
        IOU,
        lambda split, count, seed: frozen(tested.tasks(shots).split(split), count, seed),
        searched=lambda: _loaded(searched),
        tested=lambda: _loaded(tested),
        before=record.arrays[f"iou_{shots}_shot"][0],
        max_steps=p.max_steps * (DEEPER if deep else 1),
        data=record.data,
        chunk_size=p.chunk_size,
        jobs=p.workers,
        device=p.device,
    )


def _loaded(training: Training) -> tuple[Learner, Meta]:
    return training.learner, training.weights()


def cases(unit: Unit, setting: Setting, parameters: Any) -> list[Case]:
    """Return the searches of tables 4 and 5 in a setting, and Reptile's; compute those that are missing.

    FOMAML* and joint training at every number of shots; Reptile and, where there are `deep_trials`, EfficientLab-6-3 at
    the first.
    """
    p = parameters
    asked = [(method, shots, p.trials) for shots in p.shots for method in (STAR, JOINT)]
    asked += [(REPTILE, p.shots[0], p.trials)] + [(DEEP, p.shots[0], p.deep_trials)] * bool(p.deep_trials)
    found = []
    for method, shots, trials in asked:
        one = tunable(setting, method, shots, p)
        search = one.search(unit, trials=trials, tasks=p.validation_tasks)
        trained = Training(setting, method, p).record()
        found.append(Case(setting, method, shots, one, trained, search, one.judge(unit, search)))
    return found


def sweeps(unit: Unit, setting: Setting, parameters: Any) -> dict[str, Record]:
    """Return test scores at learning rates around that of meta-training, by initialization."""
    p, found = parameters, {}
    for method in (STAR, REPTILE, JOINT):
        one = tunable(setting, method, p.shots[0], p)
        found[method] = one.sweep(unit, rates=RATES, tasks=p.validation_tasks)
    return found


def swept(found: Mapping[str, Record]) -> dict[str, dict[str, Series]]:
    """Return the panel of a sweep for `figures.stacked_curves`: mean IoU in percent with its interval over tasks."""
    panel = {}
    for method, record in found.items():
        scores = 100 * record.arrays["scores"].astype(float)  # (rates, tasks)
        mean, half = scores.mean(1), 1.96 * scores.std(1, ddof=min(1, scores.shape[1] - 1)) / np.sqrt(scores.shape[1])
        panel[method] = Series(mean, mean - half, mean + half)
    return {"IoU (%)": panel}


def over_rates(
    panels: Mapping[str, Mapping[str, Series]], rates: np.ndarray, *, trained: float, x_title: str = TITLES["x_title"]
) -> go.Figure:
    """Draw scores over learning rates, on a logarithmic axis; a dotted line marks that of meta-training."""
    drawn = stacked_curves(panels, rates, x_title=x_title)
    drawn.add_vline(trained, line={"dash": "dot", "color": NEUTRAL})
    return drawn.update_xaxes(type="log")


def claims(found: list[Case], by_rate: Mapping[Setting, Mapping[str, Record]]) -> Iterator[Claim]:
    """Yield what the paper says of question 2, each with the numbers that decide it."""
    for case in found:
        where = f"{case.setting}, {case.shots}-shot"
        for figure, says, result in _of_search(case):
            yield Claim(figure, says, where, case.trained, result)
    trained = {(case.setting, case.method): case.trained for case in found}
    for setting, records in by_rate.items():
        for method, record in records.items():
            says = f"{method} is not robust to learning rates {REACH:g} times off"
            yield Claim("F3", says, str(setting), trained[setting, method], _fragile(record))


def _of_search(case: Case) -> Iterator[tuple[str, str, Found]]:
    tuned, routine = case.best, case.tunable.routine
    gain, rate, steps = case.gain, tuned["values"]["inner_lr"] / routine["inner_lr"], tuned["steps"] / routine["steps"]
    after = 100 * case.judged.scores["mean"]
    note = f"{100 * case.tunable.before.mean():.1f} % before, {after:.1f} % after: {told(gain)}"
    yield _table(case), f"UHO improves {case.method}", Found(is_there(gain), after, note)
    note = f"rate {rate:.2g} times, steps {steps:.2g} times those of meta-training"
    if case.method == STAR:
        says = "the best rate is orders of magnitude smaller, the best number of steps larger"
        yield "text", says, Found(_far(case, rate, steps), rate, note)
    limits = by_limit(case.search)
    first = min(routine["steps"], len(limits))
    few, many = limits[[first - 1, -1]]
    note = f"{few:.2g} with at most {first} steps, {many:.2g} with at most {case.tunable.max_steps}"
    smaller = None if 1 / NEAR <= many / few <= NEAR else bool(many < few)
    yield (
        "text",
        f"{case.method}: the more steps are allowed, the smaller the best rate",
        Found(smaller, float(many / few), note),
    )


def _far(case: Case, rate: float, steps: float) -> bool | None:
    """Tell whether rate and steps are ten times off those of meta-training; None where no more steps were allowed."""
    if rate > 1.01 / REACH:
        return False
    reached = case.tunable.max_steps >= REACH * case.tunable.routine["steps"]
    return steps >= REACH if reached else None


def _table(case: Case) -> str:
    return "T2b" if case.shots == 5 else "T2a" if case.shots == 1 else "ours"


def _fragile(record: Record) -> Found:
    """Check that IoU is lower at one end of the rates than at that of meta-training, on the same tasks.

    Two ends are two chances: each has an interval of 97.5 %.
    """
    scores = 100 * record.arrays["scores"].astype(float)
    middle = scores[len(scores) // 2]
    ends = [_mean(middle - scores[end], EITHER) for end in (0, -1)]
    worst = max(ends, key=lambda one: one.value)
    words = "; ".join(
        f"{told(Summary(-one.value, one.ci95, one.count))} {REACH:g} times {where}"
        for where, one in zip(("below", "above"), ends, strict=True)
    )
    return Found(is_there(worst), worst.value, f"{middle.mean():.1f} % at that of meta-training; {words}")


def _mean(values: np.ndarray, quantile: float) -> Summary:
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Summary(float(values.mean()), quantile * spread / len(values) ** 0.5, len(values))


def told(gain: Summary) -> str:
    """Say a paired difference in points."""
    return f"{gain.value:+.2f} ± {gain.ci95:.2f} points over {gain.count} tasks"


def explorer(found: list[Case], parameters: Any) -> UHOExplorer:
    """Return the live explorer of these searches, for a running notebook: it adapts real validation tasks on demand.

    Weights and data are loaded here; where this machine has no weights it trains first.
    """
    from mlkit.widgets import UHOExplorer

    shown = [case for case in found if case.method != DEEP]
    objectives = {case.label: case.tunable.objective(parameters.validation_tasks) for case in shown}
    searches = {case.label: case.search for case in shown}
    space = shown[0].tunable.space
    return UHOExplorer(searches, objectives=objectives, space=space, scale=100, jobs=parameters.workers, **TITLES)
