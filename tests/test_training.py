"""Training: seeds side by side, the best and the last state, the history, and processes that share a run."""

from __future__ import annotations

import functools
import socket
import time
from dataclasses import replace

import pytest
import torch

from mlkit.evaluation import evaluate
from mlkit.losses import MEAN_SQUARED_ERROR, Metric
from mlkit.outer import OuterLoop

from . import training_runs as runs
from .training_runs import EXACT, assert_same, child, short_run


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
    trackers = {"bias": runs.bias_norm, "matrix": lambda meta, iteration: meta["theta.0.weight"]}
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


def test_a_tracker_may_record_several_quantities():
    def several(meta, iteration):
        return {"bias": runs.bias_norm(meta), "twice_the_iteration": torch.tensor([2 * iteration] * 3)}

    history = short_run(trackers={"unused name": several}).history
    assert torch.equal(history["bias"], short_run(trackers={"bias": runs.bias_norm}).history["bias"])
    assert torch.equal(history["twice_the_iteration"][:, 0], 2 * history["iteration"])
    assert "unused name" not in history


def test_names_in_the_history_are_single_and_stay():
    with pytest.raises(ValueError, match=r"its own name, got 'train_loss' twice"):
        short_run(trackers={"mine": lambda meta, iteration: {"train_loss": runs.bias_norm(meta)}})
    with pytest.raises(ValueError, match=r"the same names at every point, got a change in: at_0, at_2"):
        short_run(trackers={"mine": lambda meta, iteration: {f"at_{iteration}": runs.bias_norm(meta)}})


def test_time_in_trackers_is_told_apart():
    def slow(meta, iteration):
        time.sleep(0.2)
        return runs.bias_norm(meta)

    trained = short_run(trackers={"slow": slow})
    assert trained.tracking_seconds >= 0.8  # four points
    assert trained.seconds > 0
    still = short_run(outer=runs.outer(0), trackers={"slow": slow})  # looked at once, no step
    assert still.seconds >= 0 and still.tracking_seconds >= 0.2


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
