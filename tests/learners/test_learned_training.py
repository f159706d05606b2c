"""Training learned update rules end to end: resuming, watching, evaluating, and runs that diverge."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlkit.driver import TaskGradients
from mlkit.evaluation import evaluate
from mlkit.landscape.watch import METRICS, Watch
from mlkit.learners import MetaLSTM, Turtle
from mlkit.losses import MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.outer import Execution, OuterLoop, Validation
from mlkit.seeding import seeded
from mlkit.tasks import frozen
from mlkit.tasks.base import Draw, TaskBatch
from mlkit.tasks.sine import SineTasks, sine
from mlkit.training import Trained, train

QUIET = Execution(progress=False)
EVERY = replace(QUIET, checkpoint_seconds=0)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))


LEARNERS = {
    "TURTLE": Turtle(net(), 2, mean_squared_error, hidden_layers=1, width=4),
    "LSTM": MetaLSTM(net(), 2, mean_squared_error, width=4),
}


@dataclass
class Stopping:
    """Sine tasks that are interrupted when gathered for the n-th time."""

    tasks: SineTasks
    stop_at: int = -1

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        return self.tasks.draw(count, generator)

    def gather(self, draw: Draw) -> TaskBatch:
        self.stop_at -= 1
        if self.stop_at == 0:
            raise KeyboardInterrupt
        return self.tasks.gather(draw)

    def describe(self) -> dict[str, Any]:
        return self.tasks.describe()


def trained(learner: Any, *, outer: OuterLoop | None = None, stop_at: int = -1, **settings: Any) -> Trained:
    outer = outer or OuterLoop(8, 2, validate_every=3, clip_norm=0.25)
    check = Validation(frozen(sine("huisman", "val", query=4), 4, seed=0), MEAN_SQUARED_ERROR)
    how = {"seeds": [0, 1, 2], "metric": MEAN_SQUARED_ERROR, "validation": check, "execution": QUIET} | settings
    return train(learner, Stopping(sine("huisman", query=4), stop_at), outer, **how)


def assert_same(one: Trained, other: Trained, rows: slice = slice(None)) -> None:
    for state in ("best", "last"):
        for name, tensor in getattr(one, state).items():
            assert torch.equal(tensor[rows], getattr(other, state)[name]), (state, name)
    for name, values in one.history.items():
        values = values if name == "iteration" else values[:, rows]
        assert torch.equal(values.nan_to_num(-1), other.history[name].nan_to_num(-1)), name
    assert torch.equal(one.best_iteration[rows], other.best_iteration)
    assert torch.equal(one.diverged_at[rows], other.diverged_at)


@pytest.mark.parametrize("name", LEARNERS)
def test_stopped_anywhere_a_run_resumes_bit_identically(tmp_path: Path, name):
    learner = LEARNERS[name]
    watch = Watch(tuple(metric for metric in METRICS if metric != "representation_product"), 4, curvature_tasks=2)
    tasks = sine("huisman", "test", query=4)
    how = {"trackers": {"watch": watch.on(learner, tasks, metric=MEAN_SQUARED_ERROR)}}
    for stop_at in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            trained(learner, stop_at=stop_at, folder=tmp_path, execution=EVERY, **how)
    whole = trained(learner, **how)
    assert_same(trained(learner, folder=tmp_path, execution=EVERY, **how), whole)
    start = learner.init(seeded("initialization", 1))
    moved = {key for key, tensor in whole.last.items() if not torch.equal(tensor[1], start[key])}
    assert moved == start.keys(), "initialization and rule are both learned"
    for quantity in ("test_mean_squared_error", "trajectory_cosine", "gradient_product", "curvature"):
        assert whole.history[quantity].shape == (4, 3) and whole.history[quantity].isfinite().all(), quantity


@pytest.mark.parametrize("name", LEARNERS)
def test_the_best_state_is_whole_and_scores_as_it_was_validated(name):
    """The second half undoes the first. With the rule left at its last state the score would be another."""
    learner = LEARNERS[name]

    def ascend(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 15 else -2.0)

    adam = functools.partial(torch.optim.Adam, lr=0.02)
    found = trained(learner, outer=OuterLoop(30, 2, adam, ascend, validate_every=3))
    scores = found.history["validation"]
    assert bool((found.best_iteration < 30).all()) and bool((found.best_iteration > 0).any())
    assert not torch.equal(found.best["theta.0.weight"], found.last["theta.0.weight"])
    tasks = frozen(sine("huisman", "val", query=4), 4, seed=0)
    for state, expected in ((found.best, scores.min(0).values), (found.last, scores[-1])):
        again = evaluate(learner, state, tasks, metric=MEAN_SQUARED_ERROR).double().mean(1)
        assert torch.allclose(again, expected)
        several = evaluate(learner, state, tasks, metric=MEAN_SQUARED_ERROR, steps=[0, 1, 2, 5], chunk_size=2)
        assert several.shape == (3, 4, 4) and torch.allclose(several[:, 2].double().mean(1), expected)


@dataclass(frozen=True)
class Failing(Turtle):
    """TURTLE whose run of seed 1 meets a loss or a gradient that is not finite, at its fifth step."""

    what: str = "loss"
    calls: list[int] = None
    once: bool = False

    def gradients(self, meta: dict[str, Tensor], tasks: TaskBatch, **how: Any) -> TaskGradients:
        found = super().gradients(meta, tasks, **how)
        self.calls.append(len(tasks))
        if len(self.calls) == 5 or (len(self.calls) > 5 and not self.once):
            rows = slice(2, 4) if len(tasks) > 2 else slice(0)
            (found.losses if self.what == "loss" else found.gradients["phi.head.weight"])[rows] = float("nan")
        return found


def failing(what: str = "loss", *, once: bool = False) -> Failing:
    return Failing(net(), 2, mean_squared_error, hidden_layers=1, width=4, what=what, calls=[], once=once)


FREEZE = OuterLoop(8, 2, validate_every=2, on_divergence="freeze")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_that_diverges_is_frozen_where_it_was_and_the_others_go_on(what):
    found, healthy = trained(failing(what), outer=FREEZE), trained(LEARNERS["TURTLE"], outer=FREEZE)
    assert found.diverged_at.tolist() == [-1, 5, -1] and healthy.diverged_at.tolist() == [-1, -1, -1]
    for state in ("best", "last"):
        for name, tensor in getattr(healthy, state).items():
            assert torch.equal(getattr(found, state)[name][[0, 2]], tensor[[0, 2]]), name
    before = trained(LEARNERS["TURTLE"], outer=replace(FREEZE, iterations=4))
    for name, tensor in before.last.items():
        assert torch.equal(found.last[name][1], tensor[1]), "the state before the fifth step"
        assert torch.equal(found.best[name][1], before.best[name][1])
    assert found.best_iteration[1] == before.best_iteration[1] <= 4
    for name, values in found.history.items():
        known = values if name == "iteration" else values[:, [0, 2]]
        assert known[1:].isfinite().all(), name
        if name != "iteration":
            assert values[:, 1].isfinite().tolist()[1:] == [True, True, False, False], name


def test_without_validation_the_state_before_the_divergence_is_kept():
    found = trained(failing(), outer=FREEZE, validation=None)
    assert found.best_iteration.tolist() == [8, 4, 8] and torch.equal(
        found.best["phi.head.weight"], found.last["phi.head.weight"]
    )


def test_a_frozen_run_stays_frozen_when_resumed(tmp_path: Path):
    whole = trained(failing(), outer=FREEZE)
    with pytest.raises(KeyboardInterrupt):
        trained(failing(), outer=FREEZE, stop_at=7, folder=tmp_path, execution=EVERY)
    assert_same(trained(failing(), outer=FREEZE, folder=tmp_path, execution=EVERY), whole)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_may_be_skipped(what, tmp_path: Path):
    skip = replace(FREEZE, on_divergence="skip")
    found, healthy = trained(failing(what, once=True), outer=skip), trained(LEARNERS["TURTLE"], outer=skip)
    assert found.skipped.tolist() == [0, 1, 0] and found.diverged_at.tolist() == [-1, -1, -1]
    assert found.accidents() == {"skipped": [0, 1, 0]} and healthy.accidents() == {}
    four, five = (trained(failing(what), outer=replace(skip, iterations=count)).last for count in (4, 5))
    for name, tensor in found.last.items():
        assert torch.equal(five[name][1], four[name][1]), "the fifth step is left out"
        assert torch.equal(tensor[[0, 2]], healthy.last[name][[0, 2]]) and tensor.isfinite().all(), name
    assert not torch.equal(found.last["phi.head.weight"][1], five["phi.head.weight"][1]), "and then it goes on"
    with pytest.raises(KeyboardInterrupt):
        trained(failing(what, once=True), outer=skip, stop_at=7, folder=tmp_path, execution=EVERY)
    resumed = trained(LEARNERS["TURTLE"], outer=skip, folder=tmp_path, execution=EVERY)
    assert_same(resumed, found)
    assert resumed.skipped.tolist() == [0, 1, 0]


def test_by_default_a_divergence_stops_and_says_where():
    with pytest.raises(FloatingPointError, match=r"run \[1\] is not finite at step 5 of .*'learner': 'TURTLE'"):
        trained(failing())


class Climbing(Turtle):
    """A rule that climbs: each step moves up the gradient, a thousand times its length."""

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        meta = super().init(generator)
        return meta | {"phi.head.weight": torch.full_like(meta["phi.head.weight"], 1e3)}


def test_many_steps_up_the_gradient_are_detected_and_training_ends_when_nobody_is_left(tmp_path: Path):
    learner = Climbing(nn.Linear(1, 1), 50, mean_squared_error, inputs=("gradient",), hidden_layers=0)
    found = trained(learner, outer=FREEZE, folder=tmp_path)
    assert found.diverged_at.tolist() == [1, 1, 1] and found.history["iteration"].tolist() == [0, 1]
    for seed in range(3):
        start = learner.init(seeded("initialization", seed))
        assert all(torch.equal(found.best[name][seed], tensor) for name, tensor in start.items())
    assert found.best_iteration.tolist() == [0, 0, 0]
    assert_same(trained(learner, outer=FREEZE, folder=tmp_path), found)


def test_only_the_named_meta_parameters_are_clipped():
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    one = {"outer": OuterLoop(1, 2, sgd, clip_value=1e-3), "validation": None}
    part = one | {"outer": replace(one["outer"], clipped="theta.")}
    free = one | {"outer": replace(one["outer"], clip_value=None)}
    learner = LEARNERS["TURTLE"]
    start = [learner.init(seeded("initialization", seed)) for seed in range(3)]
    whole, clipped, moved = (trained(learner, **how).last for how in (one, part, free))
    for name in start[0]:
        steps = [float((moved[name][seed] - start[seed][name]).abs().max()) for seed in range(3)]
        assert max(steps) > 2e-3
        assert torch.equal(clipped[name], (whole if name.startswith("theta.") else moved)[name]), name
        assert not torch.equal(whole[name], moved[name])


def test_new_settings_are_described_only_where_they_are_set():
    plain = OuterLoop(1, 1).describe()
    assert not {"clipped", "on_divergence"} & plain.keys()
    assert OuterLoop(1, 1, clipped="theta.").describe() == plain | {"clipped": "theta."}
    assert replace(FREEZE).describe()["on_divergence"] == "freeze"
    with pytest.raises(ValueError, match="expected on_divergence 'stop', 'freeze' or 'skip', got 'ignore'"):
        OuterLoop(1, 1, on_divergence="ignore")
