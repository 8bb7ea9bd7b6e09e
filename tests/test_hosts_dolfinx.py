"""Laws as external operators of DOLFINx: the same patch as in femops, quadratic convergence, history, two ranks."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ufl
from dolfinx import fem
from dolfinx.fem import petsc as fem_petsc
from dolfinx_external_operator import evaluate_external_operators, evaluate_operands, replace_external_operators
from helpers import SATURATING
from host_structures import J2, LAWS, Structure, assert_quadratic, material, solved_patch
from petsc4py import PETSc
from scipy.spatial import cKDTree

from femops import CaseError, load_law
from femops.errors import Refused
from femops.hosts.dolfinx import Stress
from femops.law import LawResponse
from femops.notation import ufl_strain

Array = np.ndarray
REVERSED = (1.0, -0.5)


@pytest.fixture(scope="module", params=[(dim, law) for dim in (2, 3) for law in LAWS], ids=lambda p: f"{p[0]}D {p[1]}")
def patch(request: Any, tmp_path_factory: Any) -> Structure:
    """A patch of each law in each dimension."""
    dim, law = request.param
    return solved_patch(tmp_path_factory.mktemp("patch"), dim, material(law, dim))


@pytest.fixture(scope="module", params=[2, 3])
def plastic(request: Any, tmp_path_factory: Any) -> Structure:
    """A patch of J2 plasticity that is loaded and reversed."""
    return solved_patch(tmp_path_factory.mktemp("plastic"), request.param, J2, REVERSED)


class Body:
    """The patch in plain DOLFINx, with Newton's method of its own."""

    def __init__(self, mesh: Any, law: Any, **decisions: Any) -> None:
        self.dim = mesh.geometry.dim
        space = fem.functionspace(mesh, ("Lagrange", 1, (self.dim,)))
        self.u, v, du = fem.Function(space), ufl.TestFunction(space), ufl.TrialFunction(space)
        self.stress = Stress(law, self.u, 2, **decisions)
        form = ufl.inner(self.stress.operator, ufl_strain(v, self.dim)) * self.stress.measure
        residual, self.residual_operators = replace_external_operators(form)
        jacobian, self.jacobian_operators = replace_external_operators(ufl.derivative(form, self.u, du))
        self.residual, self.jacobian = fem.form(residual), fem.form(jacobian)

    def solve(self, pull: Array) -> list[float]:
        """Move the right side by `pull` and return the residual norms."""
        space = self.u.function_space
        fixed = [fem.locate_dofs_geometrical(space, lambda x, at=at: np.isclose(x[0], at)) for at in (0.0, 1.0)]
        conditions = [fem.dirichletbc(at, dofs, space) for at, dofs in zip((0.0 * pull, pull), fixed, strict=True)]
        solver = PETSc.KSP().create(space.mesh.comm)
        solver.setType("preonly")
        solver.getPC().setType("lu")
        solver.getPC().setFactorSolverType("mumps")
        norms: list[float] = []
        for _ in range(15):
            operands = evaluate_operands(self.residual_operators)
            evaluate_external_operators(self.residual_operators, operands)
            evaluate_external_operators(self.jacobian_operators, operands)
            matrix = fem_petsc.assemble_matrix(self.jacobian, conditions)
            matrix.assemble()
            vector = fem_petsc.assemble_vector(self.residual)
            fem_petsc.apply_lifting(vector, [self.jacobian], [conditions], [self.u.x.petsc_vec], -1.0)
            vector.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
            fem_petsc.set_bc(vector, conditions, self.u.x.petsc_vec, -1.0)
            norms.append(vector.norm())
            if norms[-1] < 1e-13 * max(norms):
                break
            step = self.u.x.petsc_vec.duplicate()
            solver.setOperators(matrix)
            solver.solve(vector, step)
            self.u.x.petsc_vec.axpy(-1.0, step)
            self.u.x.scatter_forward()
        return norms

    def at(self, points: Array) -> Array:
        """Displacements at nodes of the mesh."""
        place = cKDTree(self.u.function_space.tabulate_dof_coordinates()[:, : self.dim]).query(points)[1]
        return self.u.x.array.reshape(-1, self.dim)[place]


class Counting:
    """A law that counts its evaluations and is valid up to a strain."""

    def __init__(self, law: Any, valid: float = np.inf) -> None:
        self.law, self.valid, self.calls = law, valid, 0
        self.strain_measure, self.dim = law.strain_measure, law.dim
        self.n_state, self.state_fields = law.n_state, law.state_fields

    def evaluate(self, strain: Array, state: Array, dt: float) -> LawResponse:
        self.calls += 1
        response = self.law.evaluate(strain, state, dt)
        valid = np.abs(strain).max(axis=1, initial=0.0) <= self.valid
        return LawResponse(response.stress, response.tangent, response.state, response.stress_33, valid=valid)


def test_dolfinx_finds_the_displacement_of_femops(patch: Structure) -> None:
    law = Counting(patch.law)
    body = Body(patch.problem.mesh.mesh, law)
    norms = body.solve(patch.pull)
    patch.compare(body.at(patch.points))
    assert_quadratic(norms)
    assert law.calls == len(norms)  # stress and tangent of an iteration are one evaluation


def test_dolfinx_commits_the_state_of_each_step(plastic: Structure) -> None:
    body = Body(plastic.problem.mesh.mesh, plastic.law)
    for step, factor in enumerate(REVERSED):
        body.solve(factor * plastic.pull)
        body.stress.commit()
        plastic.compare(body.at(plastic.points), step)


def test_a_strain_out_of_range_stops_dolfinx_unless_the_user_decides_otherwise(patch: Structure) -> None:
    law = Counting(patch.law, valid=0.01)
    with pytest.raises(Refused, match="strains are out of the range of the law"):
        Body(patch.problem.mesh.mesh, law).solve(patch.pull)
    body = Body(patch.problem.mesh.mesh, law, out_of_range="extrapolate")
    body.solve(patch.pull)
    patch.compare(body.at(patch.points))


def test_a_law_of_another_dimension_is_refused_by_dolfinx(patch: Structure) -> None:
    with pytest.raises(CaseError, match=f"the law is {5 - patch.dim}D, expected {patch.dim}D as the mesh"):
        Body(patch.problem.mesh.mesh, load_law(SATURATING, dim=5 - patch.dim))


RANKS = """
import femops.stack
from test_hosts_dolfinx import *
from dolfinx import mesh
from mpi4py import MPI

cells = mesh.create_unit_square(MPI.COMM_WORLD, 4, 4, mesh.CellType.quadrilateral)
law = Counting(load_law(SATURATING))
body = Body(cells, law)
body.solve(np.array([0.05, 0.03]))
square = cells.comm.allreduce(fem.assemble_scalar(fem.form(ufl.inner(body.u, body.u) * ufl.dx)))
if cells.comm.rank == 1:
    law.valid = -1.0  # nothing is valid on one of two ranks
try:
    body.solve(np.array([0.01, 0.0]))
    print(f"{square:.12e} accepted", flush=True)
except Refused:
    print(f"{square:.12e} refused", flush=True)
"""


@pytest.mark.mpi
def test_two_ranks_find_what_one_finds_and_stop_together() -> None:
    def words(ranks: int) -> list[str]:
        """Return number and word of each rank; their lines may run into each other."""
        command = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), sys.executable, "-c", RANKS]
        here = Path(__file__).parent
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=here, check=False)
        assert done.returncode == 0, done.stderr
        return [part for pair in re.findall(r"([\d.]+e[+-]\d+) ([a-z]+)", done.stdout) for part in pair]

    (alone, accepted), two = words(1), words(2)
    assert accepted == "accepted"
    assert two[1::2] == ["refused"] * 2
    assert [float(value) for value in two[::2]] == pytest.approx([float(alone)] * 2, rel=1e-10)
