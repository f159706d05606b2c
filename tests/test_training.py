"""Training: seeds side by side, whatever ends a run, and processes that share it."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlkit import checkpoint
from mlkit.evaluation import evaluate
from mlkit.losses import MEAN_SQUARED_ERROR, Metric
from mlkit.outer import Execution, OuterLoop
from mlkit.training import train

from . import training_runs as runs

QUIET = Execution(progress=False)
EXACT = Execution(progress=False, dtype=torch.float64)
ROOT = Path(__file__).parents[1]


def short_run(**changes):
    """Train a few steps; every argument of `train` can be changed."""
    settings = {
        "learner": runs.learner(),
        "tasks": runs.TASKS,
        "outer": runs.outer(6, validate_every=2),
        "seeds": [0, 1, 2],
        "metric": MEAN_SQUARED_ERROR,
        "execution": QUIET,
    } | changes
    return train(**settings)


def assert_same(one, other, *, tolerance: float = 0.0, pick=slice(None)) -> None:
    """Compare everything two runs leave; `pick` chooses runs of the first."""
    left, right = runs.results(one), runs.results(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        value = value[:, pick] if name.startswith("history") and value.dim() > 1 else value
        value = value if name.startswith("history") else value[pick]
        assert torch.allclose(value, right[name], rtol=0, atol=tolerance, equal_nan=True), name


def child(*arguments: str, module: tuple[str, ...] = ("tests.training_runs",)) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *module, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def saved_step(folder: Path) -> int:
    return checkpoint.load(folder)["state"]["iteration"]


@pytest.mark.parametrize("limits", [{"clip_norm": 0.2}, {"clip_value": 0.05}, {"clip_norm": 0.2, "clip_value": 0.05}])
def test_seeds_side_by_side_equal_separate_runs(limits):
    how = {"outer": runs.outer(6, validate_every=2, **limits), "validation": runs.validation(), "execution": EXACT}
    together = short_run(seeds=[4, 1, 7], trackers={"bias": runs.bias_norm}, **how)
    for index, seed in enumerate([4, 1, 7]):
        alone = short_run(seeds=[seed], trackers={"bias": runs.bias_norm}, **how)
        assert_same(together, alone, tolerance=1e-10, pick=slice(index, index + 1))
    sgd = functools.partial(torch.optim.SGD, lr=0.1)  # Adam would hide what clipping does
    clipped, free = (short_run(outer=OuterLoop(1, 2, sgd, **each)).last["theta.0.weight"] for each in (limits, {}))
    assert not torch.allclose(clipped, free)


def test_clipping_bounds_the_step_of_each_run_alone():
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    before = short_run(outer=OuterLoop(1, 2, functools.partial(torch.optim.SGD, lr=0.0))).last

    def moved(**limits):
        after = short_run(outer=OuterLoop(1, 2, sgd, **limits)).last
        return torch.cat([(after[name] - before[name]).flatten(1) for name in after if "buffers" not in name], 1)

    free = moved().norm(dim=1)
    limit = float(free.median())
    assert torch.allclose(moved(clip_norm=limit).norm(dim=1), free.clamp_max(limit), rtol=1e-4)
    assert float(moved(clip_value=0.01).abs().max()) <= 0.01 * (1 + 1e-4)


def test_a_run_depends_on_its_seed_alone():
    one, other = short_run(seeds=[3]), short_run(seeds=[3])
    assert_same(one, other)
    assert not torch.equal(one.last["theta.0.weight"], short_run(seeds=[4]).last["theta.0.weight"])


@pytest.fixture(scope="module")
def unbroken():
    return runs.whole_run()


def test_killed_again_and_again_a_run_ends_as_if_never_stopped(tmp_path, unbroken):
    folder, before = tmp_path / "killed", 0
    for _ in range(3):
        steps = random.randint(5, 40)
        process = child(str(folder), str(int(signal.SIGKILL)), str(steps))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, errors
        assert before + steps - 2 <= saved_step(folder) < runs.ITERATIONS
        before = saved_step(folder)
    assert_same(runs.whole_run(folder), unbroken)
    assert_same(runs.whole_run(folder), unbroken)  # finished: nothing is left to do, all is still there


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Send each signal to a run of its own: signal -> (exit status, stderr, folder)."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    folders = {number: tmp_path_factory.mktemp(number.name) / "run" for number in numbers}
    started = {number: child(str(folders[number]), str(int(number)), "20") for number in numbers}
    errors = {number: process.communicate(timeout=60)[1] for number, process in started.items()}
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
    def interrupt(meta):
        signal.raise_signal(signal.SIGTERM)
        return runs.bias_norm(meta)

    with pytest.raises(checkpoint.Interrupted, match=r"stopped at step 1 of 6; no checkpoint was kept"):
        short_run(trackers={"bias": interrupt})
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_stops_at_once():
    def interrupt(meta):
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
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_a_folder_of_other_settings_is_refused(tmp_path, changes):
    short_run(folder=tmp_path)
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
    def stop_at_step_3(meta):
        count.append(1)
        if len(count) == 2:  # recorded at steps 0, 2, 4, 6
            signal.raise_signal(signal.SIGTERM)
        return runs.bias_norm(meta)

    count: list[int] = []
    with pytest.raises(checkpoint.Interrupted, match="step 2"):
        short_run(outer=halfway(schedule), trackers={"bias": stop_at_step_3}, folder=tmp_path)
    resumed = short_run(outer=halfway(schedule), trackers={"bias": stop_at_step_3}, folder=tmp_path)
    assert_same(resumed, short_run(outer=halfway(schedule), trackers={"bias": runs.bias_norm}))


def test_best_and_last_state_are_both_whole():
    """The second half undoes the first by ascending: the best state is of the middle, and scores as validated."""

    def ascend(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 20 else -4.0)

    sgd = functools.partial(torch.optim.SGD, lr=0.02)
    check = runs.validation()
    outer = OuterLoop(30, 4, sgd, ascend, clip_norm=1.0, validate_every=5)
    trained = short_run(outer=outer, validation=check)
    scores, iterations = trained.history["validation"], trained.history["iteration"]
    assert torch.equal(trained.best_iteration, iterations[scores.argmin(0)].long())
    assert bool((trained.best_iteration < 30).all())
    for state, expected in ((trained.best, scores.min(0).values), (trained.last, scores[-1])):
        assert state.keys() == runs.learner().init(torch.Generator()).keys()
        found = evaluate(runs.learner(), state, check.tasks, metric=MEAN_SQUARED_ERROR).double().mean(1)
        assert torch.allclose(found, expected)


def test_without_validation_the_last_state_is_the_best():
    trained = short_run()
    assert trained.best_iteration.tolist() == [6, 6, 6]
    assert all(torch.equal(tensor, trained.best[name]) for name, tensor in trained.last.items())


def test_higher_may_be_better():
    reversed_metric = Metric("negative", lambda outputs, y: -runs.mean_squared_error(outputs, y), higher_is_better=True)
    usual = short_run(validation=runs.validation())
    turned = short_run(validation=replace(runs.validation(), metric=reversed_metric))
    assert torch.equal(usual.best_iteration, turned.best_iteration)
    assert all(torch.equal(tensor, turned.best[name]) for name, tensor in usual.best.items())


@pytest.mark.parametrize(("iterations", "points"), [(6, [0, 4, 6]), (8, [0, 4, 8]), (3, [0, 3])])
def test_history_has_a_point_at_the_start_at_each_validation_and_at_the_end(iterations, points):
    trackers = {"bias": runs.bias_norm, "matrix": lambda meta: meta["theta.0.weight"]}
    trained = short_run(outer=runs.outer(iterations, validate_every=4), validation=runs.validation(), trackers=trackers)
    history = trained.history
    assert history["iteration"].tolist() == points
    assert {name: tuple(values.shape[1:]) for name, values in history.items()} == {
        "iteration": (),
        "train_loss": (3,),
        "train_mean_squared_error": (3,),
        "validation": (3,),
        "bias": (3,),
        "matrix": (3, 6, 1),
    }
    assert all(len(values) == len(points) for values in history.values())
    assert bool(history["train_loss"][0].isnan().all())  # nothing was trained yet
    assert bool(history["train_loss"][1:].isfinite().all())
    assert torch.equal(history["train_loss"][1:], history["train_mean_squared_error"][1:])


def test_a_run_needs_a_seed():
    with pytest.raises(ValueError, match=r"expected at least one seed, got none; pass seeds=\[0\]"):
        short_run(seeds=[])


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_do_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}")
    process = child("-m", "tests.training_runs", str(tmp_path), module=launcher)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    shared = torch.load(tmp_path / "trained.pt", weights_only=True)
    refusal = shared.pop("refusal")
    alone = runs.results(runs.shared_run())
    assert shared.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.allclose(shared[name], value, rtol=0, atol=1e-10, equal_nan=True), name
    assert refusal == "expected a meta_batch that 2 processes can share evenly, got 3"
