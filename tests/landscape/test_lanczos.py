from __future__ import annotations

import pytest
import torch

from mlkit.landscape.lanczos import dominant, lanczos, random_start
from tests.landscape.operators import CLUSTERED, INDEFINITE, SADDLE, SEPARATED, Matrices, with_spectra


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [(SEPARATED, 10.0), (CLUSTERED, 1.0), (INDEFINITE, 1.0), (SADDLE, -2.0)],
    ids=["well separated", "clustered", "indefinite", "saddle"],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_dominant_eigenvalue_is_found_to_one_part_in_a_million(
    spectrum: list[float], expected: float, seed: int
) -> None:
    operator = with_spectra(spectrum)
    found = dominant(operator, random_start(operator, "test", seed), tolerance=1e-6)
    assert found.converged.all()
    assert abs(float(found.value) / expected - 1) < 1e-6
    assert found.iterations < 30


def test_the_residual_is_that_of_the_vector_found() -> None:
    operator = with_spectra(INDEFINITE)
    *_, state = lanczos(operator, random_start(operator, "test"), max_iterations=6)
    ritz = state.ritz()
    exact = torch.tensor(INDEFINITE, dtype=torch.float64)
    away = (ritz.values[0][:, None] - exact).abs().amin(1)
    assert (away <= ritz.residuals[0] + 1e-12).all()  # an eigenvalue lies within
    assert float(ritz.residuals[0].max()) > 1e-3  # and not because the residuals were all large or all zero
    assert torch.allclose(ritz.weights.sum(1), torch.ones(1, dtype=torch.float64))


def test_the_error_is_within_its_bound_and_that_is_far_below_the_residual() -> None:
    operator = with_spectra(SEPARATED)
    for state in lanczos(operator, random_start(operator, "test"), max_iterations=6):
        ritz = state.ritz()
        value, bound, residual = (float(part[0, -1]) for part in (ritz.values, ritz.errors(), ritz.residuals))
        assert min(abs(value - exact) for exact in SEPARATED) <= bound + 1e-12
        assert bound <= residual
    assert bound < 1e-3 * residual


def test_the_basis_stays_orthonormal() -> None:
    operator = with_spectra(SEPARATED)  # the outlier converges at once: without reorthogonalization copies appear
    *_, state = lanczos(operator, random_start(operator, "test"), max_iterations=301)
    assert torch.allclose(state.ritz().values[0], torch.tensor(sorted(SEPARATED), dtype=torch.float64), atol=1e-11)


def test_tasks_do_not_depend_on_each_other_nor_wait_for_each_other() -> None:
    operator = with_spectra(SEPARATED[:202], CLUSTERED, INDEFINITE)
    together = dominant(operator, random_start(operator, "test"), tolerance=1e-6)
    for task in range(3):
        single = Matrices(operator.matrices[task : task + 1])
        alone = dominant(single, random_start(single, "test"), tolerance=1e-6)
        assert torch.allclose(alone.value, together.value[task], rtol=1e-12)
        assert alone.iterations == together.iterations[task] == single.products
    assert len(set(together.iterations.tolist())) > 1


def test_tolerance_and_budget_decide_when_it_stops() -> None:
    operator = with_spectra([index / 300 for index in range(-200, 301)])
    start = random_start(operator, "test")
    rough, fine = (dominant(operator, start, tolerance=tolerance) for tolerance in (1e-2, 1e-4))
    assert rough.iterations < fine.iterations
    assert rough.converged & fine.converged
    assert float(fine.residual) < float(rough.residual)
    short = dominant(operator, start, tolerance=1e-4, max_iterations=7)
    assert not short.converged
    assert short.iterations == 7
    single = dominant(operator, start, max_iterations=1)
    assert not single.converged


def test_a_zero_matrix_and_few_dimensions_are_exact() -> None:
    zero = Matrices(torch.zeros(1, 30, 30, dtype=torch.float64))
    found = dominant(zero, random_start(zero, "test"))
    assert (float(found.value), float(found.residual), bool(found.converged)) == (0, 0, True)
    small = with_spectra([3.0, -4.0, 1.0])
    found = dominant(small, random_start(small, "test"), tolerance=1e-12)
    assert found.converged
    assert float(found.value) == pytest.approx(-4, rel=1e-14)
    assert found.iterations == small.products == 3
    scalar = with_spectra([-5.0])
    assert float(dominant(scalar, random_start(scalar, "test")).value) == pytest.approx(-5)


def test_where_the_krylov_space_ends_the_next_block_begins() -> None:
    operator = with_spectra([2.0] * 3 + [1.0] * 4)  # two distinct eigenvalues: the space ends after two steps
    states = list(lanczos(operator, random_start(operator, "test"), max_iterations=7))
    assert float(states[1].below[0, 1]) == 0
    values = states[-1].ritz().values[0]
    assert torch.allclose(values, torch.tensor([1.0] * 4 + [2.0] * 3, dtype=torch.float64), atol=1e-12)


def test_an_operator_that_is_not_finite_spoils_its_own_task_only() -> None:
    matrices = with_spectra(CLUSTERED, SADDLE).matrices
    operator = Matrices(torch.stack([matrices[0], torch.full_like(matrices[0], torch.nan), matrices[1]]))
    found = dominant(operator, random_start(operator, "test"), tolerance=1e-7)
    assert found.value.isnan().tolist() == [False, True, False]
    assert found.converged.tolist() == [True, False, True]
    assert torch.allclose(found.value[[0, 2]], torch.tensor([1.0, -2.0], dtype=torch.float64), rtol=1e-6)


def test_no_iterations_are_refused() -> None:
    operator = with_spectra([1.0, 2.0])
    with pytest.raises(ValueError, match="max_iterations of at least 1, got 0"):
        dominant(operator, random_start(operator, "test"), max_iterations=0)
