"""A search: what it finds, that it goes on where it was killed, and what it does with trials that diverge."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm

from mlkit.losses import ACCURACY, MEAN_SQUARED_ERROR
from mlkit.uho import GaussianProcess, Study, arrays, tune
from tests.uho.cases import RATES, Known, bump

TRAINING = {"inner_lr": 0.5}


def search(objective=None, **changes) -> Study:
    kept = {"trials": 8, "seed": 0, "progress": False}
    return tune(objective or Known(), RATES, TRAINING, **kept | changes)


def same(one: Study, other: Study) -> bool:
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Study))
    return all(
        np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else repr(a) == repr(b) for a, b in pairs
    )


def test_the_best_of_a_known_function_is_found():
    study = search(trials=30)
    assert study.best.score > 0.99
    assert len(study.trials) == 30 and study.training.score == pytest.approx(bump(0.5))
    assert study.best_so_far()[-1] == study.best.score
    assert (np.diff(study.best_so_far()) >= 0).all()


def test_what_was_believed_is_kept_after_every_trial():
    study = search(trials=12)
    assert study.mean.shape == study.deviation.shape == study.improvement.shape == (12, len(study.grid))
    assert np.isnan(study.mean[:5]).all() and np.isfinite(study.mean[5:]).all()
    assert np.abs(study.mean[-1] - [bump(rate) for rate in study.grid]).max() < 0.2
    assert (study.deviation[5:] >= 0).all() and (study.improvement[5:] >= 0).all()


def test_expected_improvement_is_that_of_its_formula():
    study = search(trials=12)
    for count in range(6, 13):
        gap = study.mean[count - 1] - study.best_so_far()[count - 1] - 0.01
        z = gap / study.deviation[count - 1]
        formula = gap * norm.cdf(z) + study.deviation[count - 1] * norm.pdf(z)
        np.testing.assert_allclose(study.improvement[count - 1], formula, atol=1e-9)


def test_lower_may_be_better():
    def error(rate: float) -> float:
        return 1 - bump(rate)

    study = search(Known(error, MEAN_SQUARED_ERROR), trials=12)
    assert study.best.score == min(trial.score for trial in study.trials)
    assert (np.diff(study.best_so_far()) <= 0).all()
    assert np.abs(study.mean[-1] - [error(rate) for rate in study.grid]).max() < 0.2


def test_trials_in_flight_together_share_what_is_believed_after_them():
    study = search(trials=12, in_flight=3)
    known = np.isfinite(study.mean).all(1)
    assert known.tolist() == [False] * 5 + [True] + 2 * [False, False, True]


def test_a_search_can_be_looked_at_while_it_goes_on():
    seen = []
    whole = search(on_trial=seen.append)
    assert [len(study.trials) for study in seen] == list(range(1, 9))
    assert same(seen[-1], whole) and seen[5].trials == whole.trials[:6]
    assert np.array_equal(seen[5].mean, whole.mean[:6], equal_nan=True)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_search_that_was_killed_goes_on_to_the_same_bits(tmp_path, in_flight):
    whole = search(in_flight=in_flight)

    class Killed(Exception):
        pass

    class Mortal(Known):
        def each(self, settings, *, jobs=None):
            for worth in super().each(settings, jobs=jobs):
                if len(self.asked) > 5:
                    raise Killed
                yield worth

    with pytest.raises(Killed):
        search(Mortal(), folder=tmp_path, in_flight=in_flight)
    again = Known()
    assert same(search(again, folder=tmp_path, in_flight=in_flight), whole)
    assert len(again.asked) == 9 - 5, "training and four trials were stored, each as it ended, in mid-flight too"
    done = Known()
    assert same(search(done, folder=tmp_path, in_flight=in_flight), whole) and not done.asked


def test_a_folder_belongs_to_one_search(tmp_path):
    search(folder=tmp_path)
    with pytest.raises(ValueError, match=r"expected the search of .*search\.json to be this one, got another"):
        search(folder=tmp_path, seed=1)


def test_a_trial_that_diverges_is_kept_marked_and_told_as_no_better_than_not_adapting(tmp_path):
    def fragile(rate: float) -> float:
        return math.nan if rate > 0.05 else bump(rate)

    study = search(Known(fragile), trials=14, folder=tmp_path)
    lost = [trial for trial in study.trials if trial.diverged]
    assert 0 < len(lost) < 14 and all(trial.values["inner_lr"] > 0.05 for trial in lost)
    assert study.best.score > 0.9 and not study.best.diverged
    assert np.isfinite(study.mean[-1]).all()
    assert same(search(Known(fragile), trials=14, folder=tmp_path), study)


@pytest.mark.parametrize(("metric", "bad"), [(ACCURACY, -5.0), (MEAN_SQUARED_ERROR, 5.0)])
def test_the_engine_hears_of_nothing_worse_than_not_adapting(metric, bad):
    heard: list[float] = []

    class Listening(GaussianProcess):
        def tell(self, values, scores):
            heard.extend(scores)
            super().tell(values, scores)

    def broken(rate: float) -> float:
        return math.nan if rate > 0.1 else bad

    search(Known(broken, metric), trials=4, engine=Listening)
    assert heard == [0.0 if metric.higher_is_better else -1.0] * 4


def test_where_all_diverge_there_is_no_best():
    study = search(Known(lambda rate: math.nan), trials=3)
    assert np.isnan(study.best_so_far()).all()
    with pytest.raises(ValueError, match="expected a trial with a score, got 3 that diverged"):
        _ = study.best


@pytest.mark.parametrize("changes", [{"trials": 0}, {"in_flight": 0}])
def test_nothing_to_try_is_refused(changes):
    with pytest.raises(ValueError, match="trials and in_flight of at least 1"):
        search(**changes)


def test_a_record_holds_every_trial():
    study = search()
    found = arrays(study)
    assert found["trial_inner_lr"].tolist() == [trial.values["inner_lr"] for trial in study.trials]
    assert found["trial_curve"].shape == (8, 2) and found["mean"].shape == (8, len(study.grid))
