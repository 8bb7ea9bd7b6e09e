"""Reads XDMF files of DOLFINx: one grid for the mesh, further grids for its cell and facet tags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from femops.errors import CaseError
from femops.meshing.building import RawMesh, facets_among
from femops.meshing.cells import CELLS
from femops.meshing.tags import UNTAGGED, CellArray, Tags, as_integers, tagged_groups
from femops.notation import Indices

_KINDS = {("polyvertex", 1): "vertex", ("polyline", 2): "line", ("polyline", 3): "line3"}
_KINDS |= {("edge", 3): "line3", ("triangle", 3): "triangle", ("triangle", 6): "triangle6"}
_KINDS |= {("quadrilateral", 4): "quad", ("quadrilateral", 8): "quad8", ("quadrilateral", 9): "quad9"}
_KINDS |= {("tetrahedron", 4): "tetra", ("tetrahedron", 10): "tetra10", ("hexahedron", 8): "hexahedron"}
_KINDS |= {("hexahedron", 20): "hexahedron20", ("hexahedron", 27): "hexahedron27"}


@dataclass(frozen=True)
class _Grid:
    """An XDMF grid: kind and nodes of its cells, and its cell values by name."""

    name: str
    kind: str
    cells: Indices
    values: dict[str, Any]

    @property
    def dim(self) -> int:
        return CELLS[self.kind].dim if self.kind in CELLS else 0


def has_several_grids(path: Path) -> bool:
    """Return whether a file has several grids, as DOLFINx writes meshes with tags."""
    try:
        return len(ElementTree.parse(path).getroot().findall("Domain/Grid")) > 1
    except ElementTree.ParseError:
        return False


def read_xdmf(path: Path, tags: Tags, cell_array: str | None) -> RawMesh:
    """Read a mesh and its tags, as written by `XDMFFile.write_mesh` and `write_meshtags` of DOLFINx.

    Args:
        path: The file, which refers to an HDF5 file.
        tags: Integer tags by name, see `Tags`.
        cell_array: Use only the tags of this name; None uses all.

    Raises:
        CaseError: The file is not as DOLFINx writes it, or tags do not fit.
    """
    try:
        return _read(path, tags, cell_array)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CaseError(f"not a readable XDMF file of a mesh with tags: {error}") from error


def _read(path: Path, tags: Tags, cell_array: str | None) -> RawMesh:
    elements = ElementTree.parse(path).getroot().findall("Domain/Grid")
    series = [str(one.get("Name")) for one in elements if one.get("GridType", "Uniform") != "Uniform"]
    uniform = [one for one in elements if one.get("GridType", "Uniform") == "Uniform"]
    meshes = [one for one in uniform if one.find("Geometry") is not None]
    if len(meshes) != 1:
        given = ", ".join(str(one.get("Name")) for one in meshes) or "none"
        raise CaseError(
            f"the file has {len(meshes)} grids with nodes ({given}); expected one mesh, and grids of its tags"
        )
    geometry = meshes[0].find("Geometry/DataItem")
    mesh, *others = [_grid(one, path) for one in (meshes[0], *(one for one in uniform if one is not meshes[0]))]
    blocks, arrays = [mesh], []
    for grid in [mesh, *others]:
        for name, given in grid.values.items():
            values = as_integers(np.ravel(given))
            if values is None or len(values) != len(grid.cells):
                continue
            if grid is not mesh and grid.dim < mesh.dim:
                blocks.append(grid)
            arrays.append((name, grid, values))
    wanted = [
        CellArray(name, [_values_in(block, mesh, grid, values) for block in blocks]) for name, grid, values in arrays
    ]
    if cell_array is not None and cell_array not in {one.name for one in wanted}:
        given = ", ".join(one.name for one in wanted) or "none"
        raise CaseError(f"'{cell_array}' is not a grid of tags; the file has {given}", key="cell_array")
    dims = [block.dim for block in blocks]
    groups, notes = tagged_groups(wanted, dims, tags, cell_array)
    if wanted and not tags:
        notes.append(f"the file has tags ({', '.join(one.name for one in wanted)}) without names; give them with tags")
    if series:
        notes.append(f"grids that change with time are ignored: {', '.join(series)}")
    points = np.asarray(_data(geometry, path), dtype=np.float64)
    return RawMesh(points, [(one.kind, one.cells) for one in blocks], dims, groups, notes=tuple(notes))


def _grid(element: ElementTree.Element, path: Path) -> _Grid:
    name, topology = str(element.get("Name")), element.find("Topology")
    if topology is None or topology.find("DataItem") is None:
        raise CaseError(f"grid '{name}' has no cells; expected a mesh, or tags of its cells and facets")
    cells = np.asarray(_data(topology.find("DataItem"), path), dtype=np.int64)
    written = str(topology.get("TopologyType"))
    width = int(topology.get("NodesPerElement") or (cells.shape[1] if cells.ndim == 2 else 0))
    kind = _KINDS.get((written.partition("_")[0].lower(), width))
    if kind is None:
        raise CaseError(f"grid '{name}' has cells '{written}' with {width} nodes, which are not supported")
    values = {
        str(one.get("Name")): _data(one.find("DataItem"), path)
        for one in element.findall("Attribute")
        if one.get("Center") == "Cell"
    }
    return _Grid(name, kind, cells.reshape(-1, width), values)


def _values_in(block: _Grid, mesh: _Grid, grid: _Grid, values: Indices) -> Indices:
    """Return the tags of a grid on the cells of a block: its own block, or the cells of the mesh."""
    found = np.full(len(block.cells), UNTAGGED)
    if block is grid:
        return values
    if block is mesh and grid.dim == mesh.dim:
        nodes = np.sort(np.vstack([mesh.cells, grid.cells]), axis=1)
        if not facets_among(grid.cells, mesh.cells).all():
            raise CaseError(f"grid '{grid.name}' tags cells that the mesh does not have")
        _, number = np.unique(nodes, axis=0, return_inverse=True)
        number = np.ravel(number)
        by_number = np.full(number.max() + 1, UNTAGGED)
        by_number[number[len(mesh.cells) :]] = values
        return by_number[number[: len(mesh.cells)]]
    return found


def _data(item: ElementTree.Element | None, path: Path) -> Any:
    """Return the values of a data item, stored inline or in an HDF5 file."""
    if item is None:
        raise CaseError("a grid has no data; expected numbers, or an HDF5 file that contains them")
    shape = tuple(int(number) for number in str(item.get("Dimensions")).split())
    text = (item.text or "").strip()
    if item.get("Format", "XML").upper() == "XML":
        return np.array(text.split(), dtype=np.float64).reshape(shape)
    file, _, inside = text.partition(":")
    if not (path.parent / file).is_file():
        raise CaseError(f"the HDF5 file {file} does not exist")
    with h5py.File(path.parent / file, "r") as data:
        return np.asarray(data[inside.strip()][()]).reshape(shape)
