"""Boxes of nested meshes, and the dofs on their sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dolfinx import fem, mesh
from mpi4py import MPI

from femops.notation import Array
from femops.pde.levels import Indices

_KINDS = {
    ("triangle", 2): mesh.CellType.triangle,
    ("quadrilateral", 2): mesh.CellType.quadrilateral,
    ("tetrahedron", 3): mesh.CellType.tetrahedron,
    ("hexahedron", 3): mesh.CellType.hexahedron,
}
_NEAR = 1e-9


@dataclass(frozen=True)
class Box:
    """A box with one corner at the origin, cut into equal cells.

    Attributes:
        size: Lengths of its sides [length].
        cells: Number of cells along each side.
        cell: triangle or quadrilateral; tetrahedron or hexahedron.
    """

    size: tuple[float, ...]
    cells: tuple[int, ...]
    cell: str

    def mesh(self) -> Any:
        """Return the mesh, on this process alone."""
        kind, corners = _KINDS[self.cell, len(self.size)], [np.zeros(len(self.size)), np.array(self.size)]
        create = mesh.create_rectangle if len(self.size) == 2 else mesh.create_box
        return create(MPI.COMM_SELF, corners, self.cells, kind)

    def nested(self, fewest: int = 2) -> list["Box"]:
        """Return this box and the same with half as many cells, down to the fewest or an odd number of them."""
        boxes = [self]
        while all(count % 2 == 0 and count // 2 >= fewest for count in boxes[-1].cells):
            boxes.append(Box(self.size, tuple(count // 2 for count in boxes[-1].cells), self.cell))
        return boxes

    def spaces(self, order: int, shape: tuple[int, ...] = (), fewest: int = 2) -> list[Any]:
        """Return Lagrange spaces on the nested meshes, finest first; coarser ones are of order 1."""
        orders = [order] + [1] * len(self.nested(fewest)[1:])
        pairs = zip(self.nested(fewest), orders, strict=True)
        return [fem.functionspace(box.mesh(), ("Lagrange", one, shape)) for box, one in pairs]


def boundary(box: Box, points: Array) -> Indices:
    """Return which points are on the boundary of a box. Shape (n,)."""
    inside = points[:, : len(box.size)]
    return np.flatnonzero((np.minimum(inside, np.array(box.size) - inside) < _NEAR).any(axis=1))


def side(points: Array, axis: int, at: float) -> Indices:
    """Return which points have a coordinate. Shape (n,)."""
    return np.flatnonzero(np.abs(points[:, axis] - at) < _NEAR)


def periodic_images(box: Box, points: Array, axes: Sequence[int]) -> Indices:
    """Return the point that each point of a box is an image of, itself if it is none.

    Args:
        box: The box.
        points: Coordinates [length]. Shape (n, 3).
        axes: Axes along which the box repeats.
    """
    size = np.array(box.size)
    key = points[:, : len(size)].copy()
    for axis in axes:
        key[np.abs(key[:, axis] - size[axis]) < _NEAR, axis] = 0.0
    grid = np.round(key / size / _NEAR).astype(np.int64)
    _, first, group = np.unique(grid, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[group.ravel()])


def at_points(space: Any, field: Callable[[Array], Array]) -> Array:
    """Return a function of coordinates at the nodes of a scalar space. Shape (n_nodes,)."""
    return field(space.tabulate_dof_coordinates())
