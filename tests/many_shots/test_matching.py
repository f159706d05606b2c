"""From which number of shots on two initializations come to the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlkit.many_shots import STATEMENTS, Estimate, gains, means
from mlkit.many_shots.matching import matched_from, resampled
from mlkit.tasks.many_shots import SHOTS

CLASSES, REPEATS = 5, 4


def falling(crossing: float, *, noise: float = 0.0, of_class: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return differences (classes, repeats, shots) that fall by 0.1 a decade, to 0 at `crossing`."""
    rng = np.random.default_rng(seed)
    mean = 0.1 * (math.log10(crossing) - np.log10(SHOTS))
    own = of_class * rng.normal(size=(CLASSES, 1, 1))
    return mean + own + noise * rng.normal(size=(CLASSES, REPEATS, len(SHOTS)))


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ([0.3, 0.2, 0.1, 0.05], math.inf),
        ([0.0, -0.1, 0.01, 0.0], 1),
        ([0.11, 0.01, 0.0, 0.0], 10),
        ([0.21, 0.11, -0.09, 0.0], 10 * math.sqrt(10)),
        ([0.21, -0.1, 0.11, -0.09], 100 * math.sqrt(10)),  # it must stay there
        ([0.21, math.nan, 0.01, 0.0], 100),
        ([0.21, 0.11, math.nan, math.nan], math.inf),
    ],
)
def test_matching_is_the_last_crossing_of_the_margin(difference, expected):
    assert matched_from(np.array(difference), (1, 10, 100, 1000), 0.01) == pytest.approx(expected)


def test_the_crossing_of_a_line_is_found_with_an_interval_around_it():
    theirs = np.full((CLASSES, REPEATS, len(SHOTS)), 0.4)
    exact = gains(theirs + falling(30), theirs, SHOTS, margin=0.0)
    assert exact.matched == Estimate(*[pytest.approx(30)] * 3) and exact.sure_up_to == 10
    np.testing.assert_allclose(exact.value, 0.1 * (math.log10(30) - np.log10(SHOTS)), atol=1e-12)
    noisy = gains(theirs + falling(30, noise=0.03), theirs, SHOTS, margin=0.0)
    assert noisy.matched.low < 30 < noisy.matched.high and noisy.matched.low < noisy.matched.value < noisy.matched.high
    assert (noisy.low < noisy.value).all() and (noisy.value < noisy.high).all()
    again = gains(theirs + falling(30, noise=0.03), theirs, SHOTS, margin=0.0)
    assert again.matched == noisy.matched and str(again) == str(noisy)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """A bootstrap of five classes that differ makes intervals a little too short, as is known of few clusters."""
    held = 0
    for seed in range(100):
        found = gains(falling(30, noise=0.02, of_class=0.02, seed=seed), np.zeros((CLASSES, REPEATS, 7)), SHOTS,
                      margin=0.0, resamples=200, seed=seed)  # fmt: skip
        held += found.matched.low <= 30 <= found.matched.high
    assert 75 <= held <= 99


def test_classes_are_redrawn_whole():
    """Where repeats agree and classes do not, more repeats do not narrow the interval."""
    values = np.repeat(np.linspace(0, 1, 5)[:, None, None], 50, 1)
    drawn = resampled(values, 4000, seed=0)[:, 0]
    assert drawn.std() == pytest.approx(math.sqrt(np.linspace(0, 1, 5).var() / 5), rel=0.05)
    flat = resampled(np.random.default_rng(0).normal(size=(1, 400, 1)), 4000, seed=0)
    assert flat.std() == pytest.approx(1 / 20, rel=0.1)


def test_what_is_open_is_said_to_be():
    zero = np.zeros((CLASSES, REPEATS, len(SHOTS)))
    better = gains(zero + 0.2, zero, SHOTS)
    assert better.matched == Estimate(math.inf, math.inf, math.inf) and better.sure_up_to == 400
    assert str(better) == "more than 400 (95 % interval more than 400 to more than 400)"
    same = gains(zero, zero, SHOTS)
    assert same.matched == Estimate(1, 1, 1) and same.sure_up_to == 0 and same.margin == 0.01
    with pytest.raises(ValueError, match=r"expected scores \(classes, repeats, 7\) of the same tasks, got"):
        gains(zero, zero[:3], SHOTS)


def test_classes_that_lack_pictures_are_left_out_where_they_do():
    ours, theirs = falling(30), np.zeros((CLASSES, REPEATS, len(SHOTS)))
    ours[1:, :, -1] = np.nan
    ours[:, :, -2] = np.nan
    found = gains(ours, theirs, SHOTS, margin=0.0)
    assert math.isnan(found.value[-2]) and math.isnan(found.low[-2])
    assert found.value[-1] == pytest.approx(falling(30)[0, 0, -1]) and found.matched.value == pytest.approx(30)
    value, low, high = means(ours)
    assert np.array_equal(np.isnan(low), np.isnan(value)) and np.array_equal(np.isnan(high), np.isnan(value))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (12, 40, ("agrees", "contradicts", "agrees")),
        (1, 4, ("agrees", "contradicts", "contradicts")),
        (60, math.inf, ("contradicts", "agrees", "contradicts")),
        (math.inf, math.inf, ("contradicts", "agrees", "contradicts")),
        (5, 90, ("open", "open", "open")),
    ],
)
def test_no_number_agrees_with_all_that_the_paper_says(low, high, expected):
    assert tuple(one.judge(Estimate(low, low, high), SHOTS) for one in STATEMENTS) == expected


def test_what_was_not_measured_is_left_open():
    beyond = Estimate(math.inf, math.inf, math.inf)
    assert [one.judge(beyond, (1, 5, 10)) for one in STATEMENTS] == ["open", "agrees", "open"]
    assert [one.judge(beyond, (1, 5, 10, 40)) for one in STATEMENTS] == ["contradicts", "agrees", "contradicts"]


def test_the_ends_of_a_statement_are_numbers_that_were_measured():
    assert [one.ends(SHOTS) for one in STATEMENTS] == [(0, 50), (50, math.inf), (10, 50)]
    assert [one.ends((1, 5, 20, 100)) for one in STATEMENTS] == [(0, 20), (20, math.inf), (5, 20)]
    assert STATEMENTS[1].judge(Estimate(60, 55, 70), SHOTS) == "agrees"
    assert STATEMENTS[1].judge(Estimate(40, 30, 45), SHOTS) == "contradicts"
