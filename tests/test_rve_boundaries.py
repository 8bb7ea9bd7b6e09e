"""RVEs of any shape: boundaries, volume, periods, and cracks, against closed forms and an assembly of their own."""

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
from femops.rve.discretisation import discretise
from femops.rve.law import NestedLaw
from femops.rve.outline import Outline
from femops.rve.snapshots import content_hash
from femops.rve.spec import RVE, RVEParameters
from femops.surrogate.periodic_space import PeriodicSpace

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


def slit(dim: int, n: int, start: int, length: int) -> TaggedMesh:
    """Return a grid with a crack normal to the last axis, `length` cells long from cell `start` on, beyond the edge.

    In 3D it is a square. Its tips are closed; where it leaves the cell it comes in again on the other side.
    """
    mesh, height = grid(dim, n), n // 2 / n

    def chosen(x: Array) -> Any:
        place = np.rint(x * n).astype(int)
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


def assembled(mesh: TaggedMesh, master: Array, fixed: Array, volume: float, K: float, G: float) -> Array:
    """Return the stiffness of one linear phase on (multi)linear cells, by a dense assembly of its own.

    Args:
        mesh: Quadrilaterals or hexahedra.
        master: For each node the one whose fluctuation it shares. Shape (n_nodes,).
        fixed: Masters without fluctuation.
        volume: Of the RVE.
        K: Bulk modulus.
        G: Shear modulus.
    """
    dim, n_s = mesh.dim, notation.n_strain(mesh.dim)
    one = np.array([1.0 if i < dim else 0.0 for i in range(n_s)])
    D = K * np.outer(one, one) + 2.0 * G * (np.eye(n_s) - np.outer(one, one) / 3.0)
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
            B = np.zeros((n_s, len(cell) * dim))
            for a, i in product(range(len(cell)), range(dim)):
                unit = np.zeros((dim, dim))
                unit[i] = gradient[a]
                B[:, a * dim + i] = notation.from_tensor(0.5 * (unit + unit.T))
            dofs = (master[cell][:, None] * dim + np.arange(dim)).ravel()
            np.add.at(full, np.ix_(dofs, dofs), w * B.T @ D @ B)
            np.add.at(load, dofs, w * B.T @ D)
            total += w * D
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
    with pytest.raises(CaseError, match=r"^boundary: 'periodic' given, but the RVE mesh is no parallelepiped; expected"):
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
    inner = np.prod(np.ptp(grid(dim, n).points, axis=0)) and len(mesh.cells) - len(holed.cells)
    assert inner > 0
    volume = Outline(mesh).volume
    assert Outline(holed).volume == pytest.approx(volume, rel=1e-12)
    assert discretise(mesh, ("a",)).weight.sum() == pytest.approx(volume, rel=1e-12 if dim == 2 else 1e-3)
    expected = assembled(holed, np.arange(len(holed.points)), fixed, volume, 600.0, 300.0)
    np.testing.assert_allclose(stiffness(holed, "kinematic"), expected, rtol=0.0, atol=1e-11 * expected.max())


@DIMS
def test_bodies_that_touch_nothing_are_refused_unless_periods_are_given(dim: int) -> None:
    apart = without(round_body(dim, 8), lambda x: np.abs(x[:, 0]) < 0.2)
    with pytest.raises(CaseError, match="has 2 parts that touch nothing"):
        nested(apart, "kinematic", SOFT)
