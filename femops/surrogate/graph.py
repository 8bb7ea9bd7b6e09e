"""Finite-element graphs: nodes and cells with the exact operators between them, and hierarchies of such graphs.

Nodal features are finite-element functions. Messages from nodes to cells are the mean and the mean gradient over the
cell (times the cell length, hence independent of the mesh size); messages from cells to nodes use the transposes of
these two operators. Periodic images share one node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from femops.meshing.cells import CellKind
from femops.notation import Array, Indices


@dataclass(frozen=True)
class FEGraph:
    """Nodes and cells of a finite-element mesh.

    Attributes:
        cells: Nodes of each cell. Shape (n_cells, n_corners).
        mean: Mean of each nodal shape function over a cell [-]. Shape (n_cells, n_corners).
        gradient: Mean gradient of each shape function over a cell, times the cell length [-]. Shape (n_cells, dim,
            n_corners).
        volume: Cell volumes relative to their mean [-]. Shape (n_cells,).
        n_nodes: Number of nodes.
        offset: Positions of a cell's nodes relative to its centre, over the cell length [-], if known. Shape (n_cells,
            n_corners, dim).
    """

    cells: Indices
    mean: Array
    gradient: Array
    volume: Array
    n_nodes: int
    offset: Array | None = None

    @property
    def dim(self) -> int:
        """Dimension of space."""
        return int(self.gradient.shape[1])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def node_volume(self) -> Array:
        """Integral of each nodal shape function, relative to the mean cell volume [-]. Shape (n_nodes,)."""
        shares = self.mean * self.volume[:, None]
        return np.bincount(self.cells.ravel(), weights=shares.ravel(), minlength=self.n_nodes)


@dataclass(frozen=True)
class Level:
    """One level of a hierarchy.

    Attributes:
        graph: Its graph.
        prolongation: Its shape functions at the nodes of the next finer level. Shape (n_finer, n_nodes).
        pooling: Means over its cells of values on the cells of the next finer level. Shape (n_cells, n_finer_cells).
            Both are None on the finest level.
    """

    graph: FEGraph
    prolongation: sp.csr_array | None = None
    pooling: sp.csr_array | None = None


Hierarchy = tuple[Level, ...]


@dataclass(frozen=True)
class PeriodicBox:
    """An axis-aligned periodic box.

    Attributes:
        lower: Lower corner [length]. Shape (dim,).
        size: Edge lengths [length]. Shape (dim,).
    """

    lower: Array
    size: Array


@dataclass(frozen=True)
class CellPoints:
    """Weighted points in the cells of a mesh, such as quadrature points.

    Attributes:
        points: Coordinates [length]. Shape (n_cells, n_points, dim).
        weight: Weight of each point [volume]. Shape (n_cells, n_points).
    """

    points: Array
    weight: Array


def fe_graph(points: Array, cells: Indices, kind: CellKind, nodes: Indices, n_nodes: int) -> FEGraph:
    """Return the graph of a mesh.

    Args:
        points: Coordinates of the mesh nodes [length]. Shape (n_points, dim).
        cells: Mesh nodes of each cell. Shape (n_cells, n_corners).
        kind: Kind of the cells.
        nodes: Graph node of each mesh node; periodic images share one. Shape (n_points,).
        n_nodes: Number of graph nodes.
    """
    reference, weight = kind.quadrature()
    basis, slopes = kind.tabulate(reference)
    jacobian = np.einsum("cni,qnj->cqij", points[cells], slopes)
    measure = np.linalg.det(jacobian) * weight
    volume = measure.sum(axis=1)
    share = measure / volume[:, None]
    gradient = np.einsum("cq,qnj,cqji->cin", share, slopes, np.linalg.inv(jacobian), optimize=True)
    length = volume ** (1.0 / points.shape[1])
    mean = share @ basis
    offset = (points[cells] - points[cells].mean(axis=1, keepdims=True)) / length[:, None, None]
    return FEGraph(nodes[cells], mean, gradient * length[:, None, None], volume / volume.mean(), n_nodes, offset)


def graph_of_matrices(mean: sp.csr_array, gradient: sp.csr_array, volume: Array) -> FEGraph:
    """Return the graph with given operators; cells may have different numbers of nodes.

    Args:
        mean: Mean over each cell [-]. Shape (n_cells, n_nodes).
        gradient: Mean gradient times the cell length [-], component by component. Shape (dim · n_cells, n_nodes).
        volume: Cell volumes [volume]. Shape (n_cells,).
    """
    n_cells, n_nodes = mean.shape
    parts = [sp.csr_array(mean), *(gradient[i : i + n_cells] for i in range(0, gradient.shape[0], n_cells))]
    entries = sp.csr_array(sum((abs(part) for part in parts[1:]), start=abs(parts[0]))).tocoo()
    where, used = padded_rows(entries.row, n_cells)
    cells = entries.col[where].astype(np.int64)
    lines = np.arange(n_cells)[:, None]
    values = np.stack([sp.csr_array(part[lines, cells]).toarray() for part in parts]) * used
    return FEGraph(cells, values[0], np.moveaxis(values[1:], 0, 1), volume / volume.mean(), n_nodes)


def padded_rows(owner: npt.NDArray[Any], n: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Return the entries of each owner as a padded table.

    Args:
        owner: Owner of each entry, 0 to n − 1. Shape (n_entries,).
        n: Number of owners.

    Returns:
        Positions of the entries, and a mask that is False for padding. Shape (n, largest number of entries) each.
    """
    order = np.argsort(owner, kind="stable")
    count = np.bincount(owner, minlength=n)
    first = np.cumsum(count) - count
    column = np.arange(max(int(count.max(initial=0)), 1))
    used = column < count[:, None]
    return order[np.where(used, first[:, None] + column, 0)], used


def grid_graph(counts: Sequence[int], size: Sequence[float]) -> FEGraph:
    """Return the graph of a periodic grid of bilinear (3D: trilinear) cells, numbered with the first axis fastest.

    Args:
        counts: Number of cells (equal to that of nodes) along each axis.
        size: Edge lengths of the grid [length].
    """
    dim, corners = len(counts), _lattice((2,) * len(counts))
    cells = _lattice_number((_lattice(counts)[:, None] + corners) % np.array(counts), counts)
    edges = np.array(size) / np.array(counts)
    slope = np.where(corners == 1, 1.0, -1.0) / (edges * 2 ** (dim - 1)) * np.prod(edges) ** (1.0 / dim)
    mean = np.full(cells.shape, 0.5**dim)
    gradient = np.tile(slope.T, (len(cells), 1, 1))
    offset = np.tile((corners - 0.5) * edges / np.prod(edges) ** (1.0 / dim), (len(cells), 1, 1))
    return FEGraph(cells, mean, gradient, np.ones(len(cells)), len(cells), offset)


def _lattice(counts: Sequence[int] | Indices) -> Indices:
    """Return the indices along each axis of all nodes of a grid, first axis fastest. Shape (n_nodes, dim)."""
    return np.stack(np.unravel_index(np.arange(np.prod(counts)), tuple(counts), order="F"), axis=-1)


def _lattice_number(index: Indices, counts: Sequence[int] | Indices) -> Indices:
    """Return the node numbers (...) of indices (..., dim) along each axis; the inverse of `_lattice`."""
    return np.ravel_multi_index(tuple(np.moveaxis(index, -1, 0)), tuple(counts), order="F").astype(np.int64)


def interpolation(points: Array, counts: Indices, box: PeriodicBox) -> sp.csr_array:
    """Return the multilinear interpolation from a periodic grid to points. Shape (n_points, n_grid_nodes).

    Args:
        points: Coordinates [length]. Shape (n_points, dim).
        counts: Number of grid cells along each axis. Shape (dim,).
        box: The box of the grid.
    """
    position = (points - box.lower) / box.size * counts
    cell = np.floor(position + 1e-9)
    local = np.clip(position - cell, 0.0, 1.0)
    corners = _lattice((2,) * len(counts))
    value = np.where(corners == 1, local[:, None], 1.0 - local[:, None]).prod(axis=-1)
    column = _lattice_number((cell[:, None].astype(np.int64) + corners) % counts, counts)
    row = np.repeat(np.arange(len(points)), len(corners))
    matrix = sp.coo_array((value.ravel(), (row, column.ravel())), shape=(len(points), int(counts.prod()))).tocsr()
    matrix.data[np.abs(matrix.data) < 1e-12] = 0.0
    matrix.eliminate_zeros()
    return matrix


def pooling(cell: Indices, weight: Array, n_coarse: int) -> sp.csr_array:
    """Return the averaging of fine-cell values over coarse cells. Shape (n_coarse, n_cells).

    Args:
        cell: Coarse cell that contains each point. Shape (n_cells, n_points).
        weight: Weight of each point. Shape (n_cells, n_points).
        n_coarse: Number of coarse cells; rows of cells without points are zero.
    """
    fine = np.repeat(np.arange(len(cell)), cell.shape[1])
    sums = sp.coo_array((weight.ravel(), (cell.ravel(), fine)), shape=(n_coarse, len(cell))).tocsr()
    total: Array = np.asarray(sums.sum(axis=1)).ravel()
    return (sp.diags_array(1.0 / np.where(total > 0.0, total, 1.0)) @ sums).tocsr()


def periodic_hierarchy(
    finest: FEGraph, nodes: Array, points: CellPoints, counts: Indices, box: PeriodicBox
) -> Hierarchy:
    """Return the hierarchy of a periodic mesh and successively coarser grids.

    The mesh may be unstructured: the first grid is interpolated at its nodes.

    Args:
        finest: Graph of the mesh.
        nodes: Coordinates of its nodes [length]. Shape (n_nodes, dim).
        points: Points in its cells.
        counts: Number of cells of each grid along each axis, finest first. Shape (n_grids, dim).
        box: The box of all grids.
    """
    levels = [Level(finest)]
    for i, count in enumerate(counts):
        if i:
            finer = counts[i - 1]
            nodes = box.lower + _lattice(finer) / finer * box.size
            points = CellPoints((nodes + 0.5 * box.size / finer)[:, None], np.ones((len(nodes), 1)))
        cell = np.floor((points.points - box.lower) / box.size * count).astype(np.int64) % count
        pool = pooling(_lattice_number(cell, count), points.weight, int(count.prod()))
        coarse = grid_graph(count.tolist(), box.size.tolist())
        levels.append(Level(coarse, interpolation(nodes, count, box), pool))
    return tuple(levels)


def disjoint_union(hierarchies: Sequence[Hierarchy]) -> Hierarchy:
    """Return the disjoint union of hierarchies with equal numbers of levels; nodes and cells are concatenated."""
    return tuple(_union(levels) for levels in zip(*hierarchies, strict=True))


def _union(levels: Sequence[Level]) -> Level:
    graphs = [level.graph for level in levels]
    start = np.cumsum([0, *(graph.n_nodes for graph in graphs)])
    cells = np.concatenate([graph.cells + first for graph, first in zip(graphs, start, strict=False)])
    offsets = [graph.offset for graph in graphs if graph.offset is not None]
    graph = FEGraph(
        cells,
        np.concatenate([one.mean for one in graphs]),
        np.concatenate([one.gradient for one in graphs]),
        np.concatenate([one.volume for one in graphs]),
        int(start[-1]),
        np.concatenate(offsets) if len(offsets) == len(graphs) else None,
    )
    prolongations = [level.prolongation for level in levels if level.prolongation is not None]
    poolings = [level.pooling for level in levels if level.pooling is not None]
    if not prolongations:
        return Level(graph)
    return Level(graph, *(sp.csr_array(sp.block_diag(part, format="csr")) for part in (prolongations, poolings)))


def rotated(hierarchy: Hierarchy, rotation: Array) -> Hierarchy:
    """Return a hierarchy in rotated coordinates Q x, with Q orthogonal (dim, dim)."""
    return tuple(replace(level, graph=_rotated(level.graph, rotation)) for level in hierarchy)


def _rotated(graph: FEGraph, rotation: Array) -> FEGraph:
    offset = None if graph.offset is None else graph.offset @ rotation.T
    return replace(graph, gradient=rotation @ graph.gradient, offset=offset)
