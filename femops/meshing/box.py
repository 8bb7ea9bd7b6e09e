"""Structured meshes of boxes."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from femops.errors import CaseError
from femops.meshing.building import SUPPORTED, exterior_facets
from femops.meshing.cells import CELLS, CellKind
from femops.meshing.tagged import TaggedMesh
from femops.notation import Array, Indices

SIDES = (("left", "right"), ("bottom", "top"), ("back", "front"))


def box(size: Sequence[float], cells: Sequence[int], cell: str) -> TaggedMesh:
    """Return a structured mesh of the box [0, size] with the region `domain` and a boundary for each side.

    Args:
        size: Edge lengths [length]. 2 or 3 of them.
        cells: Number of grid cells along each axis; simplices divide each grid cell into 2 (2D) or 6 (3D).
        cell: Kind of the cells, one of `building.SUPPORTED`.

    Returns:
        The mesh; boundaries left and right (x), bottom and top (y), back and front (z).

    Raises:
        CaseError: lengths or counts are not positive, or do not fit the dimension of the cell.
    """
    if len(size) != len(cells) or not all(length > 0 for length in size) or not all(n >= 1 for n in cells):
        raise CaseError(f"a box of size {list(size)} with {list(cells)} cells; expected positive lengths and counts")
    return grid([np.linspace(0.0, length, n + 1) for length, n in zip(size, cells, strict=True)], cell)


def grid(axes: Sequence[Array], cell: str) -> TaggedMesh:
    """Return a structured mesh on the tensor product of increasing coordinates.

    Args:
        axes: Coordinates of the grid lines of each axis [length]. Shape (n_cells + 1,) each.
        cell: Kind of the cells, one of `building.SUPPORTED`.

    Returns:
        The mesh with the region `domain`, grid cells ordered with the first axis fastest, and a boundary for each side.

    Raises:
        CaseError: the kind is not supported or has another dimension.
    """
    if cell not in SUPPORTED:
        raise CaseError(f"cell '{cell}' is not supported; supported: {', '.join(SUPPORTED)}")
    kind = CELLS[cell]
    if kind.dim != len(axes):
        raise CaseError(f"cell '{cell}' is {kind.dim}D but {len(axes)} lengths are given; expected {kind.dim}")
    # The lattice contains the grid lines and their midpoints, so that second-order nodes are lattice points too.
    lattice = [np.interp(np.arange(2 * len(line) - 1) / 2.0, np.arange(len(line)), line) for line in axes]
    shape = tuple(len(line) for line in lattice)
    counts = tuple(len(line) - 1 for line in axes)
    corners = 2 * np.stack(np.unravel_index(np.arange(np.prod(counts)), counts, order="F"), axis=-1)
    nodes = corners[:, None, None, :] + _template(kind)
    numbers = np.ravel_multi_index(tuple(np.moveaxis(nodes, -1, 0)), shape, order="F").reshape(-1, kind.n_nodes)
    is_node = np.zeros(np.prod(shape), dtype=bool)
    is_node[numbers] = True
    used = np.flatnonzero(is_node)
    where = np.stack(np.unravel_index(used, shape, order="F"), axis=-1)
    points = np.stack([line[where[:, axis]] for axis, line in enumerate(lattice)], axis=-1)
    connected = (np.cumsum(is_node) - 1)[numbers]
    outer = ((corners == 0) | (corners == 2 * (np.array(counts) - 1))).any(axis=1)
    in_outer = np.repeat(outer, nodes.shape[1])  # grid cells inside have no facet on a side
    boundaries = _sides(where, shape, exterior_facets(connected[in_outer], kind))
    return TaggedMesh(points, connected, kind, {"domain": np.arange(len(connected))}, boundaries)


def _template(kind: CellKind) -> Indices:
    """Return the nodes of the cells in one grid cell on {0, 1, 2}^dim. Shape (n_cells, n_nodes_of_cell, dim)."""
    if kind.shape in ("quadrilateral", "hexahedron"):
        return np.rint(2 * kind.nodes).astype(np.int64)[None]
    # Kuhn's subdivision: simplices around the main diagonal; opposite sides are divided alike.
    cells = []
    for order in permutations(range(kind.dim)):
        path = np.vstack([np.zeros(kind.dim), np.cumsum(np.eye(kind.dim)[list(order)], axis=0)])
        edges = path[1:] - path[0]
        if np.linalg.det(edges) < 0:
            edges[[0, 1]] = edges[[1, 0]]
        cells.append(np.rint(2 * kind.nodes @ edges).astype(np.int64))
    return np.array(cells)


def _sides(where: Indices, shape: tuple[int, ...], exterior: Indices) -> dict[str, Indices]:
    sides = {}
    for axis, names in enumerate(SIDES[: len(shape)]):
        for name, place in zip(names, (0, shape[axis] - 1), strict=True):
            sides[name] = exterior[(where[exterior, axis] == place).all(axis=1)]
    return sides
