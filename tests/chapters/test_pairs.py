"""Runs in pairs: the difference is taken run by run and task by task."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit.chapters import pairs
from mlkit.papers import judged
from tests.chapters.made_up import setting, training

RNG = np.random.default_rng(0)
SCORES = RNG.random((3, 50))


def pair(tmp_path, more: float, **options):
    curves = {"test_accuracy": RNG.random((4, 3))}
    before = training(tmp_path, curves, scores=SCORES, **options)
    raised = {"test_accuracy": curves["test_accuracy"] + more}
    return before, training(tmp_path, raised, scores=SCORES + more, **options)


def test_a_gain_that_every_run_shows_has_no_width(tmp_path):
    found = pairs.gain(*pair(tmp_path, 0.02))
    assert (found.tasks.value, found.seeds.value) == pytest.approx((2.0, 2.0))
    assert found.tasks.ci95 < 1e-9 and found.seeds.ci95 < 1e-9
    assert found.is_sure
    assert str(found) == "+2.00 points, ± 0.00 over 50 tasks, ± 0.00 over 3 seeds"
    assert not pairs.gain(*reversed(pair(tmp_path, 0.02))).is_sure


def test_runs_that_are_no_pairs_are_refused(tmp_path):
    before, _ = pair(tmp_path, 0.0)
    _, after = pair(tmp_path, 0.0, content="b")
    with pytest.raises(ValueError, match="expected runs in pairs, got other test tasks: a and b"):
        pairs.gain(before, after)


def test_the_difference_of_curves_is_taken_run_by_run(tmp_path):
    before, after = pair(tmp_path, 0.01)
    series = pairs.difference(after, before, "test_accuracy")
    for values in (series.value, series.low, series.high):
        np.testing.assert_allclose(values, 1.0)


def test_only_the_papers_setting_answers_its_numbers(tmp_path):
    own, other = setting("omniglot", ways=20), setting("omniglot", ways=5)
    records = {
        (where, method): record
        for where in (own, other)
        for method, record in zip(pairs.IDS, pair(tmp_path, 0.02, data="omniglot"), strict=True)
    }
    maml, regularized, reduction, gamma = pairs.numbers(records, 0.5)
    assert regularized["value"] - maml["value"] == pytest.approx(2.0)
    assert reduction["value"] == pytest.approx(100 * 2 / (100 - maml["value"]))
    assert gamma["value"] == 0.5 and maml["same_direction"]
    assert [claim.figure for claim in pairs.regularized(records)] == ["003/F11", "Algorithm 1"]
    assert (pairs.printed(own, "MAML"), pairs.printed(other, "MAML")) == (94.05, None)


def test_a_loss_is_told_as_a_loss(tmp_path):
    here = setting("omniglot", ways=20)
    after, before = pair(tmp_path, 0.02, data="omniglot")
    *_, reduction, _ = pairs.numbers({(here, "MAML"): before, (here, "regularized MAML"): after}, 0.5)
    error = 100 * (1 - before.scores["mean"])
    assert reduction["value"] == pytest.approx(-100 * 2 / error) and not reduction["same_direction"]
    answer = judged(reduction, data={"data": "omniglot"})
    assert (answer["verdict"], answer["value"]) == ("not reached", reduction["value"])
