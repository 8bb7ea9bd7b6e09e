"""RVEs on uniform grids: the iterative solver agrees with the direct one."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import NESTED, summary_of, written
from helpers import ELASTIC, SATURATING

from femops import CaseError, NotConverged, load_law, notation
from femops.law import LawContext
from femops.rve import conjugate_gradients as cg
from femops.rve import iterative
from femops.rve.boundary import free_dofs
from femops.rve.discretisation import discretise
from femops.rve.fft import single_precision
from femops.rve.fft.equations import LatticeEquations
from femops.rve.fft.lattice import find_lattice
from femops.rve.iterative import HostSystems
from femops.rve.law import NestedLaw
from femops.rve.periodicity import periodic_masters
from femops.rve.snapshots import SnapshotSolver
from femops.rve.solver import RVESolver, Solution, SolverOptions
from femops.rve.spec import RVE, RVEParameters, build_rve

J2 = {"law": "j2", "E": 9000.0, "nu": 0.3, "yield_stress": 40.0, "hardening": 90.0}
INCLUSION = {"center": [0.1, 0.2, 0.05], "radius": 0.35}
GRIDS = {
    "quad": [7, 4],
    "triangle": 5,
    "quad8": 4,
    "quad9": [3, 4],
    "triangle6": 3,
    "hexahedron": [4, 3, 5],
    "tetra": 3,
    "hexahedron20": 2,
    "tetra10": 2,
}


def dimension(cell: str) -> int:
    return 3 if cell.startswith(("hexa", "tetra")) else 2


def grid(cell: str, matrix: dict[str, Any] = SATURATING, cells: Any = None) -> RVE:
    """Return an RVE on a grid whose cells are not cubes."""
    dim = dimension(cell)
    inclusion = INCLUSION | {"center": INCLUSION["center"][:dim]}  # type: ignore[index]
    voxels = {"size": [1.0, 1.5, 0.8][:dim], "cells": cells or GRIDS[cell], "cell": cell, "inclusions": [inclusion]}
    block = {"voxels": voxels, "phases": {"matrix": matrix, "fibre": ELASTIC}}
    return build_rve(RVEParameters.model_validate(block), LawContext(dim))


def solver(rve: RVE, **options: Any) -> RVESolver:
    return RVESolver(rve.discretisation, rve.phases, rve.boundary, SolverOptions(**options))


def pierced(rve: RVE, radius: float = 0.35) -> RVE:
    """Return the RVE with a pore around the middle of its face where the last coordinate is smallest."""
    mesh, cell = rve.discretisation.mesh, rve.discretisation.outline.cell
    assert cell is not None
    (lower, upper), middle = mesh.bounds, cell.corner([0.5] * (mesh.dim - 1) + [0.0])
    apart = mesh.points[mesh.cells].mean(axis=1) - middle
    apart -= (upper - lower) * np.rint(apart / (upper - lower))
    solid = np.flatnonzero(np.linalg.norm(apart, axis=1) > radius)
    master = periodic_masters(mesh, cell)
    kept = np.isin(master, master[mesh.cells[solid]])
    regions = {name: np.flatnonzero(np.isin(solid, cells)) for name, cells in mesh.regions.items()}
    left = replace(mesh, points=mesh.points[kept], cells=(np.cumsum(kept) - 1)[mesh.cells[solid]], regions=regions)
    return replace(rve, discretisation=discretise(left, rve.discretisation.phases))


def strains(dim: int, count: int, size: float = 0.02) -> Any:
    """Return strains of the given norm. Shape (n_s, count)."""
    found = np.random.default_rng(3).normal(size=(notation.n_strain(dim), count))
    return size * found / np.linalg.norm(found, axis=0)


def assert_same(found: Solution, expected: Solution, rtol: float) -> None:
    """Check stresses and tangents relative to their largest entry."""
    for name in ("stress", "tangent", "stress_33", "tangent_33"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=0.0, atol=rtol * np.abs(other).max(), err_msg=name)


@pytest.mark.parametrize("matrix", [ELASTIC | {"K": 4000.0}, SATURATING, J2], ids=["elastic", "saturating", "j2"])
@pytest.mark.parametrize("cell", GRIDS)
def test_stress_tangent_and_state_are_those_of_the_direct_solver(cell: str, matrix: dict[str, Any]) -> None:
    rve, strain = grid(cell, matrix), strains(dimension(cell), 3)
    iterative, direct = solver(rve, rtol=1e-10, linear="fft"), solver(rve, rtol=1e-10, exact_sensitivities=True)
    assert (iterative.iterative, direct.iterative) == (True, False)
    of_iterative, of_direct = iterative.virgin_state(3), direct.virgin_state(3)
    for factor in (1.0, 1.5):  # the second step starts with plastic strains
        found, expected = iterative.solve(factor * strain, of_iterative), direct.solve(factor * strain, of_direct)
        assert_same(found, expected, 1e-8)
        of_iterative, of_direct = found.state, expected.state
        for one, other in zip(of_iterative, of_direct, strict=True):
            np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("cell", ["quad", "triangle6", "hexahedron", "tetra", "hexahedron20"])
def test_an_rve_with_a_pore_is_that_of_the_direct_solver(cell: str) -> None:
    rve, strain = pierced(grid(cell, J2)), strains(dimension(cell), 2)
    iterative, direct = solver(rve, rtol=1e-10, linear="fft"), solver(rve, rtol=1e-10, exact_sensitivities=True)
    assert (iterative.iterative, direct.iterative) == (True, False)
    found, expected = (one.solve(strain, one.virgin_state(2)) for one in (iterative, direct))
    assert_same(found, expected, 1e-8)
    again = [one.solve(1.5 * strain, a.state, a.fluctuation) for one, a in ((iterative, found), (direct, expected))]
    assert_same(*again, 1e-8)


@pytest.mark.parametrize("matrix", [ELASTIC | {"K": 4000.0}, J2], ids=["elastic", "j2"])
def test_an_equilibrium_takes_one_column_per_strain(matrix: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rve, strain, columns = grid("hexahedron", matrix), strains(3, 2), []

    def counted(multiply: Any, precondition: Any, residual: Any, accuracy: Any) -> Any:
        columns.append(len(residual))
        return cg.conjugate_gradients(multiply, precondition, residual, accuracy)

    monkeypatch.setattr(single_precision, "conjugate_gradients", counted)
    iterative, direct = solver(rve, rtol=1e-10, linear="fft"), solver(rve, rtol=1e-10, linear="pardiso")
    virgin = direct.virgin_state(2)
    expected = direct.solve(strain, virgin)
    for one in (iterative, direct):
        found = one.equilibrium(strain, virgin)
        np.testing.assert_allclose(found.stress, expected.stress, rtol=0.0, atol=1e-7 * expected.stress.max())
        size = np.abs(expected.fluctuation).max()
        np.testing.assert_allclose(found.fluctuation, expected.fluctuation, rtol=0.0, atol=1e-7 * size)
    assert columns
    assert max(columns) == 2  # without the load cases of the elastic sensitivity
    columns.clear()
    iterative.equilibrium(strain, virgin, expected.fluctuation)
    assert not columns  # the initial guess is the solution


def test_an_equilibrium_that_is_not_found_names_the_strain() -> None:
    one, strain = solver(grid("quad", J2), linear="fft", max_iter=1), strains(2, 2)
    with pytest.raises(NotConverged, match="2 of 2 RVEs did not converge in 1 iterations: the one at the strain"):
        one.equilibrium(strain, one.virgin_state(2))


def test_fields_in_the_rve_are_those_of_the_direct_solver_without_its_tangent() -> None:
    rve, strain = grid("quad", J2), strains(2, 2).T
    fields = []
    for linear in ("fft", "pardiso"):
        law = NestedLaw(rve, SolverOptions(rtol=1e-10, linear=linear))  # type: ignore[arg-type]
        state = law.evaluate(strain[:1], np.zeros((1, law.n_state)), 1.0).state
        law.solver.solve = None  # type: ignore[assignment, method-assign]
        fields.append(law.micro_fields(strain[1], state[0]))
    for name in ("displacement", "stress"):
        one, other = (getattr(found, name) for found in fields)
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-7 * np.abs(other).max(), err_msg=name)


@pytest.mark.parametrize("cell", ["quad", "tetra"])
def test_snapshots_are_those_of_the_direct_solver_with_their_sensitivities(cell: str) -> None:
    rve, strain = grid(cell), strains(dimension(cell), 2).T
    both = [SnapshotSolver(rve, SolverOptions(rtol=1e-10, linear=linear)) for linear in ("fft", "pardiso")]
    first = [one.solve(strain) for one in both]
    for found, expected in (first, [one.solve(1.2 * strain, start) for one, start in zip(both, first, strict=True)]):
        assert list(found) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0.0, atol=3e-8 * np.abs(values).max(), err_msg=name)


def test_the_tangent_is_symmetric_and_the_derivative_of_the_stress() -> None:
    rve, strain, step = grid("hexahedron", J2), strains(3, 1), 1e-6
    one = solver(rve, rtol=1e-11, linear="fft")
    tangent = one.solve(strain, one.virgin_state(1)).tangent[:, :, 0]
    np.testing.assert_array_equal(tangent, tangent.T)
    ends = [one.solve(strain + sign * step * np.eye(6), one.virgin_state(6)).stress for sign in (1.0, -1.0)]
    np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / (2.0 * step), atol=1e-6 * np.abs(tangent).max())


def test_the_error_of_the_tangent_is_quadratic_in_that_of_the_sensitivities() -> None:
    rve, strain = grid("hexahedron"), strains(3, 1)
    exact = solver(rve, rtol=1e-12, exact_sensitivities=True).solve(strain, solver(rve).virgin_state(1))
    errors = []
    for rtol in (1e-4, 1e-8):
        one = solver(rve, rtol=rtol, linear="fft").solve(strain, solver(rve).virgin_state(1), exact.fluctuation)
        pairs = (one.sensitivity, exact.sensitivity), (one.tangent, exact.tangent)
        errors.append([float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs])
    (far, of_far), (near, of_near) = errors
    assert near < 0.1 * far
    assert np.log(of_far / of_near) / np.log(far / near) == pytest.approx(2.0, abs=0.3)
    assert of_near < 1e-8


@pytest.mark.parametrize("cell", GRIDS)
def test_the_reference_is_the_inverse_stiffness_of_a_homogeneous_grid(cell: str) -> None:
    rve = grid(cell, ELASTIC)
    lattice = find_lattice(rve.discretisation.mesh)
    assert lattice is not None
    free = free_dofs(rve.discretisation.outline, "periodic")
    equations = LatticeEquations(rve.discretisation, rve.phases, lattice, free)
    n_s, shape = rve.discretisation.n_s, (2, lattice.n_kinds, lattice.dim, lattice.n_cells)
    nothing = [np.zeros((0, part.stop - part.start, 1)) for part in rve.discretisation.cells_of_phase]
    points = equations.evaluate(np.zeros((n_s, 1)), np.zeros((lattice.size, 1)), nothing)
    vectors = np.random.default_rng(0).normal(size=shape)
    vectors -= vectors.mean(axis=(1, 3), keepdims=True)
    force, _ = equations.tangent(points, vectors.reshape(2, -1), np.zeros((2, n_s)), np.zeros(2, dtype=np.int64))
    found = equations.preconditioner(points)(force).reshape(shape)
    np.testing.assert_allclose(found - found.mean(axis=(1, 3), keepdims=True), vectors, atol=1e-12)


def test_a_nested_law_keeps_one_fluctuation_and_follows_a_load_path() -> None:
    path = strains(2, 2).T[None] * np.linspace(0.3, 1.0, 3)[:, None, None]
    stresses = []
    for linear in ("fft", "pardiso"):
        law = NestedLaw(grid("quad", J2), SolverOptions(linear=linear))
        state = np.zeros((2, law.n_state))
        for strain in path:
            answer = law.evaluate(strain, state, 1.0)
            state = answer.state
        stresses.append(answer.stress)
        history = sum(one.size for one in law.solver.virgin_state(1))
        n_free = law.solver.free.count
        assert law.n_state == 4 + history + 3 + n_free * (1 if linear == "fft" else 4)
    np.testing.assert_allclose(*stresses, rtol=1e-7)


def test_a_strain_that_fails_leaves_the_others_and_is_named() -> None:
    rve, strain = grid("quad"), strains(2, 2) * [1e-9, 10.0]
    one = solver(rve, linear="fft", max_iter=2)
    found = one.attempt(strain, one.virgin_state(2))
    assert list(found.failures) == [1]
    assert np.isnan(found.stress[:, 1]).all()
    assert_same(
        Solution(**{**vars(found), "stress": found.stress[:, :1], "tangent": found.tangent[..., :1],
                    "stress_33": None, "tangent_33": None}),
        replace(solver(rve).solve(strain[:, :1], one.virgin_state(1)), stress_33=None, tangent_33=None),
        1e-7,
    )  # fmt: skip
    problem = r"1 of 2 RVEs did not converge in 2 iterations: number 8 at the strain \[.*\] \(relative residual "
    with pytest.raises(NotConverged, match=problem):
        one.solve(strain, one.virgin_state(2), first=7)


def test_conjugate_gradients_that_do_not_converge_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    one, strain = solver(grid("quad"), linear="fft"), strains(2, 1)
    start = one.solve(strain, one.virgin_state(1)).fluctuation
    monkeypatch.setattr(cg, "_MOST_ITERATIONS", 3)
    found = one.attempt(strain, one.virgin_state(1), start)
    failure = "the conjugate gradients did not converge at the solution; linear: pardiso does without"
    assert found.failures == {0: failure}
    with pytest.raises(NotConverged, match="did not converge; expected a direct solver"):
        _ = solver(grid("quad"), linear="fft").elastic_sensitivity


@pytest.mark.parametrize("cell", ["quad9", "hexahedron", "tetra"])
@pytest.mark.parametrize("trusted", [True, False])
def test_single_precision_yields_what_double_precision_does(
    cell: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions = []

    def recorded(multiply: Any, precondition: Any, residual: Any, accuracy: Any) -> Any:
        precisions.append(residual.dtype)
        return cg.conjugate_gradients(multiply, precondition, residual, accuracy)

    for module in (single_precision, iterative):
        monkeypatch.setattr(module, "conjugate_gradients", recorded)
    if not trusted:
        monkeypatch.setattr(single_precision, "_LEAST_REDUCTION", 1e-9)  # more than single precision can do
    rve, n_s = grid(cell, J2), notation.n_strain(dimension(cell))
    lattice = find_lattice(rve.discretisation.mesh)
    assert lattice is not None
    outline, virgin = rve.discretisation.outline, solver(rve).virgin_state(2)
    equations = LatticeEquations(rve.discretisation, rve.phases, lattice, free_dofs(outline, "periodic"))
    strain, zero = strains(dimension(cell), 2), np.zeros((equations.size, 2))
    points = equations.evaluate(strain, zero, virgin)
    owner = np.repeat([0, 1], n_s)
    right = equations.tangent(points, np.zeros((2 * n_s, equations.size)), np.tile(np.eye(n_s), (2, 1)), owner)[0]
    accuracy = cg.Accuracy(1e-11 * np.linalg.norm(right, axis=1), np.zeros(2 * n_s))
    expected, _ = HostSystems(equations, points).solve(points, right, owner, accuracy)
    precisions.clear()
    found, solved = single_precision.SinglePrecisionSystems(equations, points).solve(points, right, owner, accuracy)
    assert solved.all()
    assert precisions[0] == np.float32
    assert (precisions[-1] == np.float32) == trusted
    one, other = equations.gather(found), equations.gather(expected)  # the vectors differ by a translation
    np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-9 * np.abs(other).max())
    loose = cg.Accuracy(0.0 * accuracy.residual, np.einsum("cf,cf->c", expected, right) * 1e-8)
    precisions.clear()
    found, solved = single_precision.SinglePrecisionSystems(equations, points).solve(points, right, owner, loose)
    assert solved.all()
    assert (precisions[0], precisions[-1]) == (np.float32, np.float64)  # double precision confirms an energy
    error = found - expected
    product, _ = equations.tangent(points, error, np.zeros((2 * n_s, n_s)), owner)
    assert (np.einsum("cf,cf->c", error, product) <= loose.energy).all()


@pytest.mark.parametrize(
    "change",
    [
        {"boundary": "kinematic"},
        {"voxels": None, "circles": {"circles": [{"center": [0, 0], "radius": 0.3}], "mesh_size": 0.3}},
        {"voxels": None, "laminate": {"phases": [["matrix", 0.3], ["fibre", 0.7]], "mesh_size": 0.25}},
    ],
    ids=["kinematic", "circles", "uneven"],
)
def test_other_rves_are_refused_in_one_line(change: dict[str, Any]) -> None:
    voxels = {"cells": 4, "inclusions": [{"center": [0, 0], "radius": 0.3}]}
    rve = {"voxels": voxels, "phases": {"matrix": SATURATING, "fibre": ELASTIC}} | change
    law = {"law": "nested", "rve": rve, "solver": {"linear": "fft"}}
    with pytest.raises(CaseError, match="'fft' given as linear solver, but the RVE is not a periodic box of equal"):
        load_law(law, dim=2)


@pytest.mark.parametrize("cell", ["quad", "triangle6", "tetra"])
def test_a_moved_node_and_a_doubled_cell_make_no_lattice_but_a_missing_one_is_a_pore(cell: str) -> None:
    mesh = grid(cell).discretisation.mesh
    lattice = find_lattice(mesh)
    assert lattice is not None
    n_cells = int(np.prod(np.broadcast_to(GRIDS[cell], dimension(cell))))
    assert (lattice.n_cells, len(lattice.examples)) == (n_cells, len(mesh.cells) // n_cells)
    moved = mesh.points.copy()
    moved[len(moved) // 2] += 1e-3
    assert find_lattice(replace(mesh, points=moved)) is None
    assert find_lattice(replace(mesh, cells=np.vstack([mesh.cells[1:], mesh.cells[1:2]]))) is None
    pierced = find_lattice(replace(mesh, cells=mesh.cells[1:]))
    assert pierced is not None
    assert (pierced.n_cells, pierced.solid_part) == (n_cells, 1.0 - 1.0 / len(mesh.cells))
    halves = mesh.cells[lattice.shape_of_cell == 0]
    assert (find_lattice(replace(mesh, cells=halves)) is None) == (len(lattice.examples) > 1)


def test_the_size_chooses_and_a_run_says_so(run: Callable[..., str], tmp_path: Path) -> None:
    assert not solver(grid("hexahedron", cells=8)).iterative
    assert solver(grid("hexahedron", cells=9)).iterative
    assert not solver(grid("hexahedron", cells=9), linear="pardiso").iterative
    assert not solver(pierced(grid("hexahedron", cells=9), 0.5)).iterative  # 2172 dofs in 75 % of the cells
    voxels = {"cells": 6, "inclusions": [{"center": [0, 0], "radius": 0.3}]}
    phases = {"matrix": SATURATING, "fibre": ELASTIC}
    material = {"law": "nested", "rve": {"voxels": voxels, "phases": phases}, "solver": {"linear": "fft"}}
    path, found = written(tmp_path, NESTED | {"material": material}), []
    for name, override in (("fft", "fft"), ("direct", "auto")):
        command = ("run", path, "--set", f"material.solver.linear={override}", "--output", tmp_path / name)
        printed = run(*command)
        summary = summary_of(tmp_path / name)
        note = [one for one in summary["notes"] if "solved by conjugate gradients with the FFT" in one]
        assert len(note) == (name == "fft") == len(re.findall(r"70 unknowns on a uniform grid", printed))
        found.append(summary["quantities"]["corner"])
    assert found[0] == pytest.approx(found[1], rel=1e-7)
