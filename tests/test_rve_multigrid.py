"""RVEs on any mesh: conjugate gradients with algebraic multigrid agree with the direct solver."""

from typing import Any

import numpy as np
import pytest
from helpers import ELASTIC, SATURATING

from femops import CaseError, NotConverged, notation
from femops.law import LawContext
from femops.rve import conjugate_gradients, methods
from femops.rve.solver import RVESolver, SolverOptions
from femops.rve.spec import RVE, RVEParameters, build_rve

J2 = {"law": "j2", "E": 9000.0, "nu": 0.3, "yield_stress": 40.0, "hardening": 90.0}
CIRCLES = [{"center": [0.1, 0.0], "radius": 0.25}, {"center": [0.5, 0.5], "radius": 0.2, "phase": "void"}]
SPHERES = [{"center": [0.1, 0.0, 0.0], "radius": 0.3}]
SHAPES = {
    2: {"circles": {"circles": CIRCLES, "mesh_size": 0.2}},
    3: {"spheres": {"spheres": SPHERES, "mesh_size": 0.5}},
}


def rve(dim: int, matrix: dict[str, Any], boundary: str = "periodic") -> RVE:
    block = {**SHAPES[dim], "boundary": boundary, "phases": {"matrix": matrix, "fibre": ELASTIC}}
    return build_rve(RVEParameters.model_validate(block), LawContext(dim))


def solver(one: RVE, **options: Any) -> RVESolver:
    return RVESolver(one.discretisation, one.phases, one.boundary, SolverOptions(**options))


@pytest.mark.parametrize(
    ("dim", "boundary", "matrix"),
    [
        (2, "periodic", SATURATING),
        (3, "periodic", ELASTIC | {"K": 4000.0}),
        (3, "periodic", J2),
        (3, "kinematic", SATURATING),
    ],
)
def test_stress_and_tangent_are_those_of_the_direct_solver(dim: int, boundary: str, matrix: dict[str, Any]) -> None:
    one = rve(dim, matrix, boundary)
    strain = 0.01 * np.random.default_rng(3).normal(size=(notation.n_strain(dim), 2))
    both = solver(one, rtol=1e-10, linear="multigrid"), solver(one, rtol=1e-10, exact_sensitivities=True)
    assert [side.iterative for side in both] == [True, False]
    states = [side.virgin_state(2) for side in both]
    for factor in (1.0, 1.5):  # the second step starts with plastic strains
        found, expected = (side.solve(factor * strain, state) for side, state in zip(both, states, strict=True))
        for name in ("stress", "tangent", "stress_33", "tangent_33"):
            values, exact = getattr(found, name), getattr(expected, name)
            assert (values is None) == (exact is None)
            if exact is not None:
                np.testing.assert_allclose(values, exact, rtol=0.0, atol=1e-8 * np.abs(exact).max(), err_msg=name)
        np.testing.assert_allclose(found.fluctuation, expected.fluctuation, rtol=0.0, atol=1e-7)
        states = [found.state, expected.state]


def test_the_initial_guess_is_left_as_it_is() -> None:
    one = solver(rve(2, SATURATING), linear="multigrid")
    start = np.zeros((one.free.count, 1))
    found = one.solve(np.full((3, 1), 0.01), one.virgin_state(1), start)
    assert found.fluctuation.any()
    assert not start.any()


def test_the_size_chooses_in_3d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_MULTIGRID_FROM", 50)
    large = solver(rve(3, SATURATING))
    assert large.iterative
    assert large.notes == (f"{large.free.count} unknowns; solved by conjugate gradients with algebraic multigrid",)
    assert not solver(rve(3, SATURATING, "static")).iterative
    assert not solver(rve(3, SATURATING), linear="pardiso").iterative
    assert not solver(rve(2, SATURATING)).iterative
    problem = "'multigrid' given as linear solver, but the boundary conditions are static; expected auto, pardiso or"
    with pytest.raises(CaseError, match=problem):
        solver(rve(3, SATURATING, "static"), linear="multigrid")


def test_auto_takes_a_factor_where_conjugate_gradients_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_MULTIGRID_FROM", 50)
    monkeypatch.setattr(conjugate_gradients, "_MOST_ITERATIONS", 1)
    one, strain = solver(rve(3, SATURATING)), np.full((6, 1), 0.01)
    found = one.equilibrium(strain, one.virgin_state(1))
    assert not one.iterative
    np.testing.assert_array_equal(found.stress, one.solve(strain, one.virgin_state(1)).stress)
    with pytest.raises(NotConverged, match="the unloaded RVE cannot be solved"):
        _ = solver(rve(3, SATURATING), linear="multigrid").elastic_sensitivity
