"""Meshes with named groups: boxes, files, and refused input."""

from dataclasses import replace
from pathlib import Path

import gmsh
import meshio
import numpy as np
import pytest

from femops.errors import CaseError
from femops.meshing import CELLS, TaggedMesh
from femops.meshing.box import box
from femops.meshing.building import SUPPORTED, exterior_facets, jacobians, measures
from femops.meshing.gmsh_model import gmsh_session
from femops.meshing.reading import read_mesh
from femops.meshing.writing import write_mesh

MESHES = Path(__file__).parent.parent / "meshes"
SIZE = (1.0, 2.0, 3.0)


def two_regions(cell: str) -> TaggedMesh:
    """A box with a slanted top whose first grid row in y is the region soft."""
    dim = CELLS[cell].dim
    mesh = box(SIZE[:dim], (2, 3, 2)[:dim], cell)
    points = mesh.points.copy()
    points[:, 1] *= 1.0 + 0.2 * points[:, 0]
    row = mesh.points[mesh.cells, 1].mean(1) < SIZE[1] / 3
    return replace(mesh, points=points, regions={"soft": np.flatnonzero(row), "hard": np.flatnonzero(~row)})


def signature(mesh: TaggedMesh) -> tuple[np.ndarray, ...]:
    """Node coordinates of cells and facets, which do not depend on the numbering of nodes."""
    parts = [mesh.points[mesh.cells[mesh.regions[name]]] for name in sorted(mesh.regions)]
    parts += [mesh.points[np.unique(mesh.boundaries[name])] for name in sorted(mesh.boundaries)]
    flat = [part.reshape(len(part), -1) for part in parts]
    return tuple(part[np.lexsort(np.round(part, 6).T)] for part in flat)


@pytest.mark.parametrize("cell", SUPPORTED)
def test_box_has_exact_volume_positive_cells_and_closed_named_sides(cell: str) -> None:
    dim = CELLS[cell].dim
    mesh = box(SIZE[:dim], (2, 3, 2)[:dim], cell)
    assert measures(mesh).sum() == pytest.approx(np.prod(SIZE[:dim]), rel=1e-13)
    assert jacobians(mesh.points, mesh.cells, mesh.kind).min() > 0
    names = ["left", "right", "bottom", "top", "back", "front"][: 2 * dim]
    assert list(mesh.boundaries) == names
    for i, name in enumerate(names):
        side = mesh.points[mesh.boundaries[name]][..., i // 2]
        assert np.ptp(side) == 0.0
        assert side.flat[0] == (SIZE[i // 2] if i % 2 else 0.0)
    assert sum(map(len, mesh.boundaries.values())) == len(exterior_facets(mesh.cells, mesh.kind))


@pytest.mark.parametrize("cell", SUPPORTED)
def test_facet_nodes_follow_the_reference_facet(cell: str) -> None:
    mesh = two_regions(cell)
    facets = exterior_facets(mesh.cells, mesh.kind)
    kind = mesh.facet_kind
    gradients = kind.tabulate(kind.quadrature(3)[0])[1]
    tangents = np.einsum("fni,qnj->fqij", mesh.points[facets], gradients)
    areas = np.sqrt(np.linalg.det(np.einsum("fqij,fqik->fqjk", tangents, tangents)))
    # The divergence theorem without normals: the surface of the slanted box in closed form.
    sloped = 2.0 * np.hypot(0.2, 0.5)
    expected = 1.0 + 2.0 + 2.4 + sloped if mesh.dim == 2 else 3.0 * (1.0 + 2.0 + 2.4 + sloped) + 2.0 * 2.2
    assert (areas @ kind.quadrature(3)[1]).sum() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("suffix", [".msh", ".vtu", ".vtk", ".inp"])
@pytest.mark.parametrize("cell", SUPPORTED)
def test_round_trip_keeps_cells_regions_and_boundaries(cell: str, suffix: str, tmp_path: Path) -> None:
    mesh, path = two_regions(cell), tmp_path / f"mesh{suffix}"
    if (cell, suffix) == ("hexahedron27", ".inp"):
        with pytest.raises(CaseError, match="cannot contain hexahedron27"):
            write_mesh(mesh, path)
        assert not list(tmp_path.iterdir())
        return
    write_mesh(mesh, path)
    numbers = {name: i + 1 for i, name in enumerate([*mesh.regions, *mesh.boundaries])}
    again = read_mesh(path, numbers if suffix.startswith(".v") else None)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert (again.kind.name, again.dim) == (cell, mesh.dim)
    assert sorted(again.regions) == sorted(mesh.regions)
    assert sorted(again.boundaries) == sorted(mesh.boundaries)
    for one, other in zip(signature(mesh), signature(again), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9)


@pytest.mark.parametrize("cell", SUPPORTED)
def test_cells_of_negative_orientation_are_flipped(cell: str, tmp_path: Path) -> None:
    mesh = two_regions(cell)
    mirrored = replace(mesh, points=mesh.points * np.where(np.arange(mesh.dim) == 0, -1.0, 1.0))
    write_mesh(mirrored, tmp_path / "mesh.msh")
    again = read_mesh(tmp_path / "mesh.msh")
    assert jacobians(again.points, again.cells, again.kind).min() > 0
    assert measures(again).sum() == pytest.approx(measures(mesh).sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "region", "boundaries", "area"),
    [
        ("cook", "membrane", {"left", "right", "top", "bottom"}, 1440.0),
        ("l_profile", "profile", {"top", "right", "outer"}, 7500.0 + 25.0 * (1.0 - np.pi / 4)),
        ("plate_hole", "plate", {"left", "bottom", "right", "top", "hole"}, 1e4 - 100.0 * np.pi),
    ],
)
def test_shipped_meshes_have_their_groups_and_area(name: str, region: str, boundaries: set[str], area: float) -> None:
    mesh = read_mesh(MESHES / f"{name}.msh")
    assert (mesh.kind.name, list(mesh.regions), set(mesh.boundaries)) == ("quad", [region], boundaries)
    assert measures(mesh).sum() == pytest.approx(area, rel=1e-3)
    assert sum(map(len, mesh.boundaries.values())) == len(exterior_facets(mesh.cells, mesh.kind))


def test_abaqus_sections_name_the_regions_and_node_sets_the_boundaries(tmp_path: Path) -> None:
    (tmp_path / "part.inp").write_text(
        "*Heading\n** comment\n*Part, name=Part-1\n*Node\n"
        "11, 0., 0.\n12, 1., 0.\n13, 2., 0.\n14, 0., 1.\n15, 1., 1.\n16, 2., 1.\n"
        "*Element, type=CPE4R\n5, 11, 12, 15, 14\n*Element, type=CPS4\n7, 12, 13, 16, 15\n"
        "*Nset, nset=Base, generate\n11, 13, 1\n*Elset, elset=All\n5, 7\n*Elset, elset=_internal\n5\n"
        "*Elset, elset=A\n5\n*Elset, elset=B\n 7,\n*Solid Section, elset=a, material=m\n,\n"
        "*Solid Section, elset=B, material=n\n,\n*End Part\n"
    )
    mesh = read_mesh(tmp_path / "part.inp")
    assert {name: cells.tolist() for name, cells in mesh.regions.items()} == {"A": [0], "B": [1]}
    assert {tuple(facet) for facet in np.sort(mesh.boundaries["Base"])} == {(0, 1), (1, 2)}


def test_nameless_groups_are_numbers_and_tags_name_them(tmp_path: Path) -> None:
    with gmsh_session({"Mesh.MeshSizeMax": 0.6}):
        gmsh.model.occ.addRectangle(0, 0, 3.0, 1, 1)
        gmsh.model.occ.synchronize()
        gmsh.model.addPhysicalGroup(2, [1], tag=7)
        gmsh.model.mesh.generate(2)
        gmsh.write(str(tmp_path / "mesh.msh"))
    assert not gmsh.isInitialized()
    assert list(read_mesh(tmp_path / "mesh.msh").regions) == ["7"]
    assert list(read_mesh(tmp_path / "mesh.msh", {"matrix": 7}).regions) == ["matrix"]
    with pytest.raises(CaseError, match=r"tags\.matrix: 8 is not a physical group without a name; the file has 7"):
        read_mesh(tmp_path / "mesh.msh", {"matrix": 8})


def test_nested_gmsh_sessions_restore_model_and_options() -> None:
    with gmsh_session({"Mesh.MeshSizeMax": 0.3}):
        outer = gmsh.model.getCurrent()
        with gmsh_session({"Mesh.MeshSizeMax": 0.1}):
            gmsh.model.occ.addRectangle(0, 0, 0, 1, 1)
        assert gmsh.model.getCurrent() == outer
        assert gmsh.option.getNumber("Mesh.MeshSizeMax") == 0.3
    assert not gmsh.isInitialized()


SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0]])
QUADS = ("quad", np.array([[0, 1, 2, 3], [1, 4, 5, 2]]))


def written(path: Path, points=SQUARE, cells=(QUADS,), **data) -> Path:
    meshio.Mesh(points, list(cells), **data).write(path)
    return path


def test_a_mesh_without_regions_is_one_domain(tmp_path: Path) -> None:
    assert read_mesh(written(tmp_path / "m.vtu")).regions["domain"].tolist() == [0, 1]


def test_families_of_med_files_name_regions_and_boundaries(tmp_path: Path) -> None:
    mesh = meshio.Mesh(SQUARE[:, :2], [QUADS, ("line", np.array([[0, 1]]))])
    mesh.cell_data, mesh.cell_tags, mesh.point_tags = (
        {"cell_tags": [np.array([-1, -2]), np.array([-3])]},
        {-1: ["a"], -2: ["b"], -3: ["base"]},
        {},
    )
    mesh.write(tmp_path / "m.med")
    again = read_mesh(tmp_path / "m.med")
    assert (list(again.regions), list(again.boundaries)) == (["a", "b"], ["base"])


@pytest.mark.parametrize(
    ("data", "tags", "cell_array", "message"),
    [
        ({"a": [1, 2]}, {"x": 1, "y": 3}, None, "tags.y: no cell has the value 3; the file has 1, 2"),
        ({"a": [1, 2]}, {"x": 1}, None, "1 of 2 cells belong to no region"),
        (
            {"a": [1, 2], "b": [1, 1]},
            {"x": 1},
            None,
            "tags: expected one integer cell array, or its name as cell_array; the file has a, b",
        ),
        ({"a": [1, 2]}, {"x": 1}, "c", "cell_array: 'c' is not an integer cell array; the file has a"),
        ({"a": [1.5, 2.0]}, {"x": 1}, None, "the file has none"),
        ({"a": [1, 1]}, {"x": 1, "y": 1}, None, "regions 'x' and 'y' share 2 cells"),
    ],
)
def test_tags_that_do_not_fit_are_refused(data, tags, cell_array, message, tmp_path: Path) -> None:
    path = written(tmp_path / "m.vtu", cell_data={name: [np.array(values)] for name, values in data.items()})
    with pytest.raises(CaseError, match=message):
        read_mesh(path, tags, cell_array)


@pytest.mark.parametrize(
    ("cells", "points", "message"),
    [
        ([QUADS, ("triangle", [[0, 1, 2]])], SQUARE, "mixes cells of the kinds quad, triangle"),
        ([("wedge", [[0, 1, 2, 3, 4, 5]])], SQUARE, "cell type 'wedge' is not supported; supported: triangle, "),
        ([("line", [[0, 1]])], SQUARE, "no 2D or 3D cells"),
        ([QUADS], SQUARE + SQUARE[:, [2, 2, 0]], "z between 0 and 2; expected a mesh in the x-y plane"),
        ([("quad", [[0, 1, 3, 2]])], SQUARE, "1 cell has no volume or a Jacobian determinant that changes sign"),
    ],
)
def test_cells_that_do_not_fit_are_refused(cells, points, message, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=message):
        read_mesh(written(tmp_path / "m.vtu", points, cells))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.msh", None, "the mesh file does not exist"),
        ("script.msh", 'SystemCall "true";', "does not begin with .MeshFormat"),
        ("short.msh", "$MeshFormat\n4.1 0 8\n$EndMeshFormat\n$Nodes\n1 2 3", "gmsh cannot read the file"),
        ("bad.vtu", "garbage", "meshio cannot read the file"),
        ("bad.abc", "garbage", "mesh format '.abc' is not known"),
        ("bad.inp", "garbage", "expected a mesh"),
        ("bad.inp", "*NODE\n1, a, b\n", "not a readable Abaqus input file"),
        ("wedge.inp", "*NODE\n1, 0., 0.\n*ELEMENT, TYPE=C3D6\n", "element type 'C3D6' is not supported"),
        ("lost.inp", "*NODE\n1, 0., 0.\n*ELEMENT, TYPE=CPE3\n1, 1, 2, 1\n", "node 2 is used but not defined"),
    ],
)
def test_unreadable_files_are_named(name: str, text: str | None, message: str, tmp_path: Path, capfd) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CaseError, match=message) as caught:
        read_mesh(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_sets_of_an_inp_file_name_the_regions_where_gmsh_names_its_entities_as_well(tmp_path: Path) -> None:
    (tmp_path / "gmsh.inp").write_text(
        "*NODE\n1, 0, 0, 0\n2, 1, 0, 0\n3, 1, 1, 0\n4, 0, 1, 0\n"
        "*ELEMENT, TYPE=CPS3, ELSET=Surface1\n1, 1, 2, 3\n"
        "*ELEMENT, TYPE=CPS3, ELSET=Surface2\n2, 1, 3, 4\n"
        "*ELSET, ELSET=soft\n1\n*ELSET, ELSET=hard\n2\n"
    )
    assert list(read_mesh(tmp_path / "gmsh.inp").regions) == ["soft", "hard"]
