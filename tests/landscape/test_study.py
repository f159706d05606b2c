"""From records to statements: correlations whose intervals hold, curves, changes, and a training shared by units."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mlkit import Result, Unit, status
from mlkit.experiment import Experiment
from mlkit.landscape import study
from mlkit.landscape.study import Curves, across_runs, change, correlation, curves, outcomes, over_epochs, peak, shared
from mlkit.landscape.watch import Watch
from mlkit.learners import MAML
from mlkit.losses import MEAN_SQUARED_ERROR, mean_squared_error
from mlkit.models import MLP
from mlkit.outer import Execution, OuterLoop
from mlkit.records import shipped
from mlkit.tasks import TaskSpec

from ..conftest import ROOT

QUIET = Execution(progress=False)


@pytest.fixture
def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def test_r_is_that_of_numpy_and_follows_scale_and_sign(draws):
    x, y = draws.normal(size=(2, 20))
    found = correlation(x, y)
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-12)
    assert found.low < found.value < found.high
    turned = correlation(1e-3 * x + 5, -y)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert (found.count, found.effective) == (20, 20)


def smooth(draws: np.random.Generator, persistence: float, points: int = 60) -> np.ndarray:
    """Make a series of which each point remembers so much of the one before."""
    noise = draws.normal(size=points)
    for i in range(1, points):
        noise[i] += persistence * noise[i - 1]
    return noise


@pytest.mark.parametrize(("persistence", "series"), [(0.0, False), (0.0, True), (0.8, True)])
def test_the_interval_holds_the_truth_as_often_as_it_says(draws, persistence, series):
    trials = [correlation(*(smooth(draws, persistence) for _ in range(2)), series=series) for _ in range(600)]
    assert np.mean([each.low <= 0 <= each.high for each in trials]) == pytest.approx(0.95, abs=0.035)


def test_runs_are_the_points_of_an_average_over_runs(draws):
    true, trials = 0.4, []
    for _ in range(600):
        pairs = draws.multivariate_normal([0, 0], [[1, true], [true, 1]], size=(5, 60))
        trials.append(across_runs([np.corrcoef(pair.T)[0, 1] for pair in pairs]))
    assert np.mean([each.low <= true <= each.high for each in trials]) == pytest.approx(0.95, abs=0.03)
    found = across_runs([0.5, math.nan, 0.5])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.count == 2 and len(found.runs) == 3
    alone = across_runs([1.0])
    assert alone.value == pytest.approx(1.0) and (alone.low, alone.high) == (-1, 1)
    with pytest.raises(ValueError, match="at least one finite correlation, got 1 runs"):
        across_runs([math.nan])


def test_epochs_taken_for_independent_points_say_too_much(draws):
    trials = [correlation(*(smooth(draws, 0.8) for _ in range(2))) for _ in range(600)]
    assert np.mean([each.low <= 0 <= each.high for each in trials]) < 0.8


def test_points_that_are_not_finite_are_left_out(draws):
    x, y = draws.normal(size=(2, 12))
    spoiled = np.append(x, [math.nan, 1.0]), np.append(y, [1.0, math.inf])
    assert correlation(*spoiled) == correlation(x, y)


@pytest.mark.parametrize("series", [False, True])
def test_a_constant_series_tells_nothing(series):
    found = correlation(np.full(9, 0.1), np.arange(9.0), series=series)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-1, 1)


def test_on_a_line_the_interval_is_a_point_where_there_are_points_enough():
    assert correlation(np.arange(5.0), -np.arange(5.0)).low == pytest.approx(-1)
    three = correlation([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    assert (three.low, three.high) == (-1, 1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least 3 points where both are finite, got 2 of 2"),
        ([1.0, 2.0, math.nan], [1.0, 2.0, 3.0], "got 2 of 3"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], r"of one length \(points,\), got \(3,\) and \(2,\)"),
        (np.ones((3, 2)), np.ones((3, 2)), r"got \(3, 2\)"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        correlation(x, y)


def test_over_epochs_seeds_are_averaged_and_shown_apart(draws):
    x = draws.normal(size=(30, 3))
    x[:, 2] = math.nan
    known, spoiled = (Curves(np.arange(30.0), np.arange(30), {"m": v, "score": v**3 + 1}) for v in (x[:, :2], x))
    found = over_epochs(known, "m", "score")
    assert found.value == correlation(x[:, :2].mean(1), (x[:, :2] ** 3 + 1).mean(1)).value
    assert found.runs == tuple(correlation(x[:, i], x[:, i] ** 3 + 1).value for i in (0, 1))
    with pytest.raises(ValueError, match="got 0 of 30"):
        over_epochs(spoiled, "m", "score")


def test_the_peak_and_what_came_after():
    rise_and_fall = np.array([[0.1, 0.3], [0.5, 0.7], [0.8, 1.0], [0.6, 0.9], [0.4, 0.8], [0.3, 0.7]])
    assert peak(rise_and_fall) == peak(-rise_and_fall, higher_is_better=False) == 2
    assert peak(np.vstack([rise_and_fall, [math.nan, 2.0]])) == 2
    single = change(rise_and_fall, 2, width=1)
    differences = rise_and_fall[-1] - rise_and_fall[2]
    assert single.value == pytest.approx(differences.mean())
    assert single.ci95 == pytest.approx(1.96 * differences.std(ddof=1) / math.sqrt(2))
    three = change(rise_and_fall, 2)
    assert three.value == pytest.approx((rise_and_fall[3:] - rise_and_fall[1:4]).mean())
    assert math.isnan(change(rise_and_fall[:, :1], 2).ci95)
    assert change(rise_and_fall, 5).value == 0  # the last points against themselves
    with pytest.raises(ValueError, match="at least one finite point"):
        peak(np.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="within 6 points, got 6 and 3"):
        change(rise_and_fall, 6)


def experiment(shots: int = 5) -> Experiment:
    return Experiment(
        MAML(MLP((1, 8, 1)), 0.05, 1, mean_squared_error),
        TaskSpec("sine_guiroy", shots=shots, query=5),
        OuterLoop(iterations=6, meta_batch=2, validate_every=2),
        MEAN_SQUARED_ERROR,
        seeds=[0, 1],
        validation_tasks=4,
        test_tasks=6,
        watch=Watch(("gradient_product", "curvature"), tasks=5, curvature_tasks=2),
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLKIT_RECORDS", raising=False)
    return tmp_path


def test_curves_are_aligned_and_the_tested_states_are_read(root):
    found = [shared(f"maml-{shots}", experiment(shots), QUIET, root=root) for shots in (3, 5)]
    history = curves(found[0])
    assert history.epochs.tolist() == [0, 1, 2, 3]
    assert history.iterations.tolist() == [0, 2, 4, 6]
    assert history.values["gradient_product"].shape == history.values["test_mean_squared_error"].shape == (4, 2)
    assert history.values["curvature_by_task"].shape == (4, 2, 2)
    assert history.mean("curvature") == pytest.approx(history.values["curvature_by_task"].mean((1, 2)), rel=1e-5)
    assert outcomes(found, "gradient_product").shape == (2, 2)  # records, seeds
    assert np.array_equal(outcomes(found, "curvature")[1], found[1].arrays["watch_curvature"].astype(float))
    with pytest.raises(KeyError, match=r"expected 'curvatur' in .*got curvature, curvature_by_task, "):
        outcomes(found, "curvatur")


def test_one_training_serves_several_units(root, monkeypatch):
    first = shared("maml", experiment(), QUIET, root=root)
    assert first.path.parent == root / "runs" / study.STORE
    monkeypatch.setattr("mlkit.experiment.train", lambda *_, **__: pytest.fail("trained again"))
    again = shared("maml", replace(experiment(), watch=replace(experiment().watch, chunk_size=1)), QUIET, root=root)
    assert again.body == first.body
    monkeypatch.setenv("MLKIT_RECORDS", "publish")
    shipped = shared("maml", experiment(), QUIET, root=root)
    assert shipped.path.parent == root / "book/records" / study.STORE
    assert all(np.array_equal(array, first.arrays[name], equal_nan=True) for name, array in shipped.arrays.items())


def test_a_figure_drawn_from_a_shared_training_reaches_page_and_status(root, monkeypatch):
    monkeypatch.setenv("MLKIT_RECORDS", "publish")
    used, _ = (shared(f"maml-{shots}", experiment(shots), QUIET, root=root) for shots in (3, 5))
    answer = {"id": "003/F8a", "value": 0.5, "verdict": "same direction"}
    result = Result({}, answers=[answer], data=used.data)
    drawn = Unit("gradient_coherence", root=root).record("figure-8", {"of": [used.key]}, lambda _: result)
    assert [record.key for record in shipped("gradient_coherence", root)] == [drawn.key, used.key]
    assert [record.unit for record in shipped(study.STORE, root)] == [study.STORE] * 2
    assert shipped("flatness", root) == []
    (root / "book" / "paper").symlink_to(ROOT / "book" / "paper")
    (row,) = [row for row in status.rows(root) if row.answer]
    assert (row.row.id, row.record.key) == ("003/F8a", drawn.key)
    assert used.evidence_line().startswith("2 seeds × 6 tasks, sine (sha ")
