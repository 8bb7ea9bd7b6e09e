"""The invariants of homogenization hold for the nested law in 2D and 3D."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from femops import CaseError, NotConverged, load_law, notation
from femops.checks import check_law
from femops.meshing import TaggedMesh
from femops.meshing.box import box
from femops.notation import Array
from femops.rve.discretisation import discretise
from femops.rve.law import NestedLaw
from femops.rve.solver import RVESolver
from femops.rve.spec import RVE

FIBRE = {"law": "elastic", "K": 43452.381, "G": 29918.033}
MATRICES: dict[str, dict[str, Any]] = {
    "elastic": {"law": "elastic", "K": 4780.0, "G": 400.0},
    "saturating": {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06},
    "j2": {"law": "j2", "E": 4000.0, "nu": 0.35, "yield_stress": 30.0, "hardening": 200.0},
}
LAYERS = [("matrix", 0.3), ("fibre", 0.2), ("matrix", 0.25), ("fibre", 0.25)]
CIRCLE = [{"center": [0.1, 0.05], "radius": 0.3}]
GEOMETRIES: dict[str, tuple[int, dict[str, Any]]] = {
    "circle": (2, {"circles": {"circles": CIRCLE, "mesh_size": 0.15, "cell": "quad"}}),
    "laminate": (2, {"laminate": {"phases": LAYERS, "axis": 1, "mesh_size": 0.25, "cell": "quad"}}),
    "sphere": (3, {"spheres": {"spheres": [{"center": [0, 0, 0], "radius": 0.3}], "mesh_size": 0.3, "cell": "tetra"}}),
    "solid laminate": (3, {"laminate": {"phases": LAYERS, "axis": 0, "mesh_size": 0.5, "cell": "hexahedron"}}),
}
EVERY = pytest.mark.parametrize("geometry", GEOMETRIES)
BOTH_DIMS = pytest.mark.parametrize("geometry", ["circle", "sphere"])
MATRIX = pytest.mark.parametrize("matrix", MATRICES)
NONLINEAR = pytest.mark.parametrize("matrix", ["saturating", "j2"])


@cache
def nested(geometry: str, matrix: str, boundary: str = "periodic", **solver: Any) -> Any:
    """Return the nested law of a matrix with fibres."""
    dim, source = GEOMETRIES[geometry]
    phases = {"matrix": MATRICES[matrix], "fibre": FIBRE}
    rve = {**source, "boundary": boundary, "phases": phases}
    return load_law({"law": "nested", "rve": rve, "solver": {"rtol": 1e-10, **solver}}, dim=dim)


def strains(dim: int, count: int = 3, seed: int = 4) -> Array:
    """Return random macroscale strains up to 0.03. Shape (count, n_s)."""
    return np.random.default_rng(seed).uniform(-0.03, 0.03, (count, notation.n_strain(dim)))


def virgin(law: Any, count: int) -> Array:
    """Return the state of points before any load."""
    return np.zeros((count, law.n_state))


def path(dim: int, count: int = 3) -> list[Array]:
    """Return strains of load steps with reversal, back to zero. Shape (count, n_s) each."""
    one, two = strains(dim, count), strains(dim, count, seed=5)
    return [a * one + b * two for a, b in ((0.5, 0.0), (1.0, 0.0), (0.8, 0.1), (-0.6, 0.4), (0.0, 0.8), (0.0, 0.0))]


@dataclass
class Points:
    """Fields at the quadrature points of one RVE without history, from its nodal fluctuation alone."""

    strain: Array
    stress: Array
    stress_33: Array
    weight: Array

    def mean(self, values: Array) -> Array:
        """Return the volume average of values with the points last."""
        return values @ self.weight / self.weight.sum()


def points_of(law: Any, strain: Array) -> Points:
    """Return the fields of an RVE that was loaded from the virgin state."""
    rve = law.rve.discretisation
    nodal = law.micro_fields(strain, np.zeros(law.n_state)).fluctuation[rve.mesh.cells]
    local = np.einsum("cqsd,cd->scq", rve.strain_operator, nodal.reshape(len(nodal), -1)).reshape(len(strain), -1)
    local += strain[:, None]
    stress, stress_33 = np.empty_like(local), np.zeros(local.shape[1])
    for position, phase in enumerate(law.rve.phases):
        part = rve.points_of_phase(position)
        n_state = max((one.stop for one in phase.state_fields(law.dim).values()), default=0)
        answer = phase.evaluate(local[:, part], np.zeros((n_state, part.stop - part.start)))
        stress[:, part] = answer.stress
        if answer.stress_33 is not None:
            stress_33[part] = answer.stress_33
    return Points(local, stress, stress_33, rve.weight.ravel())


def phase_tangents(law: Any) -> tuple[Array, Array]:
    """Return the stiffnesses (n_phases, n_s, n_s) and volume fractions (n_phases,) of linear phases."""
    rve = law.rve.discretisation
    empty = np.zeros((0, rve.n_s))
    tangents = [phase.evaluate(np.eye(rve.n_s), empty).tangent[:, :, 0] for phase in law.rve.phases]
    return np.array(tangents), np.array([rve.volume_fraction(i) for i in range(len(tangents))])


# -- fields -------------------------------------------------------------------------------------------------------


@EVERY
@MATRIX
def test_the_fluctuation_and_its_strain_have_zero_mean(geometry: str, matrix: str) -> None:
    law = nested(geometry, matrix)
    rve = law.rve.discretisation
    strain = strains(law.dim)[0]
    fields = law.micro_fields(strain, np.zeros(law.n_state))
    basis, _ = rve.mesh.kind.tabulate(rve.mesh.kind.quadrature()[0])
    integral = np.einsum("cq,qa,cai->i", rve.weight, basis, fields.fluctuation[rve.mesh.cells])
    assert np.abs(integral).max() < 1e-14 < np.abs(fields.fluctuation).max()
    np.testing.assert_allclose(points_of(law, strain).mean(points_of(law, strain).strain), strain, rtol=0, atol=1e-14)
    weight = rve.weight.sum(axis=1) / rve.volume
    np.testing.assert_allclose(weight @ fields.strain, strain, rtol=0.0, atol=1e-14)


@EVERY
@MATRIX
@pytest.mark.parametrize("boundary", ["periodic", "kinematic", "static"])
def test_hill_mandel_and_the_mean_stress(geometry: str, matrix: str, boundary: str) -> None:
    law = nested(geometry, matrix, boundary)
    for strain in strains(law.dim, 2):
        response = law.evaluate(strain[None], virgin(law, 1), 1.0)
        points = points_of(law, strain)
        np.testing.assert_allclose(points.mean(points.strain), strain, rtol=0.0, atol=1e-13)
        scale = np.abs(response.stress).max()
        np.testing.assert_allclose(response.stress[0], points.mean(points.stress), rtol=0.0, atol=1e-9 * scale)
        work = points.mean((points.stress * points.strain).sum(0))
        np.testing.assert_allclose(work, response.stress[0] @ strain, rtol=1e-9)
        if law.dim == 2:
            np.testing.assert_allclose(response.stress_33[0], points.mean(points.stress_33), rtol=0, atol=1e-9 * scale)


@BOTH_DIMS
@MATRIX
def test_fields_have_the_homogenized_stress_and_do_not_depend_on_the_origin(geometry: str, matrix: str) -> None:
    law = nested(geometry, matrix)
    rve, strain, state = law.rve.discretisation, strains(law.dim)[0], np.zeros(law.n_state)
    fields, response = law.micro_fields(strain, state), law.evaluate(strain[None], virgin(law, 1), 1.0)
    weight, tolerance = rve.weight.sum(axis=1) / rve.volume, 1e-9 * np.abs(response.stress).max()
    np.testing.assert_allclose(weight @ fields.stress, response.stress[0], rtol=0.0, atol=tolerance)
    if law.dim == 2:
        np.testing.assert_allclose(weight @ fields.stress_33, response.stress_33[0], rtol=0.0, atol=tolerance)
    mesh = replace(rve.mesh, points=rve.mesh.points + 5.0, periods=np.eye(law.dim))
    moved = NestedLaw(RVE(discretise(mesh, rve.phases), law.rve.phases, "periodic"), law.solver.options)
    again = moved.micro_fields(strain, np.zeros(moved.n_state))
    np.testing.assert_allclose(again.displacement, fields.displacement, rtol=0.0, atol=1e-9)
    assert np.ptp(fields.displacement - fields.fluctuation, axis=0).max() > 1e-2


# -- tangents and bounds ------------------------------------------------------------------------------------------


@EVERY
def test_bounds_are_ordered_reuss_static_periodic_kinematic_voigt(geometry: str) -> None:
    laws = [nested(geometry, "elastic", boundary) for boundary in ("static", "periodic", "kinematic")]
    tangents, fractions = phase_tangents(laws[0])
    zero = np.zeros((1, tangents.shape[1]))
    effective = [law.evaluate(zero, virgin(law, 1), 1.0).tangent[0] for law in laws]
    reuss = np.linalg.inv(np.einsum("p,pst->st", fractions, np.linalg.inv(tangents)))
    voigt = np.einsum("p,pst->st", fractions, tangents)
    for lower, upper in zip([reuss, *effective], [*effective, voigt], strict=True):
        gap = np.linalg.eigvalsh(upper - lower) / np.linalg.norm(voigt)
        assert gap.min() >= -1e-9
        assert gap.max() > (1e-4 if "laminate" not in geometry else -1.0)


@EVERY
def test_a_laminate_of_linear_phases_has_its_closed_form(geometry: str) -> None:
    """Normal stresses σ_N and in-layer strains ε_T are the same in all layers: average what is left."""
    if "laminate" not in geometry:
        geometry, axis = {"circle": ("laminate", 0), "sphere": ("solid laminate", 2)}[geometry]
    else:
        axis = GEOMETRIES[geometry][1]["laminate"]["axis"]
    dim, source = GEOMETRIES[geometry]
    rve = {"laminate": {**source["laminate"], "axis": axis}, "phases": {"matrix": MATRICES["elastic"], "fibre": FIBRE}}
    law = load_law({"law": "nested", "rve": rve}, dim=dim)
    tangents, fractions = phase_tangents(law)
    normal = [i for i, pair in enumerate(notation.PAIRS[dim]) if axis in pair]
    layer = [i for i in range(notation.n_strain(dim)) if i not in normal]
    nn, nt = tangents[:, normal][:, :, normal], tangents[:, normal][:, :, layer]
    tn, tt = nt.transpose(0, 2, 1), tangents[:, layer][:, :, layer]

    def mean(values: Array) -> Array:
        return np.einsum("p,pst->st", fractions, values)

    soft = np.linalg.inv(nn)
    expected = np.empty(tangents.shape[1:])
    expected[np.ix_(normal, normal)] = hard = np.linalg.inv(mean(soft))
    expected[np.ix_(normal, layer)] = coupling = hard @ mean(soft @ nt)
    expected[np.ix_(layer, normal)] = coupling.T
    expected[np.ix_(layer, layer)] = mean(tt - tn @ soft @ nt) + mean(tn @ soft) @ coupling
    strain = strains(dim)
    response = law.evaluate(strain, virgin(law, len(strain)), 1.0)
    for tangent in response.tangent:
        np.testing.assert_allclose(tangent, expected, rtol=0.0, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_allclose(response.stress, strain @ expected, rtol=1e-10)


@EVERY
@MATRIX
def test_the_contract_holds_with_the_tangent_to_six_digits(geometry: str, matrix: str) -> None:
    law = nested(geometry, matrix)
    check_law(law, rtol_tangent=1e-6, n_points=4 if law.dim == 2 else 2)
    row = law.evaluate(strains(law.dim), virgin(law, 3), 1.0).tangent_33
    assert (row is None) == (law.dim == 3)  # it was checked in plane strain


def test_a_phase_that_does_not_know_its_row_of_33_leaves_none() -> None:
    law = nested("circle", "saturating")
    fibre, matrix = law.rve.phases
    bare = SimpleNamespace(linear=False, evaluate=matrix.evaluate, state_fields=matrix.state_fields)
    other = NestedLaw(replace(law.rve, phases=(fibre, bare)), law.solver.options)
    known, unknown = (one.evaluate(strains(2), virgin(law, 3), 1.0) for one in (law, other))
    assert known.tangent_33 is not None and unknown.tangent_33 is None
    np.testing.assert_array_equal(unknown.tangent, known.tangent)


@BOTH_DIMS
@NONLINEAR
@pytest.mark.parametrize("boundary", ["kinematic", "static"])
def test_the_contract_holds_under_other_boundary_conditions(geometry: str, matrix: str, boundary: str) -> None:
    check_law(nested(geometry, matrix, boundary), rtol_tangent=1e-6, n_points=2)


@EVERY
@MATRIX
def test_the_tangent_is_symmetric_and_positive_definite(geometry: str, matrix: str) -> None:
    law = nested(geometry, matrix)
    tangent = law.evaluate(strains(law.dim), virgin(law, 3), 1.0).tangent
    np.testing.assert_allclose(tangent, tangent.transpose(0, 2, 1), rtol=0.0, atol=1e-12 * np.abs(tangent).max())
    assert np.linalg.eigvalsh(tangent).min() > 0.0


@BOTH_DIMS
@NONLINEAR
def test_the_tangent_forgets_the_increment_before(geometry: str, matrix: str) -> None:
    """After the slightest unloading the start is right at once, and its sensitivities are those of loading."""
    law = nested(geometry, matrix)
    strain = strains(law.dim)[1:]
    state = law.evaluate(strain, virgin(law, 2), 1.0).state
    near, far = (law.evaluate((1.0 - change) * strain, state, 1.0).tangent for change in (1e-12, 1e-6))
    np.testing.assert_allclose(near, far, rtol=0.0, atol=1e-5 * np.abs(far).max())


def test_the_tangent_is_consistent_where_the_elastic_start_is_exact() -> None:
    """In-layer shear of a laminate moves no node, but the other components soften with it."""
    law = nested("solid laminate", "saturating")
    strain = np.array([[0.0, 0.0, 0.0, 0.05, 0.0, 0.0]])
    moves = 1e-6 * np.concatenate([np.eye(6), -np.eye(6)])
    stress = law.evaluate(strain + moves, virgin(law, 12), 1.0).stress
    expected = (stress[:6] - stress[6:]).T / 2e-6
    tangent = law.evaluate(strain, virgin(law, 1), 1.0).tangent[0]
    np.testing.assert_allclose(tangent, expected, rtol=0.0, atol=1e-6 * np.abs(expected).max())


# -- special microstructures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
@MATRIX
@pytest.mark.parametrize("boundary", ["periodic", "kinematic", "static"])
def test_a_homogeneous_rve_is_its_phase(dim: int, matrix: str, boundary: str) -> None:
    rve = {"homogeneous": {"dim": dim}, "boundary": boundary, "phases": {"matrix": MATRICES[matrix]}}
    law, phase = load_law({"law": "nested", "rve": rve}, dim=dim), load_law(MATRICES[matrix], dim=dim)
    state, expected_state, scale = virgin(law, 3), virgin(phase, 3), 0.0
    for strain in path(dim):
        response, expected = law.evaluate(strain, state, 1.0), phase.evaluate(strain, expected_state, 1.0)
        scale = max(scale, np.abs(expected.stress).max())
        np.testing.assert_allclose(response.stress, expected.stress, rtol=0.0, atol=1e-12 * scale)
        np.testing.assert_allclose(
            response.tangent, expected.tangent, rtol=0.0, atol=1e-12 * np.abs(expected.tangent).max()
        )
        if dim == 2:
            np.testing.assert_allclose(response.stress_33, expected.stress_33, rtol=0.0, atol=1e-12 * scale)
        for field, part in phase.state_fields.items():
            mean = response.state[:, law.state_fields[f"matrix_{field}"]]
            np.testing.assert_allclose(mean, expected.state[:, part], rtol=0.0, atol=1e-14)
        state, expected_state = response.state, expected.state


@MATRIX
def test_a_plane_rve_is_the_solid_one_that_repeats_it_out_of_the_plane(matrix: str) -> None:
    layers = {"phases": LAYERS, "axis": 0, "mesh_size": 0.5}
    phases = {"matrix": MATRICES[matrix], "fibre": FIBRE}
    plane, solid = (
        load_law({"law": "nested", "rve": {"laminate": {**layers, "cell": cell}, "phases": phases}}, dim=dim)
        for dim, cell in ((2, "quad"), (3, "hexahedron"))
    )
    in_plane = [0, 1, 5]
    state, solid_state, scale = virgin(plane, 3), virgin(solid, 3), 0.0
    for strain in path(2):
        embedded = np.zeros((3, 6))
        embedded[:, in_plane] = strain
        response, expected = plane.evaluate(strain, state, 1.0), solid.evaluate(embedded, solid_state, 1.0)
        scale = max(scale, np.abs(expected.stress).max())
        np.testing.assert_allclose(response.stress, expected.stress[:, in_plane], rtol=0.0, atol=1e-9 * scale)
        np.testing.assert_allclose(response.stress_33, expected.stress[:, 2], rtol=0.0, atol=1e-7 * scale)
        state, solid_state = response.state, expected.state


def ball_in_a_grid(dim: int, shift: tuple[int, ...], matrix: str) -> NestedLaw:
    """Return the law of a structured RVE with a ball in its centre, moved by whole cells of the grid."""
    n = 12 if dim == 2 else 6
    mesh = box([1.0] * dim, [n] * dim, "quad" if dim == 2 else "hexahedron")
    axes = np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5] * dim, indexing="ij")
    inside = np.roll(sum(axis**2 for axis in axes) < 0.3**2, shift, axis=range(dim)).ravel(order="F")
    regions = {"fibre": np.flatnonzero(inside), "matrix": np.flatnonzero(~inside)}
    tagged = TaggedMesh(mesh.points, mesh.cells, mesh.kind, regions)
    phases = tuple(load_law(one, dim=dim).phase for one in (FIBRE, MATRICES[matrix]))  # type: ignore[attr-defined]
    return NestedLaw(RVE(discretise(tagged, ("fibre", "matrix")), phases, "periodic"))


@pytest.mark.parametrize("shift", [(6, 6), (4, 1), (3, 3, 3), (2, 0, 1)])
@NONLINEAR
def test_a_periodic_shift_of_the_microstructure_changes_nothing(shift: tuple[int, ...], matrix: str) -> None:
    dim = len(shift)
    centred, shifted = (ball_in_a_grid(dim, one, matrix) for one in ((0,) * dim, shift))
    state, shifted_state = virgin(centred, 3), virgin(shifted, 3)
    for strain in path(dim)[1:4:2]:
        one, two = centred.evaluate(strain, state, 1.0), shifted.evaluate(strain, shifted_state, 1.0)
        np.testing.assert_allclose(two.stress, one.stress, rtol=0.0, atol=1e-9 * np.abs(one.stress).max())
        np.testing.assert_allclose(two.tangent, one.tangent, rtol=0.0, atol=1e-6 * np.abs(one.tangent).max())
        state, shifted_state = one.state, two.state


def with_hole(matrix: str, phase: str, boundary: str = "periodic") -> Any:
    """Return the law of a matrix with a circular inclusion of some phase, or a hole."""
    circles = [{"center": [0, 0], "radius": 0.3, "phase": phase}]
    rve = {"circles": {"circles": circles, "mesh_size": 0.15, "cell": "quad"}, "boundary": boundary}
    phases = {name: MATRICES[matrix] for name in {"matrix", phase} - {"void"}}
    return load_law({"law": "nested", "rve": {**rve, "phases": phases}, "solver": {"rtol": 1e-10}}, dim=2)


@MATRIX
def test_a_void_softens_the_matrix(matrix: str) -> None:
    full, holed = with_hole(matrix, "matrix"), with_hole(matrix, "void")
    assert holed.rve.discretisation.volume_fraction(0) == pytest.approx(1.0 - np.pi * 0.09, rel=0.03)
    strain = strains(2)
    solid, porous = (law.evaluate(strain, virgin(law, 3), 1.0) for law in (full, holed))
    assert ((porous.stress * strain).sum(1) < (solid.stress * strain).sum(1)).all()
    gap = [law.evaluate(0.0 * strain, virgin(law, 3), 1.0).tangent[0] for law in (full, holed)]
    assert np.linalg.eigvalsh(gap[0] - gap[1]).min() > 0.0
    check_law(holed, rtol_tangent=1e-6)


def test_bounds_are_ordered_and_hill_mandel_holds_with_voids() -> None:
    laws = [with_hole("elastic", "void", boundary) for boundary in ("static", "periodic", "kinematic")]
    strain = strains(2, 1)
    responses = [law.evaluate(strain, virgin(law, 1), 1.0) for law in laws]
    for law, response in zip(laws, responses, strict=True):
        points = points_of(law, strain[0])
        work = (points.stress * points.strain).sum(0) @ points.weight / law.rve.discretisation.volume
        np.testing.assert_allclose(response.stress[0] @ strain[0], work, rtol=1e-9)
    for lower, upper in pairwise(response.tangent[0] for response in responses):
        assert np.linalg.eigvalsh(upper - lower).min() >= -1e-9 * np.linalg.norm(upper)


# -- solver -------------------------------------------------------------------------------------------------------


@BOTH_DIMS
def test_a_warm_start_and_a_cold_start_give_the_same_answer(geometry: str) -> None:
    law = nested(geometry, "saturating")
    there = law.evaluate(strains(law.dim), virgin(law, 3), 1.0)
    strain = strains(law.dim, seed=9)
    warm, cold = law.evaluate(strain, there.state, 1.0), law.evaluate(strain, virgin(law, 3), 1.0)
    np.testing.assert_allclose(warm.stress, cold.stress, rtol=0.0, atol=1e-9 * np.abs(cold.stress).max())
    np.testing.assert_allclose(warm.tangent, cold.tangent, rtol=0.0, atol=1e-6 * np.abs(cold.tangent).max())


@BOTH_DIMS
@NONLINEAR
@pytest.mark.parametrize("other", [{"predictor": False}, {"linear": "mumps"}])
def test_predictor_and_linear_solver_change_nothing(geometry: str, matrix: str, other: dict[str, Any]) -> None:
    one, two = nested(geometry, matrix), nested(geometry, matrix, **other)
    one_state, two_state = virgin(one, 2), virgin(two, 2)
    for strain in path(one.dim, 2)[1:]:
        first, second = one.evaluate(strain, one_state, 1.0), two.evaluate(strain, two_state, 1.0)
        scale = one.evaluate(path(one.dim, 2)[1], virgin(one, 2), 1.0)
        np.testing.assert_allclose(first.stress, second.stress, rtol=0.0, atol=1e-8 * np.abs(scale.stress).max())
        np.testing.assert_allclose(first.tangent, second.tangent, rtol=0.0, atol=1e-5 * np.abs(scale.tangent).max())
        one_state, two_state = first.state, second.state


@BOTH_DIMS
def test_a_plastic_rve_unloads_elastically(geometry: str) -> None:
    law = nested(geometry, "j2")
    strain = strains(law.dim)
    elastic = law.evaluate(0.0 * strain, virgin(law, 3), 1.0).tangent
    loaded = law.evaluate(strain, virgin(law, 3), 1.0)
    unloaded = law.evaluate(0.99 * strain, loaded.state, 1.0)
    assert np.linalg.norm(loaded.tangent - elastic) > 0.1 * np.linalg.norm(elastic)
    flow = law.state_fields["matrix_equivalent_plastic_strain"]
    at_rest = (unloaded.state[:, flow] == loaded.state[:, flow])[:, 0]  # elsewhere stress moves to points that yield
    assert at_rest.sum() >= 2
    error = np.abs(unloaded.tangent - elastic)[at_rest].max()
    assert error < 1e-9 * np.abs(elastic).max()
    expected = loaded.stress - np.einsum("pst,pt->ps", elastic, 0.01 * strain)
    assert np.abs(unloaded.stress - expected)[at_rest].max() < 1e-8 * np.abs(expected).max()


@BOTH_DIMS
def test_a_plastic_rve_dissipates(geometry: str) -> None:
    law = nested(geometry, "j2")
    amplitude = strains(law.dim)
    state, stress, work = virgin(law, 3), np.zeros_like(amplitude), np.zeros(3)
    plastic, before = np.zeros((3, 1)), 0.0 * amplitude
    factors = np.concatenate([np.linspace(0, 1, 6)[1:], np.linspace(1, -1, 11)[1:], np.linspace(-1, 0, 6)[1:]])
    for factor in factors:
        response = law.evaluate(factor * amplitude, state, 1.0)
        work += (0.5 * (stress + response.stress) * (factor * amplitude - before)).sum(1)
        now = response.state[:, law.state_fields["matrix_equivalent_plastic_strain"]]
        assert (now >= plastic - 1e-15).all()
        state, stress, plastic, before = response.state, response.stress, now, factor * amplitude
    assert (plastic > 0.01).all()
    assert (work > 0.0).all()


@BOTH_DIMS
@pytest.mark.parametrize("boundary", ["periodic", "kinematic", "static"])
def test_large_strains_converge_from_the_virgin_state(geometry: str, boundary: str) -> None:
    law = nested(geometry, "saturating", boundary)
    strain = 10.0 * strains(law.dim, 6)
    response = law.evaluate(strain, virgin(law, 6), 1.0)
    assert np.isfinite(response.stress).all()
    assert np.linalg.eigvalsh(response.tangent).min() > 0.0


@NONLINEAR
def test_a_batch_of_70_is_a_loop_over_its_points(matrix: str) -> None:
    law = nested("circle", matrix)
    assert law.solver.batch < 70
    strain = strains(2, 70)
    state = law.evaluate(strains(2, 70, seed=8), virgin(law, 70), 1.0).state
    batch = law.evaluate(strain, state, 1.0)
    loop = [law.evaluate(strain[i : i + 1], state[i : i + 1], 1.0) for i in range(70)]
    for name in ("stress", "tangent", "state", "stress_33"):
        together, alone = getattr(batch, name), np.concatenate([getattr(one, name) for one in loop])
        np.testing.assert_allclose(together, alone, rtol=0.0, atol=1e-9 * np.abs(alone).max())


def test_virgin_points_without_strain_share_one_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    law = nested("circle", "j2")
    solve, sizes = RVESolver.solve, []

    def counted(self: RVESolver, strain: Array, *given: Any, **options: Any) -> Any:
        sizes.append(strain.shape[1])
        return solve(self, strain, *given, **options)

    monkeypatch.setattr(RVESolver, "solve", counted)
    response = law.evaluate(np.zeros((5, 3)), virgin(law, 5), 1.0)
    assert sizes == [1]
    one = law.evaluate(np.zeros((1, 3)), virgin(law, 1), 1.0)
    for name in ("stress", "tangent", "state", "stress_33", "tangent_33"):
        np.testing.assert_array_equal(getattr(response, name), np.repeat(getattr(one, name), 5, axis=0))
    deformed = law.evaluate(strains(2, 1), virgin(law, 1), 1.0).state
    law.evaluate(np.zeros((2, 3)), np.vstack([deformed, virgin(law, 1)]), 1.0)
    assert sizes[-1] == 2


def test_an_rve_that_does_not_converge_is_counted() -> None:
    law = nested("circle", "saturating", max_iter=1)
    strain = np.vstack([np.zeros(3), strains(2, 2)])
    with pytest.raises(NotConverged, match=r"^2 of 3 RVEs did not converge in 1 iterations") as caught:
        law.evaluate(strain, virgin(law, 3), 1.0)
    assert len(caught.value.residuals) == 2


@pytest.mark.parametrize("radius", [0.2, 0.01])
def test_static_conditions_refuse_voids_on_the_faces(radius: float) -> None:
    hole = {
        "circles": [{"center": [0.5, 0.0], "radius": radius, "phase": "void"}],
        "mesh_size": 0.1,
        "cell": "triangle",
    }
    phases = {"matrix": {"law": "elastic", "E": 1.0, "nu": 0.3}}
    with pytest.raises(CaseError, match=r"rve\.boundary: 'static' given, but voids reach the faces"):
        load_law({"law": "nested", "rve": {"circles": hole, "boundary": "static", "phases": phases}})
