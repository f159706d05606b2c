"""Summaries over tasks, over seeds and over runs without outliers, by the formulas and by hand."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

from mlkit.evaluation import Summary, median_of_runs, over_seeds, over_tasks

SCORES = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=(5, 21)))


def test_over_tasks_averages_runs_first_because_they_share_their_tasks():
    values = SCORES.mean(0).tolist()
    found = over_tasks(SCORES)
    assert found.value == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert found.ci95 == pytest.approx(1.96 * statistics.stdev(values) / 21**0.5, rel=1e-12)
    assert found.count == 21


@pytest.mark.parametrize(("statistic", "of_a_run"), [("mean", np.mean), ("median", np.median)])
@pytest.mark.parametrize("count", [20, 21])
def test_over_seeds_summarizes_each_run_first(statistic, of_a_run, count):
    values = [float(of_a_run(run)) for run in SCORES[:, :count].numpy()]
    found = over_seeds(SCORES[:, :count], statistic=statistic)
    assert found.value == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert found.ci95 == pytest.approx(1.96 * statistics.stdev(values) / 5**0.5, rel=1e-12)
    assert found.count == 5


def test_single_precision_scores_are_summed_in_double():
    scores = torch.full((1, 30_000), 0.1)
    scores[0, 0] = 1e6
    assert over_tasks(scores).value == pytest.approx(float(scores.double().mean()), rel=1e-12)


def test_one_run_has_no_spread():
    found = over_seeds(SCORES[:1])
    assert np.isnan(found.ci95)
    assert found.count == 1
    assert found.value == pytest.approx(float(SCORES[0].mean()))


def test_an_unknown_statistic_is_named():
    with pytest.raises(ValueError, match="expected statistic 'mean' or 'median', got 'mode'"):
        over_seeds(SCORES, statistic="mode")


def runs_with_medians(medians: list[float]) -> torch.Tensor:
    return torch.tensor([[median - 100.0, median, median + 1.0] for median in medians])


@pytest.mark.parametrize(
    ("medians", "kept"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([1.0, 2.0, 3.0, 4.0, 50.0], [1.0, 2.0, 3.0, 4.0]),
        ([-50.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0]),
        ([1.0, 2.0, 3.0, 4.0, 7.0], [1.0, 2.0, 3.0, 4.0, 7.0]),  # on the fence: 4 + 1.5 * 2
        ([1.0, 2.0, 3.0, 4.0, 7.01], [1.0, 2.0, 3.0, 4.0]),
        ([2.0, 2.0, 2.0, 2.0, 2.5], [2.0, 2.0, 2.0, 2.0]),  # no spread: whatever differs is outside
    ],
)
def test_median_of_runs_drops_runs_beyond_the_fences(medians, kept):
    found = median_of_runs(runs_with_medians(medians))
    assert found.value == pytest.approx(statistics.fmean(kept), rel=1e-6)
    assert found.ci95 == pytest.approx(1.96 * statistics.stdev(kept) / len(kept) ** 0.5, rel=1e-6)
    assert found.count == len(kept)
    first, third = np.quantile(medians, [0.25, 0.75])
    fences = first - 1.5 * (third - first), third + 1.5 * (third - first)
    assert [m for m in medians if fences[0] <= m <= fences[1]] == kept


def test_a_summary_reads_as_value_and_interval():
    assert str(Summary(0.98765, 0.00432, 600)) == "0.9877 ± 0.0043"
