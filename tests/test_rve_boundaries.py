"""RVEs of any shape: boundaries, volume, periods and cracks, against closed forms and an independent assembly."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest

from femops import CaseError, load_law, notation
from femops.meshing import TaggedMesh
from femops.meshing.box import box
from femops.notation import Array
from femops.phases.elastic import ElasticParameters
from femops.rve.discretisation import discretise
from femops.rve.law import NestedLaw
from femops.rve.outline import Outline
from femops.rve.snapshots import content_hash
from femops.rve.spec import RVE, RVEParameters
from femops.surrogate import TrainedModel
from femops.surrogate.fields.fluctuation_space import FluctuationSpace
from femops.surrogate.store import Origin, write_model
from femops.surrogate.stored_rve import model_rve

SOFT = {"law": "elastic", "K": 600.0, "G": 300.0}
STIFF = {"law": "elastic", "K": 43452.0, "G": 29918.0}
SATURATING = {"law": "saturating", "K": 4780.0, "alpha1": 50.0, "alpha2": 0.06}
STRAIN = {2: np.array([[0.03, -0.01, 0.02]]), 3: np.array([[0.03, -0.01, 0.02, 0.015, -0.02, 0.01]])}
BOUNDARIES = ("static", "periodic", "kinematic")
DIMS = pytest.mark.parametrize("dim", [2, 3])


def rotation(dim: int) -> Array:
    """Return a rotation about no axis in particular."""
    c, s = np.cos(0.5), np.sin(0.5)
    plane = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return plane[:2, :2] if dim == 2 else plane @ np.roll(plane, 1, (0, 1)) @ plane


def shear(dim: int) -> Array:
    """Return an upper triangular map."""
    return np.array([[1.0, 0.4, -0.2], [0.0, 0.9, 0.3], [0.0, 0.0, 1.2]])[:dim, :dim]


def grid(dim: int, n: int, cell: str | None = None) -> TaggedMesh:
    """Return a grid in the unit cell with the phase `a`."""
    mesh = box([1.0] * dim, [n] * dim, cell or ("quad" if dim == 2 else "hexahedron"))
    return replace(mesh, regions={"a": np.arange(len(mesh.cells))}, boundaries={})


def mapped(mesh: TaggedMesh, linear: Array) -> TaggedMesh:
    """Return a mesh with x ↦ A x + (3, 3, 3)."""
    return replace(mesh, points=mesh.points @ linear.T + 3.0)


def round_body(dim: int, n: int) -> TaggedMesh:
    """Return a disc or a ball: concentric cubes of a grid become spheres."""
    mesh = grid(dim, n)
    x = 2.0 * mesh.points - 1.0
    scale = np.abs(x).max(1) / np.maximum(np.linalg.norm(x, axis=1), 1e-300)
    return replace(mesh, points=x * (1.0 + 0.8 * (scale - 1.0))[:, None])


def without(mesh: TaggedMesh, inside: Any) -> TaggedMesh:
    """Return a mesh without the cells whose centres are inside, compacted."""
    cells = mesh.cells[~inside(mesh.points[mesh.cells].mean(1))]
    used, compact = np.unique(cells, return_inverse=True)
    points, compact = mesh.points[used], compact.reshape(cells.shape)
    return replace(mesh, points=points, cells=compact, regions={"a": np.arange(len(cells))})


def two_phases(mesh: TaggedMesh, inside: Any) -> TaggedMesh:
    """Return a mesh with the phase `b` where cell centres are inside."""
    b = inside(mesh.points[mesh.cells].mean(1))
    return replace(mesh, regions={"a": np.flatnonzero(~b), "b": np.flatnonzero(b)})


def cut(mesh: TaggedMesh, chosen: Any, above: Any) -> TaggedMesh:
    """Return a mesh whose nodes `chosen` are double: the cells whose centres lie above have their own."""
    doubled = np.flatnonzero(chosen(mesh.points))
    twin = np.arange(len(mesh.points))
    twin[doubled] = len(mesh.points) + np.arange(len(doubled))
    upper = above(mesh.points[mesh.cells].mean(1))
    cells = np.where(upper[:, None], twin[mesh.cells], mesh.cells)
    return replace(mesh, points=np.vstack([mesh.points, mesh.points[doubled]]), cells=cells)


def slit(dim: int, n: int, start: int, length: int, cell: str | None = None) -> TaggedMesh:
    """Return a grid with a crack normal to the last axis, `length` cells long from cell `start` on, beyond the edge.

    In 3D it is a square. Its tips are closed; where it leaves the cell it comes in again on the other side.
    """
    mesh, height = grid(dim, n, cell), n // 2 / n

    def chosen(x: Array) -> Any:
        place = np.rint(2 * x * n) / 2.0
        # The node at 0 is that at n: both are open if either lies inside the crack and not at its tip.
        inside = [((place[:, i] - start) % n > 0) & ((place[:, i] - start) % n < length) for i in range(dim - 1)]
        return np.logical_and.reduce([np.abs(x[:, -1] - height) < 1e-9, *inside])

    return cut(mesh, chosen, lambda x: x[:, -1] > height)


def nested(mesh: TaggedMesh, boundary: str, *phases: dict[str, Any]) -> NestedLaw:
    """Return the law of an RVE whose regions have these phases."""
    laws = tuple(load_law(one, dim=mesh.dim).phase for one in phases)  # type: ignore[attr-defined]
    return NestedLaw(RVE(discretise(mesh, tuple(mesh.regions)), laws, boundary))  # type: ignore[arg-type]


def stiffness(mesh: TaggedMesh, boundary: str, *phases: dict[str, Any]) -> Array:
    """Return the homogenized stiffness of linear phases."""
    law = nested(mesh, boundary, *(phases or (SOFT,)))
    return np.asarray(law.evaluate(STRAIN[mesh.dim], np.zeros((1, law.n_state)), 1.0).tangent[0])


def turned(tangent: Array, turn: Array) -> Array:
    """Return a stiffness in rotated axes: T C Tᵀ with the rotation T of Mandel vectors."""
    units = notation.to_tensor(np.eye(len(tangent)))
    t = notation.from_tensor(turn @ units @ turn.T).T
    return np.asarray(t @ tangent @ t.T)


def assembled(mesh: TaggedMesh, master: Array, fixed: Array, volume: float, bulk: float, shear: float) -> Array:
    """Return the stiffness of one linear phase on (multi)linear cells, by a dense assembly of its own.

    Args:
        mesh: Quadrilaterals or hexahedra.
        master: For each node the one whose fluctuation it shares. Shape (n_nodes,).
        fixed: Masters without fluctuation.
        volume: Of the RVE.
        bulk: Bulk modulus.
        shear: Shear modulus.
    """
    dim, n_s = mesh.dim, notation.n_strain(mesh.dim)
    one = np.array([1.0 if i < dim else 0.0 for i in range(n_s)])
    moduli = bulk * np.outer(one, one) + 2.0 * shear * (np.eye(n_s) - np.outer(one, one) / 3.0)
    signs = {2: [(-1, -1), (1, -1), (1, 1), (-1, 1)]}
    signs[3] = [(*s, z) for z in (-1, 1) for s in signs[2]]  # type: ignore[misc]
    corner = np.array(signs[dim], dtype=float)
    total, load, full = np.zeros((n_s, n_s)), np.zeros((mesh.points.size, n_s)), np.zeros((mesh.points.size,) * 2)
    for xi in product((-(3.0**-0.5), 3.0**-0.5), repeat=dim):
        factor = 1.0 + corner * xi
        slope = np.stack([np.prod(np.delete(factor, i, 1), 1) * corner[:, i] for i in range(dim)], 1) / 2.0**dim
        for cell in mesh.cells:
            jacobian = mesh.points[cell].T @ slope
            gradient, w = slope @ np.linalg.inv(jacobian), np.linalg.det(jacobian)
            operator = np.zeros((n_s, len(cell) * dim))
            for a, i in product(range(len(cell)), range(dim)):
                unit = np.zeros((dim, dim))
                unit[i] = gradient[a]
                operator[:, a * dim + i] = notation.from_tensor(0.5 * (unit + unit.T))
            dofs = (master[cell][:, None] * dim + np.arange(dim)).ravel()
            np.add.at(full, np.ix_(dofs, dofs), w * operator.T @ moduli @ operator)
            np.add.at(load, dofs, w * operator.T @ moduli)
            total += w * moduli
    free = np.setdiff1d(np.unique(master[mesh.cells]), fixed)
    dofs = (free[:, None] * dim + np.arange(dim)).ravel()
    return np.asarray(total - load[dofs].T @ np.linalg.solve(full[np.ix_(dofs, dofs)], load[dofs])) / volume


def to_file(mesh: TaggedMesh, folder: Path) -> str:
    """Write a mesh of the phase `a` with all digits, without names."""
    points = np.pad(mesh.points, ((0, 0), (0, 3 - mesh.dim)))
    meshio.write(folder / "rve.vtu", meshio.Mesh(points, [(mesh.kind.name, mesh.cells)]))
    return str(folder / "rve.vtu")


def from_file(mesh: TaggedMesh, folder: Path, boundary: str, **keys: Any) -> Any:
    """Return the nested law of a mesh that went through a file."""
    block = {"file": to_file(mesh, folder), **keys}
    rve = {"mesh": block, "boundary": boundary, "phases": {"domain": SATURATING}}
    return load_law({"law": "nested", "rve": rve}, dim=mesh.dim)


def assert_is_its_phase(law: Any) -> None:
    """Check that a homogeneous RVE answers as its phase does."""
    phase, strain = load_law(SATURATING, dim=law.dim), STRAIN[law.dim]
    response = law.evaluate(strain, np.zeros((1, law.n_state)), 1.0)
    expected = phase.evaluate(strain, np.zeros((1, 0)), 1.0)
    np.testing.assert_allclose(response.stress, expected.stress, rtol=0.0, atol=1e-12 * np.abs(expected.stress).max())
    scale = np.abs(expected.tangent).max()
    np.testing.assert_allclose(response.tangent, expected.tangent, rtol=0.0, atol=1e-12 * scale)


# -- shapes -------------------------------------------------------------------------------------------------------

SHAPES = {
    "rotated": lambda dim: mapped(grid(dim, 4), rotation(dim)),
    "sheared": lambda dim: mapped(grid(dim, 4), shear(dim)),
    "sheared triangles": lambda dim: mapped(grid(dim, 3, "triangle6" if dim == 2 else "tetra10"), shear(dim)),
    "round": lambda dim: round_body(dim, 6),
    "stretched round": lambda dim: mapped(round_body(dim, 4), shear(dim)),
    "L": lambda dim: without(grid(dim, 4), lambda x: (x[:, :2] > 0.5).all(1)),
}
PARALLELEPIPEDS = ("rotated", "sheared", "sheared triangles")
ALLOWED = [(s, b) for s in SHAPES for b in BOUNDARIES if b != "periodic" or s in PARALLELEPIPEDS]


@DIMS
@pytest.mark.parametrize(("shape", "boundary"), ALLOWED)
def test_a_homogeneous_rve_of_any_shape_is_its_phase(dim: int, shape: str, boundary: str) -> None:
    assert_is_its_phase(nested(SHAPES[shape](dim), boundary, SATURATING))


@DIMS
@pytest.mark.parametrize("shape", ["round", "stretched round", "L"])
def test_periodic_conditions_refuse_what_is_no_parallelepiped(dim: int, shape: str) -> None:
    with pytest.raises(
        CaseError, match=r"^boundary: 'periodic' given, but the RVE mesh is not a parallelepiped; expected"
    ):
        nested(SHAPES[shape](dim), "periodic", SATURATING)


@DIMS
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_rotated_rve_has_the_rotated_stiffness(dim: int, boundary: str) -> None:
    def inside(x: Array) -> Any:
        return (np.abs(x - 0.4) < [0.3, 0.2, 0.3][:dim]).all(1)

    mesh = two_phases(grid(dim, 8 if dim == 2 else 5), inside)
    straight = stiffness(mesh, boundary, SOFT, STIFF)
    assert np.abs(turned(straight, rotation(dim)) - straight).max() > 0.02 * straight.max()
    rotated = stiffness(mapped(mesh, rotation(dim)), boundary, SOFT, STIFF)
    np.testing.assert_allclose(rotated, turned(straight, rotation(dim)), rtol=0.0, atol=1e-11 * straight.max())


@DIMS
def test_a_laminate_does_not_care_how_its_layers_are_cut_into_cells(dim: int) -> None:
    mesh = two_phases(grid(dim, 4), lambda x: x[:, -1] > 0.5)
    slanted = np.eye(dim)
    slanted[0, -1] = 0.7
    expected = stiffness(mesh, "periodic", SOFT, STIFF)
    found = stiffness(mapped(mesh, slanted), "periodic", SOFT, STIFF)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-11 * expected.max())


@DIMS
def test_a_void_in_a_round_body_is_free_and_counts_as_volume(dim: int) -> None:
    """Against an own assembly whose fixed nodes are those of the outermost layer by their place in the grid."""
    n, mesh = 6, round_body(dim, 6)
    place = np.abs(grid(dim, n).points - 0.5).max(1)
    holed = without(mesh, lambda x: np.linalg.norm(x, axis=1) < 0.35)
    kept = np.array([np.abs(mesh.points - one).sum(1).argmin() for one in holed.points])
    fixed = np.flatnonzero(place[kept] > 0.5 - 1e-9)
    volume = discretise(mesh, ("a",)).weight.sum()
    assert Outline(holed).volume == pytest.approx(volume, rel=1e-12)
    assert volume > 1.02 * discretise(holed, ("a",)).weight.sum()
    expected = assembled(holed, np.arange(len(holed.points)), fixed, volume, 600.0, 300.0)
    np.testing.assert_allclose(stiffness(holed, "kinematic"), expected, rtol=0.0, atol=1e-11 * expected.max())


@DIMS
def test_bodies_that_touch_nothing_are_refused_unless_periods_are_given(dim: int) -> None:
    apart = without(round_body(dim, 8), lambda x: np.abs(x[:, 0]) < 0.2)
    with pytest.raises(CaseError, match="consists of 2 separate bodies"):
        nested(apart, "kinematic", SOFT)


# -- cracks -------------------------------------------------------------------------------------------------------


def periodic_by_place(mesh: TaggedMesh, n: int) -> Array:
    """Return masters of a grid by whole numbers of cells; twins of a crack, which come last, among themselves."""
    dim, n_grid = mesh.dim, (n + 1) ** mesh.dim
    place = np.rint(mesh.points * n).astype(int) % n
    key = np.ravel_multi_index(tuple(place.T), (n,) * dim) + (np.arange(len(place)) >= n_grid) * n**dim
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return np.asarray(first[inverse])


@DIMS
@pytest.mark.parametrize("start", [2, 4, 5, 0])
def test_a_crack_stays_open_wherever_it_lies(dim: int, start: int) -> None:
    """Inside, across a face, up to a face (its tip on it), and from a face on; by an assembly of its own."""
    n = 8 if dim == 2 else 6
    start, length = (start, 4) if dim == 2 else ({2: 1, 4: 4, 5: 2, 0: 0}[start], 4)
    mesh = slit(dim, n, start, length)
    assert len(mesh.points) > (n + 1) ** dim
    expected = assembled(mesh, periodic_by_place(mesh, n), np.zeros(1, dtype=int), 1.0, 600.0, 300.0)
    found = stiffness(mesh, "periodic")
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-11 * expected.max())
    whole = stiffness(grid(dim, n), "periodic")
    assert found[dim - 1, dim - 1] < 0.95 * whole[dim - 1, dim - 1]


@pytest.mark.parametrize("cell", ["triangle", "quad8", "triangle6", "tetra", "hexahedron20", "tetra10"])
@pytest.mark.parametrize("boundary", ["periodic", "kinematic"])
def test_a_crack_may_be_shifted_by_a_period_with_any_cells(cell: str, boundary: str) -> None:
    dim = 2 if cell.startswith(("tri", "quad")) else 3
    n = 6 if dim == 2 else 4
    inside, across = (stiffness(slit(dim, n, start, n // 2, cell), boundary) for start in (1, n - 1))
    whole = stiffness(grid(dim, n, cell), boundary)
    if boundary == "periodic":
        np.testing.assert_allclose(across, inside, rtol=0.0, atol=1e-11 * whole.max())
    assert inside[dim - 1, dim - 1] < 0.99 * whole[dim - 1, dim - 1]
    assert np.linalg.eigvalsh(whole - across).min() > -1e-9 * whole.max()  # kinematic: may be held where it is open


def test_the_slit_of_four_cells_has_the_stiffness_of_an_independent_calculation() -> None:
    """E = 1000, ν = 0.3, 8 × 8 bilinear quadrilaterals, a slit with three open nodes."""
    elastic = {"law": "elastic", "E": 1000.0, "nu": 0.3}
    assert stiffness(slit(2, 8, 2, 4), "periodic", elastic)[1, 1] == pytest.approx(966.534159, rel=1e-8)


@DIMS
@pytest.mark.parametrize("start", [2, 4])
def test_bounds_are_ordered_with_a_crack(dim: int, start: int) -> None:
    mesh = mapped(slit(dim, 6, start, 4), rotation(dim))
    for lower, upper in pairwise(stiffness(mesh, boundary) for boundary in BOUNDARIES):
        assert np.linalg.eigvalsh(upper - lower).min() >= -1e-9 * np.linalg.norm(upper)
        assert np.linalg.eigvalsh(upper - lower).max() > 1e-3 * np.linalg.norm(upper)


@DIMS
@pytest.mark.parametrize("boundary", ["static", "kinematic"])
def test_a_crack_into_a_round_body_is_open_inside(dim: int, boundary: str) -> None:
    n, whole = 6, round_body(dim, 6)

    def chosen(x: Array) -> Any:
        return (np.abs(x[:, -1]) < 1e-9) & (x[:, 0] > 1e-9)

    mesh = cut(whole, chosen, lambda x: x[:, -1] > 0.0)
    if boundary == "kinematic":
        twins = np.flatnonzero(chosen(whole.points))
        rim = np.abs(grid(dim, n).points - 0.5).max(1) > 0.5 - 1e-9
        fixed = np.flatnonzero(np.concatenate([rim, rim[twins]]))
        volume = discretise(whole, ("a",)).weight.sum()
        expected = assembled(mesh, np.arange(len(mesh.points)), fixed, volume, 600.0, 300.0)
        np.testing.assert_allclose(stiffness(mesh, boundary), expected, rtol=0.0, atol=1e-11 * expected.max())
    else:
        assert_unaffected_by_tension_along_the_crack(mesh, boundary)
    softer = stiffness(whole, boundary) - stiffness(mesh, boundary)
    assert np.linalg.eigvalsh(softer).min() > -1e-9 * np.linalg.norm(softer)
    assert softer[dim - 1, dim - 1] > 0.01 * stiffness(whole, boundary)[dim - 1, dim - 1]


def assert_unaffected_by_tension_along_the_crack(mesh: TaggedMesh, boundary: str) -> None:
    """Check that tension along a crack normal to the last axis meets the compliance of the phase."""
    phase = load_law(SOFT, dim=mesh.dim).evaluate(0.0 * STRAIN[mesh.dim], np.zeros((1, 0)), 1.0).tangent[0]
    expected, found = np.linalg.inv(phase), np.linalg.inv(stiffness(mesh, boundary))
    along = slice(0, mesh.dim - 1)
    np.testing.assert_allclose(found[along, along], expected[along, along], rtol=1e-10)
    assert found[mesh.dim - 1, mesh.dim - 1] > 1.01 * expected[mesh.dim - 1, mesh.dim - 1]


@DIMS
@pytest.mark.parametrize("boundary", ["static", "periodic"])
@pytest.mark.parametrize("start", [1, 4])
def test_tension_along_a_crack_does_not_feel_it(dim: int, boundary: str, start: int) -> None:
    """Inside and across a face; the faces of the crack must not count as surface that carries traction."""
    assert_unaffected_by_tension_along_the_crack(slit(dim, 6, start, 4), boundary)


def test_nodes_on_a_face_whose_images_no_facet_tells_are_refused() -> None:
    """Two cracks meet on a face, so that the cell between them has a node there and no facet."""
    mesh = grid(2, 4, "triangle")
    cells, points = mesh.cells.copy(), mesh.points
    for x in (0.0, 1.0):
        node = np.abs(points - [x, 0.5]).sum(1).argmin()
        around = np.flatnonzero((cells == node).any(1))
        assert len(around) == 3
        for cell in around[1:]:
            cells[cell][cells[cell] == node] = len(points)
            cells[cell] = np.where(mesh.cells[cell] == node, len(points), cells[cell])
            points = np.vstack([points, points[node]])
    with pytest.raises(
        CaseError, match=r"several nodes at \([01], 0.5\) on a face, and their periodic images are ambiguous"
    ):
        nested(replace(mesh, points=points, cells=cells), "periodic", SOFT)


# -- periods ------------------------------------------------------------------------------------------------------


def holed(dim: int, *, corners: bool) -> TaggedMesh:
    """Return a grid with a void in the centre, or the same one in all corners."""
    n = 6
    return without(grid(dim, n), lambda x: (np.abs((x + 0.5) % 1.0 - 0.5 if corners else x - 0.5) < 0.2).all(1))


@DIMS
@pytest.mark.parametrize("linear", [np.eye, rotation, shear])
def test_voids_in_the_corners_are_the_void_in_the_centre(dim: int, linear: Any, tmp_path: Path) -> None:
    """A periodic shift changes nothing; without corners the periods of a cell that is no box have to be given."""
    centre, corners = (mapped(holed(dim, corners=one), linear(dim)) for one in (False, True))
    expected = stiffness(centre, "periodic", SATURATING)
    periods = linear(dim).T.tolist()
    law = from_file(corners, tmp_path, "periodic", periods=periods)
    assert law.rve.discretisation.volume == pytest.approx(np.linalg.det(linear(dim)), rel=1e-12)
    found = law.evaluate(STRAIN[dim], np.zeros((1, law.n_state)), 1.0).tangent[0]
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-6 * expected.max())
    if linear is np.eye:
        law = from_file(corners, tmp_path, "periodic")
        assert law.rve.discretisation.mesh.notes == (
            "voids reach the faces of the cell; the volume includes them, and their surfaces are free",
        )
        again = law.evaluate(STRAIN[dim], np.zeros((1, law.n_state)), 1.0).tangent[0]
        np.testing.assert_array_equal(again, found)
        return
    with pytest.raises(CaseError, match="if voids reach its corners, give its period vectors as `periods`"):
        from_file(corners, tmp_path, "periodic")


def octagon() -> TaggedMesh:
    """Return a grid without its corners: a convex body, unless its periods tell that its corners are void."""
    return without(grid(2, 6, "triangle"), lambda x: np.abs(x - 0.5).sum(1) > 0.84)


def test_surfaces_of_voids_in_the_corners_are_free_where_periods_are_given(tmp_path: Path) -> None:
    body, cell = (from_file(octagon(), tmp_path, "kinematic", **k) for k in ({}, {"periods": [[1, 0], [0, 1]]}))
    assert body.rve.discretisation.mesh.notes[0].startswith(
        "not a parallelepiped; kinematic conditions act on its whole"
    )
    assert_is_its_phase(body)
    strain = STRAIN[2]
    stiff, soft = (law.evaluate(strain, np.zeros((1, law.n_state)), 1.0).stress[0] @ strain[0] for law in (body, cell))
    assert cell.rve.discretisation.volume == pytest.approx(1.0)
    assert body.rve.discretisation.volume == pytest.approx(body.rve.discretisation.weight.sum(), rel=1e-12)
    assert soft < 0.98 * stiff


@pytest.mark.parametrize(
    ("periods", "message"),
    [
        ([[1, 0], [0, 2]], r"rve\.mesh\.periods: the mesh spans 1, 0.5 times the period vectors, expected 1 of each"),
        ([[1, 0], [2, 0]], r"rve\.mesh\.periods: .* expected vectors that span a cell"),
        ([[1, 0]], r"rve\.mesh\.periods: .* expected 2 vectors of 2 numbers"),
    ],
)
def test_periods_that_do_not_fit_are_refused(periods: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=message):
        from_file(grid(2, 2), tmp_path, "kinematic", periods=periods)


def test_surrogates_of_periodic_fields_refuse_cells_that_are_no_box_along_the_axes() -> None:
    law = nested(mapped(grid(2, 4), shear(2)), "periodic", SOFT)
    with pytest.raises(CaseError, match=r"rve\.mesh: is rotated or sheared, expected a box along the axes"):
        FluctuationSpace(law.rve)


def test_rves_that_differ_in_shape_alone_have_other_hashes() -> None:
    laws = [nested(replace(octagon(), periods=one), "kinematic", SOFT) for one in (None, np.eye(2))]
    parameters = RVEParameters.model_construct(phases={"a": ElasticParameters(**SOFT)})
    body, cell = (content_hash(law.rve, parameters) for law in laws)
    assert body != cell
    given = [law.rve.discretisation.outline.given_periods for law in laws]
    assert given[0] is None
    np.testing.assert_array_equal(given[1], np.eye(2))


def test_a_stored_rve_keeps_the_periods_that_its_nodes_do_not_tell(tmp_path: Path) -> None:
    for name, periods in (("body", None), ("cell", np.eye(2))):
        rve = nested(replace(octagon(), periods=periods), "kinematic", SOFT).rve
        model = TrainedModel({"weights": np.zeros((3, 4))}, {}, rve, -np.ones(3), np.ones(3))
        write_model(tmp_path / name, Origin("toy", "0123"), model, {"a": ElasticParameters(**SOFT)})
        stored = model_rve(tmp_path / name).discretisation
        assert stored.volume == rve.discretisation.volume
        assert (stored.volume == pytest.approx(1.0)) == (name == "cell")
        np.testing.assert_array_equal(stored.outline.boundary_nodes, rve.discretisation.outline.boundary_nodes)


# -- faces that differ --------------------------------------------------------------------------------------------


@DIMS
@pytest.mark.parametrize("linear", [np.eye, rotation])
@pytest.mark.parametrize("across", [False, True])
def test_faces_that_differ_match_within_a_tolerance(dim: int, linear: Any, across: bool, tmp_path: Path) -> None:
    """Nodes inside the upper faces are moved along the face, or out of its plane as well."""
    mesh = grid(dim, 4)
    points = mesh.points.copy()
    inside = (np.abs(points - 0.5) < 0.3).sum(1) == dim - 1
    upper = inside & (points.max(1) > 0.99)
    noise = np.random.default_rng(1).uniform(-2e-4, 2e-4, points.shape)
    points[upper] += np.where((points[upper] < 0.99) | across, noise[upper], 0.0)
    bent = mapped(replace(mesh, points=points), linear(dim))
    with pytest.raises(CaseError) as caught:
        from_file(bent, tmp_path, "periodic")
    problem = caught.value.problem
    if "tolerance: " in problem and "largest gap" in problem:
        gap = float(problem.split("the largest gap is ")[1].split(",")[0])
        assert 5e-5 < gap < 2e-4 * dim**0.5
    else:
        assert across
        assert "its faces are uneven" in problem
    given = float(problem.split("`tolerance: ")[1].split("`")[0])
    assert given <= 1e-3
    law = from_file(bent, tmp_path, "periodic", tolerance=given)
    assert_is_its_phase(law)
    (note,) = law.rve.discretisation.mesh.notes
    assert note.startswith("faces were uneven or differed by up to 0.000")
    if across:
        other = from_file(bent, tmp_path, "kinematic", tolerance=given, periods=linear(dim).T.tolist())
        assert_is_its_phase(other)
        assert other.rve.discretisation.volume == pytest.approx(1.0, rel=1e-12)


def test_a_tolerance_above_the_distance_of_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CaseError, match=r"rve\.mesh\.tolerance: 0\.01 given, but nodes on faces are closer to each other"
    ):
        from_file(mapped(grid(2, 128), np.eye(2)), tmp_path, "periodic", tolerance=0.01)
