"""RVEs of saturating phases converge at very large strains; a failed RVE does not affect the others."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import root

from femops import NotConverged, load_law, notation
from femops.checks import check_law
from femops.notation import Array
from femops.rve.law import NestedLaw
from femops.rve.sampling import sobol

SOFT = {"law": "saturating", "K": 4780.0, "alpha1": 5.0, "alpha2": 5e-4}
HARD = {"law": "saturating", "K": 43452.0, "alpha1": 50.0, "alpha2": 0.06}
PHASES = {"matrix": SOFT, "fibre": HARD}
BALLS = [{"center": [-0.25, 0.25], "radius": 0.15}, {"center": [0.25, 0.15], "radius": 0.2}]


@cache
def plane(max_iter: int = 30, linear: str = "auto") -> NestedLaw:
    """Return the law of two fibres on a grid of quadratic cells."""
    rve = {"voxels": {"cells": 8, "inclusions": BALLS, "cell": "quad8"}, "phases": PHASES}
    law = load_law({"law": "nested", "rve": rve, "solver": {"max_iter": max_iter, "linear": linear}}, dim=2)
    assert isinstance(law, NestedLaw)
    return law


def strains(dim: int, count: int) -> Array:
    """Return strains up to 0.2, five times the usual range. Shape (count, n_s)."""
    largest = np.full(notation.n_strain(dim), 0.2)
    return sobol(-largest, largest, count, 1).reshape(count, -1)


def zeros(law: Any, count: int) -> Array:
    """Return the virgin state."""
    return np.zeros((count, law.n_state))


def test_a_batch_of_500_strains_converges() -> None:
    """The convex mean energy W is below that of the uniform strain, so that S : E ≤ W(2 E) − W(E) ≤ ⟨ψ(2 E)⟩."""
    law, strain = plane(), strains(2, 500)
    answer = law.evaluate(strain, zeros(law, 500), 1.0)
    assert np.linalg.eigvalsh(answer.tangent).min() > 0.0
    energies = [phase.energy(2.0 * strain.T, np.zeros((0, 500))) for phase in law.rve.phases]
    above = sum(law.rve.discretisation.volume_fraction(i) * one for i, one in enumerate(energies))
    work = (answer.stress * strain).sum(1)
    assert (work > 0.0).all()
    assert (work < above).all()
    alone = [law.evaluate(strain[i : i + 1], zeros(law, 1), 1.0).stress[0] for i in (0, 17, 333)]
    np.testing.assert_allclose(answer.stress[[0, 17, 333]], alone, rtol=1e-8)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_laminate_of_two_saturating_phases_has_its_own_solution(dim: int) -> None:
    """The strains of two layers differ by n ⊗ a; the jump a that makes their tractions equal is found by SciPy."""
    layers = {"phases": [["matrix", 0.7], ["fibre", 0.3]], "axis": 0, "mesh_size": 1.0}
    rve = {"laminate": {**layers, "cell": "quad8" if dim == 2 else "hexahedron20"}, "phases": PHASES}
    law, strain = load_law({"law": "nested", "rve": rve}, dim=dim), strains(dim, 40)
    found = law.evaluate(strain, zeros(law, 40), 1.0).stress
    soft, hard = load_law(SOFT, dim=dim), load_law(HARD, dim=dim)
    for one, stress in zip(strain, found, strict=True):

        def layer(law: Any, share: float, jump: Array, mean: Array = one) -> tuple[Array, Array]:
            tensor = np.zeros((dim, dim))
            tensor[0] = 0.5 * jump
            change = share * notation.from_tensor(tensor + tensor.T)
            return law.evaluate((mean + change)[None], np.zeros((1, 0)), 1.0).stress[0]

        def traction_gap(jump: Array) -> Array:
            return notation.to_tensor(layer(soft, 0.3, jump) - layer(hard, -0.7, jump))[0]

        answer = root(traction_gap, 2.0 * notation.to_tensor(one)[0], method="lm", options={"xtol": 1e-14})
        assert np.abs(traction_gap(answer.x)).max() < 1e-8
        expected = 0.7 * layer(soft, 0.3, answer.x) + 0.3 * layer(hard, -0.7, answer.x)
        np.testing.assert_allclose(stress, expected, rtol=0.0, atol=1e-7 * np.abs(expected).max())


def test_quadratic_tetrahedra_around_a_ball_converge() -> None:
    """Stiffnesses on the way to these solutions are too small beside others to be factorised if steps are too long."""
    hard = {**HARD, "alpha2": 5e-4}
    rve = {"spheres": {"spheres": [{"center": [0, 0, 0], "radius": 0.35}], "mesh_size": 0.4, "cell": "tetra10"}}
    law = load_law({"law": "nested", "rve": {**rve, "phases": {"matrix": SOFT, "fibre": hard}}}, dim=3)
    strain = strains(3, 16)[1:4]
    answer = law.evaluate(strain, zeros(law, 3), 1.0)
    assert np.linalg.eigvalsh(answer.tangent).min() > 0.0


def test_the_contract_holds_far_out() -> None:
    check_law(plane(), rtol_tangent=1e-5, n_points=3)


def test_an_rve_that_fails_fails_alone_and_is_named() -> None:
    """With few iterations: those that need more fail, and the others have the answers that they have alone."""
    law, strain = plane(7), strains(2, 16)
    solver = law.solver
    solution = solver.attempt(strain.T.copy(), solver.virgin_state(16))
    failed = sorted(solution.failures)
    others = np.setdiff1d(np.arange(16), failed)
    assert 1 <= len(failed) <= 12
    assert np.isnan(solution.stress[:, failed]).all()
    assert np.isnan(solution.tangent[..., failed]).all()
    for i in others[:4]:
        alone = solver.solve(strain[i : i + 1].T.copy(), solver.virgin_state(1))
        np.testing.assert_allclose(solution.stress[:, i], alone.stress[:, 0], rtol=1e-9)
        np.testing.assert_allclose(solution.tangent[..., i], alone.tangent[..., 0], rtol=1e-6, atol=1e-3)
    worst = max(failed, key=lambda i: np.abs(strain[i]).max())
    where = ", ".join(f"{x:.4g}" for x in strain[worst])
    with pytest.raises(NotConverged) as caught:
        law.evaluate(strain, zeros(law, 16), 1.0)
    problem = caught.value.what
    assert problem.startswith(
        f"{len(failed)} of 16 RVEs did not converge in 7 iterations: number {worst} at the strain"
    )
    assert f"number {worst} at the strain [{where}] (relative residual " in problem


@pytest.mark.parametrize("linear", ["auto", "mumps"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_stiffness_that_cannot_be_factorised_gets_elastic_parts(
    linear: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if round-off had made one of two stiffnesses indefinite, once or twice: the solutions are the same."""
    law, strain = plane(30, linear), strains(2, 2)
    expected = law.evaluate(strain, zeros(law, 2), 1.0)
    solver: Any = law.solver._method._idle[0].solver
    solve, left = solver.solve, [times]

    def failing(values: Array, rhs: Array, slots: Any = None) -> tuple[Array, Any]:
        solution, success = solve(values, rhs, slots)
        if left[0]:
            left[0] -= 1
            success[-1], solution[:, :, -1] = False, np.nan
        return solution, success

    monkeypatch.setattr(solver, "solve", failing)
    found = law.evaluate(strain, zeros(law, 2), 1.0)
    assert left[0] == 0
    np.testing.assert_allclose(found.stress, expected.stress, rtol=1e-8)
    np.testing.assert_allclose(found.tangent, expected.tangent, rtol=1e-5, atol=1e-5 * np.abs(expected.tangent).max())


def test_an_rve_whose_stiffness_never_factorises_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    law, strain = plane(30), strains(2, 2)
    solver: Any = law.solver._method._idle[0].solver
    solve, state = solver.solve, law.solver.virgin_state(2)
    expected = law.solver.solve(strain.T.copy(), state)

    def failing(values: Array, rhs: Array, slots: Any = None) -> tuple[Array, Any]:
        solution, success = solve(values, rhs, slots)
        second = slots == 1
        success[second], solution[:, :, second] = False, np.nan
        return solution, success

    monkeypatch.setattr(solver, "solve", failing)
    found = law.solver.attempt(strain.T.copy(), state)
    assert found.failures == {1: "its stiffness is not positive definite"}
    np.testing.assert_allclose(found.stress[:, 0], expected.stress[:, 0], rtol=1e-9)
