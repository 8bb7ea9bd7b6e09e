"""Disconnected meshes, coincident nodes, and invalid cells."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import box_problem

from femops import load_law
from femops.errors import CaseError
from femops.meshing import CELLS, TaggedMesh
from femops.meshing.box import box
from femops.meshing.building import RawMesh, build
from femops.meshing.reading import read_mesh
from femops.meshing.writing import write_mesh
from femops.rve.boundary import FreeDofs
from femops.rve.discretisation import discretise
from femops.rve.rigid_motions import check_rigid_motions

ELASTIC = {"law": "elastic", "E": 1000.0, "nu": 0.0}
CELL = {2: "quad", 3: "hexahedron"}
Inside = Callable[[np.ndarray], np.ndarray]

MIDDLE: Inside = lambda x: (np.abs(x - 0.5) < 0.26).all(axis=1)  # noqa: E731
CORNERS: Inside = lambda x: (np.abs(x - 0.5) > 0.24).all(axis=1)  # noqa: E731
LAYER: Inside = lambda x: np.abs(x[:, 0] - 0.5) < 0.25  # noqa: E731
ROD: Inside = lambda x: (np.abs(x[:, :2] - 0.5) < 0.26).all(axis=1)  # noqa: E731
HALF: Inside = lambda x: x[:, 0] > 0.5  # noqa: E731


def unmerged(dim: int, inside: Inside, gap: float = 0.0, cells: int = 4) -> TaggedMesh:
    """A unit box of which the region fibre has nodes of its own, drawn towards the centre by a gap."""
    whole = box([1.0] * dim, [cells] * dim, CELL[dim])
    chosen = inside(whole.points[whole.cells].mean(axis=1))
    own = np.unique(whole.cells[chosen])
    renumber = np.full(len(whole.points), -1)
    renumber[own] = len(whole.points) + np.arange(len(own))
    connectivity = np.where(chosen[:, None], renumber[whole.cells], whole.cells)
    points = np.vstack([whole.points, 0.5 + (1.0 - gap) * (whole.points[own] - 0.5)])
    groups = {"matrix": [np.flatnonzero(~chosen)], "fibre": [np.flatnonzero(chosen)]}
    mesh = build(RawMesh(points, [(whole.kind.name, connectivity)], [dim], groups))
    sides = {
        f"{'xyz'[axis]}{side}": facets
        for axis in range(dim)
        for side in (0, 1)
        if len(facets := _side(mesh, axis, side))
    }
    return replace(mesh, boundaries=sides)


def _side(mesh: TaggedMesh, axis: int, side: int) -> np.ndarray:
    from femops.meshing.building import exterior_facets

    facets = exterior_facets(mesh.cells, mesh.kind)
    return facets[(np.abs(mesh.points[facets, axis] - side) < 1e-9).all(axis=1)]


def held(dim: int, **more: Any) -> dict[str, Any]:
    """A body that slides on its lower faces and is pulled along x."""
    return {
        "mesh": {"file": "m.msh"},
        "material": ELASTIC,
        "supports": {f"{axis}0": {f"u{axis}": 0.0} for axis in "xyz"[:dim]},
        "loads": {"x1": {"displacement": {"ux": 0.01}}},
        **more,
    }


# Nodes of a block of 2 x 2 (x 2) cells but the one in its middle, twice.
@pytest.mark.parametrize(("dim", "count"), [(2, 2 * 8), (3, 2 * 26)])
def test_parts_that_share_no_node_are_noted_and_refused_where_one_is_loose(
    dim: int, count: int, tmp_path: Path
) -> None:
    mesh = unmerged(dim, MIDDLE)
    centre = f"({', '.join(['0.5'] * dim)})"
    assert mesh.notes == (
        f"the mesh consists of 2 disconnected parts ({4**dim - 2**dim} cells of matrix around {centre}; "
        f"{2**dim} cells of fibre around {centre}); {count} nodes coincide with nodes of another part: "
        "merge them if the parts are bonded",
    )
    write_mesh(mesh, tmp_path / "m.msh")
    assert read_mesh(tmp_path / "m.msh").notes == mesh.notes
    with pytest.raises(
        CaseError, match=rf"one of them has a free rigid-body translation along x: {2**dim} cells of fibre around"
    ) as caught:
        box_problem("quadrilateral" if dim == 2 else "hexahedron", tmp_path, **held(dim))
    assert (caught.value.key, str(caught.value).count("\n")) == ("supports", 0)


@pytest.mark.parametrize(("gap", "touching"), [(1e-5, True), (1e-2, False)])
@pytest.mark.parametrize("dim", [2, 3])
def test_nodes_that_nearly_coincide_are_noted_and_a_gap_is_none_of_that(dim: int, gap: float, touching: bool) -> None:
    (note,) = unmerged(dim, MIDDLE, gap).notes
    assert ("coincide with nodes of another part" in note) == touching


@pytest.mark.parametrize("dim", [2, 3])
def test_a_loose_half_is_refused_and_two_held_halves_carry_as_two_bars(dim: int, tmp_path: Path) -> None:
    cell = "quadrilateral" if dim == 2 else "hexahedron"
    write_mesh(unmerged(dim, HALF), tmp_path / "m.msh")
    # Both halves slide on the lower faces, but nothing holds the right one against x.
    with pytest.raises(
        CaseError, match=r"of them has a free rigid-body translation along x: \d+ cells of fibre around \(0.75, 0.5"
    ):
        box_problem(cell, tmp_path, **held(dim, loads={"x1": {"traction": [1.0] * dim}}))
    # Two halves side by side along y, with a slit between them: both are pulled.
    write_mesh(unmerged(dim, lambda x: x[:, 1] > 0.5), tmp_path / "m.msh")
    fixed = {"x0": {f"u{axis}": 0.0 for axis in "xyz"[:dim]}}
    problem = box_problem(cell, tmp_path, **held(dim, supports=fixed))
    problem.solve(1.0, 1.0)
    assert problem.reaction_on("x1")[0] == pytest.approx(1000.0 * 0.01, rel=1e-10)


@pytest.mark.mpi
def test_a_loose_part_is_refused_on_two_ranks(tmp_path: Path) -> None:
    write_mesh(unmerged(2, MIDDLE), tmp_path / "m.msh")
    (tmp_path / "case.yaml").write_text(
        "kinematics: plane_strain\nmesh: {file: m.msh}\nmaterial: {law: elastic, E: 1000.0, nu: 0.0}\n"
        "supports: {x0: {ux: 0.0}, y0: {uy: 0.0}}\nloads: {x1: {displacement: {ux: 0.01}}}\n"
    )
    bin_ = Path(sys.executable).parent
    command = [bin_ / "mpirun", "-n", "2", bin_ / "femops", "check", tmp_path / "case.yaml"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, env=os.environ.copy()
    )
    assert done.returncode == 2, done
    assert done.stderr.count("femops: ") == 1
    assert "one of them has a free rigid-body translation along x: 4 cells of fibre around (0.5, 0.5)" in done.stderr


@pytest.mark.parametrize("dim", [2, 3])
def test_a_crack_is_noted_and_solved(dim: int, tmp_path: Path) -> None:
    whole = box([1.0] * dim, [4] * dim, CELL[dim])
    # The cells right of the middle get nodes of their own where they touch it below y = 0.5.
    on = np.flatnonzero((np.abs(whole.points[:, 0] - 0.5) < 1e-9) & (whole.points[:, 1] < 0.49))
    right = whole.points[whole.cells].mean(axis=1)[:, 0] > 0.5
    renumber = np.arange(len(whole.points))
    renumber[on] = len(whole.points) + np.arange(len(on))
    connectivity = np.where(right[:, None], renumber[whole.cells], whole.cells)
    mesh = build(RawMesh(np.vstack([whole.points, whole.points[on]]), [(CELL[dim], connectivity)], [dim]))
    assert len(mesh.notes) == 1
    assert mesh.notes[0].startswith(
        f"{2 * len(on)} nodes coincide with another node of the same part, for example at (0.5, "
    )
    sides = {f"{'xyz'[axis]}{side}": _side(mesh, axis, side) for axis in range(dim) for side in (0, 1)}
    write_mesh(replace(mesh, boundaries=sides), tmp_path / "m.msh")
    problem = box_problem("quadrilateral" if dim == 2 else "hexahedron", tmp_path, **held(dim))
    problem.solve(1.0, 1.0)
    assert 0.0 < problem.reaction_on("x1")[0] < 10.0 - 1.0


@pytest.mark.parametrize("boundary", ["periodic", "kinematic", "static"])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_loose_part_of_an_rve_is_named(dim: int, boundary: str, tmp_path: Path) -> None:
    write_mesh(unmerged(dim, MIDDLE, gap=0.1), tmp_path / "m.msh")
    rve = {
        "mesh": {"file": str(tmp_path / "m.msh")},
        "boundary": boundary,
        "phases": dict.fromkeys(("matrix", "fibre"), ELASTIC),
    }
    with pytest.raises(
        CaseError,
        match=r"of the RVE is disconnected from the rest and has a free rigid-body translation along x: .* of fibre",
    ):
        load_law({"law": "nested", "rve": rve}, dim=dim)


def _periodic(mesh: TaggedMesh) -> FreeDofs:
    """Free dofs where nodes on upper faces follow those of the same region on lower faces; the first is pinned."""
    wrapped = np.where(np.abs(mesh.points - 1.0) < 1e-9, 0.0, mesh.points)
    fibre = np.zeros(len(mesh.points))
    fibre[mesh.cells[mesh.regions["fibre"]]] = 1.0
    _, shared = np.unique(np.round(np.column_stack([wrapped, fibre]), 9), axis=0, return_inverse=True)
    number = np.ravel(shared) - np.ravel(shared)[0]
    _, number = np.unique(np.where(number == 0, -1, np.ravel(shared)), return_inverse=True)
    nodal = np.ravel(number) - 1
    of = np.where(nodal[:, None] < 0, -1, nodal[:, None] * mesh.dim + np.arange(mesh.dim))
    return FreeDofs(of.ravel(), int(of.max()) + 1, False)


def _fixed(mesh: TaggedMesh) -> FreeDofs:
    """Free dofs where the nodes on the faces of the box are fixed."""
    fixed = np.repeat((np.abs(mesh.points - 0.5) > 0.5 - 1e-9).any(axis=1), mesh.dim)
    return FreeDofs(np.where(fixed, -1, np.cumsum(~fixed) - 1), int((~fixed).sum()), False)


@pytest.mark.parametrize("free_dofs", [_periodic, _fixed])
@pytest.mark.parametrize(
    "inside", [MIDDLE, CORNERS, LAYER, ROD, HALF], ids=["middle", "corners", "layer", "rod", "half"]
)
@pytest.mark.parametrize("dim", [2, 3])
def test_an_rve_is_refused_where_its_stiffness_is_singular(dim: int, inside: Inside, free_dofs: Any) -> None:
    mesh = unmerged(dim, inside)
    free = free_dofs(mesh)
    rve = discretise(mesh, tuple(mesh.regions))
    strain = rve.gradient(free.of, slice(0, len(mesh.cells)), free.count)
    weights = sp.diags_array(np.tile(rve.weight.ravel(), rve.n_s))
    eigenvalues = np.linalg.eigvalsh((strain.T @ weights @ strain).toarray())
    singular = eigenvalues[0] < 1e-10 * eigenvalues[-1]
    if singular:
        with pytest.raises(CaseError, match="is disconnected from the rest and has a free rigid-body"):
            check_rigid_motions(rve.mesh, free)
    else:
        check_rigid_motions(rve.mesh, free)


SQUARES = np.array([[0.0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [0.2, 0.2], [0.5, 0], [2, 2]])
PAIR = [[0, 1, 4, 3], [1, 2, 5, 4]]
CUBES = np.vstack([np.column_stack([SQUARES, np.full(len(SQUARES), z)]) for z in (0.0, 1.0)])
BAD = {
    "twice": ([[1, 2, 5, 4], [2, 5, 4, 1]], r"2 duplicate cells, for example at \(1.5, 0.5"),
    "node twice": ([[1, 2, 5, 5]], r"1 cell has a repeated node, for example at \(1.75, 0.5"),
    "flat": (
        [[0, 7, 1, 2]],
        r"1 cell has no volume or a Jacobian determinant that changes sign, for example at \(0.875, 0",
    ),
    "concave": (
        [[0, 1, 6, 3]],
        r"1 cell has no volume or a Jacobian determinant that changes sign, for example at \(0.3, 0.3",
    ),
}


@pytest.mark.parametrize("suffix", [".msh", ".inp", ".vtu", ".vtk", ".xdmf", ".bdf"])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("what", BAD)
def test_bad_cells_are_found_in_every_format(what: str, dim: int, suffix: str, tmp_path: Path) -> None:
    added, message = BAD[what]
    cells = np.array(PAIR + added)
    points = SQUARES
    if dim == 3:
        cells, points = np.hstack([cells, cells + len(SQUARES)]), CUBES
    path = tmp_path / f"m{suffix}"
    if suffix in (".msh", ".inp"):
        write_mesh(TaggedMesh(points, cells, CELLS[CELL[dim]], {"domain": np.arange(len(cells))}), path)
    else:
        meshio.Mesh(np.pad(points, ((0, 0), (0, 3 - dim))), [(CELL[dim], cells)]).write(path)
    with pytest.raises(CaseError, match=message) as caught:
        read_mesh(path)
    assert str(caught.value).startswith(str(path))


# With the middle node of an edge at s the Jacobian at its end is 4 s - 1, and 2 s at the points of the triangle.
@pytest.mark.parametrize(("middle", "answer"), [(0.3, "good"), (0.25, "good"), (0.1, "noted"), (-0.1, "refused")])
@pytest.mark.parametrize("cell", ["triangle6", "tetra10"])
def test_quadratic_cells_that_fold_are_noted_or_refused(cell: str, middle: float, answer: str) -> None:
    kind = CELLS[cell]
    points = kind.nodes.copy()
    points[kind.dim + 1, 0] = middle  # on the edge between the first two corners
    raw = RawMesh(points, [(cell, np.arange(kind.n_nodes)[None])], [kind.dim])
    if answer == "refused":
        with pytest.raises(CaseError, match="1 cell has no volume or a Jacobian determinant that changes sign"):
            build(raw)
        return
    notes = build(raw).notes
    assert len(notes) == (answer == "noted")
    assert all(note.startswith("1 cell has a Jacobian determinant of the wrong sign at a node") for note in notes)


def test_facets_given_twice_count_once_and_those_of_no_cell_are_refused(tmp_path: Path) -> None:
    points = np.column_stack([SQUARES[:6], np.zeros(6)])
    quads, number = ("quad", np.array(PAIR)), [np.array([1, 1]), np.array([2, 2])]
    for lines, message in (
        ([[0, 1], [1, 0]], None),
        ([[0, 1], [0, 4]], "boundary 'base' has 1 facets that belong to no cell"),
    ):
        mesh = meshio.Mesh(points, [quads, ("line", np.array(lines))], cell_data={"tag": number})
        mesh.write(tmp_path / "m.vtu")
        if message is None:
            assert read_mesh(tmp_path / "m.vtu", {"base": 2, "body": 1}).boundaries["base"].tolist() == [[0, 1]]
            continue
        with pytest.raises(CaseError, match=message):
            read_mesh(tmp_path / "m.vtu", {"base": 2, "body": 1})
