"""The pair mean against every pair, its interval against the truth, its memory against the allocator's account."""

from __future__ import annotations

import doctest
import importlib
import itertools
import math

import pytest
import torch

from mlkit.landscape import coherence, gradients, pairwise
from mlkit.learners import MAML
from mlkit.losses import mean_squared_error
from mlkit.models import MLP

from ..learners.cases import regression_tasks
from . import cases


def by_hand(vectors, directions=False) -> float:
    """The definition: a loop over pairs."""
    rows = [row / row.norm() if directions else row for row in vectors.double()]
    products = [float(a @ b) for a, b in itertools.combinations(rows, 2)]
    return math.fsum(products) / len(products)


@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_streamed_value_is_the_mean_over_all_pairs(chunk, directions):
    vectors = cases.some(50, 20) + 0.3
    found = coherence(vectors.split(chunk), directions=directions)
    assert found.value == pytest.approx(by_hand(vectors, directions), rel=1e-12)
    assert found.norm == pytest.approx(float(vectors.norm(dim=1).mean()), rel=1e-12)
    assert (found.count, found.skipped) == (50, 0)


def test_gradients_of_500_tasks_agree_with_the_naive_pair_mean_to_ten_digits():
    learner = MAML(MLP().double(), 0.01, 1, mean_squared_error)
    meta, tasks = cases.started(learner), regression_tasks(500)
    found = coherence(gradients(learner, meta, tasks))
    naive = by_hand(torch.cat(list(gradients(learner, meta, tasks, chunk_size=100))))
    assert found.count == 500
    assert abs(naive) > 1e-3
    assert abs(found.value - naive) < 1e-10 * abs(naive)


def test_single_precision_vectors_are_summed_in_double():
    vectors = cases.some(400, 30, dtype=torch.float32) + 100
    assert coherence(vectors.split(25)).value == pytest.approx(by_hand(vectors), rel=1e-13)


def test_it_is_unbiased_where_the_mean_with_equal_pairs_is_not():
    values = [coherence([cases.some(4, 3, seed)]).value for seed in range(400)]
    with_equals = [float(cases.some(4, 3, seed).mean(0).square().sum()) for seed in range(400)]
    mean = torch.tensor(values).mean()
    assert abs(mean) < 3 * torch.tensor(values).std() / 20  # the truth is 0
    assert torch.tensor(with_equals).mean() > 0.5  # 3 / 4


def test_as_many_groups_as_tasks_is_the_bootstrap_over_tasks():
    vectors = cases.some(12, 4) + 0.5
    exact = coherence([vectors], groups=12)
    drawn = torch.randint(12, (4000, 12), generator=torch.Generator().manual_seed(1))
    products = vectors @ vectors.T
    apart = (drawn[:, :, None] != drawn[:, None, :]).double()  # a task drawn twice is no pair with itself
    values = (products[drawn[:, :, None], drawn[:, None, :]] * apart).sum((1, 2)) / apart.sum((1, 2))
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    widened = math.sqrt(12 / 11) * (1 + (1.96**2 + 1) / 44)
    assert exact.low == pytest.approx(exact.value + widened * (low - exact.value), rel=0.1)
    assert exact.high == pytest.approx(exact.value + widened * (high - exact.value), rel=0.1)


@pytest.mark.parametrize("groups", [None, 60])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(groups):
    mean = torch.tensor([0.6, -0.3, 0.2, 0.0])
    found = [coherence((cases.some(60, 4, seed) + mean).split(15), groups=groups) for seed in range(200)]
    covered = sum(one.low < float(mean @ mean) < one.high for one in found)
    assert 180 <= covered <= 199
    assert all(one.low < one.value < one.high for one in found)


def test_the_interval_depends_on_the_seed_and_on_nothing_else():
    vectors = cases.some(30, 5)
    assert coherence([vectors], seed=3) == coherence([vectors.clone()], seed=3)
    assert coherence([vectors], seed=3).low != coherence([vectors], seed=4).low


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("directions", [False, True])
def test_it_takes_less_memory_than_two_chunks_of_vectors(dtype, directions, tmp_path):
    def vectors(count, d=20_000):
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(25, d, generator=generator, dtype=dtype) for _ in range(count // 25))

    chunk = 25 * 20_000 * dtype.itemsize
    peaks = [cases.peak_bytes(lambda n=n: coherence(vectors(n), directions=directions), tmp_path) for n in (50, 500)]
    assert chunk < peaks[1] <= 2 * chunk
    assert peaks[1] <= 1.01 * peaks[0]


def test_gradients_of_500_tasks_take_less_memory_than_those_of_two_chunks(tmp_path):
    learner = MAML(MLP((1, 80, 80, 1)).double(), 0.01, 1, mean_squared_error)
    meta, tasks = cases.started(learner), regression_tasks(500)
    streamed = cases.peak_bytes(lambda: coherence(gradients(learner, meta, tasks)), tmp_path)
    at_once = cases.peak_bytes(lambda: next(gradients(learner, meta, tasks[:50], chunk_size=50)), tmp_path)
    kept = cases.peak_bytes(lambda: list(gradients(learner, meta, tasks[:200])), tmp_path)
    assert streamed <= at_once < kept  # the account sees what is held


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_vectors_that_are_not_finite_are_left_out_and_counted(bad):
    vectors = cases.some(10, 4)
    broken = torch.cat([vectors[:6], torch.full((2, 4), bad), vectors[6:]])
    found = coherence(broken.split(3))
    assert (found.count, found.skipped) == (10, 2)
    assert found.value == pytest.approx(by_hand(vectors), rel=1e-12)
    assert found.norm == pytest.approx(float(vectors.norm(dim=1).mean()), rel=1e-12)


def test_a_zero_vector_has_a_product_but_no_direction():
    vectors = torch.cat([cases.some(4, 3) + 1, torch.zeros(1, 3)])
    product, cosine = coherence([vectors]), coherence([vectors], directions=True)
    assert product.value == pytest.approx(by_hand(vectors), rel=1e-12)
    assert (product.count, product.skipped) == (5, 0)
    assert cosine.value == pytest.approx(by_hand(vectors[:4], directions=True), rel=1e-12)
    assert (cosine.count, cosine.skipped) == (4, 1)
    assert product.norm == cosine.norm == pytest.approx(float(vectors.norm(dim=1).mean()), rel=1e-12)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (torch.ones(1, 3), "got 1 of 1"),
        (torch.full((4, 3), math.nan), "got 0 of 4"),
        (torch.tensor([[1.0], [math.inf]]), "got 1 of 2"),
    ],
)
def test_fewer_than_two_vectors_have_no_coherence(vectors, said):
    with pytest.raises(ValueError, match=f"expected at least two vectors to compare, {said}.*measure more tasks"):
        coherence([vectors])


def test_nothing_at_all_and_zero_vectors_alone_are_errors_too():
    with pytest.raises(ValueError, match="got 0 of 0"):
        coherence([])
    with pytest.raises(ValueError, match=r"got 0 of 3.*have no length"):
        coherence([torch.zeros(3, 2)], directions=True)
    with pytest.raises(ValueError, match="at least 2 groups of tasks, got 1"):
        coherence([cases.some(4, 2)], groups=1)


def test_two_vectors_have_a_value_but_no_interval():
    found = coherence([torch.tensor([[1.0, 2.0], [3.0, 1.0]])])
    assert found.value == pytest.approx(5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("directions", [False, True])
def test_pairwise_holds_every_pair_and_its_mean_is_the_coherence(directions):
    vectors = cases.some(9, 4) + 0.2
    found = pairwise(vectors.split(4), directions=directions)
    rows = vectors / vectors.norm(dim=1, keepdim=True) if directions else vectors
    assert torch.allclose(found, rows @ rows.T, rtol=1e-13)
    mean = (found.sum() - found.trace()) / 72
    assert float(mean) == pytest.approx(coherence([vectors], directions=directions).value, rel=1e-12)


def test_pairwise_marks_what_it_cannot_compare_and_keeps_the_order():
    vectors = cases.some(5, 3)
    vectors[1], vectors[3] = math.inf, 0
    products, cosines = pairwise([vectors]), pairwise([vectors], directions=True)
    assert products.isnan().any(1).tolist() == [True] * 5
    assert products.isnan().all(1).tolist() == [False, True, False, False, False]
    assert cosines.isnan().all(1).tolist() == [False, True, False, True, False]
    assert float(products[0, 4]) == pytest.approx(float(vectors[0] @ vectors[4]))


def test_pairwise_is_for_a_thousand_tasks():
    vectors = torch.ones(1001, 1)
    assert pairwise(vectors[:1000].split(300)).shape == (1000, 1000)
    with pytest.raises(ValueError, match=r"expected at most 1,000 tasks for all their pairs, got 1,001 or more"):
        pairwise(vectors.split(300))
    with pytest.raises(ValueError, match="expected at least one task"):
        pairwise([])


@pytest.mark.parametrize("module", ["mlkit.landscape", "mlkit.landscape.coherence"])
def test_the_examples_of_the_documentation_hold(module):
    found = doctest.testmod(importlib.import_module(module), extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
