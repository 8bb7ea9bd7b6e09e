"""Linear solvers of the RVE solver."""

from typing import get_args

import numpy as np
import pytest
import scipy.sparse as sp

from femops.rve.linear import LinearSolverName, linear_solver


def random_spd(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return dense SPD matrices of one banded-plus-corner sparsity, shape (count, n, n)."""
    lower = np.tril(np.triu(np.ones((n, n)), -3)) + np.eye(n)
    lower[-1, 0] = 1.0
    matrices = rng.uniform(-1.0, 1.0, (count, n, n)) * (lower > 0)
    matrices = matrices + matrices.transpose(0, 2, 1)
    return matrices + np.eye(n) * (np.abs(matrices).sum(2).max() + 1.0)


@pytest.mark.parametrize("name", get_args(LinearSolverName))
def test_every_batch_is_solved_with_its_own_values(name: LinearSolverName) -> None:
    rng = np.random.default_rng(5)
    n, columns = 40, 4
    pattern = sp.csr_array(np.triu(random_spd(n, 1, rng)[0]))
    pattern.sort_indices()
    rows = np.repeat(np.arange(n), np.diff(pattern.indptr))
    solver = linear_solver(name, pattern)
    for count in (3, 1, 5):  # the matrices change within a batch and between batches
        matrices = random_spd(n, count, rng) * 10.0 ** rng.uniform(-3.0, 3.0, (count, 1, 1))
        values = np.ascontiguousarray(matrices[:, rows, pattern.indices].T)
        expected = rng.uniform(-1.0, 1.0, (n, columns, count))
        rhs = np.einsum("bij,jkb->ikb", matrices, expected)
        given = values.copy(), rhs.copy()
        solution, success = solver.solve(values, rhs)
        assert success.all()
        np.testing.assert_allclose(solution, expected, rtol=0.0, atol=1e-12)
        np.testing.assert_array_equal(values, given[0])
        np.testing.assert_array_equal(rhs, given[1])


@pytest.mark.parametrize("name", get_args(LinearSolverName))
def test_an_indefinite_matrix_is_reported_and_does_not_spoil_the_others(name: LinearSolverName) -> None:
    rng = np.random.default_rng(6)
    matrices = random_spd(12, 3, rng)
    matrices[1] *= -1.0
    pattern = sp.csr_array(np.triu(matrices[0]))
    rows = np.repeat(np.arange(12), np.diff(pattern.indptr))
    values = np.ascontiguousarray(matrices[:, rows, pattern.indices].T)
    rhs = rng.uniform(-1.0, 1.0, (12, 2, 3))
    solution, success = linear_solver(name, pattern).solve(values, rhs)
    assert success.tolist() == [True, False, True]
    for i in (0, 2):
        np.testing.assert_allclose(matrices[i] @ solution[:, :, i], rhs[:, :, i], rtol=0.0, atol=1e-12)


def test_kept_factors_solve_again_in_any_order() -> None:
    rng = np.random.default_rng(7)
    matrices = random_spd(15, 4, rng)
    pattern = sp.csr_array(np.triu(matrices[0]))
    rows = np.repeat(np.arange(15), np.diff(pattern.indptr))
    values = np.ascontiguousarray(matrices[:, rows, pattern.indices].T)
    solver = linear_solver("pardiso", pattern)
    assert solver.n_kept >= 4
    solver.solve(values, np.zeros((15, 1, 4)), np.arange(4))
    solver.solve(2.0 * values[:, :1], np.zeros((15, 1, 1)))  # keeps no factor, and spoils none
    order = np.array([2, 0, 3])
    rhs = rng.uniform(-1.0, 1.0, (15, 2, 3))
    solution = solver.resolve(order, rhs)
    for i, slot in enumerate(order):
        np.testing.assert_allclose(matrices[slot] @ solution[:, :, i], rhs[:, :, i], rtol=0.0, atol=1e-12)
