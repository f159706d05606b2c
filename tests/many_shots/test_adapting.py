"""The protocol against the plain thing: adapt whole, look at every step, take the best."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mlkit.driver import for_tasks
from mlkit.evaluation import evaluate
from mlkit.losses import Metric
from mlkit.many_shots import FIGURE_4, Protocol, Rule, StepDecay, adapt, best_step, score, walk
from mlkit.many_shots.adapting import PREDICTED, early_stopped
from mlkit.tasks.base import TaskBatch
from mlkit.uho import tuned

from .cases import CLOSE, FEW, LEARNERS, PROTOCOL, RULES, closeness, many, start

both = pytest.mark.parametrize("name", LEARNERS)


def tasks_of(shots: int, count: int = 4) -> TaskBatch:
    return many().gather(range(count), shots).to(dtype=torch.float64)


def own(learner, tasks: TaskBatch) -> dict[str, torch.Tensor]:
    return for_tasks(start(learner), torch.zeros_like(tasks.seeds))


@both
@pytest.mark.parametrize("count", [1, 3])
def test_walking_passes_what_the_learner_adapts_to(name, count):
    learner, tasks = LEARNERS[name], tasks_of(8, count)
    meta = own(learner, tasks)
    path = learner.adapt(meta, tasks, steps=5, trajectory=True)
    for step, here in enumerate(walk(learner, meta, tasks, steps=7), 1):
        if step <= 5:
            there = path.after(step)
            assert all(torch.equal(here.weights[key], tensor) for key, tensor in there.weights.items())
            assert all(torch.equal(here.buffers[key], tensor) for key, tensor in there.buffers.items())
    assert step == 7


def test_a_decaying_rate_is_the_fixed_one_at_first_and_its_floor_at_last():
    decay = StepDecay(factor=0.1, every=2, floor=0.02)
    assert [decay.rate(0.3, step) for step in range(5)] == [0.3, 0.3, pytest.approx(0.03), pytest.approx(0.03), 0.02]
    assert FIGURE_4["left"].decay.rate(0.005, 10**4) == 1e-7
    learner, tasks = LEARNERS["FOMAML*"], tasks_of(8, 1)
    meta = own(learner, tasks)
    fixed, decaying = (list(walk(learner, meta, tasks, steps=3, decay=each)) for each in (None, decay))
    for key, tensor in fixed[1].weights.items():
        assert torch.equal(decaying[1].weights[key], tensor)
        moved = (each[2].weights[key] - tensor for each in (fixed, decaying))
        torch.testing.assert_close(0.1 * next(moved), next(moved))


@pytest.mark.parametrize(
    ("scores", "patience", "every", "expected"),
    [
        ([0.5], 0, 1, (1, False)),
        ([0.5, 0.5], 0, 1, (1, True)),  # as good is no better
        ([0.1, 0.2, 0.3], 0, 1, (3, False)),
        ([0.3, 0.1, 0.1, 0.9], 2, 1, (4, False)),
        ([0.3, 0.1, 0.1, 0.1, 0.9], 2, 1, (1, True)),  # what comes after it stopped is not seen
        ([0.3, 0.1, 0.9], 9, 5, (15, False)),
        ([0.3, 0.1, 0.1, 0.9], 9, 5, (5, True)),
        ([math.nan, 0.1, math.nan], 5, 1, (2, False)),
        ([math.nan, math.nan, math.nan], 1, 1, (1, True)),
    ],
)
def test_early_stopping(scores, patience, every, expected):
    assert best_step(scores, patience, every) == expected


@both
def test_few_shots_are_adapted_to_as_told(name):
    learner, tasks = LEARNERS[name], tasks_of(3)
    scores, steps = adapt(learner, start(learner), tasks, PROTOCOL, few=FEW, metric=CLOSE)
    plain = evaluate(tuned(learner, FEW[3]), start(learner), tasks, metric=CLOSE, steps=3)
    torch.testing.assert_close(scores, plain.expand(3, -1), rtol=0, atol=1e-14)
    assert (steps == 3).all()
    for few in ({}, {1: FEW[1]}, {3: {"inner_lr": 0.1}}):
        with pytest.raises(ValueError, match="expected update hyperparameters for 3 shots, steps among them"):
            adapt(learner, start(learner), tasks, PROTOCOL, few=few, metric=CLOSE)


@both
def test_many_shots_are_adapted_to_twice(name):
    """Early stopping looks at the last quarter and learns from the rest; then all pictures are learned from."""
    learner, tasks = LEARNERS[name], tasks_of(8)
    meta = own(learner, tasks)
    scores, steps = adapt(learner, start(learner), tasks, PROTOCOL, few={}, metric=CLOSE)
    learned, held = (tasks.support.map(lambda t, rows=rows: t[:, rows]) for rows in (slice(6), slice(6, 8)))
    path = learner.adapt(meta, replace(tasks, support=learned), steps=12, trajectory=True)
    curves = torch.stack([CLOSE.score(learner.predict(path.after(step), held.x), held.y) for step in range(1, 13)], 1)
    for row, rule in enumerate(RULES.values()):
        assert steps[row].tolist() == [best_step(curve.tolist(), rule.patience)[0] for curve in curves]
    assert not torch.equal(steps[1], steps[2])  # else the rules were not told apart
    by_step = evaluate(learner, start(learner), tasks, metric=CLOSE, steps=range(13))[0]
    for row in (1, 2):
        torch.testing.assert_close(scores[row], by_step.gather(0, steps[row][None])[0])
    for task in range(4):
        *_, last = walk(learner, for_tasks(start(learner), torch.tensor([0])), tasks[task : task + 1],
                        steps=int(steps[0, task]), decay=RULES["decaying"].decay)  # fmt: skip
        one = tasks[task : task + 1].query
        torch.testing.assert_close(scores[0, task], CLOSE.score(learner.predict(last, one.x), one.y)[0])


def test_the_rate_may_decay_while_stopping_and_looks_may_be_rarer():
    learner, tasks = replace(LEARNERS["FOMAML*"], inner_lr=5.0), tasks_of(8)
    meta = own(learner, tasks)
    part = replace(tasks, support=tasks.support.map(lambda t: t[:, :6]))
    held = tasks.support.map(lambda t: t[:, 6:])
    rules = {"decaying": Rule(6, StepDecay(0.1, 1)), "fixed": Rule(6)}
    protocol = replace(PROTOCOL, rules=rules, decays_while_stopping=True, check_every=3)
    steps = early_stopped(learner, meta, tasks, protocol, metric=CLOSE)
    for row, rule in enumerate(rules.values()):
        states = list(walk(learner, meta, part, steps=12, decay=rule.decay))[2::3]
        curves = torch.stack([score(learner, state, held, CLOSE) for state in states], 1)
        assert steps[row].tolist() == [best_step(curve.tolist(), 6, 3)[0] for curve in curves]
    assert not torch.equal(steps[0], steps[1]) and (steps % 3 == 0).all()


def test_a_score_to_be_minimized_stops_at_its_minimum():
    loss = Metric("distance", lambda outputs, y: 1 - closeness(outputs, y), higher_is_better=False)
    learner, tasks = LEARNERS["FOMAML*"], tasks_of(8)
    ours, theirs = (adapt(learner, start(learner), tasks, PROTOCOL, few={}, metric=metric) for metric in (loss, CLOSE))
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[0], 1 - theirs[0])


def test_a_score_is_the_mean_over_all_pictures_however_many_are_predicted_at_once():
    learner = LEARNERS["FOMAML*"]
    tasks = many(shots=(1,), query=9).gather([0, 1], 1).to(dtype=torch.float64)
    more = tasks.query.map(lambda t: torch.cat([t, t.flip(2), t[:, :7].flip(-1)], 1))
    assert more.x.shape[1] == PREDICTED + 5
    adapted = learner.adapt(own(learner, tasks), tasks)
    torch.testing.assert_close(
        score(learner, adapted, more, CLOSE), CLOSE.score(learner.predict(adapted, more.x), more.y)
    )


def test_a_protocol_that_cannot_be_followed_is_refused():
    for wrong, words in (
        ({"rules": {}}, "expected rules"),
        ({"rules": {"left": Rule(-1)}}, "expected rules with a patience"),
        ({"max_steps": 0}, "expected 1 <= check_every <= max_steps"),
        ({"few_below": 4}, "expected to hold out at least one of 4 pictures"),
        ({"held_out": 1.0}, "expected to hold out at least one of 10 pictures and not all"),
    ):
        with pytest.raises(ValueError, match=words):
            Protocol(**wrong)
    assert [Protocol().held(shots) for shots in (10, 50, 400)] == [2, 10, 80]  # paper 000's code
