"""Integer cell arrays as group names: XDMF files of DOLFINx, floating-point tags, several arrays."""

from pathlib import Path

import basix.ufl
import meshio
import numpy as np
import pytest
from dolfinx import io
from dolfinx import mesh as dolfinx_mesh
from helpers import box_problem
from mpi4py import MPI

from femops.errors import CaseError
from femops.meshing import CELLS
from femops.meshing.box import box
from femops.meshing.building import measures
from femops.meshing.reading import read_mesh

SIZE = (2.0, 1.0, 3.0)


def dolfinx_file(path: Path, cell: str, encoding: str = "HDF5", more: bool = False) -> Path:
    """A box as DOLFINx writes it: cells left and right of the middle are 1 and 2, facets at x = 0, x = 2, y = 0 too."""
    tagged = box(SIZE[: CELLS[cell].dim], (2, 2, 2)[: CELLS[cell].dim], cell)
    kind, dim = tagged.kind, tagged.dim
    variant = basix.LagrangeVariant.equispaced
    element = basix.ufl.element("Lagrange", kind.shape, kind.degree, lagrange_variant=variant, shape=(dim,))
    cells = np.ascontiguousarray(tagged.cells[:, kind.lagrange_permutation])
    mesh = dolfinx_mesh.create_mesh(MPI.COMM_SELF, cells, element, tagged.points)
    mesh.topology.create_connectivity(dim - 1, dim)
    left = dolfinx_mesh.locate_entities(mesh, dim, lambda x: x[0] < 1.0 + 1e-9)
    values = np.full(mesh.topology.index_map(dim).size_local, 2, dtype=np.int32)
    values[left] = 1
    tags = [dolfinx_mesh.meshtags(mesh, dim, np.arange(len(values), dtype=np.int32), values)]
    sides = [(0, 0.0), (0, 2.0), (1, 0.0)]
    found = [_facets(mesh, axis, at) for axis, at in sides]
    numbers = np.repeat(np.arange(1, 4, dtype=np.int32), [len(one) for one in found])
    order = np.argsort(np.concatenate(found))
    tags.append(dolfinx_mesh.meshtags(mesh, dim - 1, np.concatenate(found)[order], numbers[order]))
    if more:
        top = np.sort(_facets(mesh, 1, 1.0))
        tags.append(dolfinx_mesh.meshtags(mesh, dim - 1, top, np.full(len(top), 1, dtype=np.int32)))
    with io.XDMFFile(MPI.COMM_SELF, str(path), "w", encoding=getattr(io.XDMFFile.Encoding, encoding)) as file:
        file.write_mesh(mesh)
        for name, one in zip(("phases", "sides", "others"), tags, strict=False):
            one.name = name
            file.write_meshtags(one, mesh.geometry)
    return path


def _facets(mesh: dolfinx_mesh.Mesh, axis: int, at: float) -> np.ndarray:
    return dolfinx_mesh.locate_entities_boundary(mesh, mesh.topology.dim - 1, lambda x: np.isclose(x[axis], at))


@pytest.mark.parametrize("encoding", ["HDF5", "ASCII"])
@pytest.mark.parametrize("cell", ["triangle", "quad9", "tetra", "hexahedron", "tetra10", "hexahedron27"])
def test_meshes_and_tags_of_dolfinx_are_read(cell: str, encoding: str, tmp_path: Path) -> None:
    path = dolfinx_file(tmp_path / "m.xdmf", cell, encoding, more=True)
    tags = {
        "phases": {"soft": 1, "hard": 2},
        "sides": {"left": 1, "right": 2, "bottom": 3},
        "others": {"top": 1},
    }
    mesh = read_mesh(path, tags)
    assert (mesh.kind.name, mesh.notes) == (cell, ())
    volume = np.prod(SIZE[: mesh.dim])
    for name, side in (("soft", 0.0), ("hard", 1.0)):
        cells = mesh.cells[mesh.regions[name]]
        assert measures(mesh)[mesh.regions[name]].sum() == pytest.approx(volume / 2, rel=1e-12)
        assert mesh.points[cells][..., 0].min() == pytest.approx(side, abs=1e-12)
    # 2 facets on each side of a square, 4 or 8 (triangles) on that of a cube.
    count = 2 if mesh.dim == 2 else 8 if cell.startswith("tetra") else 4
    for name, axis, at in (("left", 0, 0.0), ("right", 0, 2.0), ("bottom", 1, 0.0), ("top", 1, 1.0)):
        assert len(mesh.boundaries[name]) == count
        np.testing.assert_allclose(mesh.points[mesh.boundaries[name]][..., axis], at, atol=1e-12)


def test_a_body_of_dolfinx_is_solved_with_tags_that_cells_and_facets_share(tmp_path: Path) -> None:
    dolfinx_file(tmp_path / "m.xdmf", "triangle")
    tags = {"left": 1, "right": 2, "bottom": 3, "a": 1, "b": 2}
    law = {"law": "elastic", "E": 1000.0, "nu": 0.3}
    material = {"a": law, "b": law}
    problem = box_problem("triangle", tmp_path, mesh={"file": "m.xdmf", "tags": tags}, material=material)
    problem.solve(1.0, 1.0)
    # The box of length 2 is pulled by 0.01 in plane strain, free to contract along y.
    assert problem.reaction_on("right")[0] == pytest.approx(1000.0 / (1.0 - 0.3**2) * 0.01 / 2.0, rel=1e-10)
    assert problem.mesh.notes[0].startswith(
        "tags: left and a are all 1, which cells and facets have: the region is 'a'"
    )


@pytest.mark.parametrize(
    ("tags", "cell_array", "message"),
    [
        ({"left": 1}, None, r"tags.left: 1 is a value of 'sides' and of 'others'; .* tags: {sides: {left: 1}}"),
        (
            {"faces": {"left": 1}},
            None,
            "tags: 'faces' is not an integer cell array; the file has phases, sides, others",
        ),
        ({"soft": 7}, None, "tags.soft: no cell has the value 7; the file has 1, 2, 3"),
        ({"soft": 1, "sides": {"left": 1}}, None, "tags: 'soft' has a number and 'sides' is a block of tags; expected"),
        ({"sides": {"left": 1}}, "phases", "cell_array: 'phases' given, but tags name the cell arrays"),
        ({"soft": 1}, "faces", "cell_array: 'faces' is not a grid of tags; the file has phases, sides, others"),
    ],
)
def test_tags_that_mean_nothing_or_two_things_are_refused(tags, cell_array, message, tmp_path: Path) -> None:
    path = dolfinx_file(tmp_path / "m.xdmf", "quad", more=True)
    with pytest.raises(CaseError, match=message):
        read_mesh(path, tags, cell_array)
    assert list(read_mesh(path, {"left": 1}, "sides").boundaries) == ["left"]
    assert read_mesh(path).notes == ("the file has tags (phases, sides, others) without names; give them with tags",)


def test_xdmf_files_that_miss_a_part_are_refused_by_name(tmp_path: Path) -> None:
    path = dolfinx_file(tmp_path / "m.xdmf", "quad")
    text = path.read_text()
    for old, new, message in (
        ("m.h5:/Mesh", "n.h5:/Mesh", "the HDF5 file n.h5 does not exist"),
        ("m.h5:/Mesh/mesh/topology", "m.h5:/Mesh/lost", "not a readable XDMF file of a mesh with tags"),
        ("<Geometry ", "<Other ", "the file has 0 grids with nodes .none.; expected one mesh"),
        ('TopologyType="Quadrilateral"', 'TopologyType="Mixed"', "grid 'mesh' has cells 'Mixed' with 4 nodes"),
    ):
        path.write_text(text.replace(old, new).replace("</Geometry>", "</Other>" if "Other" in new else "</Geometry>"))
        with pytest.raises(CaseError, match=message) as caught:
            read_mesh(path, {"soft": 1})
        assert "\n" not in str(caught.value)


SQUARE = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0]])
BLOCKS = [("quad", np.array([[0, 1, 2, 3], [1, 4, 5, 2]])), ("line", np.array([[0, 3], [4, 5]])), ("vertex", [[0]])]


def vtu(path: Path, **arrays: list[list[float]]) -> Path:
    data = {name: [np.array(block) for block in blocks] for name, blocks in arrays.items()}
    meshio.Mesh(SQUARE, BLOCKS, cell_data=data).write(path)
    return path


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_tags(dtype: type, tmp_path: Path) -> None:
    blocks = [np.array(block, dtype) for block in ([1, 2], [3, 4], [5])]
    path = vtu(tmp_path / "m.vtu", tag=blocks, density=[[7.5, 7.5], [0.0, 0.0], [0.0]])
    mesh = read_mesh(path, {"soft": 1, "hard": 2, "left": 3, "right": 4, "pin": 5})
    assert {name: cells.tolist() for name, cells in mesh.regions.items()} == {"soft": [0], "hard": [1]}
    assert {name: facets.tolist() for name, facets in mesh.boundaries.items()} == {"left": [[0, 3]], "right": [[4, 5]]}
    assert mesh.sets_without_facets == {"pin": "contains cells of kind vertex but no facets"}


def test_integers_come_before_whole_floating_point_numbers_and_arrays_can_be_named(tmp_path: Path) -> None:
    ones = [[1.0, 1.0], [0.0, 0.0], [0.0]]
    path = vtu(tmp_path / "m.vtu", ones=ones, tag=[[1, 2], [3, 4], [5]])
    assert list(read_mesh(path, {"soft": 1, "hard": 2}).regions) == ["soft", "hard"]
    path = vtu(tmp_path / "n.vtu", ones=[[1, 1], [0, 0], [0]], tag=[[1, 2], [3, 4], [5]])
    mesh = read_mesh(path, {"ones": {"all": 1}, "tag": {"left": 3}})
    assert (list(mesh.regions), list(mesh.boundaries)) == (["all"], ["left"])
    with pytest.raises(CaseError, match=r"tags: expected one integer cell array, .*; the file has ones, tag"):
        read_mesh(path, {"all": 1})
