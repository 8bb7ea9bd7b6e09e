"""Hierarchies of box meshes, and the dofs on their boundaries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dolfinx import fem, mesh
from mpi4py import MPI

from femops.notation import Array, Indices

_KINDS = {
    ("triangle", 2): mesh.CellType.triangle,
    ("quadrilateral", 2): mesh.CellType.quadrilateral,
    ("tetrahedron", 3): mesh.CellType.tetrahedron,
    ("hexahedron", 3): mesh.CellType.hexahedron,
}
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Box:
    """A box with one corner at the origin, divided into equal cells.

    Attributes:
        size: Edge lengths [length].
        cells: Number of cells along each axis.
        cell: triangle or quadrilateral; tetrahedron or hexahedron.
    """

    size: tuple[float, ...]
    cells: tuple[int, ...]
    cell: str

    def mesh(self) -> Any:
        """Return the mesh on MPI.COMM_SELF."""
        kind, corners = _KINDS[self.cell, len(self.size)], [np.zeros(len(self.size)), np.array(self.size)]
        create = mesh.create_rectangle if len(self.size) == 2 else mesh.create_box
        return create(MPI.COMM_SELF, corners, self.cells, kind)

    def hierarchy(self, fewest: int = 2) -> list["Box"]:
        """Return this box and successively halved ones, as long as no axis falls below `fewest` cells."""
        boxes = [self]
        while all(count % 2 == 0 and count // 2 >= fewest for count in boxes[-1].cells):
            boxes.append(Box(self.size, tuple(count // 2 for count in boxes[-1].cells), self.cell))
        return boxes

    def spaces(self, order: int, shape: tuple[int, ...] = (), fewest: int = 2) -> list[Any]:
        """Return Lagrange spaces on the hierarchy of meshes, finest first; coarse spaces have order 1."""
        orders = [order] + [1] * len(self.hierarchy(fewest)[1:])
        pairs = zip(self.hierarchy(fewest), orders, strict=True)
        return [fem.functionspace(box.mesh(), ("Lagrange", one, shape)) for box, one in pairs]


def boundary(box: Box, points: Array) -> Indices:
    """Return the indices of the points on the boundary of a box."""
    inside = points[:, : len(box.size)]
    return np.flatnonzero((np.minimum(inside, np.array(box.size) - inside) < _TOLERANCE).any(axis=1))


def side(points: Array, axis: int, at: float) -> Indices:
    """Return the indices of the points with coordinate `at` along an axis."""
    return np.flatnonzero(np.abs(points[:, axis] - at) < _TOLERANCE)


def periodic_images(box: Box, points: Array, axes: Sequence[int]) -> Indices:
    """Return the index of the point that each point is a periodic image of, or its own. Shape (n,).

    Args:
        box: The box.
        points: Coordinates [length]. Shape (n, 3).
        axes: Periodic axes.
    """
    size = np.array(box.size)
    key = points[:, : len(size)].copy()
    for axis in axes:
        key[np.abs(key[:, axis] - size[axis]) < _TOLERANCE, axis] = 0.0
    grid = np.round(key / size / _TOLERANCE).astype(np.int64)
    _, first, group = np.unique(grid, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[group.ravel()])


def at_points(space: Any, field: Callable[[Array], Array]) -> Array:
    """Evaluate a function of the coordinates at the nodes of a scalar space. Shape (n_nodes,)."""
    return field(space.tabulate_dof_coordinates())
