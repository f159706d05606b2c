"""Whatever ends a run: a kill, a signal, a number that is not finite; and how the same call goes on."""

from __future__ import annotations

import functools
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlkit import checkpoint
from mlkit.losses import Metric
from mlkit.outer import OuterLoop

from . import training_runs as runs
from .training_runs import QUIET, assert_same, child, short_run

TIMEOUT = 120  # seconds, of a process on a busy machine


def saved_step(folder: Path) -> int:
    return checkpoint.load(folder)["state"]["iteration"]


@pytest.fixture(scope="module")
def unbroken():
    return runs.whole_run()


def test_killed_again_and_again_a_run_ends_as_if_never_stopped(tmp_path, unbroken):
    folder, before = tmp_path / "killed", 0
    for _ in range(3):
        steps = random.randint(5, 40)
        process = child(str(folder), str(int(signal.SIGKILL)), str(steps))
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == -signal.SIGKILL, errors
        assert before + steps - 2 <= saved_step(folder) < runs.ITERATIONS
        before = saved_step(folder)
    assert_same(runs.whole_run(folder), unbroken)
    assert_same(runs.whole_run(folder), unbroken)  # finished: nothing is left to do, all is still there


def test_killed_while_it_is_watched_a_run_records_the_same_landscape(tmp_path):
    watched = {"trackers": {"watch": runs.watcher()}}
    folder = tmp_path / "killed"
    process = child(str(folder), str(int(signal.SIGKILL)), "30", "watched")  # the history gets a point at step 30
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == -signal.SIGKILL, errors
    assert 28 <= saved_step(folder) < 60
    resumed = runs.whole_run(folder, **watched)
    assert {"trajectory_cosine_low", "gradient_product", "curvature_by_task"} < resumed.history.keys()
    assert_same(resumed, runs.whole_run(**watched))
    assert resumed.tracking_seconds > 0


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Send each signal to a run of its own: signal -> (exit status, stderr, folder)."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    folders = {number: tmp_path_factory.mktemp(number.name) / "run" for number in numbers}
    started = {number: child(str(folders[number]), str(int(number)), "20") for number in numbers}
    errors = {number: process.communicate(timeout=TIMEOUT)[1] for number, process in started.items()}
    return {number: (started[number].returncode, errors[number], folders[number]) for number in numbers}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(interrupted, unbroken, number):
    status, errors, folder = interrupted[number]
    assert status != 0
    step = saved_step(folder)
    assert 19 < step < runs.ITERATIONS
    assert errors.rstrip().splitlines()[-1] == (
        f"mlkit.checkpoint.Interrupted: stopped at step {step} of {runs.ITERATIONS}; the last good checkpoint is of "
        f"step {step} in {folder}; the same call goes on from it"
    )
    assert {path.name for path in folder.iterdir()} == {checkpoint.PREVIOUS, checkpoint.NAME}
    assert_same(runs.whole_run(folder), unbroken)


def test_without_a_folder_an_interruption_says_that_nothing_was_kept():
    def interrupt(meta, iteration):
        signal.raise_signal(signal.SIGTERM)
        return runs.bias_norm(meta)

    with pytest.raises(checkpoint.Interrupted, match=r"stopped at step 1 of 6; no checkpoint was kept"):
        short_run(trackers={"bias": interrupt})
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_stops_at_once():
    def interrupt(meta, iteration):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        short_run(trackers={"bias": interrupt})
    assert not isinstance(caught.value, checkpoint.Interrupted)


def every_step(folder: Path, **changes):
    return short_run(folder=folder, execution=replace(QUIET, checkpoint_seconds=0), **changes)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_it_spoils_the_state(tmp_path, broken):
    calls = []

    class Fails(type(runs.learner())):
        def gradients(self, meta, tasks, **how):
            found = super().gradients(meta, tasks, **how)
            calls.append(len(tasks))
            if len(calls) == 4:  # in the second of two runs alone
                wrong = found.losses if broken == "loss" else found.gradients["theta.3.weight"]
                wrong[-1] = float("nan")
            return found

    failing = Fails(runs.learner().model, 0.05, 2, runs.mean_squared_error)
    with pytest.raises(FloatingPointError) as caught:
        every_step(tmp_path, learner=failing, seeds=[0, 1], validation=runs.validation())
    message = str(caught.value)
    for told in (
        "run [1]",
        "at step 4",
        "'learner': 'MAML'",
        "'inner_lr': 0.05",
        "of step 3 in",
        str(tmp_path),
        "lower",
    ):
        assert told in message
    saved = checkpoint.load(tmp_path)["state"]
    assert saved["iteration"] == 3
    assert all(bool(tensor.isfinite().all()) for part in ("meta", "best") for tensor in saved[part].values())


def test_an_infinite_gradient_may_be_clipped(monkeypatch):
    class Steep(type(runs.learner())):
        def gradients(self, meta, tasks, **how):
            found = super().gradients(meta, tasks, **how)
            found.gradients["theta.3.weight"][0] = float("inf")
            return found

    steep = Steep(runs.learner().model, 0.05, 2, runs.mean_squared_error)
    assert bool(short_run(learner=steep, outer=runs.outer(3, clip_value=1.0)).last["theta.3.weight"].isfinite().all())
    with pytest.raises(FloatingPointError, match=r"run \[0\]"):
        short_run(learner=steep, outer=runs.outer(3))


def test_a_diverging_run_stops_by_itself():
    with pytest.raises(FloatingPointError, match="no checkpoint was kept; lower the inner or outer learning rate"):
        short_run(outer=OuterLoop(200, 2, functools.partial(torch.optim.SGD, lr=1e6)))


def twice_as_wrong(outputs, targets):
    return 2 * runs.mean_squared_error(outputs, targets)


@pytest.mark.parametrize(
    "changes",
    [
        {"learner": runs.learner(first_order=True)},
        {"tasks": replace(runs.TASKS, shots=3)},
        {"outer": runs.outer(7, validate_every=2)},
        {"outer": runs.outer(6, validate_every=2, clip_norm=1.0)},
        {"seeds": [0, 1, 3]},
        {"validation": runs.validation()},
        {"metric": Metric("twice", twice_as_wrong, higher_is_better=False)},
        {"trackers": {"bias": runs.bias_norm}},
        {"trackers": {"watch": replace(runs.watcher(), watch=replace(runs.WATCH, tasks=7))}},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_a_folder_of_other_settings_is_refused(tmp_path, changes):
    first = {"trackers": {"watch": runs.watcher()}} if "watch" in changes.get("trackers", {}) else {}
    short_run(folder=tmp_path, **first)
    with pytest.raises(ValueError, match=r"other settings; pass another folder, or delete it"):
        short_run(folder=tmp_path, **changes)
    assert saved_step(tmp_path) == 6


def test_execution_may_change_when_a_run_goes_on(tmp_path):
    short_run(folder=tmp_path)
    short_run(folder=tmp_path, execution=replace(QUIET, chunk_size=1, workers=2, evaluation_chunk=3))
    assert saved_step(tmp_path) == 6


def halfway(schedule):
    return runs.outer(6, validate_every=2, schedule=schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6),
        functools.partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2, 5]),
        functools.partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.8**step),
        functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=7),
    ],
    ids=["none", "cosine", "milestones", "function", "one cycle"],
)
def test_any_schedule_goes_on_where_it_stopped(tmp_path, schedule):
    def stop_at_step_3(meta, iteration):
        count.append(1)
        if len(count) == 2:  # recorded at steps 0, 2, 4, 6
            signal.raise_signal(signal.SIGTERM)
        return runs.bias_norm(meta)

    count: list[int] = []
    with pytest.raises(checkpoint.Interrupted, match="step 2"):
        short_run(outer=halfway(schedule), trackers={"bias": stop_at_step_3}, folder=tmp_path)
    resumed = short_run(outer=halfway(schedule), trackers={"bias": stop_at_step_3}, folder=tmp_path)
    assert_same(resumed, short_run(outer=halfway(schedule), trackers={"bias": runs.bias_norm}))
