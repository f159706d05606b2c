"""An experiment from tasks to record: found again without data, told apart by what decides it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlkit import Unit
from mlkit.evaluation import evaluate
from mlkit.experiment import Experiment, run, weights_of
from mlkit.landscape.watch import Watch
from mlkit.learners import MAML, Displacement
from mlkit.losses import ACCURACY, MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import MLP, conv4
from mlkit.outer import Execution, OuterLoop
from mlkit.records import records
from mlkit.tasks import TaskSpec, frozen
from mlkit.training import train

from .conftest import ROOT

QUIET = Execution(progress=False)


@pytest.fixture
def unit(tmp_path, monkeypatch) -> Unit:
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    return Unit("some_unit", {}, root=tmp_path)


def sine_experiment(**changes) -> Experiment:
    experiment = Experiment(
        MAML(MLP((1, 8, 1)), 0.05, 2, mean_squared_error),
        TaskSpec("sine_huisman", shots=5, query=10),
        OuterLoop(iterations=6, meta_batch=2, validate_every=3),
        MEAN_SQUARED_ERROR,
        seeds=[0, 1],
        validation_tasks=8,
        test_tasks=12,
        test_steps=[2, 0, 1, 3],
        tracked_test_tasks=5,
        keep_weights=True,
    )
    return replace(experiment, **changes)


def test_a_record_holds_the_scores_of_every_task_and_the_curves(unit):
    record = run(unit, "maml", sine_experiment(), QUIET)
    assert record.arrays["test_scores"].shape == record.arrays["test_scores_last"].shape == (2, 12)  # seeds, tasks
    assert record.arrays["test_by_step"].shape == (2, 4)
    assert record.arrays["history_iteration"].tolist() == [0, 3, 6]
    assert record.arrays["history_test"].shape == record.arrays["history_validation"].shape == (3, 2)
    reported = record.arrays["test_scores"].astype(float)
    assert np.allclose(record.arrays["test_by_step"][:, 0], reported.mean(1))
    assert record.scores["mean"] == pytest.approx(reported.mean(), rel=1e-6)
    assert record.scores["ci95"] == pytest.approx(1.96 * reported.mean(0).std(ddof=1) / np.sqrt(12), rel=1e-5)
    assert record.scores["median"] == pytest.approx(np.median(reported, axis=1).mean(), rel=1e-5)
    assert record.evidence["tasks"] == 12
    assert (
        record.data["content_hash"]
        == frozen(TaskSpec("sine_huisman", shots=5, query=10).split("test"), 12, 0).content_hash
    )


def test_the_kept_weights_score_what_the_record_says(unit):
    experiment = sine_experiment()
    record = run(unit, "maml", experiment, QUIET)
    test = frozen(experiment.tasks.split("test"), 12, seed=0)
    again = evaluate(experiment.learner, weights_of(record), test, metric=MEAN_SQUARED_ERROR, steps=2)
    assert torch.allclose(again[0], torch.from_numpy(record.arrays["test_scores"][0]), rtol=1e-4)


def test_a_stored_experiment_is_neither_trained_nor_loaded_again(unit, monkeypatch):
    first = run(unit, "maml", sine_experiment(), QUIET)
    monkeypatch.setattr(TaskSpec, "split", lambda *_: pytest.fail("loaded tasks"))
    assert run(unit, "maml", sine_experiment(), replace(QUIET, chunk_size=1)).key == first.key


@pytest.mark.parametrize(
    "change",
    [
        {"learner": MAML(MLP((1, 8, 1)), 0.05, 2, mean_squared_error, first_order=True)},
        {"learner": MAML(MLP((1, 8, 1), init="finn"), 0.05, 2, mean_squared_error)},
        {"learner": Displacement(MLP((1, 8, 1)), "reptile", 0.05, 2, loss=mean_squared_error)},
        {"outer": OuterLoop(iterations=6, meta_batch=2, validate_every=3, clip_value=1.0)},
        {"tasks": TaskSpec("sine_finn", shots=5, query=10)},
        {"seeds": [0, 2]},
        {"test_tasks": 13},
        {"test_steps": None},
        {"watch": Watch()},
    ],
)
def test_what_decides_the_result_decides_the_record(change):
    assert sine_experiment(**change).describe() != sine_experiment().describe()


def test_the_watch_decides_the_record_by_what_it_measures():
    watch = Watch(("curvature", "support_loss"), curvature_tasks=7)
    described = sine_experiment(watch=watch).describe()
    assert described == sine_experiment().describe() | {"watch": watch.describe()}
    assert described == sine_experiment(watch=replace(watch, chunk_size=3)).describe()


def test_without_a_watch_the_key_is_what_it_was():
    shipped = [record for record in records(ROOT) if record.unit == "few_shot_regression" and record.arrays]
    named = {"device", "chunk_size", "workers"} | sine_experiment().describe().keys()
    assert shipped
    assert all(record.settings.keys() == named for record in shipped)


def test_a_watched_experiment_records_the_landscape_beside_the_scores(unit):
    watch = Watch(("trajectory_cosine", "curvature"), tasks=6, curvature_tasks=3)
    watched = sine_experiment(watch=watch, validation_tasks=0)
    record, plain = run(unit, "maml", watched, QUIET), run(unit, "maml", sine_experiment(validation_tasks=0), QUIET)
    history = {name: array for name, array in record.arrays.items() if name.startswith("history_")}
    assert history["history_trajectory_cosine"].shape == (3, 2)  # points, seeds
    assert history["history_curvature_by_task"].shape == (3, 2, 3)
    for name in ("trajectory_cosine", "trajectory_cosine_low", "test_mean_squared_error", "curvature_by_task"):
        assert np.array_equal(
            record.arrays[f"watch_{name}"], history[f"history_{name}"][-1]
        )  # the last state is tested
    assert record.scores["watch_seconds"] > 0
    assert "watch_seconds" not in plain.scores
    assert all(np.array_equal(array, record.arrays[name], equal_nan=True) for name, array in plain.arrays.items())


def test_networks_with_as_many_parameters_are_told_apart():
    learners = [MAML(conv4(variant, 5, size=28, channels=1)) for variant in ("finn-omniglot", "guiroy-omniglot")]
    assert len({sum(p.numel() for p in learner.model.parameters()) for learner in learners}) == 1
    assert learners[0].describe() != learners[1].describe()


def test_missing_data_says_how_to_get_it(unit, monkeypatch, tmp_path):
    monkeypatch.setenv("MLKIT_DATA", str(tmp_path / "nothing"))
    learner = MAML(conv4("small", 5, size=28, channels=1))
    experiment = Experiment(learner, TaskSpec("omniglot"), OuterLoop(1, 1, validate_every=1), ACCURACY, [0])
    with pytest.raises(FileNotFoundError, match="mlkit data get omniglot"):
        run(unit, "maml", experiment, QUIET)


def test_without_kept_weights_the_error_names_the_remedy(unit):
    record = run(unit, "maml", sine_experiment(keep_weights=False), QUIET)
    with pytest.raises(KeyError, match="keep_weights=True"):
        weights_of(record)


def test_without_validation_the_last_state_is_tested(unit):
    experiment = sine_experiment(validation_tasks=0, tracked_test_tasks=0)
    record = run(unit, "maml", experiment, QUIET)
    trained = train(
        experiment.learner,
        experiment.tasks.split("train"),
        experiment.outer,
        seeds=experiment.seeds,
        metric=MEAN_SQUARED_ERROR,
        execution=QUIET,
    )
    kept = weights_of(record)
    assert all(torch.equal(kept[name][0], trained.last[name][0]) for name in trained.last)
    assert record.scores["best_iteration"] == [6, 6]
