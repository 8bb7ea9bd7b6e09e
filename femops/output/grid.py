"""Mesh of result files: points in space and cells of one VTK type."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from femops.meshing.tagged import TaggedMesh
from femops.notation import Array, Indices

if TYPE_CHECKING:
    import pyvista

Fields = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Grid:
    """Points and cells in VTK conventions.

    Attributes:
        points: Coordinates [length]. Shape (n_points, 3).
        cells: Point indices of each cell in VTK order. Shape (n_cells, n_nodes_of_cell).
        cell_type: VTK cell type, the same for all cells.
    """

    points: Array
    cells: Indices
    cell_type: int

    @classmethod
    def from_mesh(cls, mesh: TaggedMesh) -> "Grid":
        """Return the grid of a mesh; plane meshes lie in z = 0."""
        points = np.zeros((len(mesh.points), 3))
        points[:, : mesh.dim] = mesh.points
        return cls(points, np.asarray(mesh.cells, dtype=np.int64), mesh.kind.vtk)

    def to_pyvista(
        self, point_data: Fields | None = None, cell_data: Fields | None = None
    ) -> "pyvista.UnstructuredGrid":
        """Return the grid with its fields as a pyvista data set.

        Args:
            point_data: Arrays by name. Shape (n_points,) or (n_points, k) each; k = 2 is padded to 3.
            cell_data: Arrays by name. Shape (n_cells,) or (n_cells, k) each; k = 2 is padded to 3.
        """
        import pyvista

        data = pyvista.UnstructuredGrid({self.cell_type: self.cells}, self.points)
        for name, values in checked_fields(point_data or {}, len(self.points)).items():
            data.point_data[name] = values
        for name, values in checked_fields(cell_data or {}, len(self.cells)).items():
            data.cell_data[name] = values
        return data


def checked_fields(fields: Fields, count: int) -> dict[str, npt.NDArray[Any]]:
    """Check the shapes of fields and convert them to the form of result files.

    Args:
        fields: Arrays by name. Shape (count,) or (count, k) each.
        count: Number of points or cells.

    Returns:
        The fields, with booleans as integers, (count, 2) padded with zeros to (count, 3), and (count, 1) flattened.

    Raises:
        ValueError: A field has another shape.
    """
    return {name: _checked(name, np.asarray(values), count) for name, values in fields.items()}


def _checked(name: str, values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    if values.ndim not in (1, 2) or len(values) != count:
        raise ValueError(f"field '{name}' has shape {values.shape}, expected ({count},) or ({count}, k)")
    if values.dtype == np.bool_:
        values = values.astype(np.int8)
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim == 2 and values.shape[1] == 2:
        return np.pad(values, ((0, 0), (0, 1)))
    return values
