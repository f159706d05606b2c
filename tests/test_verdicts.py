"""Verdicts are computed from scores: each rule answers yes and no."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlkit import verdicts


def images_record(train, test, *, ci95=0.01, tasks=100):
    arrays = {"history_train_accuracy": np.array(train)[:, None], "history_test": np.array(test)[:, None]}
    return SimpleNamespace(
        arrays=arrays,
        scores={"mean": test[-1], "ci95": ci95},
        evidence={"tasks": tasks},
        settings={"seeds": [0], "tracked_test_tasks": 25},
    )


RISING = images_record([0.3, 0.6, 0.9], [0.2, 0.6, 0.8])
FLAT = images_record([0.3, 0.6, 0.9], [0.2, 0.2, 0.2])


def test_figure_12_has_its_shape_only_if_new_classes_are_learned():
    (yes,) = verdicts.learns_and_generalizes({("omniglot", 1, "MAML"): RISING}, ways=5)
    (no,) = verdicts.learns_and_generalizes({("omniglot", 1, "MAML"): RISING, ("omniglot", 5, "MAML"): FLAT}, ways=5)
    assert (yes["id"], yes["verdict"], no["verdict"]) == ("003/F12a", "same direction", "not reached")
    assert "MAML 5-shot" in no["note"].split("without the shape")[1]
    assert yes["value"] == pytest.approx(80)


def test_a_stand_in_is_other_data_and_glyphs_answer_nothing():
    (answer,) = verdicts.learns_and_generalizes({("cifar_fs", 1, "MAML"): RISING}, ways=5)
    assert (answer["id"], answer["verdict"], answer["stand_in"]) == ("003/F12b", "other data", True)
    assert verdicts.learns_and_generalizes({("glyphs", 1, "MAML"): RISING}, ways=5) == []


def regression_record(validation, first=0.0, last=0.0):
    names = ("history_validation", "test_scores", "test_scores_last")
    return SimpleNamespace(arrays=dict(zip(names, map(np.array, (validation, first, last)), strict=True)))


@pytest.mark.parametrize(("best", "verdict"), [(0.52, "reproduced"), (0.40, "same direction"), (0.70, "not reached")])
def test_an_anchor_is_reached_inside_its_range(best, verdict):
    record = regression_record([[4.0, 4.0, 4.0], [best, best + 0.01, best - 0.01]])
    assert verdicts.against_anchor("MAML", record, 0.50, 0.55)["verdict"] == verdict


def test_improvement_is_of_the_mean_and_diverging_tasks_are_counted():
    rng = np.random.default_rng(0)
    hard = rng.exponential(size=(2, 50))
    better = verdicts.keeps_improving("x", regression_record([[1.0]], hard, 0.9 * hard))
    worse = verdicts.keeps_improving("x", regression_record([[1.0]], 0.9 * hard, hard))
    assert (better["verdict"], worse["verdict"]) == ("same direction", "not reached")
    diverged = 0.9 * hard
    diverged[0, 0] = np.inf
    known = verdicts.keeps_improving("x", regression_record([[1.0]], hard, diverged))
    assert (known["verdict"], "1 diverge" in known["note"]) == ("not reached", True)


def test_the_table_shows_every_row_or_says_there_is_none():
    row = {"item": "MAML", "paper": "0.5", "ours": "0.4", "verdict": "reproduced", "note": "3 seeds"}
    assert "| MAML | 0.5 | 0.4 | **reproduced** | 3 seeds |" in verdicts.table([row]).data
    assert "No figure" in verdicts.table([]).data


@pytest.mark.parametrize(
    ("value", "shown"), [(43.96, "43.96"), (5e-4, "0.0005"), (-0.024, "-0.024"), (0.0, "0.00"), ("2 of 3", "2 of 3")]
)
def test_a_small_value_is_not_rounded_away(value, shown):
    answer = {"id": "000/T4/1-shot/FOMAML*/learning-rate", "value": value, "verdict": "other data", "note": ""}
    assert verdicts.of_answers(SimpleNamespace(answers=[answer]))[0]["ours"] == shown
