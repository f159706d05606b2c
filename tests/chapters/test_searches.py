"""From a search to figures and back from its record; what is asked of the reader follows from the numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mlkit.chapters.searches import as_search, prediction, summary
from mlkit.records import Result, Unit
from mlkit.uho import arrays
from tests.studies import STEPS, TRIALS, study


def stored(tmp_path, found):
    result = Result(summary(found), arrays(found))
    return Unit("update_hyperparameters", root=tmp_path).record("search", {"seed": 0}, lambda work: result)


def same(one, other) -> None:
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_a_record_gives_the_figures_that_the_study_gave(tmp_path):
    found = study(0)
    search = as_search(found, "FOMAML*, 5-shot", scale=100)
    same(as_search(stored(tmp_path, found), "FOMAML*, 5-shot", scale=100), search)
    np.testing.assert_allclose(search.scores, [100 * trial.score for trial in found.trials])
    np.testing.assert_allclose(search.values, [trial.values["inner_lr"] for trial in found.trials])
    assert search.curves.shape == (TRIALS, STEPS + 1) and search.training == (0.05, 50.0)
    np.testing.assert_allclose(search.mean, 100 * found.mean)
    np.testing.assert_allclose(search.deviation, 100 * found.deviation)
    np.testing.assert_allclose(search.improvement, 100 * found.improvement)


def test_a_training_value_that_diverged_is_kept_as_none(tmp_path):
    found = study(0)
    found = dataclasses.replace(found, training=dataclasses.replace(found.training, score=math.nan))
    search = as_search(stored(tmp_path, found), "MAML")
    assert math.isnan(search.training[1])
    assert "that of meta-training diverges" in prediction(search).why


def test_where_all_diverged_the_summary_has_no_best():
    found = study(0)
    lost = [dataclasses.replace(trial, score=math.nan) for trial in found.trials]
    found = dataclasses.replace(found, trials=tuple(lost))
    assert summary(found)["best"] is None and summary(found)["diverged"] == TRIALS
    with pytest.raises(ValueError, match="expected a trial with a score, got 5 that diverged"):
        prediction(as_search(found, "MAML"))


def test_another_record_is_refused(tmp_path):
    other = Unit("update_hyperparameters", root=tmp_path).record("else", {}, lambda work: Result({"mean": 1.0}))
    with pytest.raises(ValueError, match=r"expected the record of a search, got .*else-.*json without 'along'"):
        as_search(other, "MAML")


@pytest.mark.parametrize(
    ("factor", "answer"), [(4.0, "Above it"), (1.2, "Near it"), (1.0, "Near it"), (0.9, "Near it"), (0.1, "Below it")]
)
def test_the_answer_is_what_the_search_found(factor, answer):
    search = as_search(study(0), "FOMAML*, 5-shot", scale=100)
    best = search.best(TRIALS)
    search = dataclasses.replace(search, training=(search.values[best] / factor, 31.5))
    question = prediction(search, unit=" %")
    assert question.answer == answer and answer in question.choices
    assert f"{search.values[best]:.3g}" in question.why and f"{search.scores[best]:.3g} %" in question.why
    assert "31.5 %" in question.why and "FOMAML*, 5-shot" in question.words
