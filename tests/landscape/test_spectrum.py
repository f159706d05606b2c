from __future__ import annotations

import pytest
import torch

from mlkit.landscape.hessian import Hessian
from mlkit.landscape.lanczos import random_start
from mlkit.landscape.spectrum import density, extremes, trace
from tests.landscape.operators import (
    CLUSTERED,
    INDEFINITE,
    SADDLE,
    SEPARATED,
    Matrices,
    adapt,
    dense_hessian,
    sine_setting,
    with_spectra,
)


def test_both_ends_of_the_spectrum_are_found() -> None:
    found = extremes(with_spectra(INDEFINITE, SADDLE), 2, tolerance=1e-6)
    assert found.converged.all()
    for task, spectrum in enumerate((INDEFINITE, SADDLE)):
        exact = torch.tensor(sorted(spectrum), dtype=torch.float64)
        assert torch.allclose(found.largest[task], exact[-2:].flip(0), atol=1e-6)
        assert torch.allclose(found.smallest[task], exact[:2], atol=1e-6)
    assert (found.residual <= 2e-6).all()


def test_the_hessian_of_a_network_agrees_with_the_dense_one() -> None:
    learner, meta, tasks = sine_setting(2, (1, 8, 8, 1))
    adapted = adapt(learner, meta, tasks)
    hessian = Hessian(learner, adapted, tasks.support)
    dense = torch.stack([dense_hessian(learner, adapted, tasks, task) for task in range(2)])
    exact = torch.linalg.eigvalsh(dense)
    found = extremes(hessian, 3, tolerance=1e-8)
    assert found.converged.all()
    assert torch.allclose(found.largest, exact[:, -3:].flip(1), atol=1e-8)
    assert torch.allclose(found.smallest, exact[:, :3], atol=1e-8)
    estimated = trace(hessian, products=90)
    assert torch.allclose(estimated.value, exact.sum(1), rtol=1e-6)  # its rank is small: exact


def test_the_ends_of_a_tiny_matrix_overlap_and_repeat() -> None:
    found = extremes(with_spectra([2.0, 2.0, 1.0]), 3)
    assert found.largest[0].tolist() == pytest.approx([2, 2, 1])
    assert found.smallest[0].tolist() == pytest.approx([1, 2, 2])
    zero = extremes(Matrices(torch.zeros(1, 9, 9, dtype=torch.float64)), 2)
    assert zero.largest.tolist() == zero.smallest.tolist() == [[0, 0]]
    assert zero.converged


def test_the_trace_is_exact_for_few_large_eigenvalues_and_honest_about_its_error_else() -> None:
    operator = with_spectra([5.0, -3.0, *[0.0] * 98])
    exact = trace(operator, products=12)
    assert float(exact.value) == pytest.approx(2, rel=1e-10)
    assert float(exact.error) < 1e-10
    spread = with_spectra(SEPARATED, INDEFINITE + [0.0] * 99)
    sums = torch.tensor([sum(SEPARATED), sum(INDEFINITE)], dtype=torch.float64)
    away = torch.stack([(trace(spread, products=60, seed=seed).value - sums) for seed in range(20)])
    stated = torch.stack([trace(spread, products=60, seed=seed).error for seed in range(20)])
    assert ((away.square().mean(0) / stated.square().mean(0)).sqrt() < 2).all()
    assert (away.abs().mean(0) < 0.05 * sums.abs().clamp_min(20)).all()
    assert spread.products == 2 * 20 * 60


def test_the_trace_of_a_tiny_matrix_is_exact() -> None:
    found = trace(with_spectra([2.0, -1.0, 0.5]))
    assert float(found.value) == pytest.approx(1.5, rel=1e-12)
    assert float(trace(with_spectra([3.0])).value) == pytest.approx(3)
    assert float(trace(with_spectra([3.0])).error) == pytest.approx(0, abs=1e-12)


def test_the_density_matches_the_moments_of_its_start_exactly() -> None:
    operator = with_spectra(SADDLE)
    found = density(operator, probes=1, steps=5, seed=7)
    start = random_start(operator, "density", 7, 0)
    powers = start
    for order in range(10):  # up to 2 * 5 - 1
        moment = (start * powers).sum() / start.square().sum()
        assert float((found.weights * found.nodes**order).sum()) == pytest.approx(float(moment), rel=1e-9)
        powers = operator(powers)


def test_the_density_is_that_of_the_eigenvalues() -> None:
    found = density(with_spectra(CLUSTERED), probes=8, steps=20)
    values = torch.linspace(-1, 3, 4001, dtype=torch.float64)
    curve = found.at(values, width=0.01)
    assert float(torch.trapezoid(curve, values)) == pytest.approx(1, rel=1e-6)
    assert float(values[curve[0].argmax()]) == pytest.approx(0.9, abs=2e-3)
    near = (found.nodes - 0.9).abs() < 0.04
    assert float((found.weights * near).sum()) == pytest.approx(200 / 202, abs=0.02)


def test_what_is_not_finite_stays_in_its_task() -> None:
    matrices = with_spectra(CLUSTERED).matrices
    operator = Matrices(torch.cat([torch.full_like(matrices, torch.nan), matrices]))
    for value in (extremes(operator, 1).largest[:, 0], trace(operator).value, density(operator).nodes.sum(1)):
        assert value.isnan().tolist() == [True, False]


def test_misuse_is_explained() -> None:
    operator = with_spectra([1.0, 2.0])
    with pytest.raises(ValueError, match=r"k from 1 to 2, .* got 3"):
        extremes(operator, 3)
    with pytest.raises(ValueError, match="at least 6 products, got 5"):
        trace(operator, products=5)
    with pytest.raises(ValueError, match="probes=0"):
        density(operator, probes=0)
