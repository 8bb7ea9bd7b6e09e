"""Gathering of distributed fields on rank 0, in an order independent of the number of ranks."""

from typing import Any

import numpy as np
from dolfinx import fem, plot

from femops.macro.problem import MacroProblem
from femops.notation import Array
from femops.output.grid import Grid


class Gatherer:
    """Gathers nodal and quadrature-point values of all ranks on rank 0.

    Cells are ordered as in the mesh file, nodes by their first appearance in the cells.

    Args:
        problem: The macroscale problem.
    """

    def __init__(self, problem: MacroProblem) -> None:
        self._comm = problem.comm
        space = problem.displacement.function_space
        self._space = space
        self._per_cell = problem.quadrature.per_cell
        self._weights = problem.quadrature.weights()
        topology, types, x = plot.vtk_mesh(space)
        n_cells = problem.mesh.n_cells
        local = topology.reshape(n_cells, -1)[:, 1:] if n_cells else np.empty((0, 1), dtype=np.int64)
        index_map = space.dofmap.index_map
        owned = index_map.size_local
        ranges = index_map.local_range
        parts = self._comm.gather(
            (
                problem.mesh.mesh.topology.original_cell_index[:n_cells],
                index_map.local_to_global(local.ravel().astype(np.int32)).reshape(local.shape),
                np.arange(*ranges),
                x[:owned],
                types[:1],
            )
        )
        self.grid = self._order(parts) if parts is not None else None

    def _order(self, parts: list[Any]) -> Grid:
        """Order the cells as in the mesh file and number the nodes by first appearance."""
        filled = [part for part in parts if len(part[0])]
        self._cell_order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
        cells = np.concatenate([part[1] for part in filled])[self._cell_order]
        numbers = np.concatenate([part[2] for part in parts])
        coordinates = np.empty((len(numbers), 3))
        coordinates[numbers] = np.concatenate([part[3] for part in parts])
        self._node_numbers = numbers
        _, first = np.unique(cells.ravel(), return_index=True)
        self._node_order = cells.ravel()[np.sort(first)]
        position = np.empty(len(numbers), dtype=np.int64)
        position[self._node_order] = np.arange(len(self._node_order))
        return Grid(coordinates[self._node_order], position[cells], int(filled[0][4][0]))

    def nodes(self, function: fem.Function) -> Array:
        """Return the nodal values of a function. Shape (n_nodes, n_components) on rank 0, empty elsewhere."""
        owned = self._space.dofmap.index_map.size_local
        size = self._space.dofmap.bs
        parts = self._comm.gather(function.x.array[: owned * size].reshape(-1, size))
        if parts is None:
            return np.empty((0, size))
        values = np.empty((len(self._node_numbers), size))
        values[self._node_numbers] = np.concatenate(parts)
        return values[self._node_order]

    def cell_means(self, values: Array) -> Array:
        """Return the cell means of quadrature-point values (n_qp, ...) on rank 0. Shape (n_cells, ...)."""
        shape = (-1, self._per_cell, *values.shape[1:])
        weights = self._weights.reshape(-1, self._per_cell)
        means = np.einsum("cq,cq...->c...", weights / weights.sum(axis=1, keepdims=True), values.reshape(shape))
        return self._of_cells(means)

    def cell_sums(self, values: Array) -> Array:
        """Return the sums over each cell of quadrature-point values (n_qp,) on rank 0. Shape (n_cells,)."""
        return self._of_cells(values.reshape(-1, self._per_cell).sum(axis=1))

    def _of_cells(self, values: Array) -> Array:
        """Return values (n_own_cells, ...) of the cells of all ranks on rank 0."""
        parts = self._comm.gather(values)
        return values[:0] if parts is None else np.concatenate(parts)[self._cell_order]

    def points(self, values: Array) -> Array:
        """Return the quadrature-point values (n_qp, ...) of all ranks on rank 0, ordered by cell."""
        shape = (-1, self._per_cell, *values.shape[1:])
        parts = self._comm.gather(values.reshape(shape))
        if parts is None:
            return values[:0]
        return np.concatenate(parts)[self._cell_order].reshape(-1, *values.shape[1:])
