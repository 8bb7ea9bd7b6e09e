"""Linear systems of the macroscale: factorised, or by conjugate gradients with multigrid."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from helpers import SATURATING, box_case, box_problem
from mpi4py import MPI
from petsc4py import PETSc

from femops import CaseError, NotConverged
from femops.commands.run import run_case
from femops.macro import linear
from femops.macro.problem import MacroProblem

BEAM: dict[str, Any] = {
    "cells": 6,
    "material": SATURATING,
    "supports": {"left": {"ux": 0.0, "uy": 0.0, "uz": 0.0}},
    "loads": {"right": {"traction": [0.5, 0.3, -0.2]}},
}


def _solved(**changes: Any) -> MacroProblem:
    problem = box_problem("hexahedron", **{**BEAM, **changes})
    problem.solve(1.0, 1.0)
    return problem


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every body in 3D be a large one."""
    monkeypatch.setattr(linear, "_LARGEST_DIRECT", 0)


def test_small_bodies_and_the_plane_are_factorised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert box_problem("hexahedron").notes == ()
    monkeypatch.setattr(linear, "_LARGEST_DIRECT", 0)
    assert box_problem("quadrilateral").notes == ()
    assert any("multigrid" in note for note in box_problem("hexahedron").notes)


def test_conjugate_gradients_answer_as_the_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = _solved().displacement.x.array.copy()
    monkeypatch.setattr(linear, "_LARGEST_DIRECT", 0)
    problem = _solved()
    assert problem._solver._solver.getType() == "cg"
    assert problem._solver._solver.getIterationNumber() < 40  # 49 without rotations
    found = problem.displacement.x.array
    assert 0.0 < np.abs(found - direct).max() < 1e-8 * np.abs(direct).max()


@pytest.mark.usefixtures("large")
def test_the_transposed_system_is_solved_too() -> None:
    problem = _solved()
    right = fem_petsc.create_vector(problem.displacement.function_space)
    right.array_w[:] = np.random.default_rng(0).standard_normal(right.getLocalSize())
    solution = fem.Function(problem.displacement.function_space)
    problem.assemble_tangent()
    problem.solve_transposed(right, solution)
    rest = right.duplicate()
    problem._matrix.multTranspose(solution.x.petsc_vec, rest)
    assert (rest - right).norm() < 1e-9 * right.norm()


def test_a_system_that_is_not_symmetric_is_factorised(monkeypatch: pytest.MonkeyPatch) -> None:
    space = box_problem("hexahedron", cells=4).displacement.function_space
    n = space.dofmap.index_map.size_global * space.dofmap.index_map_bs
    matrix = PETSc.Mat().createAIJ((n, n), bsize=3, nnz=3)
    for row in range(n):
        matrix[row, row] = 1.0
        matrix[row, (row + 1) % n] = 5.0
        matrix[row, (row - 1) % n] = -5.0
    matrix.assemble()
    monkeypatch.setattr(linear, "_LARGEST_DIRECT", 0)
    solver = linear.LinearSolver(matrix, space, 1e-10, {})
    assert solver.note
    right, solution = matrix.createVecs()
    right.set(1.0)
    solver.solve(right, solution)
    assert solver.note is None
    assert (matrix * solution - right).norm() < 1e-10 * right.norm()


def test_options_of_petsc_replace_the_choice() -> None:
    problem = box_problem("hexahedron", solver={"petsc": {"ksp_type": "gmres", "pc_type": "jacobi"}})
    problem.solve(1.0, 1.0)
    assert problem._solver._solver.getType() == "gmres"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ksp_type": "cg", "pc_typo": "gamg"}, "solver.petsc: PETSc does not know or use the option pc_typo"),
        ({"ksp_type": "cgg"}, "solver.petsc: PETSc refuses the options"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    case, path = box_case("hexahedron", solver={"petsc": options}, output={"picture": None}), tmp_path / "box.yaml"
    path.touch()
    with pytest.raises(CaseError, match=message):
        run_case(case, path, tmp_path / "results", MPI.COMM_WORLD)


def test_a_method_that_does_not_converge_is_named() -> None:
    with pytest.raises(NotConverged, match=r"stopped after 2 iterations \(PETSc reason -3\)"):
        _solved(solver={"petsc": {"ksp_type": "cg", "pc_type": "none", "ksp_max_it": 2}})
