"""From records to figures: bands over what there is, epochs from the first, one shape for every chapter."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit import chapters
from tests.chapters.made_up import GLYPHS, training

EPOCHS = np.arange(1.0, 5.0)


def test_the_band_is_over_seeds_where_there_are_several(tmp_path):
    runs = np.stack([EPOCHS, EPOCHS + 2], 1) / 10
    drawn = chapters.band(training(tmp_path, {"test_accuracy": runs}), "test_accuracy")
    np.testing.assert_allclose(drawn.value, 10 * (EPOCHS + 1))
    half = 1.96 * runs.std(1, ddof=1) / np.sqrt(2) * 100
    np.testing.assert_allclose(drawn.high - drawn.value, half)


def test_the_band_of_one_seed_is_over_tasks_where_they_are_known(tmp_path):
    ends = {"trajectory_cosine": EPOCHS, "trajectory_cosine_low": EPOCHS - 1, "trajectory_cosine_high": EPOCHS + 3}
    record = training(tmp_path, {**ends, "support_loss": EPOCHS})
    cosine = chapters.band(record, "trajectory_cosine")
    np.testing.assert_allclose(cosine.low, EPOCHS - 1)
    np.testing.assert_allclose(cosine.high, EPOCHS + 3)
    assert chapters.band(record, "support_loss").low is None


def test_panels_take_the_methods_of_one_setting(tmp_path):
    record = training(tmp_path, {"test_accuracy": EPOCHS / 10})
    records = {(GLYPHS, "MAML"): record, (GLYPHS, "FOMAML"): record}
    (title, lines), = chapters.panels(records, GLYPHS, ["test_accuracy"]).items()  # fmt: skip
    assert (title, list(lines)) == ("target accuracy (%)", ["MAML", "FOMAML"])
    np.testing.assert_allclose(lines["MAML"].value, 10 * EPOCHS)


def test_a_cloud_has_a_point_an_epoch_and_says_its_correlation(tmp_path):
    record = training(tmp_path, {"test_accuracy": [0.1, 0.3, 0.2, 0.4], "curvature": [1.0, 3.0, 2.0, 4.0]})
    cloud = chapters.clouds({(GLYPHS, "MAML"): record}, "curvature", "test_accuracy")["MAML"]
    np.testing.assert_allclose(cloud.y, [10, 30, 20, 40])
    assert list(cloud.names) == ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    assert cloud.note.startswith("R = 1.00")


def test_every_seed_is_a_run_of_the_linked_view(tmp_path):
    runs = np.stack([EPOCHS, 2 * EPOCHS], 1)
    record = training(tmp_path, {"test_accuracy": runs / 10, "curvature": runs})
    first, second = chapters.histories({(GLYPHS, "MAML"): record})
    assert (first.label, second.label) == ("MAML, seed 0", "MAML, seed 1")
    assert first.setting == "glyphs, 5-way 1-shot"
    np.testing.assert_allclose(second.metrics["curvature E‖H‖"], 2 * EPOCHS)
    np.testing.assert_allclose(second.generalization, 20 * EPOCHS)
    assert first.notes["curvature E‖H‖"].startswith("R = 1.00")


def test_metrics_are_correlated_within_their_trainings(tmp_path):
    low = {"test_accuracy": EPOCHS, "curvature": -EPOCHS, "support_loss": np.ones(4)}
    high = {"test_accuracy": EPOCHS + 100, "curvature": -EPOCHS + 100, "support_loss": np.ones(4)}
    records = [training(tmp_path, curves) for curves in (low, high)]
    found = chapters.together(records, ["curvature", "test_accuracy", "support_loss"])
    assert found.names == ["curvature", "accuracy", "loss"]
    assert found.matrix[0, 1] == pytest.approx(-1.0), "the level of a training does not count"
    assert np.isnan(found.matrix[2, 0]), "what never changes goes with nothing"


def test_the_cost_is_added_up(tmp_path):
    record = training(tmp_path, {"test_accuracy": EPOCHS})
    words = chapters.cost([record, record]).data
    assert words.startswith("2 trainings took 3.0 minutes on 2 CPU cores, of which measuring")
    assert "took 1.0." in words
